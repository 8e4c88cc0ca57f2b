// The sizes of the processor's caches, for choices between ways to move data.
#pragma once

#include <cstdint>

namespace moe {

// The second level, which a thread usually has for itself, and the last one, which threads share, up to 64 MiB of it.
// Asked once; where neither the C library nor the system knows, what small servers have.
int64_t second_level_cache_bytes();
int64_t last_level_cache_bytes();

// Whether so many bytes, written or read and written, are better written past the caches: beyond an eighth of the last
// level. Other programs, and the weights between two calls, leave a result no more of it; a line that is not there is
// read from memory before it is written.
bool outgrows_caches(int64_t bytes);

// Brings memory into the first-level cache.
inline void prefetch(const void* first, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(static_cast<const char*>(first) + byte);
}

}  // namespace moe
