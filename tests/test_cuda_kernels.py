"""The CUDA kernels on the CPU, against NumPy in double precision.

A thread that reads beside an array gets NaN, one that writes there is found.  Every case runs
forwards and backwards, which gives the same bits unless a barrier is missing.
"""
import ctypes

import numpy as np
import pytest
from emulated_cuda import Guarded, compile_emulated
from expected import close, pool_windows, random, resize_matrix

SOURCE = r"""
#include "launch.cuh"
#include "batch_norm.cuh"
#include "max_pool.cuh"
#include "join.cuh"
extern "C" void norm_forward(int n, int c, int plane, int pieces, float eps, float* x,
                             float* weight, float* bias, float* y, float* mean, float* variance,
                             float* room) {
    batch_norm::forward({n, c, plane, pieces}, eps, x, {weight, bias}, y, {mean, variance}, room);
}
extern "C" void norm_backward(int n, int c, int plane, int pieces, float eps, float* x, float* gy,
                              float* weight, float* bias, float* mean, float* variance, float* gx,
                              float* gweight, float* gbias, float* gshift, float* room) {
    batch_norm::backward({n, c, plane, pieces}, eps, x, gy, {weight, bias}, mean, variance,
                         {gx, gweight, gbias, gshift}, room);
}
extern "C" void norm_predict(int n, int c, int plane, int pieces, float eps, float* x,
                             float* weight, float* bias, float* shift, float* mean,
                             float* variance, float* y) {
    batch_norm::predict_all({n, c, plane, pieces}, eps, x, {weight, bias}, shift, mean, variance,
                            y);
}
extern "C" void pool_forward(int n, int c, int h, int w, int oh, int ow, float* x, float* y) {
    max_pool::forward_all(n, {c, h, w, oh, ow}, x, y);
}
extern "C" void pool_backward(int n, int c, int h, int w, int oh, int ow, float* x, float* gy,
                              float* gx) {
    max_pool::backward_all(n, {c, h, w, oh, ow}, x, gy, gx);
}
// sizes: of each part channels, rows, columns, resized rows, resized columns, align_corners
static join::Parts parts_of(int n, int h, int w, int count, const int* sizes, float** x) {
    join::Parts parts(n, h, w);
    for (int k = 0; k < count; k++, sizes += 6)
        parts.add(x[k], sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]);
    return parts;
}
extern "C" void join_forward(int n, int h, int w, int count, const int* sizes, float** x,
                             float* y) {
    join::forward_all(parts_of(n, h, w, count, sizes, x), y);
}
extern "C" void join_backward(int n, int h, int w, int count, const int* sizes, float** x, int k,
                              float* gy, float* gx) {
    join::backward_of(parts_of(n, h, w, count, sizes, x), k, gy, gx);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_emulated(SOURCE, tmp_path_factory.mktemp("kernels"))


def call(library, name, numbers, arrays, outputs):
    """Call a function with numbers, arrays and new arrays of the shapes `outputs`.

    Runs it in both orders, and returns the outputs.
    """
    found = []
    for order in (0, 1):
        guarded = [None if array is None else array if isinstance(array, Guarded)
                   else Guarded(array) for array in arrays]
        results = [None if shape is None else Guarded(shape) for shape in outputs]
        pointers = [None if each is None else each.pointer for each in (*guarded, *results)]
        library.run_backwards(order)
        getattr(library, name)(*numbers, *pointers)
        library.run_backwards(0)
        assert all(each is None or each.unharmed() for each in (*guarded, *results))
        found.append([None if each is None else each.array for each in results])
    for first, second in zip(*found):
        assert first is None or (first.view(np.uint32) == second.view(np.uint32)).all()
    return found[0]


# -------------------------------------------------------------------------------------- batch_norm
NORM_SHAPES = [(1, 1, 1, 2, 1), (1, 3, 5, 7, 1), (2, 5, 4, 8, 1), (3, 2, 33, 31, 1),
               (2, 3, 40, 52, 1), (1, 2, 70, 81, 3), (3, 2, 36, 37, 5), (2, 2, 64, 72, 64),
               (1, 1, 3, 3, 4)]  # the last: more pieces than numbers to fill them
EPS = 1e-5


def number(value):
    return ctypes.c_float(value)


def normalised(x, weight, bias):
    x = x.astype(np.float64)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale = weight / np.sqrt(variance + EPS)
    y = (x - mean[:, None, None]) * scale[:, None, None] + bias[:, None, None]
    return np.maximum(y, 0), mean, variance


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("n, c, height, width, pieces", NORM_SHAPES)
def test_batch_norm_forward(library, n, c, height, width, pieces, offset):
    """Also of values of 1000 +- 1, of which E[x^2] - E[x]^2 would leave nothing."""
    x = random(n, c, height, width) + np.float32(offset)
    weight, bias = random(c, seed=1), random(c, seed=2)
    y, mean, variance, _ = call(
        library, "norm_forward", (n, c, height * width, pieces, number(EPS)),
        [x, weight, bias], [x.shape, (c,), (c,), (c, pieces, 2)])
    expected_y, expected_mean, expected_variance = normalised(x, weight, bias)
    close(y, expected_y, 3e-4 if offset else 1e-5)  # the mean is float32
    assert np.abs(mean - expected_mean).max() < 1e-7 * (1 + offset)
    close(variance, expected_variance, 1e-5)


@pytest.mark.parametrize("n, c, height, width, pieces", NORM_SHAPES[1:])
def test_batch_norm_backward(library, n, c, height, width, pieces):
    x, gradient = random(n, c, height, width), random(n, c, height, width, seed=1)
    weight, bias = random(c, seed=2), random(c, seed=3)
    y, mean, variance = normalised(x, weight, bias)
    gx, gweight, gbias, gshift, _ = call(
        library, "norm_backward", (n, c, height * width, pieces, number(EPS)),
        [x, gradient, weight, bias, mean.astype(np.float32), variance.astype(np.float32)],
        [x.shape, (c,), (c,), (c,), (c, pieces, 2)])
    inverse = 1 / np.sqrt(variance + EPS)
    centred = (x - mean[:, None, None]) * inverse[:, None, None]
    opened = np.where(y > 0, gradient, 0).astype(np.float64)
    over = (0, 2, 3)
    close(gbias, opened.sum(over), 2e-5)
    close(gweight, (opened * centred).sum(over), 2e-5)
    assert not gshift.any()
    expected = opened - (opened.mean(over)[:, None, None]
                         + centred * (opened * centred).mean(over)[:, None, None])
    close(gx, expected * (weight * inverse)[:, None, None], 2e-5)


@pytest.mark.parametrize("pieces", [1, 5])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_batch_norm_keeps_what_is_not_finite(library, value, pieces):
    """One such value makes its whole channel so, and no other."""
    x = random(2, 3, 30, 41)
    x[1, 1, 5, 5] = value
    y, *_ = call(library, "norm_forward", (2, 3, 30 * 41, pieces, number(EPS)),
                 [x, *(random(3, seed=seed) for seed in (1, 2))],
                 [x.shape, (3,), (3,), (3, pieces, 2)])
    assert not np.isfinite(y[:, 1]).any() and np.isfinite(y[:, [0, 2]]).all()


@pytest.mark.parametrize("with_shift", [False, True])
@pytest.mark.parametrize("n, c, height, width, pieces", NORM_SHAPES)
def test_batch_norm_in_prediction(library, n, c, height, width, pieces, with_shift):
    x = random(n, c, height, width)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = np.nan, -np.inf
    weight, bias, shift, mean = (random(c, seed=seed) for seed in (1, 2, 3, 4))
    weight[0], variance = 1, random(c, seed=5) ** 2
    y, = call(library, "norm_predict", (n, c, height * width, pieces, number(EPS)),
              [x, weight, bias, shift if with_shift else None, mean, variance], [x.shape])
    expected = (((x + with_shift * shift[:, None, None]).astype(np.float64) - mean[:, None, None])
                * (weight / np.sqrt(variance + EPS))[:, None, None] + bias[:, None, None])
    assert np.isnan(y[0, 0, 0, 0]) and y[0, 0, 0, 1] == 0
    y[0, 0, 0, 0] = expected[0, 0, 0, 0] = 0
    close(y, np.maximum(expected, 0))


# ---------------------------------------------------------------------------------------- max_pool
@pytest.mark.parametrize("n, c, height, width, ceil_mode", [(1, 1, 1, 1, True), *(
    (*shape, ceil_mode) for ceil_mode in (False, True) for shape in (
        (1, 1, 2, 2), (2, 3, 3, 5), (1, 2, 8, 70), (2, 1, 33, 34), (1, 3, 5, 101)))])
def test_max_pool(library, n, c, height, width, ceil_mode):
    """Equal values: the first of the window gets the gradient."""
    x = np.round(random(n, c, height, width))
    oh, ow = ((side + ceil_mode) // 2 for side in (height, width))
    gradient = random(n, c, oh, ow, seed=1)
    expected, of_x = pool_windows(x, gradient)
    sizes = n, c, height, width, oh, ow
    y, = call(library, "pool_forward", sizes, [x], [gradient.shape])
    assert (y == expected).all()
    gx, = call(library, "pool_backward", sizes, [x, gradient], [x.shape])
    assert (gx == of_x).all()


# -------------------------------------------------------------------------------------------- join
def moving_matrix(length, out):
    """(out, length): the middle of a longer axis; zeros after a shorter one."""
    start = max(0, (length - out) // 2)
    return np.eye(out, length, start)


def part(c, h, w, resized_h=None, resized_w=None):
    return c, h, w, resized_h or h, resized_w or w


JOINS = [  # samples, rows, columns, parts
    (2, 8, 10, [part(3, 4, 5, 8, 10)]),
    (1, 13, 17, [part(2, 7, 9, 13, 17)]),
    (1, 32, 3, [part(1, 1, 1, 32, 3)]),
    (1, 9, 7, [part(2, 20, 30, 9, 7)]),
    (1, 34, 33, [part(2, 33, 17, 34, 33)]),
    (1, 40, 64, [part(2, 3, 4, 40, 64)]),                       # a warp for each number
    (2, 6, 8, [part(3, 9, 12), part(2, 3, 4, 6, 8)]),           # a skip that is cropped
    (1, 7, 9, [part(2, 7, 9), part(3, 3, 4, 6, 8)]),            # zeros below and at the right
    (1, 7, 9, [part(2, 7, 9), part(3, 6, 8)]),                  # the same, not resized
    (2, 33, 40, [part(2, 17, 20, 33, 40), part(1, 33, 40)]),
    (1, 5, 6, [part(1, 12, 5, 9, 14)]),                         # resized, then cropped
    (2, 9, 11, [part(k % 3 + 1, 9, 11) for k in range(8)]),
]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("n, height, width, parts", JOINS)
def test_join(library, n, height, width, parts, align_corners):
    """Every part is a product with matrices of its rows and columns, in both directions."""
    arrays = [Guarded(random(n, *sizes[:3], seed=k)) for k, sizes in enumerate(parts)]
    numbers = [value for sizes in parts for value in (*sizes, align_corners)]
    table = (ctypes.c_int * len(numbers))(*numbers)
    pointers = (ctypes.c_void_p * len(arrays))(*(array.pointer for array in arrays))
    start = n, height, width, len(parts), table, pointers
    matrices = [[moving_matrix(after, out) @ resize_matrix(before, after, align_corners)
                 for before, after, out in ((sizes[1], sizes[3], height),
                                            (sizes[2], sizes[4], width))] for sizes in parts]
    channels = [sizes[0] for sizes in parts]
    y, = call(library, "join_forward", start, [], [(n, sum(channels), height, width)])
    close(y, np.concatenate([rows @ array.array @ columns.T
                             for array, (rows, columns) in zip(arrays, matrices)], 1))
    gradient = random(n, sum(channels), height, width, seed=9)
    ends = np.cumsum(channels)
    for k, (rows, columns) in enumerate(matrices):
        gx, = call(library, "join_backward", (*start, k), [gradient],
                   [arrays[k].array.shape])
        close(gx, rows.T @ gradient[:, ends[k] - channels[k]:ends[k]] @ columns)
    assert all(array.unharmed() for array in arrays)
