"""The names in others' weights: without what training scripts put around them.

A script saves a net's state dict inside other dicts, as {"net": ...}.  A wrapper of a net begins
every name with a word of its own: DataParallel's `module.`, torch.compile's `_orig_mod.`,
Lightning's `model.` or `net.`.
"""
from typing import NamedTuple

from command.errors import say_once
from nets.recognise import recognise_net

# Keys under which a state dict lies, the likeliest first.
WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "net", "net_state_dict",
            "net_state", "network", "network_state_dict", "network_weights", "weights",
            "model_weights", "params", "module", "unet", "generator", "ema_state_dict",
            "model_ema", "params_ema", "ema")
COUNTERS = ("num_batches_tracked", "n_averaged")  # BatchNorm's and AveragedModel's: no weights


class NamedTensors(NamedTuple):
    """A state dict, and where in its file it lies."""
    keys: tuple    # of the dicts around it, the outermost first
    tensors: dict  # {name: tensor}


def unwrap(state, kind):
    """The NamedTensors in a dict: what lies under one of WRAPPERS, or else the dict itself.

    What is not of this `kind` of tensor is left out (milesial's mask_values).
    """
    seen = set()  # a dict of a damaged file may lie in itself

    def search(inner):
        seen.add(id(inner))
        for key in WRAPPERS:
            value = inner.get(key)
            if isinstance(value, dict) and id(value) not in seen:
                found = search(value)
                if found.tensors:
                    return NamedTensors((key, *found.keys), found.tensors)
        return NamedTensors((), {name: value for name, value in inner.items()
                                 if isinstance(name, str) and isinstance(value, kind)})
    return search(state)


def plain_names(found, source):
    """{name: array} of a NamedTensors of arrays, as the net itself names them; without COUNTERS.

    A word that begins all names is taken off, and the next one, until they are those of a net that
    the project knows.  A line says what was taken off; source: the file, for that line.
    """
    weights = {name: array for name, array in found.tensors.items()
               if name.split(".")[-1] not in COUNTERS}
    prefix = ""
    while not recognise_net(weights):
        words = {name.partition(".")[0] for name in weights}
        if len(words) != 1 or not all(name.partition(".")[2] for name in weights):
            break
        prefix += words.pop() + "."
        weights = {name.partition(".")[2]: array for name, array in weights.items()}
    said = []
    if found.keys:
        said.append("the weights lie under " + " > ".join(f'"{key}"' for key in found.keys))
    if prefix:
        said.append(f"{prefix[:100]!a} is taken off their names")
    if said:
        say_once(f"{source}: {' and '.join(said)}")
    return weights
