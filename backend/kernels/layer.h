// A 3x3 convolution in a training step: forward, and all its gradients.
#pragma once
#include "convolution.h"
#include "filter_gradient.h"

namespace layer {

using namespace winograd;

// `convolve` with filters w (k, channels of all parts, 3, 3), packed for this call alone.
// Floats have tiles of 2x2 px, which keep a digit more: BatchNorm on small maps makes much of
// rounding, and a ReLU or pool that it switches changes gradients.
template <class T>
inline void forward(const Shape& s, const Part<T>* parts, int count, const float* w,
                    const float* bias, T* y, const Statistics* statistics) {
    static thread_local Buffer buffer;
    std::vector<int> channels;
    for (int p = 0; p < count; p++) channels.push_back(parts[p].c);
    int m = std::is_same<T, float>::value ? 2 : tile_side<T>(s);
    T* u = (T*)buffer.of(packed_size<T>(s.k, channels.data(), count, m) * sizeof(T));
    pack_filters(w, s.k, channels.data(), count, u, m);
    convolve(s, parts, count, u, bias, false, (const T*)nullptr, y, statistics, m);
}

// The gradients of what `forward` got, of gy, the gradient of y.
// others[p]: a gradient of part p that is added, or nullptr.  gx[p]: of part p, nullptr for none.
// gb: of the bias, or nullptr.
template <class T>
inline void backward(const Shape& s, const Part<T>* parts, int count, const float* w, const T* gy,
                     const T* const* others, T* const* gx, float* gw, float* gb) {
    static thread_local Buffer buffer;
    int total = 0, first = 0;
    for (int p = 0; p < count; p++) total += parts[p].c;
    for (int p = 0; p < count; first += parts[p++].c) {
        const Part<T>& part = parts[p];
        filter_gradient(s, part, first, total, gy, gw, p == 0 ? gb : nullptr);
        if (!gx[p]) continue;
        Shape back = {s.n, s.oh, s.ow, part.h, part.w, 2 * s.dilation - s.pad_top + part.top,
                      2 * s.dilation - s.pad_left + part.left, s.dilation, part.c};
        int m = tile_side<T>(back);
        T* u = (T*)buffer.of(packed_size<T>(part.c, &s.k, 1, m) * sizeof(T));
        pack_adjoint(w, s.k, total, first, part.c, u, m);
        Part<T> gradient = {gy, s.k, s.oh, s.ow, 0, 0};
        convolve(back, &gradient, 1, u, (const float*)nullptr, false, others[p], gx[p],
                 (const Statistics*)nullptr, m);
    }
}

}  // namespace layer
