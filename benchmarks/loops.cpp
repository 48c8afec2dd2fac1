// Notes each parallel loop that a program gives to libgomp: how many pieces it has, and its time.
// Loops.py preloads this library.  The environment variable LOOPS names the file of the notes: a
// line for each loop, with the pieces (0: not cut dynamically), the seconds, and the function.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>

static std::atomic<long> pieces{0};

template <class F> static F next(const char* name) { return (F)dlsym(RTLD_NEXT, name); }

// Jittor binds an operator to libgomp before all else (RTLD_DEEPBIND).  Then it would not see us.
extern "C" void* dlopen(const char* name, int flags) {
    static auto real = next<void* (*)(const char*, int)>("dlopen");
    return real(name, flags & ~RTLD_DEEPBIND);
}

extern "C" bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long step, long chunk,
                                                     long* from, long* to) {
    static auto real = next<bool (*)(long, long, long, long, long*, long*)>(
        "GOMP_loop_nonmonotonic_dynamic_start");
    pieces = (end - start) / step;
    return real(start, end, step, chunk, from, to);
}

// caller: the address to which the loop returns.
static void note(double seconds, void* caller) {
    static FILE* notes = fopen(getenv("LOOPS"), "w");
    Dl_info info = {};
    dladdr(caller, &info);
    fprintf(notes, "%ld\t%.9f\t%s\n", (long)pieces, seconds, info.dli_sname ? info.dli_sname : "");
    fflush(notes);
}

template <class F> static void observe(void* caller, F loop) {
    typedef std::chrono::steady_clock Clock;
    auto begin = Clock::now();
    loop();
    note(std::chrono::duration<double>(Clock::now() - begin).count(), caller);
}

typedef void Work(void*);

extern "C" void GOMP_parallel(Work* work, void* data, unsigned threads, unsigned flags) {
    static auto real = next<void (*)(Work*, void*, unsigned, unsigned)>("GOMP_parallel");
    pieces = 0;
    observe(__builtin_return_address(0), [&] { real(work, data, threads, flags); });
}

extern "C" void GOMP_parallel_loop_nonmonotonic_dynamic(Work* work, void* data, unsigned threads,
                                                        long start, long end, long step, long chunk,
                                                        unsigned flags) {
    static auto real = next<void (*)(Work*, void*, unsigned, long, long, long, long, unsigned)>(
        "GOMP_parallel_loop_nonmonotonic_dynamic");
    pieces = (end - start) / step;
    observe(__builtin_return_address(0), [&] {
        real(work, data, threads, start, end, step, chunk, flags);
    });
}
