"""A tested image's answer: objects get their border back; scores counted by hand.  NumPy only."""
import io
from types import SimpleNamespace

import numpy as np
import pytest
from nuclei import nuclei_set
from PIL import Image

from datasets.labels import IGNORED
from datasets.objects import training_target
from datasets.survey import Survey
from masks.assess import assess
from masks.object_scores import instance_scores
from masks.pixel_scores import mean_scores, scores
from masks.score_rows import (CHOOSERS, OF_OBJECTS, ROWS, baselines_of_set, format_scores,
                              name_chooser, rows_of, rows_of_kind)


def make_set(*objects):
    """What `assess` asks of a SegmentationSet whose labels are these numbered objects."""
    return SimpleNamespace(are_objects=True, n_classes=2, objects=lambda k: objects[k],
                           classes_of=lambda numbers: np.minimum(numbers, 1))


def logits_of_mask(mask):
    """Logits, (2, H, W) float32, of which this mask is the class map."""
    return np.stack([0 * mask, np.where(mask, 2.0, -2.0)]).astype(np.float32)


def mask_of(prediction):
    return np.asarray(Image.open(io.BytesIO(prediction.mask)))


def two_touching():
    """Two objects of 6 x 5 px that touch, numbered 7 and 3, on a ground of 14 x 14 px."""
    label = np.zeros((14, 14), np.int32)
    label[2:8, 2:7], label[2:8, 7:12] = 7, 3
    return label


def test_what_the_net_learns_is_a_perfect_answer():
    """Its target lacks the border of 2 x 6 px, which comes back; no outline moves."""
    label = two_touching()
    target = training_target(label) > 0
    assert (label > 0).sum() - target.sum() == 12
    found = assess(logits_of_mask(target), make_set(label), 0)
    assert found.scores == dict.fromkeys(("iou", "dice", "f1", "aji", "pq"), 1.0)
    assert (mask_of(found) == 255 * (label > 0)).all()


def test_objects_that_run_together():
    """All 60 px are one component: each true object shares 30 of its 60 px with it."""
    label = two_touching()
    found = assess(logits_of_mask(label > 0), make_set(label), 0)
    assert found.scores["iou"] == 1 and found.scores["pq"] == 0
    assert found.scores["aji"] == (30 + 30) / (60 + 60)


def test_a_part_of_an_object_and_one_too_many():
    """Found: 4 of 5 columns of object 7, all of object 3, and 2 x 2 px in a corner.

    The gap is one column: it goes to object 7, which comes first of two that are equally near.
    """
    label = two_touching()
    mask = label > 0
    mask[:, 6] = False
    mask[12:, :2] = True
    found = assess(logits_of_mask(mask), make_set(label), 0)
    assert (mask_of(found)[2:8, 6] == 255).all()
    assert found.scores["aji"] == pytest.approx((30 + 30) / (30 + 30 + 4))
    assert found.scores["pq"] == pytest.approx(2 / (2 + 1 / 2)), "two matches, one too many"
    assert found.scores["iou"] == pytest.approx(60 / 64)
    assert found.scores["dice"] == pytest.approx(120 / 124)


def test_ignored_pixels_count_nowhere():
    """The last two columns of object 3 are ignored, and so is an answer there."""
    label = two_touching()
    label[:, 10:] = IGNORED
    mask = training_target(two_touching()) > 0
    mask[:, 10:] = True
    dataset = make_set(label)
    dataset.label = lambda index: np.where(label == IGNORED, IGNORED, label > 0)
    found = assess(logits_of_mask(mask), dataset, 0)
    assert found.scores == dict.fromkeys(("iou", "dice", "f1", "aji", "pq"), 1.0)


def test_classes_are_scored_as_ever():
    label = np.minimum(two_touching(), 1)
    mask = training_target(two_touching()) > 0
    dataset = SimpleNamespace(are_objects=False, n_classes=2, label=lambda index: label)
    found = assess(logits_of_mask(mask), dataset, 0)
    assert found.scores == scores(mask.astype(int), label)
    assert (mask_of(found) == 255 * mask).all(), "no border comes back"


def test_rows_of_scores():
    assert [row.key for row in ROWS] == ["iou", "dice", "f1", "aji", "pq"]
    assert len({getattr(row, field) for row in ROWS for field in ("tag", "colour")}) == 10
    assert rows_of_kind("objects") == ROWS and rows_of_kind("classes") == ROWS[:3]
    assert rows_of({"pq": 1}, {"iou": 0}) == (ROWS[0], ROWS[4])
    assert rows_of() == rows_of({"epoch": 1}) == ROWS[:3], "a run that nothing is known of"
    assert CHOOSERS == ("iou", "dice", "aji", "pq") and OF_OBJECTS == ("aji", "pq")
    assert (name_chooser("iou"), name_chooser("pq")) == ("", " by PQ")
    found = {"epoch": 3, "pq": 0.25, "aji": 0.5, "iou": 0.75}
    assert format_scores(found) == "IoU 0.7500  AJI 0.5000  PQ 0.2500"


# --------------------------------------------------------------------------------------- a data set
def test_perfect_masks_of_touching_nuclei(tmp_path):
    dataset = nuclei_set(tmp_path, count=3)
    for index in range(len(dataset)):
        objects = dataset.objects(index)
        target = dataset.target(index) > 0
        assert (target != (objects > 0)).sum() > 50, "they touch"
        found = assess(logits_of_mask(target), dataset, index).scores
        assert min(found["aji"], found["pq"]) > 0.97 and found["iou"] > 0.97


@pytest.mark.parametrize("ignore_label", [None, 2])
def test_baselines_of_a_set_of_objects(tmp_path, ignore_label):
    dataset = nuclei_set(tmp_path, 2, ignore_label=ignore_label)
    found = baselines_of_set(dataset, Survey())
    for name, answer in (("all foreground", 1), ("all background", 0)):
        each = []
        for index in range(len(dataset)):
            objects = dataset.objects(index)
            assert (objects == IGNORED).any() == (ignore_label is not None)
            constant = np.full_like(objects, answer)
            of_objects = instance_scores(constant, objects, IGNORED)
            each.append({**scores(constant, dataset.label(index), 2, IGNORED),
                         "aji": of_objects["aji"], "pq": of_objects["pq"]})
        assert found[name] == pytest.approx(mean_scores(each))
    dataset.label_kind = "classes"
    assert set(baselines_of_set(dataset, Survey())["all foreground"]) == {"iou", "dice", "f1"}
