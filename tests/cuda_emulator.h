// Runs CUDA kernels on a CPU, one block after another, so that tests need no GPU.
//
// A .cuh of backend/kernels/cuda compiles with g++ after this header.  Every thread of a block is a
// fiber: it runs until it waits at a barrier or at a warp's shuffle, then the next one runs.
// What CUDA leaves undefined is an error here (std::runtime_error from the launch): threads that
// wait at different barriers, that end while others wait, lanes of a mask that do not come.
// Shared memory holds NaN at the beginning of every block.  cuda_emulator::reversed = true runs
// blocks and threads backwards: where a barrier is missing, results differ.
//
// Not here: dynamic shared memory, streams, textures, cooperative groups, speed.  A kernel, and a
// template of kernels, must be `static`, because its shared memory lies in a section of its own.
#pragma once
#include <setjmp.h>
#include <ucontext.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __constant__ const
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("cuda_shared")))

extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));

// ------------------------------------------------------------------------------------------- types
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

// ------------------------------------------------------------------------------------- the machine
namespace cuda_emulator {

static bool reversed = false;
enum Wait { RUNS, AT_BLOCK, AT_WARP, ENDED };

struct Fiber {
    dim3 thread;
    int number = 0, parity = 0;
    Wait wait = RUNS;
    unsigned mask = 0;  // the lanes that a wait at a warp's barrier is for
    bool started = false;
    jmp_buf here;
    ucontext_t first;
    std::unique_ptr<char[]> stack;
};

struct Machine {
    static constexpr size_t STACK = 1 << 16;
    std::vector<Fiber> fibers;
    Fiber* current = nullptr;
    jmp_buf scheduler;
    ucontext_t scheduler_context;
    dim3 block, blocks, threads;
    std::vector<int> votes;
    char slots[32][2][32][16];  // warp, parity, lane: what lanes show one another
    void (*call)(void*) = nullptr;
    void* argument = nullptr;
};
static Machine machine;

inline void enter() {
    machine.call(machine.argument);
    machine.current->wait = ENDED;
    _longjmp(machine.scheduler, 1);
}

// Leave the running thread until the scheduler comes back to it.
inline void pause(Wait wait, unsigned mask = 0) {
    Fiber* fiber = machine.current;
    fiber->wait = wait;
    fiber->mask = mask;
    if (!_setjmp(fiber->here)) _longjmp(machine.scheduler, 1);
}

inline void resume(Fiber& fiber) {
    machine.current = &fiber;
    if (_setjmp(machine.scheduler)) return;
    if (fiber.started) _longjmp(fiber.here, 1);
    fiber.started = true;
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = fiber.stack.get();
    fiber.first.uc_stack.ss_size = Machine::STACK;
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, enter, 0);
    setcontext(&fiber.first);
}

// Let those go on who wait at a barrier that all have reached; whether there was one.
inline bool release(size_t count) {
    auto& fibers = machine.fibers;
    auto all = [&](size_t from, size_t to, auto test) {
        return std::all_of(fibers.begin() + from, fibers.begin() + to, test);
    };
    if (all(0, count, [](const Fiber& f) { return f.wait == AT_BLOCK; })) {
        for (size_t i = 0; i < count; i++) fibers[i].wait = RUNS;
        return true;
    }
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        if (fibers[i].wait != AT_WARP) continue;
        size_t warp = i / 32 * 32;
        unsigned mask = fibers[i].mask;
        bool complete = true;
        for (size_t lane = 0; lane < 32; lane++)
            if (mask >> lane & 1)
                complete &= warp + lane < count && fibers[warp + lane].wait == AT_WARP
                            && fibers[warp + lane].mask == mask;
        for (size_t lane = 0; complete && lane < 32; lane++)
            if (mask >> lane & 1) fibers[warp + lane].wait = RUNS;
        any |= complete;
    }
    return any;
}

inline void run_block() {
    size_t count = (size_t)machine.threads.x * machine.threads.y * machine.threads.z;
    size_t shared = __stop_cuda_shared - __start_cuda_shared;
    if (shared) std::memset(__start_cuda_shared, 0xff, shared);
    while (machine.fibers.size() < count) {
        machine.fibers.emplace_back();
        machine.fibers.back().stack.reset(new char[Machine::STACK]);
    }
    machine.votes.assign(count, 0);
    for (size_t i = 0; i < count; i++) {
        Fiber& fiber = machine.fibers[i];
        fiber.number = i;
        fiber.parity = 0;
        fiber.wait = RUNS;
        fiber.started = false;
        fiber.thread = dim3(i % machine.threads.x, i / machine.threads.x % machine.threads.y,
                            i / machine.threads.x / machine.threads.y);
    }
    for (size_t ended = 0; ended < count;) {
        for (size_t i = 0; i < count; i++) {
            Fiber& fiber = machine.fibers[reversed ? count - 1 - i : i];
            if (fiber.wait != RUNS) continue;
            resume(fiber);
            ended += fiber.wait == ENDED;
        }
        if (ended < count && !release(count)) {
            size_t at_block = 0, at_warp = 0;
            for (size_t i = 0; i < count; i++) {
                at_block += machine.fibers[i].wait == AT_BLOCK;
                at_warp += machine.fibers[i].wait == AT_WARP;
            }
            throw std::runtime_error(
                "CUDA emulator: of " + std::to_string(count) + " threads "
                + std::to_string(ended) + " ended, while " + std::to_string(at_block)
                + " wait at __syncthreads and " + std::to_string(at_warp) + " for their warp");
        }
    }
}

template <class Call>
void launch(dim3 blocks, dim3 threads, Call call) {
    size_t count = (size_t)threads.x * threads.y * threads.z,
           grid = (size_t)blocks.x * blocks.y * blocks.z;
    if (!count || count > 1024 || threads.z > 64 || !grid || blocks.x > 2147483647u
        || blocks.y > 65535 || blocks.z > 65535)
        throw std::runtime_error("CUDA emulator: a grid or block of this size does not start");
    machine.threads = threads;
    machine.blocks = blocks;
    machine.argument = &call;
    machine.call = [](void* argument) { (*(Call*)argument)(); };
    for (size_t k = 0; k < grid; k++) {
        size_t i = reversed ? grid - 1 - k : k;
        machine.block = dim3(i % blocks.x, i / blocks.x % blocks.y, i / blocks.x / blocks.y);
        run_block();
    }
}

template <class... Parameters>
struct Launch {
    void (*kernel)(Parameters...);
    dim3 blocks, threads;
    void operator()(Parameters... arguments) const {
        launch(blocks, threads, [&] { kernel(arguments...); });
    }
};
template <class... Parameters>
Launch<Parameters...> make_launch(void (*kernel)(Parameters...), dim3 blocks, dim3 threads) {
    return {kernel, blocks, threads};
}

// What lane `from` of the warp shows; every lane of the mask has to come.
template <class T>
inline T exchange(unsigned mask, T value, int from) {
    static_assert(sizeof(T) <= 16, "a shuffle moves up to 16 bytes");
    Fiber* fiber = machine.current;
    int warp = fiber->number / 32, lane = fiber->number % 32, parity = fiber->parity;
    fiber->parity ^= 1;
    std::memcpy(machine.slots[warp][parity][lane], &value, sizeof value);
    pause(AT_WARP, mask);
    T found;
    std::memcpy(&found, machine.slots[warp][parity][from], sizeof found);
    return found;
}
inline int lane() { return machine.current->number % 32; }

inline int vote(bool mine) {  // how many threads of the block say yes
    machine.votes[machine.current->number] = mine;
    pause(AT_BLOCK);
    int count = 0;
    for (int value : machine.votes) count += value;
    pause(AT_BLOCK);
    return count;
}

}  // namespace cuda_emulator

// LAUNCH(kernel, blocks, threads)(arguments...): kernel<<<blocks, threads>>>(arguments...).
#define LAUNCH(kernel, blocks, threads) cuda_emulator::make_launch(kernel, blocks, threads)
#define threadIdx (cuda_emulator::machine.current->thread)
#define blockIdx (cuda_emulator::machine.block)
#define blockDim (cuda_emulator::machine.threads)
#define gridDim (cuda_emulator::machine.blocks)
#define warpSize 32

// -------------------------------------------------------------------------------- threads together
inline void __syncthreads() { cuda_emulator::pause(cuda_emulator::AT_BLOCK); }
inline int __syncthreads_count(int yes) { return cuda_emulator::vote(yes); }
inline int __syncthreads_or(int yes) { return cuda_emulator::vote(yes) > 0; }
inline int __syncthreads_and(int yes) { return !cuda_emulator::vote(!yes); }
inline void __syncwarp(unsigned mask = ~0u) { cuda_emulator::pause(cuda_emulator::AT_WARP, mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
template <class T>
inline T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    int lane = cuda_emulator::lane();
    return cuda_emulator::exchange(mask, value, lane / width * width + from % width);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = cuda_emulator::lane(), from = lane + (int)delta;
    return cuda_emulator::exchange(mask, value, from / width == lane / width ? from : lane);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = cuda_emulator::lane(), from = lane - (int)delta;
    return cuda_emulator::exchange(mask, value, from >= lane / width * width ? from : lane);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int lane = cuda_emulator::lane(), from = lane ^ bits;
    return cuda_emulator::exchange(mask, value, from / width == lane / width ? from : lane);
}
inline unsigned __ballot_sync(unsigned mask, int yes) {
    unsigned votes = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1)
            votes |= (unsigned)(cuda_emulator::exchange(mask, (int)!!yes, lane)) << lane;
    return votes;
}
inline int __any_sync(unsigned mask, int yes) { return __ballot_sync(mask, yes) != 0; }
inline int __all_sync(unsigned mask, int yes) { return __ballot_sync(mask, yes) == mask; }
template <class T>
inline T atomicAdd(T* at, T value) { T old = *at; *at += value; return old; }

// An event is a number: 1 once it has been recorded.
typedef void* cudaEvent_t;
inline void cudaEventRecord(cudaEvent_t event, int) { *(long long*)event = 1; }

// ----------------------------------------------------------------------------------------- numbers
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return (float)((double)a / b); }
inline float __frcp_rn(float a) { return (float)(1.0 / a); }
inline float __fsqrt_rn(float a) { return (float)std::sqrt((double)a); }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline float rsqrtf(float a) { return 1 / std::sqrt(a); }
inline double rsqrt(double a) { return 1 / std::sqrt(a); }
template <class To, class From>
inline To __same_bits(From value) { To bits; std::memcpy(&bits, &value, sizeof bits); return bits; }
inline int __float_as_int(float a) { return __same_bits<int>(a); }
inline unsigned __float_as_uint(float a) { return __same_bits<unsigned>(a); }
inline float __int_as_float(int a) { return __same_bits<float>(a); }
inline float __uint_as_float(unsigned a) { return __same_bits<float>(a); }
inline long long __double_as_longlong(double a) { return __same_bits<long long>(a); }
inline double __longlong_as_double(long long a) { return __same_bits<double>(a); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
template <class T>
inline T __ldg(const T* at) { return *at; }
using std::max;
using std::min;
