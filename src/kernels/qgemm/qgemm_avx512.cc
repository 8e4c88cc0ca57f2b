#include <immintrin.h>

#include <cstring>

#include "kernels/qgemm/qgemm.h"

namespace moe {
namespace {

struct Vector {
    // Not the type of the intrinsics: GCC keeps an array of those in memory, beside every instruction.
    typedef int32_t Type __attribute__((vector_size(64)));
    static constexpr int lanes = 16;
    // 24 sums, 2 vectors of weights, a pair, a product: 28 of the 32 registers.
    static constexpr int tile_rows = 12;
    static constexpr int tile_vectors = 2;

    static Type load(const int32_t* source) { return (Type)_mm512_loadu_si512(source); }
    static void store(int32_t* target, Type value) { _mm512_storeu_si512(target, (__m512i)value); }
    static Type pair(const int16_t* source) {
        int32_t both;
        std::memcpy(&both, source, sizeof both);
        return (Type)_mm512_set1_epi32(both);
    }
    static Type dot(Type c, Type a, Type w) { return c + (Type)_mm512_madd_epi16((__m512i)a, (__m512i)w); }
};

}  // namespace
}  // namespace moe

#define MOE_QGEMM_TABLE qgemm_avx512
#include "kernels/qgemm/qgemm_body.h"
