"""Scores against counts made by hand and against sets of pixels."""
import numpy as np
import pytest

from Metrics import all_foreground_baseline, confusion_matrix, constant_baselines, mean_scores, scores

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
    prediction = np.array([[0, 1, 2, 2, 3]])  # class 1: 1 of 2; class 2: 1 of 3; class 3: only predicted; 4: nowhere
    expected = {"iou": (1 / 2 + 1 / 3 + 0) / 3, "dice": (2 / 3 + 2 / 4 + 0) / 3, "f1": (2 / 3 + 2 / 4 + 0) / 3}
    assert scores(prediction, label, 5) == pytest.approx(expected)


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
        assert found == pytest.approx({"iou": np.mean(iou), "dice": np.mean(dice), "f1": np.mean(dice)})


def test_no_overflow_in_small_types():
    label = np.full((3, 3), 255, np.uint8)
    assert confusion_matrix(label, label, 256)[255, 255] == 9


def test_bool_masks():
    assert scores(PREDICTION > 0, LABEL > 0) == scores(PREDICTION, LABEL)


@pytest.mark.parametrize("prediction, label, n_classes", [
    (LABEL, LABEL[:4], 2), (LABEL.ravel(), LABEL, 2), (LABEL * 255, LABEL, 2), (LABEL, LABEL * 2, 2),
    (-LABEL, LABEL, 2), (LABEL * 0.5, LABEL, 2), (LABEL, LABEL, 1)])
def test_refuses_what_does_not_fit(prediction, label, n_classes):
    with pytest.raises(ValueError):
        scores(prediction, label, n_classes)


def test_mean_scores():
    found = mean_scores([{"iou": 0.2, "dice": 1.0}, {"iou": 0.4, "dice": 0.0}])
    assert found == pytest.approx({"iou": 0.3, "dice": 0.5})
    with pytest.raises(ValueError):
        mean_scores([])


def test_all_foreground_baseline():
    found = all_foreground_baseline(label for label in (LABEL, np.ones_like(LABEL)))
    assert found == pytest.approx({"iou": (6 / 25 + 1) / 2, "dice": (12 / 31 + 1) / 2, "f1": (12 / 31 + 1) / 2})


def test_all_foreground_baseline_takes_the_best_class():
    label = np.array([[0, 1, 2, 2]], np.uint8)
    assert all_foreground_baseline([label], 3) == pytest.approx(scores(np.full((1, 4), 2), label, 3))


def test_constant_baselines():
    """Background everywhere is right only where there is nothing else."""
    empty = np.zeros_like(LABEL)
    found = constant_baselines(label for label in (LABEL, empty, empty, LABEL))
    assert found == {"all foreground": pytest.approx({"iou": 6 / 50, "dice": 12 / 62, "f1": 12 / 62}),
                     "all background": {"iou": 0.5, "dice": 0.5, "f1": 0.5}}
    assert constant_baselines([LABEL * 2], 3)["all background"] == {"iou": 0, "dice": 0, "f1": 0}
