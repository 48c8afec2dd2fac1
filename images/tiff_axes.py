"""Which images a TIFF file holds: its pages, and what they are by its axes."""
import math
from typing import NamedTuple

import numpy as np

from command.errors import say_once
from images.channels import MOST_CHANNELS

# tifffile's kinds of files that say what their pages are
WITH_AXES = ("shaped", "lsm", "mmstack", "ome", "imagej", "ndtiff", "fluoview", "stk", "scanimage")
CHANNELS, UNKNOWN = "CS", "QI"  # letters of axes


class Layout(NamedTuple):
    """The images of a TIFF file."""
    images: tuple     # for each the numbers of its pages, whose channels follow one another
    axes: str         # what the images are, such as "T" or "ZT"; "": nobody says
    lengths: tuple    # how many there are along each of the axes
    left_out: int     # pages that are no images: thumbnails, levels of a pyramid
    array: object = None  # a tifffile.TiffPageSeries, where the pages themselves are no images


def find_layout(file):
    """The Layout of an open tifffile.TiffFile."""
    if any(getattr(file, f"is_{kind}") for kind in WITH_AXES):
        if file.series and file.series[0].kind in WITH_AXES:
            return _layout_by_axes(file)
    first = file.pages.first
    images = tuple((k,) for k, page in enumerate(file.pages)
                   if k == 0 or _is_alike(page.keyframe, first))
    return Layout(images, "", (), len(file.pages) - len(images))


def _is_alike(page, first):
    """Whether a page is an image as the first one; not a thumbnail, a pyramid's level or a mask."""
    is_image = not page.subfiletype & 5
    return is_image and (page.imagelength, page.imagewidth) == (first.imagelength, first.imagewidth)


def _layout_by_axes(file):
    """The Layout of a file that tells its axes."""
    first = file.series[0]
    if not _are_pages_images(first):
        return Layout((), *_axes_of_images(first), 0, first)
    images, axes = [], ("", ())
    for series in file.series:
        if _are_pages_images(series) and _is_alike(series.keyframe, first.keyframe):
            images += _images_of(series)
            axes = axes if axes[0] else _axes_of_images(series)
    used = {number for numbers in images for number in numbers}
    return Layout(tuple(images), *axes, len(file.pages) - len(used))


def axes_of(series):
    """The letters of a tifffile.TiffPageSeries.

    An array (H, W, C) that was written without axes, and so as H pages, gets them.
    """
    shape = series.shape
    is_image = (series.axes in ("QYX", "IYX") and series.kind == "shaped"
                and shape[2] <= MOST_CHANNELS < min(shape[:2]))
    if is_image:
        say_once(f"{series.keyframe.parent.filehandle.name}: an array {shape} without axes, read "
                 "as height, width and channels")
    return "YXC" if is_image else series.axes


def _are_pages_images(series):
    """Whether each page of a tifffile.TiffPageSeries holds rows, columns and perhaps channels."""
    page = series.keyframe
    inner = page.ndim
    axes, shape = axes_of(series)[-inner:], series.shape[-inner:]
    letters = "".join("S" if letter in CHANNELS else letter for letter in axes)
    pages = math.prod(series.shape) // page.size
    has_pages = len(series._pages) == pages or page.index + pages <= len(page.parent.pages)
    return shape == page.shape and letters == page.axes and has_pages


def _numbers_of(series):
    """The numbers of the pages of a tifffile.TiffPageSeries, in its order."""
    count = math.prod(series.shape) // series.keyframe.size
    if len(series._pages) == count:
        return [page.index for page in series._pages]
    return list(range(series.keyframe.index, series.keyframe.index + count))


def _images_of(series):
    """For each image of a tifffile.TiffPageSeries the numbers of its pages."""
    inner = series.keyframe.ndim
    axes, numbers = series.axes[:-inner], np.array(_numbers_of(series))
    numbers = numbers.reshape(series.shape[:-inner])
    channels = [k for k, letter in enumerate(axes) if letter in CHANNELS]
    count = math.prod(numbers.shape[k] for k in channels)
    numbers = np.moveaxis(numbers, channels, range(-len(channels), 0)) if channels else numbers
    return [tuple(each) for each in numbers.reshape(-1, count).tolist()]


def _axes_of_images(series):
    """(letters, lengths) of the axes along which a file has several images, where they have a name.
    """
    axes = [(letter, length) for letter, length in zip(axes_of(series), series.shape)
            if length > 1 and letter not in "YX" + CHANNELS + UNKNOWN]
    return "".join(letter for letter, _ in axes), tuple(length for _, length in axes)


def shape_of_array(series):
    """The shape (N, H, W, C) that `images_of_array` gives."""
    lengths = dict.fromkeys("NYXC", 1)
    for letter, length in zip(axes_of(series), series.shape):
        lengths["C" if letter in CHANNELS else letter if letter in "YX" else "N"] *= length
    return tuple(lengths.values())


def images_of_array(series):
    """The values of a tifffile.TiffPageSeries as images, (N, H, W, C)."""
    letters = axes_of(series)
    if series.dataoffset is None:
        values = series.asarray(maxworkers=1)
    else:  # uncompressed, one after the other
        file = series.keyframe.parent
        dtype = file.byteorder + series.dtype.char
        values = np.memmap(file.filehandle.path, dtype, "r", series.dataoffset, series.shape)
    order = [k for k, letter in enumerate(letters) if letter not in "YX" + CHANNELS]
    order += [letters.index("Y"), letters.index("X")]
    order += [k for k, letter in enumerate(letters) if letter in CHANNELS]
    return values.transpose(order).reshape(shape_of_array(series)).astype(series.dtype, copy=False)
