"""The two sides of the comparison: `Ours.Ours` is Jittor, `Twin.Twin` is PyTorch.

Both have the same methods, so that whatever is done to one side is done to the other:

    arrays()        the state dict as {name: NumPy array}
    load(arrays)    puts such arrays into the net; names and shapes must be the net's own
    to_double()     changes to double precision, and returns the side; ours raises DataError on a
                    GPU
    step(batch)     makes one optimiser step, and returns the loss, a float
    examine(batch)  returns the Examined of one batch in training mode; it changes BatchNorm's
                    running statistics, and nothing else
    logits(inputs)  returns the logits in eval mode; (N, C, h, w) -> (N, K, h', w') arrays

A batch is a DataLoader.Batch.
"""
from typing import NamedTuple


class Examined(NamedTuple):
    """What a side makes of one batch in training mode."""
    activations: dict  # {part of the net: array}, in the order of the net's definition
    loss: float
    gradients: dict    # {parameter: array}


class Sides(NamedTuple):
    """Three nets that begin with the same weights, or something of each of the three."""
    ours: object
    twin: object
    other: object  # another twin; its weights may be changed in the last bit


def stage_names(model):
    """The parts of a net whose outputs are compared.

    These are the parts that have weights, in the order of the net's definition.
    """
    return list(dict.fromkeys(name.split(".")[0] for name in model.state_dict()))


def recording_hook(outputs, name):
    """A forward hook that puts the output of a part of the net into the dict `outputs`."""
    def record(_module, _inputs, output):
        outputs[name] = output
    return record
