"""File names compared as people see them.

Unicode can spell é in two ways, as one character (NFC) or as two (NFD).  A copy by way of another
system may change the spelling of a file's name, of an image's and not of its label's.
"""
import unicodedata
from pathlib import Path


def canonical(name):
    """A name in one spelling (NFC), to compare it by."""
    return unicodedata.normalize("NFC", name)


def stem_of(path):
    """The name by which an image, its label and its prediction belong together: without suffix.

    `cell.ome.tif` is `cell`, so that its label may be `cell.png`.
    """
    return without_ome(canonical(Path(path).stem))


def without_ome(stem):
    """The stem of a file's name without the `.ome` of OME-TIFF."""
    return stem.removesuffix(".ome")


def canonical_path(path):
    """A path whose last part is in one spelling, to compare files of one folder by."""
    path = Path(path)
    return path.with_name(canonical(path.name))


def find_file(path):
    """The path of a file, or that of the file beside it whose name is spelled otherwise.

    Without such a file: the path itself.
    """
    path = Path(path)
    if path.exists() or path.name.isascii() or not path.parent.is_dir():
        return path
    alike = (each for each in sorted(path.parent.iterdir())
             if canonical(each.name) == canonical(path.name))
    return next(alike, path)
