"""`python Model.py --doctor`: what is installed, what a run uses, and whether it computes right.

Nothing here imports Jittor: each training step is taken by a process of its own, so that a start
of Jittor that fails, crashes or hangs is a line of the report.
"""
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, Optional

from backend import start
from backend.doctor_step import (BATCH_SHAPE, NET, STEP_WAYS, Distance, Taken, load_taken,
                                 measure_distance)
from backend.inventory import list_installed
from backend.kernel_choice import CUDA_KERNEL_NAMES
from backend.precision import has_bf16, has_tf32
from command.hardware import ask_driver

LONGEST_STEP = 1800  # seconds for a step; Jittor compiles itself in a third of that on 2 cores


class Finding(NamedTuple):
    """What became of a way's step."""
    word: str                            # of the way, in doctor_step.STEP_WAYS
    taken: Optional[Taken] = None
    error: str = ""                      # why there is none
    distance: Optional[Distance] = None  # from the CPU's

    @property
    def is_sound(self):
        if self.distance is None:
            return self.taken is not None
        return self.distance.is_within(STEP_WAYS[self.word])


def examine():
    """Print the report; returns the exit code: 0 where all that can run here agrees.

    Raises DataError where Jittor cannot run at all.
    """
    print("Installed")
    for part in list_installed():
        say(part.name, part)
    nvcc, reason = start.check_machine("auto")
    words = ["cpu", "jittor", *(["bf16"] if has_bf16() else [])]
    if nvcc:
        words += ["float32", "tf32"] if has_tf32() else ["float32"]
    is_idle = not nvcc and ask_driver().driver and os.environ.get("nvcc_path") != ""
    count, _, height, width = BATCH_SHAPE
    print(f"\nA training step of a U-Net with {NET['base_channels']} channels on {count} images of "
          f"{height} x {width} px, compared with the CPU's (the first time this compiles)",
          flush=True)
    findings = list(take_steps(words))
    print("\nUsed")
    for name, text in describe_use(findings, reason):
        say(name, text)
    return conclude(findings, f"there is a GPU, but {reason}" if is_idle else "")


def say(name, text):
    """Print a line of the report."""
    print(f"  {name:<29}  {text}", flush=True)


# ---------------------------------------------------------------------------------------- the steps
def take_steps(words):
    """Take the step in each way, print what came out, and yield the Findings."""
    reference = finding = None
    with tempfile.TemporaryDirectory() as folder:
        for word in words:
            if word == "tf32" and not finding.taken:  # the GPU would fail again, after minutes
                continue
            finding = step_in_process(word, Path(folder, f"{word}.npz"))
            if finding.taken and reference:
                distance = measure_distance(finding.taken, reference)
                finding = finding._replace(distance=distance)
            reference = reference or finding.taken
            say(STEP_WAYS[word].title, describe_finding(finding))
            yield finding


def step_in_process(word, path):
    """Take the step in a process of its own, which writes what it found to `path`: a Finding."""
    command = [sys.executable, sys.argv[0], "--step", word, str(path)]
    try:
        done = subprocess.run(command, stdout=sys.stderr, timeout=LONGEST_STEP)
    except subprocess.TimeoutExpired:
        return Finding(word, error=f"not done after {LONGEST_STEP // 60} minutes")
    if path.exists():
        return Finding(word, load_taken(path))
    told = path.with_suffix(".txt")
    if told.exists():
        return Finding(word, error=told.read_text("utf-8"))
    code = done.returncode
    ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return Finding(word, error=f"its process ended {ended}")


def describe_finding(finding):
    """A Finding in one line."""
    if not finding.taken:
        return f"no step: {finding.error}"
    taken, distance, way = finding.taken, finding.distance, STEP_WAYS[finding.word]
    line = f"loss {taken.loss:.6f}, {taken.milliseconds:.1f} ms"
    if distance is None:
        return line
    line += (f"; differences: loss {distance.loss:.1e}, gradients {distance.gradient:.1e}, "
             f"loss after updates {distance.updated_loss:.1e}")
    if finding.is_sound:
        return f"{line}: agrees"
    return (f"{line}: DIFFERS, most in {distance.parameter}; allowed are {way.loss_limit:.0e}, "
            f"{way.gradient_limit:.0e}, {way.updated_limit:.0e}")


# ----------------------------------------------------------------------------------- what they mean
def describe_use(findings, reason):
    """Yield (name, text) of what a run uses here.

    reason: why no GPU is used, "" where one is.
    """
    taken = {finding.word: finding.taken for finding in findings if finding.taken}
    failed = [finding.error for finding in findings if finding.word == "float32"]
    on_gpu = taken.get("float32")
    if on_gpu:
        yield "--device auto", on_gpu.device
        yield "--precision auto", "tf32" if "tf32" in taken else "float32"
        yield from describe_libraries("GPU", on_gpu)
    elif "cpu" in taken:
        yield "--device auto", f"{taken['cpu'].device}: {' '.join(failed) or reason}"
        yield "--precision auto", "float32"
    for name in CUDA_KERNEL_NAMES:
        yield f"GPU: own kernel {name}", describe_kernel(name, on_gpu.kernels if on_gpu else {})
    if "cpu" in taken:
        yield from describe_libraries("CPU", taken["cpu"])
        if "oneDNN" not in taken["cpu"].libraries:
            yield "CPU: oneDNN", "not used, so that convolutions are slow"


def describe_libraries(device, taken):
    """Yield (name, text) of the libraries that a step has used."""
    for name, text in taken.libraries.items():
        yield f"{device}: {name}", text


def describe_kernel(name, kernels):
    """The state of one of our own CUDA kernels.

    kernels: {name: "" or where it differs} of those that were compared on this card.
    """
    differs = kernels.get(name)
    if differs is None:
        return "not checked, not used"
    return f"differs, not used: {differs}" if differs else "trusted: agrees with Jittor's operators"


def conclude(findings, idle):
    """Print the verdict; returns the exit code.

    idle: why a GPU that is there is not used, or "".
    """
    unsound = [STEP_WAYS[finding.word].title for finding in findings if not finding.is_sound]
    unsound += [idle] if idle else []
    if unsound:
        print(f"\nNot sound: {'; '.join(unsound)}")
        return 1
    if any(STEP_WAYS[finding.word].device == "cuda" for finding in findings):
        print("\nSound: CPU and GPU agree")
    else:
        print("\nSound: on the CPU this project's operators and Jittor's agree; no GPU was checked")
    return 0
