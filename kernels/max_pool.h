// 2x2 max-pool of stride 2.  A window at the bottom or right edge may hold fewer pixels (ceil_mode).
#include <algorithm>

namespace max_pool {

struct Shape { int planes, h, w, oh, ow; };

inline void forward(const Shape& s, const float* x, float* y) {
    #pragma omp parallel for
    for (int p = 0; p < s.planes; p++)
        for (int i = 0; i < s.oh; i++) {
            const float* top = x + ((size_t)p * s.h + 2 * i) * s.w;
            const float* bottom = 2 * i + 1 < s.h ? top + s.w : top;
            float* row = y + ((size_t)p * s.oh + i) * s.ow;
            int whole = std::min(s.ow, s.w / 2);
            for (int j = 0; j < whole; j++)
                row[j] = std::max(std::max(top[2 * j], top[2 * j + 1]), std::max(bottom[2 * j], bottom[2 * j + 1]));
            if (whole < s.ow) row[whole] = std::max(top[2 * whole], bottom[2 * whole]);
        }
}

// A window's gradient goes to the first of its largest pixels, all others get zero.
inline void backward(const Shape& s, const float* x, const float* y, const float* gy, float* gx) {
    #pragma omp parallel for
    for (int p = 0; p < s.planes; p++) {
        for (int i = 0; i < s.oh; i++) {
            size_t at = ((size_t)p * s.h + 2 * i) * s.w, out = ((size_t)p * s.oh + i) * s.ow;
            bool two = 2 * i + 1 < s.h;
            const float *top = x + at, *bottom = two ? top + s.w : top, *best = y + out, *g = gy + out;
            float *up = gx + at, *down = up + s.w;
            int whole = std::min(s.ow, s.w / 2);
            for (int j = 0; j < whole; j++) {
                bool a = top[2 * j] == best[j], b = !a && top[2 * j + 1] == best[j];
                up[2 * j] = a ? g[j] : 0.f;
                up[2 * j + 1] = b ? g[j] : 0.f;
            }
            if (two) for (int j = 0; j < whole; j++) {
                bool above = top[2 * j] == best[j] || top[2 * j + 1] == best[j], c = !above && bottom[2 * j] == best[j];
                down[2 * j] = c ? g[j] : 0.f;
                down[2 * j + 1] = !above && !c ? g[j] : 0.f;
            }
            for (int j = 2 * whole; j < s.w; j++) {                 // the last column: a window of its own, or of none
                bool window = j / 2 < s.ow, a = window && top[j] == best[j / 2];
                up[j] = a ? g[j / 2] : 0.f;
                if (two) down[j] = window && !a ? g[j / 2] : 0.f;
            }
        }
        for (int i = 2 * s.oh; i < s.h; i++) std::fill_n(gx + ((size_t)p * s.h + i) * s.w, s.w, 0.f);
    }
}

}  // namespace max_pool
