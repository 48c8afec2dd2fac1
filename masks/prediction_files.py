"""The files of predictions and labels: masks, probabilities, numbered objects.

A prediction is `<stem>_pred.png`, as Main.py and Predict.py write it.  `<stem>_prob.npy` and
`<stem>_instances.tif` may lie beside it.  Its label is `<stem>.*` in another folder (or
`<stem><ending>.*`, where all labels share the ending), where
`<stem>_instances.tif` may lie too.  MakeData.py puts CoNSeP's numbered nuclei into
`instances/<stem>.png` beside `labels/`.
"""
import io
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image

from command.errors import DataError, say_once
from command.files import atomic_write
from command.names import find_file, without_ome
from datasets.labels import IGNORED, as_classes, as_objects, check_some_counts
from datasets.pairs import find_ending, say_ending
from images.formats import check_shape, list_images
from images.reading import examine_file, label_pages_of
from images.writing import page_writer
from masks.objects import connected_components


class PredictedPair(NamedTuple):
    """The files of one image."""
    stem: str         # as `stem_of` gives it
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
    partner.  The labels may share an ending, such as `_mask`, and a line says so.
    """
    labels, predictions = _list_masks(label_directory), _list_masks(prediction_directory)
    predictions = _named_predictions(predictions) or predictions
    for folder, files in ((prediction_directory, predictions), (label_directory, labels)):
        if not files:
            raise DataError(f"{folder}: no images here")
    ending = find_ending(labels, predictions)
    if ending:
        say_ending(label_directory, ending)
    labels = {stem.removesuffix(ending): path for stem, path in labels.items()}
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


def _named_predictions(masks):
    """{stem: path} of those of {stem: path} that are named `<stem>_pred` or `<stem>.ome_pred`."""
    named = {}
    for stem, path in masks.items():
        if stem.endswith("_pred"):
            other = named.setdefault(without_ome(stem.removesuffix("_pred")), path)
            if other != path:
                raise DataError(f"{path}: {other.name} is of the same image; keep one of the two")
    return named


def _list_masks(folder):
    return {stem: path for stem, path in list_images(folder).items()
            if not stem.endswith("_instances")}


class Wanted(NamedTuple):
    """What `read_answers` shall give of each image."""
    n_classes: int
    ignore_label: Optional[int] = None     # stored value of label pixels that are not scored
    instances: bool = False                # whether numbered objects
    probability: bool = False              # whether probabilities
    predictions_are_numbers: bool = False  # whether the predictions' values number objects
    labels_are_numbers: bool = False       # whether the labels' do


class PageAnswers(NamedTuple):
    """What is scored of one image, or of one page of a stack."""
    name: str
    prediction: Answer
    label: Answer


def read_answers(pair, wanted):
    """Yield the PageAnswers of a PredictedPair: one, or one a page, named <stem>[1], <stem>[2] ...

    The label's pixels of the stored value `ignore_label` are IGNORED.  Instances and probabilities
    are None unless they are Wanted.  Raises DataError for files that do not fit together.
    """
    prediction, label = (examine_file(path) for path in (pair.prediction, pair.label))
    check_pages(prediction, label)
    check_shape(pair.prediction, (prediction.height, prediction.width),
                pair.label, (label.height, label.width))
    count = len(label.pages)
    truths = read_masks(label, label.path.stem, wanted, wanted.ignore_label)
    answers = read_masks(prediction, stem_of_prediction(prediction.path), wanted)
    for page, (truth, answer) in enumerate(zip(truths, answers)):
        check_some_counts(pair.label, (truth.classes != IGNORED).any(), wanted.ignore_label)
        instances = true_instances = probability = None
        if wanted.instances:
            instances = find_instances(answer, wanted.predictions_are_numbers)
            true_instances = find_instances(truth, wanted.labels_are_numbers, wanted.ignore_label)
        if wanted.probability:
            probability = read_probability(probability_path(pair), truth.classes.shape,
                                           wanted.n_classes, page, count)
        yield PageAnswers(pair.stem if count == 1 else f"{pair.stem}[{page + 1}]",
                          Answer(answer.classes, instances, probability),
                          Answer(truth.classes, true_instances, None))


class Mask(NamedTuple):
    """A page of a mask file, and of the file of numbered objects beside it."""
    path: Path
    stored: np.ndarray             # (H, W), the values
    classes: np.ndarray            # (H, W), the same as class indices
    numbered: Optional[Path]       # the file of the numbers
    numbers: Optional[np.ndarray]  # (H, W)


def read_masks(file, stem, wanted, ignore_label=None):
    """Yield the Masks in an ImageFile; stem: of the image that they are of."""
    numbered = find_numbers(file, stem) if wanted.instances else None
    path = numbered and numbered.path
    numbers = label_pages_of(numbered) if numbered else repeat(None)
    for stored, number in zip(label_pages_of(file), numbers):
        classes = as_classes(file.path, stored, wanted.n_classes, ignore_label)
        yield Mask(file.path, stored, classes, path, number)


def find_instances(mask, are_numbers, ignore_label=None):
    """The objects in a Mask: (H, W) int32, 0 is background, IGNORED where its class is.

    They come from the first of these that there is: the file of numbered objects; the stored values
    where these number objects (`are_numbers`); the 8-connected components of the classes above 0,
    of which a line on stderr tells.
    """
    if mask.numbered:
        instances = as_objects(mask.numbered, mask.numbers)
    elif are_numbers:
        instances = as_objects(mask.path, mask.stored, ignore_label)
    else:
        say_once(f"{mask.path.parent}: no numbered objects (<stem>_instances.tif, or labels of 16 "
                 "bits): each connected component counts as one")
        instances = connected_components(mask.classes > 0)
    instances[mask.classes == IGNORED] = IGNORED
    return instances


def find_numbers(file, stem):
    """The ImageFile of the numbered objects that lie beside that of a mask; None without any.

    They are in `<stem>_instances.tif` beside the mask, or in `instances/<stem>.png` beside a folder
    `labels`.  Raises DataError where they have not the mask's size and pages.
    """
    places = [file.path.with_name(f"{stem}_instances.tif")]
    if file.path.parent.name == "labels":
        places.append(file.path.parent.with_name("instances") / f"{stem}.png")
    found = next((place for place in map(find_file, places) if place.exists()), None)
    if found is None:
        return None
    numbered = examine_file(found)
    check_shape(found, (numbered.height, numbered.width), file.path, (file.height, file.width))
    check_pages(numbered, file)
    return numbered


def check_pages(file, other):
    """Raise DataError where two ImageFiles differ in the number of their images."""
    counts = len(file.pages), len(other.pages)
    if counts[0] != counts[1]:
        raise DataError(f"{file.path}: has {counts[0]} pages, but {other.path} has {counts[1]}; "
                        "one is needed for each image")


# ---------------------------------------------------------------------------------------- the masks
def write_predictions(folder, predictions):
    """Write {name: answers.Prediction}: `<name>_pred.png`, of objects `<name>_instances.tif` too.

    The objects of an older mask, which is replaced, are removed where the new one has none.
    """
    for name, prediction in predictions.items():
        numbers = Path(folder) / f"{name}_instances.tif"
        if prediction.objects is None:
            numbers.unlink(missing_ok=True)
        else:
            pixels = read_png(prediction.objects).astype(np.uint16)
            with page_writer(numbers, 1, *pixels.shape) as add:
                add(pixels)
        with atomic_write(Path(folder) / f"{name}_pred.png") as temporary:
            temporary.write_bytes(prediction.mask)


def read_png(content):
    """The pixels of a PNG file's bytes."""
    with Image.open(io.BytesIO(content)) as file:
        return np.asarray(file)


def read_prediction(mask, n_classes):
    """The predicted classes, (H, W) integers; mask: the path of a PNG, or a file that holds one."""
    with Image.open(mask) as file:
        pixels = np.asarray(file)
    return pixels // 255 if n_classes == 2 else pixels


# -------------------------------------------------------------------------------- the probabilities
def probability_path(pair):
    """Where the probabilities of a PredictedPair lie, if there are any."""
    return find_file(pair.prediction.with_name(f"{stem_of_prediction(pair.prediction)}_prob.npy"))


def read_probability(path, shape, n_classes, page=0, count=1):
    """A `.npy` file of float probabilities as a (C, H, W) array.

    The file holds (C, H, W), or with two classes (H, W) or (1, H, W) of class 1; for a stack of
    `count` pages as many of these, of which that of `page` is read.  Raises DataError for anything
    else; shape: the (H, W) that it must have.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - for a damaged file NumPy raises almost any error
        raise DataError(f"{path}: not a readable .npy file ({error}); write it again") from None
    if not isinstance(stored, np.ndarray) or stored.dtype.kind != "f":
        raise DataError(f"{path}: not an array of floats; save probabilities with numpy.save")
    if count > 1:
        if stored.ndim < 3 or len(stored) != count:
            raise DataError(f"{path}: shape {stored.shape}, but its prediction has {count} "
                            "pages; write both with `python Predict.py --probabilities`")
        stored = stored[page]
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
