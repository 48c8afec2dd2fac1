"""A trial of Jittor on CUDA, in a process that may die: `python -m backend.cuda_trial HOME RESULT`.

`backend.cuda_proof` starts it and judges how it ended.  It writes what it knows so far into the
JSON file RESULT: {"cause": why CUDA does not work or "", "kernels": null before their check}.
"""
import json
import os
import sys
import traceback
from pathlib import Path

import numpy as np

from backend import start
from backend.preparation import prepare_environment
from backend.raw_import import first_cause
from command.files import atomic_write

TOLERANCE = 1e-3  # of a convolution and its gradients, relative to the largest value, in float32


def _report(path, cause, kernels):
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"cause": cause, "kernels": kernels}), "utf-8")


def _convolution(jt, device):
    """A convolution's output and its gradients on a device (0: CPU, 1: GPU), as arrays."""
    draw = np.random.default_rng(1)
    with jt.flag_scope(use_cuda=device):
        x = jt.array(draw.normal(size=(2, 3, 17, 19)).astype(np.float32))
        weight = jt.array(draw.normal(size=(5, 3, 3, 3)).astype(np.float32))
        y = jt.nn.conv2d(x, weight, padding=1)
        return [y.numpy(), *(part.numpy() for part in jt.grad((y * y).sum(), [x, weight]))]


def try_jittor(home):
    """Import Jittor with a CUDA home and compute a convolution: "", or how it goes wrong."""
    prepare_environment()
    jt = start.import_with(home, exact=True)
    here, there = _convolution(jt, 1), _convolution(jt, 0)
    names = ("a convolution", "its gradient", "the gradient of its weights")
    for name, ours, right in zip(names, here, there):
        error = abs(ours - right).max() / abs(right).max()
        if not error < TOLERANCE:
            return f"{name} differs from the CPU's by {error:.2g} of its largest value"
    return ""


def _in_words(error):
    return first_cause(str(error)) or type(error).__name__


def main():
    home, result = map(Path, sys.argv[1:])
    try:
        cause = try_jittor(home)
    except Exception as error:  # noqa: BLE001 - whatever Jittor raises
        traceback.print_exc()
        cause = _in_words(error)
    _report(result, cause, None)
    if not cause:
        try:
            from backend.kernel_check import check_kernels  # which uses the Jittor of this home
            kernels = check_kernels()
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            kernels = {"all": _in_words(error)}
        _report(result, "", kernels)
    sys.stdout.flush()
    os._exit(0)  # after a failed import the end of the process would abort it


if __name__ == "__main__":
    main()
