"""Whose weights these are, by names and shapes."""
from command.errors import DataError


def describe_net(weights, source):
    """What names and shapes tell of a net: (mode, n_channels, n_classes, {option: value}) for `Model.build_model`.

    Of U-Net's options padding and align_corners, of U-2-Net's align_corners leave no trace.  Raises DataError, naming
    `source`, for the weights of any other net.
    """
    def shape(name):
        return weights[name].shape if name in weights and weights[name].ndim == 4 else None
    first, last = shape("inc.double_conv.0.weight"), shape("outc.conv.weight")
    if first and last:
        return "Unet", first[1], last[0], {"base_channels": first[0], "bilinear": "up1.up.weight" not in weights,
                                           "conv_bias": "inc.double_conv.0.bias" in weights}
    first, middle, last = (shape(f"{name}.weight") for name in ("stage1.rebnconvin.conv_s1", "stage1.rebnconv1.conv_s1",
                                                                "outconv"))
    if first and middle and last:
        return "U2net" if middle[0] == 32 else "U2netS", first[1], last[0], {}
    raise DataError(f"{source}: the weights of neither a U-Net (inc.double_conv ... outc) nor a U-2-Net (stage1 ... "
                    "outconv)")
