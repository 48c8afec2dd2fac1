"""Our operators for a CPU, of activations with the channels last.

operators.py chooses where they run.  cpu_convolution.py has the 3x3 convolutions.  cpu_planes.py
has what works on the last maps of a net.  The C++ is in kernels/.
"""
from backend.channels_last import ChannelsLast, padded, pass_on, passed_of, run_kernel
from backend.start import jt


# ----------------------------------------------------------------------- pool, resize and dropout
MAX_POOL = """max_pool::Shape shape{{(int)in0_shape0, (int)in0_shape1, (int)in0_shape2,
    (int){0}_shape1, (int){0}_shape2, (int)in0_shape3}};"""


class PoolWindows(jt.Function):
    """2x2 max-pool of stride 2: [y, x again]."""

    def execute(self, x, ceil_mode):
        sides = [(side + bool(ceil_mode)) // 2 for side in x.shape[1:3]]
        kind, self.saved = str(x.dtype), x
        y, = run_kernel("max_pool", MAX_POOL.format("out0")
                        + "max_pool::forward(shape, (T*)in0_p, (T*)out0_p);",
                        [([x.shape[0], *sides, x.shape[3]], kind)], [x], kind)
        return [y, *passed_of([x])]

    def grad(self, gradient, other=None):
        x, kind = self.saved, str(self.saved.dtype)
        of_x, = run_kernel("max_pool", MAX_POOL.format("in1") + """
            max_pool::backward(shape, (T*)in0_p, (T*)in1_p, data["other"] ? (T*)in2_p : nullptr,
                               (T*)out0_p);""",
            [(x.shape, kind)], [x, gradient, gradient if other is None else other], kind,
            other=other is not None)
        return of_x, None


def max_pool(x, ceil_mode):
    """2x2 max-pool of stride 2 of a ChannelsLast."""
    y, *passed = PoolWindows.apply(x.values, ceil_mode)
    pass_on([x], passed)
    return ChannelsLast(y, x.channels)


RESIZE_SHAPE = """resize::Shape shape{{(int){0}_shape0, (int){0}_shape1, (int){0}_shape2,
    (int){1}_shape1, (int){1}_shape2, data["align_corners"] > 0, (int){0}_shape3}};"""


class ResizePixels(jt.Function):
    """Bilinear resize: [y, x again]."""

    def execute(self, x, height, width, align_corners):
        self.saved, kind = (x.shape, align_corners), str(x.dtype)
        y, = run_kernel("resize", RESIZE_SHAPE.format("in0", "out0")
                        + "resize::forward(shape, (T*)in0_p, (T*)out0_p);",
                        [([x.shape[0], height, width, x.shape[3]], kind)], [x], kind,
                        align_corners=align_corners)
        return [y, *passed_of([x])]

    def grad(self, gradient, other=None):
        (shape, align_corners), kind = self.saved, str(gradient.dtype)
        of_x, = run_kernel("resize", RESIZE_SHAPE.format("out0", "in0") + """resize::backward(shape,
            (T*)in0_p, data["other"] ? (T*)in1_p : nullptr, (T*)out0_p);""",
            [(shape, kind)], [gradient, gradient if other is None else other], kind,
            align_corners=align_corners, other=other is not None)
        return of_x, None, None, None


def resize_pixels(x, height, width, align_corners):
    """Bilinear resize of a ChannelsLast."""
    y, *passed = ResizePixels.apply(x.values, height, width, align_corners)
    pass_on([x], passed)
    if x.values.is_stop_grad():  # it comes from frozen modules; Jittor does not pass this on
        y.stop_grad()
    return ChannelsLast(y, x.channels)


class DropNumbers(jt.Function):
    """Dropout of single numbers.  seed: Var (2,) of random numbers in [0, 1)."""

    def execute(self, x, seed, share):
        self.saved = seed, share
        return self.drop(x, seed, share)

    def grad(self, gradient):
        return self.drop(gradient, *self.saved), None, None

    @staticmethod
    def drop(x, seed, share):
        kind = str(x.dtype)
        y, = run_kernel("dropout", """
            unsigned high = in1_p[0] * (1 << 16), low = in1_p[1] * (1 << 16);
            dropout::apply(in0->num, high << 16 | low, data["share"], (T*)in0_p, (T*)out0_p);
            """, [(x.shape, kind)], [x, seed], kind, share=share)
        return y


def drop_numbers(x, share):
    """Dropout of a ChannelsLast: `share` of its numbers become 0, the others grow."""
    return ChannelsLast(DropNumbers.apply(x.values, jt.random((2,)), share), x.channels)


# ------------------------------------------------------------------ 1x1 and transposed convolution
class Pointwise(jt.Function):
    """A 1x1 convolution.  weight: (K, C, 1, 1); bias: (K,) or None."""
    NUMBERS = """
        const int k = in1_shape0, channels = in1_shape1;
        const int pixels = in0_shape0 * in0_shape1 * in0_shape2;
        static thread_local pointwise::Buffer buffer;"""

    def execute(self, x, weight, bias):
        self.saved, kind = (x, weight, bias), str(x.dtype)
        y, = run_kernel("pointwise", self.NUMBERS + """
            const T* parts[] = {(const T*)in0_p};
            void* u = buffer.of(pointwise::packed_size<T>(&channels, 1, k));
            pointwise::pack_filters<T>(in1_p, k, channels, &channels, 1, u);
            pointwise::convolve(pixels, parts, &channels, 1, u, k, data["bias"] ? in2_p : nullptr,
                                (T*)out0_p);""",
            [([*x.shape[:3], padded(weight.shape[0])], kind)],
            [x, weight, weight if bias is None else bias], kind, bias=bias is not None)
        return y

    def grad(self, gradient):
        (x, weight, bias), kind = self.saved, str(gradient.dtype)
        of_x, of_weight, of_bias = run_kernel("pointwise", self.NUMBERS + """
            const T* gy = (T*)in2_p;
            void* u = buffer.of(pointwise::packed_size<T>(&k, 1, channels));
            pointwise::pack_adjoint<T>(in1_p, k, channels, 0, channels, u);
            pointwise::input_gradient(pixels, gy, k, u, channels, (T*)out0_p);
            pointwise::filter_gradient(pixels, (const T*)in0_p, channels, 0, channels, gy, k,
                                       out1_p, out2_p);
            """, [(x.shape, kind), (weight.shape, "float32"), (weight.shape[:1], "float32")],
            [x, weight, gradient], kind)
        return of_x, of_weight, None if bias is None else of_bias


def pointwise(conv, x):
    """A `Conv` of 1x1 on a ChannelsLast."""
    return ChannelsLast(Pointwise.apply(x.values, conv.weight, conv.bias), conv.out_channels)


class Transposed(jt.Function):
    """A transposed convolution of 2x2 and stride 2.  weight: (C, K, 2, 2); bias: (K,) or None."""

    def execute(self, x, weight, bias):
        self.saved, kind = (x, weight, bias), str(x.dtype)
        samples, height, width, _ = x.shape
        y, = run_kernel("transposed_convolution", """
            using namespace transposed_convolution;
            const int c = in1_shape0, k = in1_shape1;
            static thread_local Buffer buffer;
            void* u = buffer.of(packed_bytes<T>(c, k));
            pack_taps<T>(in1_p, c, k, u);
            convolve_transposed(in0_shape0, in0_shape1, in0_shape2, (const T*)in0_p, c, u, k,
                                data["bias"] ? in2_p : nullptr, (T*)out0_p);
            """, [([samples, 2 * height, 2 * width, padded(weight.shape[1])], kind)],
            [x, weight, weight if bias is None else bias], kind, bias=bias is not None)
        return y

    def grad(self, gradient):
        (x, weight, bias), kind = self.saved, str(gradient.dtype)
        of_x, of_weight, of_bias = run_kernel("transposed_convolution", """
            using namespace transposed_convolution;
            const int n = in0_shape0, h = in0_shape1, w = in0_shape2, c = in1_shape0,
                      k = in1_shape1;
            static thread_local Buffer buffer;
            void* u = buffer.of(packed_bytes<T>(c, k));
            pack_adjoint_taps<T>(in1_p, c, k, u);
            const T* gy = (T*)in2_p;
            transposed_convolution::input_gradient(n, h, w, gy, k, u, c, (T*)out0_p);
            transposed_convolution::filter_gradient(n, h, w, (const T*)in0_p, c, gy, k, out1_p,
                                                    out2_p);
            """, [(x.shape, kind), (weight.shape, "float32"), (weight.shape[1:2], "float32")],
            [x, weight, gradient], kind)
        return of_x, of_weight, None if bias is None else of_bias


def transposed(conv, x):
    """A `ConvTranspose` of 2x2 and stride 2 on a ChannelsLast."""
    return ChannelsLast(Transposed.apply(x.values, conv.weight, conv.bias), conv.weight.shape[1])
