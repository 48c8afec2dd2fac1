// Vectors of L floats, the machine's widest, in GCC's own notation.
// Also: how to part and join numbers that alternate between two vectors.
#pragma once
#include <cstring>

namespace vectors {

#ifdef __AVX512F__
constexpr int L = 16;
#else
constexpr int L = 8;
#endif
typedef float Vec __attribute__((vector_size(L * sizeof(float)), may_alias));
typedef int Mask __attribute__((vector_size(L * sizeof(int))));
#ifdef __AVX512F__
const Mask EVEN = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
const Mask FRONT = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
#else
const Mask EVEN = {0, 2, 4, 6, 8, 10, 12, 14};
const Mask FRONT = {0, 8, 1, 9, 2, 10, 3, 11};
#endif

inline Vec load(const float* p) { Vec v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, const Vec& v) { std::memcpy(p, &v, sizeof v); }
// a and b are 2 L numbers in a row: those at even places, those at odd places.
inline Vec even(const Vec& a, const Vec& b) { return __builtin_shuffle(a, b, EVEN); }
inline Vec odd(const Vec& a, const Vec& b) { return __builtin_shuffle(a, b, EVEN + 1); }
// The 2 L numbers a[0], b[0], a[1], b[1], ...: their first half, their second half.
inline Vec front(const Vec& a, const Vec& b) { return __builtin_shuffle(a, b, FRONT); }
inline Vec back(const Vec& a, const Vec& b) { return __builtin_shuffle(a, b, FRONT + L / 2); }

// ReLU that keeps NaN, by the numbers' bits, read as integers.
// Negative floats are the integers up to -2^23, the bits of minus infinity.  NaNs come after that.
// Floats cannot be compared here: under -ffast-math the compiler would turn NaN into 0.
inline Vec rectified(const Vec& v) { return (Mask)v <= -(1 << 23) ? Vec{} : v; }

}  // namespace vectors
