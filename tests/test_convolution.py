"""backend/kernels/convolution.h against sums in double precision."""
import ctypes
from typing import NamedTuple

import numpy as np
import pytest
from expected import random
from kernel_library import (LIMITS, TYPES, address, channels_last, compile_kernels, decoded,
                            encoded, has_bf16, same_for_any_threads)

SOURCE = '#include "convolution.h"\n' + "".join(f"""
extern "C" void convolve_{number}(const int* i, int count, const int* of_parts, const void** x,
                                  const float* w, const int* of_adjoint, const float* bias,
                                  int relu, const void* add, void* y, float* mean,
                                  float* variance, int m) {{
    using T = {element};
    winograd::Shape shape{{i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8]}};
    std::vector<winograd::Part<T>> parts;
    std::vector<int> channels;
    for (int p = 0; p < count; p++, of_parts += 5) {{
        parts.push_back({{(const T*)x[p], of_parts[0], of_parts[1], of_parts[2], of_parts[3],
                         of_parts[4]}});
        channels.push_back(of_parts[0]);
    }}
    std::vector<T> u(winograd::packed_size<T>(shape.k, channels.data(), count, m));
    if (of_adjoint)
        winograd::pack_adjoint(w, channels[0], of_adjoint[1], of_adjoint[0], shape.k, u.data(),
                               m);
    else winograd::pack_filters(w, shape.k, channels.data(), count, u.data(), m);
    winograd::Statistics statistics{{mean, variance}};
    winograd::convolve(shape, parts.data(), count, u.data(), bias, relu, (const T*)add, (T*)y,
                       mean ? &statistics : nullptr, m);
}}""" for number, element in enumerate(TYPES))
# n, channels, height, width, outputs, pad, dilation.  A channel, odd sides, several blocks of
# tiles, several chunks of channels and of outputs, blocks of outputs that are half full, fewer
# rows than the dilation.
SHAPES = [(1, 1, 3, 3, 1, 1, 1), (2, 3, 9, 11, 5, 0, 1), (1, 16, 40, 37, 9, 1, 1),
          (1, 33, 17, 13, 80, 1, 1), (1, 600, 6, 7, 150, 1, 1), (2, 20, 21, 19, 17, 2, 2),
          (1, 16, 21, 19, 40, 4, 4), (1, 5, 16, 16, 33, 8, 8), (1, 4, 5, 6, 3, 8, 8),
          (3, 7, 5, 6, 2, 0, 1)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_kernels(SOURCE, tmp_path_factory.mktemp("kernels"))


class Kernel(NamedTuple):
    """The kernel for an element type and tiles of m x m px."""
    library: object
    element: str
    m: int
    limit: float  # the most that a sum may be off, as a share of the sum of magnitudes

    def rounded(self, *shape, seed=0):
        """Random numbers that are elements."""
        return decoded(encoded(random(*shape, seed=seed), self.element))

    def close(self, found, expected, size):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= self.limit * size.max()


@pytest.fixture(params=[("float", 2, 2), ("float", 4, 5), ("vectors::Bf16", 2, 2),
                        ("vectors::Bf16", 4, 1)],
                ids=["float", "float, large tiles", "bf16", "bf16, large tiles"])
def kernel(request, library):
    """A Kernel.  Its limit counts what is rounded: output, transformed inputs and filters."""
    element, m, times = request.param
    if element != "float" and not has_bf16():
        pytest.skip("this processor does not multiply bf16 numbers")
    return Kernel(library, element, m, times * LIMITS[element])


class Convolution:
    """A call of the kernel.  parts: (x, top, left), x being (n, h, w, channels).  w: its filters.

    shape: height and width of the input, of the output, its channels, pad_top, pad_left, dilation.
    adjoint: the first of the channels whose gradient is calculated.
    """

    def __init__(self, kernel, parts, w, shape, adjoint=None):
        h, wide, oh, ow, k, top, left, dilation = shape
        element = kernel.element
        self.run = getattr(kernel.library, f"convolve_{list(TYPES).index(element)}")
        self.kernel, self.w = kernel, np.ascontiguousarray(w)
        images = len(parts[0][0])
        self.shape = (ctypes.c_int * 9)(images, h, wide, oh, ow, top, left, dilation, k)
        self.parts = [channels_last(x, element) for x, *_ in parts]
        self.of_parts = np.array([[x.shape[3], *x.shape[1:3], *place] for x, *place in parts],
                                 np.int32)
        self.adjoint = None if adjoint is None else np.array([adjoint, w.shape[1]], np.int32)
        self.output = images, oh, ow, k

    def __call__(self, bias=None, relu=False, add=None, statistics=False):
        """y, or [y, mean, variance]: the same for any number of threads."""
        add = None if add is None else channels_last(add, self.kernel.element)
        k = self.output[-1]

        def once():
            y = aligned(channels_last(np.full(self.output, np.nan), self.kernel.element))
            found = [np.full(k, 7, np.float32) for _ in range(2)] if statistics else [None, None]
            pointers = (ctypes.c_void_p * len(self.parts))(*map(address, self.parts))
            self.run(self.shape, len(self.parts), address(self.of_parts), pointers,
                     address(self.w), address(self.adjoint), address(bias), relu, address(add),
                     address(y), *map(address, found), self.kernel.m)
            return [y, *found] if statistics else [y]
        y, *found = same_for_any_threads(self.kernel.library, once)
        y = decoded(y)
        assert np.isnan(y).any() or not y[..., k:].any(), "padding channels are 0"
        return [y[..., :k], *found] if statistics else y[..., :k]


def aligned(array):
    """A copy that begins at a multiple of 64 bytes, as Jittor's arrays do."""
    whole = np.empty(array.nbytes + 64, np.uint8)
    first = -whole.ctypes.data % 64
    copy = whole[first:first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def convolved(x, w, pad, dilation):
    """The sum over taps and channels in float64, and that of the magnitudes."""
    x = np.pad(x.astype(np.float64), [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    height, width = (side - 2 * dilation for side in x.shape[1:3])
    y = size = 0
    for r in range(3):
        for q in range(3):
            view = x[:, r * dilation:r * dilation + height, q * dilation:q * dilation + width]
            tap = w[:, :, r, q].T.astype(np.float64)
            y, size = y + view @ tap, size + abs(view) @ abs(tap)
    return y, size


def turned(w):
    """The filters of the adjoint."""
    return w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)


def placed(part, h, w, top, left):
    """The input of h x w px whose pixel (y, x) is pixel (y + top, x + left) of the part."""
    x = np.zeros((len(part), h, w, part.shape[3]), np.float32)
    rows, columns = (slice(max(0, -first), min(side, size - first))
                     for side, size, first in ((h, part.shape[1], top), (w, part.shape[2], left)))
    x[:, rows, columns] = part[:, rows.start + top:rows.stop + top,
                               columns.start + left:columns.stop + left]
    return x


@pytest.mark.parametrize("n, c, h, w, k, pad, dilation", SHAPES)
def test_the_convolution_and_its_adjoint_equal_the_sums(kernel, n, c, h, w, k, pad, dilation):
    x, weight, bias = kernel.rounded(n, h, w, c), random(k, c, 3, 3, seed=1), random(k, seed=2)
    y, size = convolved(x, weight, pad, dilation)
    oh, ow = y.shape[1:3]
    convolution = Convolution(kernel, [(x, 0, 0)], weight,
                              (h, w, oh, ow, k, pad, pad, dilation))
    found, mean, variance = convolution(bias=bias, statistics=True)
    kernel.close(found, y + bias, size)
    found = found.astype(np.float64)
    assert np.abs(mean - found.mean((0, 1, 2))).max() <= 1e-6 * np.abs(found).max()
    np.testing.assert_allclose(variance, found.var((0, 1, 2)), rtol=1e-5)
    add = kernel.rounded(*y.shape, seed=3)
    found = convolution(bias, relu=True, add=add)
    kernel.close(found, np.maximum(y + bias, 0) + add, size)
    gy, back = kernel.rounded(*y.shape, seed=4), 2 * dilation - pad
    found = Convolution(kernel, [(gy, 0, 0)], weight,
                        (oh, ow, h, w, c, back, back, dilation), adjoint=0)()
    kernel.close(found, *convolved(gy, turned(weight), back, dilation))


@pytest.mark.parametrize("dilation, pad, places", [
    (1, 0, [(25, 20, 4, 3), (17, 15, 0, 0), (18, 15, 1, 0)]),
    (1, 1, [(17, 15, 0, 0), (14, 12, 0, 0)]), (1, 1, [(16, 13, -1, -2), (17, 15, 0, 0)]),
    (2, 2, [(16, 14, 0, 0), (17, 15, 0, 0)])])
def test_parts_may_be_cropped_and_extended_by_zeros(kernel, dilation, pad, places):
    h, w, k, channels = 17, 15, 20, [17, 5, 32]
    parts = [(kernel.rounded(2, height, width, c, seed=c), top, left)
             for c, (height, width, top, left) in zip(channels, places)]
    x = np.concatenate([placed(part, h, w, top, left) for part, top, left in parts], 3)
    weight = random(k, x.shape[3], 3, 3)
    y, size = convolved(x, weight, pad, dilation)
    oh, ow = y.shape[1:3]
    found = Convolution(kernel, parts, weight, (h, w, oh, ow, k, pad, pad, dilation))()
    kernel.close(found, y, size)
    gy, first = kernel.rounded(*y.shape, seed=1), 0
    for part, top, left in parts:
        height, width, c = part.shape[1:]
        back = 2 * dilation - pad
        found = Convolution(kernel, [(gy, 0, 0)], weight, (
            oh, ow, height, width, c, back + top, back + left, dilation), adjoint=first)()
        gx, size = convolved(gy, turned(weight[:, first:first + c]), back, dilation)
        kernel.close(found, placed(gx, height, width, -top, -left), size)
        first += c


def test_an_output_that_fits_into_no_cache(kernel):
    """Floats are written past the caches, from 32 MB on."""
    x, weight = kernel.rounded(1, 513, 514, 1), random(20, 1, 3, 3, seed=1)
    found = Convolution(kernel, [(x, 0, 0)], weight, (513, 514, 513, 514, 20, 1, 1, 1))()
    kernel.close(found, *convolved(x, weight, 1, 1))


def test_the_statistics_of_numbers_far_from_zero(kernel):
    """The mean is 300 times the deviation: squares of the numbers themselves would not do."""
    x, weight = kernel.rounded(1, 40, 30, 16), random(20, 16, 3, 3, seed=1)
    bias = np.full(20, 300 * 12, np.float32)
    y, mean, variance = Convolution(kernel, [(x, 0, 0)], weight,
                                    (40, 30, 40, 30, 20, 1, 1, 1))(bias, statistics=True)
    y = y.astype(np.float64)
    np.testing.assert_allclose(mean, y.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, y.var((0, 1, 2)), rtol=1e-4)


def test_not_a_number_stays(kernel):
    x, weight = random(1, 30, 31, 20), random(18, 20, 3, 3, seed=1)
    convolution = (30, 31, 30, 31, 18, 1, 1, 1)
    x[0, 12, 13, 17] = np.nan
    y, mean, variance = Convolution(kernel, [(x, 0, 0)], weight, convolution)(
        statistics=True)
    assert np.isnan(y[0, 11:14, 12:15]).all() and np.isfinite(y[0, :9]).all()
    assert np.isnan(mean).all() and np.isnan(variance).all()
    x[0, 12, 13, 17] = 0
    bias = np.zeros(18, np.float32)
    bias[3] = np.nan
    y, mean, variance = Convolution(kernel, [(x, 0, 0)], weight, convolution)(
        bias, relu=True, statistics=True)
    assert np.isnan(y[..., 3]).all() and np.isfinite(np.delete(y, 3, axis=3)).all()
    assert np.isnan(mean[3]) and np.isnan(variance[3])
    assert np.isfinite(np.delete([mean, variance], 3, axis=1)).all()
