// Bilinear resize, as torch.nn.functional.interpolate defines it, and its adjoint.
#include <algorithm>
#include <vector>

namespace resize {

struct Shape {
    int planes;  // samples times channels
    int h, w;    // rows and columns of x
    int oh, ow;  // of y
    bool align_corners;
};

// Along one axis: the two inputs between which each output lies, and the share of the second.
// In single precision, because PyTorch computes it so.
struct Axis {
    std::vector<int> first, second;
    std::vector<float> share;
    Axis(int in, int out, bool align_corners) : first(out), second(out), share(out) {
        float scale = align_corners ? (out > 1 ? (float)(in - 1) / (out - 1) : 0.f)
                                    : (float)in / out;
        for (int i = 0; i < out; i++) {
            float at = align_corners ? scale * i : std::max(0.f, scale * (i + 0.5f) - 0.5f);
            first[i] = std::min((int)at, in - 1);
            second[i] = std::min(first[i] + 1, in - 1);
            share[i] = std::min(at - first[i], 1.f);
        }
    }
};

inline void forward(const Shape& s, const float* x, float* y) {
    Axis rows(s.h, s.oh, s.align_corners), columns(s.w, s.ow, s.align_corners);
    const int *left = columns.first.data(), *right = columns.second.data();
    const float* share = columns.share.data();
    #pragma omp parallel
    {
        std::vector<float> buffer(s.w);
        float* blend = buffer.data();
        #pragma omp for collapse(2)
        for (int p = 0; p < s.planes; p++)
            for (int i = 0; i < s.oh; i++) {
                const float *top = x + ((size_t)p * s.h + rows.first[i]) * s.w,
                            *bottom = x + ((size_t)p * s.h + rows.second[i]) * s.w;
                float b = rows.share[i], a = 1 - b;
                for (int j = 0; j < s.w; j++) blend[j] = a * top[j] + b * bottom[j];
                float* row = y + ((size_t)p * s.oh + i) * s.ow;
                for (int j = 0; j < s.ow; j++)
                    row[j] = (1 - share[j]) * blend[left[j]] + share[j] * blend[right[j]];
            }
    }
}

// gx, the gradient of x, of gy, the gradient of y: each output's gradient goes back to its inputs.
inline void backward(const Shape& s, const float* gy, float* gx) {
    Axis rows(s.h, s.oh, s.align_corners), columns(s.w, s.ow, s.align_corners);
    const int *left = columns.first.data(), *right = columns.second.data();
    const float* share = columns.share.data();
    #pragma omp parallel
    {
        std::vector<float> buffer(s.w);
        float* blend = buffer.data();
        #pragma omp for
        for (int p = 0; p < s.planes; p++) {
            float* plane = gx + (size_t)p * s.h * s.w;
            std::fill_n(plane, (size_t)s.h * s.w, 0.f);
            for (int i = 0; i < s.oh; i++) {
                const float* g = gy + ((size_t)p * s.oh + i) * s.ow;
                std::fill_n(blend, s.w, 0.f);
                for (int j = 0; j < s.ow; j++) {
                    blend[left[j]] += (1 - share[j]) * g[j];
                    blend[right[j]] += share[j] * g[j];
                }
                float *top = plane + (size_t)rows.first[i] * s.w,
                      *bottom = plane + (size_t)rows.second[i] * s.w;
                float b = rows.share[i], a = 1 - b;
                for (int j = 0; j < s.w; j++) top[j] += a * blend[j];
                for (int j = 0; j < s.w; j++) bottom[j] += b * blend[j];
            }
        }
    }
}

}  // namespace resize
