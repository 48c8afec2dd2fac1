"""What Pillow does not tell of a PNG file: its bits, a late EXIF chunk, check sums, deep values."""
import contextlib
import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # the number of EXIF's tag
DEEP = {2: 3, 4: 1, 6: 3}  # kinds of which Pillow cuts 16 bits to 8: their channels without alpha


def find_orientation(exif):
    """The tag Orientation, 1 ... 8, of EXIF data, a PIL.Image.Exif; 1 where there is none."""
    value = exif.get(ORIENTATION, 1)
    return value if value in range(1, 9) else 1


class PngHeader(NamedTuple):
    """What a PNG file says of its pixels."""
    bits: int         # of a stored value: 1, 2, 4, 8, 16
    kind: int         # 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha
    orientation: int  # of its EXIF data; 1: as stored

    @property
    def is_deep(self):
        return self.bits == 16 and self.kind in DEEP


class PngChunk(NamedTuple):
    """A part of a PNG file."""
    name: bytes
    place: int   # offset of its data in the file
    length: int  # of its data, in bytes


def png_chunks(file):
    """Yield the PngChunks of an open file.  Raises ValueError where its end is missing."""
    place = len(PNG_START)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("cut short")
        length, name = struct.unpack(">I4s", head)
        yield PngChunk(name, place + 8, length)
        if name == b"IEND":
            return
        place += 12 + length


def read_png_header(file):
    """The PngHeader of an open file."""
    bits, kind, orientation = 8, 0, 1
    with contextlib.suppress(ValueError):  # cut short: whoever decodes it says so
        for chunk in png_chunks(file):
            file.seek(chunk.place)
            if chunk.name == b"IHDR":
                bits, kind = file.read(10)[8:10]
            elif chunk.name == b"eXIf":
                exif = Image.Exif()
                with contextlib.suppress(Exception):  # viewers pass over what is damaged
                    exif.load(file.read(chunk.length))
                orientation = find_orientation(exif)
    return PngHeader(bits, kind, orientation)


def check_png(content):
    """Raise ValueError where a check sum of a PNG file's bytes is wrong, or its end is missing."""
    for chunk in png_chunks(io.BytesIO(content)):
        end = chunk.place + chunk.length
        check_sum = zlib.crc32(content[chunk.place - 4:end])
        if check_sum != int.from_bytes(content[end:end + 4], "big"):
            raise ValueError(f"a wrong check sum in {chunk.name.decode('latin-1')}")


def decode_deep_png(content, header):
    """(values, alpha) of a PNG file with colours, or alpha, of 16 bits; alpha may be None."""
    import imagecodecs  # late: it takes a while
    values, channels = imagecodecs.png_decode(content), DEEP[header.kind]
    values = values if values.ndim == 3 else values[..., np.newaxis]
    return values[..., :channels], values[..., channels] if values.shape[2] > channels else None
