"""Report.py: the log and its closing block against values made by hand, the pictures read back."""
import csv
import re

import numpy as np
import pytest
from PIL import Image

from Common import png_bytes, write_png
from DataLoader import SegmentationSet, Statistics
from Report import (COLUMNS, EXTRA, HIT, MISSED, RunLog, compare, draw_curves, draw_overview, duration, run_name,
                    write_predictions)

BASELINE = {"iou": 0.7, "dice": 0.82, "f1": 0.82}


def record(epoch, iou=None, seconds=2.0, throughput=1.5, loss=0.25, skipped=0, whole=None):
    tested = {} if iou is None else {"iou": iou, "dice": iou + 0.1, "f1": iou + 0.05}
    return {"epoch": epoch, "train_loss": loss, "epoch_time": seconds, "throughput": throughput, "skipped": skipped,
            "whole_time": whole or seconds + 1, **tested}


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path, "Unet_now")


def lines(log):
    """The log file's lines without the time that each begins with."""
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (.*)"
    found = [re.fullmatch(time, line) for line in log.text_path.read_text(encoding="utf-8").splitlines()]
    assert all(found)
    return [match[1] for match in found]


@pytest.mark.parametrize("seconds, text", [(0, "0.0 s"), (43.21, "43.2 s"), (89.9, "89.9 s"), (90, "2 min"),
                                           (720, "12 min"), (89 * 60, "89 min"), (90 * 60, "1 h 30 min"),
                                           (11100, "3 h 05 min"), (7199, "2 h 00 min"), (360000, "100 h 00 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_run_name(tmp_path):
    """Runs that begin in the same second get different names."""
    names = []
    for _ in range(5):
        names.append(run_name("U2netS", tmp_path))
        assert re.fullmatch(r"U2netS_20\d\d-\d\d-\d\d_\d\d-\d\d-\d\d(-[2-5])?", names[-1])
        (tmp_path / f"{names[-1]}.log").touch()
    assert len(set(names)) == 5


# ------------------------------------------------------------------------------------------------------------- the log
def test_log_and_screen_say_the_same(tmp_path, capsys):
    log = RunLog(tmp_path, "Unet_now")
    for line in ("细胞: 30 training pairs", "", "--tile full"):
        log.say(line)
    assert lines(log) == capsys.readouterr().out.splitlines() == ["细胞: 30 training pairs", "", "--tile full"]


def test_two_logs_do_not_mix(tmp_path, capsys):
    log, other = RunLog(tmp_path, "Unet_now"), RunLog(tmp_path, "other")
    other.say("for the other")
    log.say("for this one")
    assert lines(log) == ["for this one"] and lines(other) == ["for the other"]
    assert capsys.readouterr().out == "for the other\nfor this one\n"


def test_epochs_in_log_and_csv(log):
    assert log.csv_path.read_text() == ",".join(COLUMNS) + "\n"
    log.epoch(record(0, whole=10), 12)
    log.epoch(record(1, skipped=2, loss=float("nan"), whole=20), 12)
    log.epoch(record(2, iou=0.7, seconds=2.345678912, throughput=12.0, whole=90), 12)
    assert lines(log) == [  # left: 11 x 10 s, 10 x 15 s, 9 x 20 s
        "epoch   0 (1/12)  loss 0.2500  2.0 s  1.5000 images/s  left: 2 min",
        "epoch   1 (2/12)  loss nan  2 batches skipped  2.0 s  1.5000 images/s  left: 2 min",
        "epoch   2 (3/12)  loss 0.2500  IoU 0.7000  Dice 0.8000  F1 0.7500  2.3 s  12.0000 images/s  left: 3 min"]
    with open(log.csv_path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS == ("epoch", "train_loss", "iou", "dice", "f1", "epoch_time", "throughput")
    assert [list(row.values()) for row in rows] == [
        ["0", "0.25", "", "", "", "2", "1.5"], ["1", "nan", "", "", "", "2", "1.5"],
        ["2", "0.25", "0.7", "0.8", "0.75", "2.34568", "12"]]


@pytest.mark.parametrize("count, middle", [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [1, 2]), (5, [1, 2, 3]),
                                           (8, [2, 3, 4, 5]), (11, [2, 3, 4, 5, 6, 7, 8])])
def test_closing_block_means_the_middle_half(log, count, middle):
    for k in range(count):
        log.epoch(record(k, seconds=2.0 ** k, throughput=100.0 / (k + 1)), count)
    assert log.closing_block() is None
    seconds, throughput = sum(2.0 ** k for k in middle) / len(middle), sum(100 / (k + 1) for k in middle) / len(middle)
    assert lines(log)[count:] == [
        "-" * 72, f"Mean epoch time (middle half of {count} epochs): {seconds:.4f} s",
        f"Mean throughput (middle half of {count} epochs): {throughput:.4f} images/s", "No epoch was tested."]


def test_closing_block_names_the_best_epoch(log):
    for k, iou in enumerate((None, 0.6, 0.8, 0.7, 0.8)):
        log.epoch(record(k, iou, loss=k / 10), 5)
    assert log.closing_block() is log.records[2], "the first of two equal ones"
    assert lines(log)[-1] == "Best epoch: 2  IoU 0.8000  Dice 0.9000  F1 0.8500  loss 0.2000"


def test_closing_block_of_nothing(log):
    assert log.closing_block() is None and lines(log) == ["No epoch was finished."]


# ---------------------------------------------------------------------------------------------------------- the curves
def shares(path, *colours):
    """The picture's size, and how many of its pixels are of each colour."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    return pixels.shape[:2], [int((pixels == colour).all(axis=2).sum()) for colour in colours]


def test_draw_curves(tmp_path):
    red, blue, green = (0xc0, 0x39, 0x2b), (0x1f, 0x77, 0xb4), (0x2c, 0xa0, 0x2c)
    records = [record(0), record(1, loss=float("nan"))] + [record(k, iou=k / 10, loss=1 / k) for k in (2, 3, 5, 6)]
    counts, pictures = [], set()
    for tested, baseline in ((records, BASELINE), (records[:1], BASELINE), (records[:1], {**BASELINE, "dice": 0.3})):
        draw_curves(tested, baseline, tmp_path / "curves.png")
        size, counted = shares(tmp_path / "curves.png", red, blue, green)
        assert size == (440, 1210) and min(counted) > 0
        counts.append(counted)
        pictures.add((tmp_path / "curves.png").read_bytes())
    assert all(many > few for many, few in zip(*counts[:2])), "a curve where there are scores"
    assert len(pictures) == 3, "the baselines show without any tested epoch"
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


# --------------------------------------------------------------------------------------------------------- the overview
def test_compare():
    label = np.array([[0, 1, 1, 0], [2, 2, 2, 0]])
    prediction = np.array([[0, 1, 0, 1], [2, 1, 0, 2]])
    nothing = (0, 0, 0)
    picture = compare(label, prediction)
    assert picture.dtype == np.uint8
    assert [[tuple(pixel) for pixel in row] for row in picture.tolist()] == [[nothing, HIT, MISSED, EXTRA],
                                                                             [HIT, EXTRA, MISSED, EXTRA]]


def test_write_predictions(tmp_path):
    masks = {"细胞 1": np.eye(4, dtype=np.uint8) * 255, "b": np.zeros((2, 3), np.uint8)}
    (tmp_path / "b_pred.png").write_text("old")
    write_predictions(str(tmp_path), {name: png_bytes(mask) for name, mask in masks.items()})
    assert {path.name for path in tmp_path.iterdir()} == {"细胞 1_pred.png", "b_pred.png"}
    for name, mask in masks.items():
        assert (np.asarray(Image.open(tmp_path / f"{name}_pred.png")) == mask).all()


def make_set(folder, names, n_classes, size=(40, 60)):
    """Grey images whose left half is foreground; the predictions, in the folder itself, have it 10 rows lower."""
    pairs = []
    for name in names:
        label = np.zeros(size, np.uint8)
        label[10:30, :30] = n_classes - 1
        scale = 255 // (n_classes - 1) if n_classes == 2 else 1
        for kind, pixels in (("imgs", label * 20), ("labels", label * scale)):
            (folder / kind).mkdir(exist_ok=True)
            write_png(folder / kind / f"{name}.png", pixels)
        write_predictions(folder, {name: png_bytes(np.roll(label, 10, axis=0) * scale)})
        pairs.append((folder / "imgs" / f"{name}.png", folder / "labels" / f"{name}.png"))
    return SegmentationSet(pairs, 1, n_classes, Statistics((0.0,), (1.0,)))


@pytest.mark.parametrize("n_classes, count, rows", [(2, 3, 2), (3, 1, 4)])
def test_draw_overview(tmp_path, n_classes, count, rows):
    dataset = make_set(tmp_path, [f"image {k}" for k in range(count)], n_classes)
    draw_overview(dataset, tmp_path, tmp_path / "overview.png", rows)
    shown = min(count, rows)
    (height, width), (hit, extra, missed) = shares(tmp_path / "overview.png", HIT, EXTRA, MISSED)
    assert width == 1000 and height == 260 * shown
    assert hit > 1000 * shown and hit == pytest.approx(extra, rel=0.1) and hit == pytest.approx(missed, rel=0.1)


def test_draw_overview_without_predictions(tmp_path):
    dataset = make_set(tmp_path, ["a"], 2)
    (tmp_path / "a_pred.png").unlink()
    with pytest.raises(FileNotFoundError):
        draw_overview(dataset, tmp_path, tmp_path / "overview.png")
    assert not (tmp_path / "overview.png").exists()
