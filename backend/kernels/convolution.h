// 3x3 convolutions of stride 1 by Winograd's minimal filtering F(M x M, 3x3), part 3: the products.
// tiles.h explains the algorithm and has its transforms.  filters.h packs the filters.
//
// v: the transformed input, u: the transformed filters.  For each position the product of the
// matrices v (tiles x channels) and u (channels x outputs) is m (tiles x outputs).
// m is floats, v and u are Product<T, M>.
#pragma once
#include <type_traits>
#include "filters.h"

namespace winograd {

#ifdef __AVX512F__
constexpr int ROWS = 14;  // tiles of a product with WIDTH outputs.  Their sums fill the registers
#else
constexpr int ROWS = 6;
#endif

// The work of a thread: v[position][tile][word], m[position][tile][output].
// The strides are constants, so that a product's addresses need no registers of their own.
// A cache line more than a power of 2: otherwise the rows collide in the cache.
constexpr int TILES = 28, WORDS = 256;  // 28: a multiple of 2 * ROWS, or of ROWS with a rest of 4
constexpr size_t V_ROW = WORDS + 16, V_PLANE = TILES * V_ROW, M_PLANE = TILES * WIDTH + 16;

// ------------------------------------------------------------------------------------ products
// sum + v * u: v is one word, for all lanes of u.
inline Vec add_product(const Vec& sum, const float* v, const Vec& u, float) { return sum + *v * u; }
inline Vec add_product(const Vec& sum, const float* v, const Vec& u, Bf16) {
    int pair;
    std::memcpy(&pair, v, sizeof pair);
#ifdef __AVX512BF16__
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)u);
#else
    const int upper = -(1 << 16);
    Mask a = Mask{} + pair, b = (Mask)u;
    return sum + (Vec)(a << 16) * (Vec)(b << 16) + (Vec)(a & upper) * (Vec)(b & upper);
#endif
}

// m: the products of R tiles with C vectors of outputs.  first: m is written, otherwise it grows.
template <class T, int R, int C>
inline void multiply(const float* v, const float* u, int words, bool first, float* m) {
    Vec sum[R][C];
    #pragma GCC unroll 28
    for (int r = 0; r < R; r++)
        #pragma GCC unroll 2
        for (int j = 0; j < C; j++) sum[r][j] = first ? Vec{} : load(m + (r * C + j) * L);
    for (int i = 0; i < words; i++, u += C * L) {
        Vec wide[C];
        #pragma GCC unroll 2
        for (int j = 0; j < C; j++) wide[j] = load(u + j * L);
        #pragma GCC unroll 28
        for (int r = 0; r < R; r++)
            #pragma GCC unroll 2
            for (int j = 0; j < C; j++)
                sum[r][j] = add_product(sum[r][j], v + r * V_ROW + i, wide[j], T());
    }
    #pragma GCC unroll 28
    for (int r = 0; r < R; r++)
        #pragma GCC unroll 2
        for (int j = 0; j < C; j++) store(m + (r * C + j) * L, sum[r][j]);
}

// The same for `rows` tiles, at most R.  Up to STEP - 1 rows after them get any content.
template <class T, int R, int C, int STEP> struct Rows {
    static void multiply(int rows, const float* v, const float* u, int words, bool first,
                         float* m) {
        if (rows > R - STEP) winograd::multiply<T, R, C>(v, u, words, first, m);
        else Rows<T, R - STEP, C, STEP>::multiply(rows, v, u, words, first, m);
    }
};
template <class T, int C, int STEP> struct Rows<T, 0, C, STEP> {
    static void multiply(int, const float*, const float*, int, bool, float*) {}
};

// The same for any number of tiles and for a block of WIDTH or L outputs.
template <class T>
inline void multiply_tiles(int tiles, const float* v, const float* u, int words, bool first,
                           int width, float* m) {
    if (width == WIDTH)
        for (int t = 0; t < tiles; t += ROWS)
            Rows<T, ROWS, 2, 2>::multiply(std::min(tiles - t, ROWS), v + t * V_ROW, u, words,
                                          first, m + t * WIDTH);
    else
        for (int t = 0; t < tiles; t += 2 * ROWS)
            Rows<T, 2 * ROWS, 1, 4>::multiply(std::min(tiles - t, 2 * ROWS), v + t * V_ROW, u,
                                              words, first, m + t * L);
}

// --------------------------------------------------------------------------------- input, output
// v: channels first ... last of the parts of some tiles, transformed.
template <class T, int M>
inline void load_tiles(const Shape& s, const std::vector<Part<T>>& parts, const Tile* list,
                       int tiles, int first, int last, Product<T, M>* v) {
    constexpr int R = M + 2, N = numbers<Product<T, M>>();
    for (int t = 0; t < tiles; t++, v += V_ROW * N) {
        int start = 0, end;  // of a part's channels among those of all
        for (const Part<T>& part : parts) {
            end = start + padded(part.c);
            Pixels<R> pixels = input_of<R>(s, part, list[t]);
            for (int c = std::max(first, start); c < std::min(last, end); c += L) {
                Product<T, M>* to = v + c - first;
                auto put = [=](int p, const Vec& x) { store(to + p * V_PLANE * N, x); };
                if (pixels.inside == pixels.ALL) {
                    const T* x = part.x + pixels.first + c - start;
                    auto get = [&](int p) {
                        return load(x + p / R * pixels.row + p % R * pixels.column);
                    };
                    both_ways<R, R, Line<M>::input>(get, put);
                } else {
                    Vec d[R * R];
                    pixels.read(part.x, c - start, d);
                    both_ways<R, R, Line<M>::input>([&](int p) { return d[p]; }, put);
                }
            }
            start = end;
        }
    }
}

// Statistics of a block of tiles, of each output channel: a shift near their mean, the sum of the
// differences from it, the sum of their squares.  `outputs` numbers each; nullptr for none.
struct Partial { float* shift; int outputs; };

// What becomes of the sums: + bias, ReLU, + add (nullptr for none), and y is written.
// large: y fits into no cache.
template <class T> struct Finish {
    std::vector<float> bias; bool relu; const T* add; T* y; bool large;
};

inline Vec as_stored(const Vec& v, float) { return v; }
inline Vec as_stored(const Vec& v, Bf16) { return widened(rounded(v)); }

// y: outputs channel ... channel + L of some tiles.  m: their sums, `width` numbers a tile.
template <class T, int M>
inline void store_tiles(const Finish<T>& f, const Pixels<M>* list, int tiles, int channel,
                        const float* m, int width, const Partial& partial) {
    Vec bias = load(&f.bias[channel]), shift{}, sum{}, squares{};
    for (int t = 0; t < tiles; t++, m += width) {
        const Pixels<M>& pixels = list[t];
        Vec y[M * M], add[M * M];
        transform_output<M>(m, M_PLANE, y);
        #pragma GCC unroll 16
        for (int i = 0; i < M * M; i++) y[i] += bias;
        if (f.relu)
            #pragma GCC unroll 16
            for (int i = 0; i < M * M; i++) y[i] = rectified(y[i]);
        if (f.add) {
            pixels.read(f.add, channel, add);
            for (int i = 0; i < M * M; i++) y[i] += add[i];
        }
        if (t == 0) shift = as_stored(y[0], T());
        #pragma GCC unroll 16
        for (int i = 0; i < M * M; i++) {
            if (!pixels.has(i / M, i % M)) continue;
            T* to = f.y + pixels.at(i / M, i % M) + channel;
            if (f.large) stream(to, y[i]); else store(to, y[i]);
            if (!partial.shift) continue;
            Vec difference = as_stored(y[i], T()) - shift;
            sum += difference;
            squares += difference * difference;
        }
    }
    if (!partial.shift) return;
    store(partial.shift + channel, shift);
    store(partial.shift + partial.outputs + channel, sum);
    store(partial.shift + 2 * partial.outputs + channel, squares);
}

// ---------------------------------------------------------------------------------- statistics
// Of each channel of the output, for BatchNorm: mean and biased variance, k numbers each.
struct Statistics { float* mean; float* variance; };

// Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
// variances", 1979.  partial: of the blocks, one after another.  counts: of their pixels.
inline void combine(const Partial& partial, const std::vector<int>& counts, int k,
                    const Statistics& to) {
    int outputs = partial.outputs;
    double pixels = 0;
    for (int count : counts) pixels += count;
    #pragma omp parallel for schedule(static)
    for (int first = 0; first < outputs; first += CHANNELS) {
        double mean[CHANNELS] = {}, squares[CHANNELS] = {};
        for (int pass = 0; pass < 2; pass++) {
            const float* shift = partial.shift + first;
            for (int count : counts) {
                const float *sum = shift + outputs, *square = sum + outputs;
                for (int i = 0; i < CHANNELS; i++) {
                    double off = sum[i] * (1.0 / count), own = shift[i] + off;
                    if (pass == 0) mean[i] += own * (count / pixels);
                    else squares[i] += square[i] - sum[i] * off
                                       + count * (own - mean[i]) * (own - mean[i]);
                }
                shift += 3 * outputs;
            }
        }
        for (int i = 0; i < std::min(CHANNELS, k - first); i++) {
            to.mean[first + i] = mean[i];
            to.variance[first + i] = squares[i] / pixels;
        }
    }
}

// --------------------------------------------------------------------------------- convolution
// A task is TILES tiles and up to `outputs` outputs.  It sums `chunk` channels at a time.
// The shape alone says how: no sum may depend on the number of threads.
template <class T, int M> struct Convolution {
    static constexpr int POSITIONS = (M + 2) * (M + 2);
    Shape s; std::vector<Part<T>> parts; const float* u; Finish<T> finish; Partial partial;
    int channels, chunk, outputs;

    // The pixels of the block are counted.
    int task(int block, int first) const {
        static thread_local Buffer buffer;
        const int N = numbers<Product<T, M>>(), tiles = std::min(TILES, s.tiles(M) - block * TILES);
        int last = std::min(padded(s.k), first + outputs), count = 0;
        size_t slot = POSITIONS * M_PLANE;  // of m; more than one if sums must wait
        int slots = chunk < channels ? (outputs + WIDTH - 1) / WIDTH : 1;
        float* v = (float*)buffer.of((POSITIONS * V_PLANE + slots * slot) * sizeof(float));
        Tile list[TILES];
        Pixels<M> pixels[TILES];
        tiles_of<M>(s, block * TILES, tiles, list);
        for (int t = 0; t < tiles; t++) {
            pixels[t] = output_of<M>(s, list[t]);
            count += __builtin_popcountll(pixels[t].inside);
        }
        Partial own = {partial.shift, partial.outputs};
        if (own.shift) own.shift += (size_t)block * 3 * own.outputs;
        for (int c = 0; c < channels; c += chunk) {
            int end = std::min(channels, c + chunk);
            load_tiles<T, M>(s, parts, list, tiles, c, end, (Product<T, M>*)v);
            for (int o = first; o < last; o += WIDTH) {
                int width = std::min(WIDTH, padded(s.k) - o);
                float* m = v + POSITIONS * V_PLANE + (slots > 1 ? (o - first) / WIDTH * slot : 0);
                for (int p = 0; p < POSITIONS; p++)
                    multiply_tiles<Product<T, M>>(tiles, v + p * V_PLANE,
                                      u + (size_t)(POSITIONS * o + p * width) * (channels / N)
                                          + (size_t)c / N * width,
                                      (end - c) / N, c == 0, width, m + p * M_PLANE);
                if (end == channels)
                    for (int i = 0; i < width; i += L)
                        store_tiles<T, M>(finish, pixels, tiles, o + i, m + i, width, own);
            }
        }
        finish_stream();
        return count;
    }
};

template <class T, int M>
inline void convolve_tiled(const Shape& s, const Part<T>* parts, int count, const T* u,
                           const float* bias, bool relu, const T* add, T* y,
                           const Statistics* statistics) {
    int k = padded(s.k), blocks = (s.tiles(M) + TILES - 1) / TILES;
    bool large = s.n * (size_t)s.oh * s.ow * k * sizeof(T) >= 32 << 20 && (size_t)y % 64 == 0;
    std::vector<float> partial(statistics ? (size_t)blocks * 3 * k : 0);
    Convolution<T, M> c = {s, {parts, parts + count}, (const float*)u,
                           {std::vector<float>(k), relu, add, y, large},
                           {statistics ? partial.data() : nullptr, k}, 0,
                           WORDS * numbers<Product<T, M>>(), k};
    for (const Part<T>& part : c.parts) c.channels += padded(part.c);
    if (bias) std::copy(bias, bias + s.k, c.finish.bias.begin());
    // fewer outputs: sums that wait fit the cache, and few blocks keep several cores busy
    if (c.channels > c.chunk || blocks < 32) c.outputs = std::min(k, blocks < 8 ? 64 : 128);
    std::vector<int> counts(blocks);
    int tasks = blocks * ((k + c.outputs - 1) / c.outputs);
    #pragma omp parallel for schedule(dynamic)
    for (int task = 0; task < tasks; task++) {
        int pixels = c.task(task % blocks, task / blocks * c.outputs);
        if (task < blocks) counts[task] = pixels;
    }
    if (statistics) combine(c.partial, counts, s.k, *statistics);
}

// The side of the tiles that is fastest when the filters are packed for one call: 2 or 4.
// For Bf16 4 means products of floats, which take as long for few outputs, since fewer tiles are
// transformed.
template <class T> inline int tile_side(const Shape& s) {
    bool pays = std::is_same<T, float>::value || s.k <= 2 * CHANNELS;
    return pays && s.suits_large_tiles() ? 4 : 2;
}

// y = x * w + bias: x is `count` parts, w the filters that are packed as u, for tiles of side m,
// 2 or 4.
// bias: k numbers.  relu: negative values become 0.  add: of y's shape, is added then.
// statistics: those of y.  bias, add and statistics may be nullptr, for none.
//
// The gradient of a part is a convolution too: of the output's gradient (s.h and s.w are its size)
// with the filters of pack_adjoint to the part's size, and pad_top = 2 * dilation - pad_top + top,
// likewise pad_left.  A part that is cropped must have a convolution without padding for this.
template <class T>
inline void convolve(const Shape& s, const Part<T>* parts, int count, const T* u,
                     const float* bias, bool relu, const T* add, T* y,
                     const Statistics* statistics, int m = 2) {
    auto run = m == 4 ? convolve_tiled<T, 4> : convolve_tiled<T, 2>;
    run(s, parts, count, u, bias, relu, add, y, statistics);
}

}  // namespace winograd
