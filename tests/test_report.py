"""What a run leaves: the log against values made by hand; pictures, events, page read back."""
import csv
import io
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from helpers import Page, decoded, events_in
from nuclei import nuclei_set, perfect_predictions
from PIL import Image

from command.errors import DataError
from command.files import make_folder
from DataLoader import SegmentationSet, TrainingLoader
from datasets.copies import Manifest
from images.figures import figure
from images.formats import png_bytes, write_png
from images.values import Statistics
from Main import Data
from masks.answers import Prediction
from masks.colours import (EXTRA, HIT, MISSED, PASSED_OVER, colour_errors, colour_objects,
                           draw_overview, show_image, show_label, show_test)
from masks.pixel_scores import constant_baselines, scores
from masks.prediction_files import write_predictions
from masks.score_rows import ROWS
from runs.curves import best_row, draw_curves
from runs.events import EventLog
from runs.log import CSV_COLUMNS, RunLog, duration, find_lacking, read_records, run_name
from runs.page import Run, write_page
from runs.page_pictures import choose_examples
from WeightMap import WeightMaps, compute_weight_map

ROOT = Path(__file__).resolve().parent.parent
BASELINE = {"iou": 0.7, "dice": 0.82, "f1": 0.82}
LOSS = "weighted cross entropy (nats per pixel)"


def record(epoch, iou=None, seconds=2.0, throughput=1.5, loss=0.25, skipped=0, whole=None):
    tested = {} if iou is None else {"iou": iou, "dice": iou + 0.1, "f1": iou + 0.05}
    return {"epoch": epoch, "train_loss": loss, "epoch_time": seconds, "throughput": throughput,
            "skipped": skipped, "whole_time": whole or seconds + 1, **tested}


def of_objects(epoch, iou, aji, pq):
    """The record of an epoch tested on numbered objects."""
    return {**record(epoch, iou), "aji": aji, "pq": pq}


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path, "Unet_now")


def lines(log):
    """The log file's lines without the time that each begins with."""
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (.*)"
    text = log.text_path.read_text(encoding="utf-8")
    found = [re.fullmatch(time, line) for line in text.splitlines()]
    assert all(found)
    return [match[1] for match in found]


@pytest.mark.parametrize("seconds, text", [
    (0, "0.0 s"), (43.21, "43.2 s"), (89.9, "89.9 s"), (90, "2 min"), (720, "12 min"),
    (89 * 60, "89 min"), (90 * 60, "1 h 30 min"), (11100, "3 h 05 min"), (7199, "2 h 00 min"),
    (360000, "100 h 00 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_run_name(tmp_path):
    """Runs that begin in the same second get different names."""
    names = []
    for _ in range(5):
        names.append(run_name("U2netS", tmp_path))
        assert re.fullmatch(r"U2netS_20\d\d-\d\d-\d\d_\d\d-\d\d-\d\d(-[2-5])?", names[-1])
    assert len(set(names)) == 5


# ------------------------------------------------------------------------------------------ the log
def test_log_and_screen_say_the_same(tmp_path, capsys):
    log = RunLog(tmp_path, "Unet_now")
    said = ["细胞: 30 training pairs", "", "--tile full"]
    for line in said:
        log.say(line)
    assert lines(log) == capsys.readouterr().out.splitlines() == said


def test_two_logs_do_not_mix(tmp_path, capsys):
    log, other = RunLog(tmp_path, "Unet_now"), RunLog(tmp_path, "other")
    other.say("for the other")
    log.say("for this one")
    assert lines(log) == ["for this one"] and lines(other) == ["for the other"]
    assert capsys.readouterr().out == "for the other\nfor this one\n"


def test_a_log_goes_on_where_nobody_reads_the_screen(tmp_path):
    program = ("from runs.log import RunLog\n"
               f"log = RunLog({str(tmp_path)!r}, 'a')\n"
               "for _ in range(5000):\n"
               "    log.say('word ' * 9)\n")
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0 and len((tmp_path / "a.log").read_text().splitlines()) == 5000


def test_epochs_in_log_and_csv(log):
    assert log.csv_path.read_text() == ",".join(CSV_COLUMNS) + "\n"
    log.epoch(record(0, whole=10), 12, 10)
    log.epoch(record(1, skipped=2, loss=float("nan"), whole=20), 12, 10)
    log.epoch(record(2, iou=0.7, seconds=2.345678912, throughput=12.0, whole=90), 12, 10)
    log.epoch(record(3, whole=20), 12, 10, time_left=60)
    # left: 11 x 10 s, 10 x 15 s, 7 x 15 s and 2 tested x 90 s, less than 6 x 20 s and 2 x 90 s
    assert lines(log) == [
        "epoch   0 (1/12)  loss 0.2500  2.0 s  1.5000 images/s  left: 2 min",
        "epoch   1 (2/12)  loss nan  2 batches skipped  2.0 s  1.5000 images/s  left: 2 min",
        "epoch   2 (3/12)  loss 0.2500  IoU 0.7000  Dice 0.8000  F1 0.7500  2.3 s  12.0000 images/s"
        "  left: 5 min",
        "epoch   3 (4/12)  loss 0.2500  2.0 s  1.5000 images/s  left: 60.0 s"]
    with open(log.csv_path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert CSV_COLUMNS == ("epoch", "train_loss", "iou", "dice", "f1", "epoch_time", "throughput")
    assert [list(row.values()) for row in rows] == [
        ["0", "0.25", "", "", "", "2", "1.5"], ["1", "nan", "", "", "", "2", "1.5"],
        ["2", "0.25", "0.7", "0.8", "0.75", "2.34568", "12"], ["3", "0.25", "", "", "", "2", "1.5"]]


def test_epochs_of_a_run_on_objects(tmp_path):
    log = RunLog(tmp_path, "objects", rows=ROWS)
    for each in (record(0), of_objects(1, 0.7, 0.51234567, 0.25)):
        log.epoch(each, 2, 1)
    assert lines(log)[1].startswith("epoch   1 (2/2)  loss 0.2500  IoU 0.7000  Dice 0.8000  "
                                    "F1 0.7500  AJI 0.5123  PQ 0.2500  2.0 s")
    assert log.csv_path.read_text().splitlines() == [
        "epoch,train_loss,iou,dice,f1,aji,pq,epoch_time,throughput",
        "0,0.25,,,,,,2,1.5", "1,0.25,0.7,0.8,0.75,0.512346,0.25,2,1.5"]
    assert read_records(log.csv_path)[1]["aji"] == 0.512346


@pytest.mark.parametrize("best_by, line", [
    ("iou", "Best epoch: 1  IoU 0.9000  Dice 1.0000  F1 0.9500  AJI 0.4000  PQ 0.5000  "),
    ("aji", "Best epoch by AJI: 2  IoU 0.8000  Dice 0.9000  F1 0.8500  AJI 0.6000  PQ 0.1000  "),
    ("pq", "Best epoch by PQ: 1  IoU 0.9000  Dice 1.0000  F1 0.9500  AJI 0.4000  PQ 0.5000  ")])
def test_the_closing_block_names_another_choosing_score(tmp_path, best_by, line):
    log = RunLog(tmp_path, "objects", rows=ROWS, best_by=best_by)
    for epoch, (iou, aji, pq) in enumerate([(0.7, 0.5, 0.4), (0.9, 0.4, 0.5), (0.8, 0.6, 0.1)]):
        log.epoch(of_objects(epoch, iou, aji, pq), 3, 0)
    assert log.closing_block() is log.records[int(line.split(":")[1].split()[0])]
    assert lines(log)[-1].startswith(line)


def test_a_run_gets_more_scores_but_loses_none():
    less, more = record(0, 0.5), of_objects(0, 0.5, 0.5, 0.5)
    for records, lacking in (([], None), ([record(0)], None), ([less, record(1), more, more], None),
                             ([more, less], 1), ([less, more, record(2), less], 3),
                             ([{"epoch": 0, "iou": 0.5}], 0)):
        assert find_lacking(records) == lacking


def test_a_resumed_run_of_fewer_scores_can_be_read(tmp_path):
    log = RunLog(tmp_path, "resumed", [record(0, 0.5)], rows=ROWS)
    log.epoch(record(1), 3, 0)
    log.epoch(of_objects(2, 0.6, 0.4, 0.3), 3, 0)
    found = read_records(log.csv_path)
    assert [set(each) & {"iou", "aji"} for each in found] == [{"iou"}, set(), {"iou", "aji"}]
    assert best_row("run", found[:1], ROWS)[-2:] == ["-", "-"]


@pytest.mark.parametrize("count, middle", [
    (1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [1, 2]), (5, [1, 2, 3]), (8, [2, 3, 4, 5]),
    (11, [2, 3, 4, 5, 6, 7, 8])])
def test_closing_block_means_the_middle_half(log, count, middle):
    for k in range(count):
        log.epoch(record(k, seconds=2.0 ** k, throughput=100.0 / (k + 1)), count, 0)
    assert log.closing_block() is None
    seconds = sum(2.0 ** k for k in middle) / len(middle)
    throughput = sum(100 / (k + 1) for k in middle) / len(middle)
    assert lines(log)[count:] == [
        "-" * 72, f"Mean epoch time (middle half of {count} epochs): {seconds:.4f} s",
        f"Mean throughput (middle half of {count} epochs): {throughput:.4f} images/s",
        "No epoch was tested."]


def test_closing_block_names_the_best_epoch(log):
    for k, iou in enumerate((None, 0.6, 0.8, 0.7, 0.8)):
        log.epoch(record(k, iou, loss=k / 10), 5, 0)
    assert log.closing_block() is log.records[2], "the first of two equal ones"
    assert lines(log)[-1] == "Best epoch: 2  IoU 0.8000  Dice 0.9000  F1 0.8500  loss 0.2000"


def test_closing_block_of_nothing(log):
    assert log.closing_block() is None and lines(log) == ["No epoch was finished."]


# --------------------------------------------------------------------------------------- the curves
def shares(path, *colours):
    """The picture's size, and how many of its pixels are of each colour."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    return pixels.shape[:2], [int((pixels == colour).all(axis=2).sum()) for colour in colours]


def test_draw_curves(tmp_path):
    red, blue, green = (0xc0, 0x39, 0x2b), (0x1f, 0x77, 0xb4), (0x2c, 0xa0, 0x2c)
    records = [record(0), record(1, loss=float("nan"))]
    records += [record(k, iou=k / 10, loss=1 / k) for k in (2, 3, 5, 6)]
    path, counts, pictures = tmp_path / "curves.png", [], set()
    for tested, baseline in ((records, BASELINE), (records[:1], BASELINE),
                             (records[:1], {**BASELINE, "dice": 0.3})):
        draw_curves(tested, ("all background", baseline), path, LOSS)
        size, counted = shares(path, red, blue, green)
        assert size == (440, 1210) and min(counted) > 0
        counts.append(counted)
        pictures.add(path.read_bytes())
    assert all(many > few for many, few in zip(*counts[:2])), "a curve where there are scores"
    assert len(pictures) == 3, "the baselines show without any tested epoch"
    draw_curves(records[:1], ("all background", BASELINE), path, "cross entropy")
    assert path.read_bytes() not in pictures, "the axis names the loss"
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_curves_of_objects(tmp_path):
    """AJI and PQ have lines of their own colours, and so have the constant answer's."""
    orange, brown = (0xff, 0x7f, 0x0e), (0x8c, 0x56, 0x4b)
    path, counts = tmp_path / "curves.png", []
    constant = {**BASELINE, "aji": 0.2, "pq": 0.1}
    scores = [(0.5, 0.3, 0.4), (0.8, 0.6, 0.7), (0.9, 0.4, 0.5)]
    tested = [of_objects(epoch, *each) for epoch, each in enumerate(scores)]
    for records, baseline in (([record(0)], BASELINE), ([record(0)], constant),
                              (tested, constant), (tested, BASELINE)):
        draw_curves(records, ("all foreground", baseline), path, LOSS)
        counts.append(shares(path, orange, brown)[1])
    nothing, dotted, both, curves = counts
    assert nothing == [0, 0] and min(*dotted, *curves) > 0
    assert all(many > few for many, few in zip(both, dotted))


def test_a_figure_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "picture.png"
    with figure(path, 1, 1, (2, 1), dpi=50) as axes:
        axes[0, 0].plot([1, 2])
    before = path.read_bytes()
    assert shares(path)[0] == (50, 100)
    with pytest.raises(ZeroDivisionError), figure(path, 1, 2, (2, 1)) as axes:
        axes[0, 1].plot([1, 1 / 0])
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == [path.name]
    content = io.BytesIO()
    with figure(content, 2, 3, (3, 2)) as axes:
        assert axes.shape == (2, 3)
    assert ElementTree.fromstring(content.getvalue()).tag.endswith("svg")


def test_a_new_score_is_one_row(tmp_path):
    """It appears in the CSV, the log, the events, the curves, the comparison and on the page."""
    source = (ROOT / "masks" / "pixel_scores.py").read_text()
    row = """    Score("recall", "Recall", recall, "scores/Recall", "#ff00ff", "Recall"),
)
DISTINCT = """
    assert source.count(")\nDISTINCT = ") == 1
    changed = source.replace(")\nDISTINCT = ", row).replace("class Score(", """def recall(counts):
    return counts.hits / counts.actual if counts.actual else 0.0


class Score(""")
    (tmp_path / "pixel_scores.py").write_text(changed)
    program = """
import sys
import masks
import pixel_scores
sys.modules["masks.pixel_scores"] = masks.pixel_scores = pixel_scores
import numpy as np
from runs import curves, log, page
from runs.events import TAGS
label = np.array([[0, 1, 1, 1]])
tested = pixel_scores.scores(np.array([[1, 1, 1, 0]]), label)
assert tested["recall"] == 2 / 3
run = log.RunLog(".", "run")
for epoch in range(3):
    run.epoch({"epoch": epoch, "train_loss": 0.5, "epoch_time": 1.0, "whole_time": 1.0,
               "throughput": 1.0, "skipped": 0, **tested}, 3, 0)
run.closing_block()
assert TAGS["recall"] == "scores/Recall"
assert log.read_records(run.csv_path)[2]["recall"] == 0.666667
constant = pixel_scores.best_constant(pixel_scores.constant_baselines([label]))
curves.draw_curves(run.records, constant, "curves.png", "loss")
curves.draw_comparison({"run": run.records}, "comparison.png")
print(page.tabulate_epochs(run.records))
import Metrics
print(Metrics.METRICS["pixel"], *Metrics.class_columns(np.eye(2, dtype=int)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "F1 0.6667  Recall 0.6667  1.0 s" in done.stdout
    assert "head=['epoch', 'IoU', 'Dice', 'F1', 'Recall', 'training loss'" in done.stdout
    assert "'recall': 'Recall'" in done.stdout and "recall_0 iou_1" in done.stdout
    assert "f1,recall,epoch_time" in (tmp_path / "run.csv").read_text()
    size, (count,) = shares(tmp_path / "curves.png", (0xff, 0, 0xff))
    assert size == (440, 1210) and count > 100
    assert shares(tmp_path / "comparison.png")[0] == (1125, 1100), "a row of panels more"


# ------------------------------------------------------------------------------------- the overview
def test_compare():
    label = np.array([[0, 1, 1, 0], [2, 2, 2, 0]])
    prediction = np.array([[0, 1, 0, 1], [2, 1, 0, 2]])
    nothing = (0, 0, 0)
    picture = colour_errors(label, prediction)
    assert picture.dtype == np.uint8
    assert (picture == [[nothing, HIT, MISSED, EXTRA], [HIT, EXTRA, MISSED, EXTRA]]).all()


def test_ignored_pixels_are_neither_right_nor_wrong():
    label, prediction = np.array([[-1, -1, 1, 0]]), np.array([[0, 1, 1, 0]])
    black, white = (0, 0, 0), (255, 255, 255)
    assert (colour_errors(label, prediction) == [[PASSED_OVER, PASSED_OVER, HIT, black]]).all()
    assert (show_label(label, 2, 100) == [[PASSED_OVER, PASSED_OVER, white, black]]).all()


def test_write_predictions(tmp_path):
    masks = {"细胞 1": np.eye(4, dtype=np.uint8) * 255, "b": np.zeros((2, 3), np.uint8)}
    (tmp_path / "b_pred.png").write_text("old")
    numbers = np.array([[0, 7, 300]], np.uint16)
    answers = {name: Prediction(png_bytes(mask), b"", {}) for name, mask in masks.items()}
    write_predictions(tmp_path, {"b": answers["b"]._replace(objects=png_bytes(numbers))})
    assert (tifffile.imread(tmp_path / "b_instances.tif") == numbers).all()
    write_predictions(str(tmp_path), answers)  # of classes: the older objects are not theirs
    assert {path.name for path in tmp_path.iterdir()} == {"细胞 1_pred.png", "b_pred.png"}
    for name, mask in masks.items():
        assert (np.asarray(Image.open(tmp_path / f"{name}_pred.png")) == mask).all()


def make_set(folder, names, n_classes, size=(40, 60)):
    """Grey images whose left half is foreground.

    The predictions lie in the folder itself and have it 10 rows lower.
    """
    pairs = []
    for name in names:
        label = np.zeros(size, np.uint8)
        label[10:30, :30] = n_classes - 1
        scale = 255 // (n_classes - 1) if n_classes == 2 else 1
        for kind, pixels in (("imgs", label * 20), ("labels", label * scale)):
            (folder / kind).mkdir(exist_ok=True)
            write_png(folder / kind / f"{name}.png", pixels)
        mask = png_bytes(np.roll(label, 10, axis=0) * scale)
        write_predictions(folder, {name: Prediction(mask, b"", {})})
        pairs.append((folder / "imgs" / f"{name}.png", folder / "labels" / f"{name}.png"))
    return SegmentationSet(pairs, 1, n_classes, Statistics((0.0,), (1.0,)))


@pytest.mark.parametrize("n_classes, count, rows", [(2, 3, 2), (3, 1, 4)])
def test_draw_overview(tmp_path, n_classes, count, rows):
    dataset = make_set(tmp_path, [f"image {k}" for k in range(count)], n_classes)
    draw_overview(dataset, tmp_path, tmp_path / "overview.png", rows)
    shown = min(count, rows)
    (height, width), (hit, extra, missed) = shares(tmp_path / "overview.png", HIT, EXTRA, MISSED)
    assert width == 1000 and height == 260 * shown
    assert hit > 1000 * shown
    assert hit == pytest.approx(extra, rel=0.1) and hit == pytest.approx(missed, rel=0.1)


def test_draw_overview_without_predictions(tmp_path):
    dataset = make_set(tmp_path, ["a"], 2)
    (tmp_path / "a_pred.png").unlink()
    with pytest.raises(FileNotFoundError):
        draw_overview(dataset, tmp_path, tmp_path / "overview.png")
    assert not (tmp_path / "overview.png").exists()


# ----------------------------------------------------------------------------------- shown pictures
def test_shown_image(tmp_path):
    """8 bits stay as they are, 16 bits are stretched, large files shrink, grey becomes RGB."""
    small = np.array([[3, 9], [200, 100]], np.uint8)
    deep, large = np.array([[1000, 1510], [1255, 2020]], np.uint16), np.zeros((90, 300), np.uint8)
    stored = {"small": small, "deep": deep, "flat": deep * 0 + 7, "large": large}
    for name, pixels in stored.items():
        write_png(tmp_path / f"{name}.png", pixels)
    paths = sorted(tmp_path.iterdir())
    dataset = SegmentationSet([(path, path) for path in paths], 1, 2, Statistics((0.5,), (0.2,)))
    shown = {path.stem: show_image(dataset, k, 100) for k, path in enumerate(paths)}
    assert all(pixels.dtype == np.uint8 and pixels.shape[2] == 3 for pixels in shown.values())
    assert (shown["small"] == small[..., None]).all()
    assert shown["deep"][..., 0].tolist() == [[0, 128], [64, 255]] and not shown["flat"].any()
    assert shown["large"].shape == (30, 100, 3)


def colours_in(picture):
    return {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}


def test_shown_label():
    """Shrinking blends no two classes, and each class has a colour of its own."""
    label = np.random.default_rng(1).integers(0, 4, (300, 200))
    colours = colours_in(show_label(np.arange(4)[None], 4, 100))
    assert len(colours) == 4
    shown = show_label(label, 4, 150)
    assert shown.shape == (150, 100, 3) and colours_in(shown) == colours
    assert show_label(np.array([[0, 1]]), 2, 9).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def predicted(dataset):
    """{name: what answers.Prediction holds} of a set.

    The prediction of image k is its label, moved to the right by 2 k px.
    """
    found = {}
    for index in range(len(dataset)):
        label = dataset.label(index)
        classes = np.roll(label, 2 * index, axis=1)
        mask = classes * (255 if dataset.n_classes == 2 else 1)
        probability = np.clip(200 * (classes > 0) + np.arange(label.shape[1]) % 40, 0, 255)
        found[dataset.name(index)] = SimpleNamespace(
            mask=png_bytes(mask.astype(np.uint8)),
            probability=png_bytes(probability.astype(np.uint8)),
            scores=scores(classes, label, dataset.n_classes))
    return found


@pytest.mark.parametrize("n_classes", [2, 3])
def test_panels(tmp_path, n_classes):
    dataset = make_set(tmp_path, ["a", "b", "c"], n_classes)
    shown = show_test(dataset, 2, predicted(dataset)["c"], 512)
    assert list(shown) == ["image", "label", "probability", "errors"]
    label = dataset.label(2)
    assert (shown["image"] == np.asarray(Image.open(dataset.pairs[2][0]))[..., None]).all()
    assert (shown["label"].any(axis=2) == (label > 0)).all()
    assert shown["probability"][0, :, 0].tolist() == [k % 40 for k in range(60)]
    assert (shown["errors"] == colour_errors(label, np.roll(label, 4, axis=1))).all()
    small = show_test(dataset, 2, predicted(dataset)["c"], 21)
    assert [pixels.shape for pixels in small.values()] == [(14, 21, 3)] * 4
    for what in ("label", "errors"):  # no colour between two others
        assert colours_in(small[what]) <= colours_in(shown[what])


def test_events_are_there_after_each_epoch(tmp_path):
    events = EventLog(tmp_path / "logs" / "run")
    records = [record(0, loss=float("nan")), record(1, iou=0.7, throughput=12.5)]
    for count, each in enumerate(records, start=1):
        events.epoch(each)
        head, *found = events_in(tmp_path / "logs" / "run")
        assert head.file_version == "brain.Event:2"
        assert [event.step for event in found] == list(range(count)), "live: nothing waits"
    assert abs(found[0].wall_time - time.time()) < 600
    first, second = ({value.tag: value.simple_value for value in event.summary.value}
                     for event in found)
    assert first.keys() == {"train/loss", "train/images_per_s"} and np.isnan(first["train/loss"])
    assert second == pytest.approx({"train/loss": 0.25, "train/images_per_s": 12.5,
                                    "scores/IoU": 0.7, "scores/Dice": 0.8, "scores/F1": 0.75})


def test_events_show_predictions(tmp_path):
    names = ["<b> 细胞", "b", "c\udcff", "d"]  # the third is no UTF-8
    dataset = make_set(tmp_path, names, 2)
    events, predictions = EventLog(tmp_path / "events"), predicted(dataset)
    events.predictions(7, dataset, predictions, count=3, longest=30)
    _, event = events_in(tmp_path / "events")
    assert event.step == 7
    assert [value.tag.split("/")[1] for value in event.summary.value] == ["<b> 细胞", "b", "c?"]
    for index, value in enumerate(event.summary.value):
        pixels = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
        assert pixels.shape == (value.image.height, value.image.width, 3) == (20, 120, 3)
        pictures = show_test(dataset, index, predictions[names[index]], 30)
        assert (pixels == np.hstack(list(pictures.values()))).all()


def test_events_do_without_pytorch(tmp_path):
    """It is not imported where it is installed, and can be afterwards."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("print('torch')")
    program = "from runs.events import EventLog; EventLog('events'); print('made'); import torch"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"})
    assert (done.stdout, done.returncode) == ("made\ntorch\n", 0), done.stderr


# ----------------------------------------------------------------------------------------- the page
NAMES = ["<script>alert('1')<", "细胞 \"quoted\" & more", "a&amp;b", "plain"]


def make_run(folder, log, names=NAMES, n_classes=2, predictions=True, copies=0, outcome="",
             held_back=(), test_scores={}):
    """A Run with test images of these names.

    copies: of each image of the training set, listed as augmented ones; held_back: the names of
    training images that choose the best model.
    """
    for part in ("train", "test"):
        (folder / part).mkdir()
    test_set = make_set(folder / "test", names, n_classes)
    train_set = make_set(folder / "train", ["<1>", "2"], n_classes)
    manifest = Manifest(*(path.parent for path in train_set.pairs[0]))
    for image, label in list(train_set.pairs):
        for k in range(copies):
            paths = [path.with_name(f"{path.stem}-{k}.png") for path in (image, label)]
            manifest.write_files(paths, [path.read_bytes() for path in (image, label)])
            train_set.pairs.insert(0, tuple(paths))
    choosing = test_set
    if held_back:
        choosing = make_set(make_folder(folder / "held"), held_back, n_classes)
    baselines = [constant_baselines(map(each.label, range(len(each))), n_classes)
                 for each in (choosing, test_set)]
    loader = TrainingLoader(train_set, None, maps=WeightMaps(folder / "weights"))
    settings = {"Data_directory": folder, "mode": "Unet", "Total_epochs": 5,
                "dropout_probs": [0.2, 0.5], "tile": "<N>"}
    words = ["python", "Main.py", "--Data_directory", "my 'own' <data>", "--tile", "64"]
    return Run(name=log.name, title=f"Unet on {folder.name}", records=log.records,
               settings=settings, total_epochs=5, loss_title=LOSS, parameters=17266306,
               device="A & B <CPU>", command=words, seconds=754.0, outcome=outcome,
               data=Data(loader, choosing, test_set, *baselines, statistics=None),
               predictions=predicted(test_set) if predictions else {}, test_scores=test_scores)


def spaced(text):
    """A text as a browser shows it: with one space for each gap."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """(the Page of a whole run, the Run)."""
    folder = tmp_path_factory.mktemp("<page>")
    log = RunLog(folder, "Unet_now")
    for k, iou in enumerate((None, 0.61234567, 0.81234567, 0.7, 0.5)):
        log.epoch(record(k, iou, loss=1 / (k + 3), seconds=k + 0.123456), 5, 0)
    made = make_run(folder, log, copies=3)
    write_page(log.page_path, made)
    return Page(log.page_path), made


def test_a_page_asks_nobody_for_anything(page):
    found, _ = page
    for tag, name, value in found.attributes:
        assert not name.startswith("on")
        assert name not in ("href", "srcset", "action", "data", "poster")
        assert name != "src" or value.startswith("data:"), (tag, value)
        assert name != "style" or "url" not in value
    tags = {tag for tag, *_ in found.attributes} | set(found.texts)
    assert not {"script", "link", "iframe", "object", "form"} & tags
    (style,) = found.texts["style"]
    assert "url" not in style and "@import" not in style
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("meta", "content", policy) in found.attributes


def test_a_pages_pictures_can_be_decoded(page):
    found, made = page
    assert len(found.images) == 2 + 3 * 4 + 3 * 3
    for image in found.images[:2]:
        curve = ElementTree.fromstring(decoded(image["src"], "image/svg+xml"))
        assert curve.tag == "{http://www.w3.org/2000/svg}svg"
        links = [value for each in curve.iter() for name, value in each.attrib.items()
                 if name.endswith("href")]
        assert links and all(link.startswith("#") for link in links)
    for image in found.images[2:]:
        assert Image.open(io.BytesIO(decoded(image["src"], "image/png"))).size == (60, 40)
    index = NAMES.index("plain")
    shown = found.pictures("plain")
    expected = show_test(made.data.test_set, index, made.predictions["plain"], 512)
    assert shown.keys() == expected.keys()
    assert all((shown[what] == expected[what]).all() for what in shown)


@pytest.mark.parametrize("tested", [True, False])
def test_a_page_tells_which_images_chose_the_model(tmp_path, tested):
    log = RunLog(tmp_path, "Unet_now")
    log.epoch(record(0, 0.75), 1, 0)
    scores = {"iou": 0.6125, "dice": 0.7125, "f1": 0.7126} if tested else {}
    made = make_run(tmp_path, log, predictions=tested, held_back=["a", "b"], test_scores=scores)
    write_page(log.page_path, made)
    found = Page(log.page_path)
    (verdict,) = [text for text in map(spaced, found.texts["p"]) if "chose epoch" in text]
    chosen = re.fullmatch(r"(Test .*\. )?IoU / Dice 0.7500 / 0.8500 \(all foreground .*\) of "
                          r"2 held-back training images chose epoch 0; 1 of 5 epochs in 13 min\.",
                          verdict)
    assert chosen and bool(chosen[1]) == tested
    assert found.table("mean over held-back training images")[0][:2] == ["best epoch, 0", "0.7500"]
    assert ("Test IoU / Dice, read once: 0.6125 / 0.7125 (all foreground" in verdict) == tested
    if tested:
        best, constant, *_ = found.table("mean over test images, read once")
        assert best == ["best model", "0.6125", "0.7125", "0.7126"]
        assert constant[1] == f"{made.data.test_baselines[constant[0]]['iou']:.4f}"
        assert found.pictures(NAMES[0]), "test images are shown, not those that chose"


def test_a_page_shows_names_as_they_are(page):
    found, made = page
    rows = {row[0]: row[1:] for row in found.table("image")}
    assert set(rows) == set(NAMES)
    for name in NAMES:
        expected = made.predictions[name].scores
        assert rows[name] == [f"{expected[key]:.4f}" for key in ("iou", "dice", "f1")]
    assert "A & B <CPU>" in found.text and "<N>" in found.text and "0.2 0.5" in found.text
    assert found.texts["h1"] == [made.title] and "<page>" in made.title
    assert found.texts["title"] == [f"{made.title}: Unet_now"]
    assert shlex.split("".join(found.texts["pre"])) == made.command


def test_a_page_takes_no_name_for_a_template(tmp_path, log):
    names = ["{{ 7 * 7 }}", "{% include 'page.css' %}", "{# nothing #}"]
    write_page(log.page_path, make_run(tmp_path, log, names, outcome="{{ run }}"))
    found = Page(log.page_path)
    assert [row[0] for row in found.table("image")] == names
    assert "Not complete: {{ run }}" in found.texts["p"]


def test_a_pages_numbers_are_the_csvs(page):
    found, made = page
    with open(made.settings["Data_directory"] / f"{made.name}.csv", newline="") as file:
        keys = ("epoch", "iou", "dice", "f1", "train_loss", "epoch_time", "throughput")
        written = [[row[key] for key in keys] for row in csv.DictReader(file)]
    shown = found.table("epoch")
    assert len(shown) == len(written) == 5
    for row, expected in zip(shown, written):
        assert row[0] == expected[0]
        for one, other in zip(row[1:], expected[1:]):
            rounding = 5.1e-3 if one == row[5] else 5.1e-5
            assert one == other == "" or float(one) == pytest.approx(float(other), abs=rounding)
    best, last, foreground, background = found.table("mean over test images")
    assert best == ["best epoch, 2", "0.8123", "0.9123", "0.8623", "0.2000"]
    assert last == ["last epoch, 4", "0.5000", "0.6000", "0.5500", "0.1429"]
    # 20 x 30 px of 40 x 60
    assert foreground == ["all foreground", "0.2500", "0.4000", "0.4000", ""]
    assert background == ["all background", "0.0000", "0.0000", "0.0000", ""]
    (verdict,) = [text for text in map(spaced, found.texts["p"]) if text.startswith("Best ")]
    assert verdict == ("Best IoU / Dice: 0.8123 / 0.9123 at epoch 2 (all foreground 0.2500 / "
                       "0.4000, all background 0.0000 / 0.0000); 5 of 5 epochs in 13 min.")
    assert "2.12 s per epoch, 1.5000 images/s" in found.text, "of epochs 1, 2 and 3"
    facts = "17,266,306 trainable parameters; 8 training images, 4 test images"
    assert facts in map(spaced, found.texts["p"])


def test_a_page_of_objects(tmp_path):
    """PQ chooses epoch and order of images; each table has the columns of all scores."""
    log = RunLog(tmp_path, "Unet_now", rows=ROWS, best_by="pq")
    for epoch, (iou, aji, pq) in enumerate([(0.7, 0.5, 0.6), (0.9, 0.4, 0.5)]):
        log.epoch(of_objects(epoch, iou, aji, pq), 2, 0)
    made = make_run(tmp_path, log, ["a", "b", "c"])
    for name, pq in (("a", 0.2), ("b", 0.9), ("c", 0.4)):
        made.predictions[name].scores.update(aji=0.1, pq=pq)
    made.data.baselines["all foreground"].update(aji=0.125, pq=0.25)
    made.data.baselines["all background"].update(aji=0.0, pq=0.0)
    write_page(log.page_path, replace(made, best_by="pq"))
    found = Page(log.page_path)
    (verdict,) = [text for text in map(spaced, found.texts["p"]) if text.startswith("Best ")]
    assert verdict == ("Best IoU / Dice / AJI / PQ by PQ: 0.7000 / 0.8000 / 0.5000 / 0.6000 at "
                       "epoch 0 (all foreground 0.2500 / 0.4000 / 0.1250 / 0.2500, all background "
                       "0.0000 / 0.0000 / 0.0000 / 0.0000); 2 of 5 epochs in 13 min.")
    best, last, foreground, _ = found.table("mean over test images")
    assert best == ["best epoch by PQ, 0", "0.7000", "0.8000", "0.7500", "0.5000", "0.6000",
                    "0.2500"]
    assert last[:1] == ["last epoch, 1"] and foreground[4:] == ["0.1250", "0.2500", ""]
    assert [row[4:6] for row in found.table("epoch")] == [["0.5000", "0.6000"],
                                                          ["0.4000", "0.5000"]]
    assert [(row[0], row[5]) for row in found.table("image")] == [
        ("b", "0.9000"), ("c", "0.4000"), ("a", "0.2000")]
    captions = [text for text in found.texts["figcaption"] if "test image by" in text]
    assert captions == [f"{rank} test image by PQ, " for rank in ("Best", "Median", "Worst")]
    assert found.texts["b"][:3] == ["b", "c", "a"]


def test_a_page_shows_each_object_in_a_colour(tmp_path, log):
    log.epoch(of_objects(0, 0.5, 0.5, 0.5), 1, 0)
    made = make_run(tmp_path, log, ["a"])
    write_page(log.page_path, made)
    assert "colour of its own" not in Page(log.page_path).text
    test_set, train_set = nuclei_set(tmp_path / "a", 2), nuclei_set(tmp_path / "b", 1, seed=5)
    train_set.pairs[0][0].rename(tmp_path / "nuclei.png")
    train_set.pairs[0] = tmp_path / "nuclei.png", train_set.pairs[0][1]
    made.data.loader.dataset = train_set
    predictions = perfect_predictions(test_set)
    write_page(log.page_path, replace(made, predictions=predictions,
                                      data=made.data._replace(test_set=test_set)))
    found = Page(log.page_path)
    assert "each object in a colour of its own" in found.text
    assert "(without the border between objects that touch)" in found.text
    for index, name in enumerate("01"):
        shown, expected = found.pictures(name), show_test(test_set, index, predictions[name], 512)
        assert list(shown) == ["image", "label", "prediction", "probability", "errors"]
        assert all((shown[what] == expected[what]).all() for what in shown)
        assert min(len(colours_in(shown[what])) for what in ("label", "prediction")) > 8
    learnt = found.pictures("nuclei")["label"]
    assert (learnt == colour_objects(train_set.target(0))).all()


def test_a_page_is_in_the_order_of_interest(page):
    assert page[0].texts["h2"] == [
        "Curves", "Scores", "Best, median and worst test image", "What the net learns from",
        "Settings", "Machine, software and speed", "To repeat this run"]


def test_a_page_shows_the_best_the_median_and_the_worst(page):
    """The k-th prediction is off by 2 k px: they get worse in the order of the names."""
    found, _ = page
    captions = [text for text in found.texts["figcaption"] if "test image by IoU" in text]
    assert captions == [f"{rank} test image by IoU, " for rank in ("Best", "Median", "Worst")]
    assert found.texts["b"][:3] == [NAMES[0], NAMES[2], NAMES[3]]


@pytest.mark.parametrize("ious, expected", [
    ([0.3], ["Best 0"]), ([0.3, 0.4], ["Best 1", "Worst 0"]), ([0.4, 0.4], ["Best 0", "Worst 1"]),
    ([0.1, 0.3, 0.2], ["Best 1", "Median 2", "Worst 0"]),
    ([0.5, 0.1, 0.2, 0.9], ["Best 3", "Median 2", "Worst 1"]),
    ([0.5, 0.1, 0.2, 0.9, 0.0], ["Best 3", "Median 2", "Worst 4"])])
def test_chosen(ious, expected):
    predictions = {str(k): SimpleNamespace(scores={"iou": iou}) for k, iou in enumerate(ious)}
    assert [f"{rank} {name}" for rank, name in choose_examples(predictions)] == expected


def test_a_page_shows_weights_and_augmented_copies(page):
    """Of the first image that is no copy, and its first two copies; all weights on one scale."""
    found, made = page
    names = [made.data.loader.dataset.name(index) for index in range(8)]
    assert names == ["2-2", "2-1", "2-0", "<1>-2", "<1>-1", "<1>-0", "<1>", "2"]
    assert [name for name in names if found.pictures(name)] == ["<1>-2", "<1>-1", "<1>"]
    assert found.texts["b"][3:] == ["<1>", "<1>-2", "<1>-1"]
    weights = compute_weight_map(made.data.loader.dataset.label(6))
    legend = f"weight {weights.min():.2f} {weights.max():.2f}"
    assert legend in spaced(" ".join(found.texts["span"]))
    caption = spaced("|".join(text for text in found.texts["figcaption"] if "warped" in text))
    assert caption == "; warped copies:"
    shown = found.pictures("<1>")["weight"]
    assert (shown[weights == weights.min()] == [68, 1, 84]).all(), "viridis from end to end"
    assert (shown[weights == weights.max()] == [253, 231, 36]).all()


@pytest.mark.parametrize("tested", [False, True])
def test_a_page_of_a_stopped_run(tmp_path, log, tested):
    """With nothing tested, or nothing at all, it tells of the rest; what it says is escaped."""
    if tested:
        log.epoch(record(0), 5, 0)
    made = make_run(tmp_path, log, ["a"], predictions=False, outcome="a <bad> end & more")
    write_page(log.page_path, made)
    found = Page(log.page_path)
    assert "Not complete: a <bad> end & more" in found.texts["p"]
    assert f"No epoch was tested; {int(tested)} of 5 epochs in 13 min." in found.texts["p"]
    assert ("Curves" in found.texts["h2"]) == tested
    assert "Best, median and worst test image" not in found.texts["h2"]
    assert set(found.pictures("<1>")) == {"image", "label", "weight"}
    assert found.texts["b"] == ["<1>"]
    caption = spaced("".join(found.texts["figcaption"]))
    assert caption.endswith(". Each with its label and the weight of its pixels in the loss.")


def test_a_page_of_three_classes_and_colours(tmp_path, log):
    log.epoch(record(0, 0.5), 1, 0)
    made = make_run(tmp_path, log, ["a", "b\udcff"], n_classes=3)  # the second is no UTF-8
    Image.new("RGB", (60, 40), (10, 200, 30)).save(made.data.test_set.pairs[0][0])
    write_page(log.page_path, made)
    found = Page(log.page_path)
    assert "false positive or wrong class" in found.text and "class 2" in found.text
    assert "ignored" not in found.text
    made.data.test_set.ignore_label = 7
    write_page(log.page_path, made)
    assert "ignored" in Page(log.page_path).text
    assert (found.pictures("a")["image"] == (10, 200, 30)).all()
    assert found.texts["b"] == ["a", "b\\udcff", "<1>"]


def test_a_page_that_fails_leaves_the_old_one(tmp_path, log):
    made = make_run(tmp_path, log, ["a"])
    log.page_path.write_text("old")
    made.data.test_set.pairs[0][0].unlink()
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match="a.png: no such file"):
        write_page(log.page_path, made)
    assert log.page_path.read_text() == "old"
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "weights"}


# ------------------------------------------------------------------------------------ runs compared
def report(*flags, cwd):
    return subprocess.run([sys.executable, str(ROOT / "Report.py"), *map(str, flags)], cwd=cwd,
                          capture_output=True, text=True, encoding="utf-8")


def write_run(folder, name, ious, loss=0.5):
    folder.mkdir(exist_ok=True)
    log = RunLog(folder, name)
    for epoch, iou in enumerate(ious):
        log.epoch(record(epoch, iou, loss=loss / (epoch + 1)), len(ious), 0)
    return log


def test_a_csv_gives_its_records_back(tmp_path):
    log = write_run(tmp_path, "Unet_a", [None, 0.25, 0.75])
    expected = [{key: value for key, value in each.items() if key in CSV_COLUMNS}
                for each in log.records]
    assert read_records(log.csv_path) == [pytest.approx(each, rel=1e-5) for each in expected]
    row = best_row("Unet_a_b", log.records)
    assert row == ["Unet\na_b", "2", "0.1667", "0.7500", "0.8500", "0.8000"]
    assert best_row("x", log.records[:1]) == best_row("x", []) == ["x", *"-----"]


def test_runs_are_compared(tmp_path):
    """CSVs, or their paths without .csv; a colour for each run.

    Those of one name in two folders stay apart.
    """
    for folder, name, ious in (("logs", "Unet_a", [None, 0.3, 0.8]),
                               ("logs", "U2netS_$^$", [0.2, 0.5, 0.4]),
                               ("other", "Unet_a", [None] * 3)):
        write_run(tmp_path / folder, name, ious)
    colours = (0x1f, 0x77, 0xb4), (0xff, 0x7f, 0x0e), (0x2c, 0xa0, 0x2c)
    done = report("--compare", "logs/Unet_a", "logs/U2netS_$^$.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Wrote logs/comparison.png\n", "")
    size, (one, two, three) = shares(tmp_path / "logs" / "comparison.png", *colours)
    assert size == (750, 1100) and min(one, two) > 300 and three == 0
    done = report("--compare", "logs/Unet_a", "logs/U2netS_$^$", "other/Unet_a",
                  "--picture", "new/细胞.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert min(shares(tmp_path / "new" / "细胞.png", *colours)[1]) > 100


def test_runs_on_objects_beside_others(tmp_path):
    """AJI and PQ get panels of their own, on which the run without them has no line."""
    write_run(tmp_path, "classes", [0.3, 0.8])
    log = RunLog(tmp_path, "objects", rows=ROWS)
    for epoch, each in enumerate([(0.2, 0.3, 0.5), (0.6, 0.5, 0.4)]):
        log.epoch(of_objects(epoch, *each), 2, 0)
    done = report("--compare", "classes", "objects", "--picture", "both.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    size, _ = shares(tmp_path / "both.png")
    assert size == (1125, 1100), "six panels: loss, four scores, a table"
    assert report("--compare", "classes", "--picture", "one.png", cwd=tmp_path).returncode == 0
    assert shares(tmp_path / "one.png")[0] == (750, 1100)
    blue, orange = (0x1f, 0x77, 0xb4), (0xff, 0x7f, 0x0e)
    pixels = np.asarray(Image.open(tmp_path / "both.png").convert("RGB"))
    of_aji = pixels[375:750, 550:]
    assert (of_aji == orange).all(axis=2).sum() > 200 and not (of_aji == blue).all(axis=2).any()


HEAD = ",".join(CSV_COLUMNS).encode() + b"\n"
OF_OBJECTS = b"epoch,train_loss,iou,dice,f1,aji,pq,epoch_time,throughput\n"


@pytest.mark.parametrize("content, message", [
    (None, "run.csv: no such file; name a run's CSV, or its log without .log"),
    (b"", "run.csv: not a run's CSV, whose first line is "
          "epoch,train_loss,iou,dice,f1,epoch_time,throughput"),
    (b"a,b\n1,2\n", "run.csv: not a run's CSV, whose first line"),
    (b"\xff\xfe\0", "run.csv: not a run's CSV ("),
    (HEAD + b"0,0.5,,,,1,2\n1,bad,,,,1,2\n", "run.csv: not a run's CSV (could not convert"),
    (HEAD + b"0,0.5,,,,1,2\n1,0.4\n", "run.csv: not a run's CSV ("),
    (HEAD + b"0,0.5,,,,1,2\n1,0.4,0.5,,,1,2\n",
     "run.csv: line 3 is not complete; delete this line"),
    (OF_OBJECTS + b"0,0.5,.1,.1,.1,.1,.1,1,2\n1,0.4,.5,.5,.5,.5,,1,2\n",
     "run.csv: line 3 is not complete; delete this line"),
    (b"epoch,train_loss,iou,epoch_time,throughput\n0,0.5,0.5,1,2\n",
     "run.csv: not a run's CSV, whose first line"),
    (b"epoch,train_loss,aji,iou,dice,f1,epoch_time,throughput\n",
     "run.csv: not a run's CSV, whose first line")])
def test_what_is_no_run(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.csv").write_bytes(content)
    done = report("--compare", "run", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith(f"Report.py: error: {message}")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("flags", [(), ("--compare",), ("--compare", "a", "--picture", "a.jpg")])
def test_mistakes_in_reports_flags(tmp_path, flags):
    done = report(*flags, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)