// What every processor has: four sums in the compiler's notation, and on x86-64 the dot product of SSE2.
#include <cstring>

#include "kernels/qgemm/qgemm.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace moe {
namespace {

struct Vector {
    typedef int32_t Type __attribute__((vector_size(16)));
    typedef uint32_t Bits __attribute__((vector_size(16)));
    static constexpr int lanes = 4;
    static constexpr int tile_rows = 4;
    static constexpr int tile_vectors = 2;

    static Type load(const int32_t* source) {
        Type value;
        std::memcpy(&value, source, sizeof value);
        return value;
    }
    static void store(int32_t* target, Type value) { std::memcpy(target, &value, sizeof value); }
    static Type pair(const int16_t* source) {
        int32_t both;
        std::memcpy(&both, source, sizeof both);
        return Type{both, both, both, both};
    }
    static Type dot(Type c, Type a, Type w) {
#if defined(__SSE2__)
        return c + (Type)_mm_madd_epi16((__m128i)a, (__m128i)w);
#else
        // Each half of a lane, sign-extended by shifts; which is the first does not matter.
        const auto low = [](Type pairs) { return (Type)((Bits)pairs << 16) >> 16; };
        return c + (a >> 16) * (w >> 16) + low(a) * low(w);
#endif
    }
};

}  // namespace
}  // namespace moe

#define MOE_QGEMM_TABLE qgemm_baseline
#include "kernels/qgemm/qgemm_body.h"
