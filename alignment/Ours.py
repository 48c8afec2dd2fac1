"""Ours as a side of the comparison; `Twin.py` has the same methods, so that whatever is done to one is done to the other.

A side has `arrays()` and `load(arrays)` (its state dict as NumPy arrays), `step(batch)` (one optimiser step: the loss),
`examine(batch)` (activations, loss and gradients of one batch in training mode, nothing changed but BatchNorm's running
statistics) and `logits(inputs)` (eval mode).  A batch is a DataLoader.Batch.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import Loss  # noqa: E402
from Checkpoint import assign_weights, state_arrays  # noqa: E402
from MirrorPadding import crop_logits  # noqa: E402
from Model import build_model  # noqa: E402
from Process import build_optimizer  # noqa: E402
from Runtime import jt  # noqa: E402


def stage_names(model):
    """The parts of a net whose outputs are compared: whatever has weights, in the order of its definition."""
    return list(dict.fromkeys(name.split(".")[0] for name in model.state_dict()))


def canvas_loss(losses, outputs, labels, weights):
    """The loss of a net's outputs on the labels' canvas; losses: the module Loss, or TorchModel."""
    size = labels.shape[1:]
    if isinstance(outputs, list):
        return losses.deep_supervision_loss([crop_logits(logits, *size) for logits in outputs], labels, weights)
    return losses.weighted_cross_entropy(crop_logits(outputs, *size), labels, weights)


class Ours:
    """Jittor."""
    name = "Jittor"

    def __init__(self, mode, n_channels, n_classes, options, learning_rate=1e-3, optimizer="adam", seed=0):
        jt.set_global_seed(seed)
        self.model = build_model(mode, n_channels, n_classes, **options)
        self.optimizer = build_optimizer(optimizer, self.model, learning_rate)

    def arrays(self):
        return state_arrays(self.model)

    def load(self, arrays):
        assign_weights(self.model, arrays, "the arrays")

    def loss(self, batch):
        self.model.train()
        labels, weights = jt.array(batch.labels), jt.array(batch.weights)
        return canvas_loss(Loss, self.model(jt.array(batch.inputs)), labels, weights)

    def step(self, batch):
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        self.optimizer.backward(loss)
        self.optimizer.step()
        jt.sync_all(True)
        return float(loss.item())

    def examine(self, batch):
        seen, stages = {}, stage_names(self.model)
        for name in stages:
            getattr(self.model, name).register_forward_hook(
                lambda _module, _inputs, output, name=name: seen.__setitem__(name, output))
        loss = self.loss(batch)
        for name in stages:
            getattr(self.model, name).remove_forward_hook()
        named = {name: var for name, var in self.model.state_dict().items() if "running_" not in name}
        gradients = dict(zip(named, jt.grad(loss, list(named.values()))))
        return ({name: output.numpy() for name, output in seen.items()}, float(loss.item()),
                {name: gradient.numpy() for name, gradient in gradients.items()})

    def logits(self, inputs):
        self.model.eval()
        with jt.no_grad():
            outputs = self.model(jt.array(inputs))
            return (outputs[0] if isinstance(outputs, list) else outputs).numpy()
