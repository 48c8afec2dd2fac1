"""Files of predictions: what pairs with what, and which files are refused."""
import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from command.errors import DataError, say_first_time
from datasets.labels import IGNORED
from images.formats import write_png
from images.reading import examine_file
from masks.prediction_files import (PredictedPair, Wanted, find_instances, pair_predictions,
                                    read_answers, read_masks, read_probability)
from masks.prediction_kinds import decide_folder

PIXELS = np.zeros((4, 5), np.uint8)


def make_files(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(PIXELS).save(folder / name)
    return folder


def refused(call, *arguments):
    """The message of the DataError that a call raises."""
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return str(caught.value)


# -------------------------------------------------------------------------------------------- pairs
def test_predictions_are_found_by_their_suffix(tmp_path):
    labels = make_files(tmp_path / "labels", "b.png", "a.tif", "a_instances.tif")
    predictions = make_files(tmp_path / "results", "a_pred.png", "b_pred.tif", "a_instances.tif",
                             "overview.png")
    assert pair_predictions(predictions, labels) == [
        ("a", predictions / "a_pred.png", labels / "a.tif"),
        ("b", predictions / "b_pred.tif", labels / "b.png")]
    plain = make_files(tmp_path / "plain", "b.bmp", "a.png", "b_instances.tif")
    assert pair_predictions(plain, labels) == [("a", plain / "a.png", labels / "a.tif"),
                                               ("b", plain / "b.bmp", labels / "b.png")]


def test_labels_may_share_an_ending(tmp_path, capsys):
    labels = make_files(tmp_path / "labels", "a_cp_masks.png", "b_cp_masks.tif")
    results = make_files(tmp_path / "results", "a_pred.png", "b_pred.png")
    assert pair_predictions(results, labels) == [
        ("a", results / "a_pred.png", labels / "a_cp_masks.png"),
        ("b", results / "b_pred.png", labels / "b_cp_masks.tif")]
    assert "common ending _cp_masks is left out" in capsys.readouterr().out
    make_files(results, "c_pred.png")
    assert "c_pred.png: no label c.*" in refused(pair_predictions, results, labels)
    same = make_files(tmp_path / "same", "a_cp_masks.png", "b_cp_masks.png")
    assert [pair.stem for pair in pair_predictions(same, labels)] == ["a_cp_masks", "b_cp_masks"]


def test_a_file_without_its_partner_is_named(tmp_path):
    labels = make_files(tmp_path / "labels", "a.png", "b.png")
    few = make_files(tmp_path / "few", "a_pred.png", "b.png")
    message = refused(pair_predictions, few, labels)
    assert "labels/b.png: no prediction b_pred.png or b.*" in message
    many = make_files(tmp_path / "many", "a_pred.png", "b_pred.png", "c_pred.png")
    assert "many/c_pred.png: no label c.*" in refused(pair_predictions, many, labels)
    twice = make_files(tmp_path / "twice", "a_pred.png", "a.ome_pred.png", "b_pred.png")
    message = refused(pair_predictions, twice, labels)
    assert "twice/a_pred.png: a.ome_pred.png is of the same image; keep one of the two" in message
    empty = make_files(tmp_path / "empty")
    assert "empty: no images here" in refused(pair_predictions, empty, labels)
    assert "empty: no images here" in refused(pair_predictions, labels, tmp_path / "empty")
    assert "nowhere: no such folder" in refused(pair_predictions, tmp_path / "nowhere", labels)


# ------------------------------------------------------------------------------------ probabilities
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_of_each_shape(tmp_path, dtype):
    p = np.random.default_rng(0).random((4, 5)).astype(dtype)
    for stored in (p, p[None], np.stack([1 - p, p]), np.asfortranarray(p)):
        np.save(tmp_path / "p.npy", stored)
        found = read_probability(tmp_path / "p.npy", (4, 5), 2)
        assert found.shape == (2, 4, 5) and (found[1] == p).all()
        assert np.allclose(found.sum(axis=0), 1)
    three = np.stack([p / 2, p / 2, 1 - p])
    np.save(tmp_path / "p.npy", three)
    assert (read_probability(tmp_path / "p.npy", (4, 5), 3) == three).all()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, np.zeros((4, 5)))
    return buffer.getvalue()


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("the-bomb-went-off",)


GOOD = np.full((4, 5), 0.5, np.float32)


@pytest.mark.parametrize("content, words", [
    (b"", "not a readable .npy"), (b"nonsense", "not a readable .npy"),
    (npy(GOOD)[:-1], "not a readable .npy"),
    (npy(GOOD)[:40], "not a readable .npy"), (npz(), "not an array of floats"),
    (npy(np.array([[Bomb()]], object), allow_pickle=True), "not a readable .npy"),
    (pickle.dumps(Bomb()), "not a readable .npy"),
    (npy(GOOD > 0), "not an array of floats"),
    (npy((GOOD * 510).astype(np.uint8)), "not an array of floats"),
    (npy(GOOD.T), r"shape (5, 4), but --n_classes 2 and its label want (2, 4, 5) or (4, 5)"),
    (npy(np.stack([GOOD] * 3)), "shape (3, 4, 5)"), (npy(GOOD[:0]), "p.npy"),
    (npy(GOOD * np.nan), "NaN"), (npy(GOOD * 3), "outside 0 ... 1"),
    (npy(-GOOD), "outside 0 ... 1")])
def test_bad_probabilities_are_refused(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.npy").write_bytes(content)
    message = refused(read_probability, tmp_path / "p.npy", (4, 5), 2)
    assert words in message and "p.npy: " in message
    assert not (tmp_path / "the-bomb-went-off").exists()


# ---------------------------------------------------------------------------------------- instances
def instances_in(path, stem, n_classes):
    """The objects of a mask file, as Metrics.py reads them."""
    are_numbers = decide_folder([path], n_classes, None).are_numbers
    mask, = read_masks(examine_file(path), stem, Wanted(n_classes, instances=True))
    return find_instances(mask, are_numbers).tolist()


def test_where_instances_come_from(tmp_path):
    path, numbers = tmp_path / "a_pred.png", np.array([[0, 700, 700, 3, 3]], np.uint16)
    write_png(path, (numbers > 0).astype(np.uint8) * 255)

    def found(n_classes):
        return instances_in(path, "a", n_classes)
    assert found(2) == [[0, 1, 1, 1, 1]], "components"
    write_png(path, numbers)
    assert found(2) == numbers.tolist(), "16 bits, several numbers"
    assert found(701) == [[0, 1, 1, 1, 1]], "numbers of classes"
    write_png(path, (numbers > 0).astype(np.uint16) * 65535)
    assert found(2) == [[0, 1, 1, 1, 1]], "16 bits, but a mask"
    mirrored = numbers[:, ::-1].copy()
    Image.fromarray(mirrored).save(tmp_path / "a_instances.tif", compression="tiff_adobe_deflate")
    assert found(2) == mirrored.tolist(), "a file of its own"
    Image.fromarray(numbers[:, 1:].copy()).save(tmp_path / "a_instances.tif")
    assert "a_instances.tif: 1 x 4 px" in refused(instances_in, path, "a", 2)


def test_instances_of_a_label_lie_where_makedata_puts_them(tmp_path, monkeypatch, capsys):
    """Classes in labels/, numbered nuclei in instances/: two that touch stay two.

    Folders of other names have no such neighbour.
    """
    say_first_time.cache_clear()
    numbers = np.array([[0, 700, 700, 3, 3]], np.uint16)
    classes = np.array([[0, 2, 2, 4, 4]], np.uint8)
    for folder in ("labels", "instances", "results"):
        (tmp_path / folder).mkdir()
    write_png(tmp_path / "instances" / "a.png", numbers)
    for folder, expected in (("labels", numbers.tolist()), ("results", [[0, 1, 1, 1, 1]])):
        write_png(tmp_path / folder / "a.png", classes)
        assert instances_in(tmp_path / folder / "a.png", "a", 5) == expected
    assert capsys.readouterr().err == (
        f"{tmp_path}/results: no numbered objects (<stem>_instances.tif, or labels of 16 bits): "
        "each connected component counts as one\n")
    write_png(tmp_path / "instances" / "a.png", numbers[:, 1:])
    message = refused(instances_in, tmp_path / "labels" / "a.png", "a", 5)
    assert "instances/a.png: 1 x 4 px" in message


# ------------------------------------------------------------------------------------------- a pair
def test_a_pair(tmp_path):
    stored = np.array([[0, 255, 128, 255, 0]], np.uint8)
    write_png(tmp_path / "a.png", stored)
    write_png(tmp_path / "a_pred.png", stored)
    np.save(tmp_path / "a_prob.npy", stored / 255)
    pair = PredictedPair("a", tmp_path / "a_pred.png", tmp_path / "a.png")
    (name, answer, truth), = read_answers(
        pair, Wanted(2, 128, instances=True, probability=True))
    assert name == "a"
    assert answer.classes.tolist() == [[0, 1, 1, 1, 0]]
    assert truth.classes.tolist() == [[0, 1, IGNORED, 1, 0]]
    assert answer.instances.tolist() == [[0, 1, 1, 1, 0]]
    assert truth.instances.tolist() == [[0, 1, IGNORED, 2, 0]]
    assert (answer.probability[1] == stored / 255).all() and truth.probability is None
    (_, answer, truth), = read_answers(pair, Wanted(2))
    assert truth.classes.tolist() == [[0, 1, 1, 1, 0]]
    assert answer.instances is answer.probability is truth.instances is None


def test_a_pair_that_does_not_fit(tmp_path):
    write_png(tmp_path / "a.png", PIXELS)
    write_png(tmp_path / "a_pred.png", PIXELS[:3])
    pair = PredictedPair("a", tmp_path / "a_pred.png", tmp_path / "a.png")
    message = refused(lambda: list(read_answers(pair, Wanted(2))))
    assert "a_pred.png: 3 x 5 px (height x width), but" in message
    assert "a.png has 4 x 5 px" in message
    write_png(tmp_path / "a_pred.png", PIXELS)
    assert "every pixel has the value 0" in refused(lambda: list(read_answers(pair, Wanted(2, 0))))
