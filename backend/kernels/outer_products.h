// Sums of outer products, of which the gradients of filters are made:
//     u[row][column] = sum over t of d[t][row] * v[t][column]
// t: the tiles of a 3x3 convolution (filter_gradient.h), the pixels of a 1x1 one (pointwise.h).
// Rows are its outputs and columns its channels, or the other way round: an even number of groups
// of columns is faster.
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
constexpr int ROWS = 8, COLUMNS = 2, MOST = 3; // of a product, columns in vectors: what fits into
#else                                          // the registers.  MOST: of an odd rest of columns
constexpr int ROWS = 4, COLUMNS = 2, MOST = 2;
#endif
constexpr int CHUNK = 4;                       // the most groups of rows, or columns, of a task
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

// u[r * width + i] = the sum over steps of d[r] * v[i], for R rows and C vectors of columns.
// v_group: from one group of v to the next.  add: u itself is added.
template <class T, int R, int C>
inline void accumulate(const float* d, const float* v, size_t v_group, int steps, float* u,
                       int width, bool add) {
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
            store(to, add ? load(to) + sum[r][i] : sum[r][i]);
        }
}
// The same for all rows of `groups`, R at a time.
template <class T, int R, int C>
inline void accumulate_rows(const float* d, size_t d_group, int groups, const float* v,
                            size_t v_group, int steps, float* u, int width, bool add) {
    for (int group = 0; group < groups; group++)
        for (int r = 0; r < CHANNELS; r += R)
            accumulate<T, R, C>(d + group * d_group + r, v, v_group, steps,
                                u + (size_t)(group * CHANNELS + r) * width, width, add);
}
// The same for all rows and columns of some groups.
template <class T>
inline void accumulate(const float* d, size_t d_group, int rows, const float* v, size_t v_group,
                       int columns, int steps, float* u, bool add) {
    int width = columns * CHANNELS;
    for (int i = 0, vectors = columns * VECTORS; i < vectors; ) {
        const float* vi = v + i / VECTORS * v_group + i % VECTORS * L;
        int rest = vectors - i, wide = rest == MOST || rest < COLUMNS ? rest : COLUMNS;
        auto sum = wide == MOST ? accumulate_rows<T, ROWS, MOST>
            : wide == COLUMNS ? accumulate_rows<T, ROWS, COLUMNS> : accumulate_rows<T, 2 * ROWS, 1>;
        sum(d, d_group, rows, vi, v_group, steps, u + i * L, width, add);
        i += wide;
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

struct Task { int part; Range t, rows, columns; };  // rows, columns: groups

// The sum, cut into tasks: a part of t, a chunk of rows, a chunk of columns.  The cut depends on
// the shape alone, and so do the bits of the result: they are the same for any number of threads.
struct Tasks {
    int size, block, blocks, rows, columns, row_chunks, column_chunks, parts;
    // size: how many t.  block: how many of them a task packs at a time.  taps: of a filter.
    // most_columns: groups of a task.
    Tasks(int size, int block, int row_channels, int column_channels, int taps,
          int most_columns = CHUNK)
        : size(size), block(block), blocks((size + block - 1) / block),
          rows(groups_of(row_channels)), columns(groups_of(column_channels)),
          row_chunks((rows + CHUNK - 1) / CHUNK),
          column_chunks((columns + most_columns - 1) / most_columns) {
        size_t bytes = sizeof(float) * padded(row_channels) * padded(column_channels) * taps;
        int chunks = row_chunks * column_chunks, most = std::max<size_t>(1, MEMORY / bytes);
        parts = std::max(1, std::min({(TASKS + chunks - 1) / chunks, blocks, most}));
    }
    int count() const { return parts * row_chunks * column_chunks; }
    Task operator[](int i) const {
        int part = i / (row_chunks * column_chunks);
        Range t = range_of(blocks, parts, part);
        return {part, {t.from * block, std::min(size, t.to * block)},
                range_of(rows, row_chunks, i / column_chunks % row_chunks),
                range_of(columns, column_chunks, i % column_chunks)};
    }
};

// Where a gradient goes: the one of filter tap `tap`, of `row` and `column`, is
// w[row * row_step + column * column_step + tap * tap_step].
struct Gradient { float* w; size_t row_step, column_step, tap_step; int rows, columns, taps; };

// The sums of each part: of the filters [row][tap][column], of the bias [output].
class Parts {
    int rows, width, outputs, parts;
    float *w, *b;
public:
    Parts(const Tasks& tasks, int taps, int outputs, Buffer& buffer)
        : rows(tasks.rows * CHANNELS), width(taps * tasks.columns * CHANNELS),
          outputs(padded(outputs)), parts(tasks.parts) {
        size_t filters = (size_t)parts * rows * width;
        w = (float*)buffer.of((filters + parts * this->outputs) * sizeof(float));
        b = w + filters;
    }
    float* filters(int part, int row) const { return w + ((size_t)part * rows + row) * width; }
    float* bias(int part) const { return b + part * outputs; }

    // Add the parts, always in the same order.
    void add_filters(const Gradient& gradient) const {
        int channels = width / gradient.taps;
        #pragma omp parallel for schedule(dynamic)
        for (int row = 0; row < gradient.rows; row++)
            for (int tap = 0; tap < gradient.taps; tap++)
                for (int column = 0; column < gradient.columns; column += L) {
                    Vec sum = {};
                    for (int p = 0; p < parts; p++)
                        sum += load(filters(p, row) + tap * channels + column);
                    float* to = gradient.w + row * gradient.row_step + tap * gradient.tap_step
                        + column * gradient.column_step;
                    for (int l = 0; l < std::min(L, gradient.columns - column); l++)
                        to[l * gradient.column_step] = sum[l];
                }
    }
    void clear_bias() const { std::memset(b, 0, parts * outputs * sizeof(float)); }
    void add_bias(float* gb, int k) const {
        for (int o = 0; o < k; o++) {
            gb[o] = 0;
            for (int p = 0; p < parts; p++) gb[o] += bias(p)[o];
        }
    }
};

}  // namespace outer_products
