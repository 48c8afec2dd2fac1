"""Golden numbers: what the PyTorch twin computes.  The tests need no PyTorch, but these files.

    python alignment/Golden.py              # computes tests/golden/*.npz anew

Weights, inputs, labels and weight maps come from formulas (seeded NumPy generators), so only the
results are stored.  They are computed in double precision.  Beside each stands its error: how far
PyTorch's own single precision is from it.
"""
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import Root  # noqa: F401 - puts the repository's root on the path

from command.errors import run
from command.files import atomic_write
from command.flags import Parser
from DataLoader import Batch

GOLDEN_FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"
GOLDEN_STEPS = 3
GOLDEN_RATE = 1e-3


class GoldenCase(NamedTuple):
    """A net and the sizes of what it is given."""
    mode: str
    n_channels: int
    n_classes: int
    options: dict    # of build_model
    side: int        # px, of the input
    label_side: int  # px, of the label


GOLDEN_CASES = {
    "unet_bilinear": GoldenCase("Unet", 1, 2, {"base_channels": 4}, 252, 66),
    "unet_transposed": GoldenCase("Unet", 3, 3, {"base_channels": 4, "bilinear": False}, 252, 68),
    "unet_padded": GoldenCase(
        "Unet", 3, 2,
        {"base_channels": 4, "padding": 1, "conv_bias": False, "align_corners": True}, 64, 61),
    "u2nets": GoldenCase("U2netS", 3, 2, {"side_outputs": True}, 160, 150),
    "u2nets_corners": GoldenCase(
        "U2netS", 1, 2, {"side_outputs": True, "align_corners": True}, 130, 130),
}


def formula_weights(shapes, seed=0):
    """A state dict from a formula alone, the same on every machine.

    shapes: {name: shape}.  Returns {name: float32 array}.  Weights are Gaussian with a standard
    deviation of sqrt(2 / fan_in).  Scales and variances are uniform in [0.5, 1.5].  Biases and
    means are N(0, 0.1), but BatchNorm's biases are N(1, 0.1): then most ReLUs are open, and
    rounding switches few of them.
    """
    arrays = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if len(shape) > 1:
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith("bias") and f"{name.removesuffix('bias')}running_var" in shapes:
            values = rng.normal(1, 0.1, shape)
        elif name.endswith(("bias", "running_mean")):
            values = rng.normal(0, 0.1, shape)
        else:
            values = rng.uniform(0.5, 1.5, shape)
        arrays[name] = values.astype(np.float32)
    return arrays


def formula_batch(n_channels, n_classes, side, label_side, seed=1):
    """A Batch of two images: Gaussian pixels, random classes, weights uniform in [0.5, 10]."""
    rng = np.random.default_rng(seed)
    return Batch(rng.normal(size=(2, n_channels, side, side)).astype(np.float32),
                 rng.integers(0, n_classes, (2, label_side, label_side), np.int32),
                 rng.uniform(0.5, 10, (2, label_side, label_side)).astype(np.float32))


def golden_results(side, batch):
    """What is stored of a side, {name: array}.

    Of an activation these are its mean, standard deviation, minimum and maximum.  Of a gradient
    they are its norm and its first eight values.
    """
    examined, found = side.examine(batch), {}
    for name, array in examined.activations.items():
        found[f"activation {name}"] = np.array([array.mean(), array.std(), array.min(),
                                                array.max()])
    for name, array in examined.gradients.items():
        found[f"gradient {name}"] = np.array([np.linalg.norm(array), *array.ravel()[:8]])
    found["loss"] = np.array([examined.loss])
    for name, array in side.arrays().items():
        if "running_" in name:
            found[f"statistic {name}"] = array
    found["logits"] = side.logits(batch.inputs)[:1]
    # The steps come last: Adam makes whole steps of gradients that are rounding alone.
    found["steps"] = np.array([side.step(batch) for _ in range(GOLDEN_STEPS)])
    return found


def twin_results(case, dtype):
    """The `golden_results` of the PyTorch twin in one precision; dtype: np.float32 or float64."""
    from Twin import Twin
    batch = formula_batch(case.n_channels, case.n_classes, case.side, case.label_side)
    twin = Twin(case.mode, case.n_channels, case.n_classes, case.options, GOLDEN_RATE)
    twin.load(formula_weights({key: array.shape for key, array in twin.arrays().items()}))
    if dtype is np.float64:
        twin.to_double()
    return golden_results(twin, batch._replace(inputs=batch.inputs.astype(dtype),
                                               weights=batch.weights.astype(dtype)))


def build_parser():
    return Parser("Compute the golden numbers of the tests with the PyTorch twin.")


def main():
    build_parser().parse_args()
    for name, case in GOLDEN_CASES.items():
        exact, single = (twin_results(case, dtype) for dtype in (np.float64, np.float32))
        errors = {f"error of {key}": np.abs(single[key] - exact[key]).max() for key in exact}
        stored = {key: np.float32(array) for key, array in {**exact, **errors}.items()}
        path = GOLDEN_FOLDER / f"{name}.npz"
        with atomic_write(path) as temporary:
            np.savez_compressed(temporary, **stored)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    sys.exit(run(main))
