// Bilinear resize, as torch.nn.functional.interpolate defines it, and its adjoint: of channels-last
// images, and of planes (channels first), which suit maps of few channels.
#pragma once
#include <algorithm>
#include <vector>
#include "channels_last.h"

namespace resize {

using namespace channels_last;

struct Shape {
    int n, h, w;   // samples (or planes), and rows and columns of x
    int oh, ow;    // of y
    bool align_corners;
    int channels;  // numbers of a pixel, whole groups; not of planes
};

// Along one axis: the two inputs between which each output lies, and the share of the second.
// In single precision, because PyTorch computes it so.
struct Axis {
    std::vector<int> first, second, from, to;
    std::vector<float> share;
    Axis(int in, int out, bool align_corners)
        : first(out), second(out), from(in, out), to(in, 0), share(out) {
        float scale = align_corners ? (out > 1 ? (float)(in - 1) / (out - 1) : 0.f)
                                    : (float)in / out;
        for (int i = 0; i < out; i++) {
            float at = align_corners ? scale * i : std::max(0.f, scale * (i + 0.5f) - 0.5f);
            first[i] = std::min((int)at, in - 1);
            second[i] = std::min(first[i] + 1, in - 1);
            share[i] = std::min(at - first[i], 1.f);
            for (int input : {first[i], second[i]}) {  // outputs from ... to - 1 see it
                from[input] = std::min(from[input], i);
                to[input] = i + 1;
            }
        }
    }
    // The weight of an input in an output.
    float weight(int input, int i) const {
        return (first[i] == input ? 1 - share[i] : 0.f) + (second[i] == input ? share[i] : 0.f);
    }
};

// ------------------------------------------------------------------------------- channels last
template <class T> inline void forward(const Shape& s, const T* x, T* y) {
    Axis rows(s.h, s.oh, s.align_corners), columns(s.w, s.ow, s.align_corners);
    size_t line = (size_t)s.w * s.channels;
    #pragma omp parallel for schedule(dynamic)
    for (int row = 0; row < s.n * s.oh; row++) {
        int i = row % s.oh;
        const T *image = x + (size_t)(row / s.oh) * s.h * line,
                *top = image + rows.first[i] * line, *bottom = image + rows.second[i] * line;
        float down = rows.share[i], up = 1 - down;
        T* to = y + (size_t)row * s.ow * s.channels;
        for (int j = 0; j < s.ow; j++, to += s.channels) {
            size_t left = (size_t)columns.first[j] * s.channels,
                   right = (size_t)columns.second[j] * s.channels;
            float b = columns.share[j], a = 1 - b;
            for (int k = 0; k < s.channels; k += L)
                store(to + k, a * (up * load(top + left + k) + down * load(bottom + left + k))
                              + b * (up * load(top + right + k) + down * load(bottom + right + k)));
        }
    }
}

// G vectors of the gradient of pixel (i, j) of x: a sum over the outputs that see it.
// gy: the gradient of y, from the image and the channel on.  other: a vector that is added, or
// nullptr.
template <int G, class T>
inline void gather(const Shape& s, const Axis& rows, const Axis& columns, const T* gy, int i, int j,
                   const T* other, T* gx) {
    Vec sum[G] = {};
    if (other) for (int k = 0; k < G; k++) sum[k] = load(other + k * L);
    for (int r = rows.from[i]; r < rows.to[i]; r++) {
        float down = rows.weight(i, r);
        for (int q = columns.from[j]; q < columns.to[j]; q++) {
            float weight = down * columns.weight(j, q);
            const T* g = gy + ((size_t)r * s.ow + q) * s.channels;
            for (int k = 0; k < G; k++) sum[k] += weight * load(g + k * L);
        }
    }
    for (int k = 0; k < G; k++) store(gx + k * L, sum[k]);
}

// gx, the gradient of x, of gy, the gradient of y.  other: a gradient that is added, or nullptr.
template <class T> inline void backward(const Shape& s, const T* gy, const T* other, T* gx) {
    Axis rows(s.h, s.oh, s.align_corners), columns(s.w, s.ow, s.align_corners);
    #pragma omp parallel for schedule(dynamic)
    for (int row = 0; row < s.n * s.h; row++) {
        const T* image = gy + (size_t)(row / s.h) * s.oh * s.ow * s.channels;
        for (int j = 0; j < s.w; j++) {
            size_t at = ((size_t)row * s.w + j) * s.channels;
            int k = 0, i = row % s.h;
            for (; k + 4 * L <= s.channels; k += 4 * L)
                gather<4>(s, rows, columns, image + k, i, j, other ? other + at + k : nullptr,
                          gx + at + k);
            for (; k < s.channels; k += L)
                gather<1>(s, rows, columns, image + k, i, j, other ? other + at + k : nullptr,
                          gx + at + k);
        }
    }
}

// -------------------------------------------------------------------------------------- planes
inline void planes_forward(const Shape& s, const float* x, float* y) {
    Axis rows(s.h, s.oh, s.align_corners), columns(s.w, s.ow, s.align_corners);
    const int *left = columns.first.data(), *right = columns.second.data();
    const float* share = columns.share.data();
    #pragma omp parallel
    {
        std::vector<float> buffer(s.w);
        float* blend = buffer.data();
        #pragma omp for collapse(2)
        for (int p = 0; p < s.n; p++)
            for (int i = 0; i < s.oh; i++) {
                const float *top = x + ((size_t)p * s.h + rows.first[i]) * s.w,
                            *bottom = x + ((size_t)p * s.h + rows.second[i]) * s.w;
                float b = rows.share[i], a = 1 - b;
                for (int j = 0; j < s.w; j++) blend[j] = a * top[j] + b * bottom[j];
                float* row = y + ((size_t)p * s.oh + i) * s.ow;
                for (int j = 0; j < s.ow; j++)
                    row[j] = (1 - share[j]) * blend[left[j]] + share[j] * blend[right[j]];
            }
    }
}

inline void planes_backward(const Shape& s, const float* gy, float* gx) {
    Axis rows(s.h, s.oh, s.align_corners), columns(s.w, s.ow, s.align_corners);
    const int *left = columns.first.data(), *right = columns.second.data();
    const float* share = columns.share.data();
    #pragma omp parallel
    {
        std::vector<float> buffer(s.ow);
        float* sum = buffer.data();
        #pragma omp for collapse(2)
        for (int p = 0; p < s.n; p++)
            for (int i = 0; i < s.h; i++) {
                std::fill_n(sum, s.ow, 0.f);
                for (int r = rows.from[i]; r < rows.to[i]; r++) {
                    const float* g = gy + ((size_t)p * s.oh + r) * s.ow;
                    float weight = rows.weight(i, r);
                    for (int j = 0; j < s.ow; j++) sum[j] += weight * g[j];
                }
                float* row = gx + ((size_t)p * s.h + i) * s.w;
                std::fill_n(row, s.w, 0.f);
                for (int j = 0; j < s.ow; j++) {
                    row[left[j]] += (1 - share[j]) * sum[j];
                    row[right[j]] += share[j] * sum[j];
                }
            }
    }
}

}  // namespace resize
