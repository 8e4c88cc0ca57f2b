#include <immintrin.h>

#include "kernels/probe/probe.h"

namespace moe {
namespace {

struct Int8 {
    using Type = __m256i;
    static constexpr int64_t operations = 32;
    static Type start(int chain) { return _mm256_set1_epi32(chain); }
    static Type step(Type value) { return _mm256_add_epi32(value, _mm256_madd_epi16(value, _mm256_set1_epi16(77))); }
};

struct Float32 {
    using Type = __m256;
    static constexpr int64_t operations = 16;
    static Type start(int chain) { return _mm256_set1_ps(static_cast<float>(chain)); }
    static Type step(Type value) { return _mm256_fmadd_ps(value, _mm256_set1_ps(-0.999f), _mm256_set1_ps(0.7f)); }
};
using Bfloat16 = Float32;

struct Bytes {
    using Type = __m256i;
    static Type load(const char* source) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(source)); }
    static void stream(char* target, Type value) { _mm256_stream_si256(reinterpret_cast<__m256i*>(target), value); }
    static Type merge(Type a, Type b) { return _mm256_xor_si256(a, b); }
    static void finish() { _mm_sfence(); }
};

}  // namespace
}  // namespace moe

#define MOE_PROBE_TABLE probe_avx2
#include "kernels/probe/probe_body.h"
