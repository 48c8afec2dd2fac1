"""The samples of a TIFF page, whole or by rows: strips and tiles, planes, compressions.

A page is a tifffile.TiffPage or TiffFrame, `page.keyframe` what describes it.
"""
import io
import struct
from typing import NamedTuple, Optional

import numpy as np

from images.lossy import JPEG, JPEG2000, WEBP, is_lossy_jpeg2000, is_lossy_webp
from images.lzw import check_lzw

LARGEST_SEGMENT = 2 ** 30  # bytes of a strip or a tile that is decoded for some of its rows
FAX = (2, 3, 4)            # compressions of one bit, which imagecodecs has not in every version
LZW = 5


# ------------------------------------------------------------------------------------- the segments
class Segment(NamedTuple):
    """A strip or a tile of a page."""
    values: Optional[np.ndarray]  # (depth, rows, columns, samples); None: never written, all 0
    plane: int                    # number of its plane, where each channel has one
    top: int                      # px: its first row in the page
    left: int                     # px: its first column in the page


class Grid(NamedTuple):
    """How a page is cut into segments."""
    planes: int  # one, or one for each sample
    down: int    # segments of a plane, one below the other
    across: int  # segments of a plane, side by side
    length: int  # px, rows of a segment
    width: int   # px, columns of a segment


def grid_of(page):
    """The Grid of a page."""
    frame = page.keyframe
    length = int(frame.tilelength if frame.is_tiled else frame.rowsperstrip)
    width = int(frame.tilewidth if frame.is_tiled else frame.imagewidth)
    planes = frame.samplesperpixel if frame.planarconfig == 2 else 1
    return Grid(planes, -(-frame.imagelength // length), -(-frame.imagewidth // width), length,
                width)


def check_segments(file, page):
    """Raise ValueError where a page's strips or tiles are not all in the file."""
    grid = grid_of(page)
    expected = grid.planes * grid.down * grid.across
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts)]
    if len(ends) < expected and not page.keyframe.is_contiguous:
        raise ValueError(f"{len(ends)} strips or tiles, but its size needs {expected}")
    if max(ends, default=0) > file.filehandle.size:
        raise ValueError("cut short: its last pixels are missing")


def decode_segment(file, page, index):
    """The Segment of this number of a page of an open tifffile.TiffFile."""
    frame = page.keyframe
    data = _read_segment(file, page, index)
    if int(frame.compression) in FAX:
        return _decode_fax(frame, data, index)
    _check_codes(frame, data)
    values, place, _ = frame.decode(data or None, index, jpegtables=page.jpegtables)
    plane, _, top, left, _ = place
    return Segment(values, plane, top, left)


def _read_segment(file, page, index):
    file.filehandle.seek(page.dataoffsets[index])
    return file.filehandle.read(page.databytecounts[index])


def _check_codes(frame, data):
    """Raise ValueError for a segment that must not be decoded."""
    if int(frame.compression) == LZW and data:
        if frame.fillorder == 2:
            from imagecodecs import bitorder_decode
            data = bitorder_decode(data)
        check_lzw(data)


def _decode_fax(frame, data, index):
    """The Segment of a fax-compressed page, which Pillow decodes: as a TIFF file of one strip."""
    from PIL import Image
    grid = grid_of(frame)
    top, left = (index // grid.across * grid.length, index % grid.across * grid.width)
    rows = grid.length if frame.is_tiled else min(grid.length, frame.imagelength - top)
    tags = {256: grid.width, 257: rows, 258: 1, 259: int(frame.compression), 262: 1, 273: 0,
            277: 1, 278: rows, 279: len(data)}
    for code in (266, 292, 293):  # order of the bits; options of groups 3 and 4
        if code in frame.tags:
            tags[code] = int(frame.tags[code].value)
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", code, 4, 1, value) for code, value in sorted(tags.items())]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    with Image.open(io.BytesIO(head + b"".join(entries) + bytes(4) + data)) as image:
        return Segment(np.array(image)[None, ..., None], 0, top, left)


# -------------------------------------------------------------------------------------- the samples
def read_samples(file, page, rows=None):
    """A page's samples (H, W, S), all or those of the slice `rows`."""
    frame = page.keyframe
    if rows is None and int(frame.compression) not in FAX:
        values = decode_page(file, page)
        if frame.planarconfig == 2 and values.ndim == 3:
            values = values.transpose(1, 2, 0)
        return values.reshape(frame.imagelength, frame.imagewidth, -1)
    check_segments(file, page)
    rows = rows or slice(0, frame.imagelength)
    if frame.is_memmappable and frame.planarconfig == 1:  # perhaps as a single large strip
        dtype = frame.parent.byteorder + frame.dtype.char
        values = np.memmap(file.filehandle.path, dtype, "r", page.dataoffsets[0], frame.shape)
        values = values[rows].astype(frame.dtype)
    else:
        values = _decode_rows(file, page, rows.start, rows.stop)
    return values.reshape(rows.stop - rows.start, frame.imagewidth, -1)


def decode_page(file, page):
    """A page's values as tifffile shapes them: (H, W), (H, W, S), (S, H, W) or (D, H, W)."""
    check_segments(file, page)
    if int(page.keyframe.compression) == LZW:
        for index in range(len(page.dataoffsets)):
            _check_codes(page.keyframe, _read_segment(file, page, index))
    return page.asarray(maxworkers=1)


def _decode_rows(file, page, top, bottom):
    """Rows `top` to `bottom` of a page in strips or tiles: (rows, W, planes, samples)."""
    frame, grid = page.keyframe, grid_of(page)
    width = frame.imagewidth
    shape = (grid.planes, bottom - top, width, frame.samplesperpixel // grid.planes)
    values = np.zeros(shape, frame.dtype)
    for plane in range(grid.planes):
        first, last = (plane * grid.down + row // grid.length for row in (top, bottom - 1))
        for index in range(first * grid.across, (last + 1) * grid.across):
            segment = decode_segment(file, page, index)
            if segment.values is None:
                continue
            above = max(0, top - segment.top)  # rows of the segment that nobody asked for
            part = segment.values[0, above:bottom - segment.top, :width - segment.left]
            begin = segment.top + above - top
            columns = slice(segment.left, segment.left + part.shape[1])
            values[segment.plane, begin:begin + part.shape[0], columns] = part
    return values.transpose(1, 2, 0, 3)


def why_not_by_rows(file, page):
    """Why rows of a page cannot be read alone; None where they can."""
    frame, grid = page.keyframe, grid_of(page)
    samples = frame.samplesperpixel // grid.planes
    rows = min(grid.length, frame.imagelength)
    size = rows * grid.width * samples * frame.dtype.itemsize
    if size > LARGEST_SEGMENT and not frame.is_memmappable:
        return f"its strips or tiles have {size:,} bytes"
    check_segments(file, page)
    try:
        decode_segment(file, page, 0)
    except Exception as error:  # noqa: BLE001 - whatever keeps tifffile from decoding
        return f"{error}"
    return None


def is_lossy_page(file, page):
    """Whether a page's compression changes values."""
    compression = int(page.compression)
    if compression in JPEG2000 or compression in WEBP:
        start = _read_segment(file, page, 0)[:4096]
        return is_lossy_webp(start) if compression in WEBP else is_lossy_jpeg2000(start)
    return compression in JPEG
