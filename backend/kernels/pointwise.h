// 1x1 convolutions over channels-last images, and their gradients.
//
// Each is a product of matrices: pixels x channels by channels x outputs, or, for the gradient of
// the weights, outputs x pixels by pixels x channels.  transposed_convolution.h is built on them.
#pragma once
#include "outer_products.h"

namespace pointwise {

using namespace outer_products;

#ifdef __AVX512F__
constexpr int PIXELS = 12, WIDTH = 2;  // of a product: as many sums as there are registers
#else
constexpr int PIXELS = 6, WIDTH = 2;
#endif
constexpr int BLOCK = 96;              // pixels of a task

// `rows` x `columns` pixels of an array, `padded(channels)` numbers side by side in each.
// row, column: from one row of pixels to the next, from one column to the next, in numbers.
template <class T> struct Pixels {
    T* data; int channels; size_t row, column;
    T* at(int r, int c) const { return data + r * row + c * column; }
};
struct Grid {
    int rows, columns;
    size_t size() const { return (size_t)rows * columns; }
};
// All of n images of h x w px lie in one row.
template <class T> inline Pixels<T> all_pixels(T* data, int channels) {
    return {data, channels, 0, (size_t)padded(channels)};
}

// ---------------------------------------------------------------------------------- the weights
// The weight from channel c to output k is data[k * output + c * channel].
struct Weights { const float* data; int channels; size_t output, channel; };

// How many bytes the packed weights take.
template <class T> inline size_t packed_size(const int* channels, int parts, int outputs) {
    int groups = 0;
    for (int p = 0; p < parts; p++) groups += groups_of(channels[p]);
    return (size_t)groups * CHANNELS * padded(outputs) * sizeof(float) / STEP<T>;
}

// Pack weights: [group of outputs][part][step of channels][output of the group].  A step is one
// channel, in Bf16 two side by side.
template <class T>
inline void pack_weights(const Weights* parts, int count, int outputs, void* to) {
    size_t group = 0;
    for (int p = 0; p < count; p++) group += padded(parts[p].channels) / STEP<T> * CHANNELS;
    #pragma omp parallel for
    for (int from = 0; from < padded(outputs); from += CHANNELS) {
        float* u = (float*)to + from / CHANNELS * group;
        for (int p = 0; p < count; p++)
            for (int c = 0; c < padded(parts[p].channels); c += STEP<T>, u += CHANNELS)
                for (int i = 0; i < CHANNELS; i += L) {
                    Vec values[2] = {};
                    for (int s = 0; s < STEP<T> && c + s < parts[p].channels; s++)
                        for (int l = 0; l < L && from + i + l < outputs; l++)
                            values[s][l] = parts[p].data[(from + i + l) * parts[p].output
                                                         + (c + s) * parts[p].channel];
                    pack<T>(u + i, values, 1);
                }
    }
}

// ---------------------------------------------------------------------------------- the product
// A step's channels of a pixel, in every place of a vector.
inline Vec broadcast(const float* x) { return Vec{} + *x; }
inline Vec broadcast(const Bf16* x) {
    int bits;
    if (STEP<Bf16> == 2) std::memcpy(&bits, x, sizeof bits);
    else bits = x->bits << 16;
    return (Vec)(Mask{} + bits);
}

// P pixels of y, W vectors of outputs from `output` on.
// u: the packed weights of the first group.  u_group: from one group to the next.
template <class T, int P, int W>
void multiply(const Pixels<const T>* parts, int count, int row, int column, const float* u,
                     size_t u_group, const float* bias, const Pixels<T>& y, int output) {
    Vec sum[P][W];
    for (int p = 0; p < P; p++)
        for (int i = 0; i < W; i++) sum[p][i] = load(bias + output + i * L);
    for (int part = 0; part < count; part++) {
        const T* x = parts[part].at(row, column);
        size_t step = parts[part].column;
        for (int c = 0; c < padded(parts[part].channels); c += STEP<T>, u += CHANNELS) {
            Vec weight[W];
            for (int i = 0; i < W; i++)
                weight[i] = in_register(load(u + i / VECTORS * u_group + i % VECTORS * L));
            for (int p = 0; p < P; p++) {
                Vec pixel = in_register(broadcast(x + p * step + c));
                for (int i = 0; i < W; i++)
                    sum[p][i] = add_product<T>(sum[p][i], pixel, weight[i]);
            }
        }
    }
    for (int p = 0; p < P; p++)
        for (int i = 0; i < W; i++) store(y.at(row, column + p) + output + i * L, sum[p][i]);
}

// y = the sum over parts of x * w, + bias.  bias: (outputs), or nullptr.  u: of pack_weights.
template <class T>
inline void multiply(const Grid& grid, const Pixels<const T>* parts, int count, const void* u,
                     const float* bias, const Pixels<T>& y) {
    int outputs = padded(y.channels), blocks = (grid.columns + BLOCK - 1) / BLOCK;
    size_t group = 0;  // of u
    for (int p = 0; p < count; p++) group += padded(parts[p].channels) / STEP<T> * CHANNELS;
    static Buffer buffer;
    float* shift = (float*)buffer.of(outputs * sizeof(float));
    for (int o = 0; o < outputs; o++) shift[o] = bias && o < y.channels ? bias[o] : 0;
    #pragma omp parallel for collapse(2) schedule(dynamic)
    for (int row = 0; row < grid.rows; row++)
        for (int block = 0; block < blocks; block++)
            for (int o = 0; o < outputs; ) {
                const float* w = (const float*)u + o / CHANNELS * group + o % CHANNELS;
                int c = block * BLOCK, to = std::min(grid.columns, c + BLOCK);
                bool wide = o + WIDTH * L <= outputs;
                auto several = wide ? multiply<T, PIXELS, WIDTH> : multiply<T, PIXELS, 1>;
                auto one = wide ? multiply<T, 1, WIDTH> : multiply<T, 1, 1>;
                for (; c + PIXELS <= to; c += PIXELS)
                    several(parts, count, row, c, w, group, shift, y, o);
                for (; c < to; c++) one(parts, count, row, c, w, group, shift, y, o);
                o += wide ? WIDTH * L : L;
            }
}

// ------------------------------------------------------------------------ the weights' gradient
// Pack pixels number [from, to) of the grid, some groups of channels: [group][step][channel].
// sums: to which the pixels are added, or nullptr.
template <class T>
inline void pack_pixels(const Grid& grid, const Pixels<const T>& x, const Range& pixels,
                        const Range& groups, float* to, float* sums) {
    int row = pixels.from / grid.columns, column = pixels.from % grid.columns;
    for (int t = pixels.from; t < pixels.to; t += STEP<T>, to += CHANNELS) {
        int count = std::min(STEP<T>, pixels.to - t);
        const T* from[2];
        for (int p = 0; p < count; p++) {
            from[p] = x.at(row, column) + groups.from * CHANNELS;
            if (++column == grid.columns) { column = 0; row++; }
        }
        for (int group = 0; group < groups.size(); group++)
            for (int i = 0; i < CHANNELS; i += L) {
                int channel = group * CHANNELS + i;
                Vec values[2] = {};
                for (int p = 0; p < count; p++) {
                    values[p] = load(from[p] + channel);
                    if (sums) store(sums + channel, load(sums + channel) + values[p]);
                }
                pack<T>(to + (size_t)group * (BLOCK / STEP<T> * CHANNELS) + i, values, 1);
            }
    }
}

// The sums of the outer products of two arrays' pixels, and of gy's pixels where gb is not nullptr.
// x: the input.  gy: the gradient of the output.  gradient: its rows are outputs.
template <class T>
inline void weight_gradient(const Grid& grid, const Pixels<const T>& x, const Pixels<const T>& gy,
                            const Gradient& gradient, float* gb) {
    static Buffer sums;
    Tasks tasks(grid.size(), BLOCK, gy.channels, x.channels, 1);
    Parts parts(tasks, 1, gy.channels, sums);
    if (gb) parts.clear_bias();
    #pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < tasks.count(); i++) {
        static thread_local Buffer buffer;
        Task task = tasks[i];
        int height = task.rows.size() * CHANNELS, width = task.columns.size() * CHANNELS;
        size_t group = BLOCK / STEP<T> * CHANNELS, size = (size_t)height * width;
        float* u = (float*)buffer.of((size + CHUNK * 2 * group) * sizeof(float));
        float *d = u + size, *v = d + CHUNK * group;
        float* bias = gb && task.columns.from == 0
            ? parts.bias(task.part) + task.rows.from * CHANNELS : nullptr;
        for (int from = task.t.from; from < task.t.to; from += BLOCK) {
            Range pixels = {from, std::min(from + BLOCK, task.t.to)};
            pack_pixels(grid, gy, pixels, task.rows, d, bias);
            pack_pixels(grid, x, pixels, task.columns, v, nullptr);
            accumulate<T>(d, group, task.rows.size(), v, group, task.columns.size(),
                          (pixels.size() + STEP<T> - 1) / STEP<T>, u, from > task.t.from);
        }
        for (int row = 0; row < height; row++)
            std::memcpy(parts.filters(task.part, task.rows.from * CHANNELS + row)
                        + task.columns.from * CHANNELS, u + (size_t)row * width,
                        width * sizeof(float));
    }
    parts.add_filters(gradient);
    if (gb) parts.add_bias(gb, gy.channels);
}

// --------------------------------------------------------------------------- the 1x1 convolution
// w (k, c_total).  The input is a concatenation of parts, which have channels[p] each.
// pixels: of all images together.
constexpr int MOST_PARTS = 16;

// u: packed_size(channels, parts, k) bytes.
template <class T>
inline void pack_filters(const float* w, int k, int c_total, const int* channels, int parts,
                         void* u) {
    Weights weights[MOST_PARTS];
    for (int p = 0, first = 0; p < parts; first += channels[p++])
        weights[p] = {w + first, channels[p], (size_t)c_total, 1};
    pack_weights<T>(weights, parts, k, u);
}
// y = x * w + bias.  bias: (k), or nullptr.
template <class T>
inline void convolve(int pixels, const T* const* x, const int* channels, int parts, const void* u,
                     int k, const float* bias, T* y) {
    Pixels<const T> inputs[MOST_PARTS];
    for (int p = 0; p < parts; p++) inputs[p] = all_pixels(x[p], channels[p]);
    multiply({1, pixels}, inputs, parts, u, bias, all_pixels(y, k));
}
// For the gradient of one part, of c channels from first_channel on.
// u: packed_size(&k, 1, c) bytes.
template <class T>
inline void pack_adjoint(const float* w, int k, int c_total, int first_channel, int c, void* u) {
    Weights weights = {w + first_channel, k, 1, (size_t)c_total};
    pack_weights<T>(&weights, 1, c, u);
}
template <class T>
inline void input_gradient(int pixels, const T* gy, int k, const void* u, int c, T* gx) {
    Pixels<const T> output = all_pixels(gy, k);
    multiply({1, pixels}, &output, 1, u, nullptr, all_pixels(gx, c));
}
// gw: (k, c_total), of which this writes the part's channels.  gb: (k), or nullptr.
template <class T>
inline void filter_gradient(int pixels, const T* x, int c, int first_channel, int c_total,
                            const T* gy, int k, float* gw, float* gb) {
    weight_gradient({1, pixels}, all_pixels(x, c), all_pixels(gy, k),
                    {gw + first_channel, (size_t)c_total, 1, 0, k, c, 1}, gb);
}

}  // namespace pointwise
