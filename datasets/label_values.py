"""What the values stored in labels mean: a mask's foreground, or class numbers."""
from collections import Counter
from typing import NamedTuple, Optional

import numpy as np

from command.bars import progress_bar
from command.errors import DataError
from images.reading import examine_file, label_pages_of

MOST_CLASSES = 32  # label values beyond which these are rather numbers of objects
MOST_USUAL = 8     # and beyond which they may be
NUMBERED = "if these number objects: --label_kind objects"
KINDS_OF_LABELS = ("classes", "objects")


class LabelKind(NamedTuple):
    """What the values of labels are, as --label_kind says it."""
    kind: str         # of KINDS_OF_LABELS
    reason: str = ""  # why, and which flag says otherwise; "": nothing needs to be said


class Foreground(NamedTuple):
    """The value of a mask's foreground."""
    value: Optional[int]  # None: the labels are no masks
    is_certain: bool


def refuse_label_kind(label_kind, n_classes, parser):
    """End with exit code 2 where --label_kind and --n_classes do not go together."""
    if label_kind == "objects" and n_classes not in (None, 2):
        parser.error(f"--label_kind objects: only with --n_classes 2, not {n_classes}: objects and "
                     "background")


def count_values(label):
    """How many pixels of a label, (H, W) unsigned integers, have each value: {value: pixels}."""
    if label.itemsize > 2:  # there may be billions of values
        values, pixels = np.unique(label, return_counts=True)
    else:
        pixels = np.bincount(label.ravel())
        values = np.flatnonzero(pixels)
        pixels = pixels[values]
    return dict(zip(values.tolist(), pixels.tolist()))


def total_values(many, ignore_label=None):
    """The sum of dicts of `count_values`, without `ignore_label`: {value: pixels}, sorted."""
    total = Counter()
    for counts in many:
        total.update(counts)
    total.pop(ignore_label, None)
    return dict(sorted(total.items()))


def count_label_values(paths, ignore_label):
    """`total_values` of label files, of all pages of stacks."""
    bar = progress_bar(paths, "label values", unit="label")
    return total_values((count_values(label) for path in bar
                         for label in label_pages_of(examine_file(path))), ignore_label)


def foreground_of(counts):
    """The Foreground of labels whose values occur `counts` times (see `total_values`).

    It is the one value above 0, or 255 where this has more pixels than all values between.
    Several of these, and beyond the numbers of classes, are soft edges for certain.  Otherwise 255
    may also mean "not labelled", beside class numbers.
    """
    *between, largest = [value for value in counts if value > 0] or [255]
    if not between:
        return Foreground(largest, True)
    if largest != 255 or counts[255] < sum(counts[value] for value in between):
        return Foreground(None, False)
    return Foreground(255, len(between) > 1 and between[-1] >= MOST_CLASSES)


def classes_in(totals, label_kind="classes"):
    """The number of classes in folders of labels; totals: the `total_values` of each.

    2 where all are certain masks, and where the values number objects.
    """
    if label_kind == "objects" or all(foreground_of(counts).is_certain for counts in totals):
        return 2
    return 1 + max(max(counts, default=0) for counts in totals)


def too_many_classes(n_classes, folder):
    """The line about a folder's labels that have more values than can be meant as classes."""
    return (f"{folder}: values up to {n_classes - 1}; give --n_classes (2: every value above 0 is "
            "foreground), --label_kind objects (values number objects), or --ignore_label (a "
            "value that means: not labelled)")


def check_classes(n_classes, folder):
    """Raise DataError where a folder's labels have too many values to be meant as classes."""
    if n_classes > MOST_CLASSES:
        raise DataError(too_many_classes(n_classes, folder))
