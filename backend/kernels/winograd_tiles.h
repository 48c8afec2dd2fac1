// 3x3 convolutions of stride 1 by Winograd's minimal filtering F(2x2, 3x3), part 1: the tiles and
// the transforms.  winograd.h has the products.
//
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1:
// 16 multiplications do where the plain sum takes 36.  An output is cut into tiles of 2 x 2 px,
// each of which sees 4 x 4 px of the input.  With the matrices of that paper,
//     Y = A^T [ (G w G^T) * (B^T d B) ] A
// where [.] is summed over the input channels.  This sum is, for each of the 16 positions, a
// product of matrices.
//
// L tiles side by side make a panel.  The numbers of a panel lie side by side too: every loop
// below runs over the L lanes of a vector.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <omp.h>
#include <sys/mman.h>

namespace winograd {

using namespace vectors;

// Memory for vectors, aligned.  Its thread keeps it from call to call.
struct Buffer {
    Vec* data = nullptr; size_t size = 0;
    Vec* of(size_t vectors) {
        if (vectors > size) {
            size_t page = 1 << 21, bytes = (vectors * sizeof(Vec) + page - 1) / page * page;
            free(data);
            data = (Vec*)aligned_alloc(page, bytes);
            madvise(data, bytes, MADV_HUGEPAGE);
            size = bytes / sizeof(Vec);
        }
        return data;
    }
    ~Buffer() { free(data); }
};

// Of one convolution: x is (n, c, h, w), y (n, k, oh, ow).  th, tw: tiles down and across an image.
struct Shape {
    int n, c, h, w, k, pad, oh, ow, th, tw, panels;
    Shape(int n, int c, int h, int w, int k, int pad)
        : n(n), c(c), h(h), w(w), k(k), pad(pad), oh(h + 2 * pad - 2), ow(w + 2 * pad - 2),
          th((oh + 1) / 2), tw((ow + 1) / 2), panels((n * th * tw + L - 1) / L) {}
};

// A run: `lanes` tiles of a panel, from `lane` on, that lie in one row of an image.
// A panel has several where a row ends in it.
struct Run { int lane, lanes, image, ty, tx; };
inline int runs_of(const Shape& s, int panel, Run* runs) {
    int count = 0, tile = panel * L, last = std::min(tile + L, s.n * s.th * s.tw), lane = 0;
    while (tile < last) {
        int row = tile / s.tw, tx = tile % s.tw, lanes = std::min(last - tile, s.tw - tx);
        runs[count++] = {lane, lanes, row / s.th, row % s.th, tx};
        tile += lanes; lane += lanes;
    }
    return count;
}

// d[r * 4 + q]: pixel (r, q) of the 4 x 4 px that each tile of a panel sees.
// Beyond the image's edge it is zero.
inline void load_tiles(const Shape& s, const float* x, int channel, const Run* runs, int count,
                       Vec* d) {
    if (count != 1 || runs[0].lanes != L) for (int i = 0; i < 16; i++) d[i] = Vec{};
    for (int i = 0; i < count; i++) {
        const Run& run = runs[i];
        const float* image = x + ((size_t)run.image * s.c + channel) * s.h * s.w;
        int left = 2 * run.tx - s.pad, wide = 2 * run.lanes + 2;
        for (int r = 0; r < 4; r++) {
            int y = 2 * run.ty - s.pad + r;
            float edge[2 * L + 4];
            const float* row = edge;
            if (y < 0 || y >= s.h) std::memset(edge, 0, sizeof edge);
            else if (left >= 0 && left + wide <= s.w) row = image + (size_t)y * s.w + left;
            else {
                int from = std::max(0, -left), to = std::min(wide, s.w - left);
                std::memset(edge, 0, sizeof edge);
                if (to > from)
                    std::memcpy(edge + from, image + (size_t)y * s.w + left + from,
                                (to - from) * sizeof(float));
            }
            if (run.lanes == L) {
                Vec a = load(row), b = load(row + L),
                    next_a = load(row + 2), next_b = load(row + L + 2);
                d[r * 4] = even(a, b);
                d[r * 4 + 1] = odd(a, b);
                d[r * 4 + 2] = even(next_a, next_b);
                d[r * 4 + 3] = odd(next_a, next_b);
            } else {
                float* out = (float*)(d + r * 4) + run.lane;
                for (int l = 0; l < run.lanes; l++)
                    for (int q = 0; q < 4; q++) out[q * L + l] = row[2 * l + q];
            }
        }
    }
}

// v[position * stride]: B^T d B of a panel.
inline void transform_input(const Vec* d, Vec* v, size_t stride) {
    Vec t[16];
    for (int q = 0; q < 4; q++) {
        t[q] = d[q] - d[8 + q];
        t[4 + q] = d[4 + q] + d[8 + q];
        t[8 + q] = d[8 + q] - d[4 + q];
        t[12 + q] = d[4 + q] - d[12 + q];
    }
    for (int r = 0; r < 4; r++) {
        v[(r * 4 + 0) * stride] = t[r * 4] - t[r * 4 + 2];
        v[(r * 4 + 1) * stride] = t[r * 4 + 1] + t[r * 4 + 2];
        v[(r * 4 + 2) * stride] = t[r * 4 + 2] - t[r * 4 + 1];
        v[(r * 4 + 3) * stride] = t[r * 4 + 1] - t[r * 4 + 3];
    }
}

// y[row * 2 + column]: A^T m A of a panel.
inline void transform_output(const Vec* m, size_t stride, Vec* y) {
    Vec t[8];
    for (int q = 0; q < 4; q++) {
        t[q] = m[q * stride] + m[(4 + q) * stride] + m[(8 + q) * stride];
        t[4 + q] = m[(4 + q) * stride] - m[(8 + q) * stride] - m[(12 + q) * stride];
    }
    for (int r = 0; r < 2; r++) {
        y[r * 2] = t[r * 4] + t[r * 4 + 1] + t[r * 4 + 2];
        y[r * 2 + 1] = t[r * 4 + 1] - t[r * 4 + 2] - t[r * 4 + 3];
    }
}

// Write the 2 x 2 px of each tile of a panel into y.
inline void store_tiles(const Shape& s, float* y, int channel, const Run* runs, int count,
                        const Vec* tiles) {
    for (int i = 0; i < count; i++) {
        const Run& run = runs[i];
        float* image = y + ((size_t)run.image * s.k + channel) * s.oh * s.ow;
        int wide = std::min(2 * run.lanes, s.ow - 2 * run.tx);
        for (int r = 0; r < 2 && 2 * run.ty + r < s.oh; r++) {
            float* row = image + (size_t)(2 * run.ty + r) * s.ow + 2 * run.tx;
            if (wide == 2 * L) {
                store(row, front(tiles[r * 2], tiles[r * 2 + 1]));
                store(row + L, back(tiles[r * 2], tiles[r * 2 + 1]));
            } else
                for (int i = 0; i < wide; i++)
                    row[i] = ((const float*)(tiles + r * 2 + i % 2))[run.lane + i / 2];
        }
    }
}

// u: G w G^T of one 3x3 filter.
// step 1: w is its first element; step -1: w is its last, the filter is turned by 180 degrees.
inline void transform_filter(const float* w, int step, float* u) {
    float t[12];
    for (int q = 0; q < 3; q++) {
        float a = w[step * q], b = w[step * (3 + q)], c = w[step * (6 + q)];
        t[q] = a; t[3 + q] = (a + b + c) / 2; t[6 + q] = (a - b + c) / 2; t[9 + q] = c;
    }
    for (int r = 0; r < 4; r++) {
        float a = t[r * 3], b = t[r * 3 + 1], c = t[r * 3 + 2];
        u[r * 4] = a; u[r * 4 + 1] = (a + b + c) / 2;
        u[r * 4 + 2] = (a - b + c) / 2; u[r * 4 + 3] = c;
    }
}

// g[row * 2 + column]: the pixels of y's gradient in a panel's tiles, zero beyond the edge.
inline void load_gradient(const Shape& s, const float* gy, int channel, const Run* runs, int count,
                          Vec* g) {
    for (int i = 0; i < 4; i++) g[i] = Vec{};
    for (int i = 0; i < count; i++) {
        const Run& run = runs[i];
        const float* image = gy + ((size_t)run.image * s.k + channel) * s.oh * s.ow;
        int wide = std::min(2 * run.lanes, s.ow - 2 * run.tx);
        for (int r = 0; r < 2 && 2 * run.ty + r < s.oh; r++) {
            const float* row = image + (size_t)(2 * run.ty + r) * s.ow + 2 * run.tx;
            if (wide == 2 * L) {
                g[r * 2] = even(load(row), load(row + L));
                g[r * 2 + 1] = odd(load(row), load(row + L));
            } else
                for (int i = 0; i < wide; i++)
                    ((float*)(g + r * 2 + i % 2))[run.lane + i / 2] = row[i];
        }
    }
}

// d[position * stride]: A g A^T, the adjoint of transform_output.
inline void transform_gradient(const Vec* g, Vec* d, size_t stride) {
    Vec t[8];
    for (int q = 0; q < 2; q++) {
        t[q] = g[q]; t[2 + q] = g[q] + g[2 + q]; t[4 + q] = g[q] - g[2 + q]; t[6 + q] = -g[2 + q];
    }
    for (int r = 0; r < 4; r++) {
        d[(r * 4) * stride] = t[r * 2];
        d[(r * 4 + 1) * stride] = t[r * 2] + t[r * 2 + 1];
        d[(r * 4 + 2) * stride] = t[r * 2] - t[r * 2 + 1];
        d[(r * 4 + 3) * stride] = -t[r * 2 + 1];
    }
}

}  // namespace winograd
