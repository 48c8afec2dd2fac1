// What the kernels here share.  Include it before a kernel's own file: no file of this folder
// includes another, because Jittor looks for included files in its own folders alone.
#pragma once

// LAUNCH(kernel, blocks, threads)(arguments...).  tests/cuda_emulator.h has its own.
#ifndef LAUNCH
#define LAUNCH(kernel, blocks, threads) kernel<<<blocks, threads>>>
#endif

namespace cuda {

constexpr unsigned ALL = ~0u;  // all lanes of a warp

// W numbers in a row, 1 or 4: loaded and stored at once.
template <int W>
struct alignas(4 * W) Pack { float v[W]; };

template <int W>
static __device__ __forceinline__ Pack<W> load(const float* p) { return *(const Pack<W>*)p; }
template <int W>
static __device__ __forceinline__ void store(float* p, const Pack<W>& pack) { *(Pack<W>*)p = pack; }

template <int W>
static __device__ __forceinline__ float sum(const Pack<W>& pack) {
    float total = pack.v[0];
    for (int j = 1; j < W; j++) total += pack.v[j];
    return total;
}

// Whether Pack<4> can start at each of these addresses.
static inline bool aligned(const void* a, const void* b, const void* c = nullptr) {
    return ((size_t)a | (size_t)b | (size_t)c) % 16 == 0;
}

// The sums of a and b over all threads of a block of whole warps, the same bits in each thread.
// kept: shared memory for 32 pairs.
static __device__ __forceinline__ float2 block_sum(float a, float b, float2* kept) {
    for (int bit = 16; bit; bit /= 2) {
        a += __shfl_xor_sync(ALL, a, bit);
        b += __shfl_xor_sync(ALL, b, bit);
    }
    __syncthreads();  // an earlier sum may still be read
    if (threadIdx.x % 32 == 0) kept[threadIdx.x / 32] = make_float2(a, b);
    __syncthreads();
    float2 total = kept[0];
    for (int warp = 1; warp < (int)blockDim.x / 32; warp++) {
        total.x += kept[warp].x;
        total.y += kept[warp].y;
    }
    return total;
}

}  // namespace cuda
