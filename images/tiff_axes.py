"""Which images a TIFF file holds: its pages, and what they are by its axes."""
import math
import os
import re
import struct
from typing import NamedTuple

import numpy as np

from command.errors import DataError, say_once
from images.channels import MOST_CHANNELS
from images.pages import MOST_BYTES
from images.tiff_samples import decode_page

# tifffile's kinds of files that say what their pages are
WITH_AXES = ("shaped", "lsm", "mmstack", "ome", "imagej", "ndtiff", "fluoview", "stk", "scanimage")
CHANNELS, UNKNOWN = "CS", "QI"  # letters of axes
MOST_PAGES = 2 ** 16
NO_IMAGES = 5  # bits of NewSubfileType: a smaller version, or a mask, of another image


class Layout(NamedTuple):
    """The images of a TIFF file."""
    images: tuple         # for each the numbers of its pages, whose channels follow one another;
                          # of a `series` its own number
    axes: str = ""        # what the images are, such as "T" or "ZT"; "": nobody says
    lengths: tuple = ()   # how many there are along each of the axes
    series: object = None  # a tifffile.TiffPageSeries, where the pages themselves are no images


def check_chain(path):
    """Raise ValueError where the directories of a TIFF file's pages do not come to an end.

    Each says where the next one is.  In a damaged file they can go round in circles.  Raises
    DataError for more than MOST_PAGES.
    """
    with open(path, "rb") as file:
        size, head = os.fstat(file.fileno()).st_size, file.read(16)
        order, is_big = ("<" if head[:2] == b"II" else ">"), b"+" in head[2:4]
        link, count = (struct.Struct(order + kind) for kind in ("QQ" if is_big else "IH"))
        entry = 20 if is_big else 12  # bytes of a tag
        place, seen = 8 if is_big else 4, set()  # where the first link is
        while offset := _read_number(file, place, link):
            if offset in seen or offset >= size:
                raise ValueError("the list of its pages leads nowhere")
            seen.add(offset)
            if len(seen) > MOST_PAGES:
                raise DataError(f"more than {MOST_PAGES:,} pages; save it in parts")
            tags = _read_number(file, offset, count)
            if tags == 0:
                raise ValueError("a page without a description")
            place = offset + count.size + entry * tags


def _read_number(file, place, kind):
    """The number at a place of an open file; ValueError where that ends before."""
    if place < 2 ** 63:
        file.seek(place)
        data = file.read(kind.size)
        if len(data) == kind.size:
            return kind.unpack(data)[0]
    raise ValueError("cut short: it ends before the list of its pages")


# --------------------------------------------------------------------------------------- the layout
def find_layout(path, file):
    """The Layout of an open tifffile.TiffFile.  A line on stderr says which pages are left out."""
    layout = _layout_by_axes(path, file) or _layout_without_axes(file)
    used = {number for numbers in layout.images for number in numbers}
    left_out = 0 if layout.series else len(file.pages) - len(used)
    if left_out:
        say_once(f"{path}: {left_out} of its pages are left out: not of the first one's size, as "
                 "thumbnails and the levels of a pyramid are")
    return layout


def _layout_without_axes(file):
    """The Layout of a file that does not tell its axes: a page is an image."""
    first = file.pages.first
    images = [(k,) for k, page in enumerate(file.pages)
              if k == 0 or _is_alike(page.keyframe, first)]
    return Layout(tuple(images))


def _is_alike(page, first):
    """Whether a page is an image as the first one, no thumbnail, level of a pyramid or mask."""
    size, wanted = ((each.imagelength, each.imagewidth) for each in (page, first))
    return not page.subfiletype & NO_IMAGES and size == wanted


def _layout_by_axes(path, file):
    """The Layout of a file that tells its axes; None for another one."""
    is_told = any(getattr(file, f"is_{kind}") for kind in WITH_AXES)
    is_volume = file.pages.first.imagedepth > 1
    if file.is_ome:
        _check_plane_counts(file.pages.first.description)
    if not (is_told or is_volume) or not file.series:
        return None
    first = file.series[0]
    if first.kind not in WITH_AXES and not is_volume:
        return None
    if math.prod(first.shape) > MOST_PAGES * first.keyframe.size:
        raise DataError(f"more than {MOST_PAGES:,} images; save it in parts")
    if axes_of(first) != first.axes:
        say_once(f"{path}: an array {first.shape} without axes, read as height, width and channels")
    if not _are_pages_images(first):
        images = tuple((k,) for k in range(array_shape(first).images))
        return Layout(images, *_axes_of_images(first), first)
    images = []
    for series in file.series:
        if _are_pages_images(series) and _is_alike(series.keyframe, first.keyframe):
            images += _images_of(series)
    return Layout(tuple(images), *_axes_of_images(first))


def axes_of(series):
    """The letters of a tifffile.TiffPageSeries.

    An array (H, W, C) that was written without axes, and so as H pages, gets them.
    """
    shape = series.shape
    is_image = (series.kind == "shaped" and series.axes == "QYX"
                and shape[2] <= MOST_CHANNELS < min(shape[:2]))
    return "YXC" if is_image else series.axes


def _are_pages_images(series):
    """Whether each page of a tifffile.TiffPageSeries holds rows, columns and perhaps channels."""
    page = series.keyframe
    letters = "".join("S" if letter in CHANNELS else letter for letter in axes_of(series))
    return (page.axes in ("YX", "YXS", "SYX") and letters.endswith(page.axes)
            and series.shape[-page.ndim:] == page.shape and _numbers_of(series) is not None)


def _numbers_of(series):
    """The numbers of a tifffile.TiffPageSeries's pages, in its order; None where they are hidden.

    Values that follow one another in the file need no pages but the first one.
    """
    page, count = series.keyframe, math.prod(series.shape) // series.keyframe.size
    if len(series._pages) == count:
        return [each.index for each in series._pages]
    is_there = page.index + count <= len(page.parent.pages)
    return list(range(page.index, page.index + count)) if is_there else None


def _images_of(series):
    """For each image of a tifffile.TiffPageSeries the numbers of its pages, a tuple."""
    outer = series.shape[:-series.keyframe.ndim]
    numbers = np.reshape(_numbers_of(series), outer)
    channels = [k for k in range(len(outer)) if series.axes[k] in CHANNELS]
    numbers = np.moveaxis(numbers, channels, range(-len(channels), 0)) if channels else numbers
    return [tuple(each) for each in numbers.reshape(
        -1, math.prod(outer[k] for k in channels)).tolist()]


def _axes_of_images(series):
    """(letters, lengths) of the axes with a meaning along which a file has several images."""
    axes = {letter: length for letter, length in zip(axes_of(series), series.shape)
            if length > 1 and letter not in "YX" + CHANNELS + UNKNOWN}
    return "".join(axes), tuple(axes.values())


def _check_plane_counts(xml):
    """Raise ValueError for an OME-XML text that promises more pages than a file may have.

    tifffile would count them one by one.
    """
    if sum(map(int, re.findall(r'PlaneCount="(\d{1,18})', xml))) > MOST_PAGES:
        raise ValueError("its OME-XML promises too many planes")


# ------------------------------------------------------------------------------- pages as one array
class ArrayShape(NamedTuple):
    """What the values of a tifffile.TiffPageSeries are."""
    images: int
    height: int    # px
    width: int     # px
    channels: int  # of an image


def array_shape(series):
    """The ArrayShape of a tifffile.TiffPageSeries."""
    lengths = dict.fromkeys("NYXC", 1)
    for letter, length in zip(axes_of(series), series.shape):
        lengths["C" if letter in CHANNELS else letter if letter in "YX" else "N"] *= length
    return ArrayShape(*lengths.values())


def read_array(series, number, rows=None):
    """An image of a tifffile.TiffPageSeries, (H, W, C), or its rows of the slice `rows`."""
    letters, rows, file = axes_of(series), rows or slice(None), series.keyframe.parent
    if series.dataoffset is not None:  # uncompressed, one value after the other
        dtype = file.byteorder + series.dtype.char
        values = np.memmap(file.filehandle.path, dtype, "r", series.dataoffset, series.shape)
    elif math.prod(series.shape) * series.dtype.itemsize > MOST_BYTES:
        raise DataError(f"more than {MOST_BYTES:,} bytes that can be decoded together only; "
                        "save its images one by one")
    else:
        values = np.reshape([decode_page(file, file.pages[k]) for k in _numbers_of(series)],
                            series.shape)
    order = [k for k, letter in enumerate(letters) if letter not in "YX" + CHANNELS]
    order += [letters.index("Y"), letters.index("X")]
    order += [k for k, letter in enumerate(letters) if letter in CHANNELS]
    image = values.transpose(order).reshape(array_shape(series))[number, rows]
    return image.astype(series.dtype)
