#include <immintrin.h>

#include "kernels/fgemm/fgemm.h"

namespace moe {
namespace {

struct Vector {
    // Not the type of the intrinsics: GCC keeps an array of those in memory, beside every instruction.
    typedef float Type __attribute__((vector_size(64)));
    static constexpr int lanes = 16;
    // 24 accumulators, 4 vectors of weights, a factor. Closer to a square than 12 x 2: fewer loads for the same sums.
    static constexpr int tile_rows = 6;
    static constexpr int tile_vectors = 4;
    static constexpr bool fused = true;

    static Type load(const float* source) { return _mm512_loadu_ps(source); }
    static void store(float* target, Type value) { _mm512_storeu_ps(target, value); }
    static Type broadcast(const float* source) { return _mm512_set1_ps(*source); }
    static Type multiply_add(Type a, Type w, Type c) { return _mm512_fmadd_ps(a, w, c); }
    static Type add(Type a, Type b) { return _mm512_add_ps(a, b); }
    static Type multiply(Type a, Type b) { return _mm512_mul_ps(a, b); }

    static Type round_f16(Type value) { return _mm512_cvtph_ps(_mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT)); }
    static Type round_bf16(Type value) {
        const __m512i bits = _mm512_castps_si512(value);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
        const Type upper = _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(-0x10000)));
        // Adding could carry a NaN into another number: NaNs stay as they are.
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q), upper, value);
    }
    static Type from_f16(const uint16_t* source) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
    }
    static Type from_bf16(const uint16_t* source) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    static Type from_s8(const int8_t* source) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }
};

}  // namespace
}  // namespace moe

#define MOE_FGEMM_TABLE fgemm_avx512
#include "kernels/fgemm/fgemm_body.h"
