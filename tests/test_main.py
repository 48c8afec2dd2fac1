"""The commands, as real processes.

A mistake ends in one line, before Jittor is imported.  A run leaves the files that it promises.
"""
import csv
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, SMALL, Page, command, events_in, predictions_of, settings_of, write_set
from PIL import Image

from datasets.pairs import pair_by_name
from datasets.splits import hold_back
from masks.colours import HIT
from MirrorPadding import Reference, Whole
from command.version import VERSION
from nets import checkpoint
from WeightMap import compute_weight_map

COMMANDS = sorted(path.name for path in ROOT.glob("*.py") if "__main__" in path.read_text("utf-8"))
COLUMNS = ["epoch", "train_loss", "iou", "dice", "f1", "epoch_time", "throughput"]


# ----------------------------------------------------------------------------------- without Jittor
@pytest.mark.parametrize("script", COMMANDS)
def test_help(script, tmp_path, no_jittor):
    done = command(script, "--help", cwd=tmp_path, **no_jittor)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"usage: {script} ")
    assert "object at 0x" not in done.stdout, "each default is one that a person can give"


def test_help_shows_the_defaults(tmp_path):
    shown = " ".join(command("Main.py", "--help", cwd=tmp_path).stdout.split())
    for default in ("data/ISBC2012", 64, [0.2, 0.3, 0.4, 0.5], "weighted_ce", 200, 0.001):
        assert f"(default: {default})" in shown


def test_the_documented_defaults():
    """Without --protocol: the U-Net paper, as the system wired it that this one reproduces."""
    found = settings_of().flags()
    folders = {"Data_directory": "data/ISBC2012", "Datatxt_directory": "DataTxt",
               "Log_directory": "logs", "Checkpoint_directory": "checkpoints",
               "Result_directory": "results", "Weight_directory": "weight_maps"}
    assert {name: str(found.pop(name)) for name in folders} == folders
    assert found == {
        "n_channels": None, "n_classes": None, "ignore_label": None, "bilinear": True,
        "base_channels": 64, "dropout_probs": [0.2, 0.3, 0.4, 0.5], "padding": 0, "tile": Whole(),
        "Batch_size": 1, "Total_epochs": 200, "Val_epochs": 50, "Learning_rate": 0.001,
        "Loss_w0": 10.0, "Loss_sigma": 5.0, "mode": "Unet", "device": "auto", "seed": 0,
        "optimizer": "adam", "lr_schedule": "constant", "warm_up": 0, "clip_norm": 0,
        "loss": "weighted_ce", "Time_budget": None, "val_fraction": 0, "group": None,
        "fold": None, "protocol": None, "augment": "none", "save_every": None, "resume": False,
        "force": False, "label_kind": None, "best_by": "iou", "crops_per_image": "auto",
        "cache_size": 20, "precision": None, "workers": None, "ema": 0, "conv_bias": True,
        "align_corners": False, "weights": None, "preset": None, "freeze": None}
    assert settings_of("--protocol", "default") == settings_of()


def test_the_modern_recipe_is_one_word():
    found, plain = settings_of("--protocol", "fast").flags(), settings_of().flags()
    changed = {name: value for name, value in found.items() if value != plain[name]}
    assert changed == {
        "protocol": "fast", "padding": 1, "base_channels": None, "tile": None, "Batch_size": None,
        "Total_epochs": None, "Val_epochs": None, "loss": None, "optimizer": "adamw",
        "lr_schedule": "cosine", "augment": "light", "dropout_probs": [0, 0, 0, 0]}


def test_a_protocol_sets_defaults_and_no_more():
    import Main

    def parsed(*flags):
        return settings_of(*flags).flags()
    plain = parsed()
    for name, flags in Main.PROTOCOLS.items():
        found = parsed("--protocol", name)
        assert {key: found[key] for key in flags} == flags
        assert {key for key in found if found[key] != plain[key]} <= {*flags, "protocol"}
    assert parsed("--protocol", "reference", "--Learning_rate", "0.1")["Learning_rate"] == 0.1
    reference = parsed("--protocol", "reference")
    assert (reference["tile"], reference["loss"], reference["base_channels"]) == (
        Reference(), "weighted_ce", 64)
    assert parsed("--protocol", "fast", "--mode", "U2netS")["padding"] == 0
    assert parsed("--Total_epochs", "30")["Val_epochs"] is None, "the program chooses it"
    assert parsed("--Total_epochs", "51")["Val_epochs"] == 50


@pytest.mark.parametrize("flags, names, lines", [
    ("--loss ce_dice --Loss_w0 10 --Loss_sigma 3", "ab",
     ["Without effect for --mode Unet --loss ce_dice: --Loss_w0, --Loss_sigma"]),
    ("--loss weighted_ce --Loss_sigma 3 --dropout_probs 0 0 0 0.5", "ab", []),
    ("--mode U2netS --dropout_probs 0.2 0.3 0.4 0.5 --bilinear True", "ab",
     ["Without effect for --mode U2netS --loss weighted_ce: --bilinear, --dropout_probs"]),
    ("--bilinear False --align_corners True", "ab",
     ["Without effect for --mode Unet --loss weighted_ce: --align_corners"]),
    ("--mode U2netS --protocol paper --align_corners True", "ab", []),
    ("--protocol fast", "ab", []),
    ("--val_fraction 0.2", ["a_0", "a_1", "b_0"],
     ["Names look like parts of slides, which --val_fraction may have split: "
      "--group '(.*)_' keeps those of one name together"]),
    ("--val_fraction 0.2", ["a_0", "a_0-0", "a_1", "a_1-10"], []),  # slices, and their copies
    ("--val_fraction 0.2 --group (.*)_", ["a_0", "a_1", "b_0"], []),
    ("--fold 0/2", ["a_0", "a_1", "b_0"],
     ["Names look like parts of slides, which --fold may have split: "
      "--group '(.*)_' keeps those of one name together"]),
    ("", ["a_0", "a_1", "b_0"], []),
    ("--val_fraction 0.2", ["a_0", "a_1", "a_2"], []), ("--val_fraction 0.2", ["a_0", "b_1"], [])])
def test_what_may_not_be_meant_is_said(flags, names, lines):
    import Main
    from runs.greeting import doubts
    from runs.request import read_request
    request = read_request(flags.split(), Main.build_parser, Main.PROTOCOLS, Main.CROP)
    settings = request.settings
    pairs = [(Path(f"{name}.png"), Path(f"{name}.tif")) for name in names]
    maps = "maps" if settings.training.loss == "weighted_ce" else None
    data = SimpleNamespace(loader=SimpleNamespace(dataset=SimpleNamespace(pairs=pairs), maps=maps),
                           holds_back=settings.data.holds_back)
    assert list(doubts(settings, request.given, data)) == lines


@pytest.mark.parametrize("flags, message", [
    ("--Val_epochs 5 --Total_epochs 5", "--Val_epochs 5 must be below --Total_epochs 5"),
    ("--mode Vnet", "argument --mode: invalid choice: 'Vnet'"),
    ("--Learning_rate -1", "argument --Learning_rate: expected a number above 0, got '-1'"),
    ("--Learning_rate nan", "argument --Learning_rate: expected a number above 0, got 'nan'"),
    ("--Learning_rate inf", "argument --Learning_rate: expected a number above 0, got 'inf'"),
    ("--dropout_probs 0 0 0 1.0",
     "argument --dropout_probs: expected a number at least 0 and below 1, got '1.0'"),
    ("--dropout_probs 0.1 0.2", "argument --dropout_probs: expected 4 arguments"),
    ("--is_grayscale True --n_channels 3", "--is_grayscale True does not suit --n_channels 3"),
    ("--is_grayscale False --n_channels 1", "--is_grayscale False does not suit --n_channels 1"),
    ("--is_grayscale maybe", "expected True or False, got 'maybe'"),
    ("--base_channels 5", "--base_channels 5 must be even"),
    ("--tile 20 --padding 0", "--tile 20: too small for this net, 52 is the smallest"),
    ("--augment strong", "argument --augment: invalid choice: 'strong'"),
    ("--n_classes 1",
     "argument --n_classes: expected a whole number at least 2 and below 256, got '1'"),
    ("--n_channels 17", "argument --n_channels: expected a whole number at least 1 and below 17"),
    ("--Batch_size 0", "argument --Batch_size: expected a whole number at least 1, got '0'"),
    ("--save_every 0m", "argument --save_every: expected a number above 0, got '0'"),
    ("--val_fraction 1",
     "argument --val_fraction: expected a number at least 0 and below 1, got '1'"),
    ("--group (.*)_", "--group: only with --val_fraction or --fold"),
    ("--group ab --val_fraction 0.1",
     "argument --group: expected a regular expression with a group in parentheses, got 'ab'"),
    ("--padding 1 --mode U2net", "--padding: of the U-Net alone"),
    ("--padding 2", "argument --padding: invalid choice: 2"),
    ("--warm_up 1", "argument --warm_up: expected a number at least 0 and below 1, got '1'"),
    ("--clip_norm -1", "argument --clip_norm: expected a number at least 0, got '-1'"),
    ("--Time_budget 0", "argument --Time_budget: expected a number above 0, got '0'"),
    ("--loss dice", "argument --loss: invalid choice: 'dice'"),
    ("--lr_schedule step", "argument --lr_schedule: invalid choice: 'step'"),
    ("--epochs 3", "unrecognized arguments: --epochs 3"),
])
def test_a_mistake_in_a_flag(tmp_path, no_jittor, flags, message):
    (tmp_path / "here").mkdir()
    done = command("Main.py", *flags.split(), cwd=tmp_path / "here", **no_jittor)
    assert (done.returncode, done.stdout) == (2, "")
    assert (done.stderr.count("\n") == 1 and done.stderr.startswith("Main.py: error: ")
            and message in done.stderr)
    assert not list((tmp_path / "here").iterdir())


@pytest.fixture
def refused(tmp_path, no_jittor, machine):
    """A function that runs Main.py on ./set and returns the one line that names its data error."""
    def run(*flags, **environment):
        done = command("Main.py", "--Data_directory", "set", "--device", "cpu", *flags,
                       cwd=tmp_path, **{**no_jittor, **environment})
        assert ((done.returncode, done.stdout) == (1, "")
                and done.stderr.count("\n") == 1), done.stderr
        assert done.stderr.startswith("Main.py: error: ")
        return done.stderr.removeprefix("Main.py: error: ").rstrip()
    return run


def test_missing_data_names_the_command_that_makes_some(refused):
    assert refused().startswith(
        "set: no such folder; `python MakeData.py sample` makes ./data/sample")


@pytest.mark.parametrize("split, kind", [("train", "label"), ("test", "image")])
def test_a_missing_partner(refused, tmp_path, split, kind):
    data = write_set(tmp_path / "set", [(20, 20)] * 2, [(20, 20)] * 2)
    (data / split / {"label": "labels", "image": "imgs"}[kind] / "cell_1.png").unlink()
    other = {"label": "imgs", "image": "labels"}[kind]
    assert refused().startswith(f"set/{split}/{other}/cell_1.png: no {kind} of this name in ")


@pytest.mark.parametrize("split", ["train", "test"])
def test_sizes_that_differ(refused, tmp_path, split):
    data = write_set(tmp_path / "set", [(20, 20)], [(20, 20)])
    Image.new("L", (20, 24)).save(data / split / "labels" / "cell_0.png")
    label, image = (f"set/{split}/{kind}/cell_0.png" for kind in ("labels", "imgs"))
    assert re.match(f"{label}: 24 x 20 px.* but its image {image} .*20 x 20 px", refused())


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_label_value_that_is_no_class(refused, tmp_path, split):
    data = write_set(tmp_path / "set", [(20, 20)], [(20, 20)], classes=3)
    Image.new("L", (20, 20), 3).save(data / split / "labels" / "cell_0.png")
    assert refused("--n_classes", 3) == (f"set/{split}/labels/cell_0.png: has the value 3, "
                                         "but --n_classes 3 allows 0 ... 2")


def test_a_damaged_image(refused, tmp_path):
    image = write_set(tmp_path / "set", [(60, 60)], [(20, 20)]) / "train" / "imgs" / "cell_0.png"
    image.write_bytes(image.read_bytes()[:-1000])
    assert refused().startswith("set/train/imgs/cell_0.png: not a readable image")


def test_the_references_protocol_needs_its_size(refused, tmp_path):
    write_set(tmp_path / "set", [(20, 20)], [(20, 20)])
    assert ("20 x 20 px, but --tile reference is made for 512 x 512 px"
            in refused("--tile", "reference"))


def test_a_step_that_does_not_fit_into_the_memory(refused, tmp_path):
    """Before the first step, and before Jittor: both numbers, and what to do."""
    write_set(tmp_path / "set", [(2000, 3000)], [(20, 20)])
    line = refused("--base_channels", 2048)
    assert re.fullmatch(r"a training step on 2000 x 3000 px takes about 1[0-9]{3}\.\d GB, but "
                        r"there are \d+\.\d GB that are free; --tile 256, --protocol fast or "
                        "fewer --base_channels take less", line), line


def test_an_edited_list_of_another_set_is_refused(refused, tmp_path):
    write_set(tmp_path / "set", [(20, 20)] * 2, [(20, 20)])
    write_set(tmp_path / "other", [(20, 20)] * 2, [(20, 20)])
    listed = command("MakeTxt.py", "--Data_directory", "other", cwd=tmp_path)
    assert listed.returncode == 0
    path = tmp_path / "DataTxt" / "train_image.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert refused() == ("DataTxt: an edited list names other/train/imgs/cell_1.png, outside set; "
                         "give another --Datatxt_directory, or renew the lists with "
                         "`python MakeTxt.py`")


def test_what_the_machine_cannot_do(refused, tmp_path):
    (tmp_path / "file").touch()
    assert refused("--Log_directory", "file/logs").startswith("file/logs: cannot make this folder")
    assert refused("--device", "cuda", nvcc_path="").startswith(
        "--device cuda: the environment variable nvcc_path is")
    assert f"{tmp_path}/file/.cache/jittor: not writable" in refused(HOME=str(tmp_path / "file"))


# ------------------------------------------------------------------- the paper's run, word for word
REFERENCE_AUGMENTATION = """
python DataAugmentation.py \\
    --img_path "./data/ISBC2012/train/imgs" \\
    --mask_path "./data/ISBC2012/train/labels" \\
    --sum 2 \\
    --alpha_lv 2.0 \\
    --sigma_lv 0.08 \\
    --alpha_affine_lv 0.08
"""
REFERENCE_TRAINING = """
python Main.py \\
    --Data_directory "./data/ISBC2012" \\
    --Datatxt_directory "./DataTxt" \\
    --Log_directory "./logs" \\
    --Checkpoint_directory "./checkpoints" \\
    --Result_directory "./results" \\
    --is_grayscale True \\
    --n_channels 1 \\
    --n_classes 2 \\
    --Total_epochs 200 \\
    --Val_epochs 50 \\
    --Batch_size 1 \\
    --bilinear True \\
    --dropout_probs 0.2 0.3 0.4 0.5 \\
    --Learning_rate 0.00001 \\
    --Loss_w0 10 \\
    --Loss_sigma 5 \\
    --mode "Unet"
"""


def words_of(text):
    return shlex.split(text.replace("\\\n", " "))[1:]


def test_the_references_command_asks_for_the_references_system():
    """The paper's command gives some flags; the others get the same meaning, on the full tile."""
    assert settings_of(*words_of(REFERENCE_TRAINING)[1:]) == settings_of(
        "--n_channels", 1, "--n_classes", 2, "--Learning_rate", 1e-5)


@pytest.mark.jittor
def test_the_references_commands_train_the_references_system(tmp_path):
    """Word for word, but with fewer epochs, on a picture of 512 px that the project draws."""
    drawn = command("MakeData.py", "sample", "--Data_directory", "data/ISBC2012", "--size", 512,
                    "--train", 1, "--test", 1, cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    augmented = command(*words_of(REFERENCE_AUGMENTATION), cwd=tmp_path)
    assert augmented.returncode == 0, augmented.stderr
    few = REFERENCE_TRAINING.replace("--Total_epochs 200", "--Total_epochs 1").replace(
        "--Val_epochs 50", "--Val_epochs 0")
    done = command(*words_of(few), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Unet on data/ISBC2012: 3 training pairs, 1 test pairs" in done.stdout
    assert ("17,266,306 trainable parameters; 512 x 512 px of an image are an input of "
            "700 x 700 px; loss: weighted cross entropy (nats per pixel)\n") in done.stdout
    assert "Without effect" not in done.stdout and "Chosen:" not in done.stdout
    labels = {path.stem for path in (tmp_path / "data/ISBC2012/train/labels").iterdir()}
    assert (len(labels) == 3
            and {path.stem for path in (tmp_path / "weight_maps").glob("*.npy")} == labels)
    header = checkpoint.load(tmp_path / "checkpoints" / "last_model.safetensors")[1]
    assert header["options"] == {"bilinear": True, "dropout_probs": [0.2, 0.3, 0.4, 0.5],
                                 "base_channels": 64, "padding": 0, "conv_bias": True,
                                 "align_corners": False}
    assert header["tile"] == "full" and header["run"]["settings"]["optimizer"] == ["adam"]


# ------------------------------------------------------------------------------------ complete runs
def rows_of(folder):
    (path,) = (folder / "logs").glob("*.csv")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(list(row) == COLUMNS for row in rows)
    return rows


def page_of(folder):
    (path,) = (folder / "logs").glob("report_*.html")
    return Page(path)


def trained(folder, data, *flags, code=0):
    folder.mkdir()
    done = command("Main.py", "--Data_directory", data, *SMALL, *flags, cwd=folder)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done


FULL = ("--Total_epochs", 12, "--Val_epochs", 9)


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    """A run of 12 epochs, the last 3 of them tested: (folder, data set, finished process)."""
    folder = tmp_path_factory.mktemp("main")
    data = write_set(folder / "set", [(52, 44)] * 4, [(52, 44), (47, 61)])
    return folder / "run", data, trained(folder / "run", data, *FULL)


@pytest.mark.jittor
def test_a_run_leaves_what_it_promises(full_run):
    folder, data, done = full_run
    (text,) = (folder / "logs").glob("*.log")
    assert re.fullmatch(r"Unet_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", text.stem)
    (events,) = (folder / "logs" / text.stem).iterdir()
    expected = {f"logs/{text.stem}.{kind}" for kind in ("log", "csv", "png")}
    expected |= {f"logs/report_{text.stem}.html", f"logs/{text.stem}/{events.name}"}
    expected |= {f"checkpoints/{kind}_model.safetensors" for kind in ("best", "last")}
    expected |= {f"results/{name}.png" for name in ("cell_0_pred", "cell_1_pred", "overview")}
    expected |= {*(f"DataTxt/{name}.json" for name in ("lists", "survey")),
                 "checkpoints/.lock", "results/.lock"}
    expected |= {f"weight_maps/cell_{k}.{kind}" for k in range(4) for kind in ("npy", "png")}
    expected |= {f"DataTxt/{split}_{kind}.txt"
                 for split in ("train", "test") for kind in ("image", "label")}
    assert {path.relative_to(folder).as_posix()
            for path in folder.rglob("*") if path.is_file()} == expected
    assert min(Image.open(folder / "logs" / f"{text.stem}.png").size) > 300
    for k in range(4):
        label = np.asarray(Image.open(data / "train" / "labels" / f"cell_{k}.png")) > 0
        weights = np.load(folder / "weight_maps" / f"cell_{k}.npy")
        assert np.array_equal(weights, compute_weight_map(label.astype(int), 10, 5))

    rows = rows_of(folder)
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(12)]
    assert [row["iou"] == "" for row in rows] == [True] * 9 + [False] * 3
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    best = max(rows[9:], key=lambda row: float(row["iou"]))
    lines = [line.split("  ", 1)[1] for line in text.read_text().splitlines()]
    assert lines == done.stdout.splitlines(), "the screen and the log say the same"
    assert sum(line.startswith("epoch ") for line in lines) == 12
    assert "4 training pairs, 2 test pairs" in lines[0] and "base_channels=4" in lines[3]
    assert lines[1].endswith("; 52 x 44 px of an image are an input of 236 x 236 px; "
                             "loss: weighted cross entropy (nats per pixel)")
    assert lines[2] == ("Chosen: --n_channels 1 (grey images), --n_classes 2 (values in the "
                        "labels)")
    closing = "\n".join(lines[lines.index("-" * 72):])
    for promised in ("Mean epoch time (middle half of 12 epochs): ", "Mean throughput",
                     "Whole run: ", "All foreground would score: IoU 0.",
                     f"Best epoch: {best['epoch']}  ", f"logs/{text.name} and .csv",
                     f"logs/{text.stem}.png", "checkpoints/", "weight_maps/", "results/",
                     f"logs/report_{text.stem}.html"):
        assert promised in closing
    shown = re.search(r"Best epoch: .*  IoU (\S+)  Dice (\S+)  F1 (\S+)  loss (\S+)$",
                      closing, re.M).groups()
    written = [float(best[key]) for key in ("iou", "dice", "f1", "train_loss")]
    assert [float(value) for value in shown] == pytest.approx(written, abs=6e-5)


@pytest.mark.jittor
def test_the_page_and_the_events_tell_what_the_csv_does(full_run):
    from masks.pixel_scores import scores
    folder, data, _ = full_run
    found, rows = page_of(folder), rows_of(folder)
    keys = ("iou", "dice", "f1", "train_loss")
    shown = found.table("epoch")
    assert len(shown) == 12
    for row, expected in zip(shown, rows):
        assert row[:5] == [expected["epoch"], *(
            expected[key] and f"{float(expected[key]):.4f}" for key in keys)]
    best = max(rows[9:], key=lambda row: float(row["iou"]))
    assert found.table("mean over test images")[0] == [f"best epoch, {best['epoch']}",
                                                       *(f"{float(best[key]):.4f}" for key in keys)]
    assert {row[0] for row in found.table("image")} == {"cell_0", "cell_1"}
    for name, *values in found.table("image"):
        label = np.asarray(Image.open(data / "test" / "labels" / f"{name}.png")) > 0
        prediction, shown = predictions_of(folder)[f"{name}_pred.png"] > 0, found.pictures(name)
        again = scores(prediction, label)
        assert values == [f"{again[key]:.4f}" for key in ("iou", "dice", "f1")]
        assert ((shown["probability"][..., 0] > 127) != prediction).mean() < 0.01, (
            "the probability disagrees with the mask")
        assert ((shown["errors"] == HIT).all(axis=2) == prediction & label).all()
    (command,) = found.texts["pre"]
    assert shlex.split(command)[1:] == [
        str(ROOT / "Main.py"), "--Data_directory", str(data), *map(str, SMALL + FULL)]
    assert "12 of 12 epochs" in found.text and "Not complete" not in found.text

    events = events_in(next(path for path in (folder / "logs").iterdir() if path.is_dir()))
    scalars = {(value.tag, event.step): value.simple_value
               for event in events for value in event.summary.value
               if value.HasField("simple_value")}
    assert len(scalars) == 12 * 2 + 3 * 3
    for row in rows:
        for key, tag in (("train_loss", "train/loss"), ("iou", "scores/IoU"),
                         ("dice", "scores/Dice")):
            assert (tag, int(row["epoch"])) in scalars or row[key] == ""
            assert (row[key] == "" or scalars[tag, int(row["epoch"])]
                    == pytest.approx(float(row[key]), rel=1e-5))
    pictures = [event.step for event in events for value in event.summary.value
                if value.HasField("image")]
    assert pictures[-2:] == [int(best["epoch"])] * 2


@pytest.mark.jittor
def test_the_best_model_makes_the_predictions_that_were_written(full_run):
    """Its header says all that is needed to build the net and to normalise an image."""
    from masks.pixel_scores import mean_scores, scores
    from Model import build_model
    from nets.geometry import UNET_BILINEAR
    from Process import predict_image
    folder, data, _ = full_run
    rows = rows_of(folder)
    images = [np.asarray(Image.open(path)) / 255 for path in (data / "train" / "imgs").iterdir()]
    path = folder / "checkpoints" / "best_model.safetensors"
    _, header = checkpoint.load(path)
    assert (header["mean"] == pytest.approx([np.mean(images)])
            and header["std"] == pytest.approx([np.std(images)]))
    assert header["version"] == VERSION
    assert (header["mode"], header["n_channels"], header["n_classes"], header["tile"]) == (
        "Unet", 1, 2, "full")
    assert header["options"] == {"bilinear": True, "dropout_probs": [0.2, 0.3, 0.4, 0.5],
                                 "base_channels": 4, "padding": 0, "conv_bias": True,
                                 "align_corners": False}
    model = build_model(header["mode"], header["n_channels"], header["n_classes"],
                        **header["options"])
    checkpoint.load_weights(model, path)
    model.eval()
    results = []
    for name, prediction in predictions_of(folder).items():
        pixels, label = (np.asarray(Image.open(data / "test" / kind / name.replace("_pred", "")))
                         for kind in ("imgs", "labels"))
        image = ((pixels / 255 - header["mean"]) / header["std"]).astype(np.float32)[None]
        again = predict_image(model, image, UNET_BILINEAR).argmax(axis=0) * 255
        assert prediction.shape == label.shape and prediction.dtype == np.uint8
        assert set(np.unique(prediction)) == {0, 255} and (again != prediction).mean() < 0.002
        results.append(scores(prediction // 255, label // 255))
    assert mean_scores(results)["iou"] > 0.8, "bright discs on a dark ground are easy to learn"
    for key, value in mean_scores(results).items():
        assert value == pytest.approx(header["scores"][key])
        assert (f"{value:.6g}" == rows[header["epoch"]][key]
                == max((row[key] for row in rows[9:]), key=float))
    _, last = checkpoint.load(folder / "checkpoints" / "last_model.safetensors")
    assert last.pop("run")["progress"]["epoch"] == 12
    assert last == {key: value for key, value in header.items() if key != "scores"} | {"epoch": 11}


@pytest.mark.jittor
def test_the_same_seed_gives_the_same_run(full_run, tmp_path):
    folder, data, _ = full_run
    trained(tmp_path / "again", data, *FULL)
    one, other = ([[row[key] for key in COLUMNS[:5]] for row in rows_of(run)]
                  for run in (folder, tmp_path / "again"))
    assert one == other
    (one, _), (other, _) = (checkpoint.load(run / "checkpoints" / "last_model.safetensors")
                            for run in (folder, tmp_path / "again"))
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.jittor
@pytest.mark.parametrize("flags, sizes, options", [
    (("--n_channels", 3, "--n_classes", 3, "--Batch_size", 2, "--augment", "full"),
     [(52, 44), (60, 33), (1, 1)], {}),
    (("--tile", 64, "--optimizer", "sgd", "--bilinear", False, "--augment", "paper"),
     [(100, 80), (90, 150)], {"bilinear": False}),
    (("--tile", "reference", "--base_channels", 2), [(512, 512)], {"base_channels": 2}),
    (("--mode", "U2netS"), [(64, 64), (1, 1)], {"side_outputs": True}),
    (("--padding", 1, "--tile", 48, "--loss", "ce_dice", "--optimizer", "adamw",
      "--lr_schedule", "cosine", "--warm_up", 0.5, "--clip_norm", 1),
     [(64, 50)] * 2, {"padding": 1}),
], ids=["colour", "tiles", "reference", "u2net", "padded"])
def test_other_ways_to_train(tmp_path, flags, sizes, options):
    channels, classes = (3, 3) if "--n_channels" in flags else (1, 2)
    data = write_set(tmp_path / "set", sizes, sizes[:1], channels, classes)
    done = trained(tmp_path / "run", data, *flags, "--Total_epochs", 1, "--Val_epochs", 0)
    assert (("Weight maps" in done.stdout) == any((tmp_path / "run" / "weight_maps").iterdir())
            == ("--loss" not in flags))
    (row,) = rows_of(tmp_path / "run")
    assert float(row["train_loss"]) > 0 and 0 <= float(row["iou"]) <= float(row["dice"]) <= 1
    (prediction,) = predictions_of(tmp_path / "run").values()
    assert prediction.shape == sizes[0]
    assert set(np.unique(prediction)) <= ({0, 255} if classes == 2 else {0, 1, 2})
    weights, header = checkpoint.load(tmp_path / "run" / "checkpoints" / "best_model.safetensors")
    assert {**header["options"], **options} == header["options"]
    assert (header["n_channels"] == len(header["mean"]) == channels
            and header["n_classes"] == classes)
    assert all(np.isfinite(array).all() for array in weights.values())


@pytest.mark.jittor
def test_an_edited_list_is_trained_on(tmp_path):
    data = write_set(tmp_path / "set", [(52, 44)] * 3, [(52, 44)])
    (tmp_path / "run").mkdir()
    listed = command("MakeTxt.py", "--Data_directory", data, cwd=tmp_path / "run")
    assert listed.returncode == 0
    for kind in ("image", "label"):
        path = tmp_path / "run" / "DataTxt" / f"train_{kind}.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    done = command("Main.py", "--Data_directory", data, *SMALL, "--Total_epochs", 1,
                   "--Val_epochs", 0, cwd=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "2 training pairs, 1 test pairs" in done.stdout
    assert done.stdout.startswith("DataTxt/train_*.txt was edited: 2 pairs are listed, 3 are in "
                                  "the folder; `python MakeTxt.py` renews it\n")
    maps = {path.stem for path in (tmp_path / "run" / "weight_maps").glob("*.npy")}
    assert maps == {"cell_1", "cell_2"}


@pytest.mark.jittor
def test_the_test_images_are_read_once(tmp_path):
    """Held-back training images choose the model; its scores on the test images come at the end."""
    data = write_set(tmp_path / "set", [(64, 50)] * 4, [(40, 48)] * 2)
    done = trained(tmp_path / "run", data, "--Total_epochs", 3, "--Val_epochs", 0,
                   "--val_fraction", 0.25, "--seed", 4)
    assert "3 training pairs, 1 held back to choose the best model, 2 test pairs" in done.stdout
    weights, header = checkpoint.load(tmp_path / "run" / "checkpoints" / "best_model.safetensors")
    rows = rows_of(tmp_path / "run")
    own, held = hold_back(pair_by_name(data / "train/imgs", data / "train/labels"), 0.25, 4)
    assert header["mean"] == pytest.approx(
        [np.mean([np.asarray(Image.open(image)) / 255 for image, _ in own])], rel=1e-6)
    assert header["scores"]["iou"] == pytest.approx(
        max(float(row["iou"]) for row in rows), rel=1e-5)
    shown = re.search(r"Test images, read once: IoU (\S+)  Dice (\S+)", done.stdout).groups()
    assert [float(value) for value in shown] == pytest.approx(
        [header["test_scores"][key] for key in ("iou", "dice")], abs=6e-5)
    scored = command("Metrics.py", "--Prediction_directory", "results",
                     "--Label_directory", data / "test/labels", "--metric", "pixel",
                     cwd=tmp_path / "run")
    assert f"{header['test_scores']['iou']:.4f}" in scored.stdout, scored.stderr
    assert set(predictions_of(tmp_path / "run")) == {"cell_0_pred.png", "cell_1_pred.png"}
    page = page_of(tmp_path / "run")
    assert page.table("mean over test images, read once")[0][:2] == [
        "best model", f"{header['test_scores']['iou']:.4f}"]
    # like a run that was stopped while it read the test images: last_model has all epochs
    again = command("Main.py", "--resume", cwd=tmp_path / "run")
    assert (again.returncode == 0
            and re.search("Test images, read once: .*", done.stdout)[0] in again.stdout), (
                again.stderr)
    assert rows_of(tmp_path / "run") == rows


def stopped(data, folder, number):
    """Send a signal to a long run after its third epoch, to all its processes as a terminal does.

    Returns (the rest of its output, its stderr, exit code).
    """
    flags = ("--Data_directory", data, *SMALL, "--Total_epochs", 200, "--Val_epochs", 199,
             "--seed", 1, "--save_every", 2)
    with subprocess.Popen([sys.executable, ROOT / "Main.py", *map(str, flags)], cwd=folder,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        epochs = (line for line in process.stdout if line.startswith("epoch "))
        assert len(list(itertools.islice(epochs, 3))) == 3
        os.killpg(process.pid, number)
        return (*process.communicate(timeout=300), process.returncode)


@pytest.mark.jittor
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_and_exits_with_130(full_run, tmp_path, number):
    output, errors, code = stopped(full_run[1], tmp_path, number)
    assert (code, errors) == (
        130, "\nStopping after this step; once more stops at once, without saving.\n")
    assert "No epoch was tested." in output and "Whole run: " in output
    rows = rows_of(tmp_path)
    assert (3 <= len(rows) < 200
            and rows[0]["train_loss"] != rows_of(full_run[0])[0]["train_loss"]), "the same seed"
    weights, header = checkpoint.load(tmp_path / "checkpoints" / "last_model.safetensors")
    assert (header["epoch"] >= len(rows) - 1
            and all(np.isfinite(array).all() for array in weights.values()))
    found = page_of(tmp_path)
    assert f"No epoch was tested; {len(rows)} of 200 epochs in " in found.text
    assert [row[0] for row in found.table("epoch")] == [row["epoch"] for row in rows]
    assert re.search(r"^Not complete: stopped on request in epoch \d+$", found.text, re.M)
    assert not (tmp_path / "checkpoints" / "best_model.safetensors").exists()


@pytest.mark.jittor
def test_a_killed_run_says_so_and_leaves_its_last_model(full_run, tmp_path):
    _, errors, code = stopped(full_run[1], tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert (errors.startswith("Main.py: error: the training was killed, ")
            and errors.count("\n") == 1)
    _, header = checkpoint.load(tmp_path / "checkpoints" / "last_model.safetensors")
    assert header["epoch"] % 2 == 1 and header["epoch"] < len(rows_of(tmp_path)), (
        "--save_every 2 saves after every second epoch")


@pytest.mark.jittor
def test_a_hopeless_learning_rate_ends_in_one_line(tmp_path):
    data = write_set(tmp_path / "set", [(52, 44)], [(52, 44)])
    flags = ("--Total_epochs", 50, "--Val_epochs", 49, "--Learning_rate", 1e30)
    done = trained(tmp_path / "run", data, *flags, code=1)
    assert "epoch 3: 3 bad batches in a row" in done.stdout + done.stderr
    assert re.fullmatch(r"Main.py: error: epoch \d: the loss stays at .*; lower --Learning_rate.*",
                        done.stderr.splitlines()[-1])
    weights, _ = checkpoint.load(tmp_path / "run" / "checkpoints" / "last_model.safetensors")
    assert all(np.isfinite(array).all() for array in weights.values())
    assert "--Learning_rate, or look for damaged images" in page_of(tmp_path / "run").text


@pytest.mark.jittor
def test_a_page_that_cannot_be_written_spoils_nothing(tmp_path):
    data = write_set(tmp_path / "set", [(52, 44)], [(52, 44)])
    (data / "train" / "imgs" / "augmentation_manifest.jsonl").write_text("no JSON\n\n")
    done = trained(tmp_path / "run", data, "--Total_epochs", 1, "--Val_epochs", 0)
    assert re.search(
        r"^Page +not written: .*manifest.jsonl: line 1 is damaged; delete this line$",
        done.stdout, re.M)
    assert len(rows_of(tmp_path / "run")) == 1 and predictions_of(tmp_path / "run")
    assert not list((tmp_path / "run" / "logs").glob("*report*"))
