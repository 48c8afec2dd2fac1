"""What lies in a folder of predictions and in one of labels: masks, probabilities, numbered objects.

A prediction is `<stem>_pred.png`, as Main.py and Predict.py write it; beside it may lie `<stem>_prob.npy` and
`<stem>_instances.tif`.  Its label is `<stem>.*` in another folder, where `<stem>_instances.tif` may lie, too; MakeData.py
puts CoNSeP's numbered nuclei into `instances/<stem>.png` beside `labels/`.
"""
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image

from command.errors import DataError, say_once
from command.files import atomic_write
from datasets.labels import IGNORED, load_label, load_test_label
from images.formats import list_images, read_label
from masks.objects import connected_components


class Answer(NamedTuple):
    """What a prediction or a label says of one image."""
    classes: np.ndarray                # (H, W) integers
    instances: Optional[np.ndarray]    # (H, W) integers, an object's pixels share a number; 0 is background
    probability: Optional[np.ndarray]  # (C, H, W) floats


def find_pairs(prediction_directory, label_directory):
    """[(stem, prediction file, label file)], sorted by stem.

    A prediction is `<stem>_pred.*`; in a folder that has none, every image but `<stem>_instances.*` is one.  Raises
    DataError for an empty folder and for the first file without a partner.
    """
    images = {folder: {stem: path for stem, path in list_images(folder).items() if not stem.endswith("_instances")}
              for folder in (prediction_directory, label_directory)}
    labels, predictions = images[label_directory], images[prediction_directory]
    named = {stem[:-len("_pred")]: path for stem, path in predictions.items() if stem.endswith("_pred")}
    predictions = named or predictions
    for folder, files in ((prediction_directory, predictions), (label_directory, labels)):
        if not files:
            raise DataError(f"{folder}: no images here")
    for stem, path in labels.items():
        if stem not in predictions:
            raise DataError(f"{path}: no prediction {stem}_pred.png or {stem}.* in {prediction_directory}; add it or "
                            "move the label away")
    for stem, path in predictions.items():
        if stem not in labels:
            raise DataError(f"{path}: no label {stem}.* in {label_directory}; add it or move the prediction away")
    return [(stem, predictions[stem], path) for stem, path in labels.items()]


def probability_file(prediction, stem):
    """Where a prediction's probabilities lie, if there are any."""
    return prediction.with_name(f"{stem}_prob.npy")


def read_probability(path, shape, n_classes):
    """A `.npy` file of float probabilities, (C, H, W), or (H, W) or (1, H, W) of class 1 of two -> (C, H, W).

    Raises DataError for anything else; shape: the (H, W) that it must have.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - of a damaged file NumPy raises almost any
        raise DataError(f"{path}: not a readable .npy file ({error}); write it again") from None
    if not isinstance(stored, np.ndarray) or stored.dtype.kind != "f":
        raise DataError(f"{path}: not an array of floats; save probabilities with numpy.save")
    of_class_1 = n_classes == 2 and stored.shape in (shape, (1, *shape))
    if stored.shape != (n_classes, *shape) and not of_class_1:
        raise DataError(f"{path}: shape {stored.shape}, but --n_classes {n_classes} and its label want "
                        f"{(n_classes, *shape)}{f' or {shape}' if n_classes == 2 else ''}")
    probability = np.array(stored)
    if not (probability.min() >= 0 and probability.max() <= 1 + 1e-5):  # NaN fails too; a softmax may round up
        raise DataError(f"{path}: has values outside 0 ... 1, or NaN; save probabilities, not logits")
    return np.stack([1 - probability, probability]).reshape(2, *shape) if of_class_1 else probability


def read_instances(path, stem, classes, n_classes):
    """The objects in a label's or prediction's file, (H, W) int32, of the first of these that there is:

    `<stem>_instances.tif` beside the file; `instances/<stem>.png` beside a folder `labels`; with two classes the file
    itself, if it has 16 bits and holds several numbers; the 8-connected components of its foreground, with a line on
    stderr that says so.
    """
    places = [path.with_name(f"{stem}_instances.tif")]
    if path.parent.name == "labels":
        places.append(path.parent.with_name("instances") / f"{stem}.png")
    for numbered in places:
        if numbered.exists():
            objects = read_label(numbered)
            check_shape(numbered, objects.shape, path, classes.shape)
            return objects.astype(np.int32)
    stored = read_label(path)
    if n_classes == 2 and stored.dtype == np.uint16 and len(np.unique(stored)) > 2:
        return stored.astype(np.int32)
    say_once(f"{path.parent}: no numbered objects (<stem>_instances.tif, or labels of 16 bits): each connected component counts "
             "as one")
    return connected_components(classes > 0)


def check_shape(path, shape, other, wanted):
    """Raise DataError where a file's (height, width) is not that of another."""
    if shape != wanted:
        raise DataError(f"{path}: {shape[0]} x {shape[1]} px (height x width), but {other} has {wanted[0]} x "
                        f"{wanted[1]} px; export one of them again")


def read_pair(stem, prediction, label, n_classes, ignore_label, with_instances, with_probability):
    """(prediction, label), each an Answer, of one size; in the label the pixels of `ignore_label` are IGNORED."""
    classes, predicted = load_test_label(label, n_classes, ignore_label), load_label(prediction, n_classes)
    check_shape(prediction, predicted.shape, label, classes.shape)
    instances = true_instances = probability = None
    if with_instances:
        instances = read_instances(prediction, stem, predicted, n_classes)
        true_instances = read_instances(label, stem, classes, n_classes)
        true_instances[classes == IGNORED] = IGNORED
    if with_probability:
        probability = read_probability(probability_file(prediction, stem), classes.shape, n_classes)
    return Answer(predicted, instances, probability), Answer(classes, true_instances, None)


# ---------------------------------------------------------------------------------------------------------- predictions
def write_predictions(folder, predictions):
    """Write {name: PNG bytes} as `<name>_pred.png`."""
    for name, content in predictions.items():
        with atomic_write(Path(folder) / f"{name}_pred.png") as temporary:
            temporary.write_bytes(content)


def class_map(mask, n_classes):
    """The predicted classes, (H, W) integers, of a prediction's PNG: its path, or a file that holds it."""
    with Image.open(mask) as file:
        pixels = np.asarray(file)
    return pixels // 255 if n_classes == 2 else pixels
