"""A label file as class indices, or as numbered objects."""
import numpy as np

from command.errors import DataError
from datasets.objects import LARGEST_NUMBER
from images.reading import is_lossy, read_label

IGNORED = -1  # in a class map: a pixel that counts nowhere


def load_label(path, n_classes, ignore_label=None):
    """A label file as (H, W) int32 class indices: `> 0` for two classes, else the stored values.

    Pixels of the stored value `ignore_label` become IGNORED.  Raises DataError as `check_label`.
    """
    stored = read_label(path)
    check_label(path, 0, n_classes, ignore_label)
    return as_classes(path, stored, n_classes, ignore_label)


def as_classes(path, stored, n_classes, ignore_label=None):
    """What `load_label` makes of stored values, (H, W) unsigned integers: a label or a part of it.

    path: of their file, for the message.  Whether it is lossy is not looked at again.
    """
    values, is_ignored = stored > 0 if n_classes == 2 else stored, _is_ignored(stored, ignore_label)
    check_class(path, np.where(is_ignored, 0, values).max(), n_classes)  # of 32 bits without sign
    return np.where(is_ignored, IGNORED, values.astype(np.int32))


def load_objects(path, ignore_label=None):
    """A label file as (H, W) int32 numbers of objects; 0 is background.

    Pixels of the stored value `ignore_label` become IGNORED.  Raises DataError as `check_objects`.
    """
    stored = read_label(path)
    check_objects(path, 0)
    return as_objects(path, stored, ignore_label)


def as_objects(path, stored, ignore_label=None):
    """What `load_objects` makes of stored values; arguments as for `as_classes`.

    Whether the file is lossy is not looked at again.
    """
    is_ignored = _is_ignored(stored, ignore_label)
    check_number(path, np.where(is_ignored, 0, stored).max())
    return np.where(is_ignored, IGNORED, stored.astype(np.int32))


def _is_ignored(stored, ignore_label):
    """Where stored values are `ignore_label`: bool, of their shape; None: nowhere."""
    return np.zeros(stored.shape, bool) if ignore_label is None else stored == ignore_label


def check_label(path, largest, n_classes, ignore_label):
    """Raise DataError for a label whose `largest` class index is no class.

    Also for a lossy file (JPEG) where single values matter: with more than two classes, or with an
    `ignore_label`.
    """
    exact = n_classes > 2 or ignore_label is not None
    if exact and is_lossy(path):
        raise DataError(f"{path}: JPEG changes class numbers; store labels as PNG or TIFF")
    check_class(path, largest, n_classes)


def check_class(path, largest, n_classes):
    """Raise DataError for a label whose `largest` class index is no class."""
    if largest >= n_classes:
        raise DataError(f"{path}: has the value {largest}, but --n_classes {n_classes} allows "
                        f"0 ... {n_classes - 1}")


def check_objects(path, largest):
    """Raise DataError for a label that cannot number objects: a lossy file, too large a number."""
    if is_lossy(path):
        raise DataError(f"{path}: JPEG changes the numbers of objects; store labels as PNG or TIFF")
    check_number(path, largest)


def check_number(path, largest):
    """Raise DataError for a label whose `largest` value is too large for a number of an object."""
    if largest > LARGEST_NUMBER:
        raise DataError(f"{path}: has the value {largest}, but objects have numbers up to "
                        f"{LARGEST_NUMBER}; number them anew, or give --ignore_label {largest} if "
                        "that means: not labelled")


def check_some_counts(path, some_counts, ignore_label):
    """Raise DataError for a test label of which no pixel counts."""
    if not some_counts:
        raise DataError(f"{path}: every pixel has the value {ignore_label}, "
                        "which --ignore_label leaves out")
