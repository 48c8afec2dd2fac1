"""Whether CUDA works here: proved before this process depends on it, and remembered.

Two steps, each in a process of its own, since a failure may end that process:
1. `backend.cuda_program`: a small program is compiled, linked and loaded (seconds).
2. `backend.cuda_trial`: Jittor is imported, a convolution is compared with the CPU's, and our own
   CUDA kernels with Jittor's operators (minutes, for the first import compiles).
The result is a JSON file in Jittor's cache.  Its name is a digest of all that it depends on.
"""
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from backend.cuda_home import build_home
from backend.cuda_program import compile_program
from backend.cuda_toolkit import cuda_name, find_toolkits, this_machine
from backend.raw_import import (CUDA_FILES, RERUN, counted_files, first_cause, is_compiled,
                                jittor_cache)
from command.files import atomic_write
from command.hardware import ask_driver

SILENCE = 900  # seconds in which a trial that lives writes a file: a compilation takes less
ROOM = Path(__file__).parent
OF_KERNELS = ("kernels/cuda/*", "cuda_operators.py", "cuda_updates.py", "kernel_check.py")


class Proof(NamedTuple):
    """What is known of a CUDA home on this machine."""
    home: Path
    cause: str     # why CUDA does not work, and what to do; "" where it does
    kernels: dict  # {name of an own kernel: "" or where it differs}


def prove(toolkits, driver, again):
    """The Proof of the first Toolkit that works; where none does, that of the first.

    again: whether a failure that is remembered is tried once more.
    """
    proofs = []
    for toolkit in toolkits:
        proofs.append(_prove(toolkit, driver, again))
        if not proofs[-1].cause:
            return proofs[-1]
    return proofs[0]


def _prove(toolkit, driver, again):
    home = build_home(toolkit, _folder())
    path = _path(home, driver)
    with open(_folder() / "proof.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another process tries CUDA. This one waits for it.", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        known = _read(path, home)
        if known and not known.cause:
            return known
        if known and not again:
            return known._replace(cause=f"{known.cause} (--device cuda tries again)")
        cause = compile_program(home, toolkit, driver)
        if cause:  # not remembered: it takes seconds, and a compiler may be installed meanwhile
            return Proof(home, cause, {})
        trial = run_trial(home, path.with_suffix(".log"))
        _write(path, trial, toolkit, driver)
    return Proof(home, trial.cause, trial.kernels)


def store_proof(kernels, cause=""):
    """Remember a proof that nobody made, for the toolkit that is used here.

    For a stand-in device, which computes nothing.  kernels: {name: "" or where it differs}.
    """
    driver = ask_driver().driver
    toolkit = find_toolkits(this_machine(), driver).toolkits[0]
    home = build_home(toolkit, _folder())
    _write(_path(home, driver), Proof(home, cause, kernels), toolkit, driver)


@functools.cache
def known_kernels(home):
    """{name: "" or where it differs} of the own kernels compared on this card, read once."""
    known = _read(_path(home, ask_driver().driver), home)
    return known.kernels if known else {}


# ------------------------------------------------------------------------------------ what is known
def _folder():
    return this_machine().cache / "unet-cuda"


def _path(home, driver):
    """The file of the proof of a home; its name changes with whatever may change the result."""
    from importlib import metadata  # 0.08 s, for whom there is a GPU
    kernels = hashlib.sha256()
    for path in sorted(path for pattern in OF_KERNELS for path in ROOM.glob(pattern)):
        kernels.update(path.name.encode() + path.read_bytes())
    key = [home.name, driver, metadata.version("jittor"), platform.python_version(),
           shutil.which(os.environ.get("cc_path") or "g++"), kernels.hexdigest()]
    return home.parent / f"proof-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}.json"


def _read(path, home):
    """The Proof in a file, or None."""
    try:
        stored = json.loads(path.read_text("utf-8"))
        return Proof(home, stored["cause"], stored["kernels"])
    except (OSError, ValueError, KeyError):
        return None


def _write(path, result, toolkit, driver):
    content = {"cause": result.cause, "kernels": result.kernels, "nvcc": str(toolkit.nvcc),
               "cuda": cuda_name(toolkit.version), "cudnn": toolkit.cudnn,
               "driver": cuda_name(driver.version), "cards": [card.name for card in driver.cards]}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


# --------------------------------------------------------------------------------------- the trial
class Outcome(NamedTuple):
    """How a trial ended."""
    cause: str     # why CUDA does not work, and where to read more; "" where it does
    kernels: dict | None  # {name of an own kernel: "" or where it differs}


def run_trial(home, log, program=("-m", "backend.cuda_trial"), silence=SILENCE):
    """The Outcome of a trial of a CUDA home.  All that it prints goes into the file `log`.

    One that dies or hangs is made once more, with one compiling thread: Jittor's race, and were
    seen to crash.  What they have compiled by then is kept.
    program: Python's flags that start it.
    """
    print("Trying CUDA, once on this machine: Jittor and our kernels are compiled and compared "
          "with the CPU. This takes some minutes.", file=sys.stderr, flush=True)
    result, cache = log.with_suffix(".part"), jittor_cache()
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("OMPI_", "PMIX_", RERUN))}
    bar = contextlib.nullcontext() if is_compiled(cache, True) else counted_files(
        cache, CUDA_FILES)
    with open(log, "w") as file, bar:
        for threads in ({}, {"use_parallel_op_compiler": "1"}):
            result.unlink(missing_ok=True)
            process = subprocess.Popen(
                [sys.executable, *program, str(home), str(result)], cwd=ROOM.parent,
                env={**environment, "use_mpi": "0", **threads}, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True)
            ended = _wait(process, cache, silence)
            if process.returncode == 0:
                break
    said = _read_outcome(result)
    if said and said.kernels is None and not said.cause:  # Jittor and its convolution are sound
        said = Outcome("", {"all": f"their check ended by {ended}; its log is {log}"})
    if not said:
        cause = first_cause(log.read_text(errors="replace"), or_first=False)
        said = Outcome(f"{cause} ({ended})" if cause else ended, None)
    if said.cause:
        return Outcome(f"CUDA's trial failed: {said.cause}; its log is {log}", {})
    return said


def _wait(process, cache, silence):
    """Wait for a trial, end one that hangs, and say how it ended."""
    started = time.time()
    try:
        while process.poll() is None:
            time.sleep(0.1)
            if time.time() - max(started, *_times(cache)) > silence:
                return f"no sign of life for {silence:.0f} seconds"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its compilers too
            process.wait()
    code = process.returncode
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _times(cache):
    """When the last file was made in each folder into which Jittor compiles for CUDA."""
    return [0, *(path.stat().st_mtime for path in cache.glob("cu*/*/"))]


def _read_outcome(path):
    """The Outcome that a trial has written so far, or None."""
    try:
        return Outcome(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError):
        return None
    finally:
        path.unlink(missing_ok=True)
