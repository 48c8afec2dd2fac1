"""Image files of any size, page by page: a picture has one page, a TIFF stack has many.

A page of more than LARGE pixels need not fit into memory.  Of a TIFF only the strips or tiles
with the wanted rows are read.  A mask is written as it comes, one row of tiles after the other.
All other files are read as by images.formats.read_image.  NumPy, Pillow and tifffile.
"""
import contextlib
import logging
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

import numpy as np

from command.errors import DataError, say_once
from command.files import atomic_write
from images.formats import MAX_PIXELS, image_size, read_pages, write_png

LARGE = 2 ** 26      # pixels, 8,192 x 8,192
MASK_TILE = 512      # px: the side of the tiles of a large mask
BIG_TIFF = 2 ** 30   # values: more of them, of up to 4 bytes each, make a BigTIFF
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # first bytes of TIFF and BigTIFF files


class ImageFile(NamedTuple):
    """An image file, as its header describes it."""
    path: Path
    numbers: tuple     # of its pages, from 0
    height: int        # px
    width: int         # px
    by_tifffile: bool  # whether TiffRows reads it; otherwise Pillow does

    @property
    def is_large(self):
        return self.height * self.width > LARGE


# ---------------------------------------------------------------------------------------- reading
@contextlib.contextmanager
def _tiff(path):
    """`with _tiff(path) as file:` a tifffile.TiffFile; a file that is damaged is a DataError."""
    import tifffile
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs every oddity of a header
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except PermissionError:
        raise DataError(f"{path}: may not be read; check its permissions") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - tifffile raises almost any for a damaged file
        raise DataError(f"{path}: not a readable TIFF ({error}); export it again") from None


class TiffSegment(NamedTuple):
    """A strip or a tile of a TIFF page."""
    values: Optional[np.ndarray]  # (depth, rows, columns, samples); None: never written, all 0
    plane: int                    # number of its plane, where each channel has one
    top: int                      # px: its first row in the page
    left: int                     # px: its first column in the page


def _decode_segment(file, page, index):
    """The TiffSegment of this number of a page of an open tifffile.TiffFile."""
    file.filehandle.seek(page.dataoffsets[index])
    data = file.filehandle.read(page.databytecounts[index])
    values, place, _ = page.decode(data or None, index, jpegtables=page.jpegtables)
    plane, _, top, left, _ = place
    return TiffSegment(values, plane, top, left)


def _why_not_by_rows(file, page):
    """Why TiffRows cannot read a TIFF page, with the remedy; None where it can."""
    from tifffile import COMPRESSION, PHOTOMETRIC
    is_readable = {
        PHOTOMETRIC.MINISBLACK: page.samplesperpixel == 1,
        PHOTOMETRIC.MINISWHITE: page.samplesperpixel == 1,
        PHOTOMETRIC.RGB: page.samplesperpixel >= 3,
        PHOTOMETRIC.YCBCR: page.compression == COMPRESSION.JPEG,
    }
    if not is_readable.get(page.photometric):
        kind = getattr(page.photometric, "name", page.photometric)
        return f"it has {page.samplesperpixel} channels of kind {kind}; save it as grey or RGB"
    if page.dtype not in (np.uint8, np.uint16):
        return f"its values are {page.dtype or 'of an odd size'}; save it with 8 or 16 bits"
    try:
        _decode_segment(file, page, 0)
    except Exception as error:  # noqa: BLE001 - whatever keeps tifffile from decoding
        return f"{error}; `pip install imagecodecs`, or save it uncompressed or with deflate"
    return None


def _describe_tiff(path, file):
    """The ImageFile of an open tifffile.TiffFile; errors as `examine_file`."""
    first = file.pages[0]
    height, width = first.imagelength, first.imagewidth

    def is_like_the_first(page):
        return (page.imagelength, page.imagewidth) == (height, width) and not page.is_reduced

    numbers = tuple(k for k, page in enumerate(file.pages) if k == 0 or is_like_the_first(page))
    if len(numbers) < len(file.pages):
        say_once(f"{path}: {len(file.pages) - len(numbers)} of its pages are left out: not of the "
                 "first one's size, as thumbnails and the levels of a pyramid are")
    if file.is_imagej and (file.imagej_metadata or {}).get("images", 1) > len(file.pages):
        raise DataError(f"{path}: an ImageJ stack of over 4 GB, in a form of its own; "
                        "save its pages as single images")
    is_deep_colour = first.dtype == np.uint16 and first.samplesperpixel > 1  # Pillow has none
    if height * width <= LARGE and not is_deep_colour:
        return ImageFile(path, numbers, height, width, by_tifffile=False)
    why_not = _why_not_by_rows(file, first)
    if why_not and height * width > MAX_PIXELS:
        raise DataError(f"{path}: {width:,} x {height:,} px is too large to be read whole, "
                        f"and by rows it cannot be: {why_not}")
    return ImageFile(path, numbers, height, width, by_tifffile=not why_not)


def _is_tiff(path):
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(4) in TIFF_STARTS
    return False  # it cannot be opened, which `image_size` says


def examine_file(path):
    """The ImageFile of a path, from its header alone.  Raises DataError for an unreadable file."""
    if not _is_tiff(path):
        return ImageFile(path, (0,), *image_size(path), by_tifffile=False)
    with _tiff(path) as file:
        return _describe_tiff(path, file)


class TiffRows:
    """A page of a TIFF file, left on disk: [top:bottom] reads these rows as an array.

    shape: (H, W) or (H, W, 3); dtype: uint8 or uint16.  Raises DataError for a damaged file.
    """

    def __init__(self, path, number):
        """number: of the page, from 0."""
        self.path, self.number = path, number
        with _tiff(path) as file:
            page = file.pages[number]
            self.dtype = np.dtype(page.dtype)
            self.shape = (page.imagelength, page.imagewidth)
            if page.samplesperpixel > 1:
                self.shape += (3,)

    def __getitem__(self, rows):
        top, bottom, _ = rows.indices(self.shape[0])
        with _tiff(self.path) as file:
            page = file.pages[self.number]
            if page.is_memmappable and page.planarconfig == 1:  # perhaps as a single large strip
                dtype = page.parent.byteorder + page.dtype.char
                stored = np.memmap(self.path, dtype, "r", page.dataoffsets[0], page.shape)
                values = stored[top:bottom].astype(self.dtype)
            else:
                values = self._decode_rows(file, page, top, bottom)
            is_inverted = page.photometric == 0  # MINISWHITE
        values = values.reshape(bottom - top, self.shape[1], -1)
        values = values[..., :3] if len(self.shape) == 3 else values[..., 0]
        return np.iinfo(self.dtype).max - values if is_inverted else values

    def _decode_rows(self, file, page, top, bottom):
        """Rows `top` to `bottom` of a page in strips or tiles: (rows, W, planes, samples)."""
        height, width = self.shape[:2]
        length = page.tilelength if page.is_tiled else page.rowsperstrip
        down, across = -(-height // length), -(-width // (page.tilewidth or width))
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        samples = page.samplesperpixel // planes
        values = np.zeros((planes, bottom - top, width, samples), self.dtype)
        for plane in range(planes):
            first, last = (plane * down + row for row in (top // length, (bottom - 1) // length))
            for index in range(first * across, (last + 1) * across):
                segment = _decode_segment(file, page, index)
                if segment.values is None:
                    continue
                above = max(0, top - segment.top)  # rows of the segment that nobody asked for
                part = segment.values[0, above:bottom - segment.top, :width - segment.left]
                begin = segment.top + above - top
                columns = slice(segment.left, segment.left + part.shape[1])
                values[segment.plane, begin:begin + part.shape[0], columns] = part
        return values.transpose(1, 2, 0, 3)


def pages_of(image_file):
    """Yield the pages of an ImageFile: (H, W) or (H, W, 3), uint8 or uint16.

    A page is an array, or TiffRows where it is large.  Raises DataError for a page of another
    dtype than the first one's, because white is another value there.
    """
    dtype = None
    for number, page in zip(image_file.numbers, _read_pages_of(image_file)):
        dtype = page.dtype if dtype is None else dtype
        if page.dtype != dtype:
            raise DataError(f"{image_file.path}: page {number + 1} has {page.dtype} values, "
                            f"the first one {dtype}; save them alike")
        yield page


def _read_pages_of(image_file):
    if not image_file.by_tifffile:
        yield from read_pages(image_file.path, image_file.numbers)
        return
    for number in image_file.numbers:
        rows = TiffRows(image_file.path, number)
        yield rows if image_file.is_large else rows[:]


def row_bands(pixels, rows=1024):
    """Yield a page's pixels in bands of `rows` px; the last band may have fewer."""
    for top in range(0, pixels.shape[0], rows):
        yield pixels[top:top + rows]


# ---------------------------------------------------------------------------------------- writing
class Bands(NamedTuple):
    """A large uint8 page that comes band by band."""
    bands: Iterator  # of arrays (any number of rows, width)
    height: int      # px
    width: int       # px

    def tiles(self):
        """Yield the page's tiles (MASK_TILE, MASK_TILE) in reading order, 0 beyond its edges."""
        waiting = np.zeros((0, self.width), np.uint8)
        for band in self.bands:
            waiting = np.concatenate([waiting, band])
            ready = len(waiting) // MASK_TILE * MASK_TILE
            yield from _cut_tiles(waiting[:ready])
            waiting = waiting[ready:]
        yield from _cut_tiles(waiting)


def _cut_tiles(rows):
    padded = np.pad(rows, [(0, -side % MASK_TILE) for side in rows.shape])
    for top in range(0, padded.shape[0], MASK_TILE):
        for left in range(0, padded.shape[1], MASK_TILE):
            yield padded[top:top + MASK_TILE, left:left + MASK_TILE]


@contextlib.contextmanager
def page_writer(path, count, height, width):
    """`with page_writer(...) as add:` call `add(page)` for each of `count` pages.

    The file appears, whole, once all are there.  Its suffix decides what a page may be.
    .png: one page of uint8 values, (H, W) or (H, W, 3).  .tif: unsigned values, written with
    deflate, and Bands, written in tiles.  .npy: an array of any kind; several pages become one
    array with an axis more.
    """
    if path.suffix == ".png":
        yield lambda page: write_png(path, page)
        return
    with atomic_write(path) as temporary:
        if path.suffix == ".npy":
            yield _npy_writer(temporary, count)
            return
        from tifffile import TiffWriter
        with TiffWriter(temporary, bigtiff=count * height * width > BIG_TIFF) as file:
            yield lambda page: _add_tiff_page(file, page)


def _npy_writer(path, count):
    """A function that writes one page after the other into an .npy file of `count` pages."""
    pages = None

    def add(page):
        nonlocal pages
        if pages is None:  # the first page tells dtype and shape
            shape = page.shape if count == 1 else (count, *page.shape)
            array = np.lib.format.open_memmap(path, "w+", page.dtype, shape)
            pages = iter(array.reshape(count, *page.shape))
        next(pages)[...] = page
    return add


def _add_tiff_page(file, page):
    """Write a page, an array or Bands, with a tifffile.TiffWriter."""
    # Deflate is what tifffile knows without imagecodecs.  Without metadata it writes no shape
    # of its own into the description, and the pages of several calls are one stack.
    options = {"compression": "zlib", "metadata": None, "maxworkers": 1}
    if isinstance(page, Bands):
        file.write(page.tiles(), shape=(page.height, page.width), dtype=np.uint8,
                   tile=(MASK_TILE, MASK_TILE), photometric="minisblack", **options)
    else:
        file.write(page, photometric="rgb" if page.ndim == 3 else "minisblack", **options)
