"""Read images and labels of any format by one set of rules: every command calls these functions.

    read_image("cell.tif")     pixels as a viewer shows them
    read_label("mask.png")     values as they are stored
"""
import contextlib
from pathlib import Path

import numpy as np

from command.errors import DataError, say_once
from images.channels import MOST_CHANNELS, has_colours, to_channels
from images.formats import find_reader
from images.pages import reading_errors, say_change

SPLIT = "`python MakeData.py folders --split_pages` writes each as an image of its own"
SURE_CHANNELS = (1, 3)  # grey and RGB: a stack of so many pages is a stack


@contextlib.contextmanager
def _opened(path):
    """`with _opened(path) as opened:` what the Reader of a file opens; errors as `read_image`."""
    path = Path(path)
    with reading_errors(path):
        with find_reader(path).open(path) as opened:
            yield opened


# ---------------------------------------------------------------------------------------- headers
def examine_file(path, n_channels=None):
    """The ImageFile of a path, from its header alone.

    n_channels: how many channels are wanted, or None.  Pages without a meaning are the channels of
    one image where they are as many, and neither 1 nor 3.  Raises DataError for an unreadable file.
    """
    with _opened(path) as opened:
        return _join_pages(opened.header, n_channels)


def _join_pages(file, n_channels):
    """An ImageFile whose pages are channels of one image, where `n_channels` says so."""
    count = len(file.pages)
    if count != n_channels or count in SURE_CHANNELS or file.channels > 1 or file.axes:
        return file
    say_change(file.path, f"files of {count} pages are read as images of {count} channels")
    return file._replace(pages=(sum(file.pages, ()),), channels=count)


def image_size(path):
    """(height, width) in pixels of an image file as shown, from its header."""
    with _opened(path) as opened:
        return opened.header.height, opened.header.width


def is_lossy(path):
    """Whether a file's compression changes values, as JPEG does; by its content."""
    with _opened(path) as opened:
        return opened.header.is_lossy


# ------------------------------------------------------------------------------------------ images
def read_image(path, n_channels=None):
    """The pixels of an image file as shown: (H, W), or (H, W, C) for C >= 2 channels.

    The dtype is the file's: uint8, uint16, uint32, int8, int16, int32, float16, float32, float64.
    A palette gives RGB.  Alpha is left out, with a line on stderr.  n_channels: None gives the
    file's channels, a number that many (see `to_channels`, `examine_file`).
    Raises DataError for a file that is missing, no image or damaged, that holds several images, has
    other channels, or NaN or infinite values.
    """
    with _opened(path) as opened:
        file = _join_pages(opened.header, n_channels)
        _check_one_image(file)
        pixels = opened.read(file.pages[0])
        _check_finite(pixels)
        return pixels if n_channels is None else to_channels(pixels, n_channels)


def _check_one_image(file, as_label=False):
    count = len(file.pages)
    if count == 1:
        return
    if file.axes:
        raise DataError(f"has {count} images, along its axes {file.axes}; {SPLIT}")
    is_open = (not as_label and file.channels == 1 and count not in SURE_CHANNELS
               and count <= MOST_CHANNELS)
    as_channels = f" (if they are channels: --n_channels {count})" if is_open else ""
    raise DataError(f"has {count} pages; {SPLIT}{as_channels}")


def _check_finite(pixels):
    if pixels.dtype.kind == "f":
        wrong = pixels.size - np.count_nonzero(np.isfinite(pixels))
        if wrong:
            raise DataError(f"{wrong:,} of its values are NaN or infinite; replace them")


class LargePage:
    """An image that stays on disk: [top:bottom] reads these rows as an array.

    shape: (H, W) or (H, W, C); dtype: of its values.  Raises DataError for a damaged file.
    """

    def __init__(self, file, entry):
        """file: an ImageFile; entry: one of its pages."""
        self.path, self.entry, self.dtype = file.path, entry, file.dtype
        self.shape = (file.height, file.width)
        if file.channels > 1:
            self.shape += (file.channels,)

    def __getitem__(self, rows):
        top, bottom, _ = rows.indices(self.shape[0])
        with _opened(self.path) as opened:
            pixels = opened.read(self.entry, rows=slice(top, bottom))
            _check_finite(pixels)
        return pixels


def pages_of(file):
    """Yield each image of an ImageFile: (H, W) or (H, W, C), as `read_image` gives it.

    An image is an array, or a LargePage where it is large and can be read in bands.  Its channels
    are the file's.
    """
    with _opened(file.path) as opened:
        for entry in file.pages:
            if file.is_large and file.by_rows:
                yield LargePage(file, entry)
            else:
                pixels = opened.read(entry)
                _check_finite(pixels)
                yield pixels


def row_bands(pixels, rows=1024):
    """Yield a page's pixels in bands of `rows` px; the last band may have fewer."""
    for top in range(0, pixels.shape[0], rows):
        yield pixels[top:top + rows]


# ------------------------------------------------------------------------------------------ labels
def read_label(path):
    """The values of a label file as they are stored: (H, W) uint8, uint16 or uint32.

    A palette file gives the palette's indices, but 0 and 255 for a mask in black and white (see
    `palette_values`).  One bit gives 0 and 255.  Where white is zero the values stay as stored.
    A lossy file, whose edges are blurred, is cut at half its largest value into 0 and 255, with a
    line on stderr.  Raises DataError as `read_image`, for a label in colour, for one whose mask is
    its alpha, and for values that are negative or no whole numbers.
    """
    with _opened(path) as opened:
        _check_one_image(opened.header, as_label=True)
        return _read_label_page(opened, opened.header.pages[0])


def label_pages_of(file):
    """Yield each label of an ImageFile, as `read_label` gives it."""
    with _opened(file.path) as opened:
        for entry in file.pages:
            yield _read_label_page(opened, entry)


def _read_label_page(opened, entry):
    """The label of an entry of an opened file's pages."""
    file = opened.header
    if file.is_lossy:
        say_once(f"{file.path}: a lossy label, cut at half its largest value (PNG keeps labels "
                 "exact)")
        blurred = to_channels(opened.read(entry), 1)
        return np.where(blurred > blurred.max() // 2, 255, 0).astype(np.uint8)
    if len(entry) > 1:
        raise DataError(f"a label of {file.channels} channels; store it as one grey channel")
    values, alpha = opened.read(entry, as_label=True)
    if alpha is not None and values.min() == values.max() and alpha.min() != alpha.max():
        raise DataError("a label whose mask is in its alpha channel alone; store it as one grey "
                        "channel")
    return _as_unsigned(_only_channel(values))


def _only_channel(values):
    """Label values (H, W) or (H, W, C) of equal channels as (H, W)."""
    if has_colours(values):
        raise DataError("a label in colour; store class numbers as one grey channel, or turn its "
                        "colours into them: `python MakeData.py folders --colours classes.csv`")
    return values if values.ndim == 2 else np.ascontiguousarray(values[..., 0])


def _as_unsigned(values):
    """Label values as unsigned integers of at most 32 bits; truth values as 0 and 255."""
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise DataError("label values that are no whole numbers; store class numbers")
    if values.min() < 0:
        raise DataError(f"has the label value {int(values.min())}; store numbers from 0 on")
    if values.max() > np.iinfo(np.uint32).max:
        raise DataError(f"has the label value {int(values.max())}, more than 32 bits hold; "
                        "number them anew")
    size = min(values.dtype.itemsize, 4) if kind in "iu" else 4
    return values.astype(f"u{size}", copy=False)
