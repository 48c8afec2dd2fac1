"""What each part of the training recipe adds, under one CPU budget: why the defaults are so.

    python benchmarks/Ablation.py --Data_directory data/ISBC2012         # see --minutes and --jobs

Each run trains on four fifths of the training images.  It is scored with its last weights on the
fifth that was held back, which decides, and on the test images, which decide nothing.  A run's
clock is its own CPU time on one core (`CpuClock.py`), so what else the machine does changes little.
Rows are added to ablation.csv as they come.  A second start makes the runs that are missing.  The
printed table is of one data set, split and budget.
"""
import csv
import itertools
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import Root  # noqa: F401 - puts the repository's root on the path

from command.bars import progress_bar
from command.errors import DataError, run
from command.files import make_folder
from command.flags import Parser, number
from runs.log import ENDLESS

# What the variants depart from, in all that matters: a changed default of Main.py changes nothing
# here.
RECIPE = {"protocol": "fast", "mode": "Unet", "base_channels": 16, "padding": 1, "tile": 256,
          "Batch_size": 4, "loss": "ce", "optimizer": "adamw", "Learning_rate": 1e-3,
          "lr_schedule": "cosine", "warm_up": 0, "clip_norm": 0, "ema": 0, "augment": "full",
          "dropout_probs": (0, 0, 0, 0), "bilinear": True, "Loss_w0": 10, "Loss_sigma": 5}
PLAIN_RECIPE = "the recipe"
VARIANTS = {
    PLAIN_RECIPE: {},
    "no augmentation": {"augment": "none"},
    "light augmentation": {"augment": "light"},
    "the U-Net paper's augmentation": {"augment": "paper"},
    "dropout": {"dropout_probs": (0.2, 0.3, 0.4, 0.5)},
    "weight map": {"loss": "weighted_ce"},
    "Dice term": {"loss": "ce_dice"},
    "constant learning rate": {"lr_schedule": "constant"},
    "averaged weights": {"ema": "auto"},
    "averaged weights, constant learning rate": {"ema": "auto", "lr_schedule": "constant"},
    "warm-up": {"warm_up": 0.05},
    "clipped gradients": {"clip_norm": 1},
    "Adam": {"optimizer": "adam"},
    "learning rate 3e-3": {"Learning_rate": 3e-3},
    "learning rate 3e-3, warm-up": {"Learning_rate": 3e-3, "warm_up": 0.05},
    "learning rate 3e-3, clipped gradients": {"Learning_rate": 3e-3, "clip_norm": 1},
    "valid convolutions": {"padding": 0},
    "8 base channels": {"base_channels": 8},
    "32 base channels": {"base_channels": 32},
    "batch of 1": {"Batch_size": 1},
    "batch of 8": {"Batch_size": 8},
    "crops of 128 px": {"tile": 128},
    "whole images": {"tile": "full"},
}
FOLDERS = ("Datatxt", "Log", "Checkpoint", "Result", "Weight")  # of Main.py's --..._directory


class Budget(NamedTuple):
    """What the rows of one table have in common, as texts."""
    data: str     # name of the data set
    group: str
    minutes: str


class AblationRow(NamedTuple):
    """A row of ablation.csv."""
    data: str
    group: str
    minutes: float
    variant: str         # one of VARIANTS
    seed: int
    flags: str           # of Main.py, in which the variant departs from the recipe
    epochs: int
    train_loss: float    # of the last epoch
    held_out_iou: float
    test_iou: float

    @property
    def budget(self):
        return Budget(self.data, self.group, self.minutes)


def build_parser():
    parser = Parser("Train variants of the recipe under one CPU budget, and tabulate their scores.")
    add = parser.add_argument
    add("--Data_directory", type=Path, default=Path("./data/ISBC2012"),
        help="folder of the data set, with {train,test}/{imgs,labels}")
    add("--Result_directory", type=Path, default=Path("benchmarks/results"),
        help="folder of ablation.csv")
    add("--minutes", type=number(float, 0, include_low=False), default=4.0,
        help="CPU time of each run, in minutes")
    add("--group",
        help="Main.py's --group: keeps the parts of a slide together, e.g. '(.*)_' (default: none)")
    add("--jobs", type=number(int, 1),
        help="runs side by side, one on each core (default: the number of cores)")
    add("--variants", nargs="+", choices=tuple(VARIANTS), metavar="NAME",
        help=f"variants to run, in this order: {'; '.join(VARIANTS)} (default: all)")
    add("--seeds", nargs="+", type=number(int, 0), default=[0], help="seeds of each variant")
    return parser


def flag_words(flags):
    """{flag: value or tuple of values} as the words of a command line."""
    words = []
    for name, value in flags.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name}", *map(str, values)]
    return words


def budget_of(args):
    """The Budget of the flags."""
    return Budget(args.Data_directory.resolve().name, args.group or "", str(args.minutes))


def train_variant(variant, seed, core, args):
    """Run Main.py on one core: an AblationRow."""
    with tempfile.TemporaryDirectory() as folder:
        folders = {f"{name}_directory": Path(folder) / name for name in FOLDERS}
        flags = {**RECIPE, **VARIANTS[variant], "seed": seed,
                 "Data_directory": args.Data_directory, "Time_budget": args.minutes,
                 "val_fraction": 0.2, "Total_epochs": ENDLESS, "Val_epochs": ENDLESS - 1,
                 "device": "cpu", **folders}
        if args.group:
            flags["group"] = args.group
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("CpuClock.py")), *flag_words(flags)],
            text=True, capture_output=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise DataError(f"{variant}: Main.py ended with {done.returncode}: "
                            f"{done.stderr.strip().splitlines()[-1]}")
        table, = folders["Log_directory"].glob("*.csv")
        with open(table, encoding="utf-8") as file:
            *_, last = csv.DictReader(file)
    test_iou = re.search(r"Test images, read once: IoU (\S+)", done.stdout)[1]
    return AblationRow(*budget_of(args), variant, seed, " ".join(flag_words(VARIANTS[variant])),
                       int(last["epoch"]) + 1, last["train_loss"], last["iou"], test_iou)


def rows_of_budget(path, budget):
    """The AblationRows of a Budget in ablation.csv; all their fields are texts."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [AblationRow(**row) for row in csv.DictReader(file)]
    return [row for row in rows if row.budget == budget]


def markdown(rows):
    """The table of docs/ablation.md.

    Beside each score stands its distance from the recipe's mean over its seeds.
    """
    own = [float(row.held_out_iou) for row in rows if row.variant == PLAIN_RECIPE]
    base = sum(own) / max(1, len(own))
    lines = ["| variant | flags | epochs | training loss | held-out IoU | to the recipe | "
             "test IoU |",
             "|---|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: -float(row.held_out_iou)):
        name = row.variant if str(row.seed) == "0" else f"{row.variant}, seed {row.seed}"
        flags = f"`{row.flags}`" if row.flags else ""
        held_out = float(row.held_out_iou)
        lines.append(f"| {name} | {flags} | {row.epochs} | {float(row.train_loss):.3f} | "
                     f"{held_out:.4f} | {held_out - base:+.4f} | {float(row.test_iou):.4f} |")
    return "\n".join(lines)


def main():
    args = build_parser().parse_args()
    path = make_folder(args.Result_directory) / "ablation.csv"
    if not path.exists():
        path.write_text(",".join(AblationRow._fields) + "\n", encoding="utf-8")
    done = {(row.variant, row.seed) for row in rows_of_budget(path, budget_of(args))}
    tasks = [(variant, seed)
             for variant, seed in itertools.product(args.variants or VARIANTS, args.seeds)
             if (variant, str(seed)) not in done]
    cores = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:args.jobs]:
        cores.put(core)

    def measure(variant, seed):
        core = cores.get()
        try:
            return train_variant(variant, seed, core, args)
        finally:
            cores.put(core)

    with (ThreadPoolExecutor(cores.qsize()) as pool,
          open(path, "a", newline="", encoding="utf-8") as file):
        ends = as_completed([pool.submit(measure, *task) for task in tasks])
        try:
            for end in progress_bar(ends, "training", len(tasks), unit="run", leave=True):
                csv.writer(file, lineterminator="\n").writerow(end.result())
                file.flush()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error or a Ctrl-C
    print(markdown(rows_of_budget(path, budget_of(args))))
    print(f"Wrote {path}")


if __name__ == "__main__":
    sys.exit(run(main))
