// Dropout of single numbers.  Srivastava et al., JMLR 2014.
//
// Whether a number is dropped follows from a seed and the number's place, by the hash of
// MurmurHash3.  So the gradient needs nothing but the seed.
#pragma once
#include <algorithm>
#include "channels_last.h"

namespace dropout {

using namespace channels_last;

typedef unsigned Bits __attribute__((vector_size(L * sizeof(unsigned))));

template <class U> inline U mixed(U h) {  // the finaliser of MurmurHash3, 32 bits
    h ^= h >> 16; h *= 0x85ebca6bu; h ^= h >> 13; h *= 0xc2b2ae35u; h ^= h >> 16;
    return h;
}

constexpr size_t BLOCK = 1 << 14;  // numbers with the same key

// y is x / (1 - share) where a number stays, else 0.  size: a multiple of CHANNELS.
template <class T>
inline void apply(size_t size, unsigned seed, float share, const T* x, T* y) {
    Bits lanes;
    for (int l = 0; l < L; l++) lanes[l] = l;
    int limit = (int)(share * (1 << 24));
    float scale = 1 / (1 - share);
    int blocks = (int)((size + BLOCK - 1) / BLOCK);
    #pragma omp parallel for
    for (int b = 0; b < blocks; b++) {
        unsigned key = mixed(seed + mixed((unsigned)b + 1));
        size_t first = b * BLOCK, last = std::min(size, first + BLOCK);
        for (size_t i = first; i < last; i += L) {
            Bits hash = mixed((lanes + (unsigned)(i - first)) * 0x9e3779b1u ^ key);
            store(y + i, (Mask)(hash >> 8) >= limit ? load(x + i) * scale : Vec{});
        }
    }
}

}  // namespace dropout
