"""Ours against numbers that PyTorch computed (tests/golden, made by alignment/Golden.py): aligned without PyTorch."""
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "alignment"))

from Golden import CASES, FOLDER, LEARNING_RATE, formula_batch, formula_weights, results  # noqa: E402

pytestmark = pytest.mark.jittor
WANTED = {"activation": 1e-4, "gradient": 1e-3, "loss": 1e-5, "steps": 1e-3, "statistic": 1e-3, "logits": 1e-3}
OWN_ERROR = 30  # times PyTorch's own distance, single from double precision: what rounding makes of unstable numbers


def scale(kind, expected):
    """What an error is relative to."""
    if kind == "activation":
        return expected[3] - expected[2]  # its range
    return expected[0] if kind == "gradient" else np.abs(expected).max()  # the gradient's norm


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_pytorchs(name):
    from Ours import Ours
    mode, channels, classes, options, side, label_side = CASES[name]
    ours = Ours(mode, channels, classes, options, LEARNING_RATE)
    ours.load(formula_weights({key: array.shape for key, array in ours.arrays().items()}))
    found = results(ours, formula_batch(channels, classes, side, label_side))
    with np.load(FOLDER / f"{name}.npz") as file:
        golden = dict(file)
    assert {*found, *(f"error of {key}" for key in found)} == golden.keys()
    largest = max(np.abs(array[1:]).max() for key, array in golden.items() if key.startswith("gradient"))
    for key, array in found.items():
        kind = key.split()[0]
        allowed = max(WANTED[kind] * scale(kind, golden[key]), OWN_ERROR * golden[f"error of {key}"])
        if kind == "gradient":  # biases before a BatchNorm have gradient 0 by mathematics: what is left is rounding
            allowed = max(allowed, 1e-5 * largest)
        assert np.abs(array - golden[key]).max() <= allowed, key
