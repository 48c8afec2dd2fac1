"""Metrics.py on stacks, page by page, and on labels whose values number objects."""
import csv

import numpy as np
import pytest
import tifffile
from helpers import command
from PIL import Image
from scipy import ndimage

from images.formats import write_png
from images.writing import page_writer
from masks.object_scores import instance_scores
from masks.pixel_scores import scores

FOLDERS = ("--Prediction_directory", "results", "--Label_directory", "labels")
PAGES = 4
SHAPE = (30, 40)


def nuclei(seed, count=9):
    """Numbered discs that touch and overlap: (H, W) uint16."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SHAPE[0], :SHAPE[1]]
    numbers = np.zeros(SHAPE, np.uint16)
    for number in range(1, count + 1):
        top, left = rng.uniform(0, SHAPE)
        numbers[np.hypot(rows - top, columns - left) < rng.uniform(3, 7)] = number
    return numbers


def mask(numbers):
    return np.where(numbers > 0, 255, 0).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name in ("results", "labels"):
        (tmp_path / name).mkdir()
    return tmp_path


def write_stack(path, pages):
    """As Predict.py writes it."""
    with page_writer(path, len(pages), *SHAPE) as add:
        for page in pages:
            add(page)


def rows_of(folder, *flags):
    """{image: {score: text}} of the command's CSV, and what it printed."""
    done = command("Metrics.py", *FOLDERS, "--csv", "scores.csv", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    with open(folder / "scores.csv", newline="") as file:
        rows = {row.pop("image"): row for row in csv.DictReader(file)}
    return rows, done


def refused(folder, *flags):
    done = command("Metrics.py", *FOLDERS, "--csv", "scores.csv", *flags, cwd=folder)
    assert "Traceback" not in done.stderr and not (folder / "scores.csv").exists()
    return done.returncode, done.stderr.splitlines()[-1]


TRUTH = [nuclei(k) for k in range(PAGES)]
ANSWER = [np.roll(nuclei(k), 1, axis=1) for k in range(PAGES)]


def write_answers(folder, one_by_one):
    """Masks, probabilities and instances of all pages: files of their own, or stacks."""
    rng = np.random.default_rng(0)
    probability = [rng.random((2, *SHAPE), np.float32) for _ in range(PAGES)]
    kinds = {"pred.tif": [mask(numbers) for numbers in ANSWER], "instances.tif": ANSWER,
             "prob.npy": probability}
    for kind, pages in kinds.items():
        if one_by_one:
            for k, page in enumerate(pages, 1):
                write_stack(folder / "results" / f"s{k}_{kind}", [page])
        else:
            write_stack(folder / "results" / f"s_{kind}", pages)


@pytest.mark.parametrize("imagej", [False, True])
def test_a_stack_has_the_scores_of_its_pages(tmp_path, imagej):
    found = {}
    for one_by_one in (True, False):
        folder = tmp_path / str(one_by_one)
        for name in ("results", "labels"):
            (folder / name).mkdir(parents=True)
        write_answers(folder, one_by_one)
        if one_by_one:
            for k, page in enumerate(TRUTH, 1):
                write_png(folder / "labels" / f"s{k}.png", page)
        else:
            axes = {"metadata": {"axes": "TYX"}} if imagej else {"metadata": None}
            tifffile.imwrite(folder / "labels" / "s.tif", np.stack(TRUTH), imagej=imagej,
                             photometric="minisblack", **axes)
        found[one_by_one] = rows_of(folder, "--n_classes", 2)[0]
    single, stack = found[True], found[False]
    names = [f"s[{k}]" for k in range(1, PAGES + 1)]
    assert list(stack)[:PAGES] == names and len(stack) == len(single)
    for k, name in enumerate(names):
        assert stack[name] == single[f"s{k + 1}"]
        answer, truth = ANSWER[k], TRUTH[k]
        assert float(stack[name]["iou"]) == pytest.approx(scores(answer > 0, truth > 0)["iou"])
        assert float(stack[name]["aji"]) == pytest.approx(instance_scores(answer, truth)["aji"])
        assert stack[name]["ap"]
    assert stack["mean"] == single["mean"]


def test_stacks_and_images_side_by_side(folder):
    write_stack(folder / "results" / "s_pred.tif", [mask(page) for page in ANSWER])
    tifffile.imwrite(folder / "labels" / "s.tif", np.stack([mask(page) for page in TRUTH]),
                     photometric="minisblack")
    write_png(folder / "results" / "a_pred.png", mask(ANSWER[0]))
    write_png(folder / "labels" / "a.png", mask(TRUTH[0]))
    rows, done = rows_of(folder, "--metric", "pixel")
    assert list(rows)[:PAGES + 1] == ["a", *(f"s[{k}]" for k in range(1, PAGES + 1))]
    assert rows["a"] == rows["s[1]"] and "s[4]" in done.stdout


@pytest.mark.parametrize("name, pages, words", [
    ("results/s_pred.tif", PAGES - 1, "s_pred.tif: has 3 pages, but "),
    ("labels/s.tif", PAGES + 1, "s.tif has 5"),
    ("results/s_instances.tif", 2, "s_instances.tif: has 2 pages, but "),
    ("results/s_prob.npy", 2, "s_prob.npy: shape (2, 30, 40), but its prediction has 4 pages")])
def test_stacks_that_do_not_fit(folder, name, pages, words):
    for path in ("results/s_pred.tif", "labels/s.tif", name):
        count = pages if path == name else PAGES
        page = np.full(SHAPE, 0.5, np.float32) if "npy" in path else mask(TRUTH[0])
        write_stack(folder / path, [page] * count)
    code, line = refused(folder)
    assert code == 1 and words in line


# -------------------------------------------------------------------------------- numbered objects
def write_pairs(folder, answers, truths):
    for k, (answer, truth) in enumerate(zip(answers, truths)):
        for path, pixels in ((f"results/{k}_pred.tif", answer), (f"labels/{k}.tif", truth)):
            tifffile.imwrite(folder / path, pixels, photometric="minisblack")


@pytest.mark.parametrize("dtype, factor", [(np.uint8, 1), (np.uint16, 1000), (np.uint32, 70_001),
                                           (np.int32, 1)])
def test_objects_are_those_of_the_numbers(folder, dtype, factor):
    """Objects that touch stay apart, in the label and in the prediction."""
    write_pairs(folder, [(each.astype(np.int64) * factor).astype(dtype) for each in ANSWER],
                [(each.astype(np.int64) * factor).astype(dtype) for each in TRUTH])
    rows, _ = rows_of(folder, "--label_kind", "objects")
    for k, (answer, truth) in enumerate(zip(ANSWER, TRUTH)):
        wanted = {**scores(answer > 0, truth > 0), **instance_scores(answer, truth)}
        for key in ("iou", "dice", "aji", "pq"):
            assert float(rows[str(k)][key]) == pytest.approx(wanted[key]), key
    assert not any(key.startswith("iou_2") for key in rows["mean"]), "two classes"


def test_a_mask_is_parted_into_pieces_beside_numbered_labels(folder):
    """A prediction of Main.py or Predict.py without --instances."""
    write_pairs(folder, [mask(each) for each in TRUTH], [each.astype(np.uint8) for each in TRUTH])
    rows, done = rows_of(folder, "--label_kind", "objects")
    assert float(rows["0"]["iou"]) == 1 and float(rows["0"]["aji"]) < 1
    assert "results: no numbered objects" in done.stderr and "labels: no" not in done.stderr


def test_what_the_labels_show(folder):
    """Many numbers of 8 bits are objects; a line says so.  A flag takes them for classes."""
    pages = [nuclei(k, 14).astype(np.uint8) for k in range(PAGES)]
    for page in pages:  # only whole objects
        for number in range(1, 15):
            pieces = (page == number)
            _, count = ndimage.label(pieces, np.ones((3, 3)))
            page[pieces] *= count == 1
    write_pairs(folder, pages, pages)
    rows, done = rows_of(folder)
    assert done.stdout.startswith("labels: objects (14 values above 0, 100% in one piece")
    assert float(rows["mean"]["aji"]) == 1 and "--label_kind classes" in done.stdout
    rows, done = rows_of(folder, "--label_kind", "classes")
    assert done.stdout.startswith("15 classes, by the stored values") and "iou_14" in rows["mean"]
    rows, done = rows_of(folder, "--n_classes", 15)
    assert "objects (" not in done.stdout and "iou_14" in rows["mean"]


def test_16_bits_may_be_classes(folder):
    pages = [np.minimum(each, 3) for each in TRUTH]
    write_pairs(folder, pages, pages)
    assert "16 bits, taken for numbered objects" in rows_of(folder)[1].stdout
    rows, done = rows_of(folder, "--label_kind", "classes")
    assert done.stdout.startswith("4 classes") and float(rows["mean"]["iou_3"]) == 1


def test_objects_are_two_classes(folder):
    write_pairs(folder, ANSWER, TRUTH)
    code, line = refused(folder, "--label_kind", "objects", "--n_classes", 3)
    assert code == 2 and "--label_kind objects: only with --n_classes 2, not 3" in line
    assert rows_of(folder, "--label_kind", "objects", "--n_classes", 2)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_ignored_numbers_count_nowhere(folder, dtype):
    largest = np.iinfo(dtype).max
    truth = [np.where(np.arange(SHAPE[1]) < 9, largest, each).astype(dtype) for each in TRUTH]
    write_pairs(folder, TRUTH, truth)
    rows, _ = rows_of(folder, "--label_kind", "objects", "--ignore_label", largest)
    assert float(rows["mean"]["iou"]) == 1 and float(rows["mean"]["aji"]) == 1


def test_labels_of_one_bit_beside_masks(folder):
    for k, truth in enumerate(TRUTH):
        Image.fromarray(truth > 0).save(folder / "labels" / f"{k}.png")
        write_png(folder / "results" / f"{k}_pred.png", mask(truth))
    assert float(rows_of(folder)[0]["mean"]["iou"]) == 1
