"""A run of Main.py on touching, numbered objects, in a process: its scores of objects anywhere."""
import csv

import numpy as np
import pytest
from helpers import SMALL, Page, command
from nuclei import write_nuclei
from PIL import Image

from images.reading import read_label
from masks.colours import colour_objects
from masks.object_scores import instance_scores
from masks.objects import connected_components
from nets import checkpoint

FLAGS = ("--Data_directory", "data", *SMALL, "--padding", 1, "--base_channels", 6, "--tile", 64,
         "--Val_epochs", 0, "--best_by", "pq")
KEYS = ("iou", "dice", "f1", "aji", "pq")


@pytest.fixture(scope="module")
def folder(machine, tmp_path_factory):
    """Where such a run was stopped after 2 of 4 epochs, and resumed."""
    folder = tmp_path_factory.mktemp("objects")
    for split, count, seed in (("train", 6, 0), ("test", 3, 50)):
        write_nuclei(folder / "data" / split, count, seed, size=128, radii=(7, 13), tried=40)
    done = command("Main.py", *FLAGS, "--Total_epochs", 2, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "label_kind objects (" in done.stdout and "best_by=pq" in done.stdout
    done = command("Main.py", "--resume", "--Total_epochs", 4, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


def rows_of_csv(folder):
    table, = folder.glob("logs/*.csv")
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def test_every_epoch_has_the_scores_of_objects(folder):
    rows = rows_of_csv(folder)
    assert tuple(rows[0]) == ("epoch", "train_loss", *KEYS, "epoch_time", "throughput")
    assert len(rows) == 4 and all(0 <= float(row[key]) <= 1 for row in rows for key in KEYS)
    best = max(rows, key=lambda row: float(row["pq"]))
    words = "  ".join(f"{title} {float(best[key]):.4f}" for title, key in
                      zip(("IoU", "Dice", "F1", "AJI", "PQ"), KEYS))
    assert f"Best epoch by PQ: {best['epoch']}  {words}  loss" in (folder / "printed").read_text()
    _, header = checkpoint.load(folder / "checkpoints" / "best_model.safetensors")
    assert header["epoch"] == int(best["epoch"]) and set(header["scores"]) == set(KEYS)
    _, header = checkpoint.load(folder / "checkpoints" / "last_model.safetensors")
    assert header["run"]["progress"]["best_score"] == pytest.approx(float(best["pq"]), rel=1e-5)


def test_the_best_epochs_masks_have_its_scores(folder):
    """Their components are compared with the numbers of the labels, as they were given."""
    found = []
    for path in sorted((folder / "data" / "test" / "labels").iterdir()):
        mask = np.asarray(Image.open(folder / "results" / f"{path.stem}_pred.png"))
        label = np.asarray(Image.open(path)).astype(np.int32)
        scores = instance_scores(connected_components(mask), label)
        union = np.count_nonzero((mask > 0) | (label > 0))
        found.append((np.count_nonzero((mask > 0) & (label > 0)) / union if union else 1.0,
                      scores["binary_dice"]))
    best = max(rows_of_csv(folder), key=lambda row: float(row["pq"]))
    expected = [float(best["iou"]), float(best["dice"])]
    assert np.mean(found, axis=0) == pytest.approx(expected, rel=1e-5)


def test_metrics_finds_the_same_scores(folder):
    """The numbers of the predicted objects lie beside the masks, in which touching ones are one."""
    done = command("Metrics.py", "--Prediction_directory", "results", "--Label_directory",
                   "data/test/labels", "--csv", "scores/scores.csv", cwd=folder)
    assert done.returncode == 0 and "no numbered objects" not in done.stderr, done.stderr
    with open(folder / "scores" / "scores.csv", newline="") as file:
        mean = next(row for row in csv.DictReader(file) if row["image"] == "mean")
    best = max(rows_of_csv(folder), key=lambda row: float(row["pq"]))
    for key in KEYS:
        assert float(mean[key]) == pytest.approx(float(best[key]), abs=1e-4), key


def test_page_and_events_show_them(folder):
    path, = folder.glob("logs/report_*.html")
    found = Page(path)
    head = next(rows[0] for rows in found.tables if rows[0][0] == "image")
    assert head == ["image", "IoU", "Dice", "F1", "AJI", "PQ"]
    shown = found.table("image")
    order = [float(row[5]) for row in shown]
    assert len(order) == 3 and order == sorted(order, reverse=True)
    foreground = dict((row[0], row[1:]) for row in found.table("mean over test images"))[
        "all foreground"]
    assert all(foreground[:5]), "what a constant answer scores, of objects too"
    assert any("Best IoU / Dice / AJI / PQ by PQ" in " ".join(text.split())
               for text in found.texts["p"])
    for name in "12":  # a training image is shown too, with the name 0
        strip = found.pictures(name)
        assert list(strip) == ["image", "label", "prediction", "probability", "errors"]
        label = read_label(folder / "data" / "test" / "labels" / f"{name}.png")
        assert (strip["label"] == colour_objects(label)).all()
        mask = np.asarray(Image.open(folder / "results" / f"{name}_pred.png"))
        assert (strip["prediction"].any(axis=2) == (mask > 0)).all()
    events, = (path for path in (folder / "logs").iterdir() if path.is_dir())
    written = b"".join(file.read_bytes() for file in events.iterdir())
    assert b"scores/AJI" in written and b"scores/PQ" in written
