// BatchNorm over (N, H, W) in training mode, and the ReLU after it.
// Ioffe and Szegedy, ICML 2015, algorithm 1.
//
// Each thread takes one channel at a time: its planes stay in the cache from the mean over the
// variance to the result.
#include <algorithm>
#include <cmath>
#include <cstring>

namespace batch_norm {

// Sum of f(i) for i below count: blocks in single precision, the blocks' sums in double.
template <class F>
inline double sum_of(size_t count, F f) {
    double total = 0;
    for (size_t first = 0; first < count; first += 1024) {
        float block = 0;
        for (size_t i = first, last = std::min(count, first + 1024); i < last; i++) block += f(i);
        total += block;
    }
    return total;
}

// Whether a number is neither infinite nor NaN, by its bits.
// std::isfinite does not work here: under -ffast-math the compiler takes all numbers for finite.
inline bool finite(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000) != 0x7f800000;
}

struct Shape {
    int n, c;      // samples, channels
    size_t plane;  // pixels of a channel of a sample
};

// y = max(0, weight * (x - mean) / sqrt(variance + eps) + bias).
// mean and variance get each channel's own; the variance is the biased one.
// One NaN makes its whole channel NaN, so that the loss shows it.
inline void forward(const Shape& s, float eps, const float* x, const float* weight,
                    const float* bias, float* y, float* mean, float* variance) {
    #pragma omp parallel for schedule(dynamic)
    for (int c = 0; c < s.c; c++) {
        double total = 0, squares = 0, count = (double)s.n * s.plane;
        for (int n = 0; n < s.n; n++) {
            const float* p = x + ((size_t)n * s.c + c) * s.plane;
            total += sum_of(s.plane, [&](size_t i) { return p[i]; });
        }
        float m = mean[c] = total / count;
        for (int n = 0; n < s.n; n++) {
            const float* p = x + ((size_t)n * s.c + c) * s.plane;
            squares += sum_of(s.plane, [&](size_t i) { return (p[i] - m) * (p[i] - m); });
        }
        variance[c] = squares / count;
        float scale = weight[c] / std::sqrt(squares / count + eps), shift = bias[c];
        for (int n = 0; n < s.n; n++) {
            const float* p = x + ((size_t)n * s.c + c) * s.plane;
            float* q = y + ((size_t)n * s.c + c) * s.plane;
            if (!finite(variance[c])) std::fill_n(q, s.plane, variance[c]);
            else
                for (size_t i = 0; i < s.plane; i++)
                    q[i] = std::max(0.f, (p[i] - m) * scale + shift);
        }
    }
}

// The gradients of x, weight and bias (gx, gweight, gbias) of gy, the gradient of y.
inline void backward(const Shape& s, float eps, const float* x, const float* gy,
                     const float* weight, const float* bias, const float* mean,
                     const float* variance, float* gx, float* gweight, float* gbias) {
    #pragma omp parallel for schedule(dynamic)
    for (int c = 0; c < s.c; c++) {
        float m = mean[c], inverse = 1 / std::sqrt((double)variance[c] + eps),
              scale = weight[c] * inverse, shift = bias[c];
        double count = (double)s.n * s.plane, total = 0, product = 0;
        for (int n = 0; n < s.n; n++) {
            size_t at = ((size_t)n * s.c + c) * s.plane;
            const float *p = x + at, *g = gy + at;
            auto open = [&](size_t i) { return (p[i] - m) * scale + shift > 0 ? g[i] : 0.f; };
            total += sum_of(s.plane, open);
            product += sum_of(s.plane, [&](size_t i) { return open(i) * (p[i] - m); });
        }
        gbias[c] = total;
        gweight[c] = product * inverse;
        float average = total / count, slope = product / count * inverse * inverse;
        for (int n = 0; n < s.n; n++) {
            size_t at = ((size_t)n * s.c + c) * s.plane;
            const float *p = x + at, *g = gy + at;
            float* q = gx + at;
            for (size_t i = 0; i < s.plane; i++) {
                float centred = p[i] - m;
                q[i] = scale * ((centred * scale + shift > 0 ? g[i] : 0.f)
                                - average - centred * slope);
            }
        }
    }
}

}  // namespace batch_norm
