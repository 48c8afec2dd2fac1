"""The operators that are ours, because they are faster than Jittor's own on a CPU, or keep more digits.

Each takes the place of one of Jittor's, with the same parameters and results.  On a GPU, in double precision and for
shapes that they are not made for, Jittor's own runs.  The C++ is in kernels/.
"""
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from backend import ranks
from backend.start import jt, nn

KERNELS = Path(__file__).resolve().parent / "kernels"

_wanted = ContextVar("whether the kernels are wanted", default=True)


@contextmanager
def without_kernels():
    """`with without_kernels():` Jittor's own operators alone, layer by layer."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


def suits(x):
    """Whether the kernels can work on a Var."""
    return _wanted.get() and x.dtype == "float32" and not jt.flags.use_cuda


def kernel(name, source, shapes, inputs, **data):
    """Run C++ that sees `inputs` as in0 ..., Vars of `shapes` as out0 ..., numbers as data["name"]; the list of Vars.

    name: of its header in kernels/.
    """
    headers = "".join(f'#include "{KERNELS / header}.h"\n' for header in ("vectors", name))
    return jt.code(shapes, ["float32"] * len(shapes), inputs, cpu_header=headers, cpu_src=source,
                   data={key: float(value) for key, value in data.items()})


# ----------------------------------------------------------------------------------------------------------- convolution
class Winograd(jt.Function):
    """A 3x3 convolution of stride 1: (N, C, H, W), (K, C, 3, 3), (K,) or None -> (N, K, H + 2 pad - 2, W + 2 pad - 2)."""

    def execute(self, x, weight, bias, pad, relu):
        self.saved = x, weight, bias, pad
        height, width = (side + 2 * pad - 2 for side in x.shape[2:])
        return kernel("winograd", f"""
            winograd::Shape shape(in0_shape0, in0_shape1, in0_shape2, in0_shape3, in1_shape0, data["pad"]);
            winograd::convolve(shape, in0_p, in1_p, {"nullptr" if bias is None else "in2_p"}, data["relu"], false, out0_p);
        """, [[x.shape[0], weight.shape[0], height, width]], [x, weight] if bias is None else [x, weight, bias],
            pad=pad, relu=relu)[0]

    def grad(self, gradient):
        x, weight, bias, pad = self.saved
        of_x, = kernel("winograd", """
            winograd::Shape shape(in0_shape0, in0_shape1, in0_shape2, in0_shape3, in1_shape1, data["pad"]);
            winograd::convolve(shape, in0_p, in1_p, nullptr, false, true, out0_p);
        """, [x.shape], [gradient, weight], pad=2 - pad)
        of_weight, of_bias = kernel("winograd", """
            winograd::Shape shape(in0_shape0, in0_shape1, in0_shape2, in0_shape3, in1_shape1, data["pad"]);
            winograd::filter_gradient(shape, in0_p, in1_p, out0_p, out1_p);
        """, [weight.shape, weight.shape[:1]], [x, gradient], pad=pad)
        return of_x, of_weight, None if bias is None else of_bias, None, None


class Conv(nn.Conv):
    """nn.Conv whose 3x3 convolutions run by `Winograd` where that is faster: not with stride, dilation or groups, nor where
    there are too few outputs to make up for the filters' transform.
    """

    def execute(self, x):
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x, weight, bias, relu=False):
        """This layer's convolution with other weights; relu: and a ReLU, for prediction alone."""
        k, c, *sides = weight.shape
        tiles = x.numel() // c // 4
        if (suits(x) and sides == [3, 3] and self.stride == self.dilation == (1, 1) and self.groups == 1
                and self.padding in ((0, 0), (1, 1)) and (tiles >= 256 or c * k <= 4096)):
            return Winograd.apply(x, weight, bias, self.padding[0], relu)
        y = nn.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return nn.relu(y) if relu else y


# -------------------------------------------------------------------------------------------- convolution, BatchNorm, ReLU
def channel_mean(x):
    """Mean of each channel, (C,), of (N, C, H, W), over all ranks: rows first, because long float32 sums lose digits."""
    return ranks.sample_mean(x.mean(3).mean(2))


class BatchNorm(nn.BatchNorm):
    """BatchNorm to PyTorch's digits: Jittor's own takes E[x^2] - E[x]^2 of long sums and keeps the biased variance.

    In training its statistics are those of the batch, with several ranks of the whole batch.
    """

    def execute(self, x):
        if not self.is_train:
            return super().execute(x)
        over = [0, 2, 3]
        mean = channel_mean(x)
        centred = x - mean.broadcast(x, over)
        variance = channel_mean(centred * centred)
        self.remember(mean, variance, ranks.all_samples(x.shape[0]) * x.shape[2] * x.shape[3])
        scale = self.weight / jt.sqrt(variance + self.eps)
        return centred * scale.broadcast(x, over) + self.bias.broadcast(x, over)

    def remember(self, mean, variance, count):
        """Move the running statistics towards a batch's mean and (biased) variance over `count` values."""
        unbiased = variance * (count / max(1, count - 1))
        self.running_mean.update(self.running_mean + (mean - self.running_mean) * self.momentum)
        self.running_var.update(self.running_var + (unbiased - self.running_var) * self.momentum)


class NormReLU(jt.Function):
    """ReLU of BatchNorm in training mode: (N, C, H, W) -> [the same, mean (C,), variance (C,)].

    shift: a constant for each channel (the convolution's bias) that was never added, because BatchNorm would take it away
    again: its gradient is 0.
    """
    SHAPE = "batch_norm::Shape shape{(int)in0_shape0, (int)in0_shape1, (size_t)in0_shape2 * in0_shape3};"

    def execute(self, x, weight, bias, shift, eps):
        y, mean, variance = kernel("batch_norm", f"""{self.SHAPE}
            batch_norm::forward(shape, data["eps"], in0_p, in1_p, in2_p, out0_p, out1_p, out2_p);
        """, [x.shape, weight.shape, weight.shape], [x, weight, bias], eps=eps)
        self.saved = x, weight, bias, mean, variance, shift, eps
        return y, mean, variance

    def grad(self, gradient, *_):
        x, weight, bias, mean, variance, shift, eps = self.saved
        gradients = kernel("batch_norm", f"""{self.SHAPE}
            batch_norm::backward(shape, data["eps"], in0_p, in1_p, in2_p, in3_p, in4_p, in5_p, out0_p, out1_p, out2_p);
        """, [x.shape, weight.shape, weight.shape], [x, gradient, weight, bias, mean, variance], eps=eps)
        return *gradients, None if shift is None else jt.zeros(shift.shape), None


def conv_norm_relu(conv, norm, x):
    """ReLU(norm(conv(x))) of a `Conv` and a `BatchNorm`: in training two kernels, in prediction one."""
    if not suits(x) or norm.is_train and ranks.size() > 1:  # the kernel knows no other rank's samples
        return nn.relu(norm(conv(x)))
    if not norm.is_train:  # both are linear: one convolution does for both
        scale = norm.weight / jt.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        shift = shift if conv.bias is None else shift + conv.bias * scale
        return conv.convolve(x, conv.weight * scale.reshape(-1, 1, 1, 1), shift, relu=True)
    y = conv.convolve(x, conv.weight, None)
    y, mean, variance = NormReLU.apply(y, norm.weight, norm.bias, conv.bias, norm.eps)
    norm.remember(mean if conv.bias is None else mean + conv.bias, variance, y.numel() // y.shape[1])
    return y


# -------------------------------------------------------------------------------------------------------- pool and resize
class Pool(jt.Function):
    """2x2 max-pool of stride 2: (N, C, H, W) -> (N, C, H / 2, W / 2), rounded down, or up with `ceil_mode`."""
    SHAPE = "max_pool::Shape shape{(int)(in0_shape0 * in0_shape1), (int)in0_shape2, (int)in0_shape3,"

    def execute(self, x, ceil_mode):
        sides = [(side + ceil_mode) // 2 for side in x.shape[2:]]
        y, = kernel("max_pool", f"""{self.SHAPE} (int)out0_shape2, (int)out0_shape3}};
            max_pool::forward(shape, in0_p, out0_p);
        """, [[*x.shape[:2], *sides]], [x])
        self.saved = x, y
        return y

    def grad(self, gradient):
        x, y = self.saved
        of_x, = kernel("max_pool", f"""{self.SHAPE} (int)in1_shape2, (int)in1_shape3}};
            max_pool::backward(shape, in0_p, in1_p, in2_p, out0_p);
        """, [x.shape], [x, y, gradient])
        return of_x, None


class MaxPool(nn.Module):
    """2x2 max-pool of stride 2."""

    def __init__(self, ceil_mode=False):
        self.ceil_mode = ceil_mode

    def execute(self, x):
        return Pool.apply(x, self.ceil_mode) if suits(x) else nn.max_pool2d(x, 2, 2, ceil_mode=self.ceil_mode)


class Resize(jt.Function):
    """Bilinear resize of (N, C, h, w) to (N, C, height, width)."""

    def execute(self, x, height, width, align_corners):
        self.saved = x.shape, align_corners
        return kernel("resize", """
            resize::Shape shape{(int)(in0_shape0 * in0_shape1), (int)in0_shape2, (int)in0_shape3,
                                (int)out0_shape2, (int)out0_shape3, data["align_corners"] > 0};
            resize::forward(shape, in0_p, out0_p);
        """, [[*x.shape[:2], height, width]], [x], align_corners=align_corners)[0]

    def grad(self, gradient):
        shape, align_corners = self.saved
        of_x, = kernel("resize", """
            resize::Shape shape{(int)(in0_shape0 * in0_shape1), (int)out0_shape2, (int)out0_shape3,
                                (int)in0_shape2, (int)in0_shape3, data["align_corners"] > 0};
            resize::backward(shape, in0_p, out0_p);
        """, [shape], [gradient], align_corners=align_corners)
        return of_x, None, None, None


def resize(x, height, width, align_corners):
    """Bilinear resize of (N, C, h, w) to (N, C, height, width), with PyTorch's coordinates."""
    if x.shape[2:] == [height, width]:
        return x
    if suits(x):
        return Resize.apply(x, height, width, align_corners)
    return nn.interpolate(x, size=(height, width), mode="bilinear", align_corners=align_corners)
