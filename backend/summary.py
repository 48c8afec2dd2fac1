"""The layer table of a net.  Importing this module does not import Jittor."""
import math
import sys
from typing import NamedTuple

from backend import start

MEGABYTE = 1024 ** 2


class Layer(NamedTuple):
    """A row of the table."""
    name: str        # as in the state dict
    kind: str        # its class
    shape: list      # of its output
    parameters: int  # trainable numbers of its own


def count_parameters(model):
    """(trainable, all) numbers in a model's state.

    They differ by BatchNorm's running mean and variance.
    """
    state = model.state_dict()
    every = sum(var.numel() for var in state.values())
    statistics = sum(var.numel() for name, var in state.items() if _is_statistic(name))
    return every - statistics, every


def _is_statistic(name):
    return name.endswith(("running_mean", "running_var"))


def layer_rows(model, input_shape):
    """Run the model once on zeros (N, C, H, W): a list with the Layer of each leaf, as called."""
    from backend.operators import without_kernels
    rows = []

    def record(name):
        def hook(module, _inputs, output):
            own = sum(var.numel() for key, var in module.state_dict().items()
                      if not _is_statistic(key))
            rows.append(Layer(name, type(module).__name__, list(output.shape), own))
        return hook

    leaves = [(name, module) for name, module in model.named_modules()
              if not list(module.children())]
    for name, module in leaves:
        module.register_forward_hook(record(name))
    was_training = model.is_training()
    model.eval()
    try:
        with start.jt.no_grad(), without_kernels():  # a kernel takes several layers in one
            model(start.jt.zeros(input_shape)).sync()
    finally:
        for _, module in leaves:
            module.remove_forward_hook()
        if was_training:
            model.train()
    return rows


def print_summary(model, input_size, batch_size=1, file=None):
    """Print a row for each layer, then the number of parameters and the memory in MB (2^20 bytes).

    input_size: (C, H, W).  file: where to (standard output).  'Forward/backward' counts the output
    of each layer twice: its value and its gradient.
    """
    file = file or sys.stdout
    rows = layer_rows(model, (batch_size, *input_size))
    trainable, every = count_parameters(model)
    line, double_line = "-" * 96, "=" * 96
    heading = f"{'Layer':<36}{'Class':<16}{'Output shape':<26}{'Parameters':>16}"
    print(line, heading, double_line, sep="\n", file=file)
    for row in rows:
        print(f"{row.name:<36}{row.kind:<16}{str(row.shape):<26}{row.parameters:>16,}", file=file)
    input_mb = 4 * batch_size * math.prod(input_size) / MEGABYTE
    activations_mb = 2 * 4 * sum(math.prod(row.shape) for row in rows) / MEGABYTE
    parameters_mb = 4 * every / MEGABYTE
    print(double_line,
          f"Total parameters:             {every:,}",
          f"Trainable parameters:         {trainable:,}",
          f"BatchNorm running statistics: {every - trainable:,}",
          f"Input size:                   {input_mb:,.2f} MB",
          f"Forward/backward size:        {activations_mb:,.2f} MB",
          f"Parameters size:              {parameters_mb:,.2f} MB",
          f"Estimated total size:         {input_mb + activations_mb + parameters_mb:,.2f} MB",
          line, sep="\n", file=file)
