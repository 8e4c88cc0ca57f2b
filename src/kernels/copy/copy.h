// Copies for results that are larger than the caches.
#pragma once

#include <cstdint>

namespace moe {

// From about this many bytes on, a result does not stay in a cache until someone reads it.
constexpr int64_t streaming_bytes = 8 << 20;

// Copies with stores that bypass the caches where the processor has them: a line that is written whole is not read
// first. Fast when `target` is filled in ascending order. A thread calls end_streaming after its last copy, which
// orders the stores before whatever tells other threads that they are done.
void stream_copy(char* target, const char* source, int64_t bytes);
void end_streaming();

}  // namespace moe
