// 3x3 convolutions of stride 1 by Winograd's minimal filtering F(2x2, 3x3): 16 multiplications where the plain sum takes
// 36 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1).
//
// An output is cut into tiles of 2 x 2 px, each of which sees 4 x 4 px of the input.  With the matrices of that paper,
//     Y = A^T [ (G w G^T) * (B^T d B) ] A        summed over the input channels before A^T [.] A,
// the sum over channels is, for each of the 16 positions, a product of matrices.  16 tiles side by side make a panel, and
// a panel's numbers lie side by side too: every loop below runs over the 16 lanes of a vector.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>
#include <omp.h>

namespace winograd {

constexpr int L = 16;                                               // lanes: tiles of a panel
typedef float Vec __attribute__((vector_size(L * sizeof(float)), aligned(64), may_alias));
#ifdef __AVX512F__
constexpr int ROWS = 8, PANELS = 2;                                 // of a product that fit into 32 registers
constexpr int GROWS = 4, GCOLS = 4;
#else
constexpr int ROWS = 4, PANELS = 1;                                 // ... into 16 registers of half a Vec
constexpr int GROWS = 2, GCOLS = 3;
#endif

struct Buffer {                                                     // aligned, kept from call to call by its thread
    Vec* data = nullptr; size_t size = 0;
    Vec* of(size_t vectors) {
        if (vectors > size) { free(data); data = (Vec*)aligned_alloc(64, vectors * sizeof(Vec)); size = vectors; }
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
            float* out = (float*)(d + r * 4) + run.lane;
            if (run.lanes == L)
                for (int l = 0; l < L; l++) { out[l] = row[2 * l]; out[L + l] = row[2 * l + 1]; out[2 * L + l] = row[2 * l + 2]; out[3 * L + l] = row[2 * l + 3]; }
            else
                for (int l = 0; l < run.lanes; l++) { out[l] = row[2 * l]; out[L + l] = row[2 * l + 1]; out[2 * L + l] = row[2 * l + 2]; out[3 * L + l] = row[2 * l + 3]; }
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
            const float* even = (const float*)(tiles + r * 2) + run.lane;
            const float* odd = even + L;
            if (wide == 2 * L)
                for (int l = 0; l < L; l++) { row[2 * l] = even[l]; row[2 * l + 1] = odd[l]; }
            else {
                for (int l = 0; l < wide / 2; l++) { row[2 * l] = even[l]; row[2 * l + 1] = odd[l]; }
                if (wide % 2) row[wide - 1] = even[wide / 2];
            }
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
        Vec* v = work.of((size_t)16 * block * (s.c + s.k));
        Vec* m = v + (size_t)16 * block * s.c;
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
                    transform_input(d, v + (size_t)p * s.c + i, (size_t)block * s.c);
                }
            }
            for (int position = 0; position < 16; position++) {
                const Vec* vp = v + (size_t)position * block * s.c;
                Vec* mp = m + (size_t)position * block * s.k;
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
                    transform_output(m + (size_t)p * s.k + o, (size_t)block * s.k, tiles);
                    for (int i = 0; i < 4; i++) {
                        if (bias) tiles[i] += bias[o];
                        if (relu) tiles[i] = tiles[i] > 0 ? tiles[i] : Vec{};
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
            float* even = (float*)(g + r * 2) + run.lane;
            float* odd = even + L;
            if (wide == 2 * L)
                for (int l = 0; l < L; l++) { even[l] = row[2 * l]; odd[l] = row[2 * l + 1]; }
            else {
                for (int l = 0; l < wide / 2; l++) { even[l] = row[2 * l]; odd[l] = row[2 * l + 1]; }
                if (wide % 2) even[wide / 2] = row[wide - 1];
            }
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

inline float total(const Vec& v) {
    typedef float Half __attribute__((vector_size(32)));
    typedef float Quarter __attribute__((vector_size(16)));
    Half halves[2]; Quarter quarters[2];
    std::memcpy(halves, &v, sizeof v);
    Half half = halves[0] + halves[1];
    std::memcpy(quarters, &half, sizeof half);
    Quarter q = quarters[0] + quarters[1];
    return (q[0] + q[1]) + (q[2] + q[3]);
}

// A load that stays one: left alone, GCC loads once more for each product.
inline Vec in_register(Vec v) {
#ifdef __AVX512F__
    asm("" : "+v"(v));
#endif
    return v;
}

typedef int Mask __attribute__((vector_size(L * sizeof(int))));
inline Vec fold8(const Vec& a, const Vec& b) {
    const Mask low = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}, high = low + 8;
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}
inline Vec fold4(const Vec& a, const Vec& b) {
    const Mask low = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27}, high = low + 4;
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}
inline Vec fold2(const Vec& a, const Vec& b) {
    const Mask low = {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29}, high = low + 2;
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}
inline Vec fold1(const Vec& a, const Vec& b) {
    const Mask low = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30}, high = low + 1;
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}
// lane i: the sum over the lanes of v[i]
inline Vec totals_of(const Vec* v) {
    Vec a[8], b[4], c[2];
    for (int i = 0; i < 8; i++) a[i] = fold8(v[2 * i], v[2 * i + 1]);
    for (int i = 0; i < 4; i++) b[i] = fold4(a[2 * i], a[2 * i + 1]);
    for (int i = 0; i < 2; i++) c[i] = fold2(b[2 * i], b[2 * i + 1]);
    return fold1(c[0], c[1]);
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
#ifdef __AVX512F__
    float totals[L];
    Vec t = totals_of(&sum[0][0]);
    std::memcpy(totals, &t, sizeof t);
    for (int r = 0; r < GROWS; r++)
        for (int i = 0; i < GCOLS; i++) u[r * c + i] += totals[r * GCOLS + i];
#else
    for (int r = 0; r < GROWS; r++)
        for (int i = 0; i < GCOLS; i++) u[r * c + i] += total(sum[r][i]);
#endif
}

// gw: the gradient of the filters; gb: that of the bias
inline void filter_gradient(const Shape& s, const float* x, const float* gy, float* gw, float* gb) {
    static Buffer work, sums;
    int block = std::min(s.panels, std::max(32, 8192 / (s.c + s.k)));
    int c = (s.c + GCOLS - 1) / GCOLS * GCOLS, k = (s.k + GROWS - 1) / GROWS * GROWS;   // whole groups
    Vec* v = work.of((size_t)16 * block * (c + k));                  // [position][group][panel][channel of the group]
    Vec* d = v + (size_t)16 * block * c;
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
                    transform_input(tile, v + ((size_t)(i / GCOLS) * block + p) * GCOLS + i % GCOLS, (size_t)block * c);
                }
                for (int o = 0; o < s.k; o++) {
                    load_gradient(s, gy, o, runs, count, tile);
                    transform_gradient(tile, d + ((size_t)(o / GROWS) * block + p) * GROWS + o % GROWS, (size_t)block * k);
                }
            }
            #pragma omp for collapse(2) schedule(dynamic)
            for (int position = 0; position < 16; position++)
                for (int from = 0; from < k; from += 32) {
                    const Vec* vp = v + (size_t)position * block * c;
                    const Vec* dp = d + (size_t)position * block * k;
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
