"""Train on the stand-in and count what each step asks of the device.

    python tests/gpu/count_steps.py COUNTS.json FLAGS OF Main.py

Writes [{"epoch", "step", "counts": {kind: {name: [number, bytes]}}, "peak": bytes of device memory
that were allocated at most}].  A step lasts from one batch to the next.
"""
import ctypes
import json
import sys
from pathlib import Path

import Main
from command.errors import run
from DataLoader import TrainingLoader


class StandIn:
    """The counters of the stand-in's CUDA runtime, which Jittor has loaded."""

    def __init__(self):
        self.runtime = ctypes.CDLL(None)
        self.runtime.stand_in_counts.restype = ctypes.c_char_p
        self.runtime.stand_in_peak.restype = ctypes.c_size_t

    def take(self):
        """The counts and the peak since the last `take`."""
        counts, peak = {}, self.runtime.stand_in_peak()
        for line in self.runtime.stand_in_counts().decode().splitlines():
            kind, name, number, size = line.split("\t")
            counts.setdefault(kind, {})[name] = [int(number), int(size)]
        self.runtime.stand_in_reset()
        return {"counts": counts, "peak": peak}


def counted(epoch_of_batches, steps):
    """TrainingLoader.epoch, with the counts between its batches noted in the list `steps`."""
    def epoch(loader, number, start=0):
        stand_in = StandIn()
        stand_in.take()
        for step, batch in enumerate(epoch_of_batches(loader, number, start), start):
            yield batch
            steps.append({"epoch": number, "step": step, **stand_in.take()})
    return epoch


def main():
    _, output, *flags = sys.argv
    sys.argv = ["Main.py", *flags]
    steps, original = [], TrainingLoader.epoch
    TrainingLoader.epoch = counted(original, steps)
    code = Main.main()
    Path(output).write_text(json.dumps(steps))
    return code


if __name__ == "__main__":
    sys.exit(run(main))
