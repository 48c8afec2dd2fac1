"""What the values stored in labels mean: a mask's, or class numbers."""
import numpy as np
from tqdm import tqdm

from command.errors import DataError
from images.formats import read_label

MOST_CLASSES = 32      # label values beyond which these are rather numbers of objects
MOST_USUAL = 8         # and beyond which they may be
MANY = "; if these number objects: --n_classes 2"


# --------------------------------------------------------------------------------------------------------- the data set
def count_label_values(paths, ignore_label):
    """How many pixels of all label files have each stored value, `ignore_label` apart: (largest value + 1,) int64."""
    counts = np.zeros(2 ** 16, np.int64)
    for path in tqdm(paths, "label values", unit="label", delay=1, leave=False, disable=None):
        counts += np.bincount(read_label(path).ravel(), minlength=len(counts))
    if ignore_label is not None:
        counts[ignore_label] = 0
    return np.trim_zeros(counts, "b")


def foreground_of(counts):
    """(the foreground's value, whether that is certain) of labels whose values occur `counts` times; (None, False) if no mask.

    It is the one value above 0, or 255 where this has more pixels than all values between.  Several of these, and beyond
    the numbers of classes, are soft edges for certain; else 255 may also mean "not labelled", beside class numbers.
    """
    *between, largest = np.flatnonzero(counts[1:]) + 1 if counts[1:].any() else [255]
    if not between:
        return int(largest), True
    if largest != 255 or counts[255] < counts[between].sum():
        return None, False
    return 255, len(between) > 1 and between[-1] >= MOST_CLASSES


def classes_in(counts):
    """The number of classes of labels whose values occur `counts` times: two in what is a mask for certain."""
    _, is_mask = foreground_of(counts)
    return 2 if is_mask else int(np.flatnonzero(counts)[-1]) + 1


def check_classes(n_classes, folder):
    """Raise DataError where a folder's labels (or masks) have so many values that they cannot be meant as classes."""
    if n_classes > MOST_CLASSES:
        raise DataError(f"{folder}: values up to {n_classes - 1}; give --n_classes (2: every value above 0 is "
                        "foreground), or --ignore_label (a value that means: not labelled)")
