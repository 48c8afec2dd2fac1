"""Scores against counts made by hand and sets of pixels; the command against the library."""
import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from images.formats import write_png
from masks.object_scores import at_best_threshold, instance_scores, isbi_scores
from masks.objects import connected_components
from masks.pixel_scores import (CHOOSING, DISTINCT, SCORES, ClassCounts, average_precision,
                                baselines_of_counts, best_constant, class_scores,
                                confusion_matrix, constant_baselines, count_pixels,
                                mean_scores, precision_at_recalls, precision_recall_curve, scores)
from masks.score_rows import format_scores

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("--Prediction_directory", "results", "--Label_directory", "labels")

LABEL = np.array([[0, 0, 0, 0, 0],
                  [0, 1, 1, 1, 0],
                  [0, 1, 1, 1, 0],
                  [0, 0, 0, 0, 0],
                  [0, 0, 0, 0, 0]])
PREDICTION = np.array([[0, 0, 0, 0, 0],
                       [0, 0, 1, 1, 1],
                       [0, 0, 1, 1, 1],
                       [0, 0, 0, 0, 1],
                       [0, 0, 0, 0, 0]])  # 4 pixels in both, 7 predicted, 6 in the label


def test_confusion_matrix_by_hand():
    matrix = confusion_matrix(PREDICTION, LABEL, 2)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[16, 3], [2, 4]]


def test_scores_by_hand():
    assert scores(PREDICTION, LABEL) == pytest.approx({"iou": 4 / 9, "dice": 8 / 13, "f1": 8 / 13})
    assert all(type(value) is float for value in scores(PREDICTION, LABEL).values())


def test_identical_and_disjoint():
    assert scores(LABEL, LABEL) == {"iou": 1, "dice": 1, "f1": 1}
    assert scores(1 - LABEL, LABEL) == {"iou": 0, "dice": 0, "f1": 0}


def test_empty_masks():
    empty = np.zeros_like(LABEL)
    assert scores(empty, empty) == {"iou": 1, "dice": 1, "f1": 1}
    assert scores(empty, LABEL) == scores(LABEL, empty) == {"iou": 0, "dice": 0, "f1": 0}
    assert scores(empty, empty, 4) == {"iou": 1, "dice": 1, "f1": 1}


def test_several_classes_by_hand():
    label = np.array([[0, 1, 1, 2, 2]])
    # class 1: 1 pixel of 2; class 2: 1 of 3; class 3: only predicted; class 4: nowhere
    prediction = np.array([[0, 1, 2, 2, 3]])
    iou, dice = (1 / 2 + 1 / 3 + 0) / 3, (2 / 3 + 2 / 4 + 0) / 3
    assert scores(prediction, label, 5) == pytest.approx({"iou": iou, "dice": dice, "f1": dice})


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_random_images_equal_sets_of_pixels(n_classes):
    rng = np.random.default_rng(n_classes)
    for _ in range(20):
        prediction, label = rng.integers(0, n_classes, (2, 9, 7))
        iou, dice = [], []
        for value in range(1, n_classes):
            ours, theirs = (set(np.flatnonzero(image == value)) for image in (prediction, label))
            iou.append(len(ours & theirs) / len(ours | theirs))
            dice.append(2 * len(ours & theirs) / (len(ours) + len(theirs)))
        found = scores(prediction.astype(np.uint8), label.astype(np.int32), n_classes)
        expected = {"iou": np.mean(iou), "dice": np.mean(dice), "f1": np.mean(dice)}
        assert found == pytest.approx(expected)


def test_no_overflow_in_small_types():
    label = np.full((3, 3), 255, np.uint8)
    assert confusion_matrix(label, label, 256)[255, 255] == 9


def test_bool_masks():
    assert scores(PREDICTION > 0, LABEL > 0) == scores(PREDICTION, LABEL)


@pytest.mark.parametrize("prediction, label, n_classes", [
    (LABEL, LABEL[:4], 2), (LABEL.ravel(), LABEL, 2), (LABEL * 255, LABEL, 2),
    (LABEL, LABEL * 2, 2), (-LABEL, LABEL, 2), (LABEL * 0.5, LABEL, 2), (LABEL, LABEL, 1)])
def test_refuses_what_does_not_fit(prediction, label, n_classes):
    with pytest.raises(ValueError):
        scores(prediction, label, n_classes)


def test_mean_scores():
    found = mean_scores([{"iou": 0.2, "dice": 1.0}, {"iou": 0.4, "dice": 0.0}])
    assert found == pytest.approx({"iou": 0.3, "dice": 0.5})
    assert mean_scores([{"iou": 0.2}, {"iou": math.nan}])["iou"] == 0.2, "NaN is left out"
    assert math.isnan(mean_scores([{"iou": math.nan}])["iou"])
    with pytest.raises(ValueError):
        mean_scores([])


def test_constant_baselines():
    """Background everywhere is right only where there is nothing else."""
    empty = np.zeros_like(LABEL)
    found = constant_baselines(label for label in (LABEL, empty, empty, LABEL))
    foreground = {"iou": 6 / 50, "dice": 12 / 62, "f1": 12 / 62}
    assert found == {"all foreground": pytest.approx(foreground),
                     "all background": {"iou": 0.5, "dice": 0.5, "f1": 0.5}}
    assert constant_baselines([LABEL * 2], 3)["all background"] == {"iou": 0, "dice": 0, "f1": 0}


def test_all_foreground_is_the_best_class():
    label = np.array([[0, 1, 2, 2]], np.uint8)
    expected = scores(np.full((1, 4), 2), label, 3)
    assert constant_baselines([label], 3)["all foreground"] == pytest.approx(expected)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_baselines_by_brute_force(n_classes):
    """From the labels and from their counts: to the last bit what arrays of one value score."""
    rng = np.random.default_rng(n_classes)
    for _ in range(10):
        # some classes are missing, some labels are empty, some pixels (-1) or all are ignored
        labels = [rng.integers(-1, rng.integers(0, n_classes + 1), rng.integers(1, 9, 2), np.int32)
                  for _ in range(rng.integers(1, 6))]
        counts = [[int((label == value).sum()) for value in range(n_classes)] for label in labels]
        background, *foreground = (
            mean_scores([scores(np.full(label.shape, value), label, n_classes, -1)
                         for label in labels]) for value in range(n_classes))
        expected = {"all foreground": max(foreground, key=lambda each: each["iou"]),
                    "all background": background}
        assert baselines_of_counts(counts) == constant_baselines(labels, n_classes, -1) == expected
        assert best_constant(expected)[1] == max(expected.values(), key=lambda each: each["iou"])
        for label, expected in zip(labels, counts):
            assert count_pixels(label, n_classes, -1).tolist() == expected
    narrow = np.full((20, 20), 1, np.uint8)
    assert constant_baselines([narrow])["all foreground"]["iou"] == 1
    found = baselines_of_counts(iter([np.array([200, 200], np.uint8)]))
    assert found["all foreground"]["iou"] == 0.5


@pytest.mark.parametrize("counts", [[], [[3]], [[1, 2], [1, 2, 3]], [3], [[[1, 2]]]])
def test_baselines_refuse_what_does_not_fit(counts):
    with pytest.raises(ValueError):
        baselines_of_counts(counts)
    with pytest.raises(ValueError):
        constant_baselines([LABEL * 2])
    with pytest.raises(ValueError):
        constant_baselines([])


# ------------------------------------------------------------------------------ the table of scores
def test_the_table_of_scores():
    """Today's three, in the order of the CSV; what they compute for one class is in [0, 1]."""
    assert [score.key for score in SCORES] == list(scores(LABEL, LABEL)) == ["iou", "dice", "f1"]
    assert [score.curve for score in SCORES] == ["IoU", "Dice = F1", ""] and DISTINCT == SCORES[:2]
    assert CHOOSING in [score.key for score in DISTINCT]
    for counts in (ClassCounts(0, 3, 0), ClassCounts(0, 0, 2), ClassCounts(2, 2, 2)):
        for score in SCORES:
            assert score.of_class(counts) == (1 if counts.hits else 0)
    found = scores(PREDICTION, LABEL)
    assert format_scores(found) == "IoU 0.4444  Dice 0.6154  F1 0.6154"
    assert format_scores(found, DISTINCT, ", ") == "IoU 0.4444, Dice 0.6154"


# ----------------------------------------------------------------------- ignored pixels, each class
def test_ignored_pixels_count_nowhere():
    marked = LABEL.copy()
    marked[:2] = 255
    prediction = PREDICTION.copy()
    prediction[0, 0] = 9  # what is predicted for an ignored pixel does not matter, a class or not
    expected = confusion_matrix(PREDICTION[2:], LABEL[2:])
    assert confusion_matrix(prediction, marked, 2, 255).tolist() == expected.tolist()
    assert scores(prediction, marked, ignore_label=255) == scores(PREDICTION[2:], LABEL[2:])
    assert scores(prediction, marked * 0 + 255, ignore_label=255) == {"iou": 1, "dice": 1, "f1": 1}
    assert constant_baselines([marked], ignore_label=255) == constant_baselines([LABEL[2:]])
    with pytest.raises(ValueError):
        scores(prediction, marked)


def test_class_scores_by_hand():
    label, prediction = np.array([[0, 0, 1, 1, 2, 2]]), np.array([[0, 1, 1, 1, 2, 0]])
    found = class_scores(confusion_matrix(prediction, label, 4))
    assert found["iou"].tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 2, math.nan], nan_ok=True)
    assert found["dice"].tolist() == pytest.approx([2 / 4, 4 / 5, 2 / 3, math.nan], nan_ok=True)
    assert found["mean_iou"] == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)
    assert math.isnan(class_scores(np.zeros((2, 2), np.int64))["mean_iou"])


# ----------------------------------------------------------------------------- precision and recall
@pytest.mark.parametrize("levels", [3, 10, 10 ** 6])
def test_average_precision_by_brute_force_over_the_thresholds(levels):
    rng = np.random.default_rng(levels)
    label = rng.random((13, 17)) > 0.7
    probability = rng.integers(0, levels, label.shape) / levels * 0.7 + 0.3 * label
    probability = probability.astype(np.float32)
    area, recall_before, curve = 0, 0, []
    for threshold in sorted(set(probability.ravel()), reverse=True):
        positive = probability >= threshold
        hits = (positive & label).sum()
        precision, recall = hits / positive.sum(), hits / label.sum()
        area, recall_before = area + (recall - recall_before) * precision, recall
        curve.append((precision, recall, threshold))
    found = precision_recall_curve(probability, label)
    np.testing.assert_allclose(np.transpose(found), curve)
    assert average_precision(*found[:2]) == pytest.approx(area)


def test_average_precision_by_hand():
    probability, label = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 0, 1, 0, 0])

    def ap(values):
        curve = precision_recall_curve(values, label)
        return average_precision(curve.precision, curve.recall)
    assert ap(probability) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert ap(label * 1.0) == 1
    assert ap(label * 0.0) == 2 / 5, "a constant: the share of positives"
    ignoring = precision_recall_curve(probability, np.array([1, 7, 1, 0, 0]), ignore_label=7)
    assert average_precision(*ignoring[:2]) == 1
    empty = precision_recall_curve(probability, label * 0)
    assert [len(part) for part in empty] == [0, 0, 0] and math.isnan(average_precision(*empty[:2]))


def test_the_pictures_precision_is_that_of_the_curves_steps():
    probability, label = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0])
    precision, recall, _ = precision_recall_curve(probability, label)
    found = precision_at_recalls(precision, recall)
    assert (found[:51] == 1).all() and (found[51:] == 2 / 3).all() and len(found) == 101
    assert found.mean() == pytest.approx(average_precision(precision, recall), abs=0.01)


@pytest.mark.parametrize("probability, label", [
    ([0.1, 0.2], [1]), ([0.1, math.nan], [0, 1]), ([0.1, 0.2], [0, 2]), ([0.1, 0.2], [-1, 1])])
def test_the_curve_refuses_what_does_not_fit(probability, label):
    with pytest.raises(ValueError):
        precision_recall_curve(np.array(probability), np.array(label))


# -------------------------------------------------------------------------------------- the command
def command(*flags, cwd=ROOT):
    return subprocess.run([sys.executable, str(ROOT / "Metrics.py"), *map(str, flags)], cwd=cwd,
                          text=True, capture_output=True, timeout=120, encoding="utf-8")


def read_csv(path):
    """{name of the row: {column: float or None}}"""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row.pop("image"): {key: float(value) if value else None for key, value in row.items()}
            for row in rows}


def of_two_classes(seed, shape):
    rng = np.random.default_rng(seed)
    label = ndimage.gaussian_filter(rng.random(shape), 1.5) > 0.49
    probability = ndimage.gaussian_filter(label.astype(float), 1)
    probability += 0.1 * rng.standard_normal(shape)
    return label, probability.clip(0, 1).astype(np.float32)


@pytest.fixture
def folders(tmp_path):
    """Two predictions with probabilities, and labels in which 128 marks what is to be ignored."""
    content = {}
    (tmp_path / "results").mkdir()
    (tmp_path / "labels").mkdir()
    for seed, (stem, shape) in enumerate({"b": (30, 41), "a": (27, 22)}.items()):
        label, probability = of_two_classes(seed, shape)
        stored = np.where(label, 255, 0).astype(np.uint8)
        stored[-4:] = 128
        write_png(tmp_path / "labels" / f"{stem}.png", stored)
        mask = np.where(probability > 0.5, 255, 0).astype(np.uint8)
        write_png(tmp_path / "results" / f"{stem}_pred.png", mask)
        np.save(tmp_path / "results" / f"{stem}_prob.npy", probability)
        content[stem] = (np.where(stored == 128, -1, label), probability)
    write_png(tmp_path / "results" / "overview.png", np.zeros((5, 5), np.uint8))
    return tmp_path, content


def test_the_classes_are_those_of_the_labels(tmp_path):
    """Main.py's own, unless --n_classes says otherwise: nothing is merged in silence."""
    rng = np.random.default_rng(2)
    label, prediction = rng.integers(0, 3, (2, 20, 30), np.uint8)
    for name, pixels in {"labels/a.png": label, "results/a_pred.png": prediction}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_png(tmp_path / name, pixels)
    flags = (*FOLDERS, "--metric", "pixel")
    done = command(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 classes, by the stored values; --n_classes 2 takes" in done.stdout
    assert f"{scores(prediction, label, 3)['iou']:.4f}" in done.stdout
    done = command(*flags, "--n_classes", 2, cwd=tmp_path)
    assert f"{scores(prediction > 0, label > 0)['iou']:.4f}" in done.stdout
    assert "by the stored values" not in done.stdout
    label[:9] = 255
    write_png(tmp_path / "labels/a.png", label)
    done = command(*flags, cwd=tmp_path)
    assert done.returncode == 1 and "labels: values up to 255; give --n_classes" in done.stderr
    assert command(*flags, "--ignore_label", 255, cwd=tmp_path).returncode == 0
    # numbered objects: 0, and any number above it
    write_png(tmp_path / "labels/a.png", label.astype(np.uint16))
    write_png(tmp_path / "results/a_pred.png", np.minimum(prediction, 1))
    done = command(*flags, cwd=tmp_path)
    assert done.returncode == 0 and f"{scores(prediction > 0, label > 0)['iou']:.4f}" in done.stdout
    assert done.stdout.startswith("labels: 16 bits, taken for numbered objects of one class; "
                                  "--n_classes N")
    # not one pixel of class 2 in the labels, but in the predictions
    write_png(tmp_path / "labels/a.png", np.minimum(label, 1).astype(np.uint8))
    write_png(tmp_path / "results/a_pred.png", prediction)
    assert "3 classes, by the stored values" in command(*flags, cwd=tmp_path).stdout


def test_the_command_writes_the_librarys_numbers(folders):
    folder, content = folders
    done = command(*FOLDERS, "--ignore_label", 128, "--curve_picture", "pictures/curve.png",
                   cwd=folder)
    no_numbers = (": no numbered objects (<stem>_instances.tif, or labels of 16 bits): "
                  "each connected component counts as one\n")
    assert (done.returncode, done.stderr) == (0, f"results{no_numbers}labels{no_numbers}")
    found = read_csv(folder / "results" / "scores.csv")
    assert list(found) == ["a", "b", "mean", "all foreground", "all background", "best threshold",
                           "all pixels together"]

    def expected(stem, classes, probability):
        label = content[stem][0]
        per_class = class_scores(confusion_matrix(classes, label, 2, -1))
        true = connected_components(label > 0)
        objects = instance_scores(connected_components(classes > 0),
                                  np.where(label < 0, -1, true), -1)
        curve = precision_recall_curve(probability, label, -1)
        return {**scores(classes, label, 2, -1), **objects, "mean_iou": per_class["mean_iou"],
                **{f"{key}_{k}": per_class[key][k] for key in ("iou", "dice") for k in (0, 1)},
                "ap": average_precision(*curve[:2])}
    of_isbi, thresholds = at_best_threshold(
        [isbi_scores(content[stem][1], content[stem][0], -1) for stem in "ab"])
    rows = [{**expected(stem, content[stem][1] > 0.5, content[stem][1]), **of_isbi[k]}
            for k, stem in enumerate("ab")]
    assert [found[stem] for stem in "ab"] == [pytest.approx(row, rel=1e-12) for row in rows]
    assert found["mean"] == pytest.approx(mean_scores(rows))
    best = {key: value for key, value in found["best threshold"].items() if value is not None}
    assert best == thresholds
    for name, value in (("all foreground", 1), ("all background", 0)):
        answers = [np.full(content[stem][0].shape, value) for stem in "ab"]
        constant = mean_scores([expected(stem, answer, answer.astype(float))
                                for stem, answer in zip("ab", answers)])
        assert {key: found[name][key] for key in constant} == pytest.approx(constant)
    together = sum(confusion_matrix(content[stem][1] > 0.5, content[stem][0], 2, -1)
                   for stem in "ab")
    assert found["all pixels together"]["iou_1"] == class_scores(together)["iou"][1]
    assert found["all pixels together"]["mean_iou"] == class_scores(together)["mean_iou"]

    table = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    keys = ("iou", "dice", "f1", "mean_iou")
    assert table["mean"][1:5] == [f"{found['mean'][key]:.4f}" for key in keys]
    assert table["all foreground"][2] == f"{found['all foreground']['iou']:.4f}"
    assert Image.open(folder / "pictures" / "curve.png").size[0] > 300


def test_the_command_without_probabilities_and_of_several_classes(tmp_path):
    rng = np.random.default_rng(3)
    label, prediction = rng.choice(3, (2, 12, 9), p=(0.2, 0.2, 0.6)).astype(np.uint8)
    for folder, pixels in (("labels", label), ("predictions", prediction)):
        (tmp_path / folder).mkdir()
        write_png(tmp_path / folder / "x.png", pixels)
    folders = ("--Prediction_directory", tmp_path / "predictions",
               "--Label_directory", tmp_path / "labels")
    done = command(*folders, "--n_classes", 3, "--csv", tmp_path / "out" / "s.csv")
    assert done.returncode == 0 and done.stderr.count("\n") == 3
    assert "AP left out" in done.stderr and "x_prob.npy: no such file" in done.stderr
    found = read_csv(tmp_path / "out" / "s.csv")
    assert found["x"]["iou"] == pytest.approx(scores(prediction, label, 3)["iou"])
    assert "ap" not in found["x"]
    assert found["x"]["v_rand"] == pytest.approx(isbi_scores(prediction > 0, label)["v_rand"].max())
    foreground = constant_baselines([label], 3)["all foreground"]
    assert found["all foreground"]["dice"] == pytest.approx(foreground["dice"])

    for metric, columns in (("pixel", 10), ("isbi", 3), ("instances", 5)):
        done = command(*folders, "--n_classes", 3, "--csv", tmp_path / "s.csv", "--metric", metric)
        assert done.returncode == 0
        assert len(read_csv(tmp_path / "s.csv")["x"]) == columns
    probability = rng.dirichlet([1, 1, 1], label.shape).transpose(2, 0, 1)
    np.save(tmp_path / "predictions" / "x_prob.npy", probability)
    done = command(*folders, "--n_classes", 3, "--csv", tmp_path / "s.csv", "--metric", "curve")
    curves = [precision_recall_curve(probability[value], label == value) for value in (1, 2)]
    assert read_csv(tmp_path / "s.csv")["x"]["ap"] == pytest.approx(
        np.mean([average_precision(*curve[:2]) for curve in curves]))


def test_the_command_refuses_in_one_line(folders):
    folder, _ = folders
    flags = ("--Prediction_directory", folder / "results", "--Label_directory", folder / "labels")
    (folder / "results" / "b_prob.npy").unlink()
    for more, code, words in (
            (("--metric", "curve"), 1, "b_prob.npy: no such file"),
            (("--curve_picture", folder / "c.png"), 1, "b_prob.npy: no such file"),
            (("--metric", "pixel", "--curve_picture", "c.png"), 2, "--curve_picture needs"),
            (("--csv", folder / "labels" / "a.png"), 2, "ends in .csv"),
            (("--csv", folder / "labels/a.png/s.csv", "--metric", "pixel"), 1, "a.png"),
            (("--n_classes", 3, "--metric", "pixel"), 1, "a.png: has the value 255"),
            (("--Label_directory", folder), 1, "no images here")):
        done = command(*flags, *more, cwd=folder)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
        assert words in done.stderr
    assert not list(folder.glob("**/*.csv"))


def test_a_set_without_foreground_has_no_curve(tmp_path):
    write_png(tmp_path / "x.png", np.zeros((6, 5), np.uint8))
    np.save(tmp_path / "x_prob.npy", np.zeros((6, 5), np.float32))
    flags = ("--Prediction_directory", tmp_path, "--Label_directory", tmp_path,
             "--csv", tmp_path / "s.csv")
    done = command(*flags)
    found = read_csv(tmp_path / "s.csv")["x"]
    assert done.returncode == 0 and found["ap"] is None and found["v_rand"] is None
    assert (found["iou"], found["aji"], found["pixel_error"], found["iou_1"]) == (1, 1, 0, None)
    done = command(*flags, "--curve_picture", tmp_path / "c.png")
    assert done.returncode == 1 and "no label has foreground" in done.stderr
    assert not (tmp_path / "c.png").exists()
