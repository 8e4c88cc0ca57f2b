#include <immintrin.h>

#include <cstring>

#include "kernels/qgemm/qgemm.h"

namespace moe {
namespace {

struct Vector {
    // Not the type of the intrinsics: GCC keeps an array of those in memory, beside every instruction.
    typedef int32_t Type __attribute__((vector_size(32)));
    static constexpr int lanes = 8;
    // 12 sums, 2 vectors of weights, a pair, a product: all 16 registers.
    static constexpr int tile_rows = 6;
    static constexpr int tile_vectors = 2;

    static Type load(const int32_t* source) {
        return (Type)_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    }
    static void store(int32_t* target, Type value) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), (__m256i)value);
    }
    static Type pair(const int16_t* source) {
        int32_t both;
        std::memcpy(&both, source, sizeof both);
        return (Type)_mm256_set1_epi32(both);
    }
    static Type dot(Type c, Type a, Type w) { return c + (Type)_mm256_madd_epi16((__m256i)a, (__m256i)w); }
};

}  // namespace
}  // namespace moe

#define MOE_QGEMM_TABLE qgemm_avx2
#include "kernels/qgemm/qgemm_body.h"
