// The gradient of the filters of a 3x3 convolution, in Winograd's domain.
//
// tiles.h has the transforms.  The output of a tile is Y = A^T [ (G w G^T) * (B^T d B) ] A.  Its
// adjoint in w is, with g the gradient of Y,
//     gw = G^T [ the sum over tiles of (A g A^T) * (B^T d B) ] G
// For each of the 16 positions the sum over tiles is a product of matrices (outer_products.h).
#pragma once
#include "outer_products.h"
#include "tiles.h"

namespace winograd {

using namespace outer_products;

constexpr int BLOCK = 64;  // tiles that are packed at a time

// The packed numbers of a block of tiles: [position][group][step][channel of the group].
template <class T> struct Packed {
    static constexpr size_t GROUP = BLOCK / STEP<T> * CHANNELS;
    float* data;
    size_t plane;  // from one position to the next; powers of 2 would collide in the cache
    Packed(float* data, int groups) : data(data), plane(groups * GROUP + CHANNELS) {}
    float* at(int position, int group) const { return data + position * plane + group * GROUP; }
    static size_t size(int groups) { return 16 * (groups * GROUP + CHANNELS); }
};

// Ask early for pixels that are to be read soon: the columns that the tile before has not read.
template <int R, class T>
inline void prefetch(const Pixels<R>& pixels, const T* x, int channel) {
    for (int r = 0; r < R; r++)
        for (int q = R - 2; q < R; q++) __builtin_prefetch(x + pixels.at(r, q) + channel);
}

// Pack a block of tiles of R x R px of x, some groups of channels.  transform(pixels, v, channel)
// gives the 4 x 4 vectors v of L channels of a tile.  A tile without a pair gets one of zeros.
template <class T, int R, class F>
inline void pack_tiles(const Pixels<R>* tiles, int count, const T* x, const Range& groups,
                       const Packed<T>& to, F transform) {
    for (int t = 0; t < count; t += STEP<T>)
        for (int group = 0; group < groups.size(); group++)
            for (int i = 0; i < CHANNELS; i += L) {
                Vec v[STEP<T> * 16] = {}, pixels[R * R];
                int channel = (groups.from + group) * CHANNELS + i;
                for (int tile = t; tile < std::min(count, t + STEP<T>); tile++) {
                    prefetch(tiles[std::min(count - 1, tile + 4)], x, channel);
                    tiles[tile].read(x, channel, pixels);
                    transform(pixels, v + (tile - t) * 16, channel);
                }
                float* first = to.at(0, group) + t / STEP<T> * CHANNELS + i;
                for (int position = 0; position < 16; position++)
                    outer_products::pack<T>(first + position * to.plane, v + position, 16);
            }
}

// The input of a convolution.
template <class T> struct Input {
    const Shape& s; const Part<T>& part;

    void pack(const Range& tiles, const Range& groups, const Packed<T>& to) const {
        Tile list[BLOCK];
        Pixels<4> pixels[BLOCK];
        tiles_of(s, tiles.from, tiles.size(), list);
        for (int t = 0; t < tiles.size(); t++) pixels[t] = input_of(s, part, list[t]);
        pack_tiles(pixels, tiles.size(), part.x, groups, to,
                   [](const Vec* x, Vec* v, int) { transform_input(x, v); });
    }
};

// The gradient of its output, which is also added to `bias`, [channel], where that is not nullptr.
template <class T> struct OutputGradient {
    const Shape& s; const T* gy; float* bias;

    void pack(const Range& tiles, const Range& groups, const Packed<T>& to) const {
        Tile list[BLOCK];
        Pixels<2> pixels[BLOCK];
        tiles_of(s, tiles.from, tiles.size(), list);
        for (int t = 0; t < tiles.size(); t++) pixels[t] = output_of(s, list[t]);
        pack_tiles(pixels, tiles.size(), gy, groups, to, [&](const Vec* g, Vec* d, int channel) {
            transform_gradient(g, d);
            if (bias) store(bias + channel, load(bias + channel) + (g[0] + g[1] + g[2] + g[3]));
        });
    }
};

// to[tap * width + i]: G^T u G, of 16 positions [position][plane] of L filters.
inline void transform_sums(const float* u, size_t plane, float* to, size_t width) {
    Vec t[12];
    for (int q = 0; q < 4; q++) {
        Vec a = load(u + q * plane), b = load(u + (4 + q) * plane), c = load(u + (8 + q) * plane),
            e = load(u + (12 + q) * plane);
        t[q] = a + (b + c) / 2; t[4 + q] = (b - c) / 2; t[8 + q] = (b + c) / 2 + e;
    }
    for (int r = 0; r < 3; r++) {
        Vec a = t[r * 4], b = t[r * 4 + 1], c = t[r * 4 + 2], e = t[r * 4 + 3];
        store(to + r * 3 * width, a + (b + c) / 2);
        store(to + (r * 3 + 1) * width, (b - c) / 2);
        store(to + (r * 3 + 2) * width, (b + c) / 2 + e);
    }
}

// The sums of one task, into `parts`.  Rows, columns: Input and OutputGradient, or the reverse.
template <class T, class Rows, class Columns>
inline void add_tiles(const Tasks& tasks, const Task& task, const Parts& parts, const Rows& rows,
                      const Columns& columns) {
    static thread_local Buffer buffer;
    int height = task.rows.size() * CHANNELS, width = task.columns.size() * CHANNELS;
    size_t plane = (size_t)height * width, d_size = Packed<T>::size(task.rows.size()),
        v_size = Packed<T>::size(task.columns.size());
    float* u = (float*)buffer.of((16 * plane + d_size + v_size) * sizeof(float));
    Packed<T> d(u + 16 * plane, task.rows.size()),
        v(u + 16 * plane + d_size, task.columns.size());
    std::memset(u, 0, 16 * plane * sizeof(float));
    for (int from = task.t.from; from < task.t.to; from += BLOCK) {
        Range tiles = {from, std::min(from + BLOCK, task.t.to)};
        rows.pack(tiles, task.rows, d);
        columns.pack(tiles, task.columns, v);
        for (int position = 0; position < 16; position++)
            accumulate<T>(d.at(position, 0), d.GROUP, task.rows.size(), v.at(position, 0),
                          v.GROUP, task.columns.size(), (tiles.size() + STEP<T> - 1) / STEP<T>,
                          u + position * plane);
    }
    for (int row = 0; row < height; row++)
        for (int i = 0; i < width; i += L)
            transform_sums(u + (size_t)row * width + i, plane,
                           parts.filters(task.part, task.rows.from * CHANNELS + row)
                               + task.columns.from * CHANNELS + i, tasks.columns * CHANNELS);
}

// The gradient of the filters that one part of the input meets.
// gy: the gradient of the output, (n, oh, ow, padded(k)).  gw: (k, c_total, 3, 3), of which this
// writes the part's channels, from first_channel on.  gb: of the bias, (k), or nullptr.
template <class T>
inline void filter_gradient(const Shape& s, const Part<T>& part, int first_channel, int c_total,
                            const T* gy, float* gw, float* gb) {
    static Buffer buffer;
    float* to = gw + (size_t)first_channel * 9;
    size_t k_step = (size_t)c_total * 9;
    bool outputs_are_rows = groups_of(part.c) % 2 == 0 || groups_of(s.k) % 2 == 1;
    Gradient gradient = outputs_are_rows ? Gradient{to, k_step, 9, 1, s.k, part.c, 9}
        : Gradient{to, 9, k_step, 1, part.c, s.k, 9};
    Tasks tasks(s.tiles(), BLOCK, gradient.rows, gradient.columns, 9);
    Parts parts(tasks, 9, s.k, buffer);
    if (gb) parts.clear_bias();
    #pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < tasks.count(); i++) {
        Task task = tasks[i];
        bool first = (outputs_are_rows ? task.columns : task.rows).from == 0;
        Input<T> input = {s, part};
        OutputGradient<T> output = {s, gy, gb && first ? parts.bias(task.part) : nullptr};
        if (outputs_are_rows) add_tiles<T>(tasks, task, parts, output, input);
        else add_tiles<T>(tasks, task, parts, input, output);
    }
    parts.add_filters(gradient);
    if (gb) parts.add_bias(gb, s.k);
}

}  // namespace winograd
