// 2x2 max-pool of stride 2, of channels-last images.
// With ceil_mode a window at the bottom or right edge has two pixels, or one, instead of four.
#pragma once
#include "channels_last.h"

namespace max_pool {

using namespace channels_last;

struct Shape {
    int n, h, w;  // samples, and rows and columns of x
    int oh, ow;   // of y
    int channels; // numbers of a pixel, whole groups
};

// The four pixels of a window, as distances from its first.  Beyond an edge the same pixel stands
// again, and `right` and `below` say whether there is another one.
struct Window {
    size_t first; bool right, below;
    Window(const Shape& s, int image, int i, int j)
        : first((((size_t)image * s.h + 2 * i) * s.w + 2 * j) * s.channels),
          right(2 * j + 1 < s.w), below(2 * i + 1 < s.h) {}
    size_t right_of(const Shape& s) const { return right ? s.channels : 0; }
    size_t below_of(const Shape& s) const { return below ? (size_t)s.w * s.channels : 0; }
};

inline Vec larger(const Vec& a, const Vec& b) { return a > b ? a : b; }

template <class T> inline void forward(const Shape& s, const T* x, T* y) {
    #pragma omp parallel for schedule(dynamic)
    for (int row = 0; row < s.n * s.oh; row++)
        for (int j = 0; j < s.ow; j++) {
            Window window(s, row / s.oh, row % s.oh, j);
            const T *a = x + window.first, *b = a + window.right_of(s),
                    *c = a + window.below_of(s), *d = c + window.right_of(s);
            T* to = y + ((size_t)row * s.ow + j) * s.channels;
            for (int k = 0; k < s.channels; k += L)
                store(to + k, larger(larger(load(a + k), load(b + k)),
                                     larger(load(c + k), load(d + k))));
        }
}

// Where no window is: the gradient is that of the other uses of x alone.
template <class T> inline void copy(const T* other, T* gx, size_t from, int count) {
    for (int k = 0; k < count; k += L) store(gx + from + k, other ? load(other + from + k) : Vec{});
}

// gx, the gradient of x, of gy, the gradient of y.  It goes to the first of a window's largest
// pixels.  other: a gradient of x that is added, or nullptr.
template <class T>
inline void backward(const Shape& s, const T* x, const T* gy, const T* other, T* gx) {
    #pragma omp parallel for schedule(dynamic)
    for (int row = 0; row < s.n * s.oh; row++) {
        int image = row / s.oh, i = row % s.oh;
        for (int j = 0; j < s.ow; j++) {
            Window window(s, image, i, j);
            size_t at[4] = {window.first, window.first + window.right_of(s),
                            window.first + window.below_of(s),
                            window.first + window.below_of(s) + window.right_of(s)};
            bool there[4] = {true, window.right, window.below, window.right && window.below};
            const T* g = gy + ((size_t)row * s.ow + j) * s.channels;
            for (int k = 0; k < s.channels; k += L) {
                Vec v[4], left = load(g + k);
                for (int p = 0; p < 4; p++) v[p] = load(x + at[p] + k);
                Vec best = larger(larger(v[0], v[1]), larger(v[2], v[3]));
                for (int p = 0; p < 4; p++) {
                    if (!there[p]) continue;
                    Mask chosen = v[p] == best;
                    Vec own = chosen ? left : Vec{};
                    left = chosen ? Vec{} : left;
                    if (other) own += load(other + at[p] + k);
                    store(gx + at[p] + k, own);
                }
            }
        }
        size_t line = (size_t)s.w * s.channels, top = ((size_t)image * s.h + 2 * i) * line;
        if (2 * s.ow < s.w)  // the last column is in no window
            for (int r = 0; r < 2; r++)
                if (2 * i + r < s.h)
                    copy(other, gx, top + (r + 1) * line - s.channels, s.channels);
        if (i == s.oh - 1 && 2 * s.oh < s.h) copy(other, gx, top + 2 * line, (int)line);
    }
}

}  // namespace max_pool
