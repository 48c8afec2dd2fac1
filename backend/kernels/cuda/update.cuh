// A training step's end, for many tensors with one launch: whether the step counts, the optimisers'
// formulas, BatchNorm's running statistics, averages of weights, copies.  All but `decide` and
// `square_sums` change their tensors in place, or leave them alone where the step was refused.
// float32; no atomics, so that the same numbers give the same bits.  It needs launch.cuh before it.
#pragma once

namespace update {

constexpr int TENSORS = 64;   // a launch: 2.6 KB of the 4 KB that its arguments may have
constexpr int THREADS = 256;  // a block
constexpr int CHUNK = 1024;   // elements of one tensor that a block works on

// The verdict on a step, floats: whether it was refused (0 or 1), 1 / (1 - beta ^ steps) for both
// betas (Adam's bias corrections), and the factor that cuts long gradients.
enum { REFUSED, FIRST, SECOND, SCALE, VERDICT };

struct Numbers {
    float rate, beta1, rest1, beta2, rest2, epsilon;  // rest: 1 - beta
    float coupled, decoupled;                         // weight decay: in the gradient, beside it
};

// The tensors of a launch.  Blocks first_block[k] ... first_block[k + 1] - 1 work on number k.
struct Tensors {
    int count = 0;
    int first_block[TENSORS + 1] = {0};
    int size[TENSORS];
    float *value[TENSORS], *first[TENSORS], *second[TENSORS];
    const float* gradient[TENSORS];

    void add(int elements, float* a, const float* b, float* c = nullptr, float* d = nullptr) {
        size[count] = elements;
        value[count] = a, gradient[count] = b, first[count] = c, second[count] = d;
        first_block[count + 1] = first_block[count] + (elements + CHUNK - 1) / CHUNK;
        count++;
    }
    int blocks() const { return first_block[count]; }
};

// Which elements a block works on: from ... to - 1 of tensor k.
struct Part { int k, from, to; };

static __device__ __forceinline__ Part part_of_block(const Tensors& tensors) {
    int block = blockIdx.x, k = 0;
    while (tensors.first_block[k + 1] <= block) k++;
    int from = (block - tensors.first_block[k]) * CHUNK;
    return {k, from, min(from + CHUNK, tensors.size[k])};
}

// The sum over a block's threads, in thread 0.
static __device__ double sum_over_block(double mine) {
    __shared__ double kept[THREADS];
    kept[threadIdx.x] = mine;
    for (int half = THREADS / 2; half; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) kept[threadIdx.x] += kept[threadIdx.x + half];
    }
    return kept[0];
}

// ---------------------------------------------------------------------------------- the decision
static __global__ void square_sums_kernel(Tensors tensors, float* sums) {
    Part part = part_of_block(tensors);
    const float* gradient = tensors.gradient[part.k];
    double sum = 0;
    for (int i = part.from + threadIdx.x; i < part.to; i += THREADS)
        sum += (double)gradient[i] * gradient[i];
    sum = sum_over_block(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// What is known on the host: the largest loss to learn from, the longest gradient (0: any).
struct Limits { double loss, norm, beta1, beta2; };

// Accept or refuse a step by its loss.  sums: `count` sums of squares of gradients.  steps: the
// accepted steps, counted here.  slot: memory of the host, which reads there whether the step was
// refused, its loss and the count.
static __global__ void decide_kernel(const float* loss, int* steps, const float* sums, int count,
                                     Limits limits, float* verdict, volatile double* slot) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += sums[i];
    sum = sum_over_block(sum);
    if (threadIdx.x) return;
    bool is_finite = (__float_as_uint(loss[0]) & 0x7f800000u) != 0x7f800000u;
    bool accepted = is_finite && loss[0] <= (float)limits.loss;
    int done = steps[0] += accepted;
    double most = limits.norm / (sqrt(sum) + 1e-6);
    verdict[REFUSED] = !accepted;
    verdict[FIRST] = 1 / (1 - pow(limits.beta1, (double)max(done, 1)));
    verdict[SECOND] = 1 / (1 - pow(limits.beta2, (double)max(done, 1)));
    verdict[SCALE] = limits.norm > 0 && most < 1 ? most : 1;
    slot[0] = !accepted;
    slot[1] = loss[0];
    slot[2] = done;
}

// ------------------------------------------------------------------------------------ the update
// Adam (Kingma and Ba, ICLR 2015, algorithm 1), AdamW (Loshchilov and Hutter, ICLR 2019).
static __global__ void adam_kernel(Tensors tensors, Numbers numbers, const float* verdict) {
    if (verdict[REFUSED]) return;
    Part part = part_of_block(tensors);
    float *value = tensors.value[part.k], *first = tensors.first[part.k],
          *second = tensors.second[part.k];
    const float* gradient = tensors.gradient[part.k];
    float scale = verdict[SCALE], correct1 = verdict[FIRST], correct2 = verdict[SECOND];
#pragma unroll 4
    for (int i = part.from + threadIdx.x; i < part.to; i += THREADS) {
        float w = value[i], g = gradient[i] * scale + numbers.coupled * w;
        float m = numbers.beta1 * first[i] + numbers.rest1 * g;
        float v = numbers.beta2 * second[i] + numbers.rest2 * g * g;
        float root = __fsqrt_rn(v * correct2) + numbers.epsilon;
        first[i] = m;
        second[i] = v;
        value[i] = w - numbers.decoupled * w
                   - numbers.rate * __fdiv_rn(m * correct1, root);
    }
}

// Stochastic gradient descent with momentum beta1.
static __global__ void sgd_kernel(Tensors tensors, Numbers numbers, const float* verdict) {
    if (verdict[REFUSED]) return;
    Part part = part_of_block(tensors);
    float *value = tensors.value[part.k], *first = tensors.first[part.k];
    const float* gradient = tensors.gradient[part.k];
    float scale = verdict[SCALE];
#pragma unroll 4
    for (int i = part.from + threadIdx.x; i < part.to; i += THREADS) {
        float w = value[i], g = gradient[i] * scale + numbers.coupled * w;
        float v = numbers.beta1 * first[i] + g;
        first[i] = v;
        value[i] = w - numbers.decoupled * w - numbers.rate * v;
    }
}

// value: an average, which moves towards `gradient`, here a weight.
static __global__ void average_kernel(Tensors tensors, float share) {
    Part part = part_of_block(tensors);
    float* value = tensors.value[part.k];
    const float* weight = tensors.gradient[part.k];
    for (int i = part.from + threadIdx.x; i < part.to; i += THREADS)
        value[i] += share * (weight[i] - value[i]);
}

// value = gradient, of any bits.
static __global__ void copy_kernel(Tensors tensors) {
    Part part = part_of_block(tensors);
    for (int i = part.from + threadIdx.x; i < part.to; i += THREADS)
        tensors.value[part.k][i] = tensors.gradient[part.k][i];
}

// --------------------------------------------------------------------------- running statistics
// Those of many BatchNorms, a block each.  shift: what the batch's mean lacks, or null.
struct Statistics {
    int count = 0;
    int channels[TENSORS];
    float unbiased[TENSORS];  // what makes a batch's variance the unbiased one
    float *running_mean[TENSORS], *running_variance[TENSORS];
    const float *mean[TENSORS], *variance[TENSORS], *shift[TENSORS];
};

static __global__ void statistics_kernel(Statistics all, float momentum, const float* verdict) {
    if (verdict[REFUSED]) return;
    int k = blockIdx.x;
    for (int c = threadIdx.x; c < all.channels[k]; c += THREADS) {
        float mean = all.mean[k][c] + (all.shift[k] ? all.shift[k][c] : 0.0f);
        float variance = all.variance[k][c] * all.unbiased[k];
        all.running_mean[k][c] += (mean - all.running_mean[k][c]) * momentum;
        all.running_variance[k][c] += (variance - all.running_variance[k][c]) * momentum;
    }
}

// ----------------------------------------------------------------------------------- from the host
inline void square_sums(const Tensors& tensors, float* sums) {
    if (tensors.blocks()) LAUNCH(square_sums_kernel, tensors.blocks(), THREADS)(tensors, sums);
}
inline void decide(const float* loss, int* steps, const float* sums, int count, Limits limits,
                   float* verdict, double* slot) {
    LAUNCH(decide_kernel, 1, THREADS)(loss, steps, sums, count, limits, verdict, slot);
}
inline void adam(const Tensors& tensors, Numbers numbers, const float* verdict) {
    if (tensors.blocks()) LAUNCH(adam_kernel, tensors.blocks(), THREADS)(tensors, numbers, verdict);
}
inline void sgd(const Tensors& tensors, Numbers numbers, const float* verdict) {
    if (tensors.blocks()) LAUNCH(sgd_kernel, tensors.blocks(), THREADS)(tensors, numbers, verdict);
}
inline void average(const Tensors& tensors, float share) {
    if (tensors.blocks()) LAUNCH(average_kernel, tensors.blocks(), THREADS)(tensors, share);
}
inline void copy(const Tensors& tensors) {
    if (tensors.blocks()) LAUNCH(copy_kernel, tensors.blocks(), THREADS)(tensors);
}
inline void move_statistics(const Statistics& all, float momentum, const float* verdict) {
    LAUNCH(statistics_kernel, all.count, THREADS)(all, momentum, verdict);
}

}  // namespace update
