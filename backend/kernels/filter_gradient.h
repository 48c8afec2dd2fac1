// The gradient of the filters of a 3x3 convolution, in Winograd's domain.
//
// tiles.h has the transforms.  The output of a tile is Y = A^T [ (G w G^T) * (B^T d B) ] A.  Its
// adjoint in w is, with g the gradient of Y,
//     gw = G^T [ the sum over tiles of (A g A^T) * (B^T d B) ] G
// For each of the positions the sum over tiles is a product of matrices (outer_products.h).
#pragma once
#include "outer_products.h"
#include "tiles.h"

namespace winograd {

using namespace outer_products;

// A task's sums and its packed tiles, of M x M px, are to fit into the second cache, of 1 MB.
template <int M> constexpr int BLOCK = M == 2 ? 64 : 32;  // tiles that are packed at a time
template <int M> constexpr int POSITIONS = (M + 2) * (M + 2);

// The packed numbers of a block of tiles: [position][group][step][channel of the group].
template <class T, int M> struct Packed {
    static constexpr size_t GROUP = BLOCK<M> / STEP<T> * CHANNELS;
    float* data;
    size_t plane;  // from one position to the next; powers of 2 would collide in the cache
    Packed(float* data, int groups) : data(data), plane(groups * GROUP + CHANNELS) {}
    float* at(int position, int group) const { return data + position * plane + group * GROUP; }
    static size_t size(int groups) { return POSITIONS<M> * (groups * GROUP + CHANNELS); }
};

// Ask early for pixels that are to be read soon: the columns that the tile before has not read.
template <int R, class T>
inline void prefetch(const Pixels<R>& pixels, const T* x, int channel) {
    for (int r = 0; r < R; r++)
        for (int q = R - 2; q < R; q++) __builtin_prefetch(x + pixels.at(r, q) + channel);
}

// Pack a block of tiles of R x R px of x, some groups of channels.  transform(pixels, v, channel)
// gives a tile's vectors v of L channels.  A tile without a pair gets one of zeros.
template <class T, int M, int R, class F>
inline void pack_tiles(const Pixels<R>* tiles, int count, const T* x, const Range& groups,
                       const Packed<T, M>& to, F transform) {
    for (int t = 0; t < count; t += STEP<T>)
        for (int group = 0; group < groups.size(); group++)
            for (int i = 0; i < CHANNELS; i += L) {
                Vec v[STEP<T> * POSITIONS<M>], pixels[R * R];
                int channel = (groups.from + group) * CHANNELS + i;
                for (int p = 0; p < STEP<T>; p++) {
                    if (t + p == count) {
                        std::memset(v + p * POSITIONS<M>, 0, POSITIONS<M> * sizeof(Vec));
                        break;
                    }
                    prefetch(tiles[std::min(count - 1, t + p + 4)], x, channel);
                    tiles[t + p].read(x, channel, pixels);
                    transform(pixels, v + p * POSITIONS<M>, channel);
                }
                float* first = to.at(0, group) + t / STEP<T> * CHANNELS + i;
                for (int position = 0; position < POSITIONS<M>; position++)
                    outer_products::pack<T>(first + position * to.plane, v + position,
                                            POSITIONS<M>);
            }
}

// The input of a convolution.
template <class T, int M> struct Input {
    const Shape& s; const Part<T>& part;

    void pack(const Range& tiles, const Range& groups, const Packed<T, M>& to) const {
        Tile list[BLOCK<M>];
        Pixels<M + 2> pixels[BLOCK<M>];
        tiles_of<M>(s, tiles.from, tiles.size(), list);
        for (int t = 0; t < tiles.size(); t++) pixels[t] = input_of<M + 2>(s, part, list[t]);
        pack_tiles(pixels, tiles.size(), part.x, groups, to,
                   [](const Vec* x, Vec* v, int) { transform_input<M>(x, v); });
    }
};

// The gradient of its output, which is also added to `bias`, [channel], where that is not nullptr.
template <class T, int M> struct OutputGradient {
    const Shape& s; const T* gy; float* bias;

    void pack(const Range& tiles, const Range& groups, const Packed<T, M>& to) const {
        Tile list[BLOCK<M>];
        Pixels<M> pixels[BLOCK<M>];
        tiles_of<M>(s, tiles.from, tiles.size(), list);
        for (int t = 0; t < tiles.size(); t++) pixels[t] = output_of<M>(s, list[t]);
        pack_tiles(pixels, tiles.size(), gy, groups, to, [&](const Vec* g, Vec* d, int channel) {
            transform_gradient<M>(g, d);
            if (!bias) return;
            Vec sum = g[0];
            for (int i = 1; i < M * M; i++) sum += g[i];
            store(bias + channel, load(bias + channel) + sum);
        });
    }
};

// The sums of one task, into `parts`.  Rows, columns: Input and OutputGradient, or the reverse.
template <class T, int M, class Rows, class Columns>
inline void add_tiles(const Tasks& tasks, const Task& task, const Parts& parts, const Rows& rows,
                      const Columns& columns) {
    static thread_local Buffer buffer;
    int height = task.rows.size() * CHANNELS, width = task.columns.size() * CHANNELS;
    size_t plane = (size_t)height * width, d_size = Packed<T, M>::size(task.rows.size()),
        v_size = Packed<T, M>::size(task.columns.size());
    float* u = (float*)buffer.of((POSITIONS<M> * plane + d_size + v_size) * sizeof(float));
    Packed<T, M> d(u + POSITIONS<M> * plane, task.rows.size()),
        v(u + POSITIONS<M> * plane + d_size, task.columns.size());
    for (int from = task.t.from; from < task.t.to; from += BLOCK<M>) {
        Range tiles = {from, std::min(from + BLOCK<M>, task.t.to)};
        rows.pack(tiles, task.rows, d);
        columns.pack(tiles, task.columns, v);
        for (int position = 0; position < POSITIONS<M>; position++)
            accumulate<T>(d.at(position, 0), d.GROUP, task.rows.size(), v.at(position, 0),
                          v.GROUP, task.columns.size(), (tiles.size() + STEP<T> - 1) / STEP<T>,
                          u + position * plane, from > task.t.from);
    }
    for (int row = 0; row < height; row++)
        for (int i = 0; i < width; i += L) {
            Vec taps[9];
            transform_sums<M>(u + (size_t)row * width + i, plane, taps);
            float* to = parts.filters(task.part, task.rows.from * CHANNELS + row)
                + task.columns.from * CHANNELS + i;
            for (int t = 0; t < 9; t++) store(to + (size_t)t * tasks.columns * CHANNELS, taps[t]);
        }
}

// As filter_gradient, in tiles of M x M px.
template <class T, int M>
inline void filter_gradient_tiled(const Shape& s, const Part<T>& part, int first_channel,
                                  int c_total, const T* gy, float* gw, float* gb) {
    static Buffer buffer;
    float* to = gw + (size_t)first_channel * 9;
    size_t k_step = (size_t)c_total * 9;
    bool outputs_are_rows = groups_of(part.c) % 2 == 0 || groups_of(s.k) % 2 == 1;
    Gradient gradient = outputs_are_rows ? Gradient{to, k_step, 9, 1, s.k, part.c, 9}
        : Gradient{to, 9, k_step, 1, part.c, s.k, 9};
    int most_columns = M == 2 || groups_of(gradient.rows) <= 2 ? CHUNK : CHUNK / 2;
    Tasks tasks(s.tiles(M), BLOCK<M>, gradient.rows, gradient.columns, 9, most_columns);
    Parts parts(tasks, 9, s.k, buffer);
    if (gb) parts.clear_bias();
    #pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < tasks.count(); i++) {
        Task task = tasks[i];
        bool first = (outputs_are_rows ? task.columns : task.rows).from == 0;
        Input<T, M> input = {s, part};
        OutputGradient<T, M> output = {s, gy, gb && first ? parts.bias(task.part) : nullptr};
        if (outputs_are_rows) add_tiles<T, M>(tasks, task, parts, output, input);
        else add_tiles<T, M>(tasks, task, parts, input, output);
    }
    parts.add_filters(gradient);
    if (gb) parts.add_bias(gb, s.k);
}

// The side of the tiles that is fastest: 2 or 4.  Bf16 is too coarse for 4.
template <class T> inline int gradient_tile_side(const Shape& s) {
    return std::is_same<T, float>::value && s.suits_large_tiles() ? 4 : 2;
}

// The gradient of the filters that one part of the input meets.
// gy: the gradient of the output, (n, oh, ow, padded(k)).  gw: (k, c_total, 3, 3), of which this
// writes the part's channels, from first_channel on.  gb: of the bias, (k), or nullptr.
template <class T>
inline void filter_gradient(const Shape& s, const Part<T>& part, int first_channel, int c_total,
                            const T* gy, float* gw, float* gb) {
    constexpr int LARGE = std::is_same<T, float>::value ? 4 : 2;
    if (gradient_tile_side<T>(s) == LARGE)
        filter_gradient_tiled<T, LARGE>(s, part, first_channel, c_total, gy, gw, gb);
    else filter_gradient_tiled<T, 2>(s, part, first_channel, c_total, gy, gw, gb);
}

}  // namespace winograd
