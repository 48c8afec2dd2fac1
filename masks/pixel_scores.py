"""How well predicted pixels match their labels."""
import math

import numpy as np

from masks.object_scores import known_pixels

RECALLS = np.linspace(0, 1, 101)  # at which the picture of the curves shows the precision


# ------------------------------------------------------------------------------------------------------- class by class
def confusion_matrix(prediction, label, n_classes=2, ignore_label=None):
    """Pixel counts, (C, C) int64: row = class in the label, column = class in the prediction.

    prediction, label: integer (or bool) arrays of one shape, classes 0 ... n_classes-1.  Pixels whose label is
    `ignore_label` are not counted, whatever the prediction says there.  Raises ValueError for fewer than two classes,
    for shapes that differ, and for values that are no class.
    """
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, not {n_classes}")
    prediction, label = known_pixels(prediction, label, ignore_label)
    for name, array in (("prediction", prediction), ("label", label)):
        if array.dtype.kind not in "biu":
            raise ValueError(f"{name}: expected integer classes, got {array.dtype}")
        if array.size and not 0 <= array.min() <= array.max() < n_classes:
            raise ValueError(f"{name}: values {array.min()} ... {array.max()} do not fit {n_classes} classes")
    pair = label.astype(np.int64) * n_classes + prediction.astype(np.int64)
    return np.bincount(pair, minlength=n_classes ** 2).reshape(n_classes, n_classes)


def scores(prediction, label, n_classes=2, ignore_label=None):
    """IoU, Dice and F1 of one image's foreground: dict iou, dice, f1 of floats in [0, 1].

    With two classes: of class 1.  With more: the mean over the foreground classes (1 ... C-1) that occur in the
    prediction or in the label.  Found by both in no pixel: 1; found by only one of them: 0.
    F1, from precision and recall, equals Dice on pixels mathematically.  Both columns stay because the earlier results,
    which these are compared with, report both; computed in two ways, they also check each other.
    Shapes, dtypes, ignored pixels and errors: as `confusion_matrix`.
    """
    matrix = confusion_matrix(prediction, label, n_classes, ignore_label)
    hits = matrix.diagonal()[1:]
    predicted, actual = matrix.sum(axis=0)[1:], matrix.sum(axis=1)[1:]
    present = predicted + actual > 0
    if not present.any():
        return {"iou": 1.0, "dice": 1.0, "f1": 1.0}
    per_class = [_class_scores(*counts) for counts in zip(hits[present], predicted[present], actual[present])]
    return mean_scores(per_class)


def _class_scores(hits, predicted, actual):
    """Scores of one class from pixel counts: in both, in the prediction, in the label (not both 0)."""
    precision = hits / predicted if predicted else 0.0
    recall = hits / actual if actual else 0.0
    return {"iou": float(hits / (predicted + actual - hits)),
            "dice": float(2 * hits / (predicted + actual)),
            "f1": float(2 * precision * recall / (precision + recall)) if hits else 0.0}


def class_scores(matrix):
    """IoU and Dice of every class, the background too: dict iou, dice of (C,) floats, mean_iou a float.

    matrix: (C, C) as `confusion_matrix` returns it, of one image or summed over a set.  A class in neither prediction
    nor label has NaN, and no part in mean_iou, which is NaN where no pixel was counted.
    """
    hits, sizes = matrix.diagonal(), matrix.sum(axis=0) + matrix.sum(axis=1)
    sizes = np.where(sizes > 0, sizes, np.nan)
    iou = hits / (sizes - hits)
    return {"iou": iou, "dice": 2 * hits / sizes, "mean_iou": _mean(iou)}


def mean_scores(many):
    """The mean of a list of dicts with the same keys, key by key; NaN, an undefined score, is left out.

    Raises ValueError for an empty list.
    """
    if not many:
        raise ValueError("no scores to average")
    return {key: _mean([one[key] for one in many]) for key in many[0]}


def _mean(values):
    """The mean of the defined values (not NaN); NaN where there is none."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    return float(np.mean(values)) if values.size else math.nan


def constant_baselines(labels, n_classes=2, ignore_label=None):
    """The mean scores of answering one class everywhere: {"all foreground", "all background": dicts as `scores`}.

    labels: iterable of integer arrays.  All foreground: the foreground class with the highest IoU; with two classes this
    predicts 1.  All background scores 1 in an image without foreground and 0 in any other.
    """
    per_image = [[scores(np.full(label.shape, value), label, n_classes, ignore_label) for value in range(n_classes)]
                 for label in labels]
    background, *foreground = map(mean_scores, map(list, zip(*per_image)))
    return {"all foreground": max(foreground, key=lambda constant: constant["iou"]), "all background": background}


def best_constant(baselines):
    """(name, scores) of the constant answer with the highest IoU: `constant_baselines`' "all foreground", mostly."""
    return max(baselines.items(), key=lambda item: item[1]["iou"])


# ----------------------------------------------------------------------------------------------- threshold by threshold
def precision_recall_curve(probability, label, ignore_label=None):
    """Precision and recall at every threshold that makes a difference: (precision, recall, thresholds), each (T,).

    probability: floats, any shape; label: of that shape, 1 (or True) is positive and 0 negative; pixels of the value
    `ignore_label` count nowhere.  A pixel is called positive where its probability is >= the threshold; thresholds
    fall, recall rises to 1.  Exact: pixels are sorted, not binned.  Three empty arrays where the label has no positive,
    for recall is then undefined.  Raises ValueError for shapes that differ, NaN, and labels that are neither 0 nor 1.
    """
    probability, label = known_pixels(probability, label, ignore_label)
    if np.isnan(probability).any() or ((label != 0) & (label != 1)).any():
        raise ValueError("probabilities must not be NaN, labels must be 0 or 1")
    falling = np.argsort(probability)[::-1]
    thresholds, hits = probability[falling], np.cumsum(label[falling], dtype=np.int64)
    if not hits.size or hits[-1] == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    last = np.append(np.flatnonzero(np.diff(thresholds)), hits.size - 1)  # of each run of equal probabilities
    return hits[last] / (last + 1), hits[last] / hits[-1], thresholds[last]


def average_precision(precision, recall):
    """AP = sum_n (R_n - R_{n-1}) P_n with R_0 = 0: precision, recall as `precision_recall_curve` returns them.

    The area under the curve's steps, not interpolated, as scikit-learn defines it.  NaN for an empty curve.
    """
    return float(np.sum(np.diff(recall, prepend=0) * precision)) if len(recall) else math.nan


def precision_at_recalls(precision, recall):
    """The curve's precision where recall first reaches each of RECALLS, (101,): curves of several images made alike."""
    return precision[np.searchsorted(recall, RECALLS)]
