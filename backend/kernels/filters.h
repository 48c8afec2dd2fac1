// 3x3 convolutions of stride 1 by Winograd's minimal filtering F(M x M, 3x3), part 2: the filters,
// transformed and packed in the order in which convolution.h reads them.
//
// A word is 32 bits: one float, or a pair of Bf16, of two channels side by side.  The dot product
// of two pairs is one instruction.  Only tiles of 2 x 2 px are multiplied in Bf16.
// u: the transformed filters, [block of outputs][position][word of channels][output].
#pragma once
#include <type_traits>
#include <vector>
#include "tiles.h"

namespace winograd {

constexpr int WIDTH = 2 * L;  // outputs of a block.  The last block may have L
// What is multiplied for tiles of M x M px: Bf16 is too coarse for those of 4 x 4 px.
template <class T, int M> using Product = typename std::conditional<M == 2, T, float>::type;
template <class T> constexpr int numbers() { return sizeof(float) / sizeof(T); }  // of a word

inline int padded_channels(const int* channels, int parts) {
    int total = 0;
    for (int p = 0; p < parts; p++) total += padded(channels[p]);
    return total;
}

// The size of u in numbers of T, for tiles of m x m px, k outputs and parts of channels[] channels.
template <class T> inline size_t packed_size(int k, const int* channels, int parts, int m = 2) {
    size_t positions = (m + 2) * (m + 2), size = m == 2 ? sizeof(T) : sizeof(float);
    return positions * padded(k) * padded_channels(channels, parts) * size / sizeof(T);
}

// Where the filters are: tap t of an output's filter for an input is number
// output * per_output + input * per_input + t * step of w.
// inputs: of each padded channel its input, -1 for none.
struct Filters {
    const float* w; int k; ptrdiff_t per_output, per_input, step; std::vector<int> inputs;

    // taps, 3 x 3 vectors: those of outputs o ... o + L for a channel.  Zero where there is none.
    void read(int o, int channel, Vec* taps) const {
        int input = inputs[channel], count = input < 0 ? 0 : std::min(L, k - o);
        float values[9][L] = {};
        for (int l = 0; l < count; l++)
            for (int t = 0; t < 9; t++)
                values[t][l] = w[(o + l) * per_output + input * per_input + t * step];
        for (int t = 0; t < 9; t++) taps[t] = load(values[t]);
    }
};

// L words from the numbers of their channels.
inline Vec words_of(const Vec* numbers, float) { return numbers[0]; }
inline Vec words_of(const Vec* numbers, Bf16) {
    Mask low = __builtin_convertvector(rounded(numbers[0]), Mask) & 0xffff;
    return (Vec)(low | __builtin_convertvector(rounded(numbers[1]), Mask) << 16);
}

template <class T, int M> inline void pack_tiled(const Filters& f, T* u) {
    constexpr int N = numbers<T>(), POSITIONS = (M + 2) * (M + 2);
    int words = f.inputs.size() / N, outputs = padded(f.k);
    #pragma omp parallel for collapse(2) schedule(static)
    for (int o = 0; o < outputs; o += L)
        for (int i = 0; i < words; i++) {
            Vec transformed[N][POSITIONS];
            for (int n = 0; n < N; n++) {
                Vec taps[9];
                f.read(o, i * N + n, taps);
                transform_filter<M>(taps, transformed[n]);
            }
            int block = o / WIDTH * WIDTH, width = std::min(WIDTH, outputs - block);
            float* to = (float*)u + (size_t)POSITIONS * block * words + i * width + o - block;
            for (int p = 0; p < POSITIONS; p++) {
                Vec values[N];
                for (int n = 0; n < N; n++) values[n] = transformed[n][p];
                store(to + (size_t)p * words * width, words_of(values, T()));
            }
        }
}

template <class T> inline void pack(const Filters& f, T* u, int m) {
    if (m == 4) pack_tiled<float, 4>(f, (float*)u); else pack_tiled<T, 2>(f, u);
}

// u: of the filters w (k, the sum of channels[], 3, 3), whose input is `parts` parts.
// m: the side of the convolution's tiles, 2 or 4 (tile_side in convolution.h).
template <class T>
inline void pack_filters(const float* w, int k, const int* channels, int parts, T* u, int m = 2) {
    Filters f = {w, k, 0, 9, 1, {}};
    int total = 0;
    for (int p = 0; p < parts; total += channels[p++])
        for (int i = 0; i < padded(channels[p]); i++)
            f.inputs.push_back(i < channels[p] ? total + i : -1);
    f.per_output = total * 9;
    pack(f, u, m);
}

// u: of the adjoint, for the gradient of the input's channels first ... first + c.  Outputs and
// inputs change places, the filters w (k, c_total, 3, 3) are turned by 180 degrees.
// Its size is packed_size<T>(c, &k, 1, m).
template <class T>
inline void pack_adjoint(const float* w, int k, int c_total, int first, int c, T* u, int m = 2) {
    Filters f = {w + first * 9 + 8, c, 9, c_total * 9, -1, {}};
    for (int i = 0; i < padded(k); i++) f.inputs.push_back(i < k ? i : -1);
    pack(f, u, m);
}

}  // namespace winograd
