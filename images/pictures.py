"""Pictures by Pillow: PNG, JPEG, BMP, GIF ...; PNG with colours of 16 bits by imagecodecs."""
import contextlib
import io
import struct
import warnings
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL import ImageFile as PillowFile

from command.errors import DataError
from images import pages
from images.pages import (ALPHA, ImageFile, Stored, orient, palette_values, say_change,
                          squeeze_channel)

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "PPM", "WEBP", "JPEG2000", "AVIF")
LOSSY_FORMATS = ("JPEG", "MPO", "AVIF")
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
PillowFile.LOAD_TRUNCATED_IMAGES = False
Image.MAX_IMAGE_PIXELS = pages.MAX_PIXELS // 2  # Pillow refuses twice as many
ORIENTATION = 0x0112  # the tag's number
DEEP = {2: 3, 4: 1, 6: 3}  # PNG's kinds of colour that Pillow cuts to 8 bits: their channels
PNG_START = b"\x89PNG\r\n\x1a\n"


# --------------------------------------------------------------------------------------------- PNG
class PngHeader(NamedTuple):
    """What Pillow does not say of a PNG file."""
    bits: int         # of a stored value: 1, 2, 4, 8, 16
    kind: int         # 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha
    orientation: int  # of its EXIF data


class PngChunk(NamedTuple):
    """A part of a PNG file."""
    name: bytes
    place: int   # offset of its data in the file
    length: int  # of its data, in bytes


def png_chunks(file):
    """Yield the PngChunks of an open PNG file."""
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
        for name, place, length in png_chunks(file):
            file.seek(place)
            if name == b"IHDR":
                bits, kind = file.read(10)[8:10]
            elif name == b"eXIf":
                exif = Image.Exif()
                exif.load(file.read(length))
                orientation = exif.get(ORIENTATION, 1)
    return PngHeader(bits, kind, orientation)


def check_png(content):
    """Raise ValueError where a check sum of a PNG file's bytes is wrong, or its end is missing."""
    for name, place, length in png_chunks(io.BytesIO(content)):
        stored = content[place + length:place + length + 4]
        if zlib.crc32(content[place - 4:place + length]) != int.from_bytes(stored, "big"):
            raise ValueError(f"a wrong check sum in {name.decode('latin-1')}")


# ------------------------------------------------------------------------------------- the pictures
@contextlib.contextmanager
def open_picture(path):
    """`with open_picture(path) as picture:` a PictureFile; a damaged file raises anything."""
    with open(path, "rb") as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("") from None  # its own message names the file again
        except Image.DecompressionBombError:
            raise DataError(f"{path}: larger than {pages.MAX_PIXELS:,} pixels; "
                            "cut it into smaller images") from None
        with image:
            yield PictureFile(path, file, image)


class PictureFile:
    """An opened picture file: `header`, an ImageFile, and `read`."""

    def __init__(self, path, file, image):
        self.path, self.file, self.image = path, file, image
        self.png = read_png_header(file) if image.format == "PNG" else None
        self.orientation = self.png.orientation if self.png else image.getexif().get(ORIENTATION, 1)
        height, width = image.height, image.width
        if self.orientation in (5, 6, 7, 8):
            height, width = width, height
        channels, dtype = self._kind()
        self.header = ImageFile(path, height, width, channels, np.dtype(dtype),
                                is_lossy=_is_lossy(image, file))

    @property
    def is_deep(self):
        """Whether it has colours, or alpha, of 16 bits, which Pillow would cut to 8."""
        return self.png is not None and self.png.bits == 16 and self.png.kind in DEEP

    def _kind(self):
        """(channels, dtype) of the image as shown, without alpha."""
        mode = self.image.mode
        if self.is_deep:
            return DEEP[self.png.kind], "uint16"
        if mode in ("1", "L", "LA", "La"):
            return 1, "uint8"
        if mode.startswith("I"):
            return 1, "uint16" if mode != "I" or self.image.format == "PPM" else "int32"
        return (1, "float32") if mode == "F" else (3, "uint8")

    def read(self, entry, as_label=False, rows=None):
        """The pixels as shown; for a label, the Stored values.  entry, rows: of other formats."""
        pages.check_fits(self.path, self.header.height, self.header.width, self.header.bytes)
        self.file.seek(0)
        content = self.file.read()
        if self.png:
            check_png(content)
        values, alpha = self._decode_deep(content) if self.is_deep else self._decode(as_label)
        values = orient(squeeze_channel(values), self.orientation)
        if as_label:
            return Stored(values, None if alpha is None else orient(alpha, self.orientation))
        if alpha is not None:
            say_change(self.path, ALPHA)
        return values

    def _decode_deep(self, content):
        """(values, alpha) of a PNG file with colours of 16 bits."""
        import imagecodecs
        values, channels = imagecodecs.png_decode(content), DEEP[self.png.kind]
        alpha = values[..., channels] if values.shape[2] > channels else None
        return values[..., :channels], alpha

    def _decode(self, as_label):
        """(values, alpha) as Pillow decodes them; for a label the stored ones."""
        image = self.image
        image.load()
        mode = image.mode
        if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
            return np.asarray(image).astype(np.uint16), None
        if as_label and mode == "P":
            palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
            return palette_values(np.array(image), palette), None
        if as_label and mode == "L" and self.png and self.png.bits in (2, 4):
            return np.asarray(image) // np.uint8(255 // (2 ** self.png.bits - 1)), None
        alpha = np.array(image.getchannel("A")) if mode in ("LA", "RGBA", "PA") else None
        wanted = {"1": "L", "LA": "L", "La": "L", "L": "L", "I": "I", "F": "F"}.get(mode, "RGB")
        if mode not in ("1", "L", "RGB", "LA", "RGBA", "I", "F") and not as_label:
            name = "palette" if mode in ("P", "PA") else mode
            say_change(self.path, f"{name} colours are read as {wanted}")
        return np.array(image.convert(wanted)), alpha


def _is_lossy(image, file):
    if image.format == "WEBP":
        file.seek(0)
        return b"VP8L" not in file.read(1 << 16)
    if image.format == "JPEG2000":
        return is_lossy_jpeg2000(file)
    return image.format in LOSSY_FORMATS


def is_lossy_jpeg2000(file):
    """Whether an open JPEG 2000 stream has the irreversible wavelet, which loses values."""
    file.seek(0)
    content = file.read(1 << 16)
    place = content.find(b"\xff\x52")  # COD: its length (2 bytes), style, 4 bytes, then ...
    return place < 0 or content[place + 13:place + 14] != b"\1"
