"""The kernels for BatchNorm, resize and the last maps: the same bits for any number of threads.

tests/test_kernels.py has their values and gradients.  Here they also run with vectors of 8 floats,
which is what a processor without AVX-512 has.
"""
import ctypes

import numpy as np
import pytest
from expected import close, random
from kernel_library import (ELEMENTS, TYPES, address, channels_last, compile_kernels, decoded,
                            same_for_any_threads)

SOURCE = "".join(f'#include "{name}.h"\n' for name in (
    "batch_norm", "max_pool", "resize", "planes")) + "".join(f"""
extern "C" void norm_{number}(const int* i, const void* x, const void* gy, const float* weight,
                              const float* bias, const float* mean, const float* variance,
                              void* y, void* gx, float* gweight, float* gbias) {{
    batch_norm::Shape shape{{(size_t)i[0], i[1]}};
    batch_norm::Norm norm{{weight, bias, mean, variance, 1e-5f}};
    using T = {element};
    batch_norm::forward(shape, norm, (const T*)x, (const T*)nullptr, (T*)y);
    batch_norm::backward(shape, norm, (const T*)x, (const T*)gy, (T*)gx, gweight, gbias);
}}
extern "C" void resize_{number}(const int* i, const void* x, const void* gy, void* y, void* gx) {{
    resize::Shape shape{{i[0], i[1], i[2], i[3], i[4], false, i[5]}};
    using T = {element};
    resize::forward(shape, (const T*)x, (T*)y);
    resize::backward(shape, (const T*)gy, (const T*)nullptr, (T*)gx);
}}
extern "C" void pool_{number}(const int* i, const void* x, const void* gy, void* y, void* gx) {{
    max_pool::Shape shape{{i[0], i[1], i[2], i[3], i[4], i[5]}};
    using T = {element};
    max_pool::forward(shape, (const T*)x, (T*)y);
    max_pool::backward(shape, (const T*)x, (const T*)gy, (const T*)nullptr, (T*)gx);
}}""" for number, element in enumerate(TYPES)) + """
extern "C" void mix(const int* i, const float* x, const float* w, const float* gy, float* gx,
                    float* gw, float* gb) {
    planes::Mix shape{i[0], (size_t)i[1], i + 2, 1, i[3]};
    planes::mix_backward(shape, &x, w, gy, &gx, gw, gb);
}"""


@pytest.fixture(scope="module", params=["native", "narrow"])
def library(request, tmp_path_factory):
    flags = ["-mno-avx512f"] if request.param == "narrow" else []
    return compile_kernels(SOURCE, tmp_path_factory.mktemp("kernels"), flags)


def numbers(*values):
    return (ctypes.c_int * len(values))(*values)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("pixels, channels", [(7, 3), (5000, 20), (300, 130)])
def test_batch_norm(library, element, pixels, channels):
    x, gy = (channels_last(random(pixels, channels, seed=seed), element) for seed in (0, 1))
    exact, g = (decoded(array)[:, :channels].astype(np.float64) for array in (x, gy))
    weight, bias = 1 + 0.1 * random(channels), random(channels, seed=2)
    mean, variance = (values.astype(np.float32) for values in (exact.mean(0), exact.var(0)))

    def run():
        y, gx = np.full_like(x, 7), np.full_like(x, 7)
        gweight, gbias = np.empty(channels, np.float32), np.empty(channels, np.float32)
        getattr(library, f"norm_{list(TYPES).index(element)}")(
            numbers(pixels, channels), *map(address, (x, gy, weight, bias, mean, variance, y, gx,
                                                      gweight, gbias)))
        return y, gx, gweight, gbias
    y, gx, gweight, gbias = same_for_any_threads(library, run)
    limit = 1e-5 if element == "float" else 2 ** -8
    inverse = 1 / np.sqrt(variance.astype(np.float64) + 1e-5)
    normalised = (exact - mean) * inverse
    result = normalised * weight + bias
    opened = g * (result > 0)
    close(decoded(y)[:, :channels], np.maximum(result, 0), limit)
    close(gbias, opened.sum(0))
    close(gweight, (opened * normalised).sum(0))
    expected = weight * inverse * (opened - opened.mean(0)
                                   - normalised * (opened * normalised).mean(0))
    close(decoded(gx)[:, :channels], expected, limit)
    for padded in (y, gx):
        assert not padded[:, channels:].any()


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("kernel, sides", [("resize", (13, 9)), ("pool", (15, 18))])
def test_resize_and_pool(library, element, kernel, sides):
    """Their values are tested elsewhere: here the padding channels, and the bits."""
    x = channels_last(random(2, 30, 36, 70), element)
    gy = channels_last(random(2, *sides, 70, seed=1), element)

    def run():
        y, gx = np.full_like(gy, 7), np.full_like(x, 7)
        getattr(library, f"{kernel}_{list(TYPES).index(element)}")(
            numbers(2, 30, 36, *sides, x.shape[3]), *map(address, (x, gy, y, gx)))
        return y, gx
    y, gx = same_for_any_threads(library, run)
    assert not y[..., 70:].any() and not gx[..., 70:].any()
    near = 1e-5 if element == "float" else 1e-2  # each gradient goes somewhere, and as a whole
    close(decoded(gx).sum((1, 2)), decoded(gy).sum((1, 2)), near)


def test_mix(library):
    x, w, gy = random(2, 12, 5000), random(2, 12), random(2, 2, 5000, seed=1)

    def run():
        gx, gw, gb = np.empty_like(x), np.empty_like(w), np.empty(2, np.float32)
        library.mix(numbers(2, 5000, 12, 2), *map(address, (x, w, gy, gx, gw, gb)))
        return gx, gw, gb
    gx, gw, gb = same_for_any_threads(library, run)
    close(gx, np.einsum("nkp,kc->ncp", gy, w))
    close(gw, np.einsum("nkp,ncp->kc", gy, x))
    close(gb, gy.sum((0, 2)))
