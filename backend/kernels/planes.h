// Of images whose channels come first, as planes: 1x1 convolutions with few channels.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>
#include "vectors.h"

namespace planes {

// The input is `parts` images, concatenated along their channels.  k: channels of the output.
struct Mix {
    int n; size_t plane; const int* channels; int parts, k;
    int total() const {
        int sum = 0;
        for (int p = 0; p < parts; p++) sum += channels[p];
        return sum;
    }
};

constexpr size_t BLOCK = 2048;  // pixels of a task; they stay in the cache

// Call f(sample, number of the task, first pixel, pixels), by all threads.
template <class F> inline void each_block(const Mix& s, F f) {
    size_t blocks = (s.plane + BLOCK - 1) / BLOCK;
    #pragma omp parallel for collapse(2)
    for (int n = 0; n < s.n; n++)
        for (size_t b = 0; b < blocks; b++)
            f(n, n * blocks + b, b * BLOCK, std::min(BLOCK, s.plane - b * BLOCK));
}

// Call f(channel of the input, its pixels) for all channels of a sample.  xs: the parts.
template <class P, class F>
inline void each_channel(const Mix& s, P* const* xs, int sample, size_t first, F f) {
    for (int p = 0, c = 0; p < s.parts; p++)
        for (int i = 0; i < s.channels[p]; i++, c++)
            f(c, xs[p] + ((size_t)sample * s.channels[p] + i) * s.plane + first);
}

// y (n, k, plane) = x * w + bias.  w: (k, channels of x).
inline void mix(const Mix& s, const float* const* xs, const float* w, const float* bias, float* y) {
    int total = s.total();
    each_block(s, [&](int n, size_t, size_t first, size_t count) {
        for (int o = 0; o < s.k; o++) {
            float* to = y + ((size_t)n * s.k + o) * s.plane + first;
            std::fill_n(to, count, bias[o]);
            each_channel(s, xs, n, first, [&](int c, const float* x) {
                float weight = w[o * total + c];
                for (size_t i = 0; i < count; i++) to[i] += weight * x[i];
            });
        }
    });
}

// The gradients of x (gxs: of its parts), of w (gw) and of the bias (gb), of gy, that of y.
inline void mix_backward(const Mix& s, const float* const* xs, const float* w, const float* gy,
                         float* const* gxs, float* gw, float* gb) {
    int total = s.total(), sums = s.k * (total + 1);
    size_t tasks = s.n * ((s.plane + BLOCK - 1) / BLOCK);
    std::vector<float> partial(tasks * sums);  // of each task: of gw, then of gb
    each_block(s, [&](int n, size_t task, size_t first, size_t count) {
        float* own = &partial[task * sums];
        for (int o = 0; o < s.k; o++) {
            const float* g = gy + ((size_t)n * s.k + o) * s.plane + first;
            each_channel(s, gxs, n, first, [&](int c, float* to) {
                float weight = w[o * total + c];
                if (o == 0) for (size_t i = 0; i < count; i++) to[i] = weight * g[i];
                else for (size_t i = 0; i < count; i++) to[i] += weight * g[i];
            });
            each_channel(s, xs, n, first, [&](int c, const float* x) {
                float sum = 0;
                for (size_t i = 0; i < count; i++) sum += g[i] * x[i];
                own[o * total + c] = sum;
            });
            float sum = 0;
            for (size_t i = 0; i < count; i++) sum += g[i];
            own[s.k * total + o] = sum;
        }
    });
    for (int i = 0; i < sums; i++) {
        double sum = 0;
        for (size_t t = 0; t < tasks; t++) sum += partial[t * sums + i];
        (i < s.k * total ? gw[i] : gb[i - s.k * total]) = sum;
    }
}

}  // namespace planes
