#include "kernels/copy/copy.h"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace moe {

#if defined(__SSE2__)

// SSE2 is part of x86-64. Its stores of 16 bytes fill the same line buffers as wider ones, at the speed of memory.
void stream_copy(char* target, const char* source, int64_t bytes) {
    const auto misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(target) % 64);
    const int64_t head = misplaced == 0 ? 0 : std::min(bytes, 64 - misplaced);
    std::memcpy(target, source, static_cast<size_t>(head));
    int64_t i = head;
    for (; i + 64 <= bytes; i += 64) {
        const auto* from = reinterpret_cast<const __m128i*>(source + i);
        auto* to = reinterpret_cast<__m128i*>(target + i);
        const __m128i a = _mm_loadu_si128(from);
        const __m128i b = _mm_loadu_si128(from + 1);
        const __m128i c = _mm_loadu_si128(from + 2);
        const __m128i d = _mm_loadu_si128(from + 3);
        _mm_stream_si128(to, a);
        _mm_stream_si128(to + 1, b);
        _mm_stream_si128(to + 2, c);
        _mm_stream_si128(to + 3, d);
    }
    std::memcpy(target + i, source + i, static_cast<size_t>(bytes - i));
}

void end_streaming() {
    _mm_sfence();
}

#else

void stream_copy(char* target, const char* source, int64_t bytes) {
    std::memcpy(target, source, static_cast<size_t>(bytes));
}

void end_streaming() {}

#endif

}  // namespace moe
