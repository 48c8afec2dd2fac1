"""How well predicted pixels match their labels.

    scores(prediction, label)["iou"]            of one image
    mean_scores([scores(...), ...])             of a set of images
    constant_baselines(labels)                  what a constant answer would score
    class_scores(confusion_matrix(...))         of each class, background included
    average_precision(precision, recall)        from precision_recall_curve(probability, label)

SCORES is the table of the scores of pixels.  The CSV's columns, the words of the log, TensorBoard's
tags, the lines of the curves and the columns of the page all come from its rows.  A new score is a
function of ClassCounts and a row.  Runs on numbered objects also have those of object_scores.py.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from masks.object_scores import known_pixels

RECALLS = np.linspace(0, 1, 101)  # at which the picture of the curves shows the precision


# -------------------------------------------------------------------------------------- the scores
class ClassCounts(NamedTuple):
    """Pixel counts of one class in one image; `predicted` and `actual` are not both 0."""
    hits: int       # pixels of this class in the prediction and in the label
    predicted: int  # in the prediction
    actual: int     # in the label


def intersection_over_union(counts):
    return counts.hits / (counts.predicted + counts.actual - counts.hits)


def dice_coefficient(counts):
    return 2 * counts.hits / (counts.predicted + counts.actual)


def f1_score(counts):
    """The harmonic mean of precision and recall.

    On pixels it equals Dice mathematically.  Both stay because the earlier results, which these are
    compared with, report both.  Computed in two ways, they also check each other.
    """
    if not counts.hits:
        return 0.0
    precision, recall = counts.hits / counts.predicted, counts.hits / counts.actual
    return 2 * precision * recall / (precision + recall)


class Score(NamedTuple):
    """A score from 0 (worst) to 1 (best)."""
    key: str                                  # in dicts of scores, and the CSV's column
    title: str                                # for people: in the log, in tables, on the page
    of_class: Callable[[ClassCounts], float]  # computes it for one class of one image
    tag: str                                  # in TensorBoard
    colour: str                               # of its line in the curves
    curve: str                                # the name of that line; "": it repeats another score


SCORES = (
    Score("iou", "IoU", intersection_over_union, "scores/IoU", "#1f77b4", "IoU"),
    Score("dice", "Dice", dice_coefficient, "scores/Dice", "#2ca02c", "Dice = F1"),
    Score("f1", "F1", f1_score, "scores/F1", "#9467bd", ""),
)
DISTINCT = tuple(score for score in SCORES if score.curve)  # where there is no room for repetition
CHOOSING = "iou"  # the key of the score that chooses, where nothing else is said


# ---------------------------------------------------------------------------------- class by class
def confusion_matrix(prediction, label, n_classes=2, ignore_label=None):
    """Pixel counts, (C, C) int64: row = class in the label, column = class in the prediction.

    prediction, label: integer (or bool) arrays of one shape, with classes 0 ... n_classes-1.
    Pixels whose label is `ignore_label` are not counted.  Raises ValueError for fewer than two
    classes, for shapes that differ, and for values that are no class.
    """
    prediction, label = known_pixels(prediction, label, ignore_label)
    for name, array in (("prediction", prediction), ("label", label)):
        _check_values(name, array, n_classes)
    pair = label.astype(np.int64) * n_classes + prediction.astype(np.int64)
    return np.bincount(pair, minlength=n_classes ** 2).reshape(n_classes, n_classes)


def count_pixels(label, n_classes=2, ignore_label=None):
    """The pixels of each class in a label, (C,) int64.

    Ignored pixels and errors: as `confusion_matrix`.
    """
    label, _ = known_pixels(label, label, ignore_label)
    _check_values("label", label, n_classes)
    return np.bincount(label.astype(np.int64), minlength=n_classes)


def _check_values(name, array, n_classes):
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, not {n_classes}")
    if array.dtype.kind not in "biu":
        raise ValueError(f"{name}: expected integer classes, got {array.dtype}")
    if array.size and not 0 <= array.min() <= array.max() < n_classes:
        raise ValueError(f"{name}: values {array.min()} ... {array.max()} do not fit "
                         f"{n_classes} classes")


def scores(prediction, label, n_classes=2, ignore_label=None):
    """The scores of one image's foreground: {key of SCORES: float in [0, 1]}.

    With two classes: of class 1.  With more: the mean over the foreground classes (1 ... C-1) that
    occur in the prediction or in the label.  A class that only one of them has scores 0.  Where
    neither has any foreground, every score is 1.
    Shapes, dtypes, ignored pixels and errors: as `confusion_matrix`.
    """
    matrix = confusion_matrix(prediction, label, n_classes, ignore_label)
    return scores_of_counts(matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1))


def scores_of_counts(hits, predicted, actual):
    """`scores` from (C,) pixel counts: right, in the prediction, in the label.

    Those of class 0, the background, do not matter.
    """
    counted = map(ClassCounts, hits[1:], predicted[1:], actual[1:])
    present = [counts for counts in counted if counts.predicted + counts.actual]
    if not present:
        return {score.key: 1.0 for score in SCORES}
    return mean_scores([{score.key: float(score.of_class(counts)) for score in SCORES}
                        for counts in present])


def class_scores(matrix):
    """The scores of every class, background included.

    Returns {key of DISTINCT: (C,) floats, "mean_iou": their mean IoU, a float}.  A class in neither
    prediction nor label has NaN and no part in the mean, which is NaN where no pixel was counted.
    matrix: (C, C) as `confusion_matrix` returns it, of one image or summed over a set.
    """
    found = {score.key: np.full(len(matrix), math.nan) for score in DISTINCT}
    counted = map(ClassCounts, matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1))
    for value, counts in enumerate(counted):
        if counts.predicted + counts.actual:
            for score in DISTINCT:
                found[score.key][value] = score.of_class(counts)
    return {**found, "mean_iou": average_defined(found["iou"])}


def mean_scores(many):
    """The mean of a list of dicts with the same keys, key by key.

    NaN, an undefined score, is left out.  Raises ValueError for an empty list.
    """
    if not many:
        raise ValueError("no scores to average")
    return {key: average_defined([one[key] for one in many]) for key in many[0]}


def average_defined(values):
    """The mean of the values that are not NaN.  NaN where there is none."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    return float(np.mean(values)) if values.size else math.nan


# -------------------------------------------------------------------------------- constant answers
def constant_baselines(labels, n_classes=2, ignore_label=None):
    """The mean scores of answering one class everywhere.

    Returns {"all foreground": scores, "all background": scores}.  All foreground is the foreground
    class with the highest IoU; with two classes that is class 1.  All background scores 1 in an
    image without foreground and 0 in any other.
    labels: iterable of integer arrays.  Raises ValueError for none, and as `confusion_matrix` does.
    """
    return baselines_of_counts(count_pixels(label, n_classes, ignore_label) for label in labels)


def baselines_of_counts(counts):
    """`constant_baselines` from the labels' pixel counts alone, to the last bit.

    counts: iterable of (C,) integer arrays, the pixels of each class in one label, ignored pixels
    left out.  Raises ValueError for none, for fewer than two classes, and for several lengths.
    """
    counts = [np.asarray(each).astype(np.int64, casting="same_kind") for each in counts]
    shapes = {each.shape for each in counts}
    if len(shapes) != 1 or counts[0].ndim != 1 or len(counts[0]) < 2:
        raise ValueError(f"expected counts of one length, at least 2, not shapes {sorted(shapes)}")
    background, *foreground = (mean_scores([_constant_scores(value, each) for each in counts])
                               for value in range(len(counts[0])))
    return {"all foreground": max(foreground, key=lambda each: each[CHOOSING]),
            "all background": background}


def _constant_scores(value, counts):
    """`scores` of answering the class `value` everywhere."""
    hits, predicted = np.zeros_like(counts), np.zeros_like(counts)
    hits[value], predicted[value] = counts[value], counts.sum()
    return scores_of_counts(hits, predicted, counts)


def best_constant(baselines):
    """(name, scores) of the constant answer with the highest IoU: mostly "all foreground"."""
    return max(baselines.items(), key=lambda item: item[1][CHOOSING])


# -------------------------------------------------------------------------- threshold by threshold
class Curve(NamedTuple):
    """Precision and recall at T falling thresholds."""
    precision: np.ndarray   # (T,)
    recall: np.ndarray      # (T,), rising to 1
    thresholds: np.ndarray  # (T,): a pixel is positive where its probability is at least this


def precision_recall_curve(probability, label, ignore_label=None):
    """The Curve of every threshold that makes a difference.

    probability: floats of any shape; label: of that shape, 1 (or True) is positive and 0 negative.
    Pixels whose label is `ignore_label` are not counted.  The curve is exact: pixels are sorted,
    not binned.  It is empty where the label has no positive pixel, since recall is then undefined.
    Raises ValueError for shapes that differ, for NaN, and for labels that are neither 0 nor 1.
    """
    probability, label = known_pixels(probability, label, ignore_label)
    if np.isnan(probability).any() or ((label != 0) & (label != 1)).any():
        raise ValueError("probabilities must not be NaN, labels must be 0 or 1")
    falling = np.argsort(probability)[::-1]
    thresholds, hits = probability[falling], np.cumsum(label[falling], dtype=np.int64)
    if not hits.size or hits[-1] == 0:
        return Curve(np.empty(0), np.empty(0), np.empty(0))
    last = np.append(np.flatnonzero(np.diff(thresholds)), hits.size - 1)  # of equal probabilities
    return Curve(hits[last] / (last + 1), hits[last] / hits[-1], thresholds[last])


def average_precision(precision, recall):
    """AP = sum_n (R_n - R_{n-1}) P_n with R_0 = 0, for precision and recall of a Curve.

    This is the area under the curve's steps, not interpolated, as scikit-learn defines it.
    NaN for an empty curve.
    """
    return float(np.sum(np.diff(recall, prepend=0) * precision)) if len(recall) else math.nan


def precision_at_recalls(precision, recall):
    """The precision where recall first reaches each of RECALLS, (101,).

    It lets the curves of several images be averaged.
    """
    return precision[np.searchsorted(recall, RECALLS)]
