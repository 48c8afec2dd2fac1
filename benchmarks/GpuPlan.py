"""What Gpu.py runs on a device: the lists of its steps."""
import csv
import shutil
import sys
from functools import partial
from pathlib import Path

from GpuSteps import CUT_OFF, REPOSITORY, DeviceStep, json_line, last_line

from backend.precision import ON_GPU
from runs.resume import LAST

START = "start"              # the name of the step that is always made
CROPS_TO_ALIGN = {"Unet": 68, "U2netS": 128, "U2net": 128}  # px
# of Main.py's --..._directory, inside a training's folder
TRAINING_FOLDERS = {"Log": "logs", "Checkpoint": "checkpoints", "Result": "results",
                    "Datatxt": "lists", "Weight": "weight_maps"}
AROUND_TRAINING = 70         # seconds of a training for its start, its last test and its page
COMPILING = 240              # seconds more on a slow machine, whose operators are not compiled yet


def python(script, *words):
    """The words of a command of this repository, in this Python."""
    return [sys.executable, script, *map(str, words)]


def start_step():
    """Start Jittor on the GPU; the first start on a machine compiles for some minutes."""
    return DeviceStep(START, "start, compile", python("benchmarks/GpuProbe.py"), 400, json_line)


# ---------------------------------------------------------------------------------------- the check
def check_steps(folder):
    """The steps of `make gpu-check`; folder: for the pictures of the alignment."""
    yield DeviceStep("doctor", "doctor", python("Model.py", "--doctor"), 300, text_lines)
    for path in sorted((REPOSITORY / "tests" / "device").glob("test_*.py")):
        yield DeviceStep(path.stem, f"tests on a GPU, {path.stem}",
                         python("-m", "pytest", "-q", path.relative_to(REPOSITORY)), 400,
                         tests_line)
    for precision in ON_GPU:
        for mode, side in CROPS_TO_ALIGN.items():
            command = python("alignment/Compare.py", "--mode", mode, "--device", "cuda",
                             "--precision", precision, "--tile", side, "--epochs", 0,
                             "--steps", 5, "--Data_directory", "data/sample",
                             "--Result_directory", folder / precision)
            yield DeviceStep(f"align_{mode}_{precision}", f"{mode} as PyTorch, {precision}",
                             command, 300, text_lines)


def text_lines(output):
    """The lines of an output."""
    return output.splitlines()


def tests_line(output):
    """What pytest says at its end; ValueError where a test did not run."""
    line = last_line(output).strip("= ")
    if "passed" not in line or "skipped" in line:
        raise ValueError(line)
    return line


# ---------------------------------------------------------------------------------------- the bench
def bench_steps(modes, batches):
    """The steps of `make gpu-bench`: a race for each net and batch, the small batch first."""
    for batch in batches:
        for mode in modes:
            yield DeviceStep(f"bench_{mode}_{batch}", f"{mode} beside PyTorch, batch {batch}",
                             python("benchmarks/GpuRace.py", "--mode", mode, "--batch", batch),
                             300 if batch == 1 else 400, json_line)


# ------------------------------------------------------------------------------------- the training
def train_step(records, data, mode, minutes, is_default, left):
    """The step of `make gpu-train`; a training that was cut off goes on.

    data: the data set's folder.  minutes: of the training, fewer where `left` (seconds) is short.
    is_default: train by Main.py's defaults, not by --protocol fast.
    """
    minutes = round(min(minutes, max(0.5, (left - AROUND_TRAINING) / 60)), 2)
    name = f"{'default' if is_default else 'train'}_{Path(data).name}_{mode}"
    folder, before = records.folder / name, records.rows.get(name, {"state": CUT_OFF})
    words = ["--Data_directory", data, "--mode", mode, "--device", "cuda", "--Time_budget", minutes]
    for flag, part in TRAINING_FOLDERS.items():
        words += [f"--{flag}_directory", (folder / part).resolve()]
    if not is_default:
        words += ["--protocol", "fast"]
    if before["state"] == CUT_OFF and (folder / "checkpoints" / LAST).exists():
        words.append("--resume")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    title = f"{mode} on {Path(data).name}, {'default' if is_default else '--protocol fast'}"
    limit = 60 * minutes + AROUND_TRAINING + COMPILING
    return DeviceStep(name, title, python("Main.py", *words), limit,
                      partial(training_values, folder / "logs"))


def training_values(logs, _output):
    """What a training has reached, by the last CSV of its folder of logs.

    {epochs, best, last, seconds, images_per_s}: best and last have the columns of the CSV, as
    numbers.  ValueError where no epoch was tested.
    """
    tables = sorted(logs.glob("*.csv"))
    if not tables:
        raise ValueError(f"{logs}: no CSV")
    with open(tables[-1], encoding="utf-8") as file:
        rows = [{key: float(text) for key, text in row.items() if text}
                for row in csv.DictReader(file)]
    tested = [row for row in rows if "iou" in row]
    if not tested:
        raise ValueError(f"{tables[-1]}: no epoch was tested")
    return {"epochs": len(rows), "best": max(tested, key=lambda row: row["iou"]),
            "last": tested[-1], "seconds": sum(row["epoch_time"] for row in rows),
            "images_per_s": sorted(row["throughput"] for row in rows)[len(rows) // 2]}
