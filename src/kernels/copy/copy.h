// Copies for results that are larger than the caches.
#pragma once

#include <cstdint>

namespace moe {

struct CopyKernels {
    // Copies with stores that bypass the caches where the processor has them: a line that is written whole is not read
    // first. Fast when `target` is filled in ascending order. A thread calls `end` after its last copy, which orders
    // the stores before whatever tells other threads that they are done.
    void (*stream)(char* target, const char* source, int64_t bytes);
    // Copies `source` to every target, as `stream` does, and meanwhile reads ahead what the caller needs afterwards:
    // `next_bytes` at `next`, spread over the copies.
    void (*stream_to_all)(char* const* targets, int64_t count, const char* source, int64_t bytes, const char* next,
                          int64_t next_bytes);
    void (*end)();
};

// The kernels to use now.
const CopyKernels& copy_kernels();

}  // namespace moe
