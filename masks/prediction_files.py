"""The files of predictions and labels: masks, probabilities, numbered objects.

A prediction is `<stem>_pred.png`, as Main.py and Predict.py write it.  `<stem>_prob.npy` and
`<stem>_instances.tif` may lie beside it.  Its label is `<stem>.*` in another folder, where
`<stem>_instances.tif` may lie too.  MakeData.py puts CoNSeP's numbered nuclei into
`instances/<stem>.png` beside `labels/`.
"""
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image

from command.errors import DataError, say_once
from command.files import atomic_write
from command.names import find_file
from datasets.labels import IGNORED, load_label, load_test_label
from images.formats import list_images
from images.reading import read_label
from masks.objects import connected_components


class PredictedPair(NamedTuple):
    """The files of one image."""
    stem: str         # in the spelling of `canonical`
    prediction: Path
    label: Path


class Answer(NamedTuple):
    """What a prediction or a label says of one image."""
    classes: np.ndarray                # (H, W) integers
    instances: Optional[np.ndarray]    # (H, W): an object's pixels share a number, 0 is background
    probability: Optional[np.ndarray]  # (C, H, W) floats


def pair_predictions(prediction_directory, label_directory):
    """[PredictedPair], sorted by stem.

    A prediction is `<stem>_pred.*`.  In a folder without any, every image is one, except
    `<stem>_instances.*`.  Raises DataError for an empty folder, and for the first file without a
    partner.
    """
    labels, predictions = _list_masks(label_directory), _list_masks(prediction_directory)
    named = {stem.removesuffix("_pred"): path for stem, path in predictions.items()
             if stem.endswith("_pred")}
    predictions = named or predictions
    for folder, files in ((prediction_directory, predictions), (label_directory, labels)):
        if not files:
            raise DataError(f"{folder}: no images here")
    for stem, path in labels.items():
        if stem not in predictions:
            raise DataError(f"{path}: no prediction {stem}_pred.png or {stem}.* in "
                            f"{prediction_directory}; add it or move the label away")
    for stem, path in predictions.items():
        if stem not in labels:
            raise DataError(f"{path}: no label {stem}.* in {label_directory}; "
                            "add it or move the prediction away")
    return [PredictedPair(stem, predictions[stem], path) for stem, path in labels.items()]


def stem_of_prediction(path):
    """The stem of the image that a prediction `<stem>_pred.*` or `<stem>.*` is of."""
    return path.stem.removesuffix("_pred")


def _list_masks(folder):
    return {stem: path for stem, path in list_images(folder).items()
            if not stem.endswith("_instances")}


def read_answers(pair, n_classes, ignore_label=None, with_instances=False, with_probability=False):
    """(prediction, label) of a PredictedPair, each an Answer, of one size.

    The label's pixels of the stored value `ignore_label` are IGNORED.  Instances and probabilities
    are None unless they are asked for.  Raises DataError for files that do not fit.
    """
    true_classes = load_test_label(pair.label, n_classes, ignore_label)
    classes = load_label(pair.prediction, n_classes)
    check_shape(pair.prediction, classes.shape, pair.label, true_classes.shape)
    instances = true_instances = probability = None
    if with_instances:
        stem = stem_of_prediction(pair.prediction)
        instances = read_instances(pair.prediction, stem, classes, n_classes)
        true_instances = read_instances(pair.label, pair.label.stem, true_classes, n_classes)
        true_instances[true_classes == IGNORED] = IGNORED
    if with_probability:
        probability = read_probability(probability_path(pair), true_classes.shape, n_classes)
    return Answer(classes, instances, probability), Answer(true_classes, true_instances, None)


# ---------------------------------------------------------------------------------------- the masks
def write_predictions(folder, predictions):
    """Write {name: PNG bytes} as `<name>_pred.png`."""
    for name, content in predictions.items():
        with atomic_write(Path(folder) / f"{name}_pred.png") as temporary:
            temporary.write_bytes(content)


def read_prediction(mask, n_classes):
    """The predicted classes, (H, W) integers; mask: the path of a PNG, or a file that holds one."""
    with Image.open(mask) as file:
        pixels = np.asarray(file)
    return pixels // 255 if n_classes == 2 else pixels


def check_shape(path, shape, other, wanted):
    """Raise DataError where a file's (height, width) is not that of another."""
    if shape != wanted:
        raise DataError(f"{path}: {shape[0]} x {shape[1]} px (height x width), but {other} has "
                        f"{wanted[0]} x {wanted[1]} px; export one of them again")


# -------------------------------------------------------------------------------- the probabilities
def probability_path(pair):
    """Where the probabilities of a PredictedPair lie, if there are any."""
    return find_file(pair.prediction.with_name(f"{stem_of_prediction(pair.prediction)}_prob.npy"))


def read_probability(path, shape, n_classes):
    """A `.npy` file of float probabilities as a (C, H, W) array.

    The file holds (C, H, W), or with two classes (H, W) or (1, H, W) of class 1.  Raises DataError
    for anything else; shape: the (H, W) that it must have.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - for a damaged file NumPy raises almost any error
        raise DataError(f"{path}: not a readable .npy file ({error}); write it again") from None
    if not isinstance(stored, np.ndarray) or stored.dtype.kind != "f":
        raise DataError(f"{path}: not an array of floats; save probabilities with numpy.save")
    of_class_1 = n_classes == 2 and stored.shape in (shape, (1, *shape))
    if stored.shape != (n_classes, *shape) and not of_class_1:
        wanted = f"{(n_classes, *shape)}" + (f" or {shape}" if n_classes == 2 else "")
        raise DataError(f"{path}: shape {stored.shape}, but --n_classes {n_classes} and its label "
                        f"want {wanted}")
    probability = np.array(stored)
    # NaN fails this test too; a softmax may round up
    if not (probability.min() >= 0 and probability.max() <= 1 + 1e-5):
        raise DataError(f"{path}: has values outside 0 ... 1, or NaN; "
                        "save probabilities, not logits")
    if of_class_1:
        probability = np.stack([1 - probability, probability]).reshape(2, *shape)
    return probability


# ----------------------------------------------------------------------------- the numbered objects
def read_instances(path, stem, classes, n_classes):
    """The objects in the mask file `path`: (H, W) int32, 0 is background.

    They come from the first of these that there is:
    - `<stem>_instances.tif` beside the file;
    - `instances/<stem>.png` beside a folder `labels`;
    - with two classes the file itself, if it has 16 bits and several numbers;
    - the 8-connected components of `classes`, (H, W), above 0; a line on stderr says so.
    """
    places = [path.with_name(f"{stem}_instances.tif")]
    if path.parent.name == "labels":
        places.append(path.parent.with_name("instances") / f"{stem}.png")
    for numbered in map(find_file, places):
        if numbered.exists():
            objects = read_label(numbered)
            check_shape(numbered, objects.shape, path, classes.shape)
            return objects.astype(np.int32)
    stored = read_label(path)
    if n_classes == 2 and stored.dtype == np.uint16 and len(np.unique(stored)) > 2:
        return stored.astype(np.int32)
    say_once(f"{path.parent}: no numbered objects (<stem>_instances.tif, or labels of 16 bits): "
             "each connected component counts as one")
    return connected_components(classes > 0)
