"""What a training step asks of a GPU, counted on the stand-in: launches, copies and waits."""
import json
from typing import NamedTuple

import pytest
from helpers import write_set


class Step(NamedTuple):
    """The counts of one training step: {name: [number, bytes]} of each kind."""
    counts: dict

    def number(self, *kinds):
        return sum(number for kind in kinds for number, _ in self.counts.get(kind, {}).values())

    @property
    def launches(self):
        """All that runs on the device, but for copies: kernels, NVIDIA's operators, memsets."""
        return self.number("launch", "library", "set")

    def copies(self, way):
        return sum(number for name, (number, _) in self.counts.get("copy", {}).items()
                   if name.startswith(way))


class Case(NamedTuple):
    """A training that is counted, and the most that one of its steps may ask for."""
    flags: tuple
    launches: int
    uploads: int    # copies from the host to the device
    downloads: int  # copies from the device to the host
    waits: int


CASES = {
    "U-Net, as the paper": Case(("--mode", "Unet"), 1000, 10, 10, 4),
    "U-Net, fast": Case(("--mode", "Unet", "--protocol", "fast", "--base_channels", 64), 1000, 10,
                        10, 4),
    "U2netS": Case(("--mode", "U2netS"), 6000, 10, 10, 4),
}


def count_steps(gate, folder, *flags):
    """Train for two epochs of five images of 512 px; the Steps of the last one but the first two.

    Those store what the run may go back to, and find Jittor's operators compiled or compile them.
    """
    write_set(folder / "data", [(512, 512)] * 5, [(512, 512)])
    done = gate.run("tests/gpu/count_steps.py", "counts.json", "--Data_directory", "data",
                    "--device", "cuda", "--Total_epochs", 2, *flags, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads((folder / "counts.json").read_text())
    assert not [step for step in steps if "refused" in step["counts"]]
    return [Step(step["counts"]) for step in steps if step["epoch"] == 1 and step["step"] > 1]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_asks_for_no_more_than_it_needs(gate, tmp_path, case):
    steps = count_steps(gate, tmp_path, *case.flags)
    for step in steps[:-1]:  # an epoch's last step waits for all
        assert step.launches <= case.launches, step.counts
        assert step.copies("H2D") <= case.uploads, step.counts["copy"]
        assert step.copies("D2H") <= case.downloads, step.counts["copy"]
        assert step.number("wait") <= case.waits, step.counts["wait"]
