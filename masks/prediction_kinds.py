"""What the stored values of predictions and of labels are, classes or numbers of objects."""
from typing import NamedTuple

from command.bars import progress_bar
from datasets.label_kinds import ObjectFacts, count_objects, recognise_kind
from datasets.label_values import (LabelKind, check_classes, classes_in, count_label_values,
                                   foreground_of)
from datasets.labels import as_objects
from images.reading import examine_file, label_pages_of


class Kinds(NamedTuple):
    """How the values of predictions and labels are read."""
    n_classes: int
    predictions_are_numbers: bool
    labels_are_numbers: bool


class Folder(NamedTuple):
    """What the values of one folder are."""
    n_classes: int
    are_numbers: bool


def decide_kinds(pairs, n_classes=None, label_kind=None, ignore_label=None):
    """The Kinds of PredictedPairs: as the flags say, or as Main.py chooses; None: not given.

    Where labels number objects there are two classes.  What is chosen and may not be meant is said.
    Raises DataError where labels have so many values that they cannot be classes.
    """
    labels = decide_folder([pair.label for pair in pairs], n_classes, label_kind, ignore_label)
    if labels.are_numbers:
        n_classes = 2
    predictions = decide_folder([pair.prediction for pair in pairs], n_classes, label_kind)
    found = n_classes or max(labels.n_classes, predictions.n_classes)
    if found > 2 and n_classes is None:
        print(f"{found} classes, by the stored values; "
              "--n_classes 2 takes every value above 0 for foreground")
    return Kinds(found, predictions.are_numbers, labels.are_numbers)


def decide_folder(paths, n_classes, label_kind, ignore_label=None):
    """The Folder of mask files; parameters: of `decide_kinds`."""
    counts = count_label_values(paths, ignore_label)
    kind = kind_of_files(paths, counts, n_classes, label_kind, ignore_label)
    if kind.reason and n_classes is None:
        print(f"{paths[0].parent}: {kind.reason}")
    if kind.kind == "objects":
        return Folder(2, True)
    found = n_classes or classes_in([counts])
    if n_classes is None:
        check_classes(found, paths[0].parent)
    return Folder(found, False)


def kind_of_files(paths, counts, n_classes, label_kind, ignore_label):
    """The LabelKind of mask files; counts: their `total_values`.

    Masks of one value have no numbers, whatever is asked for.  Files of 16 bits and more hold
    numbers, unless a flag says otherwise.
    """
    if label_kind == "classes" or foreground_of(counts).is_certain or n_classes not in (None, 2):
        return LabelKind("classes")
    if label_kind:
        return LabelKind(label_kind)
    dtypes = [examine_file(path).dtype for path in paths]
    if all(dtype.kind in "ui" and dtype.itemsize > 1 for dtype in dtypes):
        return LabelKind("objects", f"{8 * dtypes[0].itemsize} bits, taken for numbered objects of "
                         "one class; --n_classes N or --label_kind classes takes them for classes")
    kind, reason = recognise_kind(counts, paths, n_classes, lambda: count_all(paths, ignore_label))
    return LabelKind(kind, reason and f"{kind} ({reason})")


def count_all(paths, ignore_label):
    """The ObjectFacts of mask files together."""
    bar = progress_bar(paths, "counting objects", unit="label")
    found = [count_objects(as_objects(path, stored, ignore_label))
             for path in bar for stored in label_pages_of(examine_file(path))]
    return ObjectFacts(*map(sum, zip(*found)))
