"""Jittor as a side of the comparison; `Sides.py` says what a side has."""
from Sides import Examined, recording_hook, stage_names

from backend.operators import leave
from backend.optimizers import build_optimizer
from backend.start import jt
from command.errors import DataError
from Loss import weighted_cross_entropy
from MirrorPadding import Whole
from Model import build_model
from nets.checkpoint import assign_weights, state_arrays
from Process import as_var, batch_loss


def refuse_gpu():
    """Raise DataError on a GPU: a float64 convolution of Jittor's would end the process there."""
    if jt.flags.use_cuda:
        raise DataError("double precision: Jittor has no convolutions in float64 on a GPU; "
                        "--device cpu has")


class Ours:
    """A net of Model.py with an optimiser; the seed is that of its initial weights."""
    name = "Jittor"

    def __init__(self, mode, n_channels, n_classes, options, learning_rate=1e-3, optimizer="adam",
                 seed=0):
        jt.set_global_seed(seed)
        self.model = build_model(mode, n_channels, n_classes, **options)
        self.optimizer_name, self.learning_rate = optimizer, learning_rate
        self.optimizer = self._build_optimizer()

    def _build_optimizer(self):
        return build_optimizer(self.optimizer_name, self.model, self.learning_rate)

    def arrays(self):
        return state_arrays(self.model)

    def load(self, arrays):
        assign_weights(self.model, arrays, "the arrays")

    def to_double(self):
        refuse_gpu()
        self.model.float64()
        self.optimizer = self._build_optimizer()  # a new one, whose moments have the weights' type
        return self

    def loss(self, batch):
        """The loss of a batch in training mode, a scalar Var."""
        self.model.train()
        return batch_loss(self.model, batch, Whole(), weighted_cross_entropy)

    def step(self, batch):
        loss = self.loss(batch)
        self.optimizer.step(loss)
        jt.sync_all(True)
        return float(loss.item())

    def examine(self, batch):
        outputs, stages = {}, stage_names(self.model)
        for name in stages:
            getattr(self.model, name).register_forward_hook(recording_hook(outputs, name))
        loss = self.loss(batch)
        for name in stages:
            getattr(self.model, name).remove_forward_hook()
        parameters = {name: var for name, var in self.model.state_dict().items()
                      if "running_" not in name}
        gradients = dict(zip(parameters, jt.grad(loss, list(parameters.values()))))
        return Examined({name: leave(output).numpy() for name, output in outputs.items()},
                        float(loss.item()),
                        {name: gradient.numpy() for name, gradient in gradients.items()})

    def logits(self, inputs):
        self.model.eval()
        with jt.no_grad():
            outputs = self.model(as_var(inputs))
            return (outputs[0] if isinstance(outputs, list) else outputs).numpy()
