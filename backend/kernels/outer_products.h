// Sums of outer products, of which the gradients of filters are made:
//     u[k][c] = sum over t of d[t][k] * v[t][c]
// t: the tiles of a 3x3 convolution (filter_gradient.h), the pixels of a 1x1 one (pointwise.h).
//
// d and v are packed: [group of channels][step][channel of the group].  A step is one t in float.
// In Bf16 it is two: the numbers of two t lie side by side, in the place of one float, for the
// instruction that multiplies pairs and adds both products to a float.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>
#include "channels_last.h"

namespace outer_products {

using namespace channels_last;

#ifdef __AVX512BF16__
template <class T> constexpr int step_of() { return std::is_same<T, Bf16>::value ? 2 : 1; }
#else
template <class T> constexpr int step_of() { return 1; }
#endif
template <class T> constexpr int STEP = step_of<T>();  // how many t are a step

constexpr int VECTORS = CHANNELS / L;          // of a group
#ifdef __AVX512F__
constexpr int ROWS = 8, COLUMNS = 2;           // of a product: as many sums as there are registers
#else
constexpr int ROWS = 4, COLUMNS = 2;
#endif
constexpr int CHUNK = 4;                       // the most groups of k, or of c, of a task
constexpr int TASKS = 64;                      // as many keep all cores of a large machine busy
constexpr size_t MEMORY = 32 << 20;            // of all parts' sums, in bytes

// ------------------------------------------------------------------------------------ a product
// A vector that stays in its register: left alone, GCC loads it again for each product.
inline Vec in_register(Vec v) {
#ifdef __AVX__
    asm("" : "+v"(v));
#endif
    return v;
}

// sum + a * b, in Bf16 of two products.
template <class T> inline Vec add_product(Vec sum, Vec a, Vec b) {
#ifdef __AVX512BF16__
    if (STEP<T> == 2) return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
    return sum + a * b;
}

// Pack L channels of the t's of a step: values[0], and in Bf16 values[distance] too.
template <class T> inline void pack(float* to, const Vec* values, int distance) {
#ifdef __AVX512BF16__
    if (STEP<T> == 2) {
        const __m512i pairs = _mm512_set_epi16(
            31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
            23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        __m512bh both = _mm512_cvtne2ps_pbh((__m512)values[distance], (__m512)values[0]);
        store(to, (Vec)_mm512_permutexvar_epi16(pairs, (__m512i)both));
        return;
    }
#endif
    store(to, values[0]);
}

// u[r * width + i] += the sum over steps of d[r] * v[i], for R rows and C vectors of columns.
// v_group: from one group of v to the next.
template <class T, int R, int C>
inline void accumulate(const float* d, const float* v, size_t v_group, int steps, float* u,
                       int width) {
    Vec sum[R][C] = {};
    for (int s = 0; s < steps; s++, d += CHANNELS, v += CHANNELS) {
        Vec column[C];
        for (int i = 0; i < C; i++)
            column[i] = in_register(load(v + i / VECTORS * v_group + i % VECTORS * L));
        for (int r = 0; r < R; r++) {
            Vec row = in_register(Vec{} + d[r]);
            for (int i = 0; i < C; i++) sum[r][i] = add_product<T>(sum[r][i], row, column[i]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < C; i++) {
            float* to = u + r * width + i * L;
            store(to, load(to) + sum[r][i]);
        }
}

// The same for k_groups and c_groups of channels.
template <class T>
inline void accumulate(const float* d, size_t d_group, int k_groups, const float* v,
                       size_t v_group, int c_groups, int steps, float* u) {
    int width = c_groups * CHANNELS, vectors = c_groups * VECTORS;
    for (int i = 0; i < vectors; i += COLUMNS) {
        const float* vi = v + i / VECTORS * v_group + i % VECTORS * L;
        for (int k = 0; k < k_groups; k++) {
            const float* dk = d + k * d_group;
            float* uk = u + (size_t)k * CHANNELS * width + i * L;
            if (i + COLUMNS <= vectors)
                for (int r = 0; r < CHANNELS; r += ROWS)
                    accumulate<T, ROWS, COLUMNS>(dk + r, vi, v_group, steps, uk + r * width, width);
            else
                for (int r = 0; r < CHANNELS; r += 2 * ROWS)
                    accumulate<T, 2 * ROWS, 1>(dk + r, vi, v_group, steps, uk + r * width, width);
        }
    }
}

// --------------------------------------------------------------------------------------- tasks
// A range of whole numbers.
struct Range {
    int from, to;
    int size() const { return to - from; }
};
// The i-th of `parts` ranges of nearly the same size.
inline Range range_of(int size, int parts, int i) {
    return {(int)((long)size * i / parts), (int)((long)size * (i + 1) / parts)};
}

struct Task { int part; Range t, k, c; };  // k, c: groups

// The sum, cut into tasks: a part of t, a chunk of k, a chunk of c.  The cut depends on the shape
// alone, and so do the bits of the result: they are the same for any number of threads.
struct Tasks {
    int size, block, blocks, k_groups, c_groups, k_chunks, c_chunks, parts;
    // size: how many t.  block: how many of them a task packs at a time.  taps: of a filter.
    Tasks(int size, int block, int k, int c, int taps)
        : size(size), block(block), blocks((size + block - 1) / block), k_groups(groups_of(k)),
          c_groups(groups_of(c)), k_chunks((k_groups + CHUNK - 1) / CHUNK),
          c_chunks((c_groups + CHUNK - 1) / CHUNK) {
        size_t bytes = sizeof(float) * padded(k) * padded(c) * taps;
        int chunks = k_chunks * c_chunks, most = std::max<size_t>(1, MEMORY / bytes);
        parts = std::max(1, std::min({(TASKS + chunks - 1) / chunks, blocks, most}));
    }
    int count() const { return parts * k_chunks * c_chunks; }
    Task operator[](int i) const {
        int part = i / (k_chunks * c_chunks);
        Range t = range_of(blocks, parts, part);
        return {part, {t.from * block, std::min(size, t.to * block)},
                range_of(k_groups, k_chunks, i / c_chunks % k_chunks),
                range_of(c_groups, c_chunks, i % c_chunks)};
    }
};

// Where a gradient goes: the one of filter tap `tap` from channel c to output k is
// w[k * k_step + c * c_step + tap * tap_step].  b, of the bias, may be nullptr.
struct Gradient { float* w; size_t k_step, c_step, tap_step; float* b; int k, c, taps; };

// The sums of each part: of the filters [k][tap][c], of the bias [k].
class Parts {
    int k, width, parts;
    float *w, *b;
public:
    Parts(const Tasks& tasks, int taps, Buffer& buffer)
        : k(tasks.k_groups * CHANNELS), width(taps * tasks.c_groups * CHANNELS),
          parts(tasks.parts) {
        w = (float*)buffer.of((size_t)parts * k * (width + 1) * sizeof(float));
        b = w + (size_t)parts * k * width;
    }
    float* filters(int part, int output) { return w + ((size_t)part * k + output) * width; }
    float* bias(int part) { return b + (size_t)part * k; }

    // Add the parts, always in the same order.
    void add(const Gradient& gradient) {
        int channels = width / gradient.taps;
        #pragma omp parallel for schedule(dynamic)
        for (int o = 0; o < gradient.k; o++) {
            for (int tap = 0; tap < gradient.taps; tap++)
                for (int c = 0; c < gradient.c; c += L) {
                    Vec sum = {};
                    for (int p = 0; p < parts; p++)
                        sum += load(filters(p, o) + tap * channels + c);
                    float* to = gradient.w + o * gradient.k_step + tap * gradient.tap_step;
                    for (int l = 0; l < std::min(L, gradient.c - c); l++)
                        to[(c + l) * gradient.c_step] = sum[l];
                }
            if (gradient.b) {
                gradient.b[o] = 0;
                for (int p = 0; p < parts; p++) gradient.b[o] += bias(p)[o];
            }
        }
    }
};

}  // namespace outer_products
