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

extern "C" void GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned flags) {
    static auto real = next<void (*)(void (*)(void*), void*, unsigned, unsigned)>("GOMP_parallel");
    static FILE* notes = fopen(getenv("LOOPS"), "w");
    typedef std::chrono::steady_clock Clock;
    pieces = 0;
    auto begin = Clock::now();
    real(work, data, threads, flags);
    double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    Dl_info caller = {};
    dladdr(__builtin_return_address(0), &caller);
    fprintf(notes, "%ld\t%.9f\t%s\n", (long)pieces, seconds,
            caller.dli_sname ? caller.dli_sname : "");
    fflush(notes);
}
