"""Image files in and out: PNG, TIFF, JPEG, BMP; grey or RGB, 8 or 16 bits."""
import contextlib
import io
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from command.errors import DataError, say_once
from command.files import atomic_write
from images.channels import has_colours

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
LOSSY_SUFFIXES = (".jpg", ".jpeg")
MAX_PIXELS = 2 ** 28  # 16,384 x 16,384: above it a file is taken for a decompression bomb
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns at this number and refuses at twice this number
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
ImageFile.LOAD_TRUNCATED_IMAGES = False


# ------------------------------------------------------------------------------------------------------ folders and pairs
def list_images(folder, ignore=frozenset(), suffixes=IMAGE_SUFFIXES):
    """The image files of a folder by stem: {stem: Path}, sorted by name, without the paths in `ignore`.

    Hidden files and files with other suffixes do not count.

    Raises DataError where the folder is missing or holds two images of one stem (`a.png` and `a.tif`).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        if path in ignore:
            continue
        if path.stem in found:
            raise DataError(f"{path}: {found[path.stem].name} has the same name; keep one of the two")
        found[path.stem] = path
    return found


def check_same_size(image, size, label, label_size):
    """Raise DataError where an image file and its label file are not of one size; sizes are (height, width) in px."""
    if size != label_size:
        raise DataError(f"{label}: {label_size[0]} x {label_size[1]} px (height x width), but its image {image} has "
                        f"{size[0]} x {size[1]} px; export one of them again")


@contextlib.contextmanager
def _opened(path):
    """`with _opened(path) as image:` every way in which the file can be broken becomes a DataError."""
    try:
        with Image.open(path) as image:
            yield image
    except Image.DecompressionBombError:
        raise DataError(f"{path}: larger than {MAX_PIXELS:,} pixels; cut it into smaller images") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except PermissionError:
        raise DataError(f"{path}: may not be read; check its permissions") from None
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - of a damaged file Pillow raises almost any
        detail = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise DataError(f"{path}: not a readable image{detail}; export it again as PNG or TIFF, grey or RGB") from None


def _say_depth(path, image):
    """Say that Pillow cuts an image's colours of 16 bits; `image` is opened, but not yet loaded."""
    if re.search("RGB[AX]?;16", str(image.tile)):
        say_once(f"{Path(path).parent}: colours of 16 bits are read as 8 bits, the upper ones (said once per folder); where a "
                 "camera fills but 12 of them, scale the images to 8 bits first")


def _open(path):
    """An image file of one page, decoded."""
    with _opened(path) as image:
        image.verify()  # a PNG's check sums, which `load` passes over
    with _opened(path) as image:
        if image.format == "TIFF" and image.n_frames > 1:
            raise DataError(f"{path}: has {image.n_frames} pages; save each page as a file of its own (if they are channels: "
                            "join them to a grey or an RGB image)")
        _say_depth(path, image)
        image.load()
        return image.copy()


def image_size(path):
    """(height, width) of an image file, read from its header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # noqa: BLE001 - whatever is wrong with it, decoding says it better
        image = _open(path)
        return image.height, image.width


def _pixels(path, image, grayscale):
    """A decoded image's values; see `read_image`."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        pixels = np.asarray(image).astype(np.uint16)
        return pixels if grayscale is not False else np.repeat(pixels[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise DataError(f"{path}: values of 32 bits, or with a sign; convert it to 8 or 16 bits without one")
    if image.mode not in ("1", "L", "RGB"):
        wanted = "L" if image.mode == "LA" else "RGB"
        say_once(f"{path}: mode {image.mode} read as {wanted} (said once per file)")
        image = image.convert(wanted)
    if grayscale is None:
        grayscale = image.mode != "RGB"
    return np.asarray(image.convert("L" if grayscale else "RGB"))


def read_image(path, grayscale=None):
    """Read an image file as uint8 (or uint16, 16-bit grey) values.

    grayscale: True -> (H, W); False -> (H, W, 3); None -> whichever the file is.  Palettes, alpha and CMYK are converted
    with a line on stderr.  Raises DataError for a file that is no image, is damaged, or holds values of 32 bits or with a sign.
    """
    return _pixels(path, _open(path), grayscale)


def read_pages(path, numbers):
    """Yield an image file's pages of these numbers (from 0) as `read_image` reads the only one: grey or RGB as it is."""
    with _opened(path) as image:
        for number in numbers:
            image.seek(number)
            _say_depth(path, image)
            image.load()
            yield _pixels(path, image.copy(), None)


def read_label(path):
    """Read a label file as it is stored: (H, W) uint8 or uint16 values.

    Of a palette file these are the palette's indices, or 0 and 255 where the palette is black and white, in any order.

    A lossy file (JPEG) blurs its edges: it is cut at half its largest value, into 0 and 255, with a line on stderr.
    Raises DataError for colour labels whose channels differ, and for what `read_image` refuses.
    """
    if Path(path).suffix.lower() in LOSSY_SUFFIXES:
        say_once(f"{path}: a lossy label, cut at half its largest value (PNG keeps labels exact)")
        blurred = read_image(path, grayscale=True)
        return np.where(blurred > blurred.max() // 2, 255, 0).astype(np.uint8)
    image = _open(path)
    if image.mode == "P":
        indices, palette = np.asarray(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        colours = {tuple(colour) for colour in palette.tolist()}
        is_mask = len(palette) == 2 and indices.max() < 2 and colours == {(0, 0, 0), (255, 255, 255)}
        return palette[indices, 0] if is_mask else indices
    if image.mode in ("LA", "RGB", "RGBA", "CMYK", "YCbCr"):
        channels = np.asarray(image.convert("RGB") if image.mode != "LA" else image.convert("L").convert("RGB"))
        if has_colours(channels):
            raise DataError(f"{path}: a label in colour; store class numbers as one grey channel")
        return np.ascontiguousarray(channels[..., 0])
    return read_image(path, grayscale=True)


def png_bytes(pixels, pnginfo=None):
    """(H, W) uint8/uint16 or (H, W, 3) uint8 values as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=pnginfo)
    return buffer.getvalue()


def write_png(path, pixels, pnginfo=None):
    """Write (H, W) uint8/uint16 or (H, W, 3) uint8 values as a PNG, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(png_bytes(pixels, pnginfo))
