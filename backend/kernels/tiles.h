// 3x3 convolutions of stride 1 by Winograd's minimal filtering F(2x2, 3x3), part 1: the tiles and
// the transforms.  convolution.h and filter_gradient.h have the products.
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1:
// 16 multiplications do where the plain sum takes 36.  An output is cut into tiles of 2 x 2 px,
// each of which sees 4 x 4 px of the input.  With the matrices of that paper,
//     Y = A^T [ (G w G^T) * (B^T d B) ] A
// where [.] is summed over the input channels.  This sum is, for each of the 16 positions, a
// product of matrices.
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

    // A tile begins at each row whose remainder by 2 d is less than d, likewise at each column.
    int begins(int size) const {
        int whole = size / (2 * dilation), rest = size % (2 * dilation);
        return whole * dilation + std::min(rest, dilation);
    }
    int down() const { return begins(oh); }
    int across() const { return begins(ow); }
    int tiles() const { return n * down() * across(); }
};

// The tile whose first output pixel is (y, x) of an image.
struct Tile { int image, y, x; };
// The tiles number begin ... begin + count, row by row.
inline void tiles_of(const Shape& s, int begin, int count, Tile* tiles) {
    int across = s.across(), down = s.down(), d = s.dilation;
    int column = begin % across, row = begin / across % down;
    Tile t = {begin / across / down, row + row / d * d, column + column / d * d};
    int sub_row = row % d, sub_column = column % d;  // a step from 0 ... d - 1, then one of d + 1
    for (int i = 0; i < count; i++) {
        tiles[i] = t;
        t.x += ++sub_column < d ? 1 : d + 1;
        if (sub_column == d) sub_column = 0;
        if (t.x < s.ow) continue;
        t.x = sub_column = 0;
        t.y += ++sub_row < d ? 1 : d + 1;
        if (sub_row == d) sub_row = 0;
        if (t.y < s.oh) continue;
        t.y = sub_row = 0;
        t.image++;
    }
}

// R x R pixels of a tile, of an array of images.  Pixel (r, q) begins at number at(r, q), and
// exists where bit r * R + q of `inside` is set.
template <int R> struct Pixels {
    static constexpr unsigned ALL = (1u << R * R) - 1;
    ptrdiff_t first, row, column; unsigned inside;

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
    unsigned inside = Pixels<R>::ALL;
    int far = (R - 1) * d;
    if (t.y < b.top || t.y + far >= b.bottom || t.x < b.left || t.x + far >= b.right)
        for (int i = 0; i < R * R; i++) {
            int y = t.y + i / R * d, x = t.x + i % R * d;
            bool there = y >= b.top && y < b.bottom && x >= b.left && x < b.right;
            if (!there) inside &= ~(1u << i);
        }
    return {(((ptrdiff_t)t.image * h + t.y) * w + t.x) * channels, (ptrdiff_t)d * w * channels,
            (ptrdiff_t)d * channels, inside};
}

// The 4 x 4 px that a tile sees of a part of the input.
template <class T> inline Pixels<4> input_of(const Shape& s, const Part<T>& part, const Tile& t) {
    Bounds bounds = {std::max(0, part.top), std::min(part.h, s.h + part.top),
                     std::max(0, part.left), std::min(part.w, s.w + part.left)};
    Tile first = {t.image, t.y - s.pad_top + part.top, t.x - s.pad_left + part.left};
    return pixels_at<4>(first, part.h, part.w, padded(part.c), s.dilation, bounds);
}

// A tile's 2 x 2 px of the output, or of the output's gradient: (n, oh, ow, padded(k)).
inline Pixels<2> output_of(const Shape& s, const Tile& t) {
    return pixels_at<2>(t, s.oh, s.ow, padded(s.k), s.dilation, {0, s.oh, 0, s.ow});
}

// v: B^T d B.  A tile has 4 x 4 vectors, row by row.
inline void transform_input(const Vec* d, Vec* v) {
    Vec t[16];
    for (int q = 0; q < 4; q++) {
        t[q] = d[q] - d[8 + q];
        t[4 + q] = d[4 + q] + d[8 + q];
        t[8 + q] = d[8 + q] - d[4 + q];
        t[12 + q] = d[4 + q] - d[12 + q];
    }
    for (int r = 0; r < 4; r++) {
        v[r * 4] = t[r * 4] - t[r * 4 + 2];
        v[r * 4 + 1] = t[r * 4 + 1] + t[r * 4 + 2];
        v[r * 4 + 2] = t[r * 4 + 2] - t[r * 4 + 1];
        v[r * 4 + 3] = t[r * 4 + 1] - t[r * 4 + 3];
    }
}

// y, 2 x 2 vectors: A^T m A.  m has 4 x 4 vectors, `stride` numbers apart.
inline void transform_output(const float* m, size_t stride, Vec* y) {
    Vec t[8];
    for (int q = 0; q < 4; q++) {
        Vec a = load(m + q * stride), b = load(m + (4 + q) * stride),
            c = load(m + (8 + q) * stride), e = load(m + (12 + q) * stride);
        t[q] = a + b + c;
        t[4 + q] = b - c - e;
    }
    for (int r = 0; r < 2; r++) {
        y[r * 2] = t[r * 4] + t[r * 4 + 1] + t[r * 4 + 2];
        y[r * 2 + 1] = t[r * 4 + 1] - t[r * 4 + 2] - t[r * 4 + 3];
    }
}

// u, 4 x 4 vectors: G w G^T of L filters of 3 x 3 numbers.
inline void transform_filter(const Vec* w, Vec* u) {
    Vec t[12];
    for (int q = 0; q < 3; q++) {
        Vec even = (w[q] + w[6 + q]) / 2, odd = w[3 + q] / 2;
        t[q] = w[q]; t[3 + q] = even + odd; t[6 + q] = even - odd; t[9 + q] = w[6 + q];
    }
    for (int r = 0; r < 4; r++) {
        Vec even = (t[r * 3] + t[r * 3 + 2]) / 2, odd = t[r * 3 + 1] / 2;
        u[r * 4] = t[r * 3]; u[r * 4 + 1] = even + odd;
        u[r * 4 + 2] = even - odd; u[r * 4 + 3] = t[r * 3 + 2];
    }
}

// d, 4 x 4 vectors: A g A^T, the adjoint of transform_output.  g has 2 x 2 vectors.
inline void transform_gradient(const Vec* g, Vec* d) {
    Vec t[8];
    for (int q = 0; q < 2; q++) {
        t[q] = g[q]; t[2 + q] = g[q] + g[2 + q]; t[4 + q] = g[q] - g[2 + q]; t[6 + q] = -g[2 + q];
    }
    for (int r = 0; r < 4; r++) {
        d[r * 4] = t[r * 2];
        d[r * 4 + 1] = t[r * 2] + t[r * 2 + 1];
        d[r * 4 + 2] = t[r * 2] - t[r * 2 + 1];
        d[r * 4 + 3] = -t[r * 2 + 1];
    }
}

}  // namespace winograd
