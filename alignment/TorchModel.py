"""The PyTorch twin of Model.py: the same nets, options and state-dict names, in eager PyTorch.

U-Net: Ronneberger et al., MICCAI 2015.  U-2-Net: Qin et al., Pattern Recognition 2020.  Written
from the papers, as a PyTorch user would write it.  `load_arrays` and `state_arrays` carry weights
to and from Model.py.
"""
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


def resize(x, size, align_corners):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def he_initialise(model):
    """Gaussian weights of std sqrt(2 / fan_in), zero biases (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.in_channels * module.weight[0, 0].numel()
        elif isinstance(module, nn.ConvTranspose2d):
            fan_in = module.in_channels
        else:
            continue
        nn.init.normal_(module.weight, 0.0, (2 / fan_in) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# ------------------------------------------------------------------------------------------ U-Net
class DoubleConv(nn.Module):
    """(3x3 convolution, BatchNorm, ReLU) twice."""

    def __init__(self, in_channels, out_channels, mid_channels=None, padding=0, conv_bias=True):
        super().__init__()
        layers, channels = [], in_channels
        for out in (mid_channels or out_channels, out_channels):
            layers += [nn.Conv2d(channels, out, 3, padding=padding, bias=conv_bias),
                       nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        self.double_conv = nn.Sequential(*layers)

    def forward(self, x):
        return self.double_conv(x)


class Down(nn.Module):
    """2x2 max-pool, DoubleConv, dropout."""

    def __init__(self, in_channels, out_channels, dropout_prob, **conv):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2),
                                          DoubleConv(in_channels, out_channels, **conv))
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, x):
        return self.dropout(self.maxpool_conv(x))


class Up(nn.Module):
    """Up-sample by 2, put the skip connection (valid: its middle) in front, DoubleConv."""

    def __init__(self, in_channels, out_channels, bilinear, align_corners, padding, conv_bias):
        super().__init__()
        self.padding, half = padding, in_channels // 2
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners)
        else:
            self.up = nn.ConvTranspose2d(in_channels, half, 2, stride=2)
        self.conv = DoubleConv(in_channels, out_channels, half if bilinear else None, padding,
                               conv_bias)

    def forward(self, x, skip):
        x = self.up(x)
        (height, width), (own_height, own_width) = x.shape[2:], skip.shape[2:]
        if self.padding:
            x = F.pad(x, (0, own_width - width, 0, own_height - height))
        else:
            top, left = (own_height - height) // 2, (own_width - width) // 2
            skip = skip[:, :, top:top + height, left:left + width]
        return self.conv(torch.cat([skip, x], dim=1))


class OutConv(nn.Module):
    """1x1 convolution to the classes' logits."""

    def __init__(self, in_channels, n_classes):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, n_classes, 1)

    def forward(self, x):
        return self.conv(x)


class UNet(nn.Module):
    """U-Net: (N, n_channels, H, W) -> logits; options as those of Model.UNet."""

    def __init__(self, n_channels, n_classes, bilinear=True, dropout_probs=None, base_channels=64,
                 padding=0, conv_bias=True, align_corners=False):
        super().__init__()
        conv = {"padding": padding, "conv_bias": conv_bias}
        up = {"bilinear": bilinear, "align_corners": align_corners, **conv}
        widths, half = [base_channels * 2 ** level for level in range(5)], 2 if bilinear else 1
        self.inc = DoubleConv(n_channels, widths[0], **conv)
        for k, probability in enumerate(dropout_probs or (0, 0, 0, 0), start=1):
            out = widths[k] // half if k == 4 else widths[k]
            setattr(self, f"down{k}", Down(widths[k - 1], out, probability, **conv))
        for k in range(1, 5):
            out = widths[0] if k == 4 else widths[4 - k] // half
            setattr(self, f"up{k}", Up(widths[5 - k], out, **up))
        self.outc = OutConv(widths[0], n_classes)
        he_initialise(self)

    def forward(self, x):
        levels = [self.inc(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in (self.up1, self.up2, self.up3, self.up4):
            x = up(x, levels.pop())
        return self.outc(x)


# ---------------------------------------------------------------------------------------- U-2-Net
class REBNCONV(nn.Module):
    """3x3 convolution (dilated, size kept), BatchNorm, ReLU."""

    def __init__(self, in_channels, out_channels, dilation=1):
        super().__init__()
        self.conv_s1 = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return F.relu(self.bn_s1(self.conv_s1(x)))


class Stage(NamedTuple):
    """The settings of one RSU."""
    height: int
    mid: int               # channels inside
    out: int               # channels of its output
    dilated: bool = False  # RSU-4F


class RSU(nn.Module):
    """Residual U-block (figure 2) of a Stage."""

    def __init__(self, stage, in_channels, align_corners):
        super().__init__()
        height, mid, out, dilated = stage
        self.height, self.dilated, self.align_corners = height, dilated, align_corners
        self.rebnconvin = REBNCONV(in_channels, out)
        if dilated:
            dilations = [2 ** level for level in range(height)]
        else:
            dilations = [1] * (height - 1) + [2]
        for k, dilation in enumerate(dilations, start=1):
            setattr(self, f"rebnconv{k}", REBNCONV(out if k == 1 else mid, mid, dilation))
        for k in range(height - 1, 0, -1):
            setattr(self, f"rebnconv{k}d", REBNCONV(2 * mid, out if k == 1 else mid,
                                                    dilations[k - 1] if dilated else 1))

    def forward(self, x):
        residual = self.rebnconvin(x)
        encoded = [self.rebnconv1(residual)]
        for k in range(2, self.height):
            below = encoded[-1]
            if not self.dilated:
                below = F.max_pool2d(below, 2, 2, ceil_mode=True)
            encoded.append(getattr(self, f"rebnconv{k}")(below))
        x = getattr(self, f"rebnconv{self.height}")(encoded[-1])
        for k in range(self.height - 1, 0, -1):
            skip = encoded[k - 1]
            x = resize(x, skip.shape[2:], self.align_corners)
            x = getattr(self, f"rebnconv{k}d")(torch.cat([x, skip], dim=1))
        return x + residual


STAGES = (*(f"stage{k}" for k in range(1, 7)), *(f"stage{k}d" for k in range(5, 0, -1)))
# mode: the Stages in the order of STAGES
TABLES = {
    "U2net": (Stage(7, 32, 64), Stage(6, 32, 128), Stage(5, 64, 256), Stage(4, 128, 512),
              *[Stage(4, 256, 512, dilated=True)] * 3,
              Stage(4, 128, 256), Stage(5, 64, 128), Stage(6, 32, 64), Stage(7, 16, 64)),
    "U2netS": (*(Stage(height, 16, 64) for height in (7, 6, 5, 4)),
               *[Stage(4, 16, 64, dilated=True)] * 3,
               *(Stage(height, 16, 64) for height in (4, 5, 6, 7))),
}


class U2Net(nn.Module):
    """U-2-Net of one of TABLES: (N, in_ch, H, W) -> logits, or d0 ... d6 with `side_outputs`."""

    def __init__(self, table, in_ch, n_classes, align_corners=False, side_outputs=False):
        super().__init__()
        self.align_corners, self.side_outputs = align_corners, side_outputs
        widths, before = {name: stage.out for name, stage in zip(STAGES, table)}, in_ch
        for name, stage in zip(STAGES, table):
            skip = widths[name[:-1]] if name.endswith("d") else 0
            setattr(self, name, RSU(stage, before + skip, align_corners))
            before = stage.out
        for k in range(1, 7):
            width = widths["stage6" if k == 6 else f"stage{k}d"]
            setattr(self, f"side{k}", nn.Conv2d(width, n_classes, 3, padding=1))
        self.outconv = nn.Conv2d(6 * n_classes, n_classes, 1)
        he_initialise(self)

    def forward(self, x):
        size, encoded = x.shape[2:], [self.stage1(x)]
        for k in range(2, 7):
            below = F.max_pool2d(encoded[-1], 2, 2, ceil_mode=True)
            encoded.append(getattr(self, f"stage{k}")(below))
        x = encoded.pop()
        sides = [self.side6(x)]
        for k in range(5, 0, -1):
            skip = encoded.pop()
            x = resize(x, skip.shape[2:], self.align_corners)
            x = getattr(self, f"stage{k}d")(torch.cat([x, skip], dim=1))
            sides.append(getattr(self, f"side{k}")(x))
        sides = [resize(side, size, self.align_corners) for side in reversed(sides)]
        fused = self.outconv(torch.cat(sides, dim=1))
        return [fused, *sides] if self.side_outputs else fused


# ----------------------------------------------------------------------------------------- common
def build_model(mode, n_channels, n_classes, **options):
    """The twin of Model.build_model."""
    if mode not in ("Unet", *TABLES):
        raise ValueError(f"unknown mode {mode!r}; known: Unet, {', '.join(TABLES)}")
    if mode == "Unet":
        return UNet(n_channels, n_classes, **options)
    return U2Net(TABLES[mode], n_channels, n_classes, **options)


def weighted_cross_entropy(logits, label, weight_map):
    """mean(w * -log softmax(logits)[label]) (Ronneberger et al. 2015, eq. 1).

    label: int64 (N, H, W).
    """
    return (weight_map * F.cross_entropy(logits, label, reduction="none")).mean()


def deep_supervision_loss(side_logits, label, weight_map):
    """The sum over the fused and the side outputs (Qin et al. 2020, eq. 1)."""
    return sum(weighted_cross_entropy(logits, label, weight_map) for logits in side_logits)


def build_optimizer(name, model, learning_rate):
    """'adam': betas (0.99, 0.999), weight decay 1e-4; 'sgd': momentum 0.99."""
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), learning_rate, momentum=0.99)
    return torch.optim.Adam(model.parameters(), learning_rate, betas=(0.99, 0.999), eps=1e-8,
                            weight_decay=1e-4)


def load_arrays(model, arrays):
    """Put {name: array} into the model; names and shapes must be the model's own.

    BatchNorm's `num_batches_tracked` stays as it is: Model.py has none.
    """
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    counters = {name: value for name, value in model.state_dict().items()
                if name.endswith("num_batches_tracked")}
    model.load_state_dict({**state, **counters}, strict=True)


def state_arrays(model):
    """A copy of the model's state dict as {name: NumPy array}, without `num_batches_tracked`."""
    return {name: value.numpy().copy() for name, value in model.state_dict().items()
            if not name.endswith("num_batches_tracked")}
