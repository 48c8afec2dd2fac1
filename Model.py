"""The nets: U-Net and U-2-Net.

    python Model.py                     # the layer table of each: shapes, parameters, memory

UNet: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015, with
BatchNorm after every convolution.  U2net, U2netS: Qin et al., "U^2-Net: Going Deeper with Nested U-Structure for Salient
Object Detection", Pattern Recognition 2020, figure 5 and table 1.  State-dict names are those of the public weights.
"""
import math
import sys

from backend import start
from backend.operators import BatchNorm, Conv, MaxPool, conv_norm_relu, resize
from backend.start import jt, nn
from command.errors import run
from command.flags import Parser


def prepare():
    """Answer --help, or what keeps Jittor from starting, before the classes below need Jittor."""
    Parser("Print the layer table of each net: output shapes, parameters, memory.").parse_args()
    start.import_jittor()


if __name__ == "__main__" and run(prepare):
    sys.exit(1)


def he_initialise(model):
    """Gaussian weights of std sqrt(2 / fan_in), zero biases, for every convolution (U-Net, section 3; He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, (nn.Conv, nn.ConvTranspose)):
            shape = module.weight.shape
            # a 2x2 transposed convolution of stride 2 reaches each of its outputs through one tap per input channel
            fan_in = shape[0] if isinstance(module, nn.ConvTranspose) else math.prod(shape[1:])
            module.weight.assign(jt.init.gauss(shape, "float32", 0.0, math.sqrt(2 / fan_in)))
            if module.bias is not None:
                module.bias.assign(jt.zeros(module.bias.shape))


# ------------------------------------------------------------------------------------------------------------------ U-Net
class DoubleConv(nn.Module):
    """(3x3 convolution, BatchNorm, ReLU) twice."""

    def __init__(self, in_channels, out_channels, mid_channels=None, padding=0, conv_bias=True):
        mid_channels = mid_channels or out_channels
        self.double_conv = nn.Sequential(
            Conv(in_channels, mid_channels, 3, padding=padding, bias=conv_bias), BatchNorm(mid_channels), nn.ReLU(),
            Conv(mid_channels, out_channels, 3, padding=padding, bias=conv_bias), BatchNorm(out_channels), nn.ReLU())

    def execute(self, x):
        conv1, norm1, _, conv2, norm2, _ = self.double_conv
        return conv_norm_relu(conv2, norm2, conv_norm_relu(conv1, norm1, x))


class Down(nn.Module):
    """2x2 max-pool, DoubleConv, dropout."""

    def __init__(self, in_channels, out_channels, dropout_prob, **conv):
        self.maxpool_conv = nn.Sequential(MaxPool(), DoubleConv(in_channels, out_channels, **conv))
        self.dropout = nn.Dropout(dropout_prob) if dropout_prob > 0 else None

    def execute(self, x):
        x = self.maxpool_conv(x)
        return self.dropout(x) if self.dropout is not None else x


class Up(nn.Module):
    """Up-sample by 2, put the skip connection in front, DoubleConv.

    Where the convolutions are valid the skip gives its middle; where they keep the size a pool has dropped at most one
    row and one column, which come back as zeros, as in milesial's U-Net.
    """

    def __init__(self, in_channels, out_channels, bilinear, align_corners, padding, conv_bias):
        self.align_corners, self.padding = align_corners, padding
        self.up = None if bilinear else nn.ConvTranspose(in_channels, in_channels // 2, 2, stride=2)
        self.conv = DoubleConv(in_channels, out_channels, in_channels // 2 if bilinear else None, padding, conv_bias)

    def execute(self, x, skip):
        height, width = 2 * x.shape[2], 2 * x.shape[3]
        x = resize(x, height, width, self.align_corners) if self.up is None else self.up(x)
        below, right = skip.shape[2] - height, skip.shape[3] - width
        if self.padding:
            x = nn.pad(x, (0, right, 0, below)) if below or right else x
        else:
            skip = skip[:, :, below // 2:below // 2 + height, right // 2:right // 2 + width]
        return self.conv(jt.concat([skip, x], dim=1))


class OutConv(nn.Module):
    """1x1 convolution to the classes' logits."""

    def __init__(self, in_channels, n_classes):
        self.conv = Conv(in_channels, n_classes, 1)

    def execute(self, x):
        return self.conv(x)


class UNet(nn.Module):
    """U-Net (2015, figure 1): (N, n_channels, H, W) float32 -> logits (N, n_classes, H - 184, W - 184).

    bilinear: up-sample by interpolation instead of a transposed convolution.  dropout_probs: four probabilities, element
    by element, at the end of down1 ... down4, before the skip leaves (section 3.1); None: no dropout.  base_channels: 64
    in the paper.  padding=1 keeps the size.  align_corners: of the bilinear up-sampling.
    Without padding H and W must be 12 modulo 16, so that every level is even before its pool (section 3), from 188 on;
    with padding they may be anything from 32 on.  Other sizes raise ValueError.
    """
    REFERENCE_INPUT = 448  # px: only works because a pool drops a row; the reference's protocol alone uses it

    def __init__(self, n_channels, n_classes, bilinear=True, dropout_probs=None, base_channels=64, padding=0,
                 conv_bias=True, align_corners=False):
        self.padding = padding
        c, conv = base_channels, {"padding": padding, "conv_bias": conv_bias}
        p1, p2, p3, p4 = dropout_probs or (0, 0, 0, 0)
        halved = 2 if bilinear else 1  # interpolation keeps the channels, so the convolution before it gives half
        up = {"bilinear": bilinear, "align_corners": align_corners, **conv}
        self.inc = DoubleConv(n_channels, c, **conv)
        self.down1 = Down(c, 2 * c, p1, **conv)
        self.down2 = Down(2 * c, 4 * c, p2, **conv)
        self.down3 = Down(4 * c, 8 * c, p3, **conv)
        self.down4 = Down(8 * c, 16 * c // halved, p4, **conv)
        self.up1 = Up(16 * c, 8 * c // halved, **up)
        self.up2 = Up(8 * c, 4 * c // halved, **up)
        self.up3 = Up(4 * c, 2 * c // halved, **up)
        self.up4 = Up(2 * c, c, **up)
        self.outc = OutConv(c, n_classes)
        he_initialise(self)

    def next_valid_side(self, side):
        """The smallest input side (px) from `side` on that the net takes."""
        if self.padding:
            return max(side, 32)
        side = max(side, 188)
        return side + (12 - side) % 16

    def execute(self, x):
        if tuple(x.shape[2:]) != (self.REFERENCE_INPUT, self.REFERENCE_INPUT):
            check_size(self, x)
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        x = self.up1(x5, x4)
        x = self.up2(x, x3)
        x = self.up3(x, x2)
        x = self.up4(x, x1)
        return self.outc(x)


# ---------------------------------------------------------------------------------------------------------------- U-2-Net
class REBNCONV(nn.Module):
    """3x3 convolution (dilated, size kept), BatchNorm, ReLU."""

    def __init__(self, in_channels, out_channels, dilation=1):
        self.conv_s1 = Conv(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = BatchNorm(out_channels)

    def execute(self, x):
        return conv_norm_relu(self.conv_s1, self.bn_s1, x)


class RSU(nn.Module):
    """Residual U-block of a given height (figure 2): a small U-Net whose output is added to its own first convolution.

    dilated=True is RSU-4F: no pooling, dilations 1, 2, 4, 8 instead.
    """

    def __init__(self, height, in_channels, mid_channels, out_channels, align_corners, dilated=False):
        self.height, self.dilated, self.align_corners = height, dilated, align_corners
        self.pool = MaxPool(ceil_mode=True)
        self.rebnconvin = REBNCONV(in_channels, out_channels)
        for k in range(1, height + 1):
            dilation = 2 ** (k - 1) if dilated else (2 if k == height else 1)
            setattr(self, f"rebnconv{k}", REBNCONV(out_channels if k == 1 else mid_channels, mid_channels, dilation))
        for k in range(height - 1, 0, -1):
            dilation = 2 ** (k - 1) if dilated else 1
            setattr(self, f"rebnconv{k}d", REBNCONV(2 * mid_channels, out_channels if k == 1 else mid_channels, dilation))

    def execute(self, x):
        x_in = x = self.rebnconvin(x)
        skips = []
        for k in range(1, self.height):
            if k > 1 and not self.dilated:
                x = self.pool(x)
            x = getattr(self, f"rebnconv{k}")(x)
            skips.append(x)
        x = getattr(self, f"rebnconv{self.height}")(x)
        for k in range(self.height - 1, 0, -1):
            skip = skips[k - 1]
            x = resize(x, skip.shape[2], skip.shape[3], self.align_corners)
            x = getattr(self, f"rebnconv{k}d")(jt.concat([x, skip], dim=1))
        return x + x_in


# stage: (height of its RSU, or '4F'; middle channels; output channels), in the order of the forward pass
U2NET_STAGES = {"stage1": (7, 32, 64), "stage2": (6, 32, 128), "stage3": (5, 64, 256), "stage4": (4, 128, 512),
                "stage5": ("4F", 256, 512), "stage6": ("4F", 256, 512), "stage5d": ("4F", 256, 512),
                "stage4d": (4, 128, 256), "stage3d": (5, 64, 128), "stage2d": (6, 32, 64), "stage1d": (7, 16, 64)}
U2NETS_STAGES = {name: (height, 16, 64) for name, (height, _, _) in U2NET_STAGES.items()}


class U2NetBase(nn.Module):
    """U-2-Net of a table of stages: (N, in_ch, H, W) float32 -> logits (N, n_classes, H, W).

    side_outputs=True gives the list of logits d0 (fused), d1 ... d6 (one of each level), for deep supervision.
    H and W from 33 on; smaller sizes raise ValueError.
    """
    STAGES = None

    def __init__(self, in_ch, n_classes, align_corners=False, side_outputs=False):
        self.align_corners, self.side_outputs = align_corners, side_outputs
        self.pool = MaxPool(ceil_mode=True)
        outputs = {name: out for name, (_, _, out) in self.STAGES.items()}
        channels = in_ch
        for name, (height, mid, out) in self.STAGES.items():
            if name.endswith("d"):  # a decoder's input: the stage below it and the encoder's stage of its own level
                channels += outputs[name[:-1]]
            dilated = height == "4F"
            setattr(self, name, RSU(4 if dilated else height, channels, mid, out, align_corners, dilated))
            channels = out
        for k in range(1, 7):
            setattr(self, f"side{k}", Conv(outputs.get(f"stage{k}d", outputs["stage6"]), n_classes, 3, padding=1))
        self.outconv = Conv(6 * n_classes, n_classes, 1)
        he_initialise(self)

    def next_valid_side(self, side):
        """The smallest input side (px) from `side` on that the net takes: five poolings need 33."""
        return max(side, 33)

    def execute(self, x):
        check_size(self, x)
        height, width = x.shape[2], x.shape[3]
        encoded = []
        for k in range(1, 7):
            x = getattr(self, f"stage{k}")(x if k == 1 else self.pool(x))
            encoded.append(x)
        sides = [self.side6(x)]
        for k in range(5, 0, -1):
            skip = encoded[k - 1]
            x = resize(x, skip.shape[2], skip.shape[3], self.align_corners)
            x = getattr(self, f"stage{k}d")(jt.concat([x, skip], dim=1))
            sides.insert(0, getattr(self, f"side{k}")(x))
        sides = [resize(side, height, width, self.align_corners) for side in sides]
        fused = self.outconv(jt.concat(sides, dim=1))
        return [fused, *sides] if self.side_outputs else fused


class U2net(U2NetBase):
    """U-2-Net, full size: 44 M parameters."""
    STAGES = U2NET_STAGES


class U2netS(U2NetBase):
    """U-2-Net small (the authors' U2NETP): 1.1 M parameters."""
    STAGES = U2NETS_STAGES


# ----------------------------------------------------------------------------------------------------------------- common
NETS = {"Unet": UNet, "U2net": U2net, "U2netS": U2netS}


def check_size(model, x):
    """Raise ValueError, naming the next valid size, where the model cannot take the input (N, C, H, W)."""
    height, width = x.shape[2:]
    wanted = model.next_valid_side(height), model.next_valid_side(width)
    if (height, width) != wanted:
        raise ValueError(f"{type(model).__name__} cannot take {height} x {width} px; "
                         f"the next valid size is {wanted[0]} x {wanted[1]} px")


def build_model(mode, n_channels, n_classes, **options):
    """The net that `mode` ('Unet', 'U2net', 'U2netS') names; options are those of its class."""
    if mode not in NETS:
        raise ValueError(f"unknown mode {mode!r}; known: {', '.join(NETS)}")
    return NETS[mode](n_channels, n_classes, **options)


def main():
    from backend.summary import summary
    for mode, side in (("Unet", 572), ("U2net", 320), ("U2netS", 320)):
        print(f"\n{mode}: 1 input channel, 2 classes, {side} x {side} px")
        summary(build_model(mode, 1, 2), (1, side, side))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
