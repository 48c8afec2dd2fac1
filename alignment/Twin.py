"""The PyTorch twin as a side of the comparison: the methods of `Ours.Ours`."""
import torch
import TorchModel
from Ours import stage_names

from MirrorPadding import crop_logits


class Twin:
    """PyTorch, eager."""
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
        self.model.train()
        outputs = self.model(torch.from_numpy(batch.inputs))
        target = torch.from_numpy(batch.labels).long(), torch.from_numpy(batch.weights)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        size = batch.labels.shape[1:]
        return TorchModel.deep_supervision_loss([crop_logits(logits, *size) for logits in outputs], *target)

    def step(self, batch):
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def examine(self, batch):
        seen = {}
        hooks = [getattr(self.model, name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, output))
            for name in stage_names(self.model)]
        self.model.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        for hook in hooks:
            hook.remove()
        return ({name: output.detach().numpy() for name, output in seen.items()}, loss.item(),
                {name: parameter.grad.numpy().copy() for name, parameter in self.model.named_parameters()})

    def logits(self, inputs):
        self.model.eval()
        with torch.no_grad():
            outputs = self.model(torch.from_numpy(inputs))
            return (outputs[0] if isinstance(outputs, list) else outputs).numpy()
