// BatchNorm over (N, H, W) in training mode, and the ReLU after it, of channels-last images.
// Ioffe and Szegedy, ICML 2015, algorithm 1.
//
// The convolution before it has taken mean and variance.  Every kernel here reads the pixels once.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>
#include "channels_last.h"

namespace batch_norm {

using namespace channels_last;

// Samples times pixels, and channels.
struct Shape { size_t pixels; int c; };

// weight, bias, mean and the biased variance of c channels, and what follows from them.
struct Norm {
    const float *weight, *bias, *mean, *variance;
    float eps;
    double inverse(int c) const { return 1 / std::sqrt((double)variance[c] + eps); }
};

// Numbers of each channel; the padding channels have zeros.
class PerChannel {
    std::vector<float> numbers;
public:
    explicit PerChannel(int c) : numbers(padded(c) + L) {}
    float& operator[](int c) { return numbers[c]; }
    Vec at(int channel) const { return load(numbers.data() + channel); }
};

// What ReLU cuts off at 0 is (x - mean) * scale + shift.
struct Affine {
    PerChannel mean, scale, shift;
    Affine(int c, const Norm& norm) : mean(c), scale(c), shift(c) {
        for (int i = 0; i < c; i++) {
            mean[i] = norm.mean[i];
            scale[i] = norm.weight[i] * norm.inverse(i);
            shift[i] = norm.bias[i];
        }
    }
};

// Pixels of a task.  The shape alone decides, because each task has sums of its own.
inline int pixels_of(const Shape& s) {
    return std::max(64, std::min(1024, 1 << 16 >> (31 - __builtin_clz(padded(s.c)))));
}
inline int tasks_of(const Shape& s) {
    return (int)((s.pixels + pixels_of(s) - 1) / pixels_of(s));
}

// Call f(first pixel, pixels) for each task, by all threads.
template <class F> inline void each_task(const Shape& s, F f) {
    int tasks = tasks_of(s), pixels = pixels_of(s);
    #pragma omp parallel for schedule(dynamic)
    for (int t = 0; t < tasks; t++) {
        size_t first = (size_t)t * pixels;
        f(first, (int)std::min<size_t>(pixels, s.pixels - first));
    }
}

// y = max(0, weight * (x - mean) / sqrt(variance + eps) + bias) + add.
// add: an image, or nullptr.  One NaN in mean or variance makes its whole channel NaN, so that the
// loss shows it.
template <class T>
inline void forward(const Shape& s, const Norm& norm, const T* x, const T* add, T* y) {
    const Affine affine(s.c, norm);
    int channels = padded(s.c);
    each_task(s, [&](size_t first, int pixels) {
        size_t at = first * channels;
        for (int i = 0; i < pixels; i++, at += channels)
            for (int c = 0; c < channels; c += L) {
                Vec centred = load(x + at + c) - affine.mean.at(c);
                Vec v = rectified(centred * affine.scale.at(c) + affine.shift.at(c));
                if (add) v += load(add + at + c);
                store(y + at + c, v);
            }
    });
}

// The sums of one task over its pixels, for G vectors of channels from c on: of gy where the ReLU
// is open, and of gy times (x - mean) there.  They go to sums[c] and sums[channels + c].
template <int G, class T>
inline void sum_up(const T* x, const T* gy, int pixels, int channels, int c, const Affine& affine,
                   float* sums) {
    Vec m[G], a[G], b[G], gradient[G] = {}, product[G] = {};
    for (int k = 0; k < G; k++) {
        m[k] = affine.mean.at(c + k * L);
        a[k] = affine.scale.at(c + k * L);
        b[k] = affine.shift.at(c + k * L);
    }
    x += c, gy += c;
    for (int i = 0; i < pixels; i++, x += channels, gy += channels)
        for (int k = 0; k < G; k++) {
            Vec centred = load(x + k * L) - m[k], open = load(gy + k * L);
            open = centred * a[k] + b[k] > 0 ? open : Vec{};
            gradient[k] += open;
            product[k] += open * centred;
        }
    for (int k = 0; k < G; k++) {
        store(sums + c + k * L, gradient[k]);
        store(sums + channels + c + k * L, product[k]);
    }
}

// The gradients of x, weight and bias (gx, gweight, gbias) of gy, the gradient of y.
template <class T>
inline void backward(const Shape& s, const Norm& norm, const T* x, const T* gy, T* gx,
                     float* gweight, float* gbias) {
    const Affine affine(s.c, norm);
    PerChannel average(s.c), slope(s.c);
    int channels = padded(s.c), tasks = tasks_of(s), length = pixels_of(s);
    static thread_local Buffer buffer;
    float* sums = (float*)buffer.of((size_t)tasks * 2 * channels * sizeof(float));
    each_task(s, [&](size_t first, int pixels) {
        float* own = sums + first / length * 2 * channels;
        const T *xs = x + first * channels, *gs = gy + first * channels;
        int c = 0;
        for (; c + 4 * L <= channels; c += 4 * L)
            sum_up<4>(xs, gs, pixels, channels, c, affine, own);
        for (; c < channels; c += L)
            sum_up<1>(xs, gs, pixels, channels, c, affine, own);
    });
    for (int c = 0; c < s.c; c++) {
        double total = 0, product = 0, inverse = norm.inverse(c);
        for (int t = 0; t < tasks; t++) {
            total += sums[(size_t)t * 2 * channels + c];
            product += sums[(size_t)t * 2 * channels + channels + c];
        }
        gbias[c] = total;
        gweight[c] = product * inverse;
        average[c] = total / s.pixels;
        slope[c] = product / s.pixels * inverse * inverse;
    }
    each_task(s, [&](size_t first, int pixels) {
        size_t at = first * channels;
        for (int i = 0; i < pixels; i++, at += channels)
            for (int c = 0; c < channels; c += L) {
                Vec centred = load(x + at + c) - affine.mean.at(c), open = load(gy + at + c);
                Vec scale = affine.scale.at(c);
                open = centred * scale + affine.shift.at(c) > 0 ? open : Vec{};
                store(gx + at + c, scale * (open - average.at(c) - centred * slope.at(c)));
            }
    });
}

}  // namespace batch_norm
