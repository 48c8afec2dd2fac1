"""Folds and seeds: the partition, and several runs of Main.py one after the other."""
import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, Page, command, end, rows_of, settings_of, start_command, write_set

from command.errors import DataError
from command.relay import SignalRelay
from datasets.copies import Manifest
from datasets.splits import Fold, hold_fold
from images.formats import write_png
from nets import checkpoint
from runs.series import without_flags
from runs.series_summary import spread_of


# ------------------------------------------------------------------------------------ the partition
def write_pairs(folder, names, copied=()):
    """Write tiny pairs and copies of some, as DataAugmentation.py does: [(image, label)]."""
    pairs = [(folder / "imgs" / f"{name}.png", folder / "labels" / f"{name}.png") for name in names]
    for path in (path for pair in pairs for path in pair):
        path.parent.mkdir(exist_ok=True)
        write_png(path, np.zeros((4, 4), np.uint8))
    manifest = Manifest(folder / "imgs", folder / "labels")
    for name in copied:
        copy = [folder / kind / f"{name}-0.png" for kind in ("imgs", "labels")]
        manifest.write_files(copy, [pairs[0][0].read_bytes()] * 2)
        pairs.append(tuple(copy))
    return pairs


def names_of(pairs):
    return [image.stem for image, _ in pairs]


SLIDES = [f"{slide}_{k}" for slide, count in zip("abcdefg", (7, 5, 4, 4, 2, 1, 1))
          for k in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5, 7])
@pytest.mark.parametrize("pattern, slide_of", [(None, lambda name: name),
                                               ("(.*)_", lambda name: name[0])])
def test_every_original_is_held_once(tmp_path, count, pattern, slide_of):
    copied = SLIDES[::2]
    pairs = write_pairs(tmp_path, SLIDES, copied)
    folds = [hold_fold(pairs, Fold(number, count), pattern) for number in range(count)]
    assert Counter(name for fold in folds for name in names_of(fold.held)) == Counter(SLIDES)
    for train, held in folds:
        kept, left_out = set(names_of(train)), set(names_of(held))
        slides = set(map(slide_of, left_out))
        originals = {name for name in SLIDES if slide_of(name) not in slides}
        assert left_out == set(SLIDES) - originals, "slides are whole"
        assert kept == originals | {f"{name}-0" for name in originals & set(copied)}, (
            "copies go with their originals")
        # moving the fold's smallest slide to another fold would not make the sizes more equal
        others = [len(other.held) for other in folds if other.held != held]
        smallest = min(Counter(map(slide_of, left_out)).values())
        assert len(held) - smallest <= min(others)
    if pattern is None:
        sizes = [len(fold.held) for fold in folds]
        assert max(sizes) - min(sizes) <= 1


def test_names_alone_decide(tmp_path):
    """Neither the order of the files, nor copies, nor where they lie."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    pairs = write_pairs(tmp_path / "one", SLIDES)
    other = write_pairs(tmp_path / "two", SLIDES[::-1], SLIDES)
    for number in range(4):
        held, moved = (names_of(hold_fold(each, Fold(number, 4)).held) for each in (pairs, other))
        assert sorted(held) == sorted(moved)
    # a partition that changed would change the folds of runs that go on
    assert sorted(names_of(hold_fold(pairs, Fold(0, 6)).held)) == ["a_0", "c_0", "c_3", "d_2"]


@pytest.mark.parametrize("count, pattern, words", [
    (25, None, "--fold 3/25 takes 25 images or more, here are 24; give fewer folds"),
    (8, "(.*)_", "--fold 3/8 takes 8 groups or more, here are 7; give fewer folds")])
def test_too_few_groups(tmp_path, count, pattern, words):
    pairs = write_pairs(tmp_path, SLIDES, SLIDES)
    with pytest.raises(DataError, match=re.escape(f"imgs: {words}")):
        hold_fold(pairs, Fold(3, count), pattern)


# ---------------------------------------------------------------------------------------- the flags
@pytest.mark.parametrize("flags, message", [
    ("--fold 5/5", "expected K/N, the fold K = 0 ... N - 1 of N = 2 or more, or all/N, got '5/5'"),
    ("--fold all/1", "got 'all/1'"), ("--fold 0", "got '0'"), ("--fold -1/5", "--fold"),
    ("--fold 0/5 --val_fraction 0.2", "--fold 0/5: not with --val_fraction"),
    ("--fold all/5 --val_fraction 0.2", "--fold all/5: not with --val_fraction"),
    ("--seeds 0 1 --seed 0", "--seeds: not with --seed"),
    ("--seeds 2 1 2", "--seeds 2 1 2: each seed once"), ("--seeds", "--seeds: expected at least"),
    ("--group (.*)_", "--group: only with --val_fraction or --fold"),
    ("--fold all/5 --force", "--force: only with --resume"),
    ("--seeds 0 1 --Val_epochs 5 --Total_epochs 5", "--Val_epochs 5 must be below")])
def test_mistakes(tmp_path, no_jittor, flags, message):
    done = command("Main.py", *flags.split(), cwd=tmp_path, **no_jittor)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("Main.py: error: ") and message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["traps"]


@pytest.mark.parametrize("flags", ["--fold all/5", "--seeds 0 1"])
def test_mpirun_starts_one_run(tmp_path, no_jittor, flags):
    done = command("Main.py", *flags.split(), cwd=tmp_path, OMPI_COMM_WORLD_SIZE="2", **no_jittor)
    assert done.returncode == 2 and "--fold all/N and --seeds: not under mpirun" in done.stderr


def test_a_fold_has_folders_of_its_own():
    settings = settings_of("--fold", "3/5", "--Log_directory", "a/logs")
    own = {name: (str(getattr(settings.run, name)), str(getattr(settings.folders, name)))
           for name in vars(settings.run) if name.endswith("_directory")}
    assert own == {"Log_directory": ("a/logs", "a/logs/fold_3"),
                   "Checkpoint_directory": ("checkpoints", "checkpoints/fold_3"),
                   "Result_directory": ("results", "results/fold_3"),
                   "Datatxt_directory": ("DataTxt", "DataTxt"),
                   "Weight_directory": ("weight_maps", "weight_maps")}
    plain = settings_of()
    assert plain.folders == plain.run and not plain.data.holds_back and settings.data.holds_back


def test_words_of_other_flags_stay():
    words = shlex.split("--seeds 0 1 --tile 64 --fold=all/5 --dropout_probs 0 0 0 0.5 --resume "
                        "--group '(a b)_' --fold all/5")
    assert without_flags(words, {"--fold", "--seeds", "--resume"}) == [
        "--tile", "64", "--dropout_probs", "0", "0", "0", "0.5", "--group", "(a b)_"]


# ---------------------------------------------------------------------------- processes and signals
CHILD = """import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: got.append("INT"))
signal.signal(signal.SIGTERM, lambda *_: got.append("TERM"))
got = []
print("ready", flush=True)
deadline = time.monotonic() + 20
while len(got) < int(sys.argv[1]) and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.3)
print(*got, flush=True)
sys.exit(len(got))
"""
PARENT = f"""import sys
from command.relay import SignalRelay
with SignalRelay() as relay:
    code = relay.call([sys.executable, "-c", {CHILD!r}, sys.argv[1]])
    print("child", code, relay.received, flush=True)
"""


@pytest.mark.parametrize("numbers, got", [
    ([signal.SIGINT], "INT"), ([signal.SIGTERM], "TERM"), ([signal.SIGINT] * 2, "INT INT")])
@pytest.mark.parametrize("to_group", [False, True])
def test_a_signal_reaches_the_child_once(numbers, got, to_group):
    """Whether it comes to the parent alone, or as a terminal's Ctrl-C to its process group."""
    process = subprocess.Popen([sys.executable, "-c", PARENT, str(len(numbers))], text=True,
                               stdout=subprocess.PIPE, start_new_session=True,
                               cwd=Path(__file__).parent.parent)
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        if to_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        time.sleep(0.2)
    printed, _ = process.communicate(timeout=60)
    assert printed.splitlines() == [got, f"child {len(numbers)} True"]


def test_children_end_as_they_end():
    with SignalRelay() as relay:
        assert [relay.call([sys.executable, "-c", f"import os, sys; {words}"]) for words in (
            "sys.exit(2)", "pass", "os.kill(os.getpid(), 9)")] == [2, 0, -signal.SIGKILL]
        assert not relay.received
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --------------------------------------------------------------------------------------- whole runs
FLAGS = ["--Data_directory", "data", *map(str, SMALL), "--loss", "ce", "--Total_epochs", "8",
         "--Val_epochs", "1"]


@pytest.fixture(scope="module")
def series(tmp_path_factory, machine):
    """A folder with a data set and the runs of both its folds."""
    folder = tmp_path_factory.mktemp("series")
    write_set(folder / "data", [(64, 64)] * 5, [(48, 48)] * 2)
    done = command("Main.py", *FLAGS, "--fold", "all/2", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


def table_of(folder):
    with open(folder / "results" / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def header_of(folder, name):
    return checkpoint.load(folder / "checkpoints" / name / "best_model.safetensors")[1]


def without_times(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.jittor
def test_the_summary_of_folds(series):
    *runs, mean, deviation = rows = table_of(series)
    assert [row["run"] for row in rows] == ["fold_0", "fold_1", "mean", "std"]
    assert [(row["fold"], row["seed"]) for row in runs] == [("0", "0"), ("1", "0")]
    headers = [header_of(series, row["run"]) for row in runs]
    for row, header in zip(runs, headers):
        assert int(row["epoch"]) == header["epoch"] and float(row["seconds"]) > 0
        for key in ("iou", "dice", "f1"):
            assert row[f"held_{key}"] == f"{header['scores'][key]:.6g}"
            assert row[f"test_{key}"] == f"{header['test_scores'][key]:.6g}"
    first, second = (header["test_scores"]["iou"] for header in headers)
    assert float(mean["test_iou"]) == pytest.approx((first + second) / 2, rel=1e-5)
    assert float(deviation["test_iou"]) == pytest.approx(abs(first - second) / 2 ** 0.5, rel=1e-4)
    printed = (series / "printed").read_text()
    assert (f"IoU {(first + second) / 2:.4f} +- {abs(first - second) / 2 ** 0.5:.4f}  Dice "
            in printed.split("Test images: ")[-1]) and "over 2 folds" in printed
    assert "All foreground would score: " in printed.split("Test images: ")[-1]
    held = [int(found) for found in re.findall(r"(\d+) held back to choose", printed)]
    assert sorted(held) == [2, 3]
    assert not list((series / "logs").glob("*.csv")), "each run has a folder of its own"
    assert (series / "DataTxt" / "survey.json").exists()


@pytest.mark.jittor
def test_the_page_of_folds(series):
    page = Page(series / "logs" / "summary.html")
    names = [row[0] for row in page.table("run")]
    assert names == ["fold_0", "fold_1", "mean", "standard deviation"]
    shown = page.table("run")[0]
    header = header_of(series, "fold_0")
    scores = [header[kind][key] for kind in ("scores", "test_scores") for key in ("iou", "dice")]
    assert shown[1:-1] == [str(header["epoch"]), *(f"{score:.4f}" for score in scores)]
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert len(links) == 2 and all((series / "logs" / link).is_file() for link in links)
    words = shlex.split("".join(page.texts["pre"]))
    assert words == ["python", "Main.py", *FLAGS, "--fold", "all/2"]
    assert len(page.images) == 1 and page.images[0]["src"].startswith("data:image/svg+xml;base64,")
    assert "Not complete" not in page.text and "all foreground" in page.text


@pytest.mark.jittor
def test_stopped_and_resumed(series, tmp_path, monkeypatch):
    """Fold 1 was run alone before, fold 0 is interrupted: the same numbers come out."""
    (tmp_path / "data").symlink_to(series / "data")
    alone = command("Main.py", *FLAGS, "--fold", "1/2", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    process = start_command(tmp_path, *FLAGS, "--fold", "all/2", "--resume")
    next(line for line in process.stdout if line.startswith("epoch"))
    code, printed = end(process, signal.SIGINT)
    assert code == 130 and "over 1 of 2 folds" in printed, printed
    assert [row["run"] for row in table_of(tmp_path)] == ["fold_1", "mean", "std"]
    assert "Not complete: 1 of 2 folds" in Page(tmp_path / "logs" / "summary.html").text
    own, all_runs = (shlex.split(re.search(f"^To go on{more}: (.*)$", printed, re.M)[1])
                     for more in ("", " with all runs"))
    assert own == ["python", "Main.py", "--resume", "--fold", "0/2"]
    monkeypatch.chdir(tmp_path)
    assert settings_of(*own[2:]).data.fold == Fold(0, 2), "it finds the run that it goes on with"
    assert all_runs == ["python", "Main.py", *FLAGS, "--fold", "all/2", "--resume"]
    done = command(*all_runs[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Run 1 of 2: fold_0\nResumed at epoch" in re.sub("^Unet.*?(?=Resumed)", "", done.stdout,
                                                            flags=re.M | re.S)
    assert "Run 2 of 2: fold_1 has finished" in done.stdout
    assert without_times(table_of(tmp_path)) == without_times(table_of(series))
    for name in ("fold_0", "fold_1"):
        weights, others = (checkpoint.load(folder / "checkpoints" / name /
                                           "best_model.safetensors")[0]
                           for folder in (tmp_path, series))
        assert all(np.array_equal(weights[key], others[key]) for key in weights)
        found, expected = (rows_of(next((folder / "logs" / name).glob("*.csv")))
                           for folder in (tmp_path, series))
        assert found == expected


@pytest.fixture
def finished(series, tmp_path):
    """A copy of the complete series."""
    shutil.copytree(series, tmp_path / "series")
    return tmp_path / "series"


@pytest.mark.jittor
def test_nothing_is_trained_again(finished, no_jittor, snapshot):
    before = snapshot(finished / "checkpoints")
    (finished / "results" / "summary.csv").unlink()
    done = command("Main.py", *FLAGS, "--fold", "all/2", "--resume", cwd=finished, **no_jittor)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("has finished") == 2 and "over 2 folds" in done.stdout
    assert snapshot(finished / "checkpoints") == before
    assert [row["run"] for row in table_of(finished)] == ["fold_0", "fold_1", "mean", "std"]


@pytest.mark.jittor
@pytest.mark.parametrize("flags, code, words", [
    (["--fold", "all/2"], 1, "checkpoints/fold_0: a run lies there already; add --resume"),
    (["--fold", "all/2", "--resume", "--Learning_rate", "0.5"], 2,
     "checkpoints/fold_0/last_model.safetensors: --Learning_rate 0.5 (was 0.01)"),
    (["--fold", "all/3", "--resume"], 2, "--fold 0/3 (was 0/2)"),
    (["--fold", "all/2", "--resume", "--Total_epochs", "4"], 2, "--Total_epochs 4: so many epochs"),
    (["--resume"], 1, "checkpoints/fold_... are of folds; add --fold"),
    (["--resume", "--Checkpoint_directory", "checkpoints/fold_1"], 2,
     "checkpoints/fold_1/last_model.safetensors is of --fold 1/2; add that flag")])
def test_other_runs_lie_there(finished, no_jittor, snapshot, flags, code, words):
    before = snapshot(finished)
    done = command("Main.py", *FLAGS, *flags, cwd=finished, **no_jittor)
    assert done.returncode == code and done.stderr.count("\n") == 1 and words in done.stderr
    assert snapshot(finished) == before


@pytest.mark.jittor
def test_test_images_that_were_not_read_are_read(finished):
    """A run that was killed before that has not finished."""
    path = finished / "checkpoints" / "fold_1" / "best_model.safetensors"
    weights, header = checkpoint.load(path)
    scores = header.pop("test_scores")
    path.unlink()
    checkpoint.save(path, weights, header)
    done = command("Main.py", *FLAGS, "--fold", "all/2", "--resume", cwd=finished)
    assert done.returncode == 0 and "fold_0 has finished" in done.stdout, done.stderr
    assert "all is done" in done.stdout and header_of(finished, "fold_1")["test_scores"] == scores


@pytest.mark.jittor
def test_too_few_images_for_all_folds(series, tmp_path, no_jittor):
    (tmp_path / "data").symlink_to(series / "data")
    for fold in ("all/6", "5/6"):
        done = command("Main.py", *FLAGS, "--fold", fold, cwd=tmp_path, **no_jittor)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert f"data/train/imgs: --fold {fold} takes 6 images or more, here are 5" in done.stderr


@pytest.mark.jittor
def test_seeds(series, tmp_path):
    """Each seed of one fold.  The first run that fails ends the series."""
    (tmp_path / "data").symlink_to(series / "data")
    (tmp_path / "checkpoints" / "seed_4").mkdir(parents=True)
    (tmp_path / "checkpoints" / "seed_4" / "fold_0").write_text("in the way")
    flags = [*FLAGS, "--seeds", "0", "4", "7", "--fold", "0/2"]
    done = command("Main.py", *flags, cwd=tmp_path)
    assert done.returncode == 1
    *_, own, last = done.stderr.splitlines()
    assert own.startswith("Main.py: error: checkpoints/seed_4/fold_0: ")
    assert last == ("Main.py: error: the run seed_4/fold_0 ended with exit code 1; "
                    f"{shlex.join(['python', 'Main.py', *flags, '--resume'])} goes on")
    rows = table_of(tmp_path)
    assert [row["run"] for row in rows] == ["seed_0/fold_0", "mean", "std"]
    assert rows[-1]["test_iou"] == "" and "over 1 of 3 seeds" in done.stdout
    wanted = table_of(series)[0]
    assert without_times(rows)[0] == {**without_times([wanted])[0], "run": "seed_0/fold_0"}
    assert not (tmp_path / "checkpoints" / "seed_7").exists()


def test_a_sample_standard_deviation():
    assert spread_of([0.5]) == (0.5, None)
    mean, deviation = spread_of([1.0, 2.0, 6.0])
    assert (mean, deviation) == (3.0, pytest.approx(7 ** 0.5))  # (4 + 1 + 9) / (3 - 1)
