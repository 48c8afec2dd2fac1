"""Ours against numbers that PyTorch computed: aligned without PyTorch.

alignment/Golden.py made the files in tests/golden.
"""
import numpy as np
import pytest
from Golden import (
    GOLDEN_CASES,
    GOLDEN_FOLDER,
    GOLDEN_RATE,
    formula_batch,
    formula_weights,
    golden_results,
)

pytestmark = pytest.mark.jittor
WANTED = {"activation": 1e-4, "gradient": 1e-3, "loss": 1e-5, "steps": 1e-3, "statistic": 1e-3,
          "logits": 1e-3}
# Times PyTorch's own distance, single from double precision: what rounding makes of unstable
# numbers.
OWN_ERROR = 30
# Times the wanted distance: of one gradient of a net, next to which rounding switched a ReLU or a
# pool.
SWITCHED = 4


def scale(kind, expected):
    """What an error is relative to."""
    if kind == "activation":
        return expected[3] - expected[2]  # its range
    return expected[0] if kind == "gradient" else np.abs(expected).max()  # the gradient's norm


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_the_numbers_are_pytorchs(name):
    from Ours import Ours
    case = GOLDEN_CASES[name]
    ours = Ours(case.mode, case.n_channels, case.n_classes, case.options, GOLDEN_RATE)
    ours.load(formula_weights({key: array.shape for key, array in ours.arrays().items()}))
    batch = formula_batch(case.n_channels, case.n_classes, case.side, case.label_side)
    found = golden_results(ours, batch)
    with np.load(GOLDEN_FOLDER / f"{name}.npz") as file:
        golden = dict(file)
    assert {*found, *(f"error of {key}" for key in found)} == golden.keys()
    largest = max(np.abs(array[1:]).max() for key, array in golden.items()
                  if key.startswith("gradient"))
    switched = []
    for key, array in found.items():
        kind = key.split()[0]
        allowed = max(WANTED[kind] * scale(kind, golden[key]),
                      OWN_ERROR * golden[f"error of {key}"])
        if kind == "gradient":
            # Biases before a BatchNorm have gradient 0 by mathematics: what is left is rounding.
            allowed = max(allowed, 1e-5 * largest)
        distance = np.abs(array - golden[key]).max()
        if kind == "gradient" and allowed < distance <= SWITCHED * allowed:
            switched.append(key)
        else:
            assert distance <= allowed, key
    assert len(switched) <= 1, switched
