"""The layer table of a Jittor net: `summary(model, (channels, height, width))`."""
import sys

import numpy as np

from backend.operators import without_kernels
from backend.start import jt

MEGABYTE = 1024 ** 2


def count_parameters(model):
    """(trainable, all) numbers in a model's state; the difference is BatchNorm's running mean and variance."""
    state = model.state_dict()
    every = sum(var.numel() for var in state.values())
    running = sum(var.numel() for name, var in state.items() if name.endswith(("running_mean", "running_var")))
    return every - running, every


def layer_rows(model, input_shape):
    """Run the model once on zeros: [(name, class, output shape, own parameters)] of its leaves, in call order."""
    rows = []

    def record(name):
        def hook(module, _inputs, output):
            own = sum(var.numel() for key, var in module.state_dict().items() if "running_" not in key)
            rows.append((name, type(module).__name__, list(output.shape), own))
        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    for name, module in leaves:
        module.register_forward_hook(record(name))
    was_training = model.is_training()
    model.eval()
    try:
        with jt.no_grad(), without_kernels():  # which take several layers in one
            model(jt.zeros(input_shape)).sync()
    finally:
        for _, module in leaves:
            module.remove_forward_hook()
        if was_training:
            model.train()
    return rows


def summary(model, input_size, batch_size=1, file=None):
    """Print a row per layer (name, class, output shape, parameters), then the totals and the memory in MB (2^20 bytes).

    input_size: (C, H, W).  'Forward/backward' counts every layer's output once for its value and once for its gradient.
    """
    file = file or sys.stdout
    rows = layer_rows(model, (batch_size, *input_size))
    trainable, every = count_parameters(model)
    line = "-" * 96
    print(line, f"{'Layer':<36}{'Class':<16}{'Output shape':<26}{'Parameters':>16}", "=" * 96, sep="\n", file=file)
    for name, kind, shape, own in rows:
        print(f"{name:<36}{kind:<16}{str(shape):<26}{own:>16,}", file=file)
    values = sum(float(np.prod(shape)) for _, _, shape, _ in rows)
    input_mb = 4 * batch_size * float(np.prod(input_size)) / MEGABYTE
    activations_mb, parameters_mb = 2 * 4 * values / MEGABYTE, 4 * every / MEGABYTE
    print("=" * 96,
          f"Total parameters:             {every:,}",
          f"Trainable parameters:         {trainable:,}",
          f"BatchNorm running statistics: {every - trainable:,}",
          f"Input size:                   {input_mb:,.2f} MB",
          f"Forward/backward size:        {activations_mb:,.2f} MB",
          f"Parameters size:              {parameters_mb:,.2f} MB",
          f"Estimated total size:         {input_mb + activations_mb + parameters_mb:,.2f} MB",
          line, sep="\n", file=file)
