#include <immintrin.h>

#include "kernels/fgemm/fgemm.h"

namespace moe {
namespace {

struct Vector {
    // Not the type of the intrinsics: GCC keeps an array of those in memory, beside every instruction.
    typedef float Type __attribute__((vector_size(32)));
    static constexpr int lanes = 8;
    // 12 accumulators, 2 vectors of weights, a factor: 15 of the 16 registers.
    static constexpr int tile_rows = 6;
    static constexpr int tile_vectors = 2;
    static constexpr bool fused = true;

    static Type load(const float* source) { return _mm256_loadu_ps(source); }
    static void store(float* target, Type value) { _mm256_storeu_ps(target, value); }
    static Type broadcast(const float* source) { return _mm256_broadcast_ss(source); }
    static Type multiply_add(Type a, Type w, Type c) { return _mm256_fmadd_ps(a, w, c); }
    static Type add(Type a, Type b) { return _mm256_add_ps(a, b); }
    static Type multiply(Type a, Type b) { return _mm256_mul_ps(a, b); }

    static Type round_f16(Type value) { return _mm256_cvtph_ps(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT)); }
    static Type round_bf16(Type value) {
        const __m256i bits = _mm256_castps_si256(value);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
        const Type upper = _mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32(-0x10000)));
        // Adding could carry a NaN into another number: NaNs stay as they are.
        return _mm256_blendv_ps(upper, value, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    }
    static Type from_f16(const uint16_t* source) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
    }
    static Type from_bf16(const uint16_t* source) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    static Type from_s8(const int8_t* source) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source));
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }
};

}  // namespace
}  // namespace moe

#define MOE_FGEMM_TABLE fgemm_avx2
#include "kernels/fgemm/fgemm_body.h"
