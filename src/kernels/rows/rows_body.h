// The row kernels as plain loops for the compiler's vectoriser. Included by one file per instruction set,
// which defines MOE_ROWS_TABLE first.
#include "kernels/numeric.h"
#include "kernels/rows/rows.h"

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace moe {
namespace {

void widen_f16_row(const uint16_t* source, float* target, int64_t n) {
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(target + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i))));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(target + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
#elif defined(__aarch64__)
    for (; i + 4 <= n; i += 4) vst1q_f32(target + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(source + i))));
#endif
    for (; i < n; ++i) target[i] = widen_f16(source[i]);
}

// The instruction keeps the sign and payload of a NaN.
void narrow_f16_row(const float* source, uint16_t* target, int64_t n) {
    int64_t i = 0;
#if defined(__AVX512F__)
    const __m512 nan = _mm512_set1_ps(float_of(quiet_nan));
    for (; i + 16 <= n; i += 16) {
        const __m512 values = _mm512_loadu_ps(source + i);
        const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + i),
                            _mm512_cvtps_ph(_mm512_mask_mov_ps(values, is_nan, nan), _MM_FROUND_TO_NEAREST_INT));
    }
#elif defined(__F16C__)
    const __m256 nan = _mm256_set1_ps(float_of(quiet_nan));
    for (; i + 8 <= n; i += 8) {
        const __m256 values = _mm256_loadu_ps(source + i);
        const __m256 is_nan = _mm256_cmp_ps(values, values, _CMP_UNORD_Q);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i),
                         _mm256_cvtps_ph(_mm256_blendv_ps(values, nan, is_nan), _MM_FROUND_TO_NEAREST_INT));
    }
#elif defined(__aarch64__)
    const float32x4_t nan = vdupq_n_f32(float_of(quiet_nan));
    for (; i + 4 <= n; i += 4) {
        const float32x4_t values = vld1q_f32(source + i);
        const float32x4_t numbers = vbslq_f32(vceqq_f32(values, values), values, nan);
        vst1_u16(target + i, vreinterpret_u16_f16(vcvt_f16_f32(numbers)));
    }
#endif
    for (; i < n; ++i) target[i] = narrow_f16(source[i]);
}

void widen_bf16_row(const uint16_t* source, float* target, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = widen_bf16(source[i]);
}

void narrow_bf16_row(const float* source, uint16_t* target, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = narrow_bf16(source[i]);
}

void narrow_f32_row(const float* source, float* target, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = with_one_nan(source[i]);
}

void add_row(float* target, const float* source, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = target[i] + source[i];
}

void multiply_row(float* target, const float* factor, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = target[i] * factor[i];
}

void scale_row(float* target, float scalar, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = target[i] * scalar;
}

void add_scaled_row(float* target, const float* source, float scalar, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = target[i] + scalar * source[i];
}

void add_to_double_row(double* sum, const float* source, int64_t n) {
    for (int64_t i = 0; i < n; ++i) sum[i] = sum[i] + static_cast<double>(source[i]);
}

void narrow_double_row_to_nearest(const double* source, float* target, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = with_one_nan(static_cast<float>(source[i]));
}

void narrow_double_row_to_odd(const double* source, float* target, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = narrow_double_to_odd(source[i]);
}

// Magnitudes order as integers, with inf and NaN above all else: the maximum needs no order of evaluation.
float largest_magnitude_row(const float* source, int64_t n) {
    int32_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        const int32_t magnitude = static_cast<int32_t>(bits_of(source[i]) & 0x7FFFFFFFu);
        largest = magnitude > largest ? magnitude : largest;
    }
    return float_of(static_cast<uint32_t>(largest > 0x7F800000 ? 0x7FC00000 : largest));
}

inline int8_t code_of(float value) {
    float clamped = value < -128.0f ? -128.0f : value;
    clamped = clamped > 127.0f ? 127.0f : clamped;
    clamped = value == value ? clamped : 0.0f;
    return static_cast<int8_t>(static_cast<int32_t>(round_even(clamped)));
}

void quantise_values(const float* source, float divisor, int8_t* codes, int64_t n) {
    for (int64_t i = 0; i < n; ++i) codes[i] = code_of(source[i] / divisor);
}

void quantise_static_values(const float* source, float scale, float offset, int8_t* codes, int64_t n) {
    for (int64_t i = 0; i < n; ++i) codes[i] = code_of(source[i] * scale + offset);
}

template <float (*function)(float)>
void map_row(float* values, int64_t n) {
    for (int64_t i = 0; i < n; ++i) values[i] = function(values[i]);
}

}  // namespace

extern const RowKernels MOE_ROWS_TABLE;
const RowKernels MOE_ROWS_TABLE = {
    widen_f16_row,
    widen_bf16_row,
    narrow_f16_row,
    narrow_bf16_row,
    narrow_f32_row,
    add_row,
    multiply_row,
    scale_row,
    add_scaled_row,
    add_to_double_row,
    narrow_double_row_to_nearest,
    narrow_double_row_to_odd,
    largest_magnitude_row,
    quantise_values,
    quantise_static_values,
    map_row<exp_f32>,
    map_row<sigmoid_f32>,
    map_row<silu_f32>,
    map_row<fastgelu_f32>,
    map_row<gelu_erf_f32>,
    map_row<gelu_tanh_f32>,
    map_row<relu_f32>,
};

}  // namespace moe
