"""Picture files by Pillow: PNG, JPEG, BMP, GIF and others.  TIFF has a reader of its own."""
import contextlib
import re
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL import ImageFile as PillowFile

from command.errors import DataError
from images.lossy import is_lossy_jpeg2000, is_lossy_webp
from images.pages import (ALPHA, MAX_PIXELS, ImageFile, Stored, check_fits, orient, palette_values,
                          say_change, squeeze_channel, swaps_sides)
from images.png import DEEP, check_png, decode_deep_png, find_orientation, read_png_header

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "PPM", "WEBP", "JPEG2000", "AVIF")
LOSSY_FORMATS = ("JPEG", "MPO", "AVIF")  # MPO: JPEG with a second picture behind
ANIMATED = ("GIF", "PNG", "WEBP")
PLAIN = {"1": "L", "L": "L", "LA": "L", "La": "L", "I": "I", "F": "F", "RGB": "RGB", "RGBA": "RGB"}
# Pillow warns of large files and of damage in what nobody reads, such as the rest of EXIF.
warnings.filterwarnings("ignore", module=r"PIL\.")
PillowFile.LOAD_TRUNCATED_IMAGES = False
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as many


@contextlib.contextmanager
def open_picture(path):
    """`with open_picture(path) as picture:` a PictureFile; a damaged file raises anything."""
    with open(path, "rb") as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError from None  # its own words name the file again
        except Image.DecompressionBombError:
            raise DataError(f"larger than {MAX_PIXELS:,} pixels; cut it into smaller images")
        with image:
            yield PictureFile(path, file, image)


def _orientation_of(image):
    """The orientation of a PIL.Image by its EXIF data.  Viewers pass over what is damaged there."""
    with contextlib.suppress(Exception):
        return find_orientation(image.getexif())
    return 1


class PictureFile:
    """An opened picture file: `header`, an ImageFile, and `read`."""

    def __init__(self, path, file, image):
        """file: open; image: the PIL.Image of it."""
        self.path, self.file, self.image = path, file, image
        self.png = read_png_header(file) if image.format == "PNG" else None
        self.orientation = self.png.orientation if self.png else _orientation_of(image)
        height, width = image.height, image.width
        if swaps_sides(self.orientation):
            height, width = width, height
        channels, dtype = self._describe_values()
        self.header = ImageFile(path, height, width, channels, np.dtype(dtype),
                                is_lossy=self._is_lossy())

    def _describe_values(self):
        """(channels, dtype) of the image as shown."""
        mode = self.image.mode
        if self.png and self.png.is_deep:
            return DEEP[self.png.kind], "uint16"
        if mode.startswith("I;16") or (mode == "I" and self.image.format == "PPM"):
            return 1, "uint16"
        plain = PLAIN.get(mode, "RGB")
        return 3 if plain == "RGB" else 1, {"I": "int32", "F": "float32"}.get(plain, "uint8")

    def _is_lossy(self):
        kind = self.image.format
        if kind not in ("WEBP", "JPEG2000"):
            return kind in LOSSY_FORMATS
        self.file.seek(0)
        start = self.file.read(4096)
        return is_lossy_webp(start) if kind == "WEBP" else is_lossy_jpeg2000(start)

    def read(self, entry, as_label=False, rows=None):
        """The pixels as shown; for a label, the Stored values.  It has one image, read whole."""
        check_fits(self.header)
        self.file.seek(0)
        content = self.file.read()
        if self.png:
            check_png(content)
        if self.image.format in ANIMATED and getattr(self.image, "is_animated", False):
            say_change(self.path, "of animations the first picture is read")
        if self.png and self.png.is_deep:
            values, alpha = decode_deep_png(content, self.png)
        else:
            values, alpha = self._decode(content, as_label)
        values = orient(squeeze_channel(values), self.orientation)
        if as_label:
            return Stored(values, None if alpha is None else orient(alpha, self.orientation))
        if alpha is not None:
            say_change(self.path, ALPHA)
        return values

    def _decode(self, content, as_label):
        """(values, alpha) as Pillow decodes them; for a label as they are stored."""
        image = self.image
        image.load()
        if image.info.pop("transparency", None) is not None and not as_label:
            say_change(self.path, ALPHA)  # of single colours
        if as_label and image.mode == "P":
            palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
            return palette_values(np.asarray(image), palette), None
        if self.header.dtype == np.uint16:
            values, alpha = np.asarray(image).astype(np.uint16), None
        else:
            plain = PLAIN.get(image.mode, "RGB")
            if image.mode not in PLAIN and not as_label:
                name = "palette" if image.mode in ("P", "PA") else image.mode
                say_change(self.path, f"{name} colours are read as {plain}")
            has_alpha = image.mode in ("LA", "RGBA", "PA")
            alpha = np.asarray(image.getchannel("A")) if has_alpha else None
            values = np.asarray(image if image.mode == plain else image.convert(plain))
        return (self._undo_scaling(values, content) if as_label else values), alpha

    def _undo_scaling(self, values, content):
        """The values as stored of grey ones that Pillow has scaled to 8 or 16 bits."""
        full = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 0
        if self.png and self.png.kind == 0 and self.png.bits in (2, 4):
            return values // np.uint8(full // (2 ** self.png.bits - 1))
        if self.image.format == "PPM" and content[:2] in (b"P2", b"P5"):
            words = re.sub(rb"#[^\n]*", b"", content[:4096]).split(maxsplit=4)
            return np.rint(values * (int(words[3]) / full)).astype(values.dtype)
        return values
