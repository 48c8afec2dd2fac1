"""What is chosen for the user: from images and labels by hand-made cases, from the machine's memory, never against a flag."""
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from backend import machine
from command.errors import DataError
from datasets import label_values, survey
from nets.geometry import geometry_of
from runs import choices

GREY, COLOUR = np.full((4, 5), 70, np.uint8), np.dstack([np.full((4, 5), value, np.uint8) for value in (70, 70, 71)])


def flags(folder, **given):
    chosen = dict.fromkeys(choices.CHOSEN)
    return Namespace(**{**chosen, "mode": "Unet", "geometry": geometry_of("Unet"), "ignore_label": None, "Time_budget": None,
                        "Datatxt_directory": folder, **given})


def pairs_of(folder, images, labels):
    """Write images and labels as PNG files: [(image path, label path)]."""
    pairs = []
    for k, pair in enumerate(zip(images, labels)):
        paths = tuple(folder / f"{kind}_{k}.png" for kind in ("image", "label"))
        for path, pixels in zip(paths, pair):
            Image.fromarray(pixels).save(path)
        pairs.append(paths)
    return pairs


@pytest.mark.parametrize("images, channels", [
    ([GREY, GREY], 1), ([np.repeat(GREY[..., None], 3, axis=2)], 1), ([GREY.astype(np.uint16) * 100], 1), ([GREY, COLOUR], 3)])
def test_colours(images, channels, tmp_path):
    pairs = pairs_of(tmp_path, images, [GREY] * len(images))
    assert survey.facts_of(pairs, [pairs[0][1]], None, tmp_path).n_channels == channels


@pytest.mark.parametrize("values, ignored, classes", [
    ([0, 255], None, 2), ([0, 1], None, 2), ([0], None, 2), ([0, 3], None, 2), ([0, 1, 2], None, 3), ([1, 4], None, 5),
    ([0, 17, 130, 255, 255], None, 2), ([0, 5, 32, 255, 255], None, 2),  # masks with soft edges
    ([0, 5, 31, 255, 255], None, 256),
    ([0, 1, 2, 1, 2, 1, 2, 255], None, 256), ([0, 1, 2, 255, 255, 255], None, 256), ([0, 1, 255, 255], None, 256),
    ([0, 128, 255, 255], None, 256),           # class numbers or a border, and 255: not labelled perhaps, for the user to say
    ([0, 1, 2, 255], 255, 3), ([0, 1, 2, 9], 300, 10), ([0, 1, 7], 7, 2)])
def test_classes(values, ignored, classes, tmp_path):
    pairs = pairs_of(tmp_path, [GREY], [np.array([values], np.uint8)])
    counts = label_values.count_label_values([pairs[0][1]], ignored)
    assert label_values.classes_in(counts) == classes


def test_facts_are_kept_until_a_file_changes(tmp_path, monkeypatch):
    pairs = pairs_of(tmp_path, [GREY, GREY], [np.eye(4, 5, dtype=np.uint8), np.eye(4, 5, dtype=np.uint8)])
    assert survey.facts_of(pairs, [pairs[0][1]], None, tmp_path) == (1, 2, 2, 4, 5)
    with monkeypatch.context() as patch:
        patch.setattr(choices, "read_label", lambda path: pytest.fail("read again"))
        assert survey.facts_of(pairs, [pairs[0][1]], None, tmp_path) == (1, 2, 2, 4, 5)
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).save(pairs[1][1])
    assert survey.facts_of(pairs, [pairs[0][1]], None, tmp_path) == (1, 20, 2, 4, 5)
    (tmp_path / "dataset_facts.json").write_text('{"key": 1')
    assert survey.facts_of(pairs, [pairs[0][1]], None, tmp_path) == (1, 20, 2, 4, 5)


def test_a_class_that_only_test_labels_have_counts_too(tmp_path):
    (tmp_path / "test").mkdir()
    pairs = pairs_of(tmp_path, [GREY], [np.eye(4, 5, dtype=np.uint8)])
    test_pairs = pairs_of(tmp_path / "test", [GREY], [np.eye(4, 5, dtype=np.uint8) + np.eye(4, 5, 1, dtype=np.uint8) * 2])
    args = flags(tmp_path)
    choices.choose(args, pairs, [], test_pairs, on_gpu=False)
    assert args.n_classes == 3
    Image.fromarray(np.eye(4, 5, dtype=np.uint8)).save(test_pairs[0][1])
    args = flags(tmp_path)
    choices.choose(args, pairs, [], test_pairs, on_gpu=False)
    assert args.n_classes == 2, "the file has changed"
    Image.fromarray(255 * np.eye(4, 5, dtype=np.uint8)).save(test_pairs[0][1])
    args = flags(tmp_path)
    choices.choose(args, pairs, [], test_pairs, on_gpu=False)
    assert args.n_classes == 2, "masks of 0 and 1, and masks of 0 and 255"
    Image.fromarray(np.arange(40, 60, dtype=np.uint8).reshape(4, 5)).save(test_pairs[0][1])
    with pytest.raises(DataError, match="test: values up to 59"):
        choices.choose(flags(tmp_path), pairs, [], test_pairs, on_gpu=False)


def test_numbers_of_objects_are_no_classes(tmp_path):
    pairs = pairs_of(tmp_path, [np.zeros((10, 10), np.uint8)], [np.arange(100, dtype=np.uint8).reshape(10, 10)])
    with pytest.raises(DataError, match="values up to 99; give --n_classes"):
        choices.choose(flags(tmp_path), pairs, [], pairs, on_gpu=False)
    args = flags(tmp_path, n_classes=2)
    choices.choose(args, pairs, [], pairs, on_gpu=False)
    assert args.n_classes == 2


def test_everything_is_chosen_and_no_flag_overruled(tmp_path):
    label = np.zeros((300, 200), np.uint8)
    label[:9], label[9:20] = 1, 2
    pairs = pairs_of(tmp_path, [np.dstack([label, label, label + 1])] * 3, [label] * 3)
    args = flags(tmp_path)
    reasons = choices.choose(args, pairs, [], pairs, on_gpu=False)
    assert tuple(reasons) == choices.CHOSEN
    assert (args.n_channels, args.n_classes, args.base_channels) == (3, 3, choices.BASE_CHANNELS["cpu"])
    assert (args.tile, args.Batch_size, args.Total_epochs) == (choices.CROP, choices.BATCH, choices.EPOCHS[1])
    assert args.Val_epochs == 1875
    given = dict(n_channels=1, n_classes=5, base_channels=8, tile="full", Batch_size=7, Total_epochs=3, Val_epochs=1)
    args = flags(tmp_path, **given)
    assert choices.choose(args, pairs, [], pairs, on_gpu=False) == {}
    assert args == flags(tmp_path, **given)


@pytest.mark.parametrize("tests, given, val", [
    (30, {}, 249), (60, {}, 291), (3000, {}, 332), (7, {}, 249), (60, {"Total_epochs": 8}, 7)])
def test_tests_take_no_more_images_than_a_quarter_of_the_crops(tests, given, val, tmp_path):
    args = flags(tmp_path, **given)
    pair, = pairs_of(tmp_path, [np.zeros((512, 512), np.uint8)], [np.eye(512, dtype=np.uint8)])
    choices.choose(args, [pair] * 30, [], [pair] * tests, on_gpu=False)
    assert args.Val_epochs == val
    args = flags(tmp_path, **given)
    choices.choose(args, [pair] * 30, [pair] * tests, [pair], on_gpu=False)
    assert args.Val_epochs == val, "held back, they are tested instead"


def test_what_may_be_numbers_of_objects_is_said(tmp_path):
    for largest, said in ((7, False), (12, True)):
        pairs = pairs_of(tmp_path, [GREY], [np.minimum(np.arange(20, dtype=np.uint8), largest).reshape(4, 5)])
        reasons = choices.choose(flags(tmp_path), pairs, [], pairs, on_gpu=False)
        assert ("if these number objects: --n_classes 2" in reasons["n_classes"]) is said


@pytest.mark.parametrize("images, given, total, val", [
    (30, {}, 333, 249), (1, {}, 2500, 1875), (5000, {}, 10, 7), (5000, {"Val_epochs": 40}, 41, 40),
    (30, {"Total_epochs": 1}, 1, 0), (30, {"Total_epochs": 200}, 200, 150), (30, {"Time_budget": 5}, 100_000, 0),
    (30, {"Time_budget": 5, "Total_epochs": 7, "Val_epochs": 2}, 7, 2)])
def test_epochs(images, given, total, val, tmp_path):
    args = flags(tmp_path, n_channels=1, n_classes=2, **given)
    pair, = pairs_of(tmp_path, [GREY], [GREY])
    choices.choose(args, [pair] * images, [], [pair], on_gpu=False)
    assert (args.Total_epochs, args.Val_epochs) == (total, val)


@pytest.mark.parametrize("share, batch", [(0.9, 4), (0.6, 2), (0.3, 1), (0.01, 1)])
def test_the_batch_fits_into_the_memory(share, batch, tmp_path, monkeypatch):
    args = flags(tmp_path, base_channels=64)
    four = 4 * choices.step_bytes(args, choices.CROP, choices.CROP)
    monkeypatch.setattr(choices, "free_memory", lambda: int(four / choices.LARGEST_SHARE / 0.9 * share))
    pairs = pairs_of(tmp_path, [np.zeros((512, 600), np.uint8)], [np.eye(512, 600, dtype=np.uint8)])
    choices.choose(args, pairs, [], pairs, on_gpu=False)
    assert args.Batch_size == batch


def test_a_gpu_gets_the_papers_width_and_a_batch_for_its_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "gpu_memory", lambda: 8 * 10 ** 9)
    args = flags(tmp_path)
    pairs = pairs_of(tmp_path, [np.zeros((512, 600), np.uint8)], [np.eye(512, 600, dtype=np.uint8)])
    reasons = choices.choose(args, pairs, [], pairs, on_gpu=True)
    assert (args.base_channels, args.Batch_size) == (64, 4)
    assert reasons["base_channels"] == "a GPU" and reasons["Batch_size"] == "3.6 GB of 8 GB of the GPU"


def test_the_free_memory_is_the_machines_or_less():
    with open("/proc/meminfo", encoding="ascii") as file:
        total = 1024 * int(next(line for line in file if line.startswith("MemTotal:")).split()[1])
    assert 2 ** 24 < machine.free_memory() <= total
