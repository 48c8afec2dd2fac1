"""What every command shares: its flags, its one-line errors, image files in and out.

Floor 0 of the project: imports nothing of it, and no Jittor, so that a command answers `--help` or a mistake at once.

A command's last line is `sys.exit(run(main))`.  A mistake in a flag ends it with exit code 2, a mistake in the data with
exit code 1, each with one line on stderr.
"""
import argparse
import contextlib
import fcntl
import io
import json
import os
import re
import signal
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
LOSSY_SUFFIXES = (".jpg", ".jpeg")
IGNORED = -1  # in a class map: a pixel that counts nowhere
ENDLESS = 100_000  # epochs, where only the time ends a run
MAX_PIXELS = 2 ** 28  # 16,384 x 16,384: above it a file is taken for a decompression bomb
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns at this number and refuses at twice this number
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
ImageFile.LOAD_TRUNCATED_IMAGES = False


class DataError(Exception):
    """Something that the user gave is not usable: the message is one line that names the file and says what to do."""


# ---------------------------------------------------------------------------------------------------- the command line
class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each flag's type, and its default where it has one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)

    def _get_default_metavar_for_optional(self, action):
        names = {None: "text", boolean: "True|False", Path: "path", picture: "FILE.png"}
        return names.get(action.type) or action.type.__name__


class Parser(argparse.ArgumentParser):
    """ArgumentParser that shows types and defaults, takes no abbreviations and reports a mistake in one line."""

    def __init__(self, description, **options):
        super().__init__(description=description, allow_abbrev=False,
                         formatter_class=HelpFormatter, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


# A pool ends its workers by SIGTERM.  A handler in Python, which they would inherit, can come too late: where the signal
# arrives just before a worker begins to wait for work, the handler waits with it, for ever.
os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def mute_output():
    """Send standard output to nowhere: whoever read it, `| head` perhaps, has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_stopped():
    """The line of a command that Ctrl-C or SIGTERM ends, and its exit code."""
    print(f"\n{Path(sys.argv[0]).name}: stopped", file=sys.stderr, flush=True)
    return 130


def run(main):
    """Call `main()` as a command: returns the exit code, prints errors in one line, never a traceback for a mistake."""
    command = Path(sys.argv[0]).name
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing half-written stays behind
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to stop
    try:
        return main() or 0
    except DataError as error:
        print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        mute_output()
        return 1
    except KeyboardInterrupt:
        return say_stopped()
    except OSError as error:
        advice = "; check its permissions" if isinstance(error, PermissionError) else ""
        print(f"{command}: error: {error.filename or 'file'}: {error.strerror or error}{advice}", file=sys.stderr)
        return 1


def boolean(text):
    """`True`, `true`, `1`, `yes` or their opposites -> bool."""
    word = text.strip().lower()
    if word in ("true", "1", "yes"):
        return True
    if word in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")


def number(kind, low, high=float("inf"), include_low=True):
    """A flag type: a finite `kind` (int or float) in [low, high), or in (low, high) without `include_low`."""
    name = "a whole number" if kind is int else "a number"
    bound = f"{'at least' if include_low else 'above'} {low:g}" + (f" and below {high:g}" if high < float("inf") else "")

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {name} {bound}, got {text!r}") from None
        if not ((value >= low if include_low else value > low) and value < high):  # NaN fails too
            raise argparse.ArgumentTypeError(f"expected {name} {bound}, got {text!r}")
        return value
    parse.__name__ = kind.__name__  # what --help shows
    return parse


def tile(text):
    """A flag type: 'full', 'reference', or a side in pixels."""
    return text if text in ("full", "reference") else number(int, 16)(text)


def picture(text):
    """A flag type: the path of a picture to write, a PNG file."""
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .png, got {text!r}")
    return path


def expression(text):
    """A flag type: a regular expression with a group in parentheses."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    if not pattern.groups:
        raise argparse.ArgumentTypeError(f"expected a regular expression with a group in parentheses, got {text!r}")
    return text


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


def pair_by_name(image_folder, label_folder, ignore=frozenset(), label_suffixes=IMAGE_SUFFIXES):
    """The (image, label) paths of two folders, matched by file stem: list of (Path, Path) sorted by name.

    Paths in `ignore` are passed over; labels are the files with `label_suffixes`.

    Raises DataError naming the first file without a partner, or a folder without images.
    """
    images, labels = list_images(image_folder, ignore), list_images(label_folder, ignore, label_suffixes)
    if not images:
        raise DataError(f"{image_folder}: no images here ({', '.join(IMAGE_SUFFIXES)})")
    for stem, path in images.items():
        if stem not in labels:
            raise DataError(f"{path}: no label of this name in {label_folder}; add one or move the image away")
    for stem, path in labels.items():
        if stem not in images:
            raise DataError(f"{path}: no image of this name in {image_folder}; add one or move the label away")
    return [(path, labels[stem]) for stem, path in images.items()]


def check_same_size(image, size, label, label_size):
    """Raise DataError where an image file and its label file are not of one size; sizes are (height, width) in px."""
    if size != label_size:
        raise DataError(f"{label}: {label_size[0]} x {label_size[1]} px (height x width), but its image {image} has "
                        f"{size[0]} x {size[1]} px; export one of them again")


# ---------------------------------------------------------------------------------------------------------- image files
_said = set()


def say_once(text):
    """Print a remark to stderr the first time it is made."""
    if text not in _said:
        _said.add(text)
        print(text, file=sys.stderr)


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


def has_colours(pixels):
    """Whether values (H, W) or (H, W, 3) are in colour: grey ones that are stored as RGB are not."""
    return pixels.ndim == 3 and bool((pixels != pixels[..., :1]).any())


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


def load_label(path, n_classes, ignore_label=None):
    """A label file as (H, W) int32 class indices: `> 0` for two classes, the stored values for more.

    Pixels of the stored value `ignore_label` become IGNORED.  Raises DataError for a value that is no class, and for a
    lossy file (JPEG) where single values matter: with more than two classes, or with an `ignore_label`.
    """
    stored = read_label(path)
    if (n_classes > 2 or ignore_label is not None) and Path(path).suffix.lower() in LOSSY_SUFFIXES:
        raise DataError(f"{path}: JPEG changes class numbers; store labels as PNG or TIFF")
    classes = (stored > 0 if n_classes == 2 else stored).astype(np.int32)
    if ignore_label is not None:
        classes[stored == ignore_label] = IGNORED
    if classes.max() >= n_classes:
        raise DataError(f"{path}: has the value {classes.max()}, but --n_classes {n_classes} allows "
                        f"0 ... {n_classes - 1}")
    return classes


def load_test_label(path, n_classes, ignore_label=None):
    """`load_label` of a label that is to be scored against: a DataError where not one of its pixels counts."""
    classes = load_label(path, n_classes, ignore_label)
    if (classes == IGNORED).all():
        raise DataError(f"{path}: every pixel has the value {ignore_label}, which --ignore_label leaves out")
    return classes


def epoch_of(epoch, total_epochs):
    """An epoch, counted from 0, for people: "0 (1/200)", or "0" where only the time ends the run."""
    return f"{epoch:>3}" + (f" ({epoch + 1}/{total_epochs})" if total_epochs < ENDLESS else "")


def parse_json(text):
    """`json.loads(text)`; a ValueError for whatever it cannot take, lists in lists without end among it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextlib.contextmanager
def atomic_write(path):
    """`with atomic_write(path) as temporary:` write there; on success it replaces `path` whole, on error it vanishes.

    The temporary file lies hidden beside `path`, keeps its suffix, and is on disk (fsync) before it takes the name.
    """
    path = Path(path)
    # a name that is known before the file exists: a Ctrl-C at any moment leaves nothing behind
    temporary = path.with_name(f".{path.stem[:40]}-{os.getpid()}-{threading.get_ident():x}.part{path.suffix}")
    try:
        temporary.touch()
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_folder(path):
    """`with lock_folder(path):` no other process that locks it may write there; DataError where one does already.

    The lock ends with the process, however that ends.  What writes that were cut off have left behind is removed.
    """
    def itself(name, flags):  # a link would lead to another's file
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    with open(Path(path) / ".lock", "a+", opener=itself) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise DataError(f"{path}: process {file.read().strip() or 'of somebody'} writes here already; "
                            "wait for its end, or choose another folder") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        for left in Path(path).glob(".*-*-*.part*"):
            left.unlink()
        yield


def png_bytes(pixels, pnginfo=None):
    """(H, W) uint8/uint16 or (H, W, 3) uint8 values as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=pnginfo)
    return buffer.getvalue()


def write_png(path, pixels, pnginfo=None):
    """Write (H, W) uint8/uint16 or (H, W, 3) uint8 values as a PNG, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(png_bytes(pixels, pnginfo))


def make_folder(path):
    """Create a folder (and its parents) if it is not there; a DataError where that cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot make this folder ({error.strerror}); choose another") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise DataError(f"{path}: this folder is not writable; choose another")
    return path


def use_agg():
    """Matplotlib's pyplot for drawing into files; imported late because it takes a second."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot
