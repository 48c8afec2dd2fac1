"""Commands are killed with SIGKILL at 20 random moments and started again.

Their results equal those of an unbroken run, to the last bit.
"""
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from helpers import (FLAGS, ROOT, assert_same, command, contents, end, results, start_command,
                     write_set)
from processes import SEED, half_written, report

from nets import checkpoint

EPOCHS = 24
RUN = [*FLAGS, "--Total_epochs", str(EPOCHS)]
LAST = "checkpoints/last_model.safetensors"


def moment(process, folder, seconds, writing):
    """Wait `seconds`, and then, if `writing`, for a checkpoint's write: does the run still live?"""
    deadline = time.monotonic() + seconds
    while process.poll() is None and (
            time.monotonic() < deadline
            or writing and not half_written(folder / "checkpoints")):
        time.sleep(0.0005)
    return process.poll() is None


def kept_epochs(folder):
    """How many epochs last_model holds; None where there is none to resume."""
    if not (folder / LAST).exists():
        return None
    return checkpoint.load(folder / LAST)[1]["run"]["progress"]["epoch"]


def begin(folder, whole):
    """Go on with a run of `folder`.

    Where it is complete, compare it with the unbroken run, and begin another.
    """
    epochs = kept_epochs(folder)
    if epochs == EPOCHS:
        assert_same(results(folder), results(whole))
    if epochs in (None, EPOCHS):
        for name in ("logs", "checkpoints", "results"):
            shutil.rmtree(folder / name, ignore_errors=True)
        return start_command(folder, *RUN)
    return start_command(folder, "--resume")


def test_training_killed_fifteen_times(machine, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        write_set(folder / "data", [(64, 72)] * 5, [(48, 48)] * 2)
    began = time.monotonic()
    assert command("Main.py", *RUN, cwd=whole).returncode == 0
    seconds, rng, kills, cut = time.monotonic() - began, np.random.default_rng(SEED), 0, 0
    report(f"seed {SEED}; unbroken: {EPOCHS} epochs in {seconds:.1f} s")
    while kills < 15:
        process, delay = begin(broken, whole), rng.uniform(0, 0.6 * seconds)
        if not moment(process, broken, delay, writing=kills % 3 == 2):
            assert process.returncode == 0, process.stdout.read()
            continue
        assert end(process, signal.SIGKILL)[0] == -signal.SIGKILL
        kills, left = kills + 1, [path.name for path in half_written(broken)]
        cut += bool(left)
        report(f"kill {kills}: {delay:.2f} s after the start; epochs to resume after: "
               f"{kept_epochs(broken)}; half-written: {left}")
    process = begin(broken, whole)
    assert process.wait(600) == 0, process.stdout.read()
    assert_same(results(broken), results(whole))
    assert cut >= 3, "too few kills came during a write"
    assert not half_written(broken / "checkpoints")


def test_augmentation_killed_five_times(tmp_path):
    flags = ["--img_path", "data/train/imgs", "--mask_path", "data/train/labels", "--sum", "60",
             "--workers", "2"]
    for name in ("whole", "broken"):
        write_set(tmp_path / name / "data", [(128, 128)] * 5, [(48, 48)])
    began = time.monotonic()
    assert command("DataAugmentation.py", *flags, "--workers", 1,
                   cwd=tmp_path / "whole").returncode == 0
    seconds, rng = time.monotonic() - began, np.random.default_rng(SEED)
    for kill in range(5):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "DataAugmentation.py"), *flags], cwd=tmp_path / "broken",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        delay = rng.uniform(0.2, 0.9) * seconds
        time.sleep(delay)
        process.kill()
        process.wait()
        report(f"kill {16 + kill}: augmentation, after {delay:.2f} of {seconds:.2f} s; "
               f"half-written: {[path.name for path in half_written(tmp_path / 'broken')]}")
    assert command("DataAugmentation.py", *flags, cwd=tmp_path / "broken").returncode == 0
    whole, broken = ({path: data for path, data in contents(tmp_path / name).items()
                      if not path.name.startswith(".")}
                     for name in ("whole", "broken"))
    assert broken == whole, "the files differ from those of one unbroken process"
