"""What the values stored in labels mean: a mask's foreground, or class numbers."""
from typing import NamedTuple, Optional

import numpy as np

from command.bars import progress_bar
from command.errors import DataError
from images.formats import read_label

MOST_CLASSES = 32  # label values beyond which these are rather numbers of objects
MOST_USUAL = 8     # and beyond which they may be
NUMBERED = "if these number objects: --n_classes 2"


class Foreground(NamedTuple):
    """The value of a mask's foreground."""
    value: Optional[int]  # None: the labels are no masks
    is_certain: bool


def count_values(label):
    """How many pixels of a label, (H, W) unsigned integers, have each value: {value: pixels}."""
    pixels = np.bincount(label.ravel())
    return {int(value): int(pixels[value]) for value in np.flatnonzero(pixels)}


def total_values(many, ignore_label=None):
    """The sum of dicts of `count_values`, `ignore_label` left out: (largest value + 1,) int64."""
    total = np.zeros(2 ** 16, np.int64)
    for counts in many:
        for value, pixels in counts.items():
            total[value] += pixels
    if ignore_label is not None:
        total[ignore_label] = 0
    return np.trim_zeros(total, "b")


def count_label_values(paths, ignore_label):
    """`total_values` of label files."""
    bar = progress_bar(paths, "label values", unit="label")
    return total_values((count_values(read_label(path)) for path in bar), ignore_label)


def foreground_of(counts):
    """The Foreground of labels whose values occur `counts` times (see `total_values`).

    It is the one value above 0, or 255 where this has more pixels than all values between.
    Several of these, and beyond the numbers of classes, are soft edges for certain.  Otherwise 255
    may also mean "not labelled", beside class numbers.
    """
    *between, largest = np.flatnonzero(counts[1:]) + 1 if counts[1:].any() else [255]
    if not between:
        return Foreground(int(largest), True)
    if largest != 255 or counts[255] < counts[between].sum():
        return Foreground(None, False)
    return Foreground(255, len(between) > 1 and between[-1] >= MOST_CLASSES)


def classes_in(counts):
    """The number of classes in labels whose values occur `counts` times; 2 in certain masks."""
    if foreground_of(counts).is_certain:
        return 2
    return int(np.flatnonzero(counts)[-1]) + 1


def check_classes(n_classes, folder):
    """Raise DataError where a folder's labels have too many values to be meant as classes."""
    if n_classes > MOST_CLASSES:
        raise DataError(f"{folder}: values up to {n_classes - 1}; give --n_classes (2: every "
                        "value above 0 is foreground), or --ignore_label (a value that means: not "
                        "labelled)")
