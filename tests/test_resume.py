"""A run that is killed or stopped, and then resumed, ends as the unbroken run does.

Its weights are the same bits, and its CSV is the same but for the times.
"""
import itertools
import os
import shlex
import shutil
import signal
import time

import numpy as np
import pytest
from helpers import (FLAGS, Page, assert_same, command, end, results, rows_of, settings_of,
                     start_command, write_set)
from PIL import Image

import Main
from command.errors import DataError
from command.files import atomic_write, lock_folder
from nets import checkpoint
from runs.request import read_request
from runs.resume import as_texts

pytestmark = pytest.mark.usefixtures("machine")


# ------------------------------------------------------------------------------------- the same end
def after_an_epoch(process, folder):
    next(line for line in process.stdout if line.startswith("epoch"))
    while (process.poll() is None
           and not (folder / "checkpoints" / "last_model.safetensors").exists()):
        pass


def within_an_epoch(process, folder):
    lines = itertools.takewhile(lambda line: not line.startswith("epoch   1"), process.stdout)
    assert sum(1 for _ in lines), "the run ended before its second epoch"
    time.sleep(0.15)


def while_a_checkpoint_is_written(process, folder):
    after_an_epoch(process, folder)
    while process.poll() is None and not list((folder / "checkpoints").glob(".last_model-*")):
        pass


def test_killed_three_times(unbroken, folder):
    process = start_command(folder, *FLAGS)
    for moment in (after_an_epoch, within_an_epoch, while_a_checkpoint_is_written):
        moment(process, folder)
        code, printed = end(process, signal.SIGKILL)
        assert code == -signal.SIGKILL and "python Main.py --resume goes on" in printed
        checkpoint.load(folder / "checkpoints" / "last_model.safetensors")
        process = start_command(folder, "--resume")
    assert process.wait(600) == 0
    assert_same(results(folder), results(unbroken))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        ".lock", "best_model.safetensors", "last_model.safetensors"], "a half-written file is left"


def test_a_complete_run_stays_complete(unbroken, finished):
    """A run that was killed while it wrote its page is complete already."""
    done = command("Main.py", "--resume", cwd=finished)
    assert (done.returncode == 0 and "Resumed at epoch 4, step 0: all is done; "
            "a larger --Total_epochs" in done.stdout), done.stderr
    page, = finished.glob("logs/report_*.html")
    assert ("4 of 4 epochs" in page.read_text("utf-8")
            and len(rows_of(*finished.glob("logs/*.csv"))) == 4)
    assert_same(results(finished), results(unbroken))


def test_stopped_within_an_epoch(unbroken, folder):
    process = start_command(folder, *FLAGS, "--save_every", "100",
                            "--Checkpoint_directory", "a folder")
    next(line for line in process.stdout if line.startswith("epoch"))
    time.sleep(0.1)
    code, printed = end(process, signal.SIGINT)
    assert code == 130
    go_on = shlex.split(printed.split("To go on: ")[1].splitlines()[0])
    assert go_on == ["python", "Main.py", "--resume", "--Checkpoint_directory", "a folder"]
    header = checkpoint.load(folder / "a folder" / "last_model.safetensors")[1]
    assert header["run"]["progress"]["epoch"] == len(header["run"]["records"]) > 0
    done = command(*go_on[1:], cwd=folder)
    assert done.returncode == 0 and "Resumed at epoch" in done.stdout
    (folder / "a folder").rename(folder / "checkpoints")
    assert_same(results(folder), results(unbroken))


def test_more_epochs(unbroken, folder):
    """Resuming with a larger number of epochs goes on as if it had been given at first."""
    assert command("Main.py", *FLAGS, "--Total_epochs", "2", cwd=folder).returncode == 0
    done = command("Main.py", "--resume", "--Total_epochs", "4", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert_same(results(folder), results(unbroken))


def test_the_page_of_a_resumed_run(unbroken, folder):
    """Its command makes the whole run.  Pictures of a best epoch before the resume are redrawn."""
    assert command("Main.py", *FLAGS, "--Total_epochs", "2", cwd=folder).returncode == 0
    path = folder / "checkpoints" / "last_model.safetensors"
    arrays, header = checkpoint.load(path)
    # no later epoch can be better
    header["run"]["progress"]["best_score"] = header["run"]["records"][1]["iou"] = 1.0
    checkpoint.save(path, arrays, header)
    done = command("Main.py", "--resume", "--Total_epochs", "4", cwd=folder)
    assert done.returncode == 0 and "Best epoch: 1 " in done.stdout, done.stderr
    found = Page(next(folder.glob("logs/*.html")))
    masks = {path.stem.removesuffix("_pred"): np.asarray(Image.open(path))
             for path in folder.glob("results/*_pred.png")}
    assert {row[0] for row in found.table("image")} == set(masks) and len(masks) == 2
    for name, mask in masks.items():
        probability = found.pictures(name)["probability"][..., 0]
        assert ((probability > 127) != (mask > 0)).mean() < 0.01
    again = settings_of(*shlex.split("".join(found.texts["pre"]))[2:])
    chosen = ("--n_channels", "1", "--n_classes", "2", "--label_kind", "classes",
              "--precision", "float32", "--save_every", "1")
    assert as_texts(again.flags()) == as_texts(settings_of(*FLAGS, *chosen).flags())
    assert again.run.resume is False


# ---------------------------------------------------------------------------------- what is refused
@pytest.fixture
def finished(unbroken, folder):
    """A copy of what the unbroken run left, in which nothing is trained."""
    (folder / "checkpoints").mkdir()
    for name in ("last", "best"):
        path = unbroken / "checkpoints" / f"{name}_model.safetensors"
        (folder / "checkpoints" / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("flags, code, words", [
    (["--Learning_rate", "0.5"], 2,
     "--Learning_rate 0.5 (was 0.01); leave them out, or add --force"),
    (["--mode", "U2netS", "--seed", "3"], 2, "--mode U2netS (was Unet), --seed 3 (was 0)"),
    (["--dropout_probs", "0", "0", "0", "0.1"], 2,
     "--dropout_probs [0.0, 0.0, 0.0, 0.1] (was [0.2, 0.3, 0.4, 0.5])"),
    (["--augment", "none"], 2, "--augment none (was full)"),
    (["--best_by", "dice"], 2, "--best_by dice (was iou)"),
    (["--precision", "tf32"], 2, "--precision tf32 (was float32)"),
    (["--Total_epochs", "3"], 2, "--Total_epochs 3: so many epochs are done already"),
    (["--Checkpoint_directory", "other"], 1,
     "other/last_model.safetensors: no such checkpoint, nothing to resume"),
    (["--Total_epochs", "9", "--Data_directory", "less"], 1,
     "less: not the data that this run began with"),
])
def test_contradictions(finished, no_jittor, flags, code, words):
    write_set(finished / "less", [(48, 56)] * 4, [(48, 48)] * 2)
    before = {path: path.read_bytes()
              for path in (finished / "checkpoints").iterdir() if path.suffix}
    done = command("Main.py", "--resume", *flags, cwd=finished, **no_jittor)
    *bars, line = done.stderr.splitlines()
    assert (done.returncode == code and words in line
            and not any("Traceback" in each for each in bars))
    assert ({path: path.read_bytes() for path in before} == before
            and not list(finished.glob("logs/*")))


def test_force_overrides(finished):
    write_set(finished / "less", [(48, 56)] * 4, [(48, 48)] * 2)
    done = command("Main.py", "--resume", "--force", "--Total_epochs", 5, "--Learning_rate", 0.002,
                   "--Data_directory", "less", cwd=finished)
    assert (done.returncode == 0 and "Resumed at epoch 4, step 0" in done.stdout
            and "Learning_rate=0.002" in done.stdout)


def test_a_shorter_run_and_other_channels(finished, monkeypatch):
    """A choice of the program is no obstacle: the first tested epoch, whether images are grey."""
    path = finished / "checkpoints" / "last_model.safetensors"
    arrays, header = checkpoint.load(path)
    header["run"]["settings"].update(Total_epochs=["333"], Val_epochs=["249"])
    path.unlink()
    checkpoint.save(path, arrays, header)

    def first_tested(*flags):
        return settings_of("--resume", *flags).training.Val_epochs
    monkeypatch.chdir(finished)
    assert first_tested() == first_tested("--Total_epochs", "250") == 249
    assert first_tested("--Total_epochs", "249") is None, "the program chooses it anew"
    assert first_tested("--Total_epochs", "249", "--Val_epochs", "7") == 7
    assert settings_of("--resume", "--n_channels", "3", "--force").data.n_channels == 3


@pytest.mark.parametrize("stored, read", [
    (["default"], "fast"), (["fast"], "fast"), (["paper"], "paper"), (None, None)])
def test_a_run_of_before_the_papers_defaults_goes_on_as_fast(finished, monkeypatch, stored, read):
    """Its checkpoint stores all settings, because `--protocol default` had another meaning."""
    path = finished / "checkpoints" / "last_model.safetensors"
    arrays, header = checkpoint.load(path)
    settings = header["run"]["settings"]
    settings.pop("protocol", None)
    if stored:
        settings["protocol"] = stored
    path.unlink()
    checkpoint.save(path, arrays, header)
    monkeypatch.chdir(finished)
    for flags in ((), ("--protocol", "default"), *([("--protocol", read)] if read else [])):
        resumed = settings_of("--resume", *flags)
        assert (resumed.training.protocol == read
                and resumed.training.optimizer == settings["optimizer"][0])
        assert resumed.net.base_channels == 24 and str(resumed.training.tile) == "52"


def test_a_run_of_before_large_images_goes_on_with_one_crop_each(finished, monkeypatch):
    path = finished / "checkpoints" / "last_model.safetensors"
    arrays, header = checkpoint.load(path)
    assert header["run"]["settings"].pop("crops_per_image") == ["auto"]
    monkeypatch.chdir(finished)
    assert settings_of("--resume").training.crops_per_image == "auto"
    path.unlink()
    checkpoint.save(path, arrays, header)
    assert settings_of("--resume").training.crops_per_image == 1
    assert settings_of("--resume", "--crops_per_image", 1).training.crops_per_image == 1
    with pytest.raises(SystemExit) as end:
        settings_of("--resume", "--crops_per_image", "auto")
    assert end.value.code == 2


def test_a_run_of_before_numbered_objects_goes_on_with_classes(unbroken, folder):
    """The same bits come out, whatever the values in its labels look like."""
    assert command("Main.py", *FLAGS, "--Total_epochs", 2, cwd=folder).returncode == 0
    path = folder / "checkpoints" / "last_model.safetensors"
    arrays, header = checkpoint.load(path)
    assert header["run"]["settings"].pop("label_kind") == ["classes"]
    path.unlink()
    checkpoint.save(path, arrays, header)
    done = command("Main.py", "--resume", "--label_kind", "objects", cwd=folder)
    assert done.returncode == 2 and "--label_kind objects (was classes)" in done.stderr
    done = command("Main.py", "--resume", "--Total_epochs", 4, cwd=folder)
    assert done.returncode == 0 and "label_kind=classes" in done.stdout, done.stderr
    assert_same(results(folder), results(unbroken))
    assert "label_kind" not in checkpoint.load(path)[1]


def test_a_run_of_before_best_by_goes_on_by_iou(finished):
    """Its checkpoint has no such setting, and its best score has the name of the only one."""
    path = finished / "checkpoints" / "last_model.safetensors"
    arrays, header = checkpoint.load(path)
    del header["run"]["settings"]["best_by"]
    progress = header["run"]["progress"]
    progress["best_iou"] = progress.pop("best_score")
    path.unlink()
    checkpoint.save(path, arrays, header)
    done = command("Main.py", "--resume", "--Total_epochs", 5, cwd=finished)
    assert done.returncode == 0 and "best_by=iou" in done.stdout, done.stderr
    run = checkpoint.load(path)[1]["run"]
    assert run["settings"]["best_by"] == ["iou"] and "best_iou" not in run["progress"]
    ious = [record["iou"] for record in run["records"] if "iou" in record]
    assert len(ious) == 4 and run["progress"]["best_score"] == max(ious)
    assert max(ious[:3]) == progress["best_iou"], "what it was resumed with"


def test_force_lets_another_score_choose(finished, monkeypatch):
    """The best score so far is the best of the other score, so that the two are not compared."""
    records = checkpoint.load(finished / "checkpoints" / "last_model.safetensors")[1]["run"][
        "records"]
    monkeypatch.chdir(finished)
    for best_by in ("iou", "dice"):
        words = ["--resume", "--force", "--best_by", best_by]
        request = read_request(words, Main.build_parser, Main.PROTOCOLS, Main.CROP)
        assert request.settings.training.best_by == best_by
        assert request.stored.progress.best_score == max(record.get(best_by, 0)
                                                         for record in records)


def test_a_new_run_sets_the_earlier_ones_checkpoints_aside(finished):
    """It has no best model for long, and Predict.py must not take the one of the earlier run."""
    before = {name: (finished / "checkpoints" / name).read_bytes()
              for name in ("last_model.safetensors", "best_model.safetensors")}
    done = command("Main.py", *FLAGS, "--Total_epochs", 1, "--Val_epochs", 0, cwd=finished)
    assert done.returncode == 0, done.stderr
    assert ("An earlier run's last_model and best_model now begin with earlier_ in checkpoints/"
            in done.stdout)
    for name, content in before.items():
        assert (finished / "checkpoints" / f"earlier_{name}").read_bytes() == content
        assert (finished / "checkpoints" / name).read_bytes() != content


def test_force_alone(folder, no_jittor):
    assert command("Main.py", "--force", cwd=folder, **no_jittor).returncode == 2


@pytest.mark.parametrize("change", [
    lambda run: run.clear(), lambda run: run.update(settings=[]),
    *[lambda run, name=name: run.update(log=name)
      for name in ("../../other", "..", "", "notes", "Unet_2025-01-31_12-00-00\n", 5)],
    lambda run: run["settings"].update(seed=["x"]),
    lambda run: run["settings"].update(seed=[7, None]),
    lambda run: run["settings"].update(seed=[]),
    lambda run: run["settings"].update(no_such_flag=["1"]),
    lambda run: run["settings"].update(Log_directory=["elsewhere"]),
    lambda run: run["settings"].update(help=[]),
    lambda run: run["settings"].update({"Log_directory=elsewhere": []}),
    lambda run: run["settings"].update(force=[]),
    lambda run: run["settings"].update(seed=["0", "--Log_directory", "elsewhere"]),
    lambda run: run["settings"].update(seed=["0", "--Log_directory=elsewhere"]),
    lambda run: run.update(records=[{"epoch": "0"}]),
    lambda run: run["records"][0].pop("whole_time"),
    lambda run: run["records"][2].pop("dice"),
    lambda run: run["records"][0].update(epoch_time=10 ** 400),
    *[lambda run, value=value: run["progress"].update(epoch=value)
      for value in ("2", -1, 2.5, True, 10 ** 400)],
    lambda run: run["progress"].update(losses=[0.5, "1"]),
    lambda run: run["progress"].update(accepted=None),
    lambda run: run["progress"].update(epoch_started=3), lambda run: run["progress"].pop("skipped"),
    lambda run: run.update(progress=None), lambda run: run.update(data=None)])
def test_damaged_runs(unbroken, tmp_path, monkeypatch, change):
    _, header = checkpoint.load(unbroken / "checkpoints" / "last_model.safetensors")
    change(header["run"])
    checkpoint.save(tmp_path / "last_model.safetensors", {"a": np.zeros(3, np.float32)}, header)
    with pytest.raises(DataError, match="last_model.safetensors: holds no run to resume"):
        settings_of("--resume", "--Checkpoint_directory", tmp_path, "--Total_epochs", "9")


def test_a_label_that_was_changed(finished, unbroken, no_jittor):
    (finished / "data").unlink()
    shutil.copytree(unbroken / "data", finished / "data")
    more = ("--resume", "--Total_epochs", 9)
    assert "Jittor was imported" in command("Main.py", *more, cwd=finished, **no_jittor).stderr, (
        "copied files are the same data")
    path = finished / "data" / "test" / "labels" / "cell_0.png"
    Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    done = command("Main.py", *more, cwd=finished, **no_jittor)
    assert done.returncode == 1 and "data: not the data that this run began with" in done.stderr


def test_best_model_is_no_run(finished, no_jittor):
    (finished / "checkpoints" / "best_model.safetensors").rename(
        finished / "checkpoints" / "last_model.safetensors")
    done = command("Main.py", "--resume", cwd=finished, **no_jittor)
    assert done.returncode == 1 and "holds no run to resume" in done.stderr


# ------------------------------------------------------------------------------------ one at a time
@pytest.mark.parametrize("name", ["checkpoints", "results"])
def test_a_second_training_is_refused(folder, no_jittor, name):
    (folder / name).mkdir()
    with lock_folder(folder / name):
        done = command("Main.py", *FLAGS, cwd=folder, **no_jittor)
    assert done.returncode == 1
    assert (f"{name}: process {os.getpid()} writes here already; "
            "wait for its end, or choose another folder") in done.stderr


def test_a_lock_is_no_way_to_another_file(folder, no_jittor):
    (folder / "checkpoints").mkdir()
    (folder / "mine").write_text("mine")
    (folder / "checkpoints" / ".lock").symlink_to("../mine")
    done = command("Main.py", *FLAGS, cwd=folder, **no_jittor)
    assert done.returncode == 1 and done.stderr.startswith("Main.py: error: checkpoints/.lock: ")
    assert (folder / "mine").read_text() == "mine"


def test_a_lock_ends_with_its_block_and_clears_what_was_cut_off(tmp_path):
    for _ in range(2):
        with lock_folder(tmp_path), pytest.raises(
                DataError, match=f"process {os.getpid()} writes here"):
            with lock_folder(tmp_path):
                pass
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.png") as temporary:
        (tmp_path / temporary.name.replace(str(os.getpid()), "1")).touch()
        (tmp_path / ".mine").touch()
        1 / 0
    with lock_folder(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".mine"]
