"""Ctrl-C and SIGTERM in every phase, workers that die, files that go away, a full disk.

A command ends at once or goes on, and nothing is lost.
"""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import FLAGS, ROOT, assert_same, command, contents, results, start_command, write_set
from processes import children, half_written, report, wait_for_line, wait_until

from nets import checkpoint

pytestmark = pytest.mark.usefixtures("machine")
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM],
                                  ids=["Ctrl-C", "SIGTERM"])
LAST = "checkpoints/last_model.safetensors"


def stop(process, folder, number, phase, codes=(130,)):
    """Send a signal and check that the command ends in good order: the rest of its output.

    Ctrl-C goes to the whole group, as from a terminal.
    """
    began = time.monotonic()
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    printed, _ = process.communicate(timeout=120)
    report(f"{phase}, {number.name}: ended after {time.monotonic() - began:.2f} s "
           f"with {process.returncode}")
    assert process.returncode in codes and "Traceback" not in printed, printed
    assert not half_written(folder)
    deadline = time.monotonic() + 60  # a compiler may finish its file
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
    return printed


# ------------------------------------------------------------------------------ before the training
@pytest.fixture(scope="module")
def many_pairs(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("many") / "data", [(96, 96)] * 4000, [(96, 96)] * 400)


@SIGNALS
@pytest.mark.parametrize("phase, begun, stopped_before", [
    ("lists", "checkpoints", "weight_maps/cell_0.npy"),
    ("survey", "DataTxt/train_image.txt", "weight_maps/cell_0.npy"),
    ("first weight maps", "weight_maps/cell_5.npy", LAST),
    ("weight maps", "weight_maps/cell_1005.npy", LAST)])
def test_while_data_is_prepared(many_pairs, tmp_path, phase, begun, stopped_before, number):
    (tmp_path / "data").symlink_to(many_pairs)
    process = start_command(tmp_path, *FLAGS)
    wait_until((tmp_path / begun).exists, process)
    assert stop(process, tmp_path, number, phase).endswith("\nMain.py: stopped\n")
    assert not (tmp_path / stopped_before).exists()


@SIGNALS
@pytest.mark.parametrize("delay", [0.3, 1.0, 1.7, 2.4])
def test_while_jittor_is_imported(unbroken, folder, number, delay):
    process = start_command(folder, *FLAGS)
    wait_until((folder / "weight_maps" / "cell_4.png").exists, process)
    time.sleep(delay)
    printed = stop(process, folder, number, f"import of Jittor, {delay} s after the data")
    assert printed.endswith("\nMain.py: stopped\n") or "Stopping after this step" in printed


@SIGNALS
def test_while_jittors_core_is_compiled(unbroken, folder, monkeypatch, number):
    monkeypatch.setenv("HOME", str(folder))
    process = start_command(folder, *FLAGS)
    wait_for_line(process, "Compiling Jittor's core")
    wait_until(lambda: any((folder / ".cache").rglob("obj_files/*.o")), process)
    # Jittor exits with 1 where a compiler is killed
    stop(process, folder, number, "compilation of Jittor's core", codes=(130, 1))


def test_while_operators_are_compiled(unbroken, folder):
    """A terminal's Ctrl-C ends the compilers too.  The run goes on from the step that failed."""
    cache, copy = Path.home() / ".cache" / "jittor", folder / "cache"
    shutil.copytree(cache, copy, symlinks=True, ignore=shutil.ignore_patterns("jit"))
    over = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"',
            str(copy), str(cache)]
    if subprocess.run([*over, "true"], capture_output=True).returncode:
        pytest.skip("no right to mount an empty cache")
    process = start_command(folder, *FLAGS, through=over)
    wait_until((folder / LAST).exists, process)
    time.sleep(3)
    stop(process, folder, signal.SIGINT, "compilation of operators")
    resumed(folder, unbroken)


# ------------------------------------------------------------------------------ during the training
def resumed(folder, unbroken):
    done = command("Main.py", "--resume", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert_same(results(folder), results(unbroken))


@SIGNALS
def test_while_training(unbroken, folder, number):
    process = start_command(folder, *FLAGS)
    wait_for_line(process, "epoch   1")
    assert "To go on: python Main.py --resume" in stop(process, folder, number, "training")
    resumed(folder, unbroken)


@SIGNALS
def test_while_a_checkpoint_is_written(unbroken, folder, number):
    process = start_command(folder, *FLAGS)
    wait_for_line(process, "epoch   0")
    wait_until(lambda: half_written(folder / "checkpoints"), process)
    stop(process, folder, number, "writing a checkpoint")
    resumed(folder, unbroken)


@SIGNALS
def test_while_testing(tmp_path, number):
    write_set(tmp_path / "data", [(64, 72)], [(48, 48)] * 150)
    process = start_command(tmp_path, *FLAGS, "--Val_epochs", "0", "--Total_epochs", "1")
    wait_for_line(process, "The first steps")
    progress = {"step": 0}
    # an epoch has one step: with a longer delay the step is done, and the tests have begun
    while not progress["step"]:
        time.sleep(4)
        stop(process, tmp_path, number, "testing")
        progress = checkpoint.load(tmp_path / LAST)[1]["run"]["progress"]
        assert (progress["epoch"] == 0
                and not (tmp_path / "checkpoints" / "best_model.safetensors").exists())
        process = start_command(tmp_path, "--resume")
    assert process.wait(300) == 0
    table, = tmp_path.glob("logs/*.csv")
    assert len(table.read_text().splitlines()) == 2


@SIGNALS
def test_while_drawing(tmp_path, number):
    """The run has ended and all is saved: only its page is missing."""
    write_set(tmp_path / "data", [(64, 72)] * 3, [(48, 48)] * 2)
    process = start_command(tmp_path, *FLAGS)
    wait_for_line(process, "Whole run")
    assert stop(process, tmp_path, number, "drawing").endswith("\nMain.py: stopped\n")
    assert checkpoint.load(tmp_path / LAST)[1]["run"]["progress"]["epoch"] == 4


# ---------------------------------------------------------------------- what others do to a command
def augmenting(folder):
    """Start DataAugmentation.py, and return its process when some pairs are written."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "DataAugmentation.py"), *AUGMENT], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    wait_until(lambda: any((folder / "data" / "train" / "labels").glob("*-1.png")), process)
    return process


AUGMENT = ("--img_path", "data/train/imgs", "--mask_path", "data/train/labels", "--sum", "4000",
           "--workers", "2")


def all_taken_away(folder, before):
    done = command("DataAugmentation.py", *AUGMENT[:4], "--clean", cwd=folder)
    assert done.returncode == 0 and contents(folder) == before, done.stderr


@SIGNALS
def test_while_augmenting(tmp_path, number):
    write_set(tmp_path / "data", [(64, 64)], [(64, 64)])
    before = contents(tmp_path)
    process = augmenting(tmp_path)
    assert stop(process, tmp_path, number, "augmentation").endswith(
        "\nDataAugmentation.py: stopped\n")
    all_taken_away(tmp_path, before)


def test_a_worker_of_the_augmentation_that_dies(tmp_path):
    write_set(tmp_path / "data", [(64, 64)], [(64, 64)])
    before = contents(tmp_path)
    process = augmenting(tmp_path)
    began = time.monotonic()
    os.kill(children(process.pid)[0], signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)
    report(f"a worker killed: ended after {time.monotonic() - began:.2f} s "
           f"with {process.returncode}")
    assert process.returncode == 1 and printed.splitlines() == [
        "DataAugmentation.py: error: a worker process was killed, probably for lack of memory; "
        "try --workers 1"]
    assert not half_written(tmp_path)
    all_taken_away(tmp_path, before)


def test_the_helper_of_a_training_that_dies(unbroken, folder):
    process = start_command(folder, *FLAGS)
    wait_for_line(process, "epoch")
    os.kill(children(process.pid)[0], signal.SIGKILL)
    assert process.wait(300) == 0
    assert_same(results(folder), results(unbroken))


def test_an_image_that_goes_away(unbroken, tmp_path):
    """A loader's thread meets an error: one line ends the training.  It goes on with the file."""
    shutil.copytree(unbroken / "data", tmp_path / "data")
    process, image = (start_command(tmp_path, *FLAGS),
                      tmp_path / "data" / "train" / "imgs" / "cell_2.png")
    wait_for_line(process, "epoch   0")
    image.rename(tmp_path / "away.png")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in printed
    assert printed.splitlines()[-1] == "Main.py: error: data/train/imgs/cell_2.png: no such file"
    (tmp_path / "away.png").rename(image)
    resumed(tmp_path, unbroken)


def test_a_disk_that_is_full(unbroken, folder):
    """Two checkpoints do not fit: the older one stays, and with more room the run goes on."""
    disk = folder / "checkpoints"
    disk.mkdir()
    size = (unbroken / LAST).stat().st_size
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2}", "tmpfs", disk],
                      capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        done = command("Main.py", *FLAGS, cwd=folder)
        *_, line = done.stderr.splitlines()
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert line.startswith(
            "Main.py: error: checkpoints/last_model.safetensors: cannot be written")
        assert (checkpoint.load(folder / LAST)[1]["run"]["progress"]["epoch"] == 0
                and not half_written(disk))
        subprocess.run(["mount", "-o", f"remount,size={size * 4}", disk], check=True)
        resumed(folder, unbroken)
    finally:
        subprocess.run(["umount", disk], check=True)
