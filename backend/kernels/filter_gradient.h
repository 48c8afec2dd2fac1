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

// Pack the tiles of a block.  transformed(tile, channel, v): v is to get a tile's 4 x 4 vectors,
// transformed, of L channels.  A tile without a pair gets one of zeros.
template <class T, class F>
inline void pack_tiles(const Range& tiles, const Range& groups, const Packed<T>& to,
                       F transformed) {
    for (int t = 0; t < tiles.size(); t += STEP<T>)
        for (int group = 0; group < groups.size(); group++)
            for (int i = 0; i < CHANNELS; i += L) {
                Vec v[STEP<T> * 16];
                for (int p = 0; p < STEP<T>; p++)
                    if (t + p < tiles.size())
                        transformed(t + p, (groups.from + group) * CHANNELS + i, v + p * 16);
                    else std::memset(v + p * 16, 0, 16 * sizeof(Vec));
                float* first = to.at(0, group) + t / STEP<T> * CHANNELS + i;
                for (int position = 0; position < 16; position++)
                    outer_products::pack<T>(first + position * to.plane, v + position, 16);
            }
}

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

// The sums of one task, into `parts`.
template <class T>
inline void add_tiles(const Shape& s, const Part<T>& part, const T* gy, const Task& task,
                      int c_groups, bool with_bias, Parts& parts) {
    static thread_local Buffer buffer;
    int k = task.k.size() * CHANNELS, c = task.c.size() * CHANNELS;
    size_t plane = (size_t)k * c, v_size = Packed<T>::size(task.c.size()),
        d_size = Packed<T>::size(task.k.size());
    float* u = (float*)buffer.of((16 * plane + v_size + d_size) * sizeof(float));
    Packed<T> v(u + 16 * plane, task.c.size()), d(u + 16 * plane + v_size, task.k.size());
    std::memset(u, 0, 16 * plane * sizeof(float));
    float* bias = parts.bias(task.part) + task.k.from * CHANNELS;
    if (with_bias) std::memset(bias, 0, k * sizeof(float));
    for (int from = task.t.from; from < task.t.to; from += BLOCK) {
        Range tiles = {from, std::min(from + BLOCK, task.t.to)};
        Tile list[BLOCK];
        Pixels<4> inputs[BLOCK];
        Pixels<2> outputs[BLOCK];
        tiles_of(s, from, tiles.size(), list);
        for (int t = 0; t < tiles.size(); t++) {
            inputs[t] = input_of(s, part, list[t]);
            outputs[t] = output_of(s, list[t]);
        }
        pack_tiles<T>(tiles, task.c, v, [&](int t, int channel, Vec* to) {
            Vec x[16];
            inputs[t].read(part.x, channel, x);
            transform_input(x, to);
        });
        pack_tiles<T>(tiles, task.k, d, [&](int t, int channel, Vec* to) {
            Vec g[4];
            outputs[t].read(gy, channel, g);
            transform_gradient(g, to);
            if (with_bias) {
                float* sum = bias + channel - task.k.from * CHANNELS;
                store(sum, load(sum) + (g[0] + g[1] + g[2] + g[3]));
            }
        });
        for (int position = 0; position < 16; position++)
            accumulate<T>(d.at(position, 0), d.GROUP, task.k.size(), v.at(position, 0), v.GROUP,
                          task.c.size(), (tiles.size() + STEP<T> - 1) / STEP<T>,
                          u + position * plane);
    }
    for (int o = 0; o < k; o++)
        for (int i = 0; i < c; i += L)
            transform_sums(u + (size_t)o * c + i, plane,
                           parts.filters(task.part, task.k.from * CHANNELS + o)
                               + task.c.from * CHANNELS + i, c_groups * CHANNELS);
}

// The gradient of the filters that one part of the input meets.
// gy: the gradient of the output, (n, oh, ow, padded(k)).  gw: (k, c_total, 3, 3), of which this
// writes the part's channels, from first_channel on.  gb: of the bias, (k), or nullptr.
template <class T>
inline void filter_gradient(const Shape& s, const Part<T>& part, int first_channel, int c_total,
                            const T* gy, float* gw, float* gb) {
    static Buffer buffer;
    Tasks tasks(s.tiles(), BLOCK, s.k, part.c, 9);
    Parts parts(tasks, 9, buffer);
    #pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < tasks.count(); i++) {
        Task task = tasks[i];
        add_tiles(s, part, gy, task, tasks.c_groups, gb && task.c.from == 0, parts);
    }
    parts.add({gw + (size_t)first_channel * 9, (size_t)c_total * 9, 9, 1, gb, s.k, part.c, 9});
}

}  // namespace winograd
