"""The operators that are ours: they are faster than Jittor's own, or keep more digits.

Each takes the place of one of Jittor's, with the same parameters and results.  On a CPU they work
on activations with the channels last, between `enter` and `leave` (channels_last.py, cpu_*.py).  On
a GPU they work on Vars, wherever a kernel has passed there (cuda_operators.py, kernel_choice.py).
Jittor's own run in double precision, and for what ours are not made for.
"""
from backend import cpu_convolution, cpu_operators, cpu_planes, cuda_operators, ranks
from backend.channels_last import ChannelsLast, Joined, Placed, enter, leave
from backend.cuda_operators import Resized
from backend.kernel_choice import cuda_kernel_suits, kernels_suit, without_kernels
from backend.late_statistics import noted_batches
from backend.start import jt, nn
from backend.updates import BatchStatistics

__all__ = ["BatchNorm", "Conv", "ConvTranspose", "Dropout", "MaxPool", "Resized", "conv_norm_relu",
           "enter", "join", "kernels_suit", "leave", "resize", "without_kernels"]


# ------------------------------------------------------------------------------------ convolution
class Conv(nn.Conv):
    """nn.Conv.  On a CPU its 3x3 and 1x1 convolutions of stride 1 are ours."""

    def execute(self, x):
        if isinstance(x, (ChannelsLast, Joined)):
            return self.convolve_on_cpu(x)
        if cuda_kernel_suits("convolution", x):
            y = self.without_bias(x)
            return y if self.bias is None else y + self.bias.broadcast(y, [0, 2, 3])
        return super().execute(x)

    def convolve_on_cpu(self, x):
        """Convolve a ChannelsLast or a Joined."""
        if isinstance(x, Joined) and not x.is_channels_last:
            if self.is_simple(1) and self.bias is not None:
                return cpu_planes.PointwisePlanes.apply(self.weight, self.bias,
                                                        *(part.x for part in x.parts))
            return self.execute(concatenate(x))
        if self.is_ours(x):
            return cpu_convolution.convolve_layer(self, x)
        if self.is_simple(1) and isinstance(x, ChannelsLast):
            return cpu_operators.pointwise(self, x)
        return enter(self.execute(concatenate(x)), x.dtype)

    def is_simple(self, side):
        """Whether the filters have this side (px), stride 1 and no groups, the same both ways."""
        return (tuple(self.weight.shape[2:]) == (side, side) and self.stride == (1, 1)
                and self.groups == 1 and self.padding[0] == self.padding[1]
                and self.dilation[0] == self.dilation[1] and (side > 1 or self.padding[0] == 0))

    def is_ours(self, x):
        """Whether our 3x3 convolution can do it, of a ChannelsLast or Joined."""
        cropped = isinstance(x, Joined) and x.is_cropped
        return self.is_simple(3) and not (cropped and self.padding[0])

    def without_bias(self, x):
        """Convolve a Var, and do not add the bias."""
        if cuda_kernel_suits("convolution", x):
            return cuda_operators.CudnnConv.apply(x, self.weight,
                                                  cuda_operators.cudnn_numbers(self))
        return nn.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation,
                         self.groups)


class ConvTranspose(nn.ConvTranspose):
    """nn.ConvTranspose, of activations with the channels last too."""

    def execute(self, x):
        if not isinstance(x, ChannelsLast):
            return super().execute(x)
        if tuple(self.weight.shape[2:]) == self.stride == (2, 2) and self.is_plain():
            return cpu_operators.transposed(self, x)
        return enter(super().execute(leave(x)), x.dtype)

    def is_plain(self):
        """Whether it has neither padding nor dilation nor groups."""
        return (self.padding == self.output_padding == (0, 0) and self.dilation == (1, 1)
                and self.groups == 1)


# -------------------------------------------------------------------- convolution, BatchNorm, ReLU
def channel_mean(x):
    """The mean of each channel of (N, C, H, W) over all ranks, (C,).

    Rows are averaged first, because long float32 sums lose digits.
    """
    return ranks.sample_mean(x.mean(3).mean(2))


class BatchNorm(nn.BatchNorm):
    """BatchNorm to PyTorch's digits.

    Jittor's own takes E[x^2] - E[x]^2 of long sums and keeps the biased variance.  In training the
    statistics are those of the batch; with several ranks, of the batch of all ranks.
    """

    def execute(self, x):
        if not self.is_train:
            return super().execute(x)
        over = [0, 2, 3]
        mean = channel_mean(x)
        centred = x - mean.broadcast(x, over)
        variance = channel_mean(centred * centred)
        count = ranks.all_samples(x.shape[0]) * x.shape[2] * x.shape[3]
        self.update_statistics(mean, variance, count)
        scale = self.weight / jt.sqrt(variance + self.eps)
        return centred * scale.broadcast(x, over) + self.bias.broadcast(x, over)

    def update_statistics(self, mean, variance, count, shift=None):
        """Move the running statistics towards those of a batch with `count` values a channel.

        mean, variance: (C,); the variance is the biased one.  shift: what the mean lacks, (C,).
        """
        batch, noted = BatchStatistics(self, mean, variance, count, shift), noted_batches()
        if noted is not None:
            noted.append(batch)
            return
        for running, moved in batch.moves():
            running.update(moved)


def conv_norm_relu(conv, norm, x, add=None):
    """ReLU(norm(conv(x))) + add, of a `Conv` and a `BatchNorm`: (N, C, H, W) -> (N, K, h, w).

    x: an activation, or what `join` made of several.  add: an activation, or None.
    """
    several_ranks = norm.is_train and ranks.size() > 1  # the kernels see no other rank's samples
    if isinstance(x, (ChannelsLast, Joined)):
        if not several_ranks and conv.is_ours(x):
            if norm.is_train:
                return cpu_convolution.train_layer(conv, norm, x, add)
            return cpu_convolution.predict_layer(conv, norm, x, add)
        y = nn.relu(norm(leave(conv(x))))
        return enter(y if add is None else y + leave(add), x.dtype)
    if several_ranks or not cuda_kernel_suits("batch_norm", x):
        y = nn.relu(norm(conv(x)))
    elif norm.is_train:
        y = _train_layer(conv, norm, x)
    else:
        y = cuda_operators.normalise_and_cut(conv.without_bias(x), norm, conv.bias)
    return y if add is None else y + add


def _train_layer(conv, norm, x):
    """`conv_norm_relu` in training on a GPU."""
    if cuda_kernel_suits("convolution", x):
        y, mean, variance = cuda_operators.CudaConvNormReLU.apply(x, conv, norm.weight, norm.bias,
                                                                  norm.eps)
    else:
        y, mean, variance = cuda_operators.CudaNormReLU.apply(
            conv.without_bias(x), norm.weight, norm.bias, conv.bias, norm.eps)
    norm.update_statistics(mean, variance, y.numel() // y.shape[1], conv.bias)
    return y


# ----------------------------------------------------------------- pool, resize, join and dropout
class MaxPool(nn.Module):
    """2x2 max-pool of stride 2: (N, C, H, W) -> (N, C, H / 2, W / 2), rounded as ceil_mode says."""

    def __init__(self, ceil_mode=False):
        self.ceil_mode = ceil_mode

    def execute(self, x):
        if isinstance(x, ChannelsLast):
            return cpu_operators.max_pool(x, self.ceil_mode)
        if cuda_kernel_suits("max_pool", x):
            return cuda_operators.pool_windows(x, self.ceil_mode)
        return nn.max_pool2d(x, 2, 2, ceil_mode=self.ceil_mode)


class Dropout(nn.Dropout):
    """nn.Dropout, of activations with the channels last too."""

    def execute(self, x):
        if isinstance(x, ChannelsLast):
            return cpu_operators.drop_numbers(x, self.p) if self.is_train and self.p else x
        return super().execute(x)


def resize(x, height, width, align_corners):
    """Bilinear resize of (N, C, h, w) to (N, C, height, width), with PyTorch's coordinates."""
    if x.shape[2:] == [height, width]:
        return x
    if isinstance(x, ChannelsLast):
        return cpu_operators.resize_pixels(x, height, width, align_corners)
    if kernels_suit(x):
        return cpu_planes.ResizePlanes.apply(x, height, width, align_corners)
    if cuda_kernel_suits("resize", x):
        return cuda_operators.join_parts([Resized(x, height, width, align_corners)], height, width)
    return nn.interpolate(x, size=(height, width), mode="bilinear", align_corners=align_corners)


def join(parts, height, width):
    """Concatenate the channels of activations (N, C, h, w): (N, all C, height, width).

    Of a larger part the middle is taken.  A smaller one gets zeros at the bottom and at the right.
    A part may be a `Resized`: it is resized on the way.  On a CPU nothing is copied, and the result
    is a Joined, which only a convolution understands.
    """
    first = next(part for part in parts if not isinstance(part, Resized))
    if not isinstance(first, ChannelsLast) and cuda_kernel_suits("join", first):
        return cuda_operators.join_parts(parts, height, width)
    parts = [resize(*part) if isinstance(part, Resized) else part for part in parts]
    placed = [Placed(x, max(0, (x.shape[2] - height) // 2), max(0, (x.shape[3] - width) // 2))
              for x in parts]
    joined = Joined(placed, height, width)
    one_size = all(x.shape[2:] == [height, width] for x in parts)
    if isinstance(first, ChannelsLast) or (one_size and kernels_suit(first)):
        return joined
    return concatenate(joined)


def concatenate(joined):
    """The concatenation that a Joined stands for, as a Var; that of a ChannelsLast alone."""
    if isinstance(joined, ChannelsLast):
        return leave(joined)
    height, width, copied = joined.height, joined.width, []
    for part in joined.parts:
        x = leave(part.x)
        if x.shape[2] > height or x.shape[3] > width:
            x = x[:, :, part.top:part.top + height, part.left:part.left + width]
        below, right = height - x.shape[2], width - x.shape[3]
        if below or right:
            x = nn.pad(x, (0, right, 0, below))
        copied.append(x)
    return jt.concat(copied, dim=1)
