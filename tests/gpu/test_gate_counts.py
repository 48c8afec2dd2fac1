"""What a training step asks of a GPU, counted on the stand-in: launches, copies and waits."""
import json

import pytest
from helpers import write_set

BATCH = 3  # the tensors of a batch: inputs, labels, weights
CASES = {  # name: (the most launches of a step, flags)
    "U-Net as in the paper": (350, ("--mode", "Unet")),
    "U-Net, fast": (220, ("--mode", "Unet", "--protocol", "fast", "--base_channels", 64,
                          "--Batch_size", 2, "--crops_per_image", 2)),
    "U2netS": (1200, ("--mode", "U2netS")),
}


def number(counts, *kinds):
    """How often a step asked for what is of these kinds."""
    return sum(times for kind in kinds for times, _ in counts.get(kind, {}).values())


def count_steps(gate, folder, *flags):
    """Train on five images of 512 px; the counts of the second epoch's steps in its middle.

    The first steps of an epoch keep the state that a run may go back to.  The last one waits for
    the device.
    """
    write_set(folder / "data", [(512, 512)] * 5, [(512, 512)])
    done = gate.run("tests/gpu/count_steps.py", "counts.json", "--Data_directory", "data",
                    "--device", "cuda", "--Total_epochs", 2, *flags, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads((folder / "counts.json").read_text())
    assert not [step for step in steps if "refused" in step["counts"]]
    return [step["counts"] for step in steps if step["epoch"] == 1 and 2 <= step["step"] < 4]


@pytest.mark.parametrize("most, flags", CASES.values(), ids=CASES)
def test_a_step_asks_for_no_more_than_it_needs(gate, tmp_path, most, flags):
    """Kernels, NVIDIA's operators and memsets are launches.

    A batch is copied once, from pinned memory.  Nothing is copied back.  The host waits for one
    event at most: that of the loss of the step before.
    """
    steps = count_steps(gate, tmp_path, *flags)
    assert len(steps) == 2
    for counts in steps:
        assert 0 < number(counts, "launch", "library", "set") <= most, counts
        assert set(counts["copy"]) == {"H2D async"} and number(counts, "copy") == BATCH, counts
        assert set(counts["wait"]) <= {"cudaEventSynchronize"}, counts
        assert number(counts, "wait") <= 1, counts
        assert number(counts, "allocate") == 0, counts
