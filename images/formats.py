"""Image files in and out: PNG, TIFF, JPEG and BMP; grey or RGB; 8 or 16 bits.

A format is a row of READERS.  To add one, write a function that opens its files and add a row.
"""
import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from command.errors import DataError, say_once
from command.files import atomic_write
from command.names import canonical
from images.channels import has_colours

MAX_PIXELS = 2 ** 28  # 16,384 x 16,384: a larger file is taken for a decompression bomb
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns at this number and refuses at twice it
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
ImageFile.LOAD_TRUNCATED_IMAGES = False


# ------------------------------------------------------------------------------------ the formats
class Reader(NamedTuple):
    """How the files of an image format are read."""
    suffixes: tuple  # of its files, in lower case, with the dot
    is_lossy: bool   # whether it changes values, which a label cannot bear
    open: Callable   # from a path to a PIL.Image; a file that is damaged may raise any exception


READERS = (
    Reader((".png",), is_lossy=False, open=Image.open),
    Reader((".tif", ".tiff"), is_lossy=False, open=Image.open),
    Reader((".jpg", ".jpeg"), is_lossy=True, open=Image.open),
    Reader((".bmp",), is_lossy=False, open=Image.open),
)
BY_CONTENT = Reader((), is_lossy=False, open=Image.open)  # of files with other suffixes
IMAGE_SUFFIXES = tuple(suffix for reader in READERS for suffix in reader.suffixes)
LOSSY_SUFFIXES = tuple(suffix for reader in READERS if reader.is_lossy
                       for suffix in reader.suffixes)


def find_reader(path):
    """The Reader of a file, by its suffix."""
    suffix = Path(path).suffix.lower()
    return next((reader for reader in READERS if suffix in reader.suffixes), BY_CONTENT)


# ---------------------------------------------------------------------------- folders and sizes
def list_images(folder, ignore=frozenset(), suffixes=IMAGE_SUFFIXES):
    """The image files of a folder, sorted by name: {stem, in the spelling of `canonical`: Path}.

    Hidden files, files with other suffixes and the paths in `ignore` are left out.
    Raises DataError where the folder is missing or has two images of one stem, as a.png and a.tif.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = {}
    for path in sorted(folder.iterdir(), key=lambda each: (canonical(each.name), each)):
        is_hidden = path.name.startswith(".")
        if is_hidden or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        if path in ignore:
            continue
        stem = canonical(path.stem)
        if stem in found:
            raise DataError(f"{path}: {found[stem].name} has the same name; "
                            "keep one of the two")
        found[stem] = path
    return found


def check_same_size(image, size, label, label_size):
    """Raise DataError where the sizes of an image and its label differ.

    image, label: their paths, for the message; size, label_size: (height, width) in pixels.
    """
    if size != label_size:
        raise DataError(f"{label}: {label_size[0]} x {label_size[1]} px (height x width), but its "
                        f"image {image} has {size[0]} x {size[1]} px; export one of them again")


def image_size(path):
    """(height, width) in pixels of an image file, from its header; errors as `read_image`."""
    try:
        with find_reader(path).open(path) as image:
            return image.height, image.width
    except Exception:  # noqa: BLE001 - whatever is wrong with it, decoding says it better
        image = _decode(path)
        return image.height, image.width


# --------------------------------------------------------------------------------------- decoding
@contextlib.contextmanager
def _opened(path):
    """`with _opened(path) as image:` gives a PIL.Image; a file that is damaged is a DataError."""
    try:
        with find_reader(path).open(path) as image:
            yield image
    except Image.DecompressionBombError:
        raise DataError(f"{path}: larger than {MAX_PIXELS:,} pixels; "
                        "cut it into smaller images") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except PermissionError:
        raise DataError(f"{path}: may not be read; check its permissions") from None
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow raises almost any for a damaged file
        detail = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise DataError(f"{path}: not a readable image{detail}; "
                        "export it again as PNG or TIFF, grey or RGB") from None


def _say_depth(path, image):
    """Say that Pillow cuts colours of 16 bits to 8.  `image` is opened, but not yet loaded."""
    if re.search("RGB[AX]?;16", str(getattr(image, "tile", ""))):
        say_once(f"{Path(path).parent}: colours of 16 bits are read as 8 bits, the upper ones "
                 "(said once per folder); where a camera fills but 12 of them, "
                 "scale the images to 8 bits first")


def _decode(path):
    """The PIL.Image of a file with one page, decoded."""
    with _opened(path) as image:
        image.verify()  # the check sums of a PNG, which `load` does not look at
    with _opened(path) as image:
        if image.format == "TIFF" and image.n_frames > 1:
            raise DataError(f"{path}: has {image.n_frames} pages; save each page as a file of its "
                            "own (if they are channels: join them to a grey or an RGB image)")
        _say_depth(path, image)
        image.load()
        return image.copy()


def _pixels(path, image, grayscale):
    """The values of a decoded PIL.Image; `grayscale` and the result as for `read_image`."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        pixels = np.asarray(image).astype(np.uint16)
        return np.repeat(pixels[..., None], 3, axis=2) if grayscale is False else pixels
    if image.mode in ("I", "F"):
        raise DataError(f"{path}: values of 32 bits, or with a sign; "
                        "convert it to 8 or 16 bits without one")
    if image.mode not in ("1", "L", "RGB"):
        wanted = "L" if image.mode == "LA" else "RGB"
        say_once(f"{path}: mode {image.mode} read as {wanted} (said once per file)")
        image = image.convert(wanted)
    if grayscale is None:
        grayscale = image.mode != "RGB"
    return np.asarray(image.convert("L" if grayscale else "RGB"))


# ---------------------------------------------------------------------------------------- reading
def read_image(path, grayscale=None):
    """The pixels of an image file, uint8, or uint16 for grey values of 16 bits.

    grayscale: True gives (H, W), False gives (H, W, 3), None gives what the file is.
    A palette, an alpha channel or CMYK is converted, with a line on stderr.
    Raises DataError for a file that is missing, no image or damaged, that has several pages, or
    that holds values of 32 bits or with a sign.
    """
    return _pixels(path, _decode(path), grayscale)


def read_pages(path, numbers):
    """Yield the pages of an image file that have these numbers, from 0.

    Each is what `read_image(path)` gives of a file with one page, and raises the same errors.
    """
    with _opened(path) as image:
        for number in numbers:
            image.seek(number)
            _say_depth(path, image)
            image.load()
            yield _pixels(path, image.copy(), None)


def read_label(path):
    """The values of a label file as they are stored: (H, W) uint8 or uint16.

    A palette file gives the palette's indices.  A palette of black and white alone gives 0 and 255.
    A lossy file, whose edges are blurred, is cut at half its largest value into 0 and 255, with a
    line on stderr.  Raises DataError as `read_image`, and for a label in colour.
    """
    if find_reader(path).is_lossy:
        say_once(f"{path}: a lossy label, cut at half its largest value (PNG keeps labels exact)")
        blurred = read_image(path, grayscale=True)
        return np.where(blurred > blurred.max() // 2, 255, 0).astype(np.uint8)
    image = _decode(path)
    if image.mode == "P":
        return _palette_values(image)
    if image.mode == "LA":
        image = image.convert("L")
    if image.mode in ("RGB", "RGBA", "CMYK", "YCbCr"):
        channels = np.asarray(image.convert("RGB"))
        if has_colours(channels):
            raise DataError(f"{path}: a label in colour; store class numbers as one grey channel")
        return np.ascontiguousarray(channels[..., 0])
    return _pixels(path, image, grayscale=True)


def _palette_values(image):
    """A label with a palette: its indices, or 0 and 255 where the palette is black and white."""
    indices, palette = np.asarray(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours = {tuple(colour) for colour in palette.tolist()}
    is_mask = len(palette) == 2 and indices.max() < 2 and colours == {(0, 0, 0), (255, 255, 255)}
    return palette[indices, 0] if is_mask else indices


# ---------------------------------------------------------------------------------------- writing
def png_bytes(pixels, pnginfo=None):
    """(H, W) uint8 or uint16, or (H, W, 3) uint8 pixels, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=pnginfo)
    return buffer.getvalue()


def write_png(path, pixels, pnginfo=None):
    """Write a PNG file, whole or not at all; arguments as `png_bytes`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(png_bytes(pixels, pnginfo))
