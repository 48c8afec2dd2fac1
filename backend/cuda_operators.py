"""The operators that are ours on a GPU: as few of Jittor's operators and launches as can be.

operators.py decides where each takes the place of Jittor's.  The CUDA is in kernels/cuda/.
A small net is bound by the time that Jittor and Python need for each operator, whatever the GPU.
So where each input's gradient is a kernel of its own, it is written beside the source: a
jt.Function would put one more operator around every Var.
"""
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from backend.start import jt

CUDA_FOLDER = Path(__file__).resolve().parent / "kernels" / "cuda"


def cuda_code(name, source, shapes, inputs, gradients=(), **data):
    """Run CUDA on float32 Vars and return the list of its outputs, Vars of `shapes`.

    name: the file of kernels/cuda/ that it needs.  source: C++ that launches the kernels.  It sees
    the Vars `inputs` as in0, in1, ..., the outputs as out0, out1, ..., and each number of `data`
    as data["name"].
    gradients: for each input the C++ that makes its gradient, out0, of one output's, which it sees
    after the inputs.
    """
    return jt.code(shapes, ["float32"] * len(shapes), inputs, cuda_header=includes(name),
                   cuda_src=source, cuda_grad_src=list(gradients),
                   data={key: float(value) for key, value in data.items()})


@lru_cache(maxsize=None)
def includes(name):
    """The lines that include a kernel's file, after what all of them need."""
    return "".join(f'#include "{CUDA_FOLDER / file}.cuh"\n' for file in ("launch", name))


# ------------------------------------------------------------------------------------ convolution
def cudnn_numbers(conv):
    """The numbers that cuDNN's operators want to know of an nn.Conv."""
    return [*conv.stride, *conv.padding, *conv.dilation, conv.groups]


def convolution_gradients(x, weight, numbers, gradient):
    """(gradient of x, gradient of the weight) of `cudnn_conv`, of its result's gradient."""
    return (jt.cudnn.ops.cudnn_conv_backward_x(weight, gradient, *x.shape[2:], *numbers),
            jt.cudnn.ops.cudnn_conv_backward_w(x, gradient, *weight.shape[2:], *numbers))


class CudnnConv(jt.Function):
    """A convolution as one operator, and two for its gradients: (N, C, H, W) -> (N, K, h, w).

    nn.conv2d puts it together from five, in which Jittor then finds the convolution again.
    weight: (K, C / groups, r, s); numbers: `cudnn_numbers` of the layer.
    """

    def execute(self, x, weight, numbers):
        self.saved = x, weight, numbers
        return jt.cudnn.ops.cudnn_conv(x, weight, *numbers)

    def grad(self, gradient):
        return *convolution_gradients(*self.saved, gradient), None


# -------------------------------------------------------------------- convolution, BatchNorm, ReLU
PIECE_LENGTH = 8192  # numbers of a large channel that a block works on
AT_ONCE = 16384      # numbers of a channel that one block can do alone
MOST_PIECES = 64     # of a channel
PREDICTED = 4096     # numbers of a channel that a block works on in prediction

NORM_SHAPE = """batch_norm::Shape shape{(int)in0_shape0, (int)in0_shape1,
    (int)(in0_shape2 * in0_shape3), (int)data["pieces"]};"""
NORM_FORWARD = NORM_SHAPE + """batch_norm::forward(shape, data["eps"], in0_p, {in1_p, in2_p},
    out0_p, {out1_p, out2_p}, out3_p);"""
NORM_BACKWARD = NORM_SHAPE + """batch_norm::backward(shape, data["eps"], in0_p, in1_p,
    {in2_p, in3_p}, in4_p, in5_p, {out0_p, out1_p, out2_p, nullptr}, out3_p);"""
NORM_BACKWARD_SHIFTED = NORM_BACKWARD.replace("nullptr", "out4_p")
NORM_PREDICT = NORM_SHAPE + """batch_norm::predict_all(shape, data["eps"], in0_p, {in1_p, in2_p},
    nullptr, in3_p, in4_p, out0_p);"""
NORM_PREDICT_SHIFTED = NORM_PREDICT.replace("nullptr", "in5_p")


def pieces_of(shape):
    """Into how many pieces BatchNorm's kernels cut each channel of (N, C, H, W)."""
    count = shape[0] * shape[2] * shape[3]
    return 1 if count <= AT_ONCE else min(MOST_PIECES, -(-count // PIECE_LENGTH))


class CudaNormReLU(jt.Function):
    """ReLU of BatchNorm in training mode: (N, C, H, W) -> [the same, mean (C,), variance (C,)].

    weight, bias: BatchNorm's, (C,).  shift: the bias of the convolution before it, (C,) or None.
    It was never added, because BatchNorm would take it away again: its gradient is 0.
    """

    def __call__(self, x, weight, bias, shift, eps):
        return self.run([x, weight, bias, *([] if shift is None else [shift])], eps)

    def run(self, given, eps):
        """What jt.Function does, but for mean and variance: they get no operator more."""
        if jt.flags.no_grad:
            return self.execute(given, eps)
        self.taped = [not var.is_stop_grad() for var in given]
        given = [var.tape() if taped else var for var, taped in zip(given, self.taped)]
        y, mean, variance = self.execute(given, eps)
        y = y.tape()
        inputs = [var for var, taped in zip(given, self.taped) if taped]
        jt.tape_together(inputs, [y], self.taped_gradients)
        return y, mean, variance

    def execute(self, given, eps):
        x, weight, bias, *_ = given
        pieces, channel = pieces_of(x.shape), weight.shape
        y, mean, variance, _ = cuda_code(
            "batch_norm", NORM_FORWARD, [x.shape, channel, channel, [channel[0], pieces, 2]],
            [x, weight, bias], eps=eps, pieces=pieces)
        self.saved = given, mean, variance, eps, pieces
        return y, mean, variance

    def taped_gradients(self, gradient):
        return [one for one, taped in zip(self.gradients(gradient), self.taped) if taped]

    def gradients(self, gradient):
        """The gradients of all that `execute` was given, a list."""
        (x, weight, bias, *shift), mean, variance, eps, pieces = self.saved
        shapes = [x.shape, weight.shape, weight.shape, [weight.shape[0], pieces, 2]]
        source = NORM_BACKWARD
        if shift:
            shapes, source = [*shapes, weight.shape], NORM_BACKWARD_SHIFTED
        of_x, of_weight, of_bias, _, *of_shift = cuda_code(
            "batch_norm", source, shapes, [x, gradient, weight, bias, mean, variance], eps=eps,
            pieces=pieces)
        return [of_x, of_weight, of_bias, *of_shift]


class CudaConvNormReLU(CudaNormReLU):
    """The convolution before `CudaNormReLU` in the same function, which saves operators.

    conv: nn.Conv; weight, bias, eps: BatchNorm's.
    """

    def __call__(self, x, conv, weight, bias, eps):
        self.numbers = cudnn_numbers(conv)
        shift = [] if conv.bias is None else [conv.bias]
        return self.run([x, conv.weight, weight, bias, *shift], eps)

    def execute(self, given, eps):
        self.convolved = given[:2]
        y = jt.cudnn.ops.cudnn_conv(*self.convolved, *self.numbers)
        return super().execute([y, *given[2:]], eps)

    def gradients(self, gradient):
        of_y, *others = super().gradients(gradient)
        return [*convolution_gradients(*self.convolved, self.numbers, of_y), *others]


def normalise_and_cut(x, norm, shift):
    """ReLU of BatchNorm in prediction: one kernel, without gradient.

    x: (N, C, H, W); shift: the bias of the convolution before it, (C,) or None.  It is added.
    """
    inputs = [x, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    source = NORM_PREDICT
    if shift is not None:
        inputs, source = [*inputs, shift], NORM_PREDICT_SHIFTED
    pieces = -(-x.shape[0] * x.shape[2] * x.shape[3] // PREDICTED)
    y, = cuda_code("batch_norm", source, [x.shape], inputs, eps=norm.eps, pieces=pieces)
    return y


# ------------------------------------------------------------------------- pool, resize and join
POOL = """max_pool::{way}_all(in0_shape0, {{(int)in0_shape1, (int)in0_shape2, (int)in0_shape3,
    (int){of_y}_shape2, (int){of_y}_shape3}}, {pointers});"""
POOL_FORWARD = POOL.format(way="forward", of_y="out0", pointers="in0_p, out0_p")
POOL_BACKWARD = POOL.format(way="backward", of_y="in1", pointers="in0_p, in1_p, out0_p")


def pool_windows(x, ceil_mode):
    """2x2 max-pool of stride 2 of (N, C, H, W)."""
    sides = [(side + bool(ceil_mode)) // 2 for side in x.shape[2:]]
    y, = cuda_code("max_pool", POOL_FORWARD, [[*x.shape[:2], *sides]], [x], [POOL_BACKWARD])
    return y


class Resized(NamedTuple):
    """A part of a join that is resized on the way there."""
    x: Any       # Var (N, C, h, w)
    height: int
    width: int
    align_corners: bool


@lru_cache(maxsize=None)
def join_sources(resized):
    """The C++ of a join: [forward, the gradient of each part].  resized: a bool for each part."""
    parts = ""
    for k, is_resized in enumerate(resized):
        after = f"in{k}_shape2, in{k}_shape3, false"
        if is_resized:
            after = f'data["rows{k}"], data["columns{k}"], data["corners{k}"] > 0'
        parts += f"parts.add(in{k}_p, in{k}_shape1, in{k}_shape2, in{k}_shape3, {after});\n"
    start = "join::Parts parts({0}_shape0, {0}_shape2, {0}_shape3);\n"
    gradient = f"in{len(resized)}"
    return [start.format("out0") + parts + "join::forward_all(parts, out0_p);",
            *(start.format(gradient) + parts
              + f"join::backward_of(parts, {k}, {gradient}_p, out0_p);"
              for k in range(len(resized)))]


def join_parts(parts, height, width):
    """One kernel for `operators.join`: parts are Vars or Resized, eight at most."""
    inputs, resized, data, channels = [], [], {}, 0
    for k, part in enumerate(parts):
        is_resized = isinstance(part, Resized)
        if is_resized:
            data.update({f"rows{k}": part.height, f"columns{k}": part.width,
                         f"corners{k}": part.align_corners})
            part = part.x
        inputs.append(part)
        resized.append(is_resized)
        channels += part.shape[1]
    forward, *backward = join_sources(tuple(resized))
    y, = cuda_code("join", forward, [[inputs[0].shape[0], channels, height, width]], inputs,
                  backward, **data)
    return y
