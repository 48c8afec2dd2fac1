"""Ours as a side of the comparison; `Twin.py` has the same methods, so that whatever is done to one is done to the other.

A side has `arrays()` and `load(arrays)` (its state dict as NumPy arrays), `to_double()` (double precision from here on),
`step(batch)` (one optimiser step: the loss), `examine(batch)` (activations, loss and gradients of one batch in training
mode; nothing changes but BatchNorm's running statistics) and `logits(inputs)` (eval mode).  A batch is a DataLoader.Batch.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.optimizers import build_optimizer
from backend.start import jt
from Model import build_model
from nets.checkpoint import assign_weights, state_arrays
from Process import as_var, batch_loss


def stage_names(model):
    """The parts of a net whose outputs are compared: whatever has weights, in the order of its definition."""
    return list(dict.fromkeys(name.split(".")[0] for name in model.state_dict()))


class Ours:
    """Jittor."""
    name = "Jittor"

    def __init__(self, mode, n_channels, n_classes, options, learning_rate=1e-3, optimizer="adam", seed=0):
        jt.set_global_seed(seed)
        self.model = build_model(mode, n_channels, n_classes, **options)
        self.settings = optimizer, self.model, learning_rate
        self.optimizer = build_optimizer(*self.settings)

    def arrays(self):
        return state_arrays(self.model)

    def load(self, arrays):
        assign_weights(self.model, arrays, "the arrays")

    def to_double(self):
        self.model.float64()
        self.optimizer = build_optimizer(*self.settings)  # anew: its moments take the weights' type
        return self

    def step(self, batch):
        self.model.train()
        loss = batch_loss(self.model, batch)
        self.optimizer.zero_grad()
        self.optimizer.backward(loss)
        self.optimizer.step()
        jt.sync_all(True)
        return float(loss.item())

    def examine(self, batch):
        self.model.train()
        seen, stages = {}, stage_names(self.model)
        for name in stages:
            getattr(self.model, name).register_forward_hook(
                lambda _module, _inputs, output, name=name: seen.__setitem__(name, output))
        loss = batch_loss(self.model, batch)
        for name in stages:
            getattr(self.model, name).remove_forward_hook()
        named = {name: var for name, var in self.model.state_dict().items() if "running_" not in name}
        gradients = dict(zip(named, jt.grad(loss, list(named.values()))))
        return ({name: output.numpy() for name, output in seen.items()}, float(loss.item()),
                {name: gradient.numpy() for name, gradient in gradients.items()})

    def logits(self, inputs):
        self.model.eval()
        with jt.no_grad():
            outputs = self.model(as_var(inputs))
            return (outputs[0] if isinstance(outputs, list) else outputs).numpy()
