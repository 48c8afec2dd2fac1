"""What the values of labels mean: one rule for `MakeData.py check` and for Main.py."""
import shlex

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import Main
from command.errors import DataError
from datasets.label_rules import LabelSplit, judge_labels, warn_of
from datasets.labels import load_label
from images.formats import write_png
from runs.request import read_request

SIDES = (6, 8)


def split_of(name, *files):
    """A LabelSplit; files: {value: pixels} each."""
    return LabelSplit(name, {f"{name}/{k}": values for k, values in enumerate(files)})


ONE_TWO = [split_of("train", {1: 5, 2: 3}), split_of("test", {1: 5, 2: 3})]
ALL = "0 is in no label: all would be foreground; store the background as 0"


def test_labels_without_a_background():
    assert judge_labels(ONE_TWO, 2).problems == [f"train: {ALL}", f"test: {ALL}"]
    judged = judge_labels(ONE_TWO)
    assert judged.n_classes == 3 and len(judged.problems) == 2
    assert judged.problems[0].startswith("train/0: 2 in 37.50% of its pixels, but 0 is in no label")
    assert judge_labels(ONE_TWO, 3).problems == [], "classes 1 and 2 of three"
    mixed = [split_of("train", {0: 9, 1: 5, 2: 3}), split_of("test", {1: 5, 2: 3})]
    assert judge_labels(mixed, 2).problems == [f"test: {ALL}"]
    assert judge_labels(mixed).problems == []
    ones = [split_of("train", {1: 8}), split_of("test", {0: 4, 1: 4})]
    assert judge_labels(ones).problems == ["train: every label is empty (has one value only)"]


@pytest.mark.parametrize("one, two", [(1, 255), (255, 1), (1, 2), (128, 7), (255, 255)])
def test_each_split_may_have_its_own_foreground(one, two):
    splits = [split_of("train", {0: 9, one: 5}, {0: 3}), split_of("test", {0: 1, two: 5})]
    for n_classes in (None, 2):
        assert judge_labels(splits, n_classes)[:3] == (2, [], "")


def test_each_file_may_have_its_own_foreground_where_a_flag_says_so():
    splits = [split_of("train", {0: 9, 1: 1}, {0: 9, 255: 4}, {0: 2, 7: 5}),
              split_of("test", {0: 9, 255: 1})]
    assert judge_labels(splits, 2).problems == []
    judged = judge_labels(splits)
    assert judged.problems and judged.refusal.startswith("train: values up to 255; give")


def test_a_value_that_one_split_lacks_is_a_class_all_the_same():
    splits = [split_of("train", {0: 9, 3: 1}), split_of("test", {0: 9, 1: 1, 2: 1})]
    assert judge_labels(splits)[:3] == (4, [], "")


def test_masks_with_soft_edges():
    soft = {0: 50, 3: 1, 90: 2, 200: 1, 255: 40}
    splits = [split_of("train", soft), split_of("test", {0: 50, 255: 40})]
    for n_classes in (None, 2):
        judged = judge_labels(splits, n_classes)
        assert (judged.n_classes, judged.refusal) == (2, "")
        assert len(judged.problems) == 1
        assert judged.problems[0].startswith("train/0: 3, 90, 200 in 4.26% of its pixels, "
                                             "expected 0 and 255")


def test_objects_may_have_any_number_and_fill_the_image():
    splits = [split_of("train", {7: 9, 70000: 1}), split_of("test", {0: 4, 1: 9})]
    assert judge_labels(splits, None, "objects")[:3] == (2, [], "")
    empty = [split_of("train", {0: 9}), split_of("test", {0: 4, 1: 9})]
    assert judge_labels(empty, None, "objects").problems == [
        "train: every label is empty (has one value only)"]


def test_a_log_has_the_first_warnings():
    lines = [f"line {k}" for k in range(5)]
    assert list(warn_of([])) == [] and list(warn_of(lines[:1])) == ["warning: line 0"]
    assert list(warn_of(lines)) == [
        "warning: line 0", "warning: line 1", "warning: line 2",
        "warning: 2 more such lines; python MakeData.py check shows them"]


# ----------------------------------------------------------------------------------- lossy labels
def as_jpeg(path, label):
    Image.fromarray(label).save(path, format="JPEG", quality=70)


def as_tiff(path, label):
    tifffile.imwrite(path, label, compression="jpeg")


@pytest.mark.parametrize("suffix, save", [(".jpg", as_jpeg), (".png", as_jpeg), (".tif", as_tiff)])
@pytest.mark.parametrize("flags, words", [
    ("", ""), ("--n_classes 2", ""), ("--n_classes 3", "JPEG changes class numbers"),
    ("--ignore_label 7", "JPEG changes class numbers"),
    ("--label_kind objects", "JPEG changes the numbers of objects")])
def test_a_lossy_label_is_a_mask_or_refused(tmp_path, make_data, suffix, save, flags, words):
    """Whatever its name: known by its content."""
    wanted = np.kron(np.eye(4, dtype=np.uint8), np.full((8, 8), 255, np.uint8))
    for k, split in enumerate(("train", "test")):
        for kind in ("imgs", "labels"):
            (tmp_path / "set" / split / kind).mkdir(parents=True)
        pixels = np.random.default_rng(k).integers(0, 255, wanted.shape, np.uint8)
        write_png(tmp_path / "set" / split / "imgs" / "a.png", pixels)
        save(tmp_path / "set" / split / "labels" / f"a{suffix}", wanted)
    place = ("--Data_directory", tmp_path / "set", "--Datatxt_directory", tmp_path / "DataTxt")
    code, out, err = make_data("check", *place, *flags.split())
    assert err.count("a lossy label, cut at half its largest value") == 2
    if not words:
        assert code == 0 and prepare(*place, *flags.split(), "--protocol", "fast")[2] == []
        label = load_label(tmp_path / "set" / "train" / "labels" / f"a{suffix}", 2)
        assert np.array_equal(label, wanted // 255)
        return
    assert code == 1 and f"a{suffix}: {words}" in out
    with pytest.raises(DataError, match=words):
        prepare(*place, *flags.split(), "--protocol", "fast")


# ------------------------------------------------------------------------- check against training
VALUES = st.lists(st.sampled_from((0, 0, 1, 1, 2, 3, 4, 31, 32, 40, 128, 254, 255)), min_size=1,
                  max_size=3)
FILES = st.lists(VALUES, min_size=1, max_size=3)
MANY = st.integers(9, 40).map(lambda count: [list(range(count))])  # one piece each: objects
FLAGS = st.sampled_from((
    "", "", "", "--n_classes 2", "--n_classes 2", "--n_classes 3", "--n_classes 5",
    "--n_classes 255", "--ignore_label 255", "--ignore_label 1", "--n_classes 2 --ignore_label 255",
    "--n_classes 4 --ignore_label 0", "--label_kind classes", "--label_kind objects",
    "--label_kind objects --ignore_label 255"))


def write_labels(folder, splits):
    """A data set with a label for each list of values, which get equal areas, one after another."""
    seed = 0
    for split, files in splits.items():
        for k, values in enumerate(files):
            seed += 1
            pixels = np.random.default_rng(seed).integers(0, 255, SIDES, np.uint8)
            label = np.repeat(values, -(-SIDES[0] * SIDES[1] // len(values)))[:pixels.size]
            for kind, content in (("imgs", pixels), ("labels", label.reshape(SIDES))):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                write_png(folder / split / kind / f"{split}{k}.png", content.astype(np.uint8))


def prepare(*words):
    """What Main.py prepares for these words of its command line: (n_classes, kind, warnings)."""
    request = read_request([str(word) for word in words], Main.build_parser, Main.PROTOCOLS,
                           Main.CROP)
    prepared = Main.prepare(request, is_gpu=False)
    data = prepared.choice.settings.data
    return data.n_classes, data.label_kind, [line for line in prepared.data.remarks
                                             if line.startswith("warning: ")]


@settings(max_examples=120, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=FILES | MANY, test=FILES | MANY, flags=FLAGS)
def test_training_takes_what_check_calls_sound(make_data, tmp_path_factory, train, test, flags):
    folder = tmp_path_factory.mktemp("rules")
    write_labels(folder / "set", {"train": train, "test": test})
    place = ("--Data_directory", folder / "set", "--Datatxt_directory", folder / "DataTxt")
    code, out, err = make_data("check", *place, *flags.split())
    assert code in (0, 1), err
    if code == 0:
        proposed = shlex.split(out.splitlines()[-1].removeprefix("next: "))
        assert proposed[:2] == ["python", "Main.py"], out
        chosen = prepare(*proposed[2:], *place[2:])
        assert chosen == prepare(*place, *flags.split(), "--protocol", "fast")
        assert f"--n_classes {chosen[0]}" in out and chosen[2] == []
        return
    with pytest.raises(DataError) as refused:
        warnings = prepare(*place, *flags.split(), "--protocol", "fast")[2]
        raise DataError("trained, with a warning" if warnings else "")
    assert str(refused.value), f"{out}check calls it unsound, Main.py says nothing"
