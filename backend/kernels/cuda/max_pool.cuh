// 2x2 max-pool of stride 2.  With ceil_mode a window at the bottom or right edge has two pixels, or
// one, instead of four.
//
// A thread for each window, and in the backward pass also for the pixels that are in none.
// W is 2 where rows begin at multiples of 8 bytes: two pixels at once.  Otherwise it is 1.

namespace max_pool {

struct Shape {
    int c, h, w;  // channels, rows and columns of x
    int oh, ow;   // of y
};

// A window of x, or of its gradient: `at` is its first pixel.
struct Window {
    size_t at;
    bool right, below;  // whether it has pixels there
    __device__ Window(const Shape& s, int i, int j) {
        size_t plane = (size_t)blockIdx.z * s.c + blockIdx.y;
        at = (plane * s.h + 2 * i) * s.w + 2 * j;
        right = 2 * j + 1 < s.w;
        below = 2 * i + 1 < s.h;
    }
};

// The largest of a window's pixels, and its place, 0 ... 3: the first of equal ones.
struct Largest {
    float value;
    int place = 0;
    __device__ void take(float other, int its_place) {
        if (other > value) value = other, place = its_place;
    }
};

template <int W>
static __device__ __forceinline__ Largest largest(const Shape& s, const Window& window,
                                                  const float* x) {
    const float* p = x + window.at;
    Largest found;
    cuda::Pack<W> top = cuda::load<W>(p);
    found.value = top.v[0];
    if (window.right) found.take(W == 2 ? top.v[W - 1] : p[1], 1);
    if (window.below) {
        cuda::Pack<W> bottom = cuda::load<W>(p + s.w);
        found.take(bottom.v[0], 2);
        if (window.right) found.take(W == 2 ? bottom.v[W - 1] : p[s.w + 1], 3);
    }
    return found;
}

template <int W>
static __global__ void __launch_bounds__(256)
forward(Shape s, const float* x, float* y) {
    size_t plane = (size_t)blockIdx.z * s.c + blockIdx.y;
    int number = blockIdx.x * blockDim.x + threadIdx.x, i = number / s.ow, j = number - i * s.ow;
    if (i < s.oh) y[plane * s.oh * s.ow + number] = largest<W>(s, Window(s, i, j), x).value;
}

// gx, the gradient of x, of gy, that of y.  It goes to the first of a window's largest pixels.
template <int W>
static __global__ void __launch_bounds__(256)
backward(Shape s, const float* x, const float* gy, float* gx) {
    size_t plane = (size_t)blockIdx.z * s.c + blockIdx.y;
    int columns = (s.w + 1) / 2, number = blockIdx.x * blockDim.x + threadIdx.x,
        i = number / columns, j = number - i * columns, place = -1;
    if (2 * i >= s.h) return;
    Window window(s, i, j);
    float gradient = 0;
    if (i < s.oh && j < s.ow) {  // otherwise these pixels are in no window
        place = largest<W>(s, window, x).place;
        gradient = gy[(plane * s.oh + i) * s.ow + j];
    }
    for (int row = 0; row <= window.below; row++) {
        float* to = gx + window.at + row * s.w;
        cuda::Pack<W> pair;
        pair.v[0] = place == 2 * row ? gradient : 0.f;
        float second = place == 2 * row + 1 ? gradient : 0.f;
        if (W == 2) pair.v[W - 1] = second;
        else if (window.right) to[1] = second;
        cuda::store<W>(to, pair);
    }
}

static dim3 blocks(int n, const Shape& s, int windows) {
    return dim3((windows + 255) / 256, s.c, n);
}

static void forward_all(int n, const Shape& s, const float* x, float* y) {
    dim3 grid = blocks(n, s, s.oh * s.ow);
    if (s.w % 2 || !cuda::aligned(x, x)) LAUNCH(forward<1>, grid, 256)(s, x, y);
    else LAUNCH(forward<2>, grid, 256)(s, x, y);
}

static void backward_all(int n, const Shape& s, const float* x, const float* gy, float* gx) {
    dim3 grid = blocks(n, s, (s.h + 1) / 2 * ((s.w + 1) / 2));
    if (s.w % 2 || !cuda::aligned(x, gx)) LAUNCH(backward<1>, grid, 256)(s, x, gy, gx);
    else LAUNCH(backward<2>, grid, 256)(s, x, gy, gx);
}

}  // namespace max_pool
