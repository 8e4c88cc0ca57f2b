// The copy kernels. Included by one file per instruction set, which defines MOE_COPY_TABLE first.
#include <cstring>

#include "kernels/copy/copy.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace moe {
namespace {

constexpr int64_t line = 64;

inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// A whole line; `target` is aligned to it.
#if defined(__AVX512F__)
inline void stream_line(char* target, const char* source) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target), _mm512_loadu_si512(source));
}
#elif defined(__SSE2__)
inline void stream_line(char* target, const char* source) {
    const auto* from = reinterpret_cast<const __m128i*>(source);
    auto* to = reinterpret_cast<__m128i*>(target);
    const __m128i a = _mm_loadu_si128(from);
    const __m128i b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2);
    const __m128i d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
}
#else
inline void stream_line(char* target, const char* source) {
    std::memcpy(target, source, line);
}
#endif

// Reads go between the stores a few at a time: both wait for the same buffers when there are too many of them.
void stream_and_read(char* target, const char* source, int64_t bytes, ReadAhead ahead) {
    constexpr int64_t piece = 8 * line;
    const auto misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(target) % line);
    int64_t i = misplaced == 0 ? 0 : smaller(bytes, line - misplaced);
    const int64_t pieces = ((bytes - i) / line * line + piece - 1) / piece;
    const int64_t share = pieces == 0 ? 0 : (ahead.bytes / line + pieces) / pieces * line;
    std::memcpy(target, source, static_cast<size_t>(i));
    for (int64_t read = 0; i + line <= bytes;) {
        for (const int64_t until = smaller(ahead.bytes, read + share); read < until; read += line)
            __builtin_prefetch(ahead.first + read);
        for (const int64_t end = smaller(bytes, i + piece); i + line <= end; i += line)
            stream_line(target + i, source + i);
    }
    std::memcpy(target + i, source + i, static_cast<size_t>(bytes - i));
}

void stream_copy(char* target, const char* source, int64_t bytes) {
    stream_and_read(target, source, bytes, {nullptr, 0});
}

void end_streaming() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace

extern const CopyKernels MOE_COPY_TABLE;
const CopyKernels MOE_COPY_TABLE = {stream_copy, stream_and_read, end_streaming};

}  // namespace moe
