"""Commands killed with SIGKILL at 20 random moments and started again: nothing tells the difference, to the last bit."""
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from processes import SEED, half_written, report
from test_bad_input import contents
from test_main import ROOT, command, machine, write_set  # noqa: F401 - a fixture among them
from test_resume import FLAGS, assert_same, end, results, start

import Checkpoint

EPOCHS = 24
RUN = [*FLAGS, "--Total_epochs", str(EPOCHS)]
LAST = "checkpoints/last_model.safetensors"


def moment(process, folder, seconds, writing):
    """Wait `seconds`, and then for a checkpoint's write where one is asked for; whether the run is still there."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and (time.monotonic() < deadline or writing and not half_written(folder / "checkpoints")):
        time.sleep(0.0005)
    return process.poll() is None


def test_training_killed_fifteen_times(machine, tmp_path):  # noqa: F811
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        write_set(folder / "data", [(64, 72)] * 5, [(48, 48)] * 2)
    began = time.monotonic()
    assert command("Main.py", *RUN, cwd=whole).returncode == 0
    seconds, rng, cut = time.monotonic() - began, np.random.default_rng(SEED), 0
    report(f"seed {SEED}; unbroken: {EPOCHS} epochs in {seconds:.1f} s")
    process, kills = start(broken, *RUN), 0
    while kills < 15:
        writing, delay = kills % 3 == 2, rng.uniform(0, 0.6 * seconds)
        if not moment(process, broken, delay, writing):
            assert process.returncode == 0, process.stdout.read()
            assert_same(results(broken), results(whole))
            for name in ("logs", "checkpoints", "results", "weight_maps", "DataTxt"):
                (broken / name).rename(tmp_path / f"{name} {kills}")
            process = start(broken, *RUN)
            continue
        code, _ = end(process, signal.SIGKILL)
        assert code == -signal.SIGKILL
        kills, left = kills + 1, half_written(broken)
        cut += bool(left)
        at = "nothing to resume yet"
        if (broken / LAST).exists():
            progress = Checkpoint.load(broken / LAST)[1]["run"]["progress"]
            at = f"last_model is of epoch {progress['epoch']}"
        report(f"kill {kills}: {delay:.2f} s after the start; {at}; half-written: {[path.name for path in left]}")
        begun = (broken / LAST).exists()
        if not begun:
            shutil.rmtree(broken / "logs", ignore_errors=True)  # of a run that has not begun there may be a log
        process = start(broken, *(["--resume"] if begun else RUN))
    assert process.wait(600) == 0, process.stdout.read()
    assert_same(results(broken), results(whole))
    assert cut >= 3, "kills during a write among them"
    assert not half_written(broken / "checkpoints")


def test_augmentation_killed_five_times(tmp_path):
    flags = ["--img_path", "data/train/imgs", "--mask_path", "data/train/labels", "--sum", "60", "--workers", "2"]
    for name in ("whole", "broken"):
        write_set(tmp_path / name / "data", [(128, 128)] * 5, [(48, 48)])
    began = time.monotonic()
    assert command("DataAugmentation.py", *flags, "--workers", 1, cwd=tmp_path / "whole").returncode == 0
    seconds, rng = time.monotonic() - began, np.random.default_rng(SEED)
    for kill in range(5):
        process = subprocess.Popen([sys.executable, str(ROOT / "DataAugmentation.py"), *flags], cwd=tmp_path / "broken",
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        delay = rng.uniform(0.2, 0.9) * seconds
        time.sleep(delay)
        process.kill()
        process.wait()
        report(f"kill {16 + kill}: augmentation, after {delay:.2f} of {seconds:.2f} s; half-written: "
               f"{[path.name for path in half_written(tmp_path / 'broken')]}")
    assert command("DataAugmentation.py", *flags, cwd=tmp_path / "broken").returncode == 0
    whole, broken = ({path: data for path, data in contents(tmp_path / name).items() if not path.name.startswith(".")}
                     for name in ("whole", "broken"))
    assert broken == whole, "the same files as from one process, unbroken"
