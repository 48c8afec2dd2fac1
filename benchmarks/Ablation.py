"""What each part of the training recipe adds, under one CPU budget: the measurement behind the defaults of Main.py.

    python benchmarks/Ablation.py --Data_directory data/ISBC2012              # see --minutes and --jobs

Each run trains on four fifths of the training images and is scored, with its last weights, on the fifth that was held back
(the column that decides) and on the test images (which decide nothing).  A run's clock is its own CPU time, on one core:
what else the machine does changes little.  Rows are added to ablation.csv as they come: a second start does what is
missing, and the table is of one data set, split and budget.
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

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from command.errors import DataError, run
from command.files import make_folder
from command.flags import Parser, number
from runs.log import ENDLESS

# what the variants depart from, in all that matters: a changed default of Main.py changes nothing here
RECIPE = {"mode": "Unet", "base_channels": 16, "padding": 1, "tile": 256, "Batch_size": 4, "loss": "ce", "optimizer": "adamw",
          "Learning_rate": 1e-3, "lr_schedule": "cosine", "warm_up": 0, "clip_norm": 0, "augment": "full",
          "dropout_probs": (0, 0, 0, 0), "bilinear": True, "Loss_w0": 10, "Loss_sigma": 5}
VARIANTS = {
    "the recipe": {},
    "no augmentation": {"augment": "none"},
    "light augmentation": {"augment": "light"},
    "the U-Net paper's augmentation": {"augment": "paper"},
    "dropout": {"dropout_probs": (0.2, 0.3, 0.4, 0.5)},
    "weight map": {"loss": "weighted_ce"},
    "Dice term": {"loss": "ce_dice"},
    "constant learning rate": {"lr_schedule": "constant"},
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
COLUMNS = ("data", "group", "minutes", "variant", "seed", "flags", "epochs", "train_loss", "held_out_iou", "test_iou")
# Main.py, its clock being the CPU time of its process
MAIN = f"""
import runpy, sys, time
time.monotonic = time.process_time
sys.path[0] = {str(ROOT)!r}
runpy.run_path({str(ROOT / 'Main.py')!r}, run_name="__main__")
"""


def parse_arguments():
    parser = Parser("Train variants of the recipe under one CPU budget, and tabulate their scores.")
    add = parser.add_argument
    add("--Data_directory", type=Path, default=Path("./data/ISBC2012"), help="data set: {train,test}/{imgs,labels}")
    add("--Result_directory", type=Path, default=Path("benchmarks/results"), help="folder of ablation.csv")
    add("--minutes", type=number(float, 0, include_low=False), default=4.0, help="CPU time of each run")
    add("--group", help="Main.py's: what keeps the parts of a slide together, e.g. '(.*)_'")
    add("--jobs", type=number(int, 1), default=len(os.sched_getaffinity(0)), help="runs side by side, a core each")
    add("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS), metavar="NAME",
        help="what to run, in this order")
    add("--seeds", nargs="+", type=number(int, 0), default=[0], help="of each variant")
    return parser.parse_args()


def as_words(flags):
    """{flag: value or values} as the words of a command line."""
    return [word for name, value in flags.items()
            for word in (f"--{name}", *map(str, value if isinstance(value, tuple) else (value,)))]


def split_of(args):
    """What rows of one table have in common, as texts: the first of COLUMNS."""
    return [args.Data_directory.resolve().name, args.group or "", str(args.minutes)]


def train(variant, seed, core, args):
    """Run Main.py on one core: a row of COLUMNS."""
    flags = {**RECIPE, **VARIANTS[variant], "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        folders = {f"{name}_directory": Path(folder) / name for name in ("Datatxt", "Log", "Checkpoint", "Result", "Weight")}
        words = as_words({**flags, "Data_directory": args.Data_directory, "Time_budget": args.minutes, "val_fraction": 0.2,
                          "Total_epochs": ENDLESS, "Val_epochs": ENDLESS - 1, "device": "cpu", **folders,
                          **({"group": args.group} if args.group else {})})
        done = subprocess.run([sys.executable, "-c", MAIN, *words], text=True, capture_output=True,
                              preexec_fn=lambda: os.sched_setaffinity(0, {core}), env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise DataError(f"{variant}: Main.py ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
        table, = folders["Log_directory"].glob("*.csv")
        with open(table, encoding="utf-8") as file:
            *_, last = csv.DictReader(file)
    test_iou = re.search(r"Test images, read once: IoU (\S+)", done.stdout)[1]
    return (*split_of(args), variant, seed, " ".join(as_words(VARIANTS[variant])), int(last["epoch"]) + 1, last["train_loss"],
            last["iou"], test_iou)


def rows_of(path, args):
    """What is there already of this data set, split and budget: [row of COLUMNS as texts]."""
    with open(path, newline="", encoding="utf-8") as file:
        return [row for row in list(csv.reader(file))[1:] if row[:3] == split_of(args)]


def markdown(rows):
    """The table of docs/ablation.md: beside each score its distance from the recipe's mean over its seeds."""
    own = [float(row[8]) for row in rows if row[3] == "the recipe"]
    base = sum(own) / max(1, len(own))
    lines = ["| variant | flags | epochs | training loss | held-out IoU | to the recipe | test IoU |",
             "|---|---|---|---|---|---|---|"]
    for *_, variant, seed, flags, epochs, loss, held, test in sorted(rows, key=lambda row: -float(row[8])):
        name = f"{variant}, seed {seed}" if str(seed) != "0" else variant
        lines.append(f"| {name} | {f'`{flags}`' if flags else ''} | {epochs} | {float(loss):.3f} | {float(held):.4f} | "
                     f"{float(held) - base:+.4f} | {float(test):.4f} |")
    return "\n".join(lines)


def main():
    args = parse_arguments()
    path = make_folder(args.Result_directory) / "ablation.csv"
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    done = {tuple(row[3:5]) for row in rows_of(path, args)}
    tasks = [task for task in itertools.product(args.variants, args.seeds) if (task[0], str(task[1])) not in done]
    cores = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:args.jobs]:
        cores.put(core)

    def measure(task):
        core = cores.get()
        try:
            return train(*task, core, args)
        finally:
            cores.put(core)

    with ThreadPoolExecutor(cores.qsize()) as pool, open(path, "a", newline="", encoding="utf-8") as file:
        ends = as_completed([pool.submit(measure, task) for task in tasks])
        try:
            for end in tqdm(ends, "training", len(tasks), unit="run", disable=None):
                csv.writer(file, lineterminator="\n").writerow(end.result())
                file.flush()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error or a Ctrl-C
    print(markdown(rows_of(path, args)))
    print(f"Wrote {path}")


if __name__ == "__main__":
    sys.exit(run(main))
