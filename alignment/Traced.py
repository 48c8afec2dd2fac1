"""PyTorch nets as ONNX files.  Needs PyTorch."""
import warnings

import torch
from torch import nn

OPSET = 18  # ONNX Runtime reads it since 1.14, of 2023
INPUT, OUTPUT = "image", "probabilities"  # names of what a FromPixels takes and gives


class FromPixels(nn.Module):
    """A net between raw pixels and probabilities: float32 (N, C, H, W) -> (N, K, H', W').

    net: of TorchModel.py, in eval mode.  white: the raw value that is 1.  mean, std: a number for
    each channel.  Pixels are scaled in the order of images/values.py, to the same rounding.
    """

    def __init__(self, net, white, mean, std):
        super().__init__()
        self.net, self.white = net, white
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])

    def forward(self, image):
        return torch.softmax(self.net((image / self.white - self.mean) / self.std), dim=1)


def write_onnx(model, inputs, path, names=(INPUT, OUTPUT), axes=None):
    """Write a model in eval mode as ONNX.

    inputs: an example, a tensor.  names: of the input and of the output.  axes: for each of these
    names the axes, {number: name}, that may have any length; None: all are as in the example.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Tracing is the older of PyTorch's two ways.  The newer one follows each layer's size as a
        # formula, which takes it half a minute for a U-2-Net, and this one two seconds.
        torch.onnx.export(model, (inputs,), path, opset_version=OPSET, dynamo=False,
                          input_names=names[:1], output_names=names[1:], dynamic_axes=axes)
