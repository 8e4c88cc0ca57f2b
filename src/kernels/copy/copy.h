// Copies for results that are better written past the caches.
#pragma once

#include <cstdint>

namespace moe {

// Memory that is needed soon: `bytes` of it, which may be 0.
struct ReadAhead {
    const char* first;
    int64_t bytes;
};

struct CopyKernels {
    // Copies with stores that bypass the caches where the processor has them: a line that is written whole is not read
    // first. Fast when `target` is filled in ascending order. A thread calls `end` after its last copy, which orders
    // the stores before whatever tells other threads that they are done.
    void (*stream)(char* target, const char* source, int64_t bytes);
    // As `stream`, and brings `ahead` into the cache meanwhile.
    void (*stream_and_read)(char* target, const char* source, int64_t bytes, ReadAhead ahead);
    void (*end)();
};

// The kernels to use now.
const CopyKernels& copy_kernels();

}  // namespace moe
