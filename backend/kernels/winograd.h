// 3x3 convolutions of stride 1 by Winograd's minimal filtering F(2x2, 3x3), part 2: the products.
// winograd_tiles.h explains the algorithm and has its transforms.
//
// The transformed filters are u, the transformed input v.  For each of the 16 positions the
// product of the matrices u (outputs x channels) and v (channels x tiles) is m (outputs x tiles).

namespace winograd {

#ifdef __AVX512F__
constexpr int ROWS = 8, PANELS = 2;   // of a product: as many sums as there are registers
constexpr int GROWS = 4, GCOLS = 4;   // of the filter gradient's product
#else
constexpr int ROWS = 4, PANELS = 3;
constexpr int GROWS = 4, GCOLS = 2;
#endif

// --------------------------------------------------------------------------------- convolution
// The transformed filters in blocks of ROWS outputs: u[position][k / ROWS][c][ROWS].
// flip: those of the adjoint; w is then (c, k, 3, 3).
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
                for (int p = 0; p < 16; p++)
                    u[p * plane + ((size_t)b * c + i) * ROWS + r] = values[p];
            }
    return u;
}

// m: the product of ROWS outputs' filters with P panels, of which the first `rows` are written.
template <int P>
inline void multiply(const float* u, const Vec* v, size_t panel_stride, int c, Vec* m,
                     size_t m_stride, int rows) {
    Vec sum[ROWS][P] = {};
    for (int i = 0; i < c; i++) {
        for (int r = 0; r < ROWS; r++)
            for (int p = 0; p < P; p++) sum[r][p] += u[i * ROWS + r] * v[p * panel_stride + i];
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < P; p++) m[p * m_stride + r] = sum[r][p];
}

// y = x * w + bias.  bias: nullptr for none.  relu: negative values become 0.
// flip: y is the gradient of the convolution's input.  Then x is the gradient of its output, w its
// filters as they are, and pad 2 minus its own.
inline void convolve(const Shape& s, const float* x, const float* w, const float* bias, bool relu,
                     bool flip, float* y) {
    static Buffer filters;
    const float* u = pack_filters(w, s.k, s.c, flip, filters);
    int threads = omp_get_max_threads(), blocks = (s.k + ROWS - 1) / ROWS;
    int block = std::max(PANELS, std::min({16, 8192 / std::max(s.c, s.k),
                                           (s.panels + threads - 1) / threads}) / PANELS * PANELS);
    size_t plane = (size_t)blocks * s.c * ROWS;
    #pragma omp parallel
    {
        static thread_local Buffer work;
        // one more: strides that are powers of 2 collide in the cache
        size_t v_plane = (size_t)block * s.c + 1, m_plane = (size_t)block * s.k + 1;
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
                        multiply<PANELS>(ub, vp + (size_t)p * s.c, s.c, s.c,
                                         mp + (size_t)p * s.k + b * ROWS, s.k, rows);
                    for (; p < panels; p++)
                        multiply<1>(ub, vp + (size_t)p * s.c, s.c, s.c,
                                    mp + (size_t)p * s.k + b * ROWS, s.k, rows);
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

// ------------------------------------------------------------------------- the filters' gradient
inline float total(const Vec& v) { float t = 0; for (int l = 0; l < L; l++) t += v[l]; return t; }

// A vector that stays in its register: left alone, GCC loads it again for each product.
inline Vec in_register(Vec v) {
#ifdef __AVX__
    asm("" : "+v"(v));
#endif
    return v;
}

// Lane i: the sum over the lanes of v[i], of L vectors.
inline Vec totals_of(Vec* v) {
    for (int count = L; count > 1; count /= 2)  // even and odd lanes: half as many numbers of each
        for (int i = 0; i < count / 2; i++)
            v[i] = even(v[2 * i], v[2 * i + 1]) + odd(v[2 * i], v[2 * i + 1]);
    return v[0];
}

// u[r * c + i] += the sum over panels and lanes of d[r] * v[i], for GROWS rows and GCOLS columns.
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

// gw: the gradient of the filters; gb: that of the bias; gy: that of the output.
inline void filter_gradient(const Shape& s, const float* x, const float* gy, float* gw, float* gb) {
    static Buffer work, sums;
    int block = std::min(s.panels, std::max(32, 8192 / (s.c + s.k)));
    int c = (s.c + GCOLS - 1) / GCOLS * GCOLS,  // rounded up to whole groups
        k = (s.k + GROWS - 1) / GROWS * GROWS;
    size_t v_plane = (size_t)block * c + 1, d_plane = (size_t)block * k + 1;
    Vec* v = work.of(16 * (v_plane + d_plane));  // [position][group][panel][channel of the group]
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
                    transform_input(tile, v + ((size_t)(i / GCOLS) * block + p) * GCOLS + i % GCOLS,
                                    v_plane);
                }
                for (int o = 0; o < s.k; o++) {
                    load_gradient(s, gy, o, runs, count, tile);
                    transform_gradient(tile,
                                       d + ((size_t)(o / GROWS) * block + p) * GROWS + o % GROWS,
                                       d_plane);
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
                            accumulate(dp + (size_t)o * block, vp + (size_t)i * block, panels,
                                       u + position * plane + (size_t)o * c + i, c);
                    if (position == 5)  // there A g A^T is the sum of a tile's four pixels
                        for (int o = from; o < std::min(to, s.k); o++) {
                            Vec sum = {};
                            for (int p = 0; p < panels; p++)
                                sum += dp[((size_t)(o / GROWS) * block + p) * GROWS + o % GROWS];
                            gb[o] += total(sum);
                        }
                }
        }
    }
    #pragma omp parallel for
    for (int f = 0; f < s.k * s.c; f++) {  // G^T u G
        const float* uf = u + (size_t)(f / s.c) * c + f % s.c;
        float t[12];
        for (int q = 0; q < 4; q++) {
            float a = uf[q * plane], b = uf[(4 + q) * plane], c = uf[(8 + q) * plane],
                  e = uf[(12 + q) * plane];
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
