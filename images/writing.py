"""Outputs of any size, page by page: a picture has one page, a TIFF stack has many.

A page that is too large for memory is written as it comes, one row of tiles after the other.
NumPy, Pillow and tifffile.
"""
import contextlib
from typing import Iterator, NamedTuple

import numpy as np

from command.files import atomic_write
from images.formats import TIFF_OPTIONS, write_png

MASK_TILE = 512      # px: the side of the tiles of a large mask
BIG_TIFF = 2 ** 30   # values: more of them, of up to 4 bytes each, make a BigTIFF


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
    if isinstance(page, Bands):
        file.write(page.tiles(), shape=(page.height, page.width), dtype=np.uint8,
                   tile=(MASK_TILE, MASK_TILE), photometric="minisblack", **TIFF_OPTIONS)
    else:
        file.write(page, photometric="rgb" if page.ndim == 3 else "minisblack", **TIFF_OPTIONS)
