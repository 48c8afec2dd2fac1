"""The PyTorch twin as a side of the comparison; `Sides.py` says what a side has."""
import torch
import TorchModel
from Sides import Examined, recording_hook, stage_names

from MirrorPadding import crop_logits


class Twin:
    """A net of TorchModel.py with an optimiser, run eagerly."""
    name = "PyTorch"

    def __init__(self, mode, n_channels, n_classes, options, learning_rate=1e-3, optimizer="adam"):
        self.model = TorchModel.build_model(mode, n_channels, n_classes, **options)
        self.optimizer = TorchModel.build_optimizer(optimizer, self.model, learning_rate)

    def arrays(self):
        return TorchModel.state_arrays(self.model)

    def load(self, arrays):
        TorchModel.load_arrays(self.model, arrays)

    def to_double(self):
        self.model.double()
        return self

    def loss(self, batch):
        """The loss of a batch in training mode, a scalar tensor."""
        self.model.train()
        outputs = self.model(torch.from_numpy(batch.inputs))
        outputs = outputs if isinstance(outputs, list) else [outputs]
        height, width = batch.labels.shape[1:]
        return TorchModel.deep_supervision_loss(
            [crop_logits(logits, height, width) for logits in outputs],
            torch.from_numpy(batch.labels).long(), torch.from_numpy(batch.weights))

    def step(self, batch):
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def examine(self, batch):
        outputs = {}
        hooks = [getattr(self.model, name).register_forward_hook(recording_hook(outputs, name))
                 for name in stage_names(self.model)]
        self.model.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        for hook in hooks:
            hook.remove()
        return Examined({name: output.detach().numpy() for name, output in outputs.items()},
                        loss.item(),
                        {name: parameter.grad.numpy().copy()
                         for name, parameter in self.model.named_parameters()})

    def logits(self, inputs):
        self.model.eval()
        with torch.no_grad():
            outputs = self.model(torch.from_numpy(inputs))
            return (outputs[0] if isinstance(outputs, list) else outputs).numpy()
