"""Much data, many steps, two at once: memory stays flat, starts stay short, runs stay apart."""
import signal
import time

import numpy as np
import pytest
from helpers import FLAGS, SMALL, assert_same, end, results, rows_of, start_command, write_set
from processes import memory, report, slope, wait_for_line, wait_until

from nets import checkpoint

pytestmark = pytest.mark.usefixtures("machine")
PAIRS, STEPS = 10_000, 2_000
FLAT = 5.0  # MB per 1000 steps, files or maps
TINY = ["--Data_directory", "data", *map(str, SMALL), "--tile", "52"]


def watched(process, seconds, count):
    """[(count(), resident memory in MB)] of every half second, up to `seconds`.

    It ends earlier where `count()` is None.
    """
    found, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline and (now := count()) is not None:
        found.append((now, memory(process.pid)))
        time.sleep(0.5)
    return np.array(found)


def test_ten_thousand_pairs(tmp_path):
    began = time.monotonic()
    write_set(tmp_path / "data", [(48, 48)] * PAIRS, [(48, 48)] * 2)
    report(f"{PAIRS} pairs drawn in {time.monotonic() - began:.1f} s")
    flags = [*TINY, "--Total_epochs", "2", "--Val_epochs", "1"]

    began, maps = time.monotonic(), tmp_path / "weight_maps"

    def count_maps():
        count = sum(1 for _ in maps.glob("*.npy"))
        return count if count < PAIRS else None
    process = start_command(tmp_path, *flags)
    wait_until((tmp_path / "DataTxt" / "survey.json").exists, process)
    report(f"first start: survey after {time.monotonic() - began:.1f} s")
    counts, used = watched(process, 600, count_maps).T
    growth = slope(counts, used)
    report(f"first start: {PAIRS} weight maps after {time.monotonic() - began:.1f} s; "
           f"memory {used[0]:.0f} ... {used[-1]:.0f} MB, {growth:+.2f} MB per 1000 maps")
    wait_for_line(process, "The first steps")
    assert end(process, signal.SIGTERM)[0] == 130
    assert growth < FLAT

    began = time.monotonic()
    process = start_command(tmp_path, *flags)
    wait_for_line(process, "The first steps")
    seconds = time.monotonic() - began
    report(f"second start: training begins after {seconds:.1f} s")
    begun = time.monotonic()
    times, used = watched(process, 90, time.monotonic).T
    assert end(process, signal.SIGTERM)[0] == 130
    steps = checkpoint.load(
        tmp_path / "checkpoints" / "last_model.safetensors")[1]["run"]["progress"]["step"]
    late = times > begun + 30  # until then operators are compiled and loaded
    rate = steps / (time.monotonic() - begun)
    growth = slope(times[late] * rate, used[late])
    report(f"one epoch, {steps} of {PAIRS} steps: "
           f"memory {used[late][0]:.0f} ... {used[late][-1]:.0f} MB, "
           f"{growth:+.2f} MB per 1000 steps")
    assert seconds < 10 and growth < FLAT


def test_two_thousand_steps(tmp_path):
    write_set(tmp_path / "data", [(64, 72)] * 40, [(48, 48)] * 2)
    process = start_command(tmp_path, *TINY, "--Total_epochs", str(STEPS // 40),
                            "--Val_epochs", "0")
    found = [(40 * (k + 1), memory(process.pid), any(tmp_path.glob("logs/*.png"))) for k, _ in
             enumerate(line for line in process.stdout if line.startswith("epoch"))]
    assert process.wait(300) == 0 and len(found) == STEPS // 40
    steps, used, drawn = np.array(found[5:]).T  # the first ones load operators
    grown = np.diff(used, prepend=used[0])
    matplotlib = grown[np.diff(drawn, prepend=drawn[0]) > 0].sum()  # the first drawing loads it
    grown[np.diff(drawn, prepend=drawn[0]) > 0] = 0
    growth = slope(steps, np.cumsum(grown))
    report(f"steps {steps[0]:.0f} ... {steps[-1]:.0f}, each epoch tested and saved: "
           f"memory {used[0]:.0f} ... {used[-1]:.0f} MB, "
           f"{growth:+.2f} MB per 1000 steps beside {matplotlib:.0f} MB for the first drawing")
    assert growth < FLAT


# -------------------------------------------------------------------------------------- two at once
def test_a_second_training_leaves_the_first_alone(unbroken, folder):
    first = start_command(folder, *FLAGS)
    wait_for_line(first, "epoch")
    second = start_command(folder, *FLAGS, "--seed", "1")
    printed, _ = second.communicate(timeout=60)
    assert (second.returncode == 1
            and f"checkpoints: process {first.pid} writes here already" in printed)
    assert first.wait(300) == 0
    assert_same(results(folder), results(unbroken))


def test_of_two_that_begin_at_once_one_is_refused(unbroken, folder):
    both = [start_command(folder, *FLAGS) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert sum("writes here already" in text for text in printed) == 1
    assert_same(results(folder), results(unbroken))


def test_two_that_share_all_but_their_results_are_kept_apart(unbroken, folder):
    both = [start_command(folder, *FLAGS, "--Checkpoint_directory", f"{k}/checkpoints",
                          "--Result_directory", f"{k}/results") for k in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    expected = results(unbroken)
    tables = sorted(folder.glob("logs/*.csv"))
    assert len(tables) == 2 and [rows_of(table) for table in tables] == [expected[0]] * 2
    for k in range(2):
        for arrays, name in zip(expected[1:], ("last", "best")):
            found = checkpoint.load(
                folder / str(k) / "checkpoints" / f"{name}_model.safetensors")[0]
            assert all(np.array_equal(found[key], arrays[key]) for key in arrays)
    assert len(list(folder.glob("logs/report_*.html"))) == 2
