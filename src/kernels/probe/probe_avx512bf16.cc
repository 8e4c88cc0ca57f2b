#include "kernels/probe/probe_avx512.h"

namespace moe {
namespace {

struct Bfloat16 {
    using Type = __m512;
    static constexpr int64_t operations = 64;
    static Type start(int chain) { return _mm512_set1_ps(static_cast<float>(chain)); }
    static Type step(Type value) {
        const auto pairs = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3F813F02));
        return _mm512_dpbf16_ps(value, pairs, pairs);
    }
};

}  // namespace
}  // namespace moe

#define MOE_PROBE_TABLE probe_avx512bf16
#include "kernels/probe/probe_body.h"
