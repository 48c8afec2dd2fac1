"""State on disk: safetensors with a JSON header, written atomically, read strictly.

A checkpoint is the net's state dict and a header, which says everything else that using it takes:
mode, channels, classes, the net's options, the training set's mean and std, the tiling, the epoch
and its scores.  Weights from elsewhere are safetensors without that header, or PyTorch's state
dicts.  Nothing in any of these files is ever executed.
"""
import json
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from command.errors import DataError
from command.files import atomic_write, parse_json
from nets import torch_format
from nets.others_names import NamedTensors, plain_names

FORMAT = "unet-jittor 1"
OPTIMIZER = "optimizer."  # begins the names of the optimiser's moments, which --resume needs
AVERAGE = "average."  # begins the names of the averages of the weights, which a net predicts with


# ---------------------------------------------------------------------------------------- on disk
def save(path, weights, header):
    """Write `weights` ({name: array}) and `header` (a dict that JSON can hold) to `path`.

    An older file of that name stays until the new one is complete.  Raises DataError where the
    disk does not take it.
    """
    weights = {name: np.asarray(array, order="C") for name, array in weights.items()}
    metadata = {"format": FORMAT, "header": json.dumps(header, allow_nan=False)}
    try:
        with atomic_write(path) as temporary:
            # not safetensors' save_file: it has hidden files of its own, which a kill leaves behind
            temporary.write_bytes(serialise(weights, metadata))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); free some space, "
                        "or choose another folder") from None


def load(path):
    """Read a checkpoint: ({name: array}, header).

    Raises DataError for anything that is not one of ours.
    """
    weights, header = _read_safetensors(_check_file(path))
    if header is None:
        raise DataError(f"{path}: not a checkpoint of this project "
                        f"(its header does not say {FORMAT!r})")
    return weights, header


def read_weights(path):
    """Read weights, ours or others': ({name: array}, header); header: None for others'.

    Ours are the averages, where the file has averages beside the weights.
    Others' are safetensors, or PyTorch's `.pth` of its zip format or of the older one.  Their
    content tells them apart.  Their names come as others_names.plain_names gives them.  Raises
    DataError for any other file.
    """
    path = _check_file(path)
    if torch_format.is_torch(path):
        return plain_names(torch_format.read_state_dict(path), path), None
    weights, header = _read_safetensors(path)
    if header is None:
        return plain_names(NamedTensors((), weights), path), None
    averages = {name.removeprefix(AVERAGE): array for name, array in weights.items()
                if name.startswith(AVERAGE)}
    return averages or {name: array for name, array in weights.items()
                        if not name.startswith(OPTIMIZER)}, header


def _check_file(path):
    """The path of a file that exists and may be read; DataError for any other."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: may not be read; check its permissions")
    return path


def _read_safetensors(path):
    """({name: array}, header); header: None where the file is not one of ours.

    Raises DataError where it cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, header = file.metadata() or {}, None
            if metadata.get("format") == FORMAT:
                header = parse_json(metadata["header"])
                if not isinstance(header, dict):
                    raise ValueError("its header is no JSON object")
            return {name: file.get_tensor(name) for name in file.keys()}, header
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable safetensors checkpoint ({error}); "
                        "choose another") from None
    except (TypeError, AttributeError) as error:  # bfloat16, float8
        raise DataError(f"{path}: values of a type that NumPy lacks ({error}); "
                        "save them as float32") from None


# ------------------------------------------------------------------------------------- in a model
def read_vars(state):
    """A copy of the values of {name: Var} on the host, {name: array}.

    `numpy()` moves a Var to the host, and the next step would move it back.  So what it moves is
    a second Var that shares the first one's memory.
    """
    return {name: var.detach().numpy() for name, var in state.items()}


def state_arrays(model):
    """A copy of the model's state dict, {name: array}."""
    return read_vars(model.state_dict())


def load_weights(model, path):
    """Load the weights of any file that `read_weights` reads into `model`; returns its header.

    The header is None for others' files.  Raises DataError where a name is missing, unexpected or
    wrongly shaped: it lists all of them, and nothing is loaded.
    """
    weights, header = read_weights(path)
    assign_weights(model, weights, path)
    return header


def assign_weights(model, weights, source):
    """Put `weights` ({name: array}) into `model`, all or none, as `assign` does."""
    assign(model.state_dict(), weights, source)


def assign(state, arrays, source):
    """Put `arrays` ({name: array}) into `state` ({name: Var}), all or none.

    Raises DataError, which begins with `source`, where a name is missing, unexpected or wrongly
    shaped: it lists all of them.
    """
    wrong = [f"missing {name}" for name in state if name not in arrays]
    wrong += [f"unexpected {name if name.isprintable() else ascii(name)}"
              for name in arrays if name not in state]
    for name, var in state.items():
        if name in arrays and list(arrays[name].shape) != list(var.shape):
            wrong.append(f"{name} has shape {list(arrays[name].shape)}, "
                         f"the net wants {list(var.shape)}")
    if wrong:
        raise DataError(f"{source}: not the weights of this net: {'; '.join(wrong)}")
    for name, var in state.items():
        var.assign(arrays[name].astype(np.float32))
