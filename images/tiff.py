"""TIFF files, by tifffile: an opened file, its images and their pixels.

tiff_axes says which images a file holds, tiff_samples reads a page's samples, whole or by rows, and
tiff_kinds turns samples into what viewers show.
"""
import contextlib
import logging
from typing import NamedTuple

import numpy as np

from command.errors import DataError
from images.pages import (ALPHA, ImageFile, Stored, check_fits, orient, say_change, squeeze_channel,
                          swaps_sides)
from images.tiff_axes import array_shape, check_chain, find_layout, read_array
from images.tiff_kinds import READ_AS_RGB, Kind, find_kind, show, store
from images.tiff_samples import is_lossy_page, read_samples, why_not_by_rows

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of TIFF and BigTIFF files
ORIENTATION_TAG = 274
PLANES = 2  # value of the planar configuration
# how tifffile stores an array (4, H, W) where nobody says what its planes are
CHANNELS_AS_ALPHA = ("four channels of a microscope are to be written as such: "
                     "tifffile.imwrite(..., photometric='minisblack')")


@contextlib.contextmanager
def open_tiff(path):
    """`with open_tiff(path) as tiff:` an opened Tiff; a damaged file raises anything."""
    from tifffile import TiffFile  # late: it takes a tenth of a second
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs every oddity of a header
    check_chain(path)
    with TiffFile(path, _multifile=False) as file:
        yield Tiff(path, file)


class Samples(NamedTuple):
    """What a page stores, and how it becomes an image."""
    values: np.ndarray  # (H, W, S)
    page: object        # tifffile.TiffPage
    kind: Kind


class Tiff:
    """An opened TIFF file: `header`, an ImageFile, and `read`."""

    def __init__(self, path, file):
        """file: a tifffile.TiffFile."""
        self.path, self.file, self.layout = path, file, find_layout(path, file)
        self.page = self.layout.series.keyframe if self.layout.series else file.pages.first
        self.kind = find_kind(self.page)
        self.orientation = 1 if self.layout.series else _orientation_of(self.page)
        if self.layout.series:
            shape = array_shape(self.layout.series)
            height, width, channels = shape.height, shape.width, shape.channels
            if channels == self.kind.samples:
                channels = self.kind.channels
        else:
            height, width = self.page.imagelength, self.page.imagewidth
            channels = self.kind.channels * len(self.layout.images[0])
        if swaps_sides(self.orientation):
            height, width = width, height
        self.header = ImageFile(path, height, width, channels, self.kind.dtype, self.layout.images,
                                self.layout.axes, self.layout.lengths,
                                is_lossy_page(file, self.page))
        if self.header.is_large:
            why_not = self._why_not_by_rows()
            self.header = self.header._replace(by_rows=not why_not)
            if why_not:
                check_fits(self.header, f", and by rows it cannot be read: {why_not}")

    def _why_not_by_rows(self):
        """Why bands of a large image cannot be read alone; None where they can."""
        if swaps_sides(self.orientation):
            return "its orientation swaps rows and columns"
        if self.layout.series:
            is_plain = self.layout.series.dataoffset is not None
            return None if is_plain else "its pages are compressed, and are no images"
        return why_not_by_rows(self.file, self.page)

    def read(self, entry, as_label=False, rows=None):
        """The pixels of an image as shown, all or those of the slice `rows`; or Stored values.

        entry: the numbers of its pages, whose channels follow one another.
        """
        if rows is None:
            check_fits(self.header)
        if as_label:
            values, alpha = store(*self._read_samples(entry[0], None))
            alpha = None if alpha is None else orient(alpha, self.orientation)
            return Stored(orient(values, self.orientation), alpha)
        parts = [show(*self._read_samples(number, rows)) for number in entry]
        self._say_changes()
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        return orient(squeeze_channel(pixels), self.orientation)

    def _say_changes(self):
        if self.kind.alpha is not None:
            in_planes = self.page.planarconfig == PLANES
            say_change(self.path, f"{ALPHA}; {CHANNELS_AS_ALPHA}" if in_planes else ALPHA)
        if self.kind.photometric in READ_AS_RGB:
            name = READ_AS_RGB[self.kind.photometric]
            say_change(self.path, f"{name} colours are read as RGB")

    def _read_samples(self, number, rows):
        """The Samples of a page, all or those of the slice `rows` of the image as shown."""
        if self.layout.series:
            return Samples(read_array(self.layout.series, number, rows), self.page, self.kind)
        page = self.file.pages[number]
        frame = page.keyframe
        kind = self._check_kind(frame, number)
        if rows is not None and self.orientation in (3, 4):  # the last row is stored first
            height = frame.imagelength
            rows = slice(height - rows.stop, height - rows.start)
        return Samples(read_samples(self.file, page, rows), frame, kind)

    def _check_kind(self, frame, number):
        """The Kind of a page; DataError where it is not as the first one's."""
        if frame is self.page:
            return self.kind
        kind = find_kind(frame)
        ours, first = (
            {"values": each.dtype, "channels": each.channels, "orientation": _orientation_of(page),
             "pixels": f"{page.imagelength} x {page.imagewidth}"}
            for each, page in ((kind, frame), (self.kind, self.page)))
        for what, value in ours.items():
            if value != first[what]:
                raise DataError(f"page {number + 1} has {str(value)[:40]} {what}, the first one "
                                f"{first[what]}; save them alike")
        return kind


def _orientation_of(page):
    tag = page.tags.get(ORIENTATION_TAG)
    return tag.value if tag and tag.value in range(1, 9) else 1
