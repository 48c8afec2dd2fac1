// BatchNorm over (N, H, W) and the ReLU after it.  Ioffe and Szegedy, ICML 2015, algorithm 1.
//
// A channel's values are numbered through all samples and cut into pieces, a block for each.
// A small channel is one piece: one kernel does all, and reads it from the cache after the first
// time.  A large one has up to 64 pieces: a first kernel takes the sums of each, and each block of
// a second one puts them together before it works on its own piece.
// No atomics: the same input gives the same bits.  Squares are those of differences from the
// piece's own mean, and pieces are combined as Chan, Golub and LeVeque do (1979).  So a large mean
// costs no digits.

namespace batch_norm {

struct Shape {
    int n, c, plane;  // samples, channels, pixels of a channel of a sample
    int pieces;       // of a channel
    __host__ __device__ int count() const { return n * plane; }
    __host__ __device__ int length() const {  // of a piece, a multiple of 4; the last is shorter
        return ((count() + pieces - 1) / pieces + 3) / 4 * 4;
    }
    __device__ int size(int piece) const {
        return max(0, min(length(), count() - piece * length()));
    }
};

static __device__ __forceinline__ bool finite(float value) {
    return (__float_as_uint(value) & 0x7f800000) != 0x7f800000;
}

// f(index of W numbers in (N, C, H, W)) for all of this block's piece.
template <int W, class F>
static __device__ __forceinline__ void each(const Shape& s, F f) {
    int first = blockIdx.x * s.length(), last = first + s.size(blockIdx.x);
    for (int i = first + (int)threadIdx.x * W; i < last; i += blockDim.x * W) {
        int sample = i / s.plane;
        f(((size_t)sample * s.c + blockIdx.y) * s.plane + (i - sample * s.plane));
    }
}

// ----------------------------------------------------------------------------------------- forward
// (mean, sum of the squared differences from it) of this block's piece.
template <int W>
static __device__ float2 moments(const Shape& s, const float* x, float2* kept) {
    float size = max(1, s.size(blockIdx.x));
    cuda::Pack<W> total = {}, rest = {}, squares = {};
    each<W>(s, [&](size_t at) {
        cuda::Pack<W> v = cuda::load<W>(x + at);
        for (int j = 0; j < W; j++) total.v[j] += v.v[j];
    });
    float mean = cuda::block_sum(cuda::sum(total), 0.f, kept).x / size;
    each<W>(s, [&](size_t at) {
        cuda::Pack<W> v = cuda::load<W>(x + at);
        for (int j = 0; j < W; j++) {
            float difference = v.v[j] - mean;
            rest.v[j] += difference;
            squares.v[j] += difference * difference;
        }
    });
    float2 sums = cuda::block_sum(cuda::sum(rest), cuda::sum(squares), kept);
    // the mean was rounded; what the differences sum up to corrects it
    float square = sums.y - sums.x * sums.x / size;
    return make_float2(mean + sums.x / size, square < 0 ? 0.f : square);  // max would lose NaN
}

// The moments of the whole channel, of those of its pieces.  Each warp computes them for itself.
static __device__ float2 combined(const Shape& s, const float2* moments) {
    float origin = moments[0].x, count = s.count(), shift = 0, squares = 0;
    for (int piece = threadIdx.x % 32; piece < s.pieces; piece += 32)
        if (s.size(piece)) shift += s.size(piece) / count * (moments[piece].x - origin);
    for (int bit = 16; bit; bit /= 2) shift += __shfl_xor_sync(cuda::ALL, shift, bit);
    for (int piece = threadIdx.x % 32; piece < s.pieces; piece += 32) {
        float difference = moments[piece].x - origin - shift;
        if (s.size(piece)) squares += moments[piece].y + s.size(piece) * difference * difference;
    }
    for (int bit = 16; bit; bit /= 2) squares += __shfl_xor_sync(cuda::ALL, squares, bit);
    return make_float2(origin + shift, squares);
}

struct Norm {  // what BatchNorm has for each channel
    const float *weight, *bias;
};
struct Statistics {  // of each channel; the variance is the biased one
    float *mean, *variance;
};

// y = max(0, weight * (x - mean) / sqrt(variance + eps) + bias) of this block's piece.
// One NaN makes its whole channel NaN, so that the loss shows it.
template <int W>
static __device__ void normalise(const Shape& s, float eps, float2 moments, const float* x,
                                 const Norm& norm, float* y, const Statistics& found) {
    int c = blockIdx.y;
    float mean = moments.x, variance = moments.y / s.count(), bias = norm.bias[c],
          scale = __fdiv_rn(norm.weight[c], __fsqrt_rn(variance + eps));
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        found.mean[c] = mean;
        found.variance[c] = variance;
    }
    bool sound = finite(mean) && finite(variance);
    float otherwise = finite(mean) ? variance : mean;
    each<W>(s, [&](size_t at) {
        cuda::Pack<W> v = cuda::load<W>(x + at);
        for (int j = 0; j < W; j++)
            v.v[j] = sound ? max(0.f, (v.v[j] - mean) * scale + bias) : otherwise;
        cuda::store<W>(y + at, v);
    });
}

template <int W>
static __global__ void __launch_bounds__(1024)
forward_at_once(Shape s, float eps, const float* x, Norm norm, float* y, Statistics found) {
    __shared__ float2 kept[32];
    normalise<W>(s, eps, moments<W>(s, x, kept), x, norm, y, found);
}

template <int W>
static __global__ void __launch_bounds__(256)
forward_pieces(Shape s, const float* x, float2* pieces) {
    __shared__ float2 kept[32];
    float2 own = moments<W>(s, x, kept);
    if (threadIdx.x == 0) pieces[blockIdx.y * s.pieces + blockIdx.x] = own;
}

template <int W>
static __global__ void __launch_bounds__(256)
forward_rest(Shape s, float eps, const float2* pieces, const float* x, Norm norm, float* y,
             Statistics found) {
    float2 all = combined(s, pieces + blockIdx.y * s.pieces);
    normalise<W>(s, eps, all, x, norm, y, found);
}

// ---------------------------------------------------------------------------------------- backward
struct Channel {  // what the forward pass has found, for the channel of this block
    float mean, inverse, scale, bias;
    __device__ Channel(float eps, const Norm& norm, const float* means, const float* variances) {
        int c = blockIdx.y;
        mean = means[c];
        inverse = __fdiv_rn(1.f, __fsqrt_rn(variances[c] + eps));
        scale = norm.weight[c] * inverse;
        bias = norm.bias[c];
    }
    // y's gradient g, where the ReLU let x pass; then `centred` is x - mean
    __device__ float open(float centred, float g) const {
        return centred * scale + bias > 0 ? g : 0.f;
    }
};

// (sum of y's gradient behind the ReLU, sum of its product with x - mean) of this block's piece.
template <int W>
static __device__ float2 products(const Shape& s, const Channel& channel, const float* x,
                                  const float* gy, float2* kept) {
    cuda::Pack<W> total = {}, product = {};
    each<W>(s, [&](size_t at) {
        cuda::Pack<W> v = cuda::load<W>(x + at), g = cuda::load<W>(gy + at);
        for (int j = 0; j < W; j++) {
            float centred = v.v[j] - channel.mean, open = channel.open(centred, g.v[j]);
            total.v[j] += open;
            product.v[j] += open * centred;
        }
    });
    return cuda::block_sum(cuda::sum(total), cuda::sum(product), kept);
}

struct Gradients {  // shift: that of the bias before, 0, because BatchNorm takes a bias away again
    float *x, *weight, *bias, *shift;
};

template <int W>
static __device__ void spread(const Shape& s, const Channel& channel, float2 sums, const float* x,
                              const float* gy, const Gradients& found) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        found.weight[blockIdx.y] = sums.y * channel.inverse;
        found.bias[blockIdx.y] = sums.x;
        if (found.shift) found.shift[blockIdx.y] = 0.f;
    }
    float average = sums.x / s.count(),
          slope = sums.y / s.count() * channel.inverse * channel.inverse;
    each<W>(s, [&](size_t at) {
        cuda::Pack<W> v = cuda::load<W>(x + at), g = cuda::load<W>(gy + at);
        for (int j = 0; j < W; j++) {
            float centred = v.v[j] - channel.mean;
            g.v[j] = channel.scale * (channel.open(centred, g.v[j]) - average - centred * slope);
        }
        cuda::store<W>(found.x + at, g);
    });
}

template <int W>
static __global__ void __launch_bounds__(1024)
backward_at_once(Shape s, float eps, const float* x, const float* gy, Norm norm, const float* mean,
                 const float* variance, Gradients found) {
    __shared__ float2 kept[32];
    Channel channel(eps, norm, mean, variance);
    spread<W>(s, channel, products<W>(s, channel, x, gy, kept), x, gy, found);
}

template <int W>
static __global__ void __launch_bounds__(256)
backward_pieces(Shape s, float eps, const float* x, const float* gy, Norm norm, const float* mean,
                const float* variance, float2* pieces) {
    __shared__ float2 kept[32];
    float2 own = products<W>(s, Channel(eps, norm, mean, variance), x, gy, kept);
    if (threadIdx.x == 0) pieces[blockIdx.y * s.pieces + blockIdx.x] = own;
}

template <int W>
static __global__ void __launch_bounds__(256)
backward_rest(Shape s, float eps, const float2* pieces, const float* x, const float* gy, Norm norm,
              const float* mean, const float* variance, Gradients found) {
    float2 sums = make_float2(0.f, 0.f);
    for (int piece = threadIdx.x % 32; piece < s.pieces; piece += 32) {
        sums.x += pieces[blockIdx.y * s.pieces + piece].x;
        sums.y += pieces[blockIdx.y * s.pieces + piece].y;
    }
    for (int bit = 16; bit; bit /= 2) {
        sums.x += __shfl_xor_sync(cuda::ALL, sums.x, bit);
        sums.y += __shfl_xor_sync(cuda::ALL, sums.y, bit);
    }
    spread<W>(s, Channel(eps, norm, mean, variance), sums, x, gy, found);
}

// -------------------------------------------------------------------------------------- prediction
// y = max(0, weight * (x + shift - mean) / sqrt(variance + eps) + bias), with given statistics.
// shift: the bias of the convolution before, or nullptr.
// NaN stays: negative floats are the integers up to -2^23, the bits of minus infinity.
template <int W>
static __global__ void __launch_bounds__(256)
predict(Shape s, float eps, const float* x, Norm norm, const float* shift, const float* mean,
        const float* variance, float* y) {
    int c = blockIdx.y;
    float scale = __fdiv_rn(norm.weight[c], __fsqrt_rn(variance[c] + eps)),
          start = mean[c] - (shift ? shift[c] : 0.f), bias = norm.bias[c];
    each<W>(s, [&](size_t at) {
        cuda::Pack<W> v = cuda::load<W>(x + at);
        for (int j = 0; j < W; j++) {
            float value = (v.v[j] - start) * scale + bias;
            v.v[j] = __float_as_int(value) <= -(1 << 23) ? 0.f : value;
        }
        cuda::store<W>(y + at, v);
    });
}

// ----------------------------------------------------------------------------------- from the host
// A channel of one piece: up to 16 numbers a thread.  Others: 256 threads a piece.
static int threads(const Shape& s) {
    return s.pieces == 1 && s.count() > 4096 ? 1024 : 256;
}
static dim3 blocks(const Shape& s) { return dim3(s.pieces, s.c); }

template <int W>
static void forward_in(const Shape& s, float eps, const float* x, Norm norm, float* y,
                       Statistics found, float2* pieces) {
    if (s.pieces == 1) {
        LAUNCH(forward_at_once<W>, blocks(s), threads(s))(s, eps, x, norm, y, found);
        return;
    }
    LAUNCH(forward_pieces<W>, blocks(s), threads(s))(s, x, pieces);
    LAUNCH(forward_rest<W>, blocks(s), threads(s))(s, eps, pieces, x, norm, y, found);
}

template <int W>
static void backward_in(const Shape& s, float eps, const float* x, const float* gy, Norm norm,
                        const float* mean, const float* variance, Gradients found,
                        float2* pieces) {
    if (s.pieces == 1) {
        LAUNCH(backward_at_once<W>, blocks(s), threads(s))(s, eps, x, gy, norm, mean, variance,
                                                           found);
        return;
    }
    LAUNCH(backward_pieces<W>, blocks(s), threads(s))(s, eps, x, gy, norm, mean, variance, pieces);
    LAUNCH(backward_rest<W>, blocks(s), threads(s))(s, eps, pieces, x, gy, norm, mean, variance,
                                                    found);
}

// pieces: room for two numbers for each piece of each channel.
static void forward(const Shape& s, float eps, const float* x, Norm norm, float* y,
                    Statistics found, float* pieces) {
    auto run = s.plane % 4 || !cuda::aligned(x, y) ? forward_in<1> : forward_in<4>;
    run(s, eps, x, norm, y, found, (float2*)pieces);
}

static void backward(const Shape& s, float eps, const float* x, const float* gy, Norm norm,
                     const float* mean, const float* variance, Gradients found, float* pieces) {
    auto run = s.plane % 4 || !cuda::aligned(x, gy, found.x) ? backward_in<1> : backward_in<4>;
    run(s, eps, x, gy, norm, mean, variance, found, (float2*)pieces);
}

static void predict_all(const Shape& s, float eps, const float* x, Norm norm, const float* shift,
                        const float* mean, const float* variance, float* y) {
    if (s.plane % 4 || !cuda::aligned(x, y))
        LAUNCH(predict<1>, blocks(s), 256)(s, eps, x, norm, shift, mean, variance, y);
    else
        LAUNCH(predict<4>, blocks(s), 256)(s, eps, x, norm, shift, mean, variance, y);
}

}  // namespace batch_norm
