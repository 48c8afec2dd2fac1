// Activations with the channels last: an array (images, height, width, padded channels).
// Channels come in groups of CHANNELS, so that no kernel has a rest of a vector.  The padding
// channels of the last group are zero.
#pragma once
#include <cstdlib>
#include <sys/mman.h>
#include "vectors.h"

namespace channels_last {

using namespace vectors;

constexpr int CHANNELS = 16;  // of a group
inline int groups_of(int channels) { return (channels + CHANNELS - 1) / CHANNELS; }
inline int padded(int channels) { return groups_of(channels) * CHANNELS; }

// Memory for vectors, aligned, in huge pages.  Its thread keeps it from call to call.
class Buffer {
    void* data = nullptr;
    size_t size = 0;
public:
    void* of(size_t bytes) {
        if (bytes > size) {
            size_t page = 1 << 21;
            size = (bytes + page - 1) / page * page;
            free(data);
            data = aligned_alloc(page, size);
            madvise(data, size, MADV_HUGEPAGE);
        }
        return data;
    }
    ~Buffer() { free(data); }
};

}  // namespace channels_last
