"""State on disk: safetensors with a JSON header, written atomically, read strictly.

A checkpoint is the net's state dict plus a header that says everything else needed to use it: mode, channels, classes,
the net's options, the training set's mean and std, the tiling, the epoch and its scores.  Nothing in it is ever executed.
"""
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from Common import DataError, atomic_write

FORMAT = "unet-jittor 1"


def save(path, weights, header):
    """Write `weights` ({name: array}) and `header` (a JSON-able dict) to `path`; the file before it stays until then."""
    weights = {name: np.asarray(array, order="C") for name, array in weights.items()}
    with atomic_write(path) as temporary:
        save_file(weights, temporary, metadata={"format": FORMAT, "header": json.dumps(header, allow_nan=False)})


def load(path):
    """Read a checkpoint: ({name: array}, header).  Raises DataError for anything that is not one of ours."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise DataError(f"{path}: not a checkpoint of this project (its header does not say {FORMAT!r})")
            header = json.loads(metadata["header"])
            if not isinstance(header, dict):
                raise ValueError("its header is no JSON object")
            return {name: file.get_tensor(name) for name in file.keys()}, header
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable safetensors checkpoint ({error})") from None


def state_arrays(model):
    """A copy of the model's state dict as NumPy arrays."""
    return {name: var.numpy().copy() for name, var in model.state_dict().items()}


def load_weights(model, path):
    """Load a checkpoint's weights into `model` and return its header.

    Strict: raises DataError listing every missing, unexpected and wrongly shaped name, and then loads nothing.
    """
    weights, header = load(path)
    assign_weights(model, weights, path)
    return header


def assign_weights(model, weights, source):
    """Put `weights` ({name: array}) into `model`, strictly; `source` names them in the DataError."""
    state = model.state_dict()
    wrong = [f"missing {name}" for name in state if name not in weights]
    wrong += [f"unexpected {name}" for name in weights if name not in state]
    wrong += [f"{name} has shape {list(weights[name].shape)}, the net wants {list(var.shape)}"
              for name, var in state.items() if name in weights and list(weights[name].shape) != list(var.shape)]
    if wrong:
        raise DataError(f"{source}: not the weights of this net: {'; '.join(wrong)}")
    for name, var in state.items():
        var.assign(weights[name].astype(np.float32))
