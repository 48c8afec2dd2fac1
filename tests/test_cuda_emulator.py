"""tests/cuda_emulator.h: kernels run as CUDA says, and what CUDA leaves undefined is an error."""
import ctypes

import numpy as np
import pytest
from emulated_cuda import Guarded, compile_emulated

SOURCE = r"""
#include "launch.cuh"
static __global__ void sum_block(const float* x, float* y, int synchronised) {
    __shared__ float kept[8];
    float value = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (int step = 16; step; step /= 2) value += __shfl_down_sync(~0u, value, step);
    if (threadIdx.x % 32 == 0) kept[threadIdx.x / 32] = value;
    if (synchronised) __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0;
        for (int i = 0; i < (int)blockDim.x / 32; i++) total += kept[i];
        y[blockIdx.x] = total;
    }
}
template <int K> static __global__ void places(int* y) {
    int at = (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x * blockDim.y
             + threadIdx.y * blockDim.x + threadIdx.x;
    y[at] = at * K;
}
static __global__ void lanes(int* y) {
    int lane = threadIdx.x;
    y[lane] = __shfl_xor_sync(~0u, lane, 5);
    y[32 + lane] = __shfl_up_sync(~0u, lane, 3);
    y[64 + lane] = __shfl_sync(~0u, lane, 7);
    y[96 + lane] = __popc(__ballot_sync(~0u, lane % 3 == 0));
    y[128 + lane] = __syncthreads_count(lane < 5);
}
static __global__ void undefined(int kind) {
    if (kind == 0 && threadIdx.x == 3) return;
    if (kind == 1 && threadIdx.x == 3) __syncwarp();
    __syncthreads();
    if (kind == 2 && threadIdx.x < 16) __syncwarp();
}
extern "C" void sums(const float* x, float* y, int blocks, int threads, int synchronised) {
    LAUNCH(sum_block, blocks, threads)(x, y, synchronised);
}
extern "C" void all_places(int* y) { LAUNCH(places<3>, dim3(2, 3), dim3(4, 5))(y); }
extern "C" void all_lanes(int* y) { LAUNCH(lanes, 1, 32)(y); }
extern "C" bool fails(int kind) {
    try { LAUNCH(undefined, 2, kind == 3 ? 1025 : 64)(kind); } catch (const std::runtime_error&) {
        return true;
    }
    return false;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_emulated(SOURCE, tmp_path_factory.mktemp("emulated"))


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("blocks, threads", [(1, 32), (3, 256), (2, 64)])
def test_blocks_shuffles_and_shared_memory(library, blocks, threads, backwards):
    x = np.random.default_rng(0).normal(size=(blocks, threads)).astype(np.float32)
    given, found = Guarded(x), Guarded((blocks,))
    library.run_backwards(backwards)
    library.sums(given.pointer, found.pointer, blocks, threads, 1)
    library.run_backwards(0)
    assert np.allclose(found.array, x.sum(1), atol=1e-4)
    assert given.unharmed() and found.unharmed()


def test_a_missing_barrier_shows(library):
    """Thread 0 reads what the other warps have not written yet: NaN."""
    x, found = Guarded(np.ones((1, 64), np.float32)), Guarded((1,))
    library.sums(x.pointer, found.pointer, 1, 64, 0)
    assert np.isnan(found.array[0])


def test_places_of_threads_and_lanes(library):
    y = np.zeros(120, np.int32)
    library.all_places(y.ctypes.data_as(ctypes.c_void_p))
    assert (y == 3 * np.arange(120)).all()
    y, lane = np.zeros((5, 32), np.int32), np.arange(32)
    library.all_lanes(y.ctypes.data_as(ctypes.c_void_p))
    assert (y == [lane ^ 5, np.where(lane < 3, lane, lane - 3), lane * 0 + 7, lane * 0 + 11,
                  lane * 0 + 5]).all()


@pytest.mark.parametrize("kind, is_error", [(0, True), (1, True), (2, True), (3, True), (4, False)])
def test_what_is_undefined_is_an_error(library, kind, is_error):
    library.fails.restype = ctypes.c_bool
    assert library.fails(kind) == is_error


def test_a_write_beside_an_array_is_seen():
    guarded = Guarded((4,))
    guarded.whole[guarded.start + 4] = 0
    assert not guarded.unharmed()
