// What the three sets with 512-bit vectors have in common. Included by one file per instruction set.
#include <immintrin.h>

#include "kernels/probe/probe.h"

namespace moe {
namespace {

struct Float32 {
    using Type = __m512;
    static constexpr int64_t operations = 32;
    static Type start(int chain) { return _mm512_set1_ps(static_cast<float>(chain)); }
    static Type step(Type value) { return _mm512_fmadd_ps(value, _mm512_set1_ps(-0.999f), _mm512_set1_ps(0.7f)); }
};

struct Bytes {
    using Type = __m512i;
    static Type load(const char* source) { return _mm512_load_si512(source); }
    static void stream(char* target, Type value) { _mm512_stream_si512(reinterpret_cast<__m512i*>(target), value); }
    static Type merge(Type a, Type b) { return _mm512_xor_si512(a, b); }
    static void finish() { _mm_sfence(); }
};

#if defined(__AVX512VNNI__)
struct Int8 {
    using Type = __m512i;
    static constexpr int64_t operations = 128;
    static Type start(int chain) { return _mm512_set1_epi32(chain); }
    static Type step(Type value) {
        return _mm512_dpbusd_epi32(value, _mm512_set1_epi32(0x71A2B3C4), _mm512_set1_epi32(0x11D2E3F4));
    }
};
#else
struct Int8 {
    using Type = __m512i;
    static constexpr int64_t operations = 64;
    static Type start(int chain) { return _mm512_set1_epi32(chain); }
    static Type step(Type value) { return _mm512_add_epi32(value, _mm512_madd_epi16(value, _mm512_set1_epi16(77))); }
};
#endif

}  // namespace
}  // namespace moe
