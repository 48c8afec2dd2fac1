// 2x2 max-pool of stride 2.
// With ceil_mode a window at the bottom or right edge has two pixels, or one, instead of four.
#include <algorithm>

namespace max_pool {

struct Shape {
    int planes;  // samples times channels
    int h, w;    // rows and columns of x
    int oh, ow;  // of y
};

inline void forward(const Shape& s, const float* x, float* y) {
    #pragma omp parallel for
    for (int p = 0; p < s.planes; p++)
        for (int i = 0; i < s.oh; i++) {
            const float* top = x + ((size_t)p * s.h + 2 * i) * s.w;
            const float* bottom = 2 * i + 1 < s.h ? top + s.w : top;
            float* row = y + ((size_t)p * s.oh + i) * s.ow;
            int whole = std::min(s.ow, s.w / 2);
            for (int j = 0; j < whole; j++)
                row[j] = std::max(std::max(top[2 * j], top[2 * j + 1]),
                                  std::max(bottom[2 * j], bottom[2 * j + 1]));
            if (whole < s.ow) row[whole] = std::max(top[2 * whole], bottom[2 * whole]);
        }
}

// The gradient of one row of windows.  It goes to the first of a window's largest pixels; the
// window's other pixels get zero.
// top, bottom: the two rows of x; best: the row of y; g: that of its gradient; up, down: the rows
// of x's gradient, down nullptr where x ends.
inline void backward_row(const float* top, const float* bottom, const float* best, const float* g,
                         int count, float* up, float* down) {
    using namespace vectors;
    int j = 0;
    for (; j + L <= count; j += L) {
        Vec a = load(top + 2 * j), b = load(top + 2 * j + L), largest = load(best + j),
            gradient = load(g + j), zero = {};
        Mask first = even(a, b) == largest, second = (odd(a, b) == largest) & ~first;
        store(up + 2 * j, front(first ? gradient : zero, second ? gradient : zero));
        store(up + 2 * j + L, back(first ? gradient : zero, second ? gradient : zero));
        if (!down) continue;
        Mask above = first | second,
             third = (even(load(bottom + 2 * j), load(bottom + 2 * j + L)) == largest) & ~above;
        Mask fourth = ~(above | third);
        store(down + 2 * j, front(third ? gradient : zero, fourth ? gradient : zero));
        store(down + 2 * j + L, back(third ? gradient : zero, fourth ? gradient : zero));
    }
    for (; j < count; j++) {
        bool first = top[2 * j] == best[j], second = !first && top[2 * j + 1] == best[j];
        bool third = !first && !second && bottom[2 * j] == best[j];
        up[2 * j] = first ? g[j] : 0.f;
        up[2 * j + 1] = second ? g[j] : 0.f;
        if (!down) continue;
        down[2 * j] = third ? g[j] : 0.f;
        down[2 * j + 1] = !first && !second && !third ? g[j] : 0.f;
    }
}

// gx, the gradient of x, of gy, the gradient of y.
inline void backward(const Shape& s, const float* x, const float* y, const float* gy, float* gx) {
    #pragma omp parallel for
    for (int p = 0; p < s.planes; p++) {
        for (int i = 0; i < s.oh; i++) {
            size_t at = ((size_t)p * s.h + 2 * i) * s.w, out = ((size_t)p * s.oh + i) * s.ow;
            bool two = 2 * i + 1 < s.h;
            const float *top = x + at, *best = y + out, *g = gy + out;
            float *up = gx + at, *down = two ? up + s.w : nullptr;
            int whole = s.w / 2;
            backward_row(top, two ? top + s.w : top, best, g, whole, up, down);
            if (s.w % 2) {  // the last column has a window of its own, or is in none
                bool window = whole < s.ow, first = window && top[s.w - 1] == best[whole];
                up[s.w - 1] = first ? g[whole] : 0.f;
                if (two) down[s.w - 1] = window && !first ? g[whole] : 0.f;
            }
        }
        if (2 * s.oh < s.h) std::fill_n(gx + ((size_t)p * s.h + s.h - 1) * s.w, s.w, 0.f);
    }
}

}  // namespace max_pool
