"""TIFF files by tifffile: samples, planes, photometric kinds, orientation; whole, or by rows."""
import contextlib
import logging
import math
from typing import NamedTuple

import numpy as np

from command.errors import DataError, say_once
from images import pages
from images.pages import (ALPHA, ImageFile, Stored, common_dtype, orient, palette_values,
                          say_change, squeeze_channel, to_common)
from images.tiff_axes import find_layout, images_of_array, shape_of_array

SEGMENT = 2 ** 30  # bytes of a strip or a tile that is decoded for some of its rows
MINISWHITE, MINISBLACK, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
READ_AS_RGB = {PALETTE: "palette", SEPARATED: "CMYK"}
JPEG = (6, 7, 33007, 34892)         # numbers of its compressions
JPEG2000 = (33003, 33004, 33005, 34712)
FAX = (2, 3, 4)                     # of one bit
LOSSY_COMPRESSIONS = (*JPEG, 22610, 34934, 50001, 34927)  # and JPEG XR, WebP


@contextlib.contextmanager
def open_tiff(path):
    """`with open_tiff(path) as tiff:` an opened Tiff; damaged files raise any exception."""
    from tifffile import TiffFile  # late: it takes a tenth of a second
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs every oddity of a header
    with TiffFile(path, _multifile=False) as file:
        yield Tiff(path, file)


# ----------------------------------------------------------------------------------- kinds of pages
class Kind(NamedTuple):
    """How a page's samples become an image."""
    photometric: int
    bits: int        # of a sample
    samples: int     # of a pixel as stored
    colours: tuple   # numbers of the samples that are no alpha
    alpha: object    # number of the sample that is alpha, or None
    channels: int    # of the image
    dtype: np.dtype  # of the image's values


def kind_of(page):
    """The Kind of a tifffile.TiffPage.  Raises DataError for one that is not read."""
    photometric, bits, samples = int(page.photometric), page.bitspersample, page.samplesperpixel
    own = {RGB: 3, YCBCR: 3, SEPARATED: 4}.get(photometric, 1)
    name = getattr(page.photometric, "name", photometric)
    if photometric not in (MINISWHITE, MINISBLACK, RGB, PALETTE, SEPARATED, YCBCR) or samples < own:
        raise DataError(f"it has {samples} channels of kind {name}; save it as grey or RGB")
    if page.dtype is None or isinstance(bits, tuple):
        raise DataError("its values are of an odd size; save it with 8 or 16 bits")
    extra = [int(each) for each in page.extrasamples]
    if photometric == RGB and samples == 4 and not extra:
        extra = [2]  # as every reader takes it
    alpha = next((samples - len(extra) + k for k, each in enumerate(extra) if each in (1, 2)), None)
    colours = tuple(k for k in range(samples) if k != alpha)
    channels, dtype = len(colours), common_dtype(page.dtype)
    if photometric == PALETTE or photometric == SEPARATED:
        channels, dtype = 3, np.dtype(np.uint8)
    return Kind(photometric, bits, samples, colours, alpha, channels, dtype)


def shown(samples, page, kind):
    """A page's stored samples (H, W, S) as (H, W, C) values of the image, as viewers show them."""
    if kind.photometric == PALETTE:
        return _palette_of(page)[samples[..., 0]]
    values = samples if kind.alpha is None else samples[..., kind.colours]
    if kind.photometric == SEPARATED:
        return _from_ink(values)
    if kind.photometric == YCBCR and int(page.compression) not in JPEG:
        return _convert(values, "YCbCr")
    if kind.photometric == MINISWHITE and values.dtype.kind in "bui":
        full = values.dtype.type(2 ** kind.bits - 1) if values.dtype.kind == "u" else None
        values = ~values if full is None else full - values
    if kind.bits in (2, 4):
        values = values * np.uint8(255 // (2 ** kind.bits - 1))
    return to_common(values)


def _from_ink(values):
    return _convert(values, "CMYK")


def _convert(values, mode):
    """(H, W, C) uint8 values of Pillow's `mode` as RGB."""
    from PIL import Image
    if values.dtype != np.uint8:
        raise DataError(f"{mode} colours of {values.dtype}; save it as RGB")
    return np.array(Image.fromarray(np.ascontiguousarray(values), mode).convert("RGB"))


def _palette_of(page):
    """The colours of a palette, (N, 3) uint8."""
    colours = page.colormap.T
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)


def stored(samples, page, kind):
    """A page's samples (H, W, S) as Stored values of a label."""
    if kind.photometric == PALETTE:
        return Stored(palette_values(samples[..., 0], _palette_of(page)), None)
    if kind.photometric in (SEPARATED, YCBCR):
        return Stored(shown(samples, page, kind), None)
    values = samples if kind.alpha is None else samples[..., kind.colours]
    if values.dtype == bool:
        values = to_common(values)
    return Stored(squeeze_channel(values), None if kind.alpha is None else samples[..., kind.alpha])


# --------------------------------------------------------------------------------- the samples read
def check_segments(file, page):
    """Raise DataError where a page's strips or tiles are not all in the file."""
    frame = page.keyframe
    length = frame.tilelength if frame.is_tiled else frame.rowsperstrip
    width = frame.tilewidth if frame.is_tiled else frame.imagewidth
    planes = frame.samplesperpixel if frame.planarconfig == 2 else 1
    expected = planes * -(-frame.imagelength // length) * -(-frame.imagewidth // width)
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts)]
    if len(ends) < expected and not frame.is_contiguous:
        raise DataError(f"{len(ends)} strips or tiles, but its size needs {expected}")
    if max(ends, default=0) > file.filehandle.size:
        raise DataError("cut short: its last pixels are missing")


def read_samples(file, page, rows=None):
    """A page's samples (H, W, S), all or those of the slice `rows`."""
    frame = page.keyframe
    check_segments(file, page)
    if rows is None:
        is_fax = int(frame.compression) in FAX
        values = _decode_fax(file, page) if is_fax else page.asarray(maxworkers=1)
        if frame.planarconfig == 2 and values.ndim == 3:
            values = values.transpose(1, 2, 0)
        return values.reshape(frame.imagelength, frame.imagewidth, -1)
    if frame.is_memmappable and frame.planarconfig == 1:  # perhaps as a single large strip
        dtype = frame.parent.byteorder + frame.dtype.char
        values = np.memmap(file.filehandle.path, dtype, "r", page.dataoffsets[0], frame.shape)
        values = values[rows].astype(frame.dtype)
    else:
        values = _decode_rows(file, page, rows.start, rows.stop)
    return values.reshape(rows.stop - rows.start, frame.imagewidth, -1)


def _decode_fax(file, page):
    """The stored bits of a page, (H, W) bool, in a compression that Pillow has and tifffile not."""
    from PIL import Image
    with Image.open(file.filehandle.path) as image:
        image.seek(page.index)
        shown = np.asarray(image.convert("1"))
    return shown != (page.keyframe.photometric == MINISWHITE)


class Segment(NamedTuple):
    """A strip or a tile of a page."""
    values: object  # (depth, rows, columns, samples); None: never written, all 0
    plane: int      # number of its plane, where each channel has one
    top: int        # px: its first row in the page
    left: int       # px: its first column in the page


def decode_segment(file, page, index):
    """The Segment of this number of a page of an open tifffile.TiffFile."""
    frame = page.keyframe
    file.filehandle.seek(page.dataoffsets[index])
    data = file.filehandle.read(page.databytecounts[index])
    values, place, _ = frame.decode(data or None, index, jpegtables=page.jpegtables)
    plane, _, top, left, _ = place
    return Segment(values, plane, top, left)


def _decode_rows(file, page, top, bottom):
    """Rows `top` to `bottom` of a page in strips or tiles: (rows, W, samples)."""
    frame = page.keyframe
    height, width = frame.imagelength, frame.imagewidth
    length = frame.tilelength if frame.is_tiled else frame.rowsperstrip
    down, across = -(-height // length), -(-width // (frame.tilewidth or width))
    planes = frame.samplesperpixel if frame.planarconfig == 2 else 1
    values = np.zeros((planes, bottom - top, width, frame.samplesperpixel // planes), frame.dtype)
    for plane in range(planes):
        first, last = (plane * down + row for row in (top // length, (bottom - 1) // length))
        for index in range(first * across, (last + 1) * across):
            segment = decode_segment(file, page, index)
            if segment.values is None:
                continue
            above = max(0, top - segment.top)  # rows of the segment that nobody asked for
            part = segment.values[0, above:bottom - segment.top, :width - segment.left]
            begin = segment.top + above - top
            columns = slice(segment.left, segment.left + part.shape[1])
            values[segment.plane, begin:begin + part.shape[0], columns] = part
    return values.transpose(1, 2, 0, 3)


# ----------------------------------------------------------------------------------------- the file
class Tiff:
    """An opened TIFF file: `header`, an ImageFile, and `read`."""

    def __init__(self, path, file):
        self.path, self.file, self.layout = path, file, find_layout(file)
        page = self.layout.array.keyframe if self.layout.array else file.pages.first
        self.kind, self.page = kind_of(page), page
        self.orientation = int(getattr(page.tags.get(274), "value", 1))
        if self.layout.array:
            count, height, width, channels = shape_of_array(self.layout.array)
            images = tuple((k,) for k in range(count))
        else:
            images, height, width = self.layout.images, page.imagelength, page.imagewidth
            channels = self.kind.channels * len(images[0])
        if self.layout.left_out:
            say_once(f"{path}: {self.layout.left_out} of its pages are left out: not of the first "
                     "one's size, as thumbnails and the levels of a pyramid are")
        if self.orientation in (5, 6, 7, 8):
            height, width = width, height
        self.header = ImageFile(path, height, width, channels, self.kind.dtype, images,
                                self.layout.axes, self.layout.lengths, self._is_lossy())
        if self.header.is_large:
            self._decide_on_rows()

    def _is_lossy(self):
        return int(self.page.compression) in LOSSY_COMPRESSIONS

    def _decide_on_rows(self):
        """Whether bands of a large page can be read; DataError where it fits in no way."""
        why = self._why_not_by_rows()
        self.header = self.header._replace(by_rows=not why)
        if why:
            pages.check_fits(self.path, self.header.height, self.header.width, self.header.bytes,
                             f", and by rows it cannot be read: {why}")

    def _why_not_by_rows(self):
        """Why bands of a page cannot be read, or ""."""
        page = self.page
        if self.layout.array:
            return "its pages are no images"
        if self.orientation > 4:
            return "its orientation swaps rows and columns"
        length, width = ((page.tilelength, page.tilewidth) if page.is_tiled else
                         (page.rowsperstrip, page.imagewidth))
        size = min(length, page.imagelength) * width * page.dtype.itemsize * self.kind.samples
        if size > SEGMENT and not page.is_memmappable:
            return "a strip is too large; save it in tiles"
        check_segments(self.file, page)
        try:
            decode_segment(self.file, page, 0)
        except Exception as error:  # noqa: BLE001 - whatever keeps tifffile from decoding
            return f"{error}; save it uncompressed or with deflate"
        return ""

    def read(self, entry, as_label=False, rows=None):
        """The pixels of an image as shown, all or those of the slice `rows`; or Stored values.

        entry: the numbers of its pages, whose channels follow one another.
        """
        if rows is None:
            pages.check_fits(self.path, self.header.height, self.header.width, self.header.bytes)
        if self.layout.array:
            values = images_of_array(self.layout.array)[entry[0]]
            if as_label:
                return Stored(squeeze_channel(values), None)
            return squeeze_channel(to_common(values))
        parts = [self._read_page(number, as_label, rows) for number in entry]
        if as_label:
            return parts[0]
        return squeeze_channel(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))

    def _read_page(self, number, as_label, rows):
        page = self.file.pages[number]
        kind = self._check_kind(page.keyframe, number)
        flips = self.orientation in (3, 4)
        stored_rows = rows
        if rows is not None and flips:
            height = self.header.height
            stored_rows = slice(height - rows.stop, height - rows.start)
        samples = read_samples(self.file, page, stored_rows)
        if as_label:
            values, alpha = stored(samples, page.keyframe, kind)
            alpha = None if alpha is None else orient(alpha, self.orientation)
            return Stored(orient(values, self.orientation), alpha)
        if kind.alpha is not None:
            say_change(self.path, ALPHA)
        if kind.photometric in READ_AS_RGB:
            name = READ_AS_RGB[kind.photometric]
            say_change(self.path, f"{name} colours are read as RGB")
        return orient(shown(samples, page.keyframe, kind), self.orientation)

    def _check_kind(self, page, number):
        """The Kind of a page; DataError where it is not that of the first one."""
        kind = self.kind if page is self.page else kind_of(page)
        size = (page.imagelength, page.imagewidth)
        first = (self.page.imagelength, self.page.imagewidth)
        for what, one, other in (("values", kind.dtype, self.kind.dtype),
                                 ("channels", kind.channels, self.kind.channels),
                                 ("pixels", math.prod(size), math.prod(first))):
            if one != other:
                raise DataError(f"{self.path}: page {number + 1} has {one} {what}, the first one "
                                f"{other}; save them alike")
        return kind
