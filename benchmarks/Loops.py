"""Into how many pieces a training step is cut for the threads of a CPU.

    python benchmarks/Loops.py                       # U-Net of 64 channels, valid convolutions
    python benchmarks/Loops.py --mode U2netS

Takes one step on one image, and notes each parallel loop that libgomp runs (loops.cpp).  Prints of
the loops that take more than 1 % of all loops' time how many there are and how many pieces the
worst has, and the imbalance on more cores: how many times as long as with work that can be cut
anywhere, where all pieces of a loop take equally long.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import Root  # noqa: F401 - puts the repository's root on the path

from backend import start
from command.errors import DataError, run
from command.flags import Parser
from nets.catalogue import CATALOGUE

HEAVY = 0.01  # of the time of all loops
CORES = (2, 8, 16, 32)
INPUT_SIDES = {"Unet": 700, "U2netS": 512, "U2net": 512}  # px of the input: 512 px of the output
OBSERVER = Path(__file__).with_name("loops.cpp")


class Loop(NamedTuple):
    """A parallel loop of a step."""
    pieces: int     # 0: each thread takes its share
    seconds: float
    function: str


def build_parser():
    parser = Parser("Count into how many pieces a training step is cut.")
    add = parser.add_argument
    add("--mode", choices=tuple(CATALOGUE), default="Unet", help="the net")
    add("--take_step", action="store_true",
        help="take steps in this process, which loops.cpp observes")
    return parser


def step_observed(mode, notes):
    """Two training steps; the notes of the last one alone stay."""
    jt = start.import_jittor("cpu")
    from Model import build_model
    model = build_model(mode, 1, 2)
    model.train()
    weights = [var for var in model.parameters() if not var.is_stop_grad()]
    side = INPUT_SIDES[mode]
    image = jt.array(np.random.default_rng(0).normal(size=(1, 1, side, side)).astype(np.float32))
    for _ in range(2):
        if notes.exists():
            os.truncate(notes, 0)
        jt.sync(jt.grad((model(image) ** 2).mean(), weights))
        jt.sync_all(True)


def observed_loops(mode):
    """The Loops of a training step, taken in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        library, notes = Path(scratch, "loops.so"), Path(scratch, "notes")
        subprocess.run(["g++", "-O1", "-shared", "-fPIC", "-o", library, OBSERVER, "-ldl"],
                       check=True)
        done = subprocess.run(
            [sys.executable, __file__, "--mode", mode, "--take_step"],
            env={**os.environ, "LD_PRELOAD": str(library), "LOOPS": str(notes)})
        if done.returncode:
            raise DataError(f"the step ended with exit code {done.returncode}")
        lines = notes.read_text().lstrip("\0").splitlines()
    return [Loop(int(pieces), float(seconds), function)
            for pieces, seconds, function in (line.split("\t") for line in lines)]


def imbalance(loops, cores):
    """How many times as long as ideal, on average over the loops' time.

    On c cores a loop of n equal pieces takes ceil(n / c) rounds instead of n / c.
    """
    total = sum(loop.seconds for loop in loops)
    return sum(loop.seconds / total * (-(-loop.pieces // cores) / (loop.pieces / cores))
               for loop in loops)


def main():
    args = build_parser().parse_args()
    if args.take_step:
        step_observed(args.mode, Path(os.environ["LOOPS"]))
        return 0
    loops = observed_loops(args.mode)
    total = sum(loop.seconds for loop in loops)
    cut = [loop for loop in loops if loop.pieces]
    heavy = [loop for loop in cut if loop.seconds > HEAVY * total]
    fewest = min(heavy, key=lambda loop: loop.pieces)
    shares = sum(loop.seconds for loop in heavy) / total, 1 - sum(x.seconds for x in cut) / total
    print(f"{args.mode}: {len(loops)} loops in {total:.2f} s.  {len(heavy)} take more than "
          f"{HEAVY:.0%} each, {shares[0]:.0%} together; the fewest pieces: {fewest.pieces} "
          f"({fewest.seconds / total:.1%} of the time).  Not cut into pieces: {shares[1]:.1%}.")
    for cores in CORES:
        print(f"imbalance on {cores:2} cores: {imbalance(heavy, cores):.2f} of the heavy loops, "
              f"{imbalance(cut, cores):.2f} of all")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
