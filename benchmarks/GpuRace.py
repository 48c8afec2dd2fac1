"""One net and one batch on the GPU: ours beside PyTorch, training and prediction.

    python benchmarks/GpuRace.py --mode Unet --batch 8

Gpu.py runs it.  Contenders start one after the other.  Then they take turns.  A turn is `STEPS`
steps in a row, waited for at its end, as in a training.  The last line of the output is a list of
rows as JSON; Race.py says what a row has.  Here peak_bytes is the GPU's memory that the contender's
process holds at the end, or null where the driver does not tell it.
"""
import contextlib
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import Root  # noqa: F401 - puts the repository's root on the path
from Contenders import GPU_CONTENDERS, RACE_KINDS, RACE_SIDE
from Preparation import make_bench_pairs
from Race import WorkerProcess, add_medians, make_rows, take_turn

from command.errors import run
from command.flags import Parser, number
from nets.catalogue import CATALOGUE

STEPS = {1: 20, 8: 5}  # of a turn, by the batch


def build_parser():
    parser = Parser("Time ours beside PyTorch on the GPU, for one net and one batch.")
    add = parser.add_argument
    add("--mode", choices=tuple(CATALOGUE), default="Unet", help="the net to time")
    add("--batch", type=int, choices=tuple(STEPS), default=1, help="images of a step")
    add("--base_channels", type=number(int, 2), default=64,
        help="channels of the U-Net's first level")
    add("--side", type=number(int, 32), default=RACE_SIDE, help="side of the images, in pixels")
    add("--repeats", type=number(int, 1), default=5,
        help="turns that count, after one that does not")
    return parser


def race_on_gpu(contenders, repeats, **task):
    """The rows of all contenders, training first; task: of the workers.

    No GPU holds all of them where a step has several images.  There the first one races with one
    other at a time, which then ends.
    """
    first, *others = contenders
    heats = [others] if task["batch"] == 1 else [[name] for name in others]
    rows, workers = {kind: make_rows(kind, contenders, **task) for kind in RACE_KINDS}, {}
    with contextlib.ExitStack() as stack:
        # a worker ends with the thread that has started it, so the pool has to outlive the races
        pool = stack.enter_context(ThreadPoolExecutor(2))

        def worker_of(name):
            if name not in workers or workers[name].process.poll() is not None:
                workers[name] = stack.enter_context(WorkerProcess(contender=name, **task))
            return workers[name]

        def start_in_order(lane):
            for row in lane:
                take_turn(row, 0, repeats, worker_of)

        for heat in heats:
            for kind in RACE_KINDS:
                racing = [row for row in rows[kind] if row["contender"] in (first, *heat)]
                list(pool.map(start_in_order, lanes_of(racing)))
                for turn in range(1, repeats + 1):
                    for row in racing:
                        take_turn(row, turn, repeats, worker_of)
                held = gpu_memory_of_processes()
                for row in racing:
                    if "failed" not in row:
                        row["peak_bytes"] = held.get(workers[row["contender"]].process.pid)
            for name in heat:
                if name in workers:
                    workers.pop(name).__exit__()
    every = [row for kind in RACE_KINDS for row in rows[kind]]
    add_medians(every)
    return every


def lanes_of(racing):
    """The rows that have not begun, in lists that may begin at the same time.

    In its first step a contender has cuDNN time its algorithms, and keeps what is fastest then.  So
    the GPU has to be its own.  Only what takes a minute to compile begins beside the others.
    """
    new = [row for row in racing if "first_s" not in row]
    compiled = [row for row in new if row["contender"] == "compiled"]
    return compiled, [row for row in new if row not in compiled]


def gpu_memory_of_processes():
    """The bytes of the GPU's memory that each process holds, {its number: bytes}, by the driver."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory",
               "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(command, timeout=20, capture_output=True, text=True, check=True)
        rows = [line.split(",") for line in done.stdout.splitlines() if line.strip()]
        return {int(pid): 2 ** 20 * int(mebibytes) for pid, mebibytes in rows}
    return {}


def main():
    args = build_parser().parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        make_bench_pairs(Path(scratch))
        rows = race_on_gpu(tuple(GPU_CONTENDERS), args.repeats, scratch=scratch,
                           pair=f"{scratch}/pair.npz", mode=args.mode, side=args.side,
                           batch=args.batch, base_channels=args.base_channels, padding=1,
                           device="cuda", steps=STEPS[args.batch])
    print(json.dumps(rows))
    return 0 if all(row["median_s"] for row in rows if row["contender"] == "ours") else 1


if __name__ == "__main__":
    sys.exit(run(main))
