// The row kernels as plain loops for the compiler's vectoriser. Included by one file per instruction set,
// which defines MOE_ROWS_TABLE first.
#include "kernels/numeric.h"
#include "kernels/rows/rows.h"

#if defined(__AVX2__) || defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace moe {
namespace {

// Values that are quantised at a time.
constexpr int64_t quantised_block = 64;

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

// The magnitudes of 16-bit floats order as integers, too.
int16_t largest_magnitude_of_halves(const uint16_t* source, int64_t n) {
    int16_t largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        const auto magnitude = static_cast<int16_t>(source[i] & 0x7FFFu);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

float largest_magnitude_f16_row(const uint16_t* source, int64_t n) {
    const int16_t largest = largest_magnitude_of_halves(source, n);
    return largest > 0x7C00 ? float_of(quiet_nan) : widen_f16(static_cast<uint16_t>(largest));
}

float largest_magnitude_bf16_row(const uint16_t* source, int64_t n) {
    const int16_t largest = largest_magnitude_of_halves(source, n);
    return largest > 0x7F80 ? float_of(quiet_nan) : widen_bf16(static_cast<uint16_t>(largest));
}

void copy_row(const float* source, float* target, int64_t n) {
    std::memcpy(target, source, static_cast<size_t>(n) * sizeof(float));
}

inline int8_t code_of(float value) {
    float clamped = value < -128.0f ? -128.0f : value;
    clamped = clamped > 127.0f ? 127.0f : clamped;
    clamped = value == value ? clamped : 0.0f;
    return static_cast<int8_t>(static_cast<int32_t>(round_even(clamped)));
}

// Quantises a block with products by a reciprocal. Returns how close to a half the closest of them came, as the
// distance from its integer.
#if defined(__AVX512F__)
inline float quantise_block(const float* values, float reciprocal, int8_t* codes) {
    __m512 furthest = _mm512_setzero_ps();
    for (int64_t i = 0; i < quantised_block; i += 16) {
        const __m512 product = _mm512_mul_ps(_mm512_loadu_ps(values + i), _mm512_set1_ps(reciprocal));
        // Conversion turns what is too large into the lowest integer.
        const __m512 bounded = _mm512_min_ps(product, _mm512_set1_ps(127.0f));
        const __mmask16 is_number = _mm512_cmp_ps_mask(product, product, _CMP_ORD_Q);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i),
                         _mm512_cvtsepi32_epi8(_mm512_maskz_cvtps_epi32(is_number, bounded)));
        // The larger magnitude of what was there and what rounding takes off.
        furthest = _mm512_range_ps(furthest, _mm512_reduce_ps(bounded, _MM_FROUND_TO_NEAREST_INT), 0x0B);
    }
    return _mm512_reduce_max_ps(furthest);
}
#elif defined(__AVX2__)
inline float quantise_block(const float* values, float reciprocal, int8_t* codes) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    __m256 furthest = _mm256_setzero_ps();
    for (int64_t i = 0; i < quantised_block; i += 32) {
        __m256i integers[4];
        for (int64_t j = 0; j < 4; ++j) {
            const __m256 product = _mm256_mul_ps(_mm256_loadu_ps(values + i + 8 * j), _mm256_set1_ps(reciprocal));
            // Conversion turns what is too large into the lowest integer.
            __m256 bounded = _mm256_min_ps(product, _mm256_set1_ps(127.0f));
            bounded = _mm256_and_ps(bounded, _mm256_cmp_ps(product, product, _CMP_ORD_Q));
            integers[j] = _mm256_cvtps_epi32(bounded);
            const __m256 rounded = _mm256_round_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            // The second operand of a maximum wins over NaN, which -inf gives.
            furthest = _mm256_max_ps(_mm256_and_ps(_mm256_sub_ps(bounded, rounded), magnitude), furthest);
        }
        // Packing takes turns between the halves of its operands.
        const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(integers[0], integers[1]),
                                                 _mm256_packs_epi32(integers[2], integers[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i),
                            _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(furthest), _mm256_extractf128_ps(furthest, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
#else
inline float quantise_block(const float* values, float reciprocal, int8_t* codes) {
    constexpr float shift = 0x1.8p23f;
    int32_t furthest = 0;
    for (int64_t i = 0; i < quantised_block; ++i) {
        const float product = values[i] * reciprocal;
        float bounded = product < -128.0f ? -128.0f : product;
        bounded = bounded > 127.0f ? 127.0f : bounded;
        bounded = product == product ? bounded : 0.0f;
        // The integer stands in the lowest bits of the sum.
        const float shifted = bounded + shift;
        codes[i] = static_cast<int8_t>(bits_of(shifted));
        const auto distance = static_cast<int32_t>(bits_of(bounded - (shifted - shift)) & 0x7FFFFFFFu);
        furthest = distance > furthest ? distance : furthest;
    }
    return float_of(static_cast<uint32_t>(furthest));
}
#endif

// Divisions are what quantisation would spend its time on. A product with the reciprocal rounds to the same integer
// as the quotient unless a half lies between them. Both are within 2^-16 + 2^-17 of one another up to 128, where codes
// end: the reciprocal, the product and the quotient each have a relative error of at most 2^-24. Blocks with a product
// that is closer to a half than 2^-15 are divided. Divisors near the ends of the range have no useful reciprocal.
template <class T, void (*widen)(const T*, float*, int64_t)>
void quantise_values(const T* source, float divisor, int8_t* codes, int64_t n) {
    float values[quantised_block];
    const float magnitude = float_of(bits_of(divisor) & 0x7FFFFFFFu);
    const float reciprocal = 1.0f / divisor;
    int64_t i = 0;
    if (magnitude > 0x1p-100f && magnitude < 0x1p100f)
        for (; i + quantised_block <= n; i += quantised_block) {
            widen(source + i, values, quantised_block);
            if (quantise_block(values, reciprocal, codes + i) < 0.5f - 0x1p-15f) continue;
            for (int64_t j = 0; j < quantised_block; ++j) codes[i + j] = code_of(values[j] / divisor);
        }
    for (; i < n; i += quantised_block) {
        const int64_t count = n - i < quantised_block ? n - i : quantised_block;
        widen(source + i, values, count);
        for (int64_t j = 0; j < count; ++j) codes[i + j] = code_of(values[j] / divisor);
    }
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
    largest_magnitude_f16_row,
    largest_magnitude_bf16_row,
    quantise_values<float, copy_row>,
    quantise_values<uint16_t, widen_f16_row>,
    quantise_values<uint16_t, widen_bf16_row>,
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
