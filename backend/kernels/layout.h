// Images between Jittor's layout (samples, channels, height, width) and channels-last.
#pragma once
#include <algorithm>
#include "channels_last.h"

namespace layout {

using namespace channels_last;

struct Shape { int n, c; size_t plane; };  // plane: pixels of a channel of a sample

constexpr int PIXELS = 16;  // of a block: as wide as a group of channels

// Call f(sample, first pixel, pixels, group of channels) for each block, by all threads.
template <class F> inline void each_block(const Shape& s, F f) {
    int groups = groups_of(s.c);
    size_t blocks = (s.plane + PIXELS - 1) / PIXELS;
    #pragma omp parallel for collapse(2)
    for (int n = 0; n < s.n; n++)
        for (size_t b = 0; b < blocks; b++)
            for (int g = 0; g < groups; g++)
                f(n, b * PIXELS, (int)std::min<size_t>(PIXELS, s.plane - b * PIXELS), g);
}

// y, channels-last, is x; its padding channels are zero.
template <class T> inline void enter(const Shape& s, const float* x, T* y) {
    int channels = padded(s.c);
    each_block(s, [&](int n, size_t first, int pixels, int group) {
        float block[PIXELS][CHANNELS] = {};
        int c = group * CHANNELS, count = std::min(CHANNELS, s.c - c);
        for (int k = 0; k < count; k++) {
            const float* from = x + ((size_t)n * s.c + c + k) * s.plane + first;
            for (int i = 0; i < pixels; i++) block[i][k] = from[i];
        }
        T* to = y + (n * s.plane + first) * channels + c;
        for (int i = 0; i < pixels; i++, to += channels)
            for (int k = 0; k < CHANNELS; k += L) store(to + k, load(block[i] + k));
    });
}

// y is x, which is channels-last.
template <class T> inline void leave(const Shape& s, const T* x, float* y) {
    int channels = padded(s.c);
    each_block(s, [&](int n, size_t first, int pixels, int group) {
        float block[PIXELS][CHANNELS];
        int c = group * CHANNELS, count = std::min(CHANNELS, s.c - c);
        const T* from = x + (n * s.plane + first) * channels + c;
        for (int i = 0; i < pixels; i++, from += channels)
            for (int k = 0; k < CHANNELS; k += L) store(block[i] + k, load(from + k));
        for (int k = 0; k < count; k++) {
            float* to = y + ((size_t)n * s.c + c + k) * s.plane + first;
            for (int i = 0; i < pixels; i++) to[i] = block[i][k];
        }
    });
}

}  // namespace layout
