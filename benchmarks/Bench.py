"""How fast ours is, and how much memory it takes, beside PyTorch on the same machine; needs PyTorch.

    python benchmarks/Bench.py              # about half an hour on 2 cores
    python benchmarks/Bench.py --quick      # below 5 minutes, once Jittor has compiled its operators

Contenders run in turns (A B C A B C ...), each in a process of its own (`Worker.py`) that waits while the others
compute.  Prints a table; writes it (bench.txt), every timing behind it (bench.json) and a picture (bench.png).
"""
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from Tables import CONTENDERS, KINDS, SIDE, draw, table  # noqa: E402
from Worker import net_options  # noqa: E402

from backend import start
from command.errors import DataError, run
from command.files import atomic_write, make_folder
from command.flags import Parser, number
from DataAugmentation import augment_pair
from DataLoader import SegmentationSet, TrainingLoader
from datasets.drawn import make_pair
from datasets.survey import dataset_statistics
from images.formats import read_image, write_png
from nets.geometry import geometry_of
from WeightMap import compute_weight_map

MODES = ("Unet", "U2netS", "U2net")
QUICK_MODES = ("Unet", "U2netS")  # the third would take --quick beyond 5 minutes, as would more contenders
QUICK_CONTENDERS = ("ours", "reference", "full")
BASE_CHANNELS = 64             # of the U-Net
PAIRS = 4                      # sample pairs, for the loader
STARTS = 3                     # processes started per contender and net, for the time to the first step
GROWTH_MODES, GROWTH_BASE_CHANNELS, GROWTH_REPEATS = ("U2netS", "Unet"), 16, 2
GROWTH = (("train", 256, 1), ("train", 256, 2), ("train", 256, 4), ("train", 512, 1), ("train", 1024, 1),
          ("predict", 256, 1), ("predict", 256, 2), ("predict", 256, 4), ("predict", 512, 1), ("predict", 1024, 1),
          ("predict", 2048, 1))  # (kind, side in px, batch); training at 2048 px takes four times the memory of 1024
SGEMM_SIDE, COPY_FLOATS = 2048, 64_000_000  # square matrices; 256 MB
BEST_OF = 8  # the ceiling is what the machine can do: the best of so many runs


def parse_arguments():
    parser = Parser("Measure ours beside PyTorch: speed, memory, start, data, growth.")
    add = parser.add_argument
    add("--quick", action="store_true", help="one turn, fewer contenders, no growth: below 5 minutes on 2 cores")
    add("--modes", nargs="+", choices=MODES, help=f"nets (default: {' '.join(MODES)}; --quick: {' '.join(QUICK_MODES)})")
    add("--repeats", type=number(int, 1), help="turns that count, after one that does not (default: 5; --quick: 1)")
    add("--Result_directory", type=Path, default=Path("benchmarks/results"), help="folder of table, timings and picture")
    args = parser.parse_args()
    args.modes = list(dict.fromkeys(args.modes or (QUICK_MODES if args.quick else MODES)))
    args.repeats = args.repeats or (1 if args.quick else 5)
    return args


def say(text):
    print(text, file=sys.stderr, flush=True)


# ----------------------------------------------------------------------------------------------------------- the workers
class WorkerFailed(Exception):
    """A worker cannot go on; the message says why in one line."""


class Worker:
    """`with Worker(contender="ours", ...) as worker:` a contender's process, until the end of the block.

    It stands in a process group of its own: a Ctrl-C reaches this process alone, which then ends it with all it started.
    """

    def __init__(self, scratch, **task):
        self.started = time.perf_counter()
        answers, theirs = os.pipe()
        command = [sys.executable, str(Path(__file__).with_name("Worker.py")), json.dumps({"answers": theirs, **task})]
        # what PyTorch compiles, it compiles here and now, and leaves nothing behind
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(scratch), "TORCHINDUCTOR_COMPILE_THREADS": "2"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, text=True, pass_fds=(theirs,),
                                        start_new_session=True, env=environment)
        os.close(theirs)
        self.answers = os.fdopen(answers)
        self.answer()
        self.import_s = self.age()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.answers.close()

    def age(self):
        """Seconds since the process was started."""
        return time.perf_counter() - self.started

    def ask(self, command):
        """What the worker answers to a command, as a dict; raises WorkerFailed, after which it is gone."""
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        return self.answer()

    def answer(self):
        try:
            line = self.answers.readline()
        except BaseException:  # Ctrl-C before the `with` is entered
            self.__exit__()
            raise
        found = json.loads(line) if line else {"error": self.last_words()}
        if "error" in found:
            self.__exit__()
            raise WorkerFailed(found["error"])
        return found

    def last_words(self):
        code = self.process.wait()
        if code < 0:
            return f"ended by {signal.Signals(-code).name}, probably for lack of memory"
        return f"ended with exit code {code}"


def race(kind, contenders, repeats, **task):
    """Contenders in turns, `repeats` times after a first turn that is kept apart: a list of rows (dicts).

    task: what the workers need: scratch, mode, pair, side (px), batch, base_channels.  In a row, times are in seconds:
    import_s and start_s since the process was started, the latter at the end of its first step; first_s: that step
    alone; seconds: of the later steps, median_s: their median, None where the worker `failed`, which says why.
    """
    known = {key: task[key] for key in ("mode", "side", "batch", "base_channels")}
    rows = {name: {**known, "kind": kind, "contender": name, "seconds": [], "losses": []} for name in contenders}
    workers = {}
    with contextlib.ExitStack() as stack:
        for turn in range(repeats + 1):
            for name, row in rows.items():
                if "failed" in row:
                    continue
                try:
                    if turn == 0:
                        workers[name] = stack.enter_context(Worker(contender=name, **task))
                    note(row, workers[name], workers[name].ask(kind), turn)
                except WorkerFailed as failure:
                    row["failed"] = str(failure)
                result = row.get("failed") or f"{(row['seconds'] or [row['first_s']])[-1]:.2f} s"
                say(f"{task['mode']}, {KINDS[kind]}, {task['side']} px, batch {task['batch']}, "
                    f"{f'turn {turn} of {repeats}' if turn else 'first step'}, {CONTENDERS[name]}: {result}")
    for row in rows.values():
        row["median_s"] = statistics.median(row["seconds"]) if row["seconds"] and "failed" not in row else None
    return list(rows.values())


def note(row, worker, answer, turn):
    """Enter a worker's answer into its row."""
    if turn == 0:
        row.update(import_s=worker.import_s, first_s=answer["seconds"], start_s=worker.age())
    else:
        row["seconds"].append(answer["seconds"])
    row["losses"].append(answer.get("loss"))
    row["peak_bytes"] = answer["peak_bytes"]


# ---------------------------------------------------------------------------------------- the machine and the arithmetic
def best(function):
    """The shortest of BEST_OF runs after one that does not count, in seconds."""
    seconds = []
    for _ in range(BEST_OF + 1):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def ceiling():
    """What the machine can do: matrix products in single precision, GFLOP/s, and copies, GB/s read and written."""
    import torch
    one, other, product = torch.randn(3, SGEMM_SIDE, SGEMM_SIDE)
    source, target = torch.ones(2, COPY_FLOATS)
    found = {"sgemm_gflops": 2e-9 * SGEMM_SIDE ** 3 / best(lambda: torch.mm(one, other, out=product)),
             "copy_gbs": 8e-9 * COPY_FLOATS / best(lambda: target.copy_(source))}
    say(f"machine: matrix product {found['sgemm_gflops']:.0f} GFLOP/s, copy {found['copy_gbs']:.1f} GB/s")
    return found


def multiply_adds(mode, contender, side, base_channels):
    """Multiply-adds of the convolutions in one image's forward pass, counted on the twin without computing anything."""
    import torch
    from TorchModel import build_model
    geometry, counts = geometry_of(mode), []
    shape = 1, 1, *[geometry.output_side(side) + geometry.margin] * 2
    if contender == "reference":
        shape = 4, 1, *[geometry.reference_input] * 2
    with torch.device("meta"):
        inputs = torch.empty(shape)
        model = build_model(mode, 1, 2, **net_options({"mode": mode, "base_channels": base_channels}))
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda conv, _, output: counts.append(output.numel() * conv.weight[0].numel()))
    model(inputs)
    return sum(counts)


def versions():
    """The software's versions, and what the environment says of threads: {name: text}."""
    import torch
    found = {"Python": platform.python_version()}
    for name, package in (("NumPy", "numpy"), ("Jittor", "jittor"), ("PyTorch", "torch"),
                          ("oneDNN of Jittor", "onednn-cpu-gomp")):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(package)
    onednn = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    if onednn:
        found["oneDNN of PyTorch"] = onednn.group(1)
    found["threads of PyTorch"] = str(torch.get_num_threads())
    return {**found, **{name: value for name, value in os.environ.items() if name.startswith(("OMP_", "GOMP_", "MKL_"))}}


# -------------------------------------------------------------------------------------------------------------- the data
def make_data(folder):
    """PAIRS sample pairs of SIDE px as files (a SegmentationSet), and the first of them as arrays for the workers."""
    pairs = [(folder / "imgs" / f"{k}.png", folder / "labels" / f"{k}.png") for k in range(PAIRS)]
    for index, paths in enumerate(pairs):
        for path, pixels in zip(paths, make_pair(0, 0, index, SIDE)):
            write_png(make_folder(path.parent) / path.name, pixels)
    dataset = SegmentationSet(pairs, 1, 2, dataset_statistics(pairs, 1, folder))
    label = dataset.label(0)
    np.savez(folder / "pair.npz", image=dataset.image(0), label=label, weight=compute_weight_map(label))
    return dataset


def time_preparation(dataset, folder, repeats):
    """Seconds per image of each part of the data's preparation: {what: list}."""
    grey, label = (read_image(path) for path in dataset.pairs[0])
    rng, seconds = np.random.default_rng(0), {}

    def clock(what, images, function, *arguments):
        started = time.perf_counter()
        function(*arguments)
        seconds.setdefault(what, []).append((time.perf_counter() - started) / images)
        say(f"data, {f'turn {turn} of {repeats}' if turn else 'warm-up'}, {what}: {seconds[what][-1]:.3f} s per image")

    for turn in range(repeats + 1):
        loader = TrainingLoader(dataset, geometry_of("Unet"), weight_directory=folder / f"weights-{turn}")
        clock("elastic augmentation, grey", 1, augment_pair, grey, label, rng)
        clock("elastic augmentation, RGB", 1, augment_pair, np.stack([grey] * 3, axis=2), label, rng)
        clock("weight map", 1, compute_weight_map, dataset.label(0))
        clock("TrainingLoader, first epoch (with weight maps)", len(dataset), list, loader.epoch(0))
        clock("TrainingLoader, later epochs", len(dataset), list, loader.epoch(1))
    return {what: each[1:] for what, each in seconds.items()}


# ----------------------------------------------------------------------------------------------------------- the command
def benchmark(modes, quick, repeats, scratch):
    """All measurements as a dict."""
    machine = {"name": start.device_name(), "load": os.getloadavg()[0], "ceiling": [ceiling()]}
    dataset = make_data(scratch)
    task = {"scratch": str(scratch), "pair": str(scratch / "pair.npz"), "side": SIDE, "batch": 1,
            "base_channels": BASE_CHANNELS}
    contenders = QUICK_CONTENDERS if quick else tuple(CONTENDERS)
    races, starts, growth = [], [], []
    for mode in modes:
        for kind in KINDS:
            races += race(kind, contenders, repeats, **task, mode=mode)
        machine["ceiling"].append(ceiling())
    for row in races:
        row["multiply_adds"] = multiply_adds(row["mode"], row["contender"], SIDE, BASE_CHANNELS)
    for mode in modes[-1:] if quick else modes:
        for _ in range(1 if quick else STARTS):  # the races have filled Jittor's cache
            starts += race("train", ("ours", "full"), 0, **task, mode=mode)
    data = time_preparation(dataset, scratch, repeats)
    for mode in () if quick else GROWTH_MODES:
        for kind, side, batch in GROWTH:
            sizes = {"side": side, "batch": batch, "base_channels": GROWTH_BASE_CHANNELS}
            growth += race(kind, ("ours",), GROWTH_REPEATS, **{**task, **sizes}, mode=mode)
    return {"settings": {"modes": list(modes), "quick": quick, "repeats": repeats}, "machine": machine,
            "versions": versions(), "races": races, "starts": starts, "data": data, "growth": growth}


def main():
    args = parse_arguments()
    if not importlib.util.find_spec("torch"):
        raise DataError("PyTorch is not installed here; pip install -r requirements/align.txt")
    start.check_machine("cpu")
    folder = make_folder(args.Result_directory)
    with tempfile.TemporaryDirectory() as scratch:
        results = benchmark(args.modes, args.quick, args.repeats, Path(scratch))
    lines = table(results)
    with atomic_write(folder / "bench.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    with atomic_write(folder / "bench.txt") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    draw(folder / "bench.png", results["races"], results["machine"]["name"])
    print("\n".join(lines))
    print(f"\nWritten: {folder / 'bench.txt'}, {folder / 'bench.json'}, {folder / 'bench.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
