"""`MakeData.py check`: a sound set is called sound, each planted defect is found and named."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets import label_values
from datasets.check import check_set, name_some
from datasets.copies import Manifest
from datasets.facts import ImageFacts
from datasets.mixtures import find_mixtures
from datasets.survey import Survey
from images.formats import png_bytes

ROOT = Path(__file__).resolve().parents[1]
LABEL = np.repeat(np.array([[0, 0, 0, 255]], np.uint8), 6, axis=0)  # three quarters background


def noise(seed, *shape, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_set(folder, label=LABEL, channels=()):
    """Four training and two test pairs of 6 x 4 px."""
    for k, (split, stem) in enumerate([("train", f"a{k}") for k in range(4)]
                                      + [("test", f"b{k}") for k in range(2)]):
        save(folder / split / "imgs" / f"{stem}.png", noise(k, 6, 4, *channels))
        save(folder / split / "labels" / f"{stem}.png", label)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path / "set")


@pytest.fixture
def check(make_data, folder):
    """The command: (exit code, lines of its output)."""
    def command(*flags):
        code, output, error = make_data("check", "--Data_directory", folder, *flags)
        assert error == "", error
        return code, output.splitlines()
    return command


def test_a_set_is_checked_where_nothing_can_be_kept(check, tmp_path):
    (tmp_path / "file").touch()
    assert check("--Datatxt_directory", tmp_path / "file" / "lists")[0] == 0


def test_a_sound_set(check, folder, snapshot):
    before = snapshot(folder)
    code, lines = check()
    assert code == 0 and snapshot(folder) == before
    assert lines[:3] == [
        "train: 4 pairs, 6 x 4 px, 8-bit grey, pixels with label 0: 75.0%, 255: 25.0%",
        "test: 2 pairs, 6 x 4 px, 8-bit grey, pixels with label 0: 75.0%, 255: 25.0%",
        "6 pairs, sound"]
    assert lines[3:] == [f"next: python Main.py --Data_directory {folder} "
                         "--n_channels 1 --n_classes 2 --protocol fast"]


@pytest.mark.parametrize("values, flags, shares, classes", [
    ((0, 255), (), "0: 75.0%, 255: 25.0%", 2), ((0, 1), (), "0: 75.0%, 1: 25.0%", 2),
    ((0, 1), ("--n_classes", 2), "0: 75.0%, 1: 25.0%", 2),
    ((0, 1), ("--n_classes", 5), "0: 75.0%, 1: 25.0%", 5),
    ((0, 1, 2, 3), (), "0: 25.0%, 1: 25.0%, 2: 25.0%, 3: 25.0%", 4)])
def test_numbers_of_classes(check, folder, values, flags, shares, classes):
    label = np.repeat(np.array([[values[0]] * (4 - len(values)) + [*values]], np.uint8), 6, axis=0)
    write_set(folder, label, channels=(3,))
    code, lines = check("--n_channels", 3, *flags)
    assert code == 0 and "6 pairs, sound" in lines and shares in lines[0]
    assert lines[-1].endswith(f"--n_channels 3 --n_classes {classes} --protocol fast")
    assert [line for line in lines if line.startswith("warning: ")] == (
        [f"warning: {folder}/train/labels: 2, 3, 4 in no label"] if classes == 5 else [])


def test_ignored_pixels_are_passed_over(check, folder):
    label = np.repeat(np.array([[0, 0, 1, 255]], np.uint8), 6, axis=0)
    write_set(folder, label)
    assert check()[0] == 1, "three values, of which none is known to mean nothing"
    save(folder / "train" / "labels" / "a0.png", label * 0 + 255)
    code, lines = check("--ignore_label", 255)
    assert code == 0 and lines[-2] == "6 pairs, sound"
    assert lines[0].endswith("pixels with label 0: 66.7%, 1: 33.3%")
    assert lines[2] == f"warning: {folder}/train/labels/a0.png: empty, all its pixels are ignored"
    assert lines[-1].endswith(" --n_classes 2 --ignore_label 255 --protocol fast")
    save(folder / "test" / "labels" / "b0.png", label * 0 + 255)
    code, lines = check("--ignore_label", 255)
    assert code == 1 and (f"{folder}/test/labels/b0.png: every pixel has the value 255, which "
                          "--ignore_label leaves out") in lines, "Main.py cannot test on it"


def test_sizes_may_differ_between_pairs(check, folder):
    for side, stem in ((9, "a0"), (30, "a1")):
        save(folder / "train" / "imgs" / f"{stem}.png", noise(side, side, side))
        save(folder / "train" / "labels" / f"{stem}.png", np.eye(side, dtype=np.uint8) * 255)
    code, lines = check()
    assert code == 0 and "train: 4 pairs, 6 x 4 to 30 x 30 px, " in lines[0]


def plant(path, pixels):
    return lambda folder: save(folder / path, pixels)


def copy(source, target):
    return lambda folder: (folder / target).write_bytes((folder / source).read_bytes())


DEFECTS = {  # what is planted: (how, flags, the beginning of the line that tells of it)
    "another size": (plant("train/labels/a1.png", np.eye(5, dtype=np.uint8)), (),
                     "train/labels/a1.png: 5 x 5 px"),
    "no picture": (lambda folder: (folder / "test/imgs/b0.png").write_text("x"), (),
                   "test/imgs/b0.png: not a read"),
    "a cut file": (lambda folder: os.truncate(folder / "test/labels/b0.png", 45), (),
                   "test/labels/b0.png: not a read"),
    "no label": (lambda folder: (folder / "train/labels/a0.png").unlink(), (),
                 "train/imgs/a0.png: no label"),
    "no image": (lambda folder: (folder / "test/imgs/b1.png").unlink(), (),
                 "test/labels/b1.png: no image"),
    "a colour image": (plant("train/imgs/a2.png", noise(9, 6, 4, 3)), (),
                       "train/imgs/a2.png: 8-bit RGB, but most"),
    "16 bits": (plant("test/imgs/b0.png", noise(9, 6, 4, dtype=np.uint16)), (),
                "test/imgs/b0.png: 16-bit grey, but"),
    "an empty image": (plant("train/imgs/a0.png", np.full((6, 4), 7, np.uint8)), (),
                       "train/imgs/a0.png: empty"),
    "a colour label": (plant("train/labels/a3.png", noise(9, 6, 4, 3)), (),
                       "train/labels/a3.png: a label in colour"),
    "a strange value": (plant("train/labels/a1.png", LABEL // 2), (),
                        "train/labels/a1.png: 127 in 25.00% of its pix"),
    "soft edges": (plant("test/labels/b1.png", noise(9, 6, 4)), (), "test/labels/b1.png: "),
    "1 for 255": (plant("train/labels/a0.png", LABEL // 255), (),
                  "train/labels/a0.png: 1 in 25.00%"),
    "255 for 4": (plant("train/labels/a0.png", LABEL), ("--n_classes", 5),
                  "train/labels/a0.png: 255 in 25.00%"),
    "a class too many": (plant("test/labels/b0.png", LABEL // 51), ("--n_classes", 5),
                         "test/labels/b0.png: 5 in 25"),
    "a leak": (copy("train/imgs/a3.png", "test/imgs/b0.png"), (),
               "test/imgs/b0.png: has the same pixels as "),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_found(check, folder, defect):
    spoil, flags, line = DEFECTS[defect]
    spoil(folder)
    code, lines = check(*flags)
    assert code == 1 and [found for found in lines if found.startswith(f"{folder}/{line}")], lines
    problems = [found for found in lines if found.startswith(str(folder))]
    assert lines[-2].endswith(f" pairs, {len(problems)} problem(s)")
    # there every label has 255
    assert len(problems) == 1 or defect in ("255 for 4", "a class too many")
    assert lines[-1].startswith("next: mend these")
    assert {*map(str, flags)} <= {*lines[-1].split()}, "the next check asks for the same"


def test_all_defects_at_once_are_each_named(check, folder):
    for name in ("another size", "no label", "an empty image", "a leak"):
        if name != "no label":
            DEFECTS[name][0](folder)
    (folder / "train/labels/a2.png").unlink()
    code, lines = check()
    assert code == 1 and sum(line.startswith(str(folder)) for line in lines) == 4


def test_grey_values_in_colour_files_need_one_channel(check, folder):
    for path in folder.glob("*/imgs/*"):
        grey = np.asarray(Image.open(path))
        save(path, np.dstack([grey] * 3))
    code, lines = check()
    assert code == 0 and lines[-1].endswith("--n_channels 1 --n_classes 2 --protocol fast")
    assert check("--n_channels", 3)[0] == 0, "three hold them too"


@pytest.mark.parametrize("n_channels, channels, kind", [
    (1, (3,), "8-bit RGB"), (3, (), "8-bit grey")])
def test_other_channels_than_asked_for(check, folder, n_channels, channels, kind):
    write_set(folder, channels=channels)
    code, lines = check("--n_channels", n_channels)
    assert code == 1 and "6 pairs, 6 problem(s)" in lines
    assert f"{folder}/train/imgs/a0.png: {kind}, but --n_channels is {n_channels}" in lines


def test_grey_and_rgb_go_together_and_nothing_else_does():
    """find_mixtures names both files; the larger part is what is usual."""
    def facts(dtype, channels):
        return ImageFacts(4, 5, dtype, channels, False, False, [], [], False, "", "")
    eight, colour = facts("uint8", 1), facts("uint8", 3)
    assert find_mixtures({"a": eight, "b": colour}) == {}
    assert find_mixtures({"a": eight, "b": colour}, 1) == {}
    assert find_mixtures({"a": eight, "b": colour}, 3) == {}
    assert find_mixtures({}) == {}
    every = {"a": eight, "b": facts("uint16", 1), "c": eight, "d": facts("uint8", 4),
             "e": facts("float32", 2)}
    assert find_mixtures(every) == {
        "b": "b: 16-bit grey, but a is 8-bit grey; the images of a set have one depth and one "
             "number of channels",
        "d": "d: 8-bit, 4 channels, but a is 8-bit grey; the images of a set have one depth and "
             "one number of channels",
        "e": "e: float32, 2 channels, but a is 8-bit grey; the images of a set have one depth and "
             "one number of channels"}
    assert find_mixtures({"a": eight, "d": facts("uint8", 4)}, 4) == {
        "a": "a: 8-bit grey, but --n_channels is 4"}
    assert find_mixtures({"d": facts("uint8", 2)}, 1) == {
        "d": "d: 8-bit, 2 channels, but --n_channels is 1"}
    assert find_mixtures({"a": facts("uint8", 17)}) == {
        "a": "a: 8-bit, 17 channels, but a net takes 16 at most"}


def test_two_classes_take_any_value_above_0_for_foreground(check, folder):
    write_set(folder, np.repeat(np.array([[0, 1, 2, 9]], np.uint8), 6, axis=0))
    assert check("--n_classes", 2)[0] == 0 and check()[0] == 1


@pytest.mark.parametrize("row, named", [
    ((0, 0, 1, 5), "5 in 25.00% of its pixels, but 2 is in no label"),
    ((1, 1, 1, 2), "2 in 25.00% of its pixels, but 0 is in no label"),
    ((0, 1, 2, 255), "255 in 25.00% of its pixels, but 3 is in no label: "
                     "expected 0 and 255, or 0, 1, ... without a gap; "
                     "--ignore_label 255 if that means: not labelled"),
    ((0, 127, 255, 255), "127 in 25.00% of its pixels, expected 0 and 255")])
def test_strange_values_in_all_labels(check, folder, row, named):
    write_set(folder, np.repeat(np.array([row], np.uint8), 6, axis=0))
    code, lines = check()
    assert code == 1 and "6 pairs, 6 problem(s)" in lines
    assert any(line.startswith(f"{folder}/train/labels/a0.png: {named}") for line in lines), lines


@pytest.mark.parametrize("row, n_classes", [
    ((0, 0, 0, 5), 2), ((0, 0, 0, 1), 2), ((0, 1, 2, 3), 4), ((0, 0, 255, 255), 2)])
def test_classes_of_sound_labels_are_those_that_training_chooses(folder, row, n_classes):
    write_set(folder, np.repeat(np.array([row], np.uint8), 6, axis=0))
    assert check_set(folder, Survey()) == (True, 1, n_classes, "classes")
    counts = label_values.count_label_values(sorted((folder / "train/labels").iterdir()), None)
    assert label_values.classes_in([counts]) == n_classes


@pytest.mark.parametrize("spoil, line", [
    (plant("train/labels/a1.png", np.zeros((6, 4), np.uint8)),
     "train/labels/a1.png: empty, all its pixels are 0"),
    (plant("test/labels/b1.png", np.full((6, 4), 255, np.uint8)),
     "test/labels/b1.png: empty, all its pixels are 255"),
    (copy("train/imgs/a3.png", "train/imgs/a1.png"), "train/imgs/a3.png: has the same pixels as "),
    (copy("test/imgs/b0.png", "test/imgs/b1.png"), "test/imgs/b1.png: has the same pixels as ")])
def test_what_may_be_meant_is_a_warning(check, folder, spoil, line):
    spoil(folder)
    code, lines = check()
    assert code == 0 and "6 pairs, sound" in lines
    assert len([found for found in lines if found.startswith(f"warning: {folder}/{line}")]) == 1


def test_labels_that_are_all_empty(check, folder):
    write_set(folder, np.zeros((6, 4), np.uint8))
    code, lines = check()
    assert code == 1
    assert f"{folder}/train/labels: every label is empty (has one value only)" in lines


def test_a_duplicate_is_one_by_its_pixels_not_by_its_file(check, folder):
    with Image.open(folder / "train/imgs/a0.png") as image:
        image.save(folder / "test/imgs/b9.tif")
    save(folder / "test/labels/b9.png", LABEL)
    code, lines = check()
    assert code == 1 and lines[-2] == "7 pairs, 1 problem(s)"
    assert (f"{folder}/test/imgs/b9.tif: has the same pixels as {folder}/train/imgs/a0.png; "
            "keep one of the two") in lines


def test_the_same_bytes_in_another_shape_are_another_image(check, folder):
    with Image.open(folder / "train/imgs/a0.png") as image:
        save(folder / "test/imgs/b0.png", np.asarray(image).reshape(4, 6))
    save(folder / "test/labels/b0.png", LABEL.T)
    code, lines = check()
    assert code == 0 and "6 pairs, sound" in lines


def test_augmented_copies_are_no_duplicates(check, folder):
    images, labels = folder / "train/imgs", folder / "train/labels"
    contents = (images / "a0.png").read_bytes(), png_bytes(LABEL)
    Manifest(images, labels).write_files((images / "a0-0.png", labels / "a0-0.png"), contents)
    code, lines = check()
    assert code == 0 and "7 pairs, sound" in lines
    assert "train: 4 pairs and 1 augmented copies, " in lines[0]
    assert not any(line.startswith("warning") for line in lines)
    (images / "augmentation_manifest.jsonl").unlink()  # now it is a file like any other
    code, lines = check()
    assert code == 0
    assert any(line.startswith(f"warning: {images}/a0.png: has the same pixels") for line in lines)


def test_augmented_copies_are_checked_too(check, folder):
    images, labels = folder / "train/imgs", folder / "train/labels"
    Manifest(images, labels).write_files((images / "a0-0.png", labels / "a0-0.png"),
                                         (png_bytes(noise(9, 6, 4)), png_bytes(LABEL // 3)))
    code, lines = check()
    assert code == 1 and any(line.startswith(f"{labels}/a0-0.png: 85 in") for line in lines)


@pytest.mark.parametrize("missing", ["test", "train/imgs", "test/labels"])
def test_a_folder_that_is_missing(make_data, folder, tmp_path, missing):
    (folder / missing).rename(tmp_path / "elsewhere")
    code, output, error = make_data("check", "--Data_directory", folder)
    assert code == 1 and output == "" and f"{folder}/{missing}" in error and error.count("\n") == 1


def test_empty_folders(check, folder):
    for path in folder.glob("test/*/*"):
        path.unlink()
    code, lines = check()
    assert code == 1 and f"{folder}/test: no pair of an image and a label" in lines
    for path in folder.glob("train/*/*"):
        path.unlink()
    code, lines = check()
    assert code == 1 and "0 pairs, 2 problem(s)" in lines


def test_some():
    assert name_some([1, 2]) == "1, 2" and name_some([*range(8)]) == "0, 1, 2, 3, 4, 5, 6, 7"
    assert name_some([*range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


def test_masks_and_orientations_of_every_kind(make_data, tmp_path):
    """The same mask in forms that were read in other ways once; images that EXIF turns."""
    mask = np.zeros((40, 30), np.uint8)
    mask[5:25, 3:20] = 1
    exif = Image.Exif()
    exif[0x0112] = 6
    for split, first in (("train", 0), ("test", 9)):
        images, labels = tmp_path / split / "imgs", tmp_path / split / "labels"
        images.mkdir(parents=True)
        labels.mkdir()
        for k in range(4):
            image = noise(first + k, 40, 30) // 4 + mask * 150
            Image.fromarray(np.rot90(image)).save(images / f"a{k}.png", exif=exif)
        white_first = Image.fromarray(1 - mask)
        white_first.putpalette([255, 255, 255, 0, 0, 0])
        white_first.save(labels / "a0.tif")
        tifffile.imwrite(labels / "a1.tif", mask > 0)
        tifffile.imwrite(labels / "a2.tif", mask * 255, photometric="miniswhite")
        Image.fromarray(mask * 255).save(labels / "a3.png", "JPEG", quality=95)
    code, output, error = make_data("check", "--Data_directory", tmp_path)
    assert code == 0 and "8 pairs, sound\n" in output
    assert output.count("40 x 30 px, 8-bit grey, pixels with label 0: 71.7%, 255: 28.3%") == 2
    assert error.count("a3.png: a lossy label, cut at half") == error.count("\n") == 2


def test_the_committed_sample_is_sound():
    done = subprocess.run([sys.executable, str(ROOT / "MakeData.py"), "check",
                           "--Data_directory", "data/sample"],
                          cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and "pairs, sound\n" in done.stdout
