// Concatenation of channels into one array, and bilinear resize on the way, as
// torch.nn.functional.interpolate defines it.  A resize alone is a join of one part.
//
// Where a part is larger than the joined array its middle is taken; where it is smaller, zeros are
// added at the bottom and at the right.  The gradient of a part is gathered: each of its numbers
// sums up the gradients of all that it has a share in.  No atomics: the same input gives the same
// bits.

namespace join {

// One axis of a part.
struct Axis {
    int length, resized;  // of the part, before and after the resize
    int offset;           // where it begins in the joined array; negative: so much is cut off
    bool align_corners;
    float scale;
    void set(int before, int after, int joined, bool corners) {
        length = before;
        resized = after;
        offset = after > joined ? -((after - joined) / 2) : 0;
        align_corners = corners;
        scale = corners ? (after > 1 ? (float)(before - 1) / (after - 1) : 0.f)
                        : (float)before / after;
    }
};

// The two numbers between which number i of the resized axis lies, and the share of the second.
// Products are not fused with sums: PyTorch and the CPU's kernel round both.
struct Between {
    int first, second;
    float share;
    __device__ Between(const Axis& axis, int i) {
        float at = axis.align_corners
            ? __fmul_rn(axis.scale, i)
            : max(0.f, __fadd_rn(__fmul_rn(axis.scale, i + 0.5f), -0.5f));
        first = min((int)at, axis.length - 1);
        second = min(first + 1, axis.length - 1);
        share = min(at - first, 1.f);
    }
    __device__ float share_of(int k) const {
        return (first == k ? 1 - share : 0.f) + (second == k ? share : 0.f);
    }
};

struct Part {
    const float* x;
    int begin, c;  // its first channel in the joined array, how many it has
    Axis rows, columns;
    bool is_copy, is_whole;  // not resized; nor cut off or continued
};

constexpr int MOST = 8;
struct Parts {
    Part part[MOST];
    int count = 0, n, c = 0, h, w;  // parts; the joined array's samples, channels, rows, columns

    Parts(int n, int h, int w) : n(n), h(h), w(w) {}
    void add(const float* x, int c_, int rows, int columns, int resized_rows, int resized_columns,
             bool align_corners) {
        Part& next = part[count++];
        next.x = x;
        next.begin = c;
        next.c = c_;
        next.rows.set(rows, resized_rows, h, align_corners);
        next.columns.set(columns, resized_columns, w, align_corners);
        next.is_copy = rows == resized_rows && columns == resized_columns;
        next.is_whole = next.is_copy && rows == h && columns == w;
        c += c_;
    }
};

static __device__ __forceinline__ float resized(const Part& part, const float* plane, int i,
                                                int j) {
    Between row(part.rows, i), column(part.columns, j);
    const float *top = plane + (size_t)row.first * part.columns.length,
                *bottom = plane + (size_t)row.second * part.columns.length;
    float a = 1 - row.share, b = row.share;
    return (1 - column.share) * (a * top[column.first] + b * bottom[column.first])
           + column.share * (a * top[column.second] + b * bottom[column.second]);
}

constexpr int EACH = 4;  // numbers of a thread

// The plane of a channel of a sample is shared by blocks along x; y: channels; z: samples.
static __global__ void __launch_bounds__(256)
forward(Parts s, float* y) {
    int channel = blockIdx.y;
    Part part = s.part[0];
    #pragma unroll
    for (int k = 1; k < MOST; k++)
        if (k < s.count && s.part[k].begin <= channel) part = s.part[k];
    const float* plane = part.x + ((size_t)blockIdx.z * part.c + (channel - part.begin))
                                  * part.rows.length * part.columns.length;
    float* to = y + ((size_t)blockIdx.z * s.c + channel) * s.h * s.w;
    for (int k = 0; k < EACH; k++) {
        int at = (blockIdx.x * EACH + k) * 256 + threadIdx.x;
        if (at >= s.h * s.w) return;
        if (part.is_whole) {
            to[at] = plane[at];
            continue;
        }
        int i = at / s.w, j = at - i * s.w;
        i -= part.rows.offset;
        j -= part.columns.offset;
        if (i >= part.rows.resized || j >= part.columns.resized)
            to[at] = 0;
        else
            to[at] = part.is_copy ? plane[(size_t)i * part.columns.length + j]
                                  : resized(part, plane, i, j);
    }
}

// ---------------------------------------------------------------------------------------- backward
// The gradient gx of a part that is not resized.  gy: that of the joined array, (n, c, h, w).
static __global__ void __launch_bounds__(256)
copy_back(Part part, int c, int h, int w, const float* gy, float* gx) {
    int rows = part.rows.length, columns = part.columns.length;
    const float* plane = gy + ((size_t)blockIdx.z * c + part.begin + blockIdx.y) * h * w;
    float* to = gx + ((size_t)blockIdx.z * part.c + blockIdx.y) * rows * columns;
    for (int k = 0; k < EACH; k++) {
        int at = (blockIdx.x * EACH + k) * 256 + threadIdx.x;
        if (at >= rows * columns) return;
        if (part.is_whole) {
            to[at] = plane[at];
            continue;
        }
        int i = at / columns, j = at - i * columns;
        i += part.rows.offset;
        j += part.columns.offset;
        to[at] = i >= 0 && i < h && j >= 0 && j < w ? plane[(size_t)i * w + j] : 0.f;
    }
}

// The numbers of the resized axis in which number k has a share: first ... last.
struct Range {
    int first, last;
    __device__ Range(const Axis& axis, int joined, int k) {
        first = 0;
        last = axis.resized - 1;
        float middle = axis.align_corners ? 0.f : 0.5f;
        if (axis.scale > 0) {  // a guess, wider by rounding, then what is right
            first = max(first, (int)floorf((k - 1 + middle) / axis.scale - middle) - 1);
            last = min(last, (int)ceilf((k + 1 + middle) / axis.scale - middle) + 1);
            while (first < last && Between(axis, first).second < k) first++;
            while (first < last && Between(axis, last).first > k) last--;
        }
        first = max(first, -axis.offset);
        last = min(last, joined - 1 - axis.offset);
    }
};

// The gradient gx of a resized part: LANES threads, 1 or 32, for each of its numbers.
template <int LANES>
static __global__ void __launch_bounds__(256)
gather(Part part, int c, int h, int w, const float* gy, float* gx) {
    constexpr int SHARES = 6;  // columns of a thread at a time: enough for twice the size
    int thread = blockIdx.x * 256 + threadIdx.x, at = thread / LANES, lane = thread % LANES,
        columns = part.columns.length, i = at / columns, j = at - i * columns;
    bool exists = i < part.rows.length;
    const float* plane = gy + ((size_t)blockIdx.z * c + part.begin + blockIdx.y) * h * w;
    float total = 0;
    if (exists) {
        Range rows(part.rows, h, i), across(part.columns, w, j);
        for (int start = across.first + lane; start <= across.last; start += SHARES * LANES) {
            float share[SHARES];
            #pragma unroll
            for (int k = 0; k < SHARES; k++) {
                int column = start + k * LANES;
                share[k] = column <= across.last ? Between(part.columns, column).share_of(j) : 0.f;
            }
            for (int row = rows.first; row <= rows.last; row++) {
                const float* g = plane + (size_t)(row + part.rows.offset) * w
                                 + part.columns.offset;
                float sum = 0;
                #pragma unroll
                for (int k = 0; k < SHARES; k++)
                    if (start + k * LANES <= across.last) sum += share[k] * g[start + k * LANES];
                total += Between(part.rows, row).share_of(i) * sum;
            }
        }
    }
    for (int bit = LANES / 2; bit; bit /= 2) total += __shfl_xor_sync(cuda::ALL, total, bit);
    if (exists && lane == 0)
        gx[((size_t)blockIdx.z * part.c + blockIdx.y) * part.rows.length * columns + at] = total;
}

// ----------------------------------------------------------------------------------- from the host
static dim3 blocks(size_t numbers, int each, int c, int n) {
    return dim3((numbers + each - 1) / each, c, n);
}

static void forward_all(const Parts& s, float* y) {
    LAUNCH(forward, blocks((size_t)s.h * s.w, 256 * EACH, s.c, s.n), 256)(s, y);
}

// gx, the gradient of part k, of gy, that of the joined array.
static void backward_of(const Parts& s, int k, const float* gy, float* gx) {
    const Part& part = s.part[k];
    size_t numbers = (size_t)part.rows.length * part.columns.length;
    if (part.is_copy)
        LAUNCH(copy_back, blocks(numbers, 256 * EACH, part.c, s.n), 256)
            (part, s.c, s.h, s.w, gy, gx);
    else if (part.columns.resized > 6 * part.columns.length)
        LAUNCH(gather<32>, blocks(numbers * 32, 256, part.c, s.n), 256)
            (part, s.c, s.h, s.w, gy, gx);
    else
        LAUNCH(gather<1>, blocks(numbers, 256, part.c, s.n), 256)(part, s.c, s.h, s.w, gy, gx);
}

}  // namespace join
