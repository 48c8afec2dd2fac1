"""Our operators for a CPU, of Vars (N, C, H, W) float32 with few channels: a net's last maps.

Channels last would pad them to 16 channels.
"""
from backend.channels_last import run_kernel
from backend.start import jt


class ResizePlanes(jt.Function):
    """Bilinear resize of a Var (N, C, h, w) float32, which suits maps of few channels."""
    SHAPE = """resize::Shape shape{{(int)({0}_shape0 * {0}_shape1), (int){0}_shape2,
        (int){0}_shape3, (int){1}_shape2, (int){1}_shape3, data["align_corners"] > 0, 1}};"""

    def execute(self, x, height, width, align_corners):
        self.saved = x.shape, align_corners
        y, = run_kernel("resize", self.SHAPE.format("in0", "out0")
                        + "resize::planes_forward(shape, in0_p, out0_p);",
                        [([*x.shape[:2], height, width], "float32")], [x], "float32",
                        align_corners=align_corners)
        return y

    def grad(self, gradient):
        shape, align_corners = self.saved
        of_x, = run_kernel("resize", self.SHAPE.format("out0", "in0")
                           + "resize::planes_backward(shape, in0_p, out0_p);",
                           [(shape, "float32")], [gradient], "float32",
                           align_corners=align_corners)
        return of_x, None, None, None


class PointwisePlanes(jt.Function):
    """A 1x1 convolution of maps of the same size, which are joined along their channels.

    weight: (K, C, 1, 1); bias: (K,).  xs: the parts, Vars (N, channels of it, H, W).
    """

    def execute(self, weight, bias, *xs):
        self.saved, n = (weight, xs), len(xs)
        y, = run_kernel("planes", self.source(n) + f"planes::mix(shape, xs, in{n}_p, "
                        f"in{n + 1}_p, out0_p);",
                        [([xs[0].shape[0], weight.shape[0], *xs[0].shape[2:]], "float32")],
                        [*xs, weight, bias], "float32")
        return y

    def grad(self, gradient):
        weight, xs = self.saved
        n = len(xs)
        results = ", ".join(f"out{k + 2}_p" for k in range(n))
        return run_kernel("planes", self.source(n) + f"""
            float* results[] = {{{results}}};
            planes::mix_backward(shape, xs, in{n}_p, in{n + 1}_p, results, out0_p, out1_p);""",
            [(weight.shape, "float32"), (weight.shape[:1], "float32"),
             *((x.shape, "float32") for x in xs)], [*xs, weight, gradient], "float32")

    @staticmethod
    def source(n):
        """C++ that defines the shape and the parts."""
        return f"""
            const float* xs[] = {{{", ".join(f"in{k}_p" for k in range(n))}}};
            const int channels[] = {{{", ".join(f"(int)in{k}_shape1" for k in range(n))}}};
            planes::Mix shape{{(int)in0_shape0, (size_t)in0_shape2 * in0_shape3, channels, {n},
                              (int)in{n}_shape0}};"""
