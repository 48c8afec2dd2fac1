"""Read images and labels of any format by one set of rules: every command calls these functions.

    read_image("cell.tif")     pixels as a viewer shows them
    read_label("mask.png")     values as they are stored
"""
import contextlib
from pathlib import Path

import numpy as np

from command.errors import DataError, say_once
from images.channels import has_colours, to_channels
from images.formats import find_reader
from images.pages import reading_errors

SPLIT = "`python MakeData.py folders --split_pages` writes each as an image of its own"


@contextlib.contextmanager
def _opened(path):
    """`with _opened(path) as image:` what the Reader of a file opens; errors as `read_image`."""
    path = Path(path)
    with reading_errors(path):
        with find_reader(path).open(path) as image:
            yield image


# ---------------------------------------------------------------------------------------- headers
def examine_file(path, n_channels=None):
    """The ImageFile of a path, from its header alone.

    n_channels: how many channels are wanted, or None.  Pages without a meaning are the channels of
    one image where they are as many, and neither 1 nor 3.  Raises DataError for an unreadable file.
    """
    with _opened(path) as image:
        return _join_pages(image.header, n_channels)


def _join_pages(file, n_channels):
    count = len(file.pages)
    if count == 1 or file.axes or file.channels > 1 or count != n_channels or count == 3:
        return file
    say_once(f"{file.path.parent}: files of {count} pages are read as images of {count} channels, "
             "as --n_channels has it (said once a folder)")
    return file._replace(pages=(sum(file.pages, ()),), channels=count)


def image_size(path):
    """(height, width) in pixels of an image file as shown, from its header."""
    with _opened(path) as image:
        return image.header.height, image.header.width


def is_lossy(path):
    """Whether a file's compression changes values, as JPEG does; by its content."""
    with _opened(path) as image:
        return image.header.is_lossy


# ----------------------------------------------------------------------------------------- pixels
def read_image(path, n_channels=None):
    """The pixels of an image file as shown: (H, W), or (H, W, C) for C >= 2 channels.

    The dtype is the file's: uint8, uint16, uint32, int8, int16, int32, float16, float32, float64.
    A palette gives RGB, alpha is left out.  n_channels: None gives the file's channels, a number
    that many (see `to_channels`).
    Raises DataError for a file that is missing, no image or damaged, that holds several images, has
    other channels, or NaN or infinite values.
    """
    with _opened(path) as image:
        file = _join_pages(image.header, n_channels)
        _check_one_image(file)
        pixels = image.read(file.pages[0])
        check_finite(path, pixels)
        return pixels if n_channels is None else to_channels(pixels, n_channels)


def _check_one_image(file):
    count = len(file.pages)
    if count == 1:
        return
    if file.axes:
        raise DataError(f"{file.path}: has {count} images along its axes {file.axes}; {SPLIT}")
    as_channels = ""
    if file.channels == 1 and count != 3:
        as_channels = f" (if they are channels: --n_channels {count})"
    raise DataError(f"{file.path}: has {count} pages; {SPLIT}{as_channels}")


def check_finite(path, pixels):
    """Raise DataError where float values are NaN or infinite."""
    if pixels.dtype.kind != "f":
        return
    finite = np.isfinite(pixels)
    if not finite.all():
        count = np.count_nonzero(~finite)
        raise DataError(f"{path}: {count:,} of its values are NaN or infinite; replace them")


class LargePage:
    """An image that stays on disk: [top:bottom] reads these rows as an array.

    shape: (H, W) or (H, W, C); dtype: of its values.  Raises DataError for a damaged file.
    """

    def __init__(self, file, entry):
        """file: an ImageFile; entry: of its pages."""
        self.path, self.entry, self.dtype = file.path, entry, file.dtype
        self.shape = (file.height, file.width)
        if file.channels > 1:
            self.shape += (file.channels,)

    def __getitem__(self, rows):
        top, bottom, _ = rows.indices(self.shape[0])
        with _opened(self.path) as image:
            pixels = image.read(self.entry, rows=slice(top, bottom))
        check_finite(self.path, pixels)
        return pixels


def pages_of(file):
    """Yield each image of an ImageFile: (H, W) or (H, W, C), as `read_image` gives it.

    An image is an array, or a LargePage where it is large and can be read in bands.
    """
    if file.is_large and file.by_rows:
        yield from (LargePage(file, entry) for entry in file.pages)
        return
    with _opened(file.path) as image:  # once: its header may tell of thousands of pages
        for entry in file.pages:
            pixels = image.read(entry)
            check_finite(file.path, pixels)
            yield pixels


def row_bands(pixels, rows=1024):
    """Yield a page's pixels in bands of `rows` px; the last band may have fewer."""
    for top in range(0, pixels.shape[0], rows):
        yield pixels[top:top + rows]


# ----------------------------------------------------------------------------------------- labels
def read_label(path):
    """The values of a label file as they are stored: (H, W) uint8, uint16 or uint32.

    A palette file gives the palette's indices; a palette of black and white gives 0 and 255.
    One bit gives 0 and 255.  White may be zero: the values stay as stored.
    A lossy file, whose edges are blurred, is cut at half its largest value into 0 and 255, with a
    line on stderr.  Raises DataError as `read_image`, for a label in colour, and for values that
    are negative, or no whole numbers.
    """
    with _opened(path) as image:
        _check_one_image(image.header)
        return _read_label_page(path, image, image.header.pages[0])


def label_pages_of(file):
    """Yield each label of an ImageFile, as `read_label` gives it."""
    with _opened(file.path) as image:
        for entry in file.pages:
            yield _read_label_page(file.path, image, entry)


def _read_label_page(path, image, entry):
    """The label of an entry of an opened image's pages."""
    if image.header.is_lossy:
        return _cut_lossy(path, image.read(entry))
    values, alpha = image.read(entry, as_label=True)
    if alpha is not None and values.min() == values.max() and alpha.min() != alpha.max():
        raise DataError(f"{path}: a label whose mask is in its alpha channel alone; store it "
                        "as one grey channel")
    return _whole_numbers(path, _one_channel(path, values))


def _cut_lossy(path, pixels):
    say_once(f"{path}: a lossy label, cut at half its largest value (PNG keeps labels exact)")
    blurred = to_channels(pixels, 1)
    return np.where(blurred > blurred.max() // 2, 255, 0).astype(np.uint8)


def _one_channel(path, values):
    if values.ndim == 2:
        return values
    if has_colours(values):
        raise DataError(f"{path}: a label in colour; store class numbers as one grey channel, or "
                        "`python MakeData.py folders --colours` turns colours into class numbers")
    return np.ascontiguousarray(values[..., 0])


def _whole_numbers(path, values):
    """Label values as unsigned integers of at most 32 bits."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise DataError(f"{path}: label values that are no whole numbers; store class numbers")
    if kind != "u" and values.min() < 0:
        raise DataError(f"{path}: has the label value {int(values.min())}; store numbers from 0 on")
    if values.dtype.itemsize > 2 and values.max() > np.iinfo(np.uint32).max:
        raise DataError(f"{path}: has the label value {int(values.max())}, more than 32 bits hold")
    return values.astype(np.dtype(f"u{min(size, 4)}") if kind in "ui" else np.uint32, copy=False)
