"""3x3 convolutions on a CPU, of activations with the channels last (kernels/convolution.h).

In training a convolution takes the statistics for BatchNorm on the way.  In prediction it does
BatchNorm's work too.
"""
from typing import NamedTuple

from backend.channels_last import (GROUP, ChannelsLast, enter, leave, padded, parts_of, pass_on,
                                   passed_of, run_kernel)
from backend.start import jt, nn


class LayerShape(NamedTuple):
    """The numbers of a 3x3 convolution of stride 1."""
    parts: list     # {c, top, left} of each part
    height: int     # of all parts together, px
    width: int
    padding: int
    dilation: int
    outputs: int    # channels

    @classmethod
    def of(cls, joined, conv):
        """That of an nn.Conv which reads a Joined."""
        parts = [{"c": x.channels, "top": top, "left": left} for x, top, left in joined.parts]
        return cls(parts, joined.height, joined.width, conv.padding[0], conv.dilation[0],
                   conv.out_channels)

    def output_shape(self, samples):
        sides = (side + 2 * self.padding - 2 * self.dilation for side in (self.height, self.width))
        return [samples, *sides, padded(self.outputs)]

    def tile_side(self, samples, element_type):
        """The side of Winograd's tiles for filters that are kept: 4 or 2 px.

        4 is faster for floats, and for few outputs of bf16, but the filters take 2.25 times as much
        memory, or 4.5 times.  So it needs more tiles than tile_side in convolution.h wants.
        """
        def tiles(side):
            count, steps = samples, side * self.dilation
            for length in self.output_shape(samples)[1:3]:
                count *= length // steps * self.dilation + min(length % steps, self.dilation)
            return count
        worth_it = tiles(4) >= 256 and 5 * tiles(4) < 2 * tiles(2)
        return 4 if worth_it and (element_type == "float32" or self.outputs <= 2 * GROUP) else 2

    def packed_size(self, side, element_type):
        """How many floats take the place of the packed filters, as packed_size in filters.h."""
        total = sum(padded(part["c"]) for part in self.parts)
        size = (side + 2) ** 2 * padded(self.outputs) * total
        return size // 2 if side == 2 and element_type == "bfloat16" else size

    def data(self):
        """The numbers for the C++ that `source` begins."""
        numbers = {f"{name}{k}": value for k, part in enumerate(self.parts)
                   for name, value in part.items()}
        return {**numbers, "h": self.height, "w": self.width, "pad": self.padding,
                "dilation": self.dilation, "k": self.outputs}

    def source(self, y):
        """C++ that defines `shape` and `parts`.  The parts are in0, in1, ...; y is the output."""
        parts = ", ".join(f'{{(T*)in{k}_p, (int)data["c{k}"], in{k}_shape1, in{k}_shape2, '
                          f'(int)data["top{k}"], (int)data["left{k}"]}}'
                          for k in range(len(self.parts)))
        return f"""
            winograd::Part<T> parts[] = {{{parts}}};
            winograd::Shape shape{{in0_shape0, (int)data["h"], (int)data["w"], {y}_shape1,
                {y}_shape2, (int)data["pad"], (int)data["pad"], (int)data["dilation"],
                (int)data["k"]}};
            int count = {len(self.parts)};"""


# ------------------------------------------------------------------------------------- convolution
class Convolved(NamedTuple):
    """The output of a convolution, and what BatchNorm wants to know of it."""
    y: object         # Var (N, h, w, padded outputs)
    mean: object      # Var (outputs,), where it was asked for
    variance: object  # likewise, the biased one


def convolve(shape, xs, weight, bias, statistics):
    """A convolution of the Vars `xs`; statistics: whether mean and variance are wanted."""
    n, kind = len(xs), str(xs[0].dtype)
    numbers = [shape.outputs if statistics else 1]
    source = shape.source("out0") + f"""
        winograd::Statistics statistics{{out1_p, out2_p}};
        layer::forward(shape, parts, count, in{n}_p, data["bias"] ? in{n + 1}_p : nullptr,
                       (T*)out0_p, data["statistics"] ? &statistics : nullptr);"""
    outputs = [(shape.output_shape(xs[0].shape[0]), kind), (numbers, "float32"),
               (numbers, "float32")]
    return Convolved(*run_kernel("layer", source, outputs,
                                 [*xs, weight, weight if bias is None else bias], kind,
                                 bias=bias is not None, statistics=statistics, **shape.data()))


class ConvolutionGradients(NamedTuple):
    of_weight: object
    of_bias: object  # where it was asked for
    of_xs: list


def layer_gradients(shape, xs, weight, gradient, others, needed, bias):
    """The ConvolutionGradients of `convolve`, from its output's gradient.

    others: for each Var of xs, a gradient that is added, or None.  needed: whether its gradient is
    needed at all.  bias: whether that of the bias is.
    """
    n, kind = len(xs), str(xs[0].dtype)
    pointers = ", ".join(f'data["other{k}"] ? (T*)in{n + 2 + k}_p : nullptr' for k in range(n))
    results = ", ".join(f'data["needed{k}"] ? (T*)out{2 + k}_p : nullptr' for k in range(n))
    source = shape.source(f"in{n + 1}") + f"""
        const T* others[] = {{{pointers}}};
        T* results[] = {{{results}}};
        layer::backward(shape, parts, count, in{n}_p, (T*)in{n + 1}_p, others, results, out0_p,
                        data["bias"] ? out1_p : nullptr);"""
    flags = {"bias": bias}
    for k in range(n):
        flags.update({f"other{k}": others[k] is not None, f"needed{k}": needed[k]})
    outputs = [(weight.shape, "float32"), ([shape.outputs if bias else 1], "float32"),
               *((x.shape if yes else [1], kind) for x, yes in zip(xs, needed))]
    inputs = [*xs, weight, gradient, *(gradient if one is None else one for one in others)]
    of_weight, of_bias, *of_xs = run_kernel("layer", source, outputs, inputs, kind, **flags,
                                            **shape.data())
    return ConvolutionGradients(of_weight, of_bias, of_xs)


class Convolution(jt.Function):
    """A 3x3 convolution with its gradients: [y, the inputs again].

    weight: (K, C, 3, 3); bias: (K,) or None; xs: the parts of the input.
    """

    def execute(self, shape, weight, bias, *xs):
        self.saved = shape, weight, bias, xs
        return [convolve(shape, xs, weight, bias, False).y, *passed_of(xs)]

    def grad(self, gradient, *others):
        shape, weight, bias, xs = self.saved
        needed = [place >= 0 for place in self.input_mask[3:]]
        found = layer_gradients(shape, xs, weight, gradient,
                                      others or [None] * len(xs), needed, bias is not None)
        return None, found.of_weight, None if bias is None else found.of_bias, *found.of_xs


# -------------------------------------------------------------------- convolution, BatchNorm, ReLU
NORM = """batch_norm::Shape shape{(size_t)in0_shape0 * in0_shape1 * in0_shape2, (int)in1_shape0};
    batch_norm::Norm norm{in1_p, in2_p, in3_p, in4_p, (float)data["eps"]};"""


class ConvNormReLU(jt.Function):
    """ReLU(BatchNorm(convolution)) + add in training mode: [y, the inputs again].

    weight: (K, C, 3, 3).  norm_weight, norm_bias, eps: BatchNorm's.  add: Var like y, or None.
    shift: the bias of the convolution, (K,) or None.  It is never added, because BatchNorm would
    take it away again: its gradient is 0.
    The batch's mean and biased variance are in `mean` and `variance` afterwards, without gradient.
    """

    def execute(self, shape, eps, weight, norm_weight, norm_bias, shift, add, *xs):
        z, self.mean, self.variance = convolve(shape, xs, weight, None, True)
        self.saved = shape, eps, weight, shift, add, xs
        self.norm_inputs = [z, norm_weight, norm_bias, self.mean, self.variance]
        y, = run_kernel("batch_norm", NORM + """batch_norm::forward(shape, norm, (T*)in0_p,
            data["add"] ? (T*)in5_p : nullptr, (T*)out0_p);""", [(z.shape, str(z.dtype))],
            [*self.norm_inputs, z if add is None else add], str(z.dtype), eps=eps,
            add=add is not None)
        return [y, *passed_of(xs)]

    def grad(self, gradient, *others):
        shape, eps, weight, shift, add, xs = self.saved
        z, norm_weight = self.norm_inputs[:2]
        of_z, of_norm_weight, of_norm_bias = run_kernel(
            "batch_norm", NORM + """batch_norm::backward(shape, norm, (T*)in0_p, (T*)in5_p,
            (T*)out0_p, out1_p, out2_p);""",
            [(z.shape, str(z.dtype)), *[(norm_weight.shape, "float32")] * 2],
            [*self.norm_inputs, gradient], str(z.dtype), eps=eps)
        needed = [place >= 0 for place in self.input_mask[7:]]
        found = layer_gradients(shape, xs, weight, of_z, others or [None] * len(xs), needed,
                                      False)
        return (None, None, found.of_weight, of_norm_weight, of_norm_bias,
                None if shift is None else jt.zeros(shift.shape),
                None if add is None else gradient, *found.of_xs)


def convolve_layer(conv, x):
    """A `Conv` of 3x3 and stride 1 on a ChannelsLast or Joined."""
    joined = parts_of(x)
    inputs = [part.x for part in joined.parts]
    y, *passed = Convolution.apply(LayerShape.of(joined, conv), conv.weight, conv.bias,
                                   *(one.values for one in inputs))
    pass_on(inputs, passed)
    return ChannelsLast(y, conv.out_channels)


def train_layer(conv, norm, x, add=None):
    """`operators.conv_norm_relu` in training, on a ChannelsLast or Joined."""
    conv._packed = None  # of the last prediction
    joined, function = parts_of(x), ConvNormReLU()
    inputs = [part.x for part in joined.parts]
    y, *passed = function(LayerShape.of(joined, conv), norm.eps, conv.weight, norm.weight,
                          norm.bias, conv.bias, None if add is None else add.values,
                          *(one.values for one in inputs))
    pass_on(inputs, passed)
    count = y.shape[0] * y.shape[1] * y.shape[2]
    norm.update_statistics(function.mean, function.variance, count, conv.bias)
    return ChannelsLast(y, conv.out_channels)


# -------------------------------------------------------------------------------------- prediction
def folded(conv, norm):
    """(scale, shift): BatchNorm in prediction multiplies the convolution's filters, and adds."""
    scale = norm.weight / jt.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    return scale, shift if conv.bias is None else shift + conv.bias * scale


class PackedFilters(NamedTuple):
    """A convolution's filters with BatchNorm's scale, as the kernel reads them, and the shift."""
    key: tuple      # which Vars and which input they are for
    filters: object
    shift: object   # Var (K,)
    side: int       # of the tiles


def pack_filters(shape, conv, norm, element_type, side, key):
    """The PackedFilters of an nn.Conv and a BatchNorm in prediction."""
    scale, shift = folded(conv, norm)
    channels = ", ".join(f'(int)data["c{k}"]' for k in range(len(shape.parts)))
    u, = run_kernel("convolution", f"""int channels[] = {{{channels}}};
        winograd::pack_filters(in0_p, (int)data["k"], channels, {len(shape.parts)}, (T*)out0_p,
                               (int)data["side"]);
        """, [([shape.packed_size(side, element_type)], "float32")],
        [conv.weight * scale.reshape(-1, 1, 1, 1)], element_type, side=side, **shape.data())
    return PackedFilters(key, u, shift, side)


def packed_filters(shape, conv, norm, samples, element_type):
    """`pack_filters`, kept on the convolution while its Vars and those of BatchNorm stay the same.

    A Var that is assigned, updated or loaded gets a new number, and no number comes twice.
    """
    variables = [conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    if conv.bias is not None:
        variables.append(conv.bias)
    side = shape.tile_side(samples, element_type)
    key = (element_type, side, norm.eps, *(part["c"] for part in shape.parts),
           *(var.id for var in variables))
    kept = getattr(conv, "_packed", None)
    if kept is None or kept.key != key:
        conv._packed = kept = pack_filters(shape, conv, norm, element_type, side, key)
    return kept


def predict_layer(conv, norm, x, add=None):
    """`operators.conv_norm_relu` in prediction, on a ChannelsLast or Joined.

    One convolution does for both layers, because both are linear.
    """
    joined = parts_of(x)
    if not jt.flags.no_grad:
        return frozen_layer(conv, norm, joined, add)
    shape, xs = LayerShape.of(joined, conv), [part.x.values for part in joined.parts]
    packed, n = packed_filters(shape, conv, norm, xs[0].shape[0], joined.dtype), len(xs)
    source = shape.source("out0") + f"""
        winograd::convolve(shape, parts, count, (T*)in{n}_p, in{n + 1}_p, true,
                           data["add"] ? (const T*)in{n + 2}_p : nullptr, (T*)out0_p,
                           (const winograd::Statistics*)nullptr, (int)data["side"]);"""
    inputs = [*xs, packed.filters, packed.shift, xs[0] if add is None else add.values]
    y, = run_kernel("convolution", source, [(shape.output_shape(xs[0].shape[0]), joined.dtype)],
                    inputs, joined.dtype, add=add is not None, side=packed.side, **shape.data())
    return ChannelsLast(y, conv.out_channels)


def frozen_layer(conv, norm, joined, add):
    """`predict_layer` with its gradient: a net may learn while its BatchNorms do not."""
    scale, shift = folded(conv, norm)
    y, *_ = Convolution.apply(LayerShape.of(joined, conv),
                              conv.weight * scale.broadcast(conv.weight, [1, 2, 3]), shift,
                              *(part.x.values for part in joined.parts))
    y = nn.relu(leave(ChannelsLast(y, conv.out_channels)))  # Jittor has none of bfloat16
    return enter(y if add is None else y + leave(add), joined.dtype)
