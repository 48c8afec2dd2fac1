"""Start Jittor on the GPU and say what is there; the first start compiles.

    python benchmarks/GpuProbe.py

The last line of its output is JSON: {card, memory (bytes), driver, versions, kernels,
seconds}.
"""
import contextlib
import importlib.metadata
import json
import platform
import sys
import time

import Root  # noqa: F401 - puts the repository's root on the path

from backend import start
from backend.graphics_card import find_graphics_card
from command.errors import run
from command.flags import Parser

STAND_IN = "stand-in"  # the name of a card that computes nothing
VERSIONED = {"Jittor": "jittor", "NumPy": "numpy", "PyTorch": "torch"}


def build_parser():
    return Parser("Start Jittor on the GPU, and print what is there.")


def package_versions():
    """The versions of Python and of the VERSIONED that are installed: {name: text}."""
    found = {"Python": platform.python_version()}
    for name, package in VERSIONED.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(package)
    return found


def probe():
    """What is there, a dict; Jittor starts on the GPU for it."""
    started = time.perf_counter()
    jt = start.import_jittor("cuda")
    computes = bool(((jt.array([1.0, 2.0]) * 3).numpy() == [3, 6]).all())
    card = find_graphics_card()
    versions = {**package_versions(), "CUDA": ".".join(map(str, jt.compiler.nvcc_version or ()))}
    return {"card": card.name if computes else STAND_IN, "memory": card.memory,
            "driver": card.driver or "of unknown version", "versions": versions,
            "kernels": sorted(start.trusted_kernels()), "seconds": time.perf_counter() - started}


def main():
    build_parser().parse_args()
    print(json.dumps(probe()))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
