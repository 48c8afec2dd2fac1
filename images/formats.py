"""Image formats as a table, folders of images, and writing: PNG for what it holds, else TIFF.

A format is a row of READERS.  To add one, write a function that opens its files and add a row.
"""
import io
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from PIL import Image

from command.errors import DataError
from command.files import atomic_write
from command.names import canonical, stem_of
from images.arrays import open_npy
from images.pictures import open_picture
from images.png import PNG_START
from images.tiff import TIFF_STARTS, open_tiff


# ------------------------------------------------------------------------------------ the formats
class Reader(NamedTuple):
    """How the files of an image format are read.

    `open(path)` is a context manager.  It gives an object as arrays.Array is one: `header` is its
    pages.ImageFile, and `read(entry, as_label, rows)` decodes it.  For a damaged file both may
    raise any exception.
    """
    suffixes: tuple  # of its files, in lower case, with the dot
    starts: tuple    # what its files begin with, bytes: they are known by these, not by the suffix
    open: Callable   # from a path


READERS = (
    Reader((".png",), (PNG_START,), open_picture),
    Reader((".tif", ".tiff"), TIFF_STARTS, open_tiff),
    Reader((".jpg", ".jpeg"), (b"\xff\xd8\xff",), open_picture),
    Reader((".bmp",), (b"BM",), open_picture),
    Reader((".npy",), (b"\x93NUMPY",), open_npy),
)
OTHERS = Reader((), (), open_picture)  # what else Pillow knows
IMAGE_SUFFIXES = tuple(suffix for reader in READERS for suffix in reader.suffixes)
# Deflate is what tifffile knows without imagecodecs.  Without metadata it writes no shape of its
# own into the description, and the pages of several calls are one stack.
TIFF_OPTIONS = {"compression": "zlib", "metadata": None, "maxworkers": 1}
SIDECARS = ("_prob.npy", "_seg.npy")  # of Predict.py and of Cellpose, beside an image


def find_reader(path):
    """The Reader of a file, by its first bytes.  Raises OSError where it cannot be opened."""
    with open(path, "rb") as file:
        start = file.read(16)
    return next((reader for reader in READERS if start.startswith(reader.starts)), OTHERS)


# ---------------------------------------------------------------------------- folders and sizes
def list_images(folder, ignore=frozenset(), suffixes=IMAGE_SUFFIXES):
    """The image files of a folder, sorted by name: {its `stem_of`: Path}.

    Hidden files, files with other suffixes, SIDECARS and the paths in `ignore` are left out.
    Raises DataError where the folder is missing or has two images of one stem, as a.png and a.tif.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = {}
    for path in sorted(folder.iterdir(), key=lambda each: (canonical(each.name), each)):
        is_hidden = path.name.startswith(".") or path.name.endswith(SIDECARS)
        if is_hidden or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        if path in ignore:
            continue
        stem = stem_of(path)
        if stem in found:
            raise DataError(f"{path}: {found[stem].name} has the same name; "
                            "keep one of the two")
        found[stem] = path
    return found


def check_same_size(image, size, label, label_size):
    """Raise DataError where the sizes of an image and its label differ.

    image, label: their paths, for the message; size, label_size: (height, width) in pixels.
    """
    check_shape(label, label_size, f"its image {image}", size)


def check_shape(path, shape, other, wanted):
    """Raise DataError where a file's (height, width) is not that of another, named `other`."""
    if shape != wanted:
        raise DataError(f"{path}: {shape[0]} x {shape[1]} px (height x width), but {other} has "
                        f"{wanted[0]} x {wanted[1]} px; export one of them again")


# ---------------------------------------------------------------------------------------- writing
def png_bytes(pixels, pnginfo=None):
    """(H, W) uint8 or uint16, or (H, W, 3) uint8 pixels, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=pnginfo)
    return buffer.getvalue()


def write_png(path, pixels, pnginfo=None):
    """Write a PNG file, whole or not at all; arguments as `png_bytes`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(png_bytes(pixels, pnginfo))


def pixels_suffix(pixels):
    """The suffix of the file that `write_pixels` writes: ".png" for what PNG holds, else ".tif"."""
    is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    is_grey = pixels.ndim == 2 and pixels.dtype in (np.uint8, np.uint16)
    return ".png" if is_rgb or is_grey else ".tif"


def pixels_bytes(pixels, suffix=None):
    """Pixels (H, W) or (H, W, C), C >= 2, as the bytes of a file that gives them back exactly.

    suffix: the format's, `pixels_suffix(pixels)` or ".tif"; by default the first.
    """
    if (suffix or pixels_suffix(pixels)) == ".png":
        return png_bytes(pixels)
    from tifffile import imwrite
    planar = "contig" if pixels.ndim == 3 else None
    is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype in (np.uint8, np.uint16)
    buffer = io.BytesIO()
    imwrite(buffer, pixels, photometric="rgb" if is_rgb else "minisblack", planarconfig=planar,
            **TIFF_OPTIONS)
    return buffer.getvalue()


def write_pixels(path, pixels):
    """Write pixels so that `read_image` gives them back exactly; see `pixels_bytes`.

    The file appears whole or not at all.  path: its suffix says which format.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(pixels_bytes(pixels, Path(path).suffix.lower()))
