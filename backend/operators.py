"""The operators that are ours: they are faster than Jittor's own, or keep more digits.

Each takes the place of one of Jittor's, with the same parameters and results.  Jittor's own runs
in double precision, for the shapes that ours are not made for, and on a GPU wherever a kernel has
not passed there (kernel_choice.py).  The C++ is in kernels/.  cuda_operators.py has those for a
GPU.
"""
from pathlib import Path

from backend import cuda_operators, ranks
from backend.cuda_operators import Resized
from backend.kernel_choice import cuda_kernel_suits, kernels_suit, without_kernels
from backend.late_statistics import noted_batches
from backend.start import jt, nn
from backend.updates import BatchStatistics

__all__ = ["BatchNorm", "Conv", "MaxPool", "Resized", "conv_norm_relu", "join", "resize",
           "kernels_suit", "without_kernels"]

KERNELS = Path(__file__).resolve().parent / "kernels"


def run_kernel(headers, source, shapes, inputs, **data):
    """Run C++ on float32 Vars and return the list of its outputs, Vars of `shapes`.

    headers: the files of kernels/ that the C++ needs, besides vectors.h.
    source: the C++.  It sees the Vars `inputs` as in0, in1, ..., the outputs as out0, out1, ...,
    and each number of `data` as data["name"].
    """
    paths = [KERNELS / f"{header}.h" for header in ("vectors", *headers)]
    includes = "".join(f'#include "{path}"\n' for path in paths)
    return jt.code(shapes, ["float32"] * len(shapes), inputs, cpu_header=includes, cpu_src=source,
                   data={name: float(value) for name, value in data.items()})


# ------------------------------------------------------------------------------------ convolution
class Winograd(jt.Function):
    """A 3x3 convolution of stride 1, by Winograd's algorithm (kernels/winograd_tiles.h).

    x: (N, C, H, W); weight: (K, C, 3, 3); bias: (K,) or None; pad: rows and columns of zeros
    around x.  Returns (N, K, H + 2 pad - 2, W + 2 pad - 2).  relu=True cuts negative values off; it
    is for prediction alone, because the gradient does not know of it.
    """
    HEADERS = ("winograd_tiles", "winograd")
    SHAPE = "winograd::Shape shape(in0_shape0, in0_shape1, in0_shape2, in0_shape3"

    def execute(self, x, weight, bias, pad, relu):
        self.saved = x, weight, bias, pad
        height, width = (side + 2 * pad - 2 for side in x.shape[2:])
        inputs, bias_pointer = [x, weight], "nullptr"
        if bias is not None:
            inputs, bias_pointer = [x, weight, bias], "in2_p"
        y, = run_kernel(self.HEADERS, f"""{self.SHAPE}, in1_shape0, data["pad"]);
            winograd::convolve(shape, in0_p, in1_p, {bias_pointer}, data["relu"], false, out0_p);
        """, [[x.shape[0], weight.shape[0], height, width]], inputs, pad=pad, relu=relu)
        return y

    def grad(self, gradient):
        x, weight, bias, pad = self.saved
        of_x, = run_kernel(self.HEADERS, f"""{self.SHAPE}, in1_shape1, data["pad"]);
            winograd::convolve(shape, in0_p, in1_p, nullptr, false, true, out0_p);
        """, [x.shape], [gradient, weight], pad=2 - pad)
        of_weight, of_bias = run_kernel(self.HEADERS, f"""{self.SHAPE}, in1_shape1, data["pad"]);
            winograd::filter_gradient(shape, in0_p, in1_p, out0_p, out1_p);
        """, [weight.shape, weight.shape[:1]], [x, gradient], pad=pad)
        return of_x, of_weight, None if bias is None else of_bias, None, None


class Conv(nn.Conv):
    """nn.Conv.  On a CPU its 3x3 convolutions run by `Winograd` where that is faster.

    It is not for few outputs, which do not make up for the transform of the filters.  It cannot do
    stride, dilation or groups.
    """

    def execute(self, x):
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x, weight, bias, relu=False):
        """Convolve as this layer does, with other weights.  relu=True: for prediction alone."""
        k, c, *sides = weight.shape
        tiles = x.numel() // c // 4
        if (kernels_suit(x) and sides == [3, 3] and self.stride == self.dilation == (1, 1)
                and self.groups == 1 and self.padding in ((0, 0), (1, 1))
                and (tiles >= 256 or c * k <= 4096)):
            return Winograd.apply(x, weight, bias, self.padding[0], relu)
        if cuda_kernel_suits("convolution", x):
            y = cuda_operators.CudnnConv.apply(x, weight, cuda_operators.cudnn_numbers(self))
            if bias is not None:
                y = y + bias.broadcast(y, [0, 2, 3])
        else:
            y = nn.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return nn.relu(y) if relu else y


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


class NormReLU(jt.Function):
    """ReLU of BatchNorm in training mode: (N, C, H, W) -> [the same, mean (C,), variance (C,)].

    weight, bias: BatchNorm's, (C,).  shift: the bias of the convolution before it, (C,) or None.
    It was never added, because BatchNorm would take it away again: its gradient is 0.
    """
    HEADERS = ("batch_norm",)
    SHAPE = ("batch_norm::Shape shape{"
             "(int)in0_shape0, (int)in0_shape1, (size_t)in0_shape2 * in0_shape3};")

    def execute(self, x, weight, bias, shift, eps):
        y, mean, variance = run_kernel(self.HEADERS, f"""{self.SHAPE}
            batch_norm::forward(shape, data["eps"], in0_p, in1_p, in2_p, out0_p, out1_p, out2_p);
        """, [x.shape, weight.shape, weight.shape], [x, weight, bias], eps=eps)
        self.saved = x, weight, bias, mean, variance, shift, eps
        return y, mean, variance

    def grad(self, gradient, *_):
        x, weight, bias, mean, variance, shift, eps = self.saved
        gradients = run_kernel(self.HEADERS, f"""{self.SHAPE}
            batch_norm::backward(shape, data["eps"], in0_p, in1_p, in2_p, in3_p, in4_p, in5_p,
                                 out0_p, out1_p, out2_p);
        """, [x.shape, weight.shape, weight.shape], [x, gradient, weight, bias, mean, variance],
            eps=eps)
        return *gradients, None if shift is None else jt.zeros(shift.shape), None


def conv_norm_relu(conv, norm, x):
    """ReLU(norm(conv(x))) of a `Conv` and a `BatchNorm`: (N, C, H, W) -> (N, K, h, w)."""
    several_ranks = norm.is_train and ranks.size() > 1  # the kernels see no other rank's samples
    on_cpu, on_gpu = kernels_suit(x), cuda_kernel_suits("batch_norm", x)
    if several_ranks or not (on_cpu or on_gpu):
        return nn.relu(norm(conv(x)))
    if norm.is_train:
        return _train_layer(conv, norm, x, on_gpu)
    if on_gpu:
        y = conv.convolve(x, conv.weight, None)
        return cuda_operators.normalise_and_cut(y, norm, conv.bias)
    return _predict_layer(conv, norm, x)


def _train_layer(conv, norm, x, on_gpu):
    """`conv_norm_relu` in training: two kernels."""
    if on_gpu and cuda_kernel_suits("convolution", x):
        y, mean, variance = cuda_operators.CudaConvNormReLU.apply(x, conv, norm.weight, norm.bias,
                                                                  norm.eps)
    else:
        y = conv.convolve(x, conv.weight, None)
        kernel = cuda_operators.CudaNormReLU if on_gpu else NormReLU
        y, mean, variance = kernel.apply(y, norm.weight, norm.bias, conv.bias, norm.eps)
    norm.update_statistics(mean, variance, y.numel() // y.shape[1], conv.bias)
    return y


def _predict_layer(conv, norm, x):
    """`conv_norm_relu` in prediction: one convolution does for both, because both are linear."""
    scale = norm.weight / jt.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    return conv.convolve(x, conv.weight * scale.reshape(-1, 1, 1, 1), shift, relu=True)


# -------------------------------------------------------------------------- pool, resize and join
class Pool(jt.Function):
    """2x2 max-pool of stride 2: (N, C, H, W) -> (N, C, H / 2, W / 2), rounded down.

    ceil_mode=True rounds up.
    """
    HEADERS = ("max_pool",)
    SHAPE = "max_pool::Shape shape{(int)(in0_shape0 * in0_shape1), (int)in0_shape2, (int)in0_shape3"

    def execute(self, x, ceil_mode):
        sides = [-(-side // 2) if ceil_mode else side // 2 for side in x.shape[2:]]
        y, = run_kernel(self.HEADERS, f"""{self.SHAPE}, (int)out0_shape2, (int)out0_shape3}};
            max_pool::forward(shape, in0_p, out0_p);
        """, [[*x.shape[:2], *sides]], [x])
        self.saved = x, y
        return y

    def grad(self, gradient):
        x, y = self.saved
        of_x, = run_kernel(self.HEADERS, f"""{self.SHAPE}, (int)in1_shape2, (int)in1_shape3}};
            max_pool::backward(shape, in0_p, in1_p, in2_p, out0_p);
        """, [x.shape], [x, y, gradient])
        return of_x, None


class MaxPool(nn.Module):
    """2x2 max-pool of stride 2: (N, C, H, W) -> (N, C, H / 2, W / 2), rounded as ceil_mode says."""

    def __init__(self, ceil_mode=False):
        self.ceil_mode = ceil_mode

    def execute(self, x):
        if kernels_suit(x):
            return Pool.apply(x, self.ceil_mode)
        if cuda_kernel_suits("max_pool", x):
            return cuda_operators.pool_windows(x, self.ceil_mode)
        return nn.max_pool2d(x, 2, 2, ceil_mode=self.ceil_mode)


class Resize(jt.Function):
    """Bilinear resize of (N, C, h, w) to (N, C, height, width)."""
    HEADERS = ("resize",)

    def execute(self, x, height, width, align_corners):
        self.saved = x.shape, align_corners
        y, = run_kernel(self.HEADERS, """
            resize::Shape shape{(int)(in0_shape0 * in0_shape1), (int)in0_shape2, (int)in0_shape3,
                                (int)out0_shape2, (int)out0_shape3, data["align_corners"] > 0};
            resize::forward(shape, in0_p, out0_p);
        """, [[*x.shape[:2], height, width]], [x], align_corners=align_corners)
        return y

    def grad(self, gradient):
        shape, align_corners = self.saved
        of_x, = run_kernel(self.HEADERS, """
            resize::Shape shape{(int)(in0_shape0 * in0_shape1), (int)out0_shape2, (int)out0_shape3,
                                (int)in0_shape2, (int)in0_shape3, data["align_corners"] > 0};
            resize::backward(shape, in0_p, out0_p);
        """, [shape], [gradient], align_corners=align_corners)
        return of_x, None, None, None


def resize(x, height, width, align_corners):
    """Bilinear resize of (N, C, h, w) to (N, C, height, width), with PyTorch's coordinates."""
    if x.shape[2:] == [height, width]:
        return x
    if kernels_suit(x):
        return Resize.apply(x, height, width, align_corners)
    if cuda_kernel_suits("resize", x):
        return cuda_operators.join_parts([Resized(x, height, width, align_corners)], height, width)
    return nn.interpolate(x, size=(height, width), mode="bilinear", align_corners=align_corners)


def join(parts, height, width):
    """Concatenate the channels of Vars (N, C, h, w): (N, all C, height, width).

    Of a larger part the middle is taken.  A smaller one gets zeros at the bottom and at the right.
    A part may be a `Resized`: it is resized on the way.
    """
    if cuda_kernel_suits("join", next(part for part in parts if not isinstance(part, Resized))):
        return cuda_operators.join_parts(parts, height, width)
    joined = []
    for x in parts:
        if isinstance(x, Resized):
            x = resize(*x)
        below, right = height - x.shape[2], width - x.shape[3]
        if below < 0 or right < 0:
            top, left = max(0, -below // 2), max(0, -right // 2)
            x = x[:, :, top:top + height, left:left + width]
        if below > 0 or right > 0:
            x = nn.pad(x, (0, max(0, right), 0, max(0, below)))
        joined.append(x)
    return jt.concat(joined, dim=1)
