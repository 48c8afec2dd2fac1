"""backend/kernels/pointwise.h and transposed_convolution.h against sums in double precision."""
import ctypes

import numpy as np
import pytest
from expected import random
from kernel_library import (ELEMENTS, LIMITS, TYPES, address, channels_last, compile_kernels,
                            decoded, encoded, same_for_any_threads)

SOURCE = '#include "transposed_convolution.h"\n' + "".join(f"""
extern "C" void convolve_{i}(int pixels, const {T}** x, const int* channels, int parts,
                             const float* w, int c_total, int k, const float* bias, {T}* y) {{
    static channels_last::Buffer u;
    void* packed = u.of(pointwise::packed_size<{T}>(channels, parts, k));
    pointwise::pack_filters<{T}>(w, k, c_total, channels, parts, packed);
    pointwise::convolve(pixels, x, channels, parts, packed, k, bias, y);
}}
extern "C" void input_gradient_{i}(int pixels, const {T}* gy, int k, const float* w, int c_total,
                                   int first, int c, {T}* gx) {{
    static channels_last::Buffer u;
    void* packed = u.of(pointwise::packed_size<{T}>(&k, 1, c));
    pointwise::pack_adjoint<{T}>(w, k, c_total, first, c, packed);
    pointwise::input_gradient(pixels, gy, k, packed, c, gx);
}}
extern "C" void filter_gradient_{i}(int pixels, const {T}* x, int c, int first, int c_total,
                                    const {T}* gy, int k, float* gw, float* gb) {{
    pointwise::filter_gradient(pixels, x, c, first, c_total, gy, k, gw, gb);
}}
extern "C" void transposed_{i}(int n, int h, int w, const {T}* x, int c, const float* filters,
                               int k, const float* bias, {T}* y) {{
    static channels_last::Buffer u;
    void* packed = u.of(transposed_convolution::packed_bytes<{T}>(c, k));
    transposed_convolution::pack_taps<{T}>(filters, c, k, packed);
    transposed_convolution::convolve_transposed(n, h, w, x, c, packed, k, bias, y);
}}
extern "C" void transposed_input_gradient_{i}(int n, int h, int w, const {T}* gy, int k,
                                              const float* filters, int c, {T}* gx) {{
    static channels_last::Buffer u;
    void* packed = u.of(transposed_convolution::packed_bytes<{T}>(c, k));
    transposed_convolution::pack_adjoint_taps<{T}>(filters, c, k, packed);
    transposed_convolution::input_gradient(n, h, w, gy, k, packed, c, gx);
}}
extern "C" void transposed_filter_gradient_{i}(int n, int h, int w, const {T}* x, int c,
                                               const {T}* gy, int k, float* gw, float* gb) {{
    transposed_convolution::filter_gradient(n, h, w, x, c, gy, k, gw, gb);
}}""" for i, T in enumerate(TYPES))
# n, height, width, channels, outputs: a pixel, several blocks of pixels, several chunks of channels
SHAPES = [(1, 1, 1, 1, 1), (2, 5, 7, 3, 2), (1, 13, 19, 64, 2), (1, 20, 30, 40, 33),
          (3, 9, 11, 100, 80), (1, 2, 230, 17, 16), (1, 40, 50, 5, 20)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_kernels(SOURCE, tmp_path_factory.mktemp("kernels"))


def run(library, element, name, *arguments, out):
    """Call a kernel that writes the arrays `out`, its last arguments.  Returns them."""
    function = getattr(library, f"{name}_{list(TYPES).index(element)}")

    def once():
        for array in filter(lambda array: array is not None, out):
            array.fill(7)
        function(*[address(value) if isinstance(value, np.ndarray) else value
                   for value in (*arguments, *out)])
        return [array for array in out if array is not None]
    return same_for_any_threads(library, once)


def blank(element, *shape):
    """An array (n, h, w, channels) to write, with padding channels."""
    return channels_last(np.zeros(shape, np.float32), element)


def rounded(element, *shape, seed=0):
    return decoded(encoded(random(*shape, seed=seed), element))


def compare(element, found, formula, *arrays, shift=0):
    """Assert that `found` is einsum(formula, arrays) + shift, up to a share of the magnitudes."""
    arrays = [array.astype(np.float64) for array in arrays]
    expected = np.einsum(formula, *arrays) + shift
    size = np.einsum(formula, *map(abs, arrays)) + abs(shift)
    found = decoded(np.ascontiguousarray(found))
    assert np.abs(found[..., :expected.shape[-1]] - expected).max() <= LIMITS[element] * size.max()
    assert not found[..., expected.shape[-1]:].any(), "the padding channels are zero"


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("n, h, w, c, k", SHAPES)
def test_a_1x1_convolution_and_its_gradients(library, element, n, h, w, c, k):
    x, weight, bias = rounded(element, n, h, w, c), random(k, c), random(k)
    gy, pixels = rounded(element, n, h, w, k, seed=1), n * h * w
    packed_x, packed_gy = channels_last(x, element), channels_last(gy, element)
    for shift in (bias, None):
        y, = run(library, element, "convolve", pixels, (ctypes.c_void_p * 1)(packed_x.ctypes.data),
                 (ctypes.c_int * 1)(c), 1, weight, c, k, shift, out=[blank(element, n, h, w, k)])
        compare(element, y, "nhwc,kc->nhwk", x, weight, shift=0 if shift is None else shift)
    gx, = run(library, element, "input_gradient", pixels, packed_gy, k, weight, c, 0, c,
              out=[blank(element, n, h, w, c)])
    compare(element, gx, "nhwk,kc->nhwc", gy, weight)
    gw, gb = run(library, element, "filter_gradient", pixels, packed_x, c, 0, c, packed_gy, k,
                 out=[np.zeros((k, c), np.float32), np.zeros(k, np.float32)])
    compare(element, gw, "nhwc,nhwk->kc", x, gy)
    compare("float", gb, "nhwk->k", gy)


@pytest.mark.parametrize("element", ELEMENTS)
def test_a_concatenation_of_parts(library, element):
    n, h, w, k, channels = 1, 11, 13, 20, (1, 33, 16, 2)
    parts = [rounded(element, n, h, w, c, seed=i) for i, c in enumerate(channels)]
    weight, gy = random(k, sum(channels)), rounded(element, n, h, w, k)
    packed = [channels_last(part, element) for part in parts]
    y, = run(library, element, "convolve", n * h * w,
             (ctypes.c_void_p * 4)(*[part.ctypes.data for part in packed]),
             (ctypes.c_int * 4)(*channels), 4, weight, sum(channels), k, None,
             out=[blank(element, n, h, w, k)])
    compare(element, y, "nhwc,kc->nhwk", np.concatenate(parts, 3), weight)
    packed_gy, first, gw = channels_last(gy, element), 0, np.zeros((k, sum(channels)), np.float32)
    for c, part, x in zip(channels, parts, packed):
        own = slice(first, first + c)
        gx, = run(library, element, "input_gradient", n * h * w, packed_gy, k, weight,
                  sum(channels), first, c, out=[blank(element, n, h, w, c)])
        compare(element, gx, "nhwk,kc->nhwc", gy, weight[:, own])
        found, = run(library, element, "filter_gradient", n * h * w, x, c, first, sum(channels),
                     packed_gy, k, out=[gw, None])
        compare(element, found[:, own], "nhwc,nhwk->kc", part, gy)
        assert (np.delete(found, range(first, first + c), axis=1) == 7).all()
        first += c


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("n, h, w, c, k", SHAPES)
def test_a_transposed_convolution_and_its_gradients(library, element, n, h, w, c, k):
    x, filters, bias = rounded(element, n, h, w, c), random(c, k, 2, 2), random(k)
    gy = rounded(element, n, 2 * h, 2 * w, k, seed=1)
    packed_x, packed_gy = channels_last(x, element), channels_last(gy, element)
    for shift in (bias, None):
        y, = run(library, element, "transposed", n, h, w, packed_x, c, filters, k, shift,
                 out=[blank(element, n, 2 * h, 2 * w, k)])
        for a, b in np.ndindex(2, 2):
            compare(element, y[:, a::2, b::2], "nhwc,ck->nhwk", x, filters[:, :, a, b],
                    shift=0 if shift is None else shift)
    taps = gy.reshape(n, h, 2, w, 2, k)
    gx, = run(library, element, "transposed_input_gradient", n, h, w, packed_gy, k, filters, c,
              out=[blank(element, n, h, w, c)])
    compare(element, gx, "nhawbk,ckab->nhwc", taps, filters)
    gw, gb = run(library, element, "transposed_filter_gradient", n, h, w, packed_x, c, packed_gy,
                 k, out=[np.zeros_like(filters), np.zeros(k, np.float32)])
    compare(element, gw, "nhwc,nhawbk->ckab", x, taps)
    compare("float", gb, "nhwk->k", gy)


@pytest.mark.parametrize("element", ELEMENTS)
def test_not_a_number_stays(library, element):
    x, weight, gy = random(1, 8, 9, 20), random(18, 20), random(1, 8, 9, 18)
    x[0, 3, 4, 17] = np.nan
    packed = channels_last(x, element)
    y, = run(library, element, "convolve", 72, (ctypes.c_void_p * 1)(packed.ctypes.data),
             (ctypes.c_int * 1)(20), 1, weight, 20, 18, None, out=[blank(element, 1, 8, 9, 18)])
    y = decoded(y)
    assert np.isnan(y[0, 3, 4, :18]).all() and np.isnan(y[..., 0]).sum() == 1
    gw, gb = run(library, element, "filter_gradient", 72, packed, 20, 0, 20,
                 channels_last(gy, element), 18,
                 out=[np.zeros((18, 20), np.float32), np.zeros(18, np.float32)])
    assert np.isnan(gw[:, 17]).all() and np.isfinite(np.delete(gw, 17, axis=1)).all()
    assert np.isfinite(gb).all()
