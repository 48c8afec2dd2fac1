// Transposed convolutions of 2 x 2 px and stride 2 over channels-last images.
//
// Their outputs do not overlap: each of the four taps is a 1x1 convolution of its own,
//     y[2 i + a][2 j + b] = x[i][j] w[a][b] + bias
// x is (n, h, w, padded(c)), y (n, 2 h, 2 w, padded(k)), the filters are (c, k, 2, 2).
#pragma once
#include "pointwise.h"

namespace transposed_convolution {

using namespace pointwise;

constexpr int TAPS = 4;

// Of images of 2 h x 2 w px the pixels (2 i + tap / 2, 2 j + tap % 2).
template <class T> inline Pixels<T> every_second(T* data, int channels, int w, int tap) {
    size_t pixel = padded(channels), row = 2 * w * pixel;
    return {data + tap / 2 * row + tap % 2 * pixel, channels, 2 * row, 2 * pixel};
}
template <class T> inline Pixels<T> every(T* data, int channels, int w) {
    size_t pixel = padded(channels);
    return {data, channels, w * pixel, pixel};
}

// How many bytes the packed filters take, of either pack function.
template <class T> inline size_t packed_bytes(int c, int k) {
    return TAPS * (size_t)padded(c) * padded(k) * sizeof(float) / STEP<T>;
}
template <class T> inline void pack_taps(const float* filters, int c, int k, void* u) {
    for (int tap = 0; tap < TAPS; tap++) {
        Weights weights = {filters + tap, c, TAPS, (size_t)k * TAPS};
        pack_weights<T>(&weights, 1, k, (char*)u + tap * packed_bytes<T>(c, k) / TAPS);
    }
}
// bias: (k), or nullptr.  u: of pack_taps.
template <class T>
inline void convolve_transposed(int n, int h, int w, const T* x, int c, const void* u, int k,
                                const float* bias, T* y) {
    Pixels<const T> input = every(x, c, w);
    for (int tap = 0; tap < TAPS; tap++)
        multiply({n * h, w}, &input, 1, (const char*)u + tap * packed_bytes<T>(c, k) / TAPS, bias,
                 every_second(y, k, w, tap));
}

template <class T> inline void pack_adjoint_taps(const float* filters, int c, int k, void* u) {
    Weights weights[TAPS];
    for (int tap = 0; tap < TAPS; tap++)
        weights[tap] = {filters + tap, k, (size_t)k * TAPS, TAPS};
    pack_weights<T>(weights, TAPS, c, u);
}
// u: of pack_adjoint_taps.
template <class T>
inline void input_gradient(int n, int h, int w, const T* gy, int k, const void* u, int c, T* gx) {
    Pixels<const T> outputs[TAPS];
    for (int tap = 0; tap < TAPS; tap++) outputs[tap] = every_second(gy, k, w, tap);
    multiply({n * h, w}, outputs, TAPS, u, nullptr, every(gx, c, w));
}

// gw: (c, k, 2, 2).  gb: (k), or nullptr.
template <class T>
inline void filter_gradient(int n, int h, int w, const T* x, int c, const T* gy, int k, float* gw,
                            float* gb) {
    static Buffer buffer;
    float* sums = gb ? (float*)buffer.of(k * sizeof(float)) : nullptr;
    if (gb) std::memset(gb, 0, k * sizeof(float));
    for (int tap = 0; tap < TAPS; tap++) {
        weight_gradient({n * h, w}, every(x, c, w), every_second(gy, k, w, tap),
                        {gw + tap, TAPS, (size_t)k * TAPS, 0, k, c, 1}, sums);
        if (gb)
            for (int o = 0; o < k; o++) gb[o] += sums[o];
    }
}

}  // namespace transposed_convolution
