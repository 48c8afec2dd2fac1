"""A label file as class indices."""
from pathlib import Path

import numpy as np

from command.errors import DataError
from images.formats import LOSSY_SUFFIXES, read_label

IGNORED = -1  # in a class map: a pixel that counts nowhere


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
