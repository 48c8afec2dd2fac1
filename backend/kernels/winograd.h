// 3x3 convolutions of stride 1 by Winograd's minimal filtering F(2x2, 3x3): 16 multiplications where the plain sum takes
// 36 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1).
//
// An output is cut into tiles of 2 x 2 px, each of which sees 4 x 4 px of the input.  With the matrices of that paper,
//     Y = A^T [ (G w G^T) * (B^T d B) ] A        summed over the input channels before A^T [.] A,
// the sum over channels is, for each of the 16 positions, a product of matrices.  L tiles side by side make a panel, and
// a panel's numbers lie side by side too: every loop below runs over the L lanes of a vector.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <omp.h>
#include <sys/mman.h>

namespace winograd {

using namespace vectors;

#ifdef __AVX512F__
constexpr int ROWS = 8, PANELS = 2;                                 // of a product: as many sums as registers hold
constexpr int GROWS = 4, GCOLS = 4;                                 // of a gradient's product
#else
constexpr int ROWS = 4, PANELS = 3;
constexpr int GROWS = 4, GCOLS = 2;
#endif

struct Buffer {                                                     // aligned, kept from call to call by its thread
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

struct Shape {                                                      // of one convolution
    int n, c, h, w, k, pad, oh, ow, th, tw, panels;
    Shape(int n, int c, int h, int w, int k, int pad)
        : n(n), c(c), h(h), w(w), k(k), pad(pad), oh(h + 2 * pad - 2), ow(w + 2 * pad - 2),
          th((oh + 1) / 2), tw((ow + 1) / 2), panels((n * th * tw + L - 1) / L) {}
};

// The runs of a panel: lanes of tiles that lie in one row.
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

// d[r * 4 + q]: pixel (r, q) of the 4 x 4 px that each tile of a panel sees, zero beyond the image's edge.
inline void load_tiles(const Shape& s, const float* x, int channel, const Run* runs, int count, Vec* d) {
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
                if (to > from) std::memcpy(edge + from, image + (size_t)y * s.w + left + from, (to - from) * sizeof(float));
            }
            if (run.lanes == L) {
                Vec a = load(row), b = load(row + L), next_a = load(row + 2), next_b = load(row + L + 2);
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

// B^T d B of a panel; v[position * stride]
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

// A^T m A of a panel, added to bias: y[row * 2 + column]
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

inline void store_tiles(const Shape& s, float* y, int channel, const Run* runs, int count, const Vec* tiles) {
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
                for (int i = 0; i < wide; i++) row[i] = ((const float*)(tiles + r * 2 + i % 2))[run.lane + i / 2];
        }
    }
}

// G w G^T of one 3x3 filter
inline void transform_filter(const float* w, int step, float* u) {  // step -1: turned by 180 degrees, w its last element
    float t[12];
    for (int q = 0; q < 3; q++) {
        float a = w[step * q], b = w[step * (3 + q)], c = w[step * (6 + q)];
        t[q] = a; t[3 + q] = (a + b + c) / 2; t[6 + q] = (a - b + c) / 2; t[9 + q] = c;
    }
    for (int r = 0; r < 4; r++) {
        float a = t[r * 3], b = t[r * 3 + 1], c = t[r * 3 + 2];
        u[r * 4] = a; u[r * 4 + 1] = (a + b + c) / 2; u[r * 4 + 2] = (a - b + c) / 2; u[r * 4 + 3] = c;
    }
}

// Filters in blocks of ROWS outputs: u[position][k / ROWS][c][ROWS].  flip: the adjoint's filters, w is then (c, k, 3, 3).
inline float* pack_filters(const float* w, int k, int c, bool flip, Buffer& buffer) {
    int blocks = (k + ROWS - 1) / ROWS;
    size_t plane = (size_t)blocks * c * ROWS;
    float* u = (float*)buffer.of((16 * plane + L - 1) / L);
    #pragma omp parallel for
    for (int b = 0; b < blocks; b++)
        for (int i = 0; i < c; i++)
            for (int r = 0; r < ROWS; r++) {
                int o = b * ROWS + r;
                float values[16] = {};
                if (o < k) {
                    if (flip) transform_filter(w + ((size_t)i * k + o) * 9 + 8, -1, values);
                    else transform_filter(w + ((size_t)o * c + i) * 9, 1, values);
                }
                for (int p = 0; p < 16; p++) u[p * plane + ((size_t)b * c + i) * ROWS + r] = values[p];
            }
    return u;
}

template <int P>
inline void multiply(const float* u, const Vec* v, size_t panel_stride, int c, Vec* m, size_t m_stride, int rows) {
    Vec sum[ROWS][P] = {};
    for (int i = 0; i < c; i++) {
        for (int r = 0; r < ROWS; r++)
            for (int p = 0; p < P; p++) sum[r][p] += u[i * ROWS + r] * v[p * panel_stride + i];
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < P; p++) m[p * m_stride + r] = sum[r][p];
}

// y = x * w + bias (none: nullptr), negative values cut off with relu; with flip: the gradient of x, where x is the
// gradient of y, w the filters as they are, and pad 2 minus that of the convolution.
inline void convolve(const Shape& s, const float* x, const float* w, const float* bias, bool relu, bool flip, float* y) {
    static Buffer filters;
    const float* u = pack_filters(w, s.k, s.c, flip, filters);
    int threads = omp_get_max_threads(), blocks = (s.k + ROWS - 1) / ROWS;
    int block = std::max(PANELS, std::min({16, 8192 / std::max(s.c, s.k), (s.panels + threads - 1) / threads}) / PANELS * PANELS);
    size_t plane = (size_t)blocks * s.c * ROWS;
    #pragma omp parallel
    {
        static thread_local Buffer work;
        size_t v_plane = (size_t)block * s.c + 1, m_plane = (size_t)block * s.k + 1;   // one more: powers of 2 collide in the cache
        Vec* v = work.of(16 * (v_plane + m_plane));
        Vec* m = v + 16 * v_plane;
        Run runs[16][L];
        int counts[16];
        #pragma omp for schedule(dynamic)
        for (int first = 0; first < s.panels; first += block) {
            int panels = std::min(block, s.panels - first);
            for (int p = 0; p < panels; p++) {
                counts[p] = runs_of(s, first + p, runs[p]);
                for (int i = 0; i < s.c; i++) {
                    Vec d[16];
                    load_tiles(s, x, i, runs[p], counts[p], d);
                    transform_input(d, v + (size_t)p * s.c + i, v_plane);
                }
            }
            for (int position = 0; position < 16; position++) {
                const Vec* vp = v + position * v_plane;
                Vec* mp = m + position * m_plane;
                for (int b = 0; b < blocks; b++) {
                    const float* ub = u + position * plane + (size_t)b * s.c * ROWS;
                    int rows = std::min(ROWS, s.k - b * ROWS), p = 0;
                    for (; p + PANELS <= panels; p += PANELS)
                        multiply<PANELS>(ub, vp + (size_t)p * s.c, s.c, s.c, mp + (size_t)p * s.k + b * ROWS, s.k, rows);
                    for (; p < panels; p++)
                        multiply<1>(ub, vp + (size_t)p * s.c, s.c, s.c, mp + (size_t)p * s.k + b * ROWS, s.k, rows);
                }
            }
            for (int p = 0; p < panels; p++)
                for (int o = 0; o < s.k; o++) {
                    Vec tiles[4];
                    transform_output(m + (size_t)p * s.k + o, m_plane, tiles);
                    for (int i = 0; i < 4; i++) {
                        if (bias) tiles[i] += bias[o];
                        if (relu) tiles[i] = rectified(tiles[i]);
                    }
                    store_tiles(s, y, o, runs[p], counts[p], tiles);
                }
        }
    }
}

// g[row * 2 + column]: pixels of y's gradient in a panel's tiles, zero beyond the edge
inline void load_gradient(const Shape& s, const float* gy, int channel, const Run* runs, int count, Vec* g) {
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
                for (int i = 0; i < wide; i++) ((float*)(g + r * 2 + i % 2))[run.lane + i / 2] = row[i];
        }
    }
}

// A g A^T: the adjoint of transform_output
inline void transform_gradient(const Vec* g, Vec* d, size_t stride) {
    Vec t[8];
    for (int q = 0; q < 2; q++) { t[q] = g[q]; t[2 + q] = g[q] + g[2 + q]; t[4 + q] = g[q] - g[2 + q]; t[6 + q] = -g[2 + q]; }
    for (int r = 0; r < 4; r++) {
        d[(r * 4) * stride] = t[r * 2];
        d[(r * 4 + 1) * stride] = t[r * 2] + t[r * 2 + 1];
        d[(r * 4 + 2) * stride] = t[r * 2] - t[r * 2 + 1];
        d[(r * 4 + 3) * stride] = -t[r * 2 + 1];
    }
}

inline float total(const Vec& v) { float t = 0; for (int l = 0; l < L; l++) t += v[l]; return t; }

// A load that stays one: left alone, GCC loads once more for each product.
inline Vec in_register(Vec v) {
#ifdef __AVX__
    asm("" : "+v"(v));
#endif
    return v;
}

// lane i: the sum over the lanes of v[i], of L of them
inline Vec totals_of(Vec* v) {
    for (int count = L; count > 1; count /= 2)                      // even and odd lanes: half as many numbers of each
        for (int i = 0; i < count / 2; i++) v[i] = even(v[2 * i], v[2 * i + 1]) + odd(v[2 * i], v[2 * i + 1]);
    return v[0];
}

// u[r * c + i] += the sum over panels and lanes of d[r] * v[i], for GROWS rows and GCOLS columns
inline void accumulate(const Vec* d, const Vec* v, int panels, float* u, int c) {
    Vec sum[GROWS][GCOLS] = {};
    for (int p = 0; p < panels; p++, d += GROWS, v += GCOLS) {
        Vec rows[GROWS];
        for (int r = 0; r < GROWS; r++) rows[r] = in_register(d[r]);
        for (int i = 0; i < GCOLS; i++) {
            Vec column = in_register(v[i]);
            for (int r = 0; r < GROWS; r++) sum[r][i] += rows[r] * column;
        }
    }
    static_assert(GROWS * GCOLS == L, "totals_of takes all sums at once");
    Vec totals = totals_of(&sum[0][0]);
    for (int r = 0; r < GROWS; r++)
        for (int i = 0; i < GCOLS; i++) u[r * c + i] += totals[r * GCOLS + i];
}

// gw: the gradient of the filters; gb: that of the bias
inline void filter_gradient(const Shape& s, const float* x, const float* gy, float* gw, float* gb) {
    static Buffer work, sums;
    int block = std::min(s.panels, std::max(32, 8192 / (s.c + s.k)));
    int c = (s.c + GCOLS - 1) / GCOLS * GCOLS, k = (s.k + GROWS - 1) / GROWS * GROWS;   // whole groups
    size_t v_plane = (size_t)block * c + 1, d_plane = (size_t)block * k + 1;
    Vec* v = work.of(16 * (v_plane + d_plane));                  // [position][group][panel][channel of the group]
    Vec* d = v + 16 * v_plane;
    size_t plane = (size_t)k * c;
    float* u = (float*)sums.of((16 * plane + L - 1) / L);
    std::memset(u, 0, 16 * plane * sizeof(float));
    std::memset(gb, 0, s.k * sizeof(float));
    for (int first = 0; first < s.panels; first += block) {
        int panels = std::min(block, s.panels - first);
        #pragma omp parallel
        {
            #pragma omp for schedule(dynamic)
            for (int p = 0; p < panels; p++) {
                Run runs[L];
                int count = runs_of(s, first + p, runs);
                Vec tile[16];
                for (int i = 0; i < s.c; i++) {
                    load_tiles(s, x, i, runs, count, tile);
                    transform_input(tile, v + ((size_t)(i / GCOLS) * block + p) * GCOLS + i % GCOLS, v_plane);
                }
                for (int o = 0; o < s.k; o++) {
                    load_gradient(s, gy, o, runs, count, tile);
                    transform_gradient(tile, d + ((size_t)(o / GROWS) * block + p) * GROWS + o % GROWS, d_plane);
                }
            }
            #pragma omp for collapse(2) schedule(dynamic)
            for (int position = 0; position < 16; position++)
                for (int from = 0; from < k; from += 32) {
                    const Vec* vp = v + position * v_plane;
                    const Vec* dp = d + position * d_plane;
                    int to = std::min(k, from + 32);
                    for (int i = 0; i < c; i += GCOLS)
                        for (int o = from; o < to; o += GROWS)
                            accumulate(dp + (size_t)o * block, vp + (size_t)i * block, panels, u + position * plane + (size_t)o * c + i, c);
                    if (position == 5)                              // there A g A^T is the sum of a tile's four pixels
                        for (int o = from; o < std::min(to, s.k); o++) {
                            Vec sum = {};
                            for (int p = 0; p < panels; p++) sum += dp[((size_t)(o / GROWS) * block + p) * GROWS + o % GROWS];
                            gb[o] += total(sum);
                        }
                }
        }
    }
    #pragma omp parallel for
    for (int f = 0; f < s.k * s.c; f++) {                            // G^T u G
        const float* uf = u + (size_t)(f / s.c) * c + f % s.c;
        float t[12];
        for (int q = 0; q < 4; q++) {
            float a = uf[q * plane], b = uf[(4 + q) * plane], c = uf[(8 + q) * plane], e = uf[(12 + q) * plane];
            t[q] = a + (b + c) / 2; t[4 + q] = (b - c) / 2; t[8 + q] = (b + c) / 2 + e;
        }
        for (int r = 0; r < 3; r++) {
            float a = t[r * 4], b = t[r * 4 + 1], c = t[r * 4 + 2], e = t[r * 4 + 3];
            gw[(size_t)f * 9 + r * 3] = a + (b + c) / 2;
            gw[(size_t)f * 9 + r * 3 + 1] = (b - c) / 2;
            gw[(size_t)f * 9 + r * 3 + 2] = (b + c) / 2 + e;
        }
    }
}

}  // namespace winograd
