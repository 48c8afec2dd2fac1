"""Image files made by hand, for what no library writes; and random pixels."""
import struct
import zlib

import numpy as np

TIFF_SIZES = {3: "H", 4: "I"}  # of the types of tags: SHORT and LONG


def random_pixels(shape, dtype=np.uint8, seed=0):
    """Values over the whole range of a dtype; floats of mean 0 and standard deviation 50."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(0, 50, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def pack_bits(values, bits):
    """(H, W) values of 1, 2 or 4 bits as bytes; each row begins with a new one."""
    planes = np.unpackbits(values.astype(np.uint8)[..., None], axis=2)[..., 8 - bits:]
    return np.packbits(planes.reshape(len(values), -1), axis=1).tobytes()


def tiff_bytes(height, width, data, tags=None, next_page=0):
    """A little-endian TIFF file of one strip, 8 bits grey where `tags` do not say otherwise.

    tags: {code: a number, a tuple of numbers, or bytes (text)}; next_page: offset of its directory.
    """
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: height,
            279: len(data), **(tags or {})}
    behind = 8 + 2 + 12 * len(tags) + 4  # where longer values and pixels lie
    more = b""
    entries = []
    for code, value in sorted(tags.items()):
        if isinstance(value, bytes):
            kind, count, content = 2, len(value), value
        else:
            numbers = value if isinstance(value, tuple) else (value,)
            kind = 3 if code in (258, 259, 262, 277, 320, 338) else 4
            count, content = len(numbers), struct.pack(f"<{len(numbers)}{TIFF_SIZES[kind]}",
                                                       *numbers)
        if len(content) > 4:
            place, more = behind + len(more), more + content + bytes(len(content) % 2)
            content = struct.pack("<I", place)
        entries.append([code, struct.pack("<HHI", code, kind, count) + content.ljust(4, b"\0")])
    for entry in entries:
        if entry[0] == 273 and tags[273] == 0:
            entry[1] = struct.pack("<HHII", 273, 4, 1, behind + len(more))
    body = b"".join(content for _, content in entries)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + struct.pack("<I", next_page)
            + more + data)


def png_bytes_of(height, width, bits, kind, rows, chunks=(), late=()):
    """A PNG file: kind is 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA; rows: the packed values' bytes.

    chunks, late: (name, data) of further chunks, before and after the pixels.
    """
    def chunk(name, data):
        check_sum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check_sum
    length = len(rows) // height
    lines = b"".join(b"\0" + rows[k:k + length] for k in range(0, len(rows), length))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(lines)), *late, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def shown_by_hand(pixels, orientation):
    """Stored pixels as the tag Orientation shows them, pixel by pixel.

    TIFF 6.0, p. 36: where the first row and the first column of the stored pixels are seen.
    """
    first_row, first_column = {1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"),
                               4: ("bottom", "left"), 5: ("left", "top"), 6: ("right", "top"),
                               7: ("right", "bottom"), 8: ("left", "bottom")}[orientation]
    height, width = pixels.shape[:2]
    swapped = first_row in ("left", "right")
    shown = np.zeros((width, height) if swapped else (height, width), pixels.dtype)
    if pixels.ndim == 3:
        shown = np.zeros((*shown.shape, pixels.shape[2]), pixels.dtype)
    for row in range(height):
        for column in range(width):
            place = {}
            for side, number, count in ((first_row, row, height), (first_column, column, width)):
                axis = 0 if side in ("top", "bottom") else 1
                place[axis] = number if side in ("top", "left") else count - 1 - number
            shown[place[0], place[1]] = pixels[row, column]
    return shown
