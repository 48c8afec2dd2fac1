"""Image files of any size, page by page: a picture has one page, a TIFF stack many.

A page of more than LARGE pixels need not fit into memory: of a TIFF only the strips or tiles that hold the rows asked
for are read, and its mask is written as it comes, one row of tiles after the other.  All others are read as by
`Common.read_image`.  NumPy, Pillow and tifffile.
"""
import contextlib
import logging
from pathlib import Path
from typing import Iterator, NamedTuple

import numpy as np

from command.errors import DataError, say_once
from command.files import atomic_write
from images.formats import MAX_PIXELS, image_size, read_pages, write_png

LARGE = 2 ** 26  # pixels, 8,192 x 8,192
TILE = 512       # px: the side of the tiles of a large mask
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes of TIFF and BigTIFF files


class ImageFile(NamedTuple):
    """An image file, as its header describes it."""
    path: Path
    numbers: tuple     # of its pages, from 0
    height: int        # px
    width: int         # px
    by_tifffile: bool  # read by TiffRows, otherwise by Pillow

    @property
    def is_large(self):
        return self.height * self.width > LARGE


# ------------------------------------------------------------------------------------------------------------- reading
@contextlib.contextmanager
def _tiff(path):
    """`with _tiff(path) as file:` a tifffile.TiffFile; every way in which it can be broken becomes a DataError."""
    import tifffile
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it tells of every oddity of a header
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except PermissionError:
        raise DataError(f"{path}: may not be read; check its permissions") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - of a damaged file tifffile raises almost any
        raise DataError(f"{path}: not a readable TIFF ({error}); export it again") from None


def _decode(file, page, index):
    """A strip or tile of a page: (values (depth, rows, columns, samples) or None for zeros, plane, top, left)."""
    file.filehandle.seek(page.dataoffsets[index])
    data = file.filehandle.read(page.databytecounts[index])
    values, (sample, _, top, left, _), _ = page.decode(data or None, index, jpegtables=page.jpegtables)
    return values, sample, top, left


def _why_not_by_rows(file, page):
    """What keeps a TIFF page from being read by TiffRows, with what to do; None where nothing does."""
    from tifffile import COMPRESSION, PHOTOMETRIC
    colours = {PHOTOMETRIC.MINISBLACK: page.samplesperpixel == 1, PHOTOMETRIC.MINISWHITE: page.samplesperpixel == 1,
               PHOTOMETRIC.RGB: page.samplesperpixel >= 3, PHOTOMETRIC.YCBCR: page.compression == COMPRESSION.JPEG}
    if not colours.get(page.photometric):
        kind = getattr(page.photometric, "name", page.photometric)
        return f"it has {page.samplesperpixel} channels of kind {kind}; save it as grey or RGB"
    if page.dtype not in (np.uint8, np.uint16):
        return f"its values are {page.dtype or 'of an odd size'}; save it with 8 or 16 bits"
    try:
        _decode(file, page, 0)
    except Exception as error:  # noqa: BLE001 - whatever keeps tifffile from decoding
        return f"{error}; `pip install imagecodecs`, or save it uncompressed or with deflate"
    return None


def _examine_tiff(path, file):
    first = file.pages[0]
    height, width = first.imagelength, first.imagewidth
    numbers = tuple(k for k, page in enumerate(file.pages) if k == 0 or
                    (page.imagelength, page.imagewidth) == (height, width) and not page.is_reduced)
    if len(numbers) < len(file.pages):
        say_once(f"{path}: {len(file.pages) - len(numbers)} of its pages are left out: not of the first one's size, "
                 "as thumbnails and the levels of a pyramid are")
    if file.is_imagej and (file.imagej_metadata or {}).get("images", 1) > len(file.pages):
        raise DataError(f"{path}: an ImageJ stack of over 4 GB, in a form of its own; save its pages as single images")
    large = height * width > LARGE
    if not large and not (first.dtype == np.uint16 and first.samplesperpixel > 1):  # Pillow has no 16-bit colour
        return ImageFile(path, numbers, height, width, False)
    why_not = _why_not_by_rows(file, first)
    if why_not and height * width > MAX_PIXELS:
        raise DataError(f"{path}: {width:,} x {height:,} px is too large to be read whole, and by rows it cannot be: "
                        f"{why_not}")
    return ImageFile(path, numbers, height, width, not why_not)


def _is_tiff(path):
    with contextlib.suppress(OSError), open(path, "rb") as file:  # what cannot be opened is told by `image_size`
        return file.read(4) in TIFF_STARTS
    return False


def examine(path):
    """The ImageFile of a path, from its header alone; raises DataError for a file that cannot be read."""
    if not _is_tiff(path):
        return ImageFile(path, (0,), *image_size(path), False)
    with _tiff(path) as file:
        return _examine_tiff(path, file)


class TiffRows:
    """A page of a TIFF file, left on disk: `shape` (H, W) or (H, W, 3), `dtype`, and [top:bottom], rows as an array."""

    def __init__(self, path, number):
        self.path, self.number = path, number
        with _tiff(path) as file:
            page = file.pages[number]
            self.dtype = np.dtype(page.dtype)
            self.shape = (page.imagelength, page.imagewidth, *((3,) if page.samplesperpixel > 1 else ()))

    def __getitem__(self, rows):
        top, bottom, _ = rows.indices(self.shape[0])
        with _tiff(self.path) as file:
            page = file.pages[self.number]
            if page.is_memmappable and page.planarconfig == 1:  # it may be a single strip, as large as the image
                dtype = page.parent.byteorder + page.dtype.char
                stored = np.memmap(self.path, dtype, "r", page.dataoffsets[0], page.shape)
                values = stored[top:bottom].astype(self.dtype)
            else:
                values = self._decode_rows(file, page, top, bottom)
            inverted = page.photometric == 0  # MINISWHITE
        values = values.reshape(bottom - top, self.shape[1], -1)
        values = values[..., :3] if len(self.shape) == 3 else values[..., 0]
        return np.iinfo(self.dtype).max - values if inverted else values

    def _decode_rows(self, file, page, top, bottom):
        length = page.tilelength if page.is_tiled else page.rowsperstrip
        down, across = -(-self.shape[0] // length), -(-self.shape[1] // (page.tilewidth or self.shape[1]))
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        values = np.zeros((planes, bottom - top, self.shape[1], page.samplesperpixel // planes), self.dtype)
        for plane in range(planes):
            first, last = (plane * down + row for row in (top // length, (bottom - 1) // length))
            for index in range(first * across, (last + 1) * across):
                part, sample, begin, left = _decode(file, page, index)
                if part is not None:
                    part = part[0, max(0, top - begin):bottom - begin, :self.shape[1] - left]
                    begin = max(0, begin - top)
                    values[sample, begin:begin + part.shape[0], left:left + part.shape[1]] = part
        return values.transpose(1, 2, 0, 3)


def pages_of(image_file):
    """Yield an ImageFile's pages, (H, W) or (H, W, 3) uint8 or uint16: arrays, or TiffRows of what is too large.

    Raises DataError for a page of other values than the first one's: their white is not the same.
    """
    dtype = None
    for number, page in zip(image_file.numbers, _pages(image_file)):
        dtype = page.dtype if dtype is None else dtype
        if page.dtype != dtype:
            raise DataError(f"{image_file.path}: page {number + 1} has {page.dtype} values, the first one {dtype}; "
                            "save them alike")
        yield page


def _pages(image_file):
    if not image_file.by_tifffile:
        yield from read_pages(image_file.path, image_file.numbers)
        return
    for number in image_file.numbers:
        rows = TiffRows(image_file.path, number)
        yield rows if image_file.is_large else rows[:]


def row_bands(pixels, rows=1024):
    """Yield a page's pixels in bands of `rows` px."""
    for top in range(0, pixels.shape[0], rows):
        yield pixels[top:top + rows]


# ------------------------------------------------------------------------------------------------------------- writing
class Bands(NamedTuple):
    """A large uint8 page as it comes: an iterator over its rows, (any number, width) at a time."""
    bands: Iterator
    height: int
    width: int

    def tiles(self):
        """Yield the page's tiles, (TILE, TILE), in reading order, with zeros beyond its edges."""
        kept = np.zeros((0, self.width), np.uint8)
        for band in self.bands:
            kept = np.concatenate([kept, band])
            ready = len(kept) // TILE * TILE
            yield from _cut(kept[:ready])
            kept = kept[ready:]
        yield from _cut(kept)


def _cut(rows):
    padded = np.pad(rows, [(0, -side % TILE) for side in rows.shape])
    for top in range(0, padded.shape[0], TILE):
        for left in range(0, padded.shape[1], TILE):
            yield padded[top:top + TILE, left:left + TILE]


@contextlib.contextmanager
def page_writer(path, count, height, width):
    """`with page_writer(...) as add: add(page)` for each of `count` pages; the file is there, whole, once all are.

    path: .png, for one page of uint8 values (H, W) or (H, W, 3); .tif, for pages of unsigned values, deflated, and for
    Bands, which it keeps in tiles; .npy, for one array of any kind or, with several pages, for an array of such.
    """
    if path.suffix == ".png":
        yield lambda page: write_png(path, page)
        return
    with atomic_write(path) as temporary:
        if path.suffix == ".npy":
            yield _npy_writer(temporary, count)
            return
        from tifffile import TiffWriter
        with TiffWriter(temporary, bigtiff=count * height * width > 2 ** 30) as file:  # of up to 4 bytes each
            yield lambda page: _add_tiff_page(file, page)


def _npy_writer(path, count):
    pages = None

    def add(page):
        nonlocal pages
        if pages is None:
            shape = page.shape if count == 1 else (count, *page.shape)
            pages = iter(np.lib.format.open_memmap(path, "w+", page.dtype, shape).reshape(count, *page.shape))
        next(pages)[...] = page
    return add


def _add_tiff_page(file, page):
    """metadata=None: no shape in a description of tifffile's own, so that the pages of several calls are one stack."""
    options = {"compression": "zlib", "metadata": None, "maxworkers": 1}  # which tifffile knows without imagecodecs
    if isinstance(page, Bands):
        file.write(page.tiles(), shape=(page.height, page.width), dtype=np.uint8, tile=(TILE, TILE),
                   photometric="minisblack", **options)
    else:
        file.write(page, photometric="rgb" if page.ndim == 3 else "minisblack", **options)
