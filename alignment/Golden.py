"""Golden numbers: what the PyTorch twin computes, kept in tests/golden, so that the tests need no PyTorch.

    python alignment/Golden.py              # computes them anew

Weights, inputs, labels and weight maps come from formulas (seeded NumPy generators), so only results are stored: those
in double precision, and beside each how far PyTorch's own single precision is from it.
"""
import sys
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from command.errors import run
from command.files import atomic_write
from command.flags import Parser
from DataLoader import Batch

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"
STEPS = 3
LEARNING_RATE = 1e-3
# name: (mode, channels, classes, options, side of the input, side of the label)
CASES = {
    "unet_bilinear": ("Unet", 1, 2, {"base_channels": 4}, 252, 66),
    "unet_transposed": ("Unet", 3, 3, {"base_channels": 4, "bilinear": False}, 252, 68),
    "unet_padded": ("Unet", 3, 2, {"base_channels": 4, "padding": 1, "conv_bias": False, "align_corners": True}, 64, 61),
    "u2nets": ("U2netS", 3, 2, {"side_outputs": True}, 160, 150),
    "u2nets_corners": ("U2netS", 1, 2, {"side_outputs": True, "align_corners": True}, 130, 130),
}


def formula_weights(shapes, seed=0):
    """A state dict from a formula alone, the same on every machine: {name: float32 array} for {name: shape}.

    Weights are Gaussian with std sqrt(2 / fan_in); scales and variances uniform in [0.5, 1.5]; biases and means N(0, 0.1),
    but BatchNorm's biases N(1, 0.1): then most ReLUs are open, and rounding turns few of them over.
    """
    arrays = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if len(shape) > 1:
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith(("bias", "running_mean")):
            values = rng.normal(name.endswith("bias") and f"{name[:-len('bias')]}running_var" in shapes, 0.1, shape)
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


def results(side, batch):
    """What is compared of a side: {name: array}; the gradients by norm and by their first eight values."""
    activations, loss, gradients = side.examine(batch)
    found = {f"activation {name}": np.array([array.mean(), array.std(), array.min(), array.max()])
             for name, array in activations.items()}
    found = found | {f"gradient {name}": np.array([np.linalg.norm(array), *array.ravel()[:8]])
                     for name, array in gradients.items()}
    found["loss"] = np.array([loss])
    found = found | {f"statistic {name}": array for name, array in side.arrays().items() if "running_" in name}
    found["logits"] = side.logits(batch.inputs)[:1]
    found["steps"] = np.array([side.step(batch) for _ in range(STEPS)])  # last: Adam makes steps of rounding, too
    return found


def main():
    Parser("Compute the golden numbers of the tests with the PyTorch twin.").parse_args()
    from Twin import Twin
    for name, (mode, channels, classes, options, side, label_side) in CASES.items():
        batch, found = formula_batch(channels, classes, side, label_side), []
        for dtype in (np.float64, np.float32):
            twin = Twin(mode, channels, classes, options, LEARNING_RATE)
            twin.load(formula_weights({key: array.shape for key, array in twin.arrays().items()}))
            if dtype is np.float64:
                twin.to_double()
            found.append(results(twin, batch._replace(inputs=batch.inputs.astype(dtype),
                                                      weights=batch.weights.astype(dtype))))
        exact, single = found
        errors = {f"error of {key}": np.abs(single[key] - exact[key]).max() for key in exact}
        with atomic_write(FOLDER / f"{name}.npz") as temporary:
            np.savez_compressed(temporary, **{key: np.float32(array) for key, array in {**exact, **errors}.items()})
        print(f"{FOLDER / name}.npz: {(FOLDER / name).with_suffix('.npz').stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    sys.exit(run(main))
