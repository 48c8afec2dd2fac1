// 3x3 convolutions of stride 1 by Winograd's minimal filtering F(M x M, 3x3), part 1: the tiles and
// the transforms.  convolution.h and filter_gradient.h have the products.
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4:
// an output is cut into tiles of M x M px, each of which sees (M + 2) x (M + 2) px of the input.
//     Y = A^T [ (G w G^T) * (B^T d B) ] A
// where [.] is summed over the input channels.  This sum is, for each of the (M + 2)^2 positions,
// a product of matrices.  M = 2: 16 multiplications do where the plain sum takes 36.
// M = 4: 36 do where it takes 144, at two to three times the plain sum's rounding error.
//
// Images are channels-last: a pixel's channels lie side by side, padded(channels) numbers.
// A vector holds L channels of one pixel, and every transform adds whole vectors.
// Dilation d: the pixels of a tile, of the input and of the output, are d px apart.
#pragma once
#include <algorithm>
#include <cstddef>
#include "channels_last.h"

namespace winograd {

using namespace channels_last;

// One tensor of several that are concatenated along the channels, as the input of a convolution.
// x is (n, h, w, padded(c)).  Pixel (y, x) of the input is pixel (y + top, x + left) of the part.
// So a part may be cropped.  Where the part has no such pixel the input is 0.
template <class T> struct Part { const T* x; int c, h, w, top, left; };

// A convolution: n inputs of h x w px, n outputs of oh x ow px and k channels.
// Output (y, x) sees the input from (y - pad_top, x - pad_left) on, in steps of the dilation.
struct Shape {
    int n, h, w, oh, ow, pad_top, pad_left, dilation, k;

    // A tile begins at each row whose remainder by m d is less than d, likewise at each column.
    int begins(int size, int m) const {
        int whole = size / (m * dilation), rest = size % (m * dilation);
        return whole * dilation + std::min(rest, dilation);
    }
    int down(int m = 2) const { return begins(oh, m); }
    int across(int m = 2) const { return begins(ow, m); }
    int tiles(int m = 2) const { return n * down(m) * across(m); }
    // Whether 4 x 4 px are worth their larger filters: enough tiles, and few beyond the output.
    bool suits_large_tiles() const { return tiles(4) >= 64 && 5 * tiles(4) < 2 * tiles(2); }
};

// The tile whose first output pixel is (y, x) of an image.
struct Tile { int image, y, x; };
// The tiles number begin ... begin + count, row by row.
template <int M = 2>
inline void tiles_of(const Shape& s, int begin, int count, Tile* tiles) {
    int across = s.across(M), down = s.down(M), d = s.dilation, jump = (M - 1) * d;
    int column = begin % across, row = begin / across % down;
    Tile t = {begin / across / down, row + row / d * jump, column + column / d * jump};
    int sub_row = row % d, sub_column = column % d;  // after d - 1 steps of 1 comes a longer one
    for (int i = 0; i < count; i++) {
        tiles[i] = t;
        t.x += ++sub_column < d ? 1 : jump + 1;
        if (sub_column == d) sub_column = 0;
        if (t.x < s.ow) continue;
        t.x = sub_column = 0;
        t.y += ++sub_row < d ? 1 : jump + 1;
        if (sub_row == d) sub_row = 0;
        if (t.y < s.oh) continue;
        t.y = sub_row = 0;
        t.image++;
    }
}

// R x R pixels of a tile, of an array of images.  Pixel (r, q) begins at number at(r, q), and
// exists where bit r * R + q of `inside` is set.
template <int R> struct Pixels {
    static constexpr unsigned long long ALL = (1ull << R * R) - 1;
    ptrdiff_t first, row, column; unsigned long long inside;

    ptrdiff_t at(int r, int q) const { return first + r * row + q * column; }
    bool has(int r, int q) const { return inside >> (r * R + q) & 1; }
    // v, R x R vectors: L channels of each pixel, from `channel` on.  Zero where there is no pixel.
    template <class T> void read(const T* x, int channel, Vec* v) const {
        x += channel;
        if (inside == ALL)
            for (int i = 0; i < R * R; i++) v[i] = load(x + at(i / R, i % R));
        else
            for (int i = 0; i < R * R; i++)
                v[i] = has(i / R, i % R) ? load(x + at(i / R, i % R)) : Vec{};
    }
};

// Pixels of images of h x w px and `channels` numbers a pixel, the first at (y, x), in steps of d.
// Those outside of [top, bottom) x [left, right) do not exist.
struct Bounds { int top, bottom, left, right; };
template <int R>
inline Pixels<R> pixels_at(const Tile& t, int h, int w, int channels, int d, const Bounds& b) {
    unsigned long long inside = Pixels<R>::ALL;
    int far = (R - 1) * d;
    if (t.y < b.top || t.y + far >= b.bottom || t.x < b.left || t.x + far >= b.right)
        for (int i = 0; i < R * R; i++) {
            int y = t.y + i / R * d, x = t.x + i % R * d;
            bool there = y >= b.top && y < b.bottom && x >= b.left && x < b.right;
            if (!there) inside &= ~(1ull << i);
        }
    return {(((ptrdiff_t)t.image * h + t.y) * w + t.x) * channels, (ptrdiff_t)d * w * channels,
            (ptrdiff_t)d * channels, inside};
}

// The R x R px that a tile of R - 2 px a side sees of a part of the input.
template <int R = 4, class T>
inline Pixels<R> input_of(const Shape& s, const Part<T>& part, const Tile& t) {
    Bounds bounds = {std::max(0, part.top), std::min(part.h, s.h + part.top),
                     std::max(0, part.left), std::min(part.w, s.w + part.left)};
    Tile first = {t.image, t.y - s.pad_top + part.top, t.x - s.pad_left + part.left};
    return pixels_at<R>(first, part.h, part.w, padded(part.c), s.dilation, bounds);
}

// A tile's M x M px of the output, or of the output's gradient: (n, oh, ow, padded(k)).
template <int M = 2> inline Pixels<M> output_of(const Shape& s, const Tile& t) {
    return pixels_at<M>(t, s.oh, s.ow, padded(s.k), s.dilation, {0, s.oh, 0, s.ow});
}

// The transforms in one dimension, of vectors.
template <int M> struct Line;
template <> struct Line<2> {
    static void input(const Vec* d, Vec* v) {
        v[0] = d[0] - d[2]; v[1] = d[1] + d[2]; v[2] = d[2] - d[1]; v[3] = d[1] - d[3];
    }
    static void filter(const Vec* w, Vec* u) {
        Vec even = (w[0] + w[2]) / 2, odd = w[1] / 2;
        u[0] = w[0]; u[1] = even + odd; u[2] = even - odd; u[3] = w[2];
    }
    static void output(const Vec* m, Vec* y) {
        y[0] = m[0] + m[1] + m[2]; y[1] = m[1] - m[2] - m[3];
    }
    static void output_adjoint(const Vec* g, Vec* d) {
        d[0] = g[0]; d[1] = g[0] + g[1]; d[2] = g[0] - g[1]; d[3] = -g[1];
    }
    static void filter_adjoint(const Vec* u, Vec* w) {
        Vec even = (u[1] + u[2]) / 2, odd = (u[1] - u[2]) / 2;
        w[0] = u[0] + even; w[1] = odd; w[2] = even + u[3];
    }
};
// Cook's and Toom's algorithm with the points 0, 3/4, -3/4, 3/2, -3/2 and infinity.  They give a
// third of the error of the paper's 0, 1, -1, 2, -2, because their powers stay near 1.
// Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution", 2020.
template <> struct Line<4> {
    static constexpr float P = 0.75f, Q = 1.5f, PP = P * P, QQ = Q * Q,
        p = 1 / (2 * PP * (PP - QQ)), q = 1 / (2 * QQ * (QQ - PP));
    static void input(const Vec* d, Vec* v) {
        v[0] = PP * QQ * d[0] - (PP + QQ) * d[2] + d[4];
        v[5] = PP * QQ * d[1] - (PP + QQ) * d[3] + d[5];
        Vec even = d[4] - QQ * d[2], odd = d[3] - QQ * d[1];
        v[1] = even + P * odd; v[2] = even - P * odd;
        even = d[4] - PP * d[2]; odd = d[3] - PP * d[1];
        v[3] = even + Q * odd; v[4] = even - Q * odd;
    }
    static void filter(const Vec* w, Vec* u) {
        u[0] = 1 / (PP * QQ) * w[0]; u[5] = w[2];
        Vec even = p * (w[0] + PP * w[2]), odd = p * P * w[1];
        u[1] = even + odd; u[2] = even - odd;
        even = q * (w[0] + QQ * w[2]); odd = q * Q * w[1];
        u[3] = even + odd; u[4] = even - odd;
    }
    static void output(const Vec* m, Vec* y) {
        Vec even_p = m[1] + m[2], odd_p = m[1] - m[2], even_q = m[3] + m[4], odd_q = m[3] - m[4];
        y[0] = m[0] + even_p + even_q;
        y[1] = P * odd_p + Q * odd_q;
        y[2] = PP * even_p + QQ * even_q;
        y[3] = P * PP * odd_p + Q * QQ * odd_q + m[5];
    }
    static void output_adjoint(const Vec* g, Vec* d) {
        d[0] = g[0]; d[5] = g[3];
        Vec even = g[0] + PP * g[2], odd = P * g[1] + P * PP * g[3];
        d[1] = even + odd; d[2] = even - odd;
        even = g[0] + QQ * g[2]; odd = Q * g[1] + Q * QQ * g[3];
        d[3] = even + odd; d[4] = even - odd;
    }
    static void filter_adjoint(const Vec* u, Vec* w) {
        Vec even_p = p * (u[1] + u[2]), even_q = q * (u[3] + u[4]);
        w[0] = 1 / (PP * QQ) * u[0] + even_p + even_q;
        w[1] = p * P * (u[1] - u[2]) + q * Q * (u[3] - u[4]);
        w[2] = PP * even_p + QQ * even_q + u[5];
    }
};

// A transform of N x N vectors into K x K, first of the columns, then of the rows.
// get(i): vector number i.  put(i, v) takes vector number i of the result.
template <int N, int K, void line(const Vec*, Vec*), class Get, class Put>
inline void both_ways(Get get, Put put) {
    Vec t[K * N];
    #pragma GCC unroll 6
    for (int q = 0; q < N; q++) {
        Vec column[N], transformed[K];
        #pragma GCC unroll 6
        for (int r = 0; r < N; r++) column[r] = get(r * N + q);
        line(column, transformed);
        #pragma GCC unroll 6
        for (int r = 0; r < K; r++) t[r * N + q] = transformed[r];
    }
    #pragma GCC unroll 6
    for (int r = 0; r < K; r++) {
        Vec transformed[K];
        line(t + r * N, transformed);
        #pragma GCC unroll 6
        for (int q = 0; q < K; q++) put(r * K + q, transformed[q]);
    }
}
// v, of the input's pixels: B^T d B.
template <int M = 2> inline void transform_input(const Vec* d, Vec* v) {
    both_ways<M + 2, M + 2, Line<M>::input>([=](int i) { return d[i]; },
                                            [=](int i, const Vec& x) { v[i] = x; });
}
// u, of 3 x 3 numbers of L filters: G w G^T.
template <int M = 2> inline void transform_filter(const Vec* w, Vec* u) {
    both_ways<3, M + 2, Line<M>::filter>([=](int i) { return w[i]; },
                                         [=](int i, const Vec& x) { u[i] = x; });
}
// y: A^T m A.  The positions of m lie `step` numbers apart.
template <int M = 2> inline void transform_output(const float* m, size_t step, Vec* y) {
    both_ways<M + 2, M, Line<M>::output>([=](int i) { return load(m + i * step); },
                                         [=](int i, const Vec& x) { y[i] = x; });
}

// d, of M x M vectors of the output's gradient: A g A^T.
template <int M = 2> inline void transform_gradient(const Vec* g, Vec* d) {
    both_ways<M, M + 2, Line<M>::output_adjoint>([=](int i) { return g[i]; },
                                                 [=](int i, const Vec& x) { d[i] = x; });
}
// w, 3 x 3 vectors: G^T u G.  The positions of u lie `step` numbers apart.
template <int M = 2> inline void transform_sums(const float* u, size_t step, Vec* w) {
    both_ways<M + 2, 3, Line<M>::filter_adjoint>([=](int i) { return load(u + i * step); },
                                                 [=](int i, const Vec& x) { w[i] = x; });
}

}  // namespace winograd
