"""The U-Net paper's weight map: how much each pixel of a label counts in the loss.

    python Loss.py --label data/ISBC2012/train/labels/frame_0001.png     draws it

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, section 3, eq. 2:

    w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2))

w_c balances the classes; the second term is large in the thin gaps between two objects that nearly touch.

`cached_weight_map` keeps the maps in a folder as `<label>.npy`, with a picture `<label>.png` (darker = heavier) that
says what the map was computed from: a map whose label, w0 or sigma has changed since is computed again.
"""
import hashlib
import io
import math
from pathlib import Path

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast
from PIL import Image, PngImagePlugin

from command.files import atomic_write, make_folder
from datasets.labels import IGNORED
from images.formats import write_png

FORMAT_VERSION = 1      # part of the cache's key: raise it when the computation changes
NEGLIGIBLE = 1e-5       # a border term below this is left out, which bounds the distances that matter
BLOCK = 32              # rows treated together: they stay in the processor's cache
EIGHT_CONNECTED = np.ones((3, 3), bool)


def compute_weight_map(label, w0=10, sigma=5):
    """The weight of each pixel: `class_weights(label) + border_weights(label, w0, sigma)`.

    label: (H, W) integer classes, 0 is the background; w0: weight of a border of width 0; sigma: in pixels, how fast
    the weight falls with the width.  Pixels of the class IGNORED (-1) weigh nothing.  Returns (H, W) float32, within
    1e-4 of equation 2.  Raises ValueError for a label that is not a non-empty (H, W) array of integers >= -1, for
    sigma <= 0 and for w0 < 0.
    """
    return (class_weights(label) + border_weights(label, w0, sigma)) * (np.asarray(label) != IGNORED)


def class_weights(label):
    """w_c of equation 2: each class weighs as much as it is rare; the rarest class present weighs 1.

    label: (H, W) integer classes.  Returns (H, W) float32 in (0, 1]: pixels/count of the pixel's class, divided by the
    largest such ratio, which is count of the rarest class / count of the pixel's class.  IGNORED pixels weigh 0.
    """
    label = _checked(label)
    count = np.bincount(label[label != IGNORED], minlength=1)
    weights = count[count > 0].min(initial=label.size) / np.maximum(count, 1)
    return np.append(weights, 0).astype(np.float32)[label]  # -1, which is IGNORED, finds the 0


def border_weights(label, w0=10, sigma=5):
    """The border term of equation 2, w0 exp(-(d1 + d2)^2 / (2 sigma^2)).

    label: (H, W) integer classes; an object is an 8-connected component of label > 0.  d1, d2: distance in pixels to
    the border of the nearest and of the second nearest object; from inside an object, its own border is as far as the
    nearest pixel outside it.  Returns (H, W) float32 in [0, w0], 0 everywhere where there are fewer than two objects.
    """
    label = _checked(label)
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma must be above 0, not {sigma}")
    if not (w0 >= 0 and math.isfinite(w0)):
        raise ValueError(f"w0 must be at least 0, not {w0}")
    objects, count = scipy.ndimage.label(label > 0, structure=EIGHT_CONNECTED)
    # Where d1 + d2 exceeds `reach` the term is negligible, so d2 is computed only up to there; the sum is at least 2.
    reach = sigma * math.sqrt(2 * math.log(max(w0 / NEGLIGIBLE, 1)))
    if count < 2 or reach < 2:
        return np.zeros(label.shape, np.float32)
    d1, nearest = _nearest_object(objects)
    d2 = np.sqrt(_squared_distance_to_another(objects, nearest, math.ceil(min(reach, math.hypot(*label.shape)))))
    return (w0 * np.exp(((d1 + d2) / sigma) ** 2 / -2)).astype(np.float32)


# -------------------------------------------------------------------------------------------------- the two distances
def _nearest_object(objects):
    """Distance to the border of the nearest object, and that object's number: (H, W) float64, (H, W) int32.

    Objects never touch (they would be one), so the nearest pixel outside an object is always background.
    """
    outside, (row, column) = scipy.ndimage.distance_transform_edt(objects == 0, return_indices=True)
    inside = scipy.ndimage.distance_transform_edt(objects > 0)
    return outside + inside, objects[row, column]


def _squared_distance_to_another(objects, nearest, reach):
    """Squared distance to the closest object other than `nearest`, (H, W) int32, capped at (reach + 1)^2.

    Exact up to `reach` pixels, with work and memory that do not depend on the number or size of the objects.  For every
    pixel the last two different objects to its left in its row are enough: whichever object is asked about, one of the
    two is another.  A pixel then asks every row up to `reach` above and below; the mirrored image looks to the right.
    """
    height = len(objects)
    squared = np.full(objects.shape, (reach + 1) ** 2, np.int32)
    for flip in (slice(None), slice(None, None, -1)):
        sides = _last_two_on_the_left(objects[:, flip], reach)
        first, first_object, second = (np.ascontiguousarray(side[:, flip]) for side in sides)
        for top in range(0, height, BLOCK):
            bottom = min(top + BLOCK, height)
            for offset in range(max(-reach, 1 - bottom), min(reach, height - 1 - top) + 1):
                here = slice(max(top, -offset), min(bottom, height - offset))
                there = slice(here.start + offset, here.stop + offset)
                candidate = first[there].copy()
                np.copyto(candidate, second[there], where=first_object[there] == nearest[here])
                candidate += offset ** 2
                np.minimum(squared[here], candidate, out=squared[here])
    return squared


def _last_two_on_the_left(objects, reach):
    """At each pixel, what its row holds at or left of it, each (H, W) int32, distances capped at (reach + 1)^2:

    squared distance to the last object, that object's number, and squared distance to the last object before that one.
    """
    columns = np.arange(objects.shape[1], dtype=np.int32)
    far = -reach - 1  # a column so far to the left that the distance is capped
    last = np.maximum.accumulate(np.where(objects > 0, columns, far), axis=1)
    previous = np.hstack([np.full_like(last[:, :1], far), last[:, :-1]])
    at_previous = np.take_along_axis(objects, np.maximum(previous, 0), axis=1)
    changes = (objects > 0) & (previous >= 0) & (objects != at_previous)
    before = np.maximum.accumulate(np.where(changes, previous, far), axis=1)
    squared_last, squared_before = (np.minimum(columns - column, reach + 1) ** 2 for column in (last, before))
    return squared_last, np.take_along_axis(objects, np.maximum(last, 0), axis=1), squared_before


def _checked(label):
    label = np.asarray(label)
    if label.ndim != 2 or label.size == 0 or label.dtype.kind not in "biu" or label.min() < IGNORED:
        raise ValueError(f"a label is a non-empty (H, W) array of integers >= {IGNORED}, not {label.shape} {label.dtype}")
    return label.astype(np.int64)


# ---------------------------------------------------------------------------------------------------------- the cache
def cached_weight_map(label_path, label, folder, w0=10, sigma=5):
    """`compute_weight_map(label, w0, sigma)`, read from `folder` if it was computed before, else written there.

    label_path: names the files, `<stem>.npy` and `<stem>.png`; label: (H, W) integer classes.  The picture carries a
    key of the label's classes, w0 and sigma, and a digest of the .npy file: a stale or damaged map is computed again.
    Raises ValueError as `compute_weight_map`, DataError where the folder cannot be written.
    """
    label, stem = np.asarray(label), Path(label_path).stem
    array_path, picture_path = Path(folder) / f"{stem}.npy", Path(folder) / f"{stem}.png"
    key = _key(label, w0, sigma)
    found = _read(array_path, picture_path, key)
    if found is not None:
        return found
    weight_map = compute_weight_map(label, w0, sigma)
    make_folder(folder)
    picture_path.unlink(missing_ok=True)  # first: whatever happens before the last line, no key vouches for the array
    content = io.BytesIO()
    np.save(content, weight_map, allow_pickle=False)
    with atomic_write(array_path) as temporary:
        temporary.write_bytes(content.getvalue())
    _write_picture(picture_path, weight_map, key, _sha256(content.getvalue()))
    return weight_map


def _key(label, w0, sigma):
    text = f"weight map {FORMAT_VERSION}, {label.shape}, w0 {float(w0)!r}, sigma {float(sigma)!r}: "
    return _sha256(text.encode() + label.astype(np.int32).tobytes())


def _read(array_path, picture_path, key):
    """The stored (H, W) float32 map, or None if there is none of this key, or it is not whole."""
    try:
        with Image.open(picture_path) as picture:
            found_key, digest = picture.info.get("key"), picture.info.get("digest")
        content = array_path.read_bytes() if found_key == key else b""
    except (OSError, SyntaxError, ValueError):  # missing, unreadable, no picture
        return None
    return np.load(io.BytesIO(content), allow_pickle=False) if content and _sha256(content) == digest else None


def _write_picture(path, weight_map, key, digest):
    lightest, darkest = float(weight_map.min()), float(weight_map.max())
    scaled = (weight_map - lightest) / ((darkest - lightest) or 1)
    text = PngImagePlugin.PngInfo()
    text.add_text("key", key)
    text.add_text("digest", digest)
    write_png(path, np.round(255 * (1 - scaled)).astype(np.uint8), text)


def _sha256(data):
    return hashlib.sha256(data).hexdigest()
