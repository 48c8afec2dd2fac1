"""The U-Net paper's weight map: how much each pixel of a label counts in the loss.

    python Loss.py --label data/ISBC2012/train/labels/frame_0001.png     # draws the map of a label

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015, section 3, eq. 2:

    w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2))

w_c balances the classes.  The second term is large in the thin gap between two objects that nearly
touch.

d1 and d2 are the distances to the border of the nearest and of the second nearest object.  In a
label of classes an object is an 8-connected component.  Numbered objects are told apart by their
numbers; datasets/objects.py takes the border between them before.

WeightMaps keeps the maps in a folder: `<label>.npy`, and a picture `<label>.png`, dark where the
weight is large.  The picture stores a key of label, w0 and sigma.  A map is computed again where
one of these has changed.
"""
import hashlib
import io
import math
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast
from PIL import Image, PngImagePlugin

from command.files import atomic_write, make_folder
from command.names import canonical
from datasets.labels import IGNORED
from datasets.objects import BORDER
from images.formats import write_png
from images.windows import open_array
from masks.objects import connected_components

FORMAT_VERSION = 1      # part of the cache's key: raise it when the computation changes
NEGLIGIBLE = 1e-5       # a smaller border term is left out, which limits the distances that matter
ROWS_IN_CACHE = 32      # rows treated together: they stay in the processor's cache


def compute_weight_map(label, w0=10, sigma=5, numbered=False):
    """The weight of each pixel, equation 2: (H, W) float32, exact to 1e-4.

    label: (H, W) integer classes, 0 is the background; w0: the weight of a border of width 0;
    sigma: px, how fast the weight falls with the border's width.  Pixels of the class IGNORED (-1)
    have weight 0.  numbered: the label has numbers of objects, as
    `datasets.objects.training_target` leaves them, instead of classes.  Raises ValueError for a
    label that is no (H, W) array of integers >= -1 or is empty, for sigma <= 0 and for w0 < 0.
    """
    classes = np.minimum(label, 1) if numbered else label
    weights = class_weights(classes) + border_weights(label, w0, sigma, numbered)
    return weights * (np.asarray(label) != IGNORED)


def class_weights(label):
    """w_c of equation 2: a rarer class has a larger weight; the rarest class has weight 1.

    label: (H, W) integer classes.  Returns (H, W) float32 in (0, 1]: the number of pixels of the
    rarest class, divided by that of the pixel's own class.  IGNORED pixels have weight 0.
    """
    label = _checked(label)
    count = np.bincount(label[label != IGNORED], minlength=1)
    return weights_of_counts(count)[label]


def weights_of_counts(count):
    """`class_weights` of each class from its number of pixels: (K,) int -> (K + 1,) float32.

    The last one is 0: there -1, which is IGNORED, finds its weight.
    """
    weights = count[count > 0].min(initial=count.sum()) / np.maximum(count, 1)
    return np.append(weights, 0).astype(np.float32)


def border_weights(label, w0=10, sigma=5, numbered=False):
    """The border term of equation 2, w0 exp(-(d1 + d2)^2 / (2 sigma^2)).

    label: (H, W) integer classes.  An object is an 8-connected component of label > 0.  d1 and d2
    are the distances, in px, to the border of the nearest and of the second nearest object.  Inside
    an object the distance to its own border is that to the nearest pixel outside it.
    numbered: the label's values tell objects apart, in one piece or several; no two of them touch.
    Returns (H, W) float32 in [0, w0]; all 0 where there are fewer than two objects.
    """
    label = _checked(label)
    if not (sigma > 0 and math.isfinite(sigma)):
        raise ValueError(f"sigma must be above 0, not {sigma}")
    if not (w0 >= 0 and math.isfinite(w0)):
        raise ValueError(f"w0 must be at least 0, not {w0}")
    if numbered:
        objects = np.maximum(label, 0).astype(np.int32)
    else:
        objects = connected_components(label > 0)
    present = objects[objects > 0]
    are_several = present.size > 0 and present.min() < present.max()
    reach = border_reach(w0, sigma)  # d2 is computed up to there; d1 + d2 is at least 2
    if not are_several or reach < 2:
        return np.zeros(label.shape, np.float32)
    d1, nearest = _nearest_object(objects)
    reach = math.ceil(min(reach, math.hypot(*label.shape)))
    d2 = np.sqrt(_squared_distance_to_another(objects, nearest, reach))
    return (w0 * np.exp(((d1 + d2) / sigma) ** 2 / -2)).astype(np.float32)


def border_reach(w0, sigma):
    """px, of d1 + d2: beyond it the border term is negligible."""
    return sigma * math.sqrt(2 * math.log(max(w0 / NEGLIGIBLE, 1)))


# ------------------------------------------------------------------------------ the two distances
def _nearest_object(objects):
    """(px to the border of the nearest object, its number): (H, W) float64, (H, W) int32.

    No two objects touch.  So the nearest pixel outside an object is background.
    """
    outside, (row, column) = scipy.ndimage.distance_transform_edt(objects == 0,
                                                                  return_indices=True)
    inside = scipy.ndimage.distance_transform_edt(objects > 0)
    return outside + inside, objects[row, column]


def _squared_distance_to_another(objects, nearest, reach):
    """Squared px to the closest object other than `nearest`: (H, W) int32, at most (reach + 1)^2.

    It is exact up to `reach` px.  Work and memory do not depend on the number or size of objects.
    In each row the last two different objects to the left are enough, since one of them is not the
    pixel's nearest object.  So a pixel looks into every row up to `reach` above and below it.  The
    same on the mirrored image finds the objects to its right.
    """
    height = len(objects)
    squared = np.full(objects.shape, (reach + 1) ** 2, np.int32)
    for flip in (slice(None), slice(None, None, -1)):
        sides = _last_two_on_the_left(objects[:, flip], reach)
        last, number, before = (np.ascontiguousarray(side[:, flip]) for side in sides)
        for top in range(0, height, ROWS_IN_CACHE):
            bottom = min(top + ROWS_IN_CACHE, height)
            for offset in range(max(-reach, 1 - bottom), min(reach, height - 1 - top) + 1):
                here = slice(max(top, -offset), min(bottom, height - offset))
                there = slice(here.start + offset, here.stop + offset)
                candidate = last[there].copy()
                np.copyto(candidate, before[there], where=number[there] == nearest[here])
                candidate += offset ** 2
                np.minimum(squared[here], candidate, out=squared[here])
    return squared


class LastTwo(NamedTuple):
    """The last two different objects at or to the left of each pixel in its row: (H, W) int32."""
    squared_last: np.ndarray    # squared px to the last object, at most (reach + 1)^2
    last: np.ndarray            # its number
    squared_before: np.ndarray  # squared px to the last object of another number, as far at most


def _last_two_on_the_left(objects, reach):
    """The LastTwo of each pixel of numbered objects (H, W)."""
    columns = np.arange(objects.shape[1], dtype=np.int32)
    far = -reach - 1  # a column so far to the left that its distance is at the limit
    last = np.maximum.accumulate(np.where(objects > 0, columns, far), axis=1)
    previous = np.hstack([np.full_like(last[:, :1], far), last[:, :-1]])
    at_previous = np.take_along_axis(objects, np.maximum(previous, 0), axis=1)
    changes = (objects > 0) & (previous >= 0) & (objects != at_previous)
    before = np.maximum.accumulate(np.where(changes, previous, far), axis=1)
    squared_last, squared_before = (np.minimum(columns - column, reach + 1) ** 2
                                    for column in (last, before))
    number = np.take_along_axis(objects, np.maximum(last, 0), axis=1)
    return LastTwo(squared_last, number, squared_before)


def _checked(label):
    """A label as (H, W) int64; ValueError where it is none."""
    label = np.asarray(label)
    is_map = label.ndim == 2 and label.size > 0 and label.dtype.kind in "biu"
    if not is_map or label.min() < IGNORED:
        raise ValueError(f"a label is a non-empty (H, W) array of integers >= {IGNORED}, "
                         f"not {label.shape} {label.dtype}")
    return label.astype(np.int64)


# -------------------------------------------------------------------------------------- the cache
@dataclass(frozen=True)
class WeightMaps:
    """The weight maps of a data set's labels, kept in a folder."""
    folder: Path        # is made when the first map is written
    w0: float = 10      # as for compute_weight_map
    sigma: float = 5    # px, as for compute_weight_map
    verified: dict = field(default_factory=dict, compare=False, repr=False)  # {path: its state}

    def open(self, label_path, read_label, numbered=False):
        """The weight map of a label, (H, W) float32, of which parts are read when they are used.

        label_path, numbered: as for `read`.  read_label: a function that gives the label.  It is
        called where this process has not verified the map in this file before.
        """
        path = Path(self.folder) / f"{canonical(Path(label_path).stem)}.npy"
        state = _state_of(path)  # before the map is verified: a later change is seen
        if state is not None and self.verified.get(path) == state:
            with suppress(OSError, ValueError):  # gone since
                weight_map = open_array(path)
                if _state_of(path) == state:
                    return weight_map
        weight_map = self.read(label_path, read_label(), numbered)
        self.verified[path] = state
        return weight_map

    @property
    def reach(self):
        """px, from a pixel to all objects that its weight depends on."""
        return math.ceil(border_reach(self.w0, self.sigma))

    def read(self, label_path, label, numbered=False):
        """The weight map of a label, from the folder, or computed and then written there.

        label_path: gives the stem of both files; label, numbered: as for `compute_weight_map`.  The
        picture carries a key of the label, w0 and sigma, and a digest of the .npy file: a stale or
        a damaged map is computed again.  Returns (H, W) float32.  Raises ValueError as
        `compute_weight_map`, and DataError where the folder cannot be written.
        """
        label, stem = np.asarray(label), canonical(Path(label_path).stem)
        array_path, picture_path = (Path(self.folder) / f"{stem}{suffix}"
                                    for suffix in (".npy", ".png"))
        key = _key_of(label, self.w0, self.sigma, numbered)
        found = _read_map(array_path, picture_path, key)
        if found is not None:
            return found
        weight_map = compute_weight_map(label, self.w0, self.sigma, numbered)
        make_folder(self.folder)
        picture_path.unlink(missing_ok=True)  # without its key, nobody trusts a half-written map
        content = io.BytesIO()
        np.save(content, weight_map, allow_pickle=False)
        with atomic_write(array_path) as temporary:
            temporary.write_bytes(content.getvalue())
        _write_picture(picture_path, weight_map, key, _sha256(content.getvalue()))
        return weight_map


def _state_of(path):
    """What tells that a file was replaced or written into; None where there is none."""
    with suppress(OSError):
        status = os.stat(path)
        return [status.st_ino, status.st_size, status.st_mtime_ns]
    return None


def _key_of(label, w0, sigma, numbered):
    kind = f"objects, border {BORDER}, " if numbered else ""
    text = (f"weight map {FORMAT_VERSION}, {kind}{label.shape}, "
            f"w0 {float(w0)!r}, sigma {float(sigma)!r}: ")
    return _sha256(text.encode() + label.astype(np.int32).tobytes())


def _read_map(array_path, picture_path, key):
    """The stored (H, W) float32 map, or None where none has this key, or it is damaged."""
    try:
        with Image.open(picture_path) as picture:
            found_key, digest = picture.info.get("key"), picture.info.get("digest")
        content = array_path.read_bytes() if found_key == key else b""
    except (OSError, SyntaxError, ValueError):  # missing, unreadable, no picture
        return None
    if not content or _sha256(content) != digest:
        return None
    return np.load(io.BytesIO(content), allow_pickle=False)


def _write_picture(path, weight_map, key, digest):
    """Write a map as a picture, black where it is largest, with its key and the array's digest."""
    lightest, darkest = float(weight_map.min()), float(weight_map.max())
    scaled = (weight_map - lightest) / ((darkest - lightest) or 1)
    text = PngImagePlugin.PngInfo()
    text.add_text("key", key)
    text.add_text("digest", digest)
    write_png(path, np.round(255 * (1 - scaled)).astype(np.uint8), text)


def _sha256(data):
    return hashlib.sha256(data).hexdigest()
