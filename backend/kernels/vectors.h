// Vectors of L floats, the machine's widest, in GCC's own notation.
// In memory a number may also be a Bf16: the upper half of a float's bits.
#pragma once
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace vectors {

#ifdef __AVX512F__
constexpr int L = 16;
#else
constexpr int L = 8;
#endif
typedef float Vec __attribute__((vector_size(L * sizeof(float)), may_alias));
typedef int Mask __attribute__((vector_size(L * sizeof(int))));
struct Bf16 { unsigned short bits; } __attribute__((may_alias));
typedef unsigned short Halves __attribute__((vector_size(L * sizeof(Bf16))));

inline Vec load(const float* p) { Vec v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, const Vec& v) { std::memcpy(p, &v, sizeof v); }
// The numbers with these upper halves.
inline Vec widened(const Halves& upper) {
#ifdef __AVX512F__  // one instruction, where GCC 12 takes five for __builtin_convertvector
    return (Vec)((Mask)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)upper) << 16);
#else
    return (Vec)(__builtin_convertvector(upper, Mask) << 16);
#endif
}
inline Vec load(const Bf16* p) {
    Halves upper;
    std::memcpy(&upper, p, sizeof upper);
    return widened(upper);
}

// The nearest Bf16 of each number, of two as near the even one.  NaN stays NaN.
inline Halves rounded(const Vec& v) {
#ifdef __AVX512BF16__
    return (Halves)_mm512_cvtneps_pbh((__m512)v);
#else
    Mask bits = (Mask)v, size = bits & 0x7fffffff;
    Mask nearest = bits + (0x7fff + ((bits >> 16) & 1));
    Mask chosen = size > 0x7f800000 ? bits | 0x400000 : nearest;  // NaN, by its bits
    return __builtin_convertvector((chosen >> 16) & 0xffff, Halves);
#endif
}
inline void store(Bf16* p, const Vec& v) { Halves h = rounded(v); std::memcpy(p, &h, sizeof h); }
// Write a cache line of numbers past the caches, which it would only push other data out of.
// p is a multiple of 64.  finish_stream() makes them visible to other threads.
inline void stream(Bf16* p, const Vec& v) { store(p, v); }
#ifdef __AVX512F__
inline void stream(float* p, const Vec& v) { _mm512_stream_ps(p, (__m512)v); }
inline void finish_stream() { _mm_sfence(); }
#else
inline void stream(float* p, const Vec& v) { store(p, v); }
inline void finish_stream() {}
#endif

// ReLU that keeps NaN, by the numbers' bits, read as integers.
// Negative floats are the integers up to -2^23, the bits of minus infinity.  NaNs come after that.
// Floats cannot be compared here: under -ffast-math the compiler would turn NaN into 0.
inline Vec rectified(const Vec& v) { return (Mask)v <= -(1 << 23) ? Vec{} : v; }

}  // namespace vectors
