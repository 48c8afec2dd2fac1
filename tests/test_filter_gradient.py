"""backend/kernels/filter_gradient.h against sums in double precision."""
import ctypes

import numpy as np
import pytest
from expected import random
from kernel_library import (ELEMENTS, LIMITS, TYPES, address, channels_last, compile_kernels,
                            decoded, encoded, same_for_any_threads)

SOURCE = '#include "filter_gradient.h"\n' + "".join(f"""
extern "C" void filter_gradient_{number}(const int* i, const void* x, const void* gy, float* gw,
                                         float* gb) {{
    winograd::Shape shape{{i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8]}};
    winograd::Part<{element}> part{{(const {element}*)x, i[9], i[10], i[11], i[12], i[13]}};
    winograd::filter_gradient(shape, part, i[14], i[15], (const {element}*)gy, gw, gb);
}}""" for number, element in enumerate(TYPES))
# n, channels, height, width, outputs, pad, dilation.  A channel, odd sides, several blocks of
# tiles, several chunks of channels, fewer rows than the dilation, more than one part.  From the
# twelfth on the tiles of floats have 4 x 4 px.
SHAPES = [(1, 1, 3, 3, 1, 1, 1), (1, 3, 9, 11, 5, 1, 1), (2, 16, 8, 8, 16, 0, 1),
          (1, 33, 17, 13, 80, 1, 1), (3, 7, 5, 6, 2, 0, 1), (1, 80, 10, 9, 70, 1, 1),
          (2, 20, 21, 19, 17, 2, 2), (1, 16, 21, 19, 16, 4, 4), (1, 5, 16, 16, 40, 8, 8),
          (1, 16, 30, 31, 16, 8, 8), (1, 4, 5, 6, 3, 8, 8), (1, 16, 64, 270, 16, 1, 1),
          (2, 40, 31, 33, 65, 1, 1), (1, 16, 35, 34, 33, 0, 1), (1, 70, 40, 41, 20, 2, 2),
          (1, 17, 64, 63, 16, 8, 8)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_kernels(SOURCE, tmp_path_factory.mktemp("kernels"))


def gradient(library, element, shape, part, x, gy, first=0, c_total=None, bias=True):
    """(gw, gb) by the kernel.  x, gy: (n, h, w, channels).  part: its top, left."""
    n, h, w, pad, dilation = shape
    c, k = x.shape[3], gy.shape[3]
    c_total = c_total or c
    numbers = (ctypes.c_int * 16)(n, h, w, *gy.shape[1:3], pad, pad, dilation, k, c, *x.shape[1:3],
                                  *part, first, c_total)
    run = getattr(library, f"filter_gradient_{list(TYPES).index(element)}")
    x, gy = channels_last(x, element), channels_last(gy, element)

    def once():
        gw = np.full((k, c_total, 3, 3), 7, np.float32)
        gb = np.full(k, 7, np.float32) if bias else None
        run(numbers, address(x), address(gy), address(gw), address(gb))
        return [gw, gb] if bias else [gw]
    return same_for_any_threads(library, once)


def taps(x, gy, pad, dilation):
    """What each tap sees, (3, 3, n, oh, ow, c): x is the virtual input (n, h, w, c)."""
    x = np.pad(x.astype(np.float64), [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    oh, ow = gy.shape[1:3]
    return np.stack([np.stack([x[:, r * dilation:r * dilation + oh, q * dilation:q * dilation + ow]
                               for q in range(3)]) for r in range(3)])


def compare(found, x, gy, pad, dilation, element):
    """Assert that gw is the gradient, up to a share of the largest sum of magnitudes."""
    views, gy = taps(x, gy, pad, dilation), gy.astype(np.float64)
    expected, size = (np.einsum("rqnhwc,nhwk->kcrq", *arrays, optimize=True)
                      for arrays in ((views, gy), (abs(views), abs(gy))))
    assert np.abs(found - expected).max() <= LIMITS[element] * size.max()


def rounded(element, *shape, seed=0):
    return decoded(encoded(random(*shape, seed=seed), element))


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("n, c, h, w, k, pad, dilation", SHAPES)
def test_the_gradient_equals_the_sum(library, element, n, c, h, w, k, pad, dilation):
    x = rounded(element, n, h, w, c)
    side = 2 * pad - 2 * dilation
    gy = rounded(element, n, h + side, w + side, k, seed=1)
    gw, gb = gradient(library, element, (n, h, w, pad, dilation), (0, 0), x, gy)
    compare(gw, x, gy, pad, dilation, element)
    sums = gy.sum((0, 1, 2), dtype=np.float64)
    assert np.abs(gb - sums).max() <= 1e-6 * np.abs(gy).sum((0, 1, 2)).max()
    without, = gradient(library, element, (n, h, w, pad, dilation), (0, 0), x, gy, bias=False)
    assert without.tobytes() == gw.tobytes()


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("height, width, top, left", [(20, 17, 1, 2), (15, 12, 0, 0),
                                                      (12, 30, 0, 9), (14, 13, -1, -2)])
def test_a_part_may_be_cropped_and_extended_by_zeros(library, element, dilation, height, width,
                                                     top, left):
    h, w, c, k = 17, 13, 20, 40
    part = rounded(element, 2, height, width, c)
    x = np.zeros((2, h, w, c), np.float32)
    rows = [y for y in range(h) if 0 <= y + top < height]
    columns = [y for y in range(w) if 0 <= y + left < width]
    x[:, rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1] = part[
        :, rows[0] + top:rows[-1] + top + 1, columns[0] + left:columns[-1] + left + 1]
    gy = rounded(element, 2, h, w, k, seed=1)
    gw, _ = gradient(library, element, (2, h, w, dilation, dilation), (top, left), part, gy,
                     first=3, c_total=c + 5)
    compare(gw[:, 3:3 + c], x, gy, dilation, dilation, element)
    assert (gw[:, :3] == 7).all() and (gw[:, 3 + c:] == 7).all(), "other parts' gradients"


@pytest.mark.parametrize("element", ELEMENTS)
def test_not_a_number_stays(library, element):
    x, gy = random(1, 8, 9, 20), random(1, 8, 9, 18, seed=1)
    x[0, 3, 4, 17] = np.nan
    gw, gb = gradient(library, element, (1, 8, 9, 1, 1), (0, 0), x, gy)
    assert np.isnan(gw[:, 17]).all() and np.isfinite(np.delete(gw, 17, axis=1)).all()
    assert np.isfinite(gb).all()
    x[0, 3, 4, 17], gy[0, 7, 8, 2] = 0, np.nan
    gw, gb = gradient(library, element, (1, 8, 9, 1, 1), (0, 0), x, gy)
    assert np.isnan(gw[2]).any() and np.isfinite(np.delete(gw, 2, axis=0)).all()
    assert np.isnan(gb[2]) and np.isfinite(np.delete(gb, 2)).all()
