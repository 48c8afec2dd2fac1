"""How well a prediction matches its label: IoU, Dice and F1, per image and then averaged.

    scores(prediction, label)["iou"]        of one image
    mean_scores([scores(...), ...])         of a set of images
    constant_baselines(labels)              what a constant answer would score: print it beside every result
"""
import numpy as np


def confusion_matrix(prediction, label, n_classes=2):
    """Pixel counts, (C, C) int64: row = class in the label, column = class in the prediction.

    prediction, label: integer (or bool) arrays of one shape, classes 0 ... n_classes-1.  Raises ValueError for
    fewer than two classes, for shapes that differ, and for values that are no class.
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, not {n_classes}")
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {prediction.shape} and label {label.shape} differ in shape")
    for name, array in (("prediction", prediction), ("label", label)):
        if array.dtype.kind not in "biu":
            raise ValueError(f"{name}: expected integer classes, got {array.dtype}")
        if array.size and not 0 <= array.min() <= array.max() < n_classes:
            raise ValueError(f"{name}: values {array.min()} ... {array.max()} do not fit {n_classes} classes")
    pair = label.ravel().astype(np.int64) * n_classes + prediction.ravel().astype(np.int64)
    return np.bincount(pair, minlength=n_classes ** 2).reshape(n_classes, n_classes)


def scores(prediction, label, n_classes=2):
    """IoU, Dice and F1 of one image's foreground: dict iou, dice, f1 of floats in [0, 1].

    With two classes: of class 1.  With more: the mean over the foreground classes (1 ... C-1) that occur in the
    prediction or in the label.  Found by both in no pixel: 1; found by only one of them: 0.
    F1, from precision and recall, equals Dice on pixels mathematically.  Both columns stay because the earlier results,
    which these are compared with, report both; computed in two ways, they also check each other.
    Shapes, dtypes and errors: as `confusion_matrix`.
    """
    matrix = confusion_matrix(prediction, label, n_classes)
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


def mean_scores(many):
    """The mean of a list of dicts with the same keys, key by key.  Raises ValueError for an empty list."""
    if not many:
        raise ValueError("no scores to average")
    return {key: float(np.mean([one[key] for one in many])) for key in many[0]}


def constant_baselines(labels, n_classes=2):
    """The mean scores of answering one class everywhere: {"all foreground", "all background": dicts as `scores`}.

    labels: iterable of integer arrays.  All foreground: the foreground class with the highest IoU; with two classes this
    predicts 1.  All background scores 1 in an image without foreground and 0 in any other.
    """
    per_image = [[scores(np.full(label.shape, value), label, n_classes) for value in range(n_classes)]
                 for label in labels]
    background, *foreground = map(mean_scores, map(list, zip(*per_image)))
    return {"all foreground": max(foreground, key=lambda constant: constant["iou"]), "all background": background}


def all_foreground_baseline(labels, n_classes=2):
    """The first of the `constant_baselines`."""
    return constant_baselines(labels, n_classes)["all foreground"]
