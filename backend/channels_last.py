"""Activations with the channels last, on a CPU: our kernels read and write them (kernels/).

    x = enter(image, "bfloat16")     # a ChannelsLast; on a GPU the Var itself
    ...
    logits = leave(x)                # float32 (N, C, H, W) again
"""
from pathlib import Path
from typing import NamedTuple

from backend.kernel_choice import kernels_suit
from backend.start import jt

KERNELS = Path(__file__).resolve().parent / "kernels"
GROUP = 16  # channels, as in channels_last.h
ELEMENT_TYPES = {"float32": "float", "bfloat16": "vectors::Bf16"}  # their names in C++


class ChannelsLast:
    """An activation whose channels lie side by side.

    values: Var (N, H, W, padded channels), float32 or bfloat16.  The padding channels are zero.
    channels: how many there are without padding.

    Some operators give `values` back as a further output, and it replaces the Var here.  The
    gradient of all later uses then comes to that operator, which adds it to its own.  Jittor would
    add them in an operator more, and would cut off digits of bfloat16 numbers.
    """

    def __init__(self, values, channels):
        self.values, self.channels = values, channels

    @property
    def shape(self):
        """[N, C, H, W], as of any other activation."""
        samples, height, width, _ = self.values.shape
        return [samples, self.channels, height, width]

    @property
    def dtype(self):
        return str(self.values.dtype)


class Placed(NamedTuple):
    """An activation as part of a larger one: its pixel (y + top, x + left) stands at (y, x)."""
    x: ChannelsLast
    top: int = 0
    left: int = 0


class Joined(NamedTuple):
    """Activations that are concatenated along the channels, without being copied.

    A part that is too large is cropped.  One that is too small gets zeros at the bottom and right.
    The parts may be Vars (N, C, H, W) of one size.
    """
    parts: list    # of Placed
    height: int
    width: int

    @property
    def shape(self):
        """[N, C, H, W] of the concatenation."""
        channels = sum(part.x.shape[1] for part in self.parts)
        return [self.parts[0].x.shape[0], channels, self.height, self.width]

    @property
    def dtype(self):
        return self.parts[0].x.dtype

    @property
    def is_channels_last(self):
        return isinstance(self.parts[0].x, ChannelsLast)

    @property
    def is_cropped(self):
        """Whether a part is larger than the whole."""
        return any(part.x.shape[2] > self.height or part.x.shape[3] > self.width
                   for part in self.parts)


def parts_of(x):
    """The Joined of one ChannelsLast; a Joined itself."""
    return x if isinstance(x, Joined) else Joined([Placed(x)], *x.shape[2:])


def pass_on(activations, passed):
    """Let activations have the Vars that an operator gave back for later uses, [] for none."""
    for x, values in zip(activations, passed):
        x.values = values


def passed_of(xs):
    """The Vars that a jt.Function gives back for later uses: none where there is no gradient."""
    return [] if any(x.is_stop_grad() for x in xs) else list(xs)


def padded(channels):
    """Channels rounded up to whole groups."""
    return -(-channels // GROUP) * GROUP


def run_kernel(header, source, outputs, inputs, element_type, **data):
    """Run C++ and return the list of its outputs.

    header: a file of kernels/.  source: the C++.  It sees the Vars `inputs` as in0, in1, ..., the
    outputs as out0, out1, ..., each number of `data` as data["name"], and the type of an
    activation's numbers as T.  outputs: a (shape, dtype) each.
    """
    head = f'#include "{KERNELS / header}.h"\ntypedef {ELEMENT_TYPES[element_type]} T;\n'
    results = jt.code([shape for shape, _ in outputs], [dtype for _, dtype in outputs], inputs,
                      cpu_header=head, cpu_src=source,
                      data={name: float(value) for name, value in data.items()})
    results[0].compile_options = {f'FLAGS: -I"{KERNELS}" ': 1}
    return results


# ------------------------------------------------------------------------------ in and out
LAYOUT = "layout::Shape shape{{(int){0}_shape0, (int){0}_shape1, (size_t){0}_shape2 * {0}_shape3}};"


def to_channels_last(x, element_type):
    """Var (N, C, H, W) float32 -> Var (N, H, W, padded C) of the element type."""
    samples, channels, height, width = x.shape
    y, = run_kernel("layout", LAYOUT.format("in0") + "layout::enter(shape, in0_p, (T*)out0_p);",
                    [([samples, height, width, padded(channels)], element_type)], [x], element_type)
    return y


def to_channels_first(x, channels):
    """Var (N, H, W, padded C) -> Var (N, C, H, W) float32."""
    samples, height, width, _ = x.shape
    y, = run_kernel("layout", LAYOUT.format("out0") + "layout::leave(shape, (T*)in0_p, out0_p);",
                    [([samples, channels, height, width], "float32")], [x], str(x.dtype))
    return y


class Enter(jt.Function):
    """`to_channels_last` with its gradient."""

    def execute(self, x, element_type):
        self.channels = x.shape[1]
        return to_channels_last(x, element_type)

    def grad(self, gradient):
        return to_channels_first(gradient, self.channels), None


class Leave(jt.Function):
    """`to_channels_first` with its gradient."""

    def execute(self, x, channels):
        self.element_type = str(x.dtype)
        return to_channels_first(x, channels)

    def grad(self, gradient):
        return to_channels_last(gradient, self.element_type), None


def enter(x, element_type="float32"):
    """A Var (N, C, H, W) as our kernels for a CPU want it; where they do not run, the Var itself.

    element_type: of all activations from here on, "float32" or "bfloat16".
    """
    if isinstance(x, ChannelsLast) or not kernels_suit(x):
        return x
    return ChannelsLast(Enter.apply(x, element_type), x.shape[1])


def leave(x):
    """An activation as a Var (N, C, H, W)."""
    return Leave.apply(x.values, x.channels) if isinstance(x, ChannelsLast) else x
