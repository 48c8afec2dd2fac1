"""The nets: U-Net and U-2-Net.

    python Model.py                     # the layer table of each: shapes, parameters, memory
    python Model.py --doctor            # what is installed, and whether CPU and GPU agree

UNet: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015, figure 1, with BatchNorm after each 3x3 convolution.
U2net, U2netS: Qin et al., "U^2-Net: Going Deeper with Nested U-Structure for Salient Object
Detection", Pattern Recognition 2020, figure 5 and table 1.
The modules have the names that the published weights use, so that these can be loaded.
"""
import math
import sys
from typing import NamedTuple

from backend.model_command import run_command, start_command
from command.errors import run

if __name__ == "__main__":
    start_command()  # answers --help before the classes below import Jittor

from backend.operators import (BatchNorm, Conv, ConvTranspose, Dropout, MaxPool, Resized,
                               conv_norm_relu, enter, join, leave, resize)
from backend.start import jt, nn


def he_initialise(model):
    """Gaussian weights of std sqrt(2 / fan_in), zero biases (U-Net, section 3; He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, (nn.Conv, nn.ConvTranspose)):
            shape = module.weight.shape
            # with 2x2 kernels and stride 2, an output sees one weight of each input channel
            fan_in = shape[0] if isinstance(module, nn.ConvTranspose) else math.prod(shape[1:])
            module.weight.assign(jt.init.gauss(shape, "float32", 0.0, math.sqrt(2 / fan_in)))
            if module.bias is not None:
                module.bias.assign(jt.zeros(module.bias.shape))


# ------------------------------------------------------------------------------------------ U-Net
class DoubleConv(nn.Module):
    """(3x3 convolution, BatchNorm, ReLU) twice: the two blue arrows of each level of figure 1."""

    def __init__(self, in_channels, out_channels, mid_channels=None, padding=0, conv_bias=True):
        mid_channels = mid_channels or out_channels
        conv = {"padding": padding, "bias": conv_bias}
        self.double_conv = nn.Sequential(
            Conv(in_channels, mid_channels, 3, **conv), BatchNorm(mid_channels), nn.ReLU(),
            Conv(mid_channels, out_channels, 3, **conv), BatchNorm(out_channels), nn.ReLU())

    def execute(self, x):
        conv1, norm1, _, conv2, norm2, _ = self.double_conv
        return conv_norm_relu(conv2, norm2, conv_norm_relu(conv1, norm1, x))


class Down(nn.Module):
    """One level down the contracting path: 2x2 max-pool, DoubleConv, dropout."""

    def __init__(self, in_channels, out_channels, dropout_prob, **conv):
        self.maxpool_conv = nn.Sequential(MaxPool(), DoubleConv(in_channels, out_channels, **conv))
        self.dropout = Dropout(dropout_prob) if dropout_prob > 0 else None

    def execute(self, x):
        x = self.maxpool_conv(x)
        return x if self.dropout is None else self.dropout(x)


class Up(nn.Module):
    """One level up the expansive path: up-sample by 2, put the skip in front, DoubleConv.

    After valid convolutions the skip is larger, and its middle is taken ("copy and crop").  After
    padded ones it may have a row or column more, which the pool dropped.  Then zeros are added.
    """

    def __init__(self, in_channels, out_channels, bilinear, align_corners, **conv):
        self.align_corners, self.padding = align_corners, conv["padding"]
        half = in_channels // 2
        self.up = None if bilinear else ConvTranspose(in_channels, half, 2, stride=2)
        self.conv = DoubleConv(in_channels, out_channels, half if bilinear else None, **conv)

    def execute(self, x, skip):
        height, width = 2 * x.shape[2], 2 * x.shape[3]
        x = Resized(x, height, width, self.align_corners) if self.up is None else self.up(x)
        if self.padding:
            height, width = skip.shape[2:]
        return self.conv(join([skip, x], height, width))


class OutConv(nn.Module):
    """1x1 convolution to the logits of the classes."""

    def __init__(self, in_channels, n_classes):
        self.conv = Conv(in_channels, n_classes, 1)

    def execute(self, x):
        return self.conv(x)


class UNet(nn.Module):
    """U-Net: (N, n_channels, H, W) float32 -> logits (N, n_classes, H - 184, W - 184) float32.

    bilinear: up-sample by interpolation; False: by a transposed convolution, as in the paper.
    dropout_probs: one for each of down1 ... down4; None: no dropout.  Single elements are dropped
    at the end of the level, before the skip connection (section 3.1).
    base_channels: channels of the first level, 64 in the paper.
    padding: 0: valid convolutions, as in the paper; 1: the output has the input's size.
    conv_bias: whether 3x3 convolutions have biases.  align_corners: of the interpolation.
    With padding 0, H and W must be 12 modulo 16, and 188 or more: each level is then even before
    its pool (section 3).  With padding 1 they must be 32 or more.  Other sizes raise ValueError.
    """
    REFERENCE_INPUT = 448  # px: not valid, a pool drops a row; for --tile reference alone
    element_type = "float32"  # of activations on a CPU; "bfloat16" is faster and needs half of it

    def __init__(self, n_channels, n_classes, bilinear=True, dropout_probs=None, base_channels=64,
                 padding=0, conv_bias=True, align_corners=False):
        self.padding = padding
        c, conv = base_channels, {"padding": padding, "conv_bias": conv_bias}
        p1, p2, p3, p4 = dropout_probs or (0, 0, 0, 0)
        halved = 2 if bilinear else 1  # interpolation does not halve the channels: these levels do
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
        """The smallest input side (px), `side` or more, that the net takes."""
        if self.padding:
            return max(side, 32)
        side = max(side, 188)
        return side + (12 - side) % 16

    def execute(self, x):
        if tuple(x.shape[2:]) != (self.REFERENCE_INPUT, self.REFERENCE_INPUT):
            check_size(self, x)
        x1 = self.inc(enter(x, self.element_type))  # figure 1: 572 -> 568 px
        x2 = self.down1(x1)   # 284 -> 280
        x3 = self.down2(x2)   # 140 -> 136
        x4 = self.down3(x3)   # 68 -> 64
        x5 = self.down4(x4)   # 32 -> 28
        x = self.up1(x5, x4)  # 56 -> 52
        x = self.up2(x, x3)   # 104 -> 100
        x = self.up3(x, x2)   # 200 -> 196
        x = self.up4(x, x1)   # 392 -> 388
        return leave(self.outc(x))


# ---------------------------------------------------------------------------------------- U-2-Net
class REBNCONV(nn.Module):
    """3x3 convolution that keeps the size, BatchNorm, ReLU."""

    def __init__(self, in_channels, out_channels, dilation=1):
        self.conv_s1 = Conv(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = BatchNorm(out_channels)

    def execute(self, x, add=None):
        return conv_norm_relu(self.conv_s1, self.bn_s1, x, add)


class Stage(NamedTuple):
    """A stage of table 1: the size of its residual U-block."""
    height: int            # L of RSU-L: its levels
    mid_channels: int      # M
    out_channels: int      # O
    dilated: bool = False  # RSU-4F: dilated convolutions instead of pools


class RSU(nn.Module):
    """Residual U-block (figure 2e): a small U-Net.  Its input convolution is added to its output.

    Levels 2 ... L-1 begin with a pool.  Level L has dilation 2 instead.
    RSU-4F (section 3.2) has no pool.  Its levels have the dilations 1, 2, 4, 8.
    """

    def __init__(self, in_channels, stage, align_corners):
        self.height, self.dilated, self.align_corners = stage.height, stage.dilated, align_corners
        middle, out_channels = stage.mid_channels, stage.out_channels
        dilations = [1, 2, 4, 8] if stage.dilated else [1] * (stage.height - 1) + [2]
        self.pool = MaxPool(ceil_mode=True)
        self.rebnconvin = REBNCONV(in_channels, out_channels)
        for k, dilation in enumerate(dilations, 1):
            before = out_channels if k == 1 else middle
            setattr(self, f"rebnconv{k}", REBNCONV(before, middle, dilation))
        for k in range(stage.height - 1, 0, -1):
            after = out_channels if k == 1 else middle
            setattr(self, f"rebnconv{k}d", REBNCONV(2 * middle, after, dilations[k - 1]))

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
            joined = join_below(x, skips.pop(), self.align_corners)
            x = getattr(self, f"rebnconv{k}d")(joined, add=x_in if k == 1 else None)
        return x


def join_below(x, skip, align_corners):
    """The level below, up-sampled to the size of the skip, and the skip after it."""
    height, width = skip.shape[2:]
    return join([Resized(x, height, width, align_corners), skip], height, width)


class U2NetBase(nn.Module):
    """U-2-Net (figure 5), a U-Net of RSUs: (N, in_ch, H, W) float32 -> logits (N, n_classes, H, W).

    side_outputs: return a list of logits instead, d0 (fused) and d1 ... d6 (one a level), for deep
    supervision (section 3.3).  align_corners: of every interpolation.
    H and W must be at least 33; smaller sizes raise ValueError.
    """
    STAGES = None  # table 1, {name: Stage}, in the order of the forward pass
    element_type = UNet.element_type

    def __init__(self, in_ch, n_classes, align_corners=False, side_outputs=False):
        self.align_corners, self.side_outputs = align_corners, side_outputs
        self.pool = MaxPool(ceil_mode=True)
        channels, outputs = in_ch, {name: stage.out_channels for name, stage in self.STAGES.items()}
        for name, stage in self.STAGES.items():
            if name.endswith("d"):  # a decoder sees the stage below it and the encoder beside it
                channels += outputs[name[:-1]]
            setattr(self, name, RSU(channels, stage, align_corners))
            channels = outputs[name]
        for k in range(1, 7):
            channels = outputs["stage6" if k == 6 else f"stage{k}d"]
            setattr(self, f"side{k}", Conv(channels, n_classes, 3, padding=1))
        self.outconv = Conv(6 * n_classes, n_classes, 1)
        he_initialise(self)

    def next_valid_side(self, side):
        """The smallest input side (px), `side` or more, that the net takes: five pools need 33."""
        return max(side, 33)

    def execute(self, x):
        check_size(self, x)
        height, width = x.shape[2], x.shape[3]
        x, skips = enter(x, self.element_type), []
        for k in range(1, 7):  # En_1 ... En_6
            x = getattr(self, f"stage{k}")(x if k == 1 else self.pool(x))
            skips.append(x)
        sides = [leave(self.side6(skips.pop()))]
        for k in range(5, 0, -1):  # De_5 ... De_1
            x = getattr(self, f"stage{k}d")(join_below(x, skips.pop(), self.align_corners))
            sides.insert(0, leave(getattr(self, f"side{k}")(x)))
        sides = [resize(side, height, width, self.align_corners) for side in sides]
        fused = self.outconv(join(sides, height, width))
        return [fused, *sides] if self.side_outputs else fused


class U2net(U2NetBase):
    """U-2-Net, full size: 44 M parameters."""
    RSU_4F = Stage(4, 256, 512, dilated=True)
    STAGES = {"stage1": Stage(7, 32, 64), "stage2": Stage(6, 32, 128), "stage3": Stage(5, 64, 256),
              "stage4": Stage(4, 128, 512), "stage5": RSU_4F, "stage6": RSU_4F,
              "stage5d": RSU_4F, "stage4d": Stage(4, 128, 256), "stage3d": Stage(5, 64, 128),
              "stage2d": Stage(6, 32, 64), "stage1d": Stage(7, 16, 64)}


class U2netS(U2NetBase):
    """U-2-Net small, the authors' U2NETP: 1.1 M parameters."""
    STAGES = {name: stage._replace(mid_channels=16, out_channels=64)
              for name, stage in U2net.STAGES.items()}


# ------------------------------------------------------------------------------------- all nets
NETS = {"Unet": UNet, "U2net": U2net, "U2netS": U2netS}


def check_size(model, x):
    """Raise ValueError, with the next valid size, where the model cannot take x, (N, C, H, W)."""
    height, width = x.shape[2:]
    valid = model.next_valid_side(height), model.next_valid_side(width)
    if (height, width) != valid:
        raise ValueError(f"{type(model).__name__} cannot take {height} x {width} px; "
                         f"the next valid size is {valid[0]} x {valid[1]} px")


def build_model(mode, n_channels, n_classes, **options):
    """Build the net of a name in NETS, `mode`.  options: the options of its class."""
    if mode not in NETS:
        raise ValueError(f"unknown mode {mode!r}; known: {', '.join(NETS)}")
    return NETS[mode](n_channels, n_classes, **options)


def main():
    return run_command(build_model)


if __name__ == "__main__":
    sys.exit(run(main))
