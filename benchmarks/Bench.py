"""How fast ours is and how much memory it takes, beside PyTorch on the same machine.

    python benchmarks/Bench.py              # about half an hour on 2 cores
    python benchmarks/Bench.py --quick      # below 5 minutes, after Jittor has compiled once

Needs PyTorch.  ONNX Runtime and OpenVINO race where they are installed.  Contenders run in turns,
each in a process of its own that waits while the others compute.  Prints a table.  Writes the table
(bench.txt), every timing behind it (bench.json) and a picture (bench.png).
"""
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import Root  # noqa: F401 - puts the repository's root on the path
from Contenders import CONTENDERS, RACE_KINDS, RACE_SIDE, contenders_of, find_left_out
from Machine import count_multiply_adds, measure_ceiling, software_versions
from Preparation import make_bench_pairs, time_preparation
from Race import race
from Rivals import draw_races
from Tables import result_lines

from backend import start
from command.errors import DataError, run
from command.files import atomic_write, make_folder
from command.flags import Parser, number

RACE_MODES = ("Unet", "U2netS", "U2net")
# a third net would take --quick beyond 5 minutes, and so would more contenders
QUICK_MODES = ("Unet", "U2netS")
QUICK_CONTENDERS = ("ours", "ours_bf16", "reference", "channels_last", "autocast", "openvino")
RACE_CHANNELS = 64  # of the U-Net's first level
COMPILE_S = 60      # for the first step of a compiled net; U-2-Net takes minutes
STARTS = 3          # processes for each contender and net, for the time to the first step
CROWD_MODES, CROWD_CHANNELS, CROWD_REPEATS = ("Unet", "U2netS"), 16, 3
CROWD = ("ours", "ours_bf16", "channels_last", "autocast")  # the contenders beside busy processes
NEIGHBOURS = (0, 2)                            # numbers of these


class Size(NamedTuple):
    """One step of the growth: what is computed, and on how much."""
    kind: str   # one of RACE_KINDS
    side: int   # px
    batch: int


GROWTH_MODES, GROWTH_CHANNELS, GROWTH_REPEATS = ("U2netS", "Unet"), 16, 2
GROWTH = (  # training at 2048 px takes four times the memory of 1024
    Size("train", 256, 1), Size("train", 256, 2), Size("train", 256, 4),
    Size("train", 512, 1), Size("train", 1024, 1),
    Size("predict", 256, 1), Size("predict", 256, 2), Size("predict", 256, 4),
    Size("predict", 512, 1), Size("predict", 1024, 1), Size("predict", 2048, 1))


class BenchSettings(NamedTuple):
    """What to measure."""
    modes: list   # nets
    quick: bool
    repeats: int  # turns that count
    compile_s: int


def build_parser():
    parser = Parser("Measure ours beside PyTorch: speed, memory, start, data, growth.")
    add = parser.add_argument
    add("--quick", action="store_true",
        help="measure one turn, fewer contenders and no growth: below 5 minutes on 2 cores")
    add("--modes", nargs="+", choices=RACE_MODES,
        help=f"nets (default: {' '.join(RACE_MODES)}; --quick: {' '.join(QUICK_MODES)})")
    add("--repeats", type=number(int, 1),
        help="turns that count, after one that does not (default: 3; --quick: 1)")
    add("--compile_s", type=number(int, 1), default=COMPILE_S,
        help="seconds that torch.compile may take for a net before it is left out")
    add("--Result_directory", type=Path, default=Path("benchmarks/results"),
        help="folder for the table, the timings and the picture")
    return parser


def bench_settings(args):
    """The BenchSettings of the flags, completed by the defaults."""
    modes, repeats = (QUICK_MODES, 1) if args.quick else (RACE_MODES, 3)
    return BenchSettings(list(dict.fromkeys(args.modes or modes)), args.quick,
                         args.repeats or repeats, args.compile_s)


def benchmark(settings, scratch):
    """Make all measurements: a dict of what JSON can hold; scratch: a folder."""
    machine = {"name": start.device_name(), "load": os.getloadavg()[0],
               "ceiling": [measure_ceiling()]}
    dataset = make_bench_pairs(scratch)
    task = {"scratch": str(scratch), "pair": str(scratch / "pair.npz"), "side": RACE_SIDE,
            "batch": 1, "base_channels": RACE_CHANNELS, "compile_s": settings.compile_s}
    races, left_out = [], find_left_out()
    for name, reason in left_out.items():
        print(f"{CONTENDERS[name].title}: left out: {reason}", file=sys.stderr, flush=True)
    for mode in settings.modes:
        races += race_mode(mode, settings, task, left_out)
        machine["ceiling"].append(measure_ceiling())
    return {"settings": settings._asdict(), "machine": machine, "versions": software_versions(),
            "left_out": left_out, "races": races,
            "crowd": measure_crowd(settings, task, left_out),
            "starts": measure_starts(settings, task),
            "data": time_preparation(dataset, scratch, settings.repeats),
            "growth": measure_growth(settings, task)}


def race_mode(mode, settings, task, left_out):
    """The rows of one net's races, in training and in prediction."""
    names, rows = QUICK_CONTENDERS if settings.quick else tuple(CONTENDERS), []
    for kind in RACE_KINDS:
        contenders = contenders_of(kind, names, left_out)
        rows += race(kind, contenders, settings.repeats, **task, mode=mode)
    for row in rows:
        row["multiply_adds"] = count_multiply_adds(mode, row["contender"], RACE_SIDE,
                                                   RACE_CHANNELS)
    return rows


def measure_crowd(settings, task, left_out):
    """The rows of training alone and beside NEIGHBOURS busy processes; none with --quick."""
    rows = []
    for mode in () if settings.quick else CROWD_MODES:
        for beside in NEIGHBOURS:
            rows += race("train", contenders_of("train", CROWD, left_out), CROWD_REPEATS, beside,
                         **{**task, "mode": mode, "base_channels": CROWD_CHANNELS})
    return rows


def measure_starts(settings, task):
    """The rows of processes that make one step; the races have filled Jittor's cache before."""
    modes, count = (settings.modes[-1:], 1) if settings.quick else (settings.modes, STARTS)
    rows = []
    for mode in modes:
        for _ in range(count):
            rows += race("train", ("ours", "full"), 0, **task, mode=mode)
    return rows


def measure_growth(settings, task):
    """The rows of ours at each Size of GROWTH; none with --quick."""
    rows = []
    if settings.quick:
        return rows
    for mode in GROWTH_MODES:
        for size in GROWTH:
            grown = {**task, "mode": mode, "side": size.side, "batch": size.batch,
                     "base_channels": GROWTH_CHANNELS}
            rows += race(size.kind, ("ours",), GROWTH_REPEATS, **grown)
    return rows


def main():
    args = build_parser().parse_args()
    if not importlib.util.find_spec("torch"):
        raise DataError("PyTorch is not installed here; pip install -r requirements/align.txt")
    start.check_machine("cpu")
    folder = make_folder(args.Result_directory)
    with tempfile.TemporaryDirectory() as scratch:
        results = benchmark(bench_settings(args), Path(scratch))
    text = "\n".join(result_lines(results)) + "\n"
    with atomic_write(folder / "bench.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    with atomic_write(folder / "bench.txt") as temporary:
        temporary.write_text(text)
    draw_races(folder / "bench.png", results["races"], results["machine"]["name"])
    print(text)
    print(f"Written: {folder / 'bench.txt'}, {folder / 'bench.json'}, {folder / 'bench.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
