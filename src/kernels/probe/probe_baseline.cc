#include <cstdint>

#include "kernels/probe/probe.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#else
#include <cstring>
#endif

namespace moe {
namespace {

struct Float32 {
    using Type = float __attribute__((vector_size(16)));
    static constexpr int64_t operations = 8;
    static Type start(int chain) { return Type{} + static_cast<float>(chain); }
    static Type step(Type value) { return value * -0.999f + 0.7f; }
};
using Bfloat16 = Float32;

#if defined(__SSE2__)
struct Int8 {
    using Type = __m128i;
    static constexpr int64_t operations = 16;
    static Type start(int chain) { return _mm_set1_epi32(chain); }
    static Type step(Type value) { return _mm_add_epi32(value, _mm_madd_epi16(value, _mm_set1_epi16(77))); }
};

struct Bytes {
    using Type = __m128i;
    static Type load(const char* source) { return _mm_load_si128(reinterpret_cast<const __m128i*>(source)); }
    static void stream(char* target, Type value) { _mm_stream_si128(reinterpret_cast<__m128i*>(target), value); }
    static Type merge(Type a, Type b) { return _mm_xor_si128(a, b); }
    static void finish() { _mm_sfence(); }
};
#else
struct Int8 {
    using Type = uint32_t __attribute__((vector_size(16)));
    static constexpr int64_t operations = 8;
    static Type start(int chain) { return Type{} + static_cast<uint32_t>(chain); }
    static Type step(Type value) { return value + value * 77u; }
};

struct Bytes {
    using Type = uint32_t __attribute__((vector_size(16)));
    static Type load(const char* source) {
        Type value;
        std::memcpy(&value, source, sizeof value);
        return value;
    }
    static void stream(char* target, Type value) { std::memcpy(target, &value, sizeof value); }
    static Type merge(Type a, Type b) { return a ^ b; }
    static void finish() {}
};
#endif

}  // namespace
}  // namespace moe

#define MOE_PROBE_TABLE probe_baseline
#include "kernels/probe/probe_body.h"
