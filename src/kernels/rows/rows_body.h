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

// Quantises a block with products by a reciprocal. False if one of them came so close to a half that the quotient may
// be on its other side.
constexpr float close_to_half = 0.5f - 0x1p-15f;
#if defined(__AVX512F__)
// Saturated. Packing takes turns between its operands, in every quarter.
inline __m512i packed_in_order(const __m512i* integers) {
    const __m512i bytes =
        _mm512_packs_epi16(_mm512_packs_epi32(integers[0], integers[1]), _mm512_packs_epi32(integers[2], integers[3]));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, bytes);
}

inline bool quantise_block(const float* values, float reciprocal, int8_t* codes) {
    __m512 furthest = _mm512_setzero_ps();
    __m512i integers[4];
    for (int64_t j = 0; j < 4; ++j) {
        const __m512 product = _mm512_mul_ps(_mm512_loadu_ps(values + 16 * j), _mm512_set1_ps(reciprocal));
        // Conversion turns what is too large into the lowest integer.
        const __m512 bounded = _mm512_min_ps(product, _mm512_set1_ps(127.0f));
        integers[j] = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(product, product, _CMP_ORD_Q), bounded);
        // The larger magnitude of what was there and what rounding takes off.
        furthest = _mm512_range_ps(furthest, _mm512_reduce_ps(bounded, _MM_FROUND_TO_NEAREST_INT), 0x0B);
    }
    _mm512_storeu_si512(codes, packed_in_order(integers));
    return _mm512_cmp_ps_mask(furthest, _mm512_set1_ps(close_to_half), _CMP_GE_OQ) == 0;
}
#elif defined(__AVX2__)
inline bool quantise_block(const float* values, float reciprocal, int8_t* codes) {
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
    return _mm256_movemask_ps(_mm256_cmp_ps(furthest, _mm256_set1_ps(close_to_half), _CMP_GE_OQ)) == 0;
}
#else
inline bool quantise_block(const float* values, float reciprocal, int8_t* codes) {
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
    return furthest < static_cast<int32_t>(bits_of(close_to_half));
}
#endif

// Divisions are what quantisation would spend its time on. A product with the reciprocal rounds to the same integer
// as the quotient unless a half lies between them. Both are within 2^-16 + 2^-17 of one another up to 128, where codes
// end: the reciprocal, the product and the quotient each have a relative error of at most 2^-24. Blocks with a product
// that is closer to a half than 2^-15 are divided. Divisors near the ends of the range have no useful reciprocal.
bool has_reciprocal(float divisor) {
    const float magnitude = float_of(bits_of(divisor) & 0x7FFFFFFFu);
    return magnitude > 0x1p-100f && magnitude < 0x1p100f;
}

template <class T, void (*widen)(const T*, float*, int64_t)>
void divide_values(const T* source, float divisor, int8_t* codes, int64_t n) {
    alignas(64) float values[quantised_block];
    int64_t i = 0;
    for (; i + quantised_block <= n; i += quantised_block) {
        widen(source + i, values, quantised_block);
        for (int64_t j = 0; j < quantised_block; ++j) values[j] = values[j] / divisor;
        // Quotients are what they are, however close to a half.
        quantise_block(values, 1.0f, codes + i);
    }
    if (i == n) return;
    widen(source + i, values, n - i);
    for (int64_t j = 0; i + j < n; ++j) codes[i + j] = code_of(values[j] / divisor);
}

template <class T, void (*widen)(const T*, float*, int64_t)>
void quantise_values(const T* source, float divisor, int8_t* codes, int64_t n) {
    alignas(64) float values[quantised_block];
    int64_t i = 0;
    if (has_reciprocal(divisor))
        for (; i + quantised_block <= n; i += quantised_block) {
            widen(source + i, values, quantised_block);
            if (!quantise_block(values, 1.0f / divisor, codes + i))
                divide_values<T, widen>(source + i, divisor, codes + i, quantised_block);
        }
    divide_values<T, widen>(source + i, divisor, codes + i, n - i);
}

#if defined(__AVX512F__)
// Without NaN and codes beyond their range there is half as much to do.
inline bool round_products(const __m512* values, float reciprocal, __m512i* integers) {
    __m512 furthest = _mm512_setzero_ps();
    for (int64_t j = 0; j < 4; ++j) {
        const __m512 product = _mm512_mul_ps(values[j], _mm512_set1_ps(reciprocal));
        integers[j] = _mm512_cvtps_epi32(product);
        furthest = _mm512_range_ps(furthest, _mm512_reduce_ps(product, _MM_FROUND_TO_NEAREST_INT), 0x0B);
    }
    return _mm512_cmp_ps_mask(furthest, _mm512_set1_ps(close_to_half), _CMP_GE_OQ) == 0;
}

inline bool quantise_block_f16(const uint16_t* source, float reciprocal, int8_t* codes) {
    __m512 values[4];
    for (int64_t j = 0; j < 4; ++j)
        values[j] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + 16 * j)));
    __m512i integers[4];
    const bool exact = round_products(values, reciprocal, integers);
    _mm512_storeu_si512(codes, packed_in_order(integers));
    return exact;
}

// Spread over two vectors in the very turns that packing takes afterwards.
inline bool quantise_block_bf16(const uint16_t* source, float reciprocal, int8_t* codes) {
    const __m512i zero = _mm512_setzero_si512();
    __m512 values[4];
    for (int64_t j = 0; j < 2; ++j) {
        const __m512i halves = _mm512_loadu_si512(source + 32 * j);
        values[2 * j] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, halves));
        values[2 * j + 1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, halves));
    }
    __m512i integers[4];
    const bool exact = round_products(values, reciprocal, integers);
    const __m512i bytes =
        _mm512_packs_epi16(_mm512_packs_epi32(integers[0], integers[1]), _mm512_packs_epi32(integers[2], integers[3]));
    _mm512_storeu_si512(codes, _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), bytes));
    return exact;
}

template <bool (*quantise_block_of)(const uint16_t*, float, int8_t*), void (*widen)(const uint16_t*, float*, int64_t)>
void quantise_halves(const uint16_t* source, float divisor, int8_t* codes, int64_t n) {
    int64_t i = 0;
    if (has_reciprocal(divisor))
        for (; i + quantised_block <= n; i += quantised_block)
            if (!quantise_block_of(source + i, 1.0f / divisor, codes + i))
                divide_values<uint16_t, widen>(source + i, divisor, codes + i, quantised_block);
    divide_values<uint16_t, widen>(source + i, divisor, codes + i, n - i);
}

constexpr auto quantise_f16_values = quantise_halves<quantise_block_f16, widen_f16_row>;
constexpr auto quantise_bf16_values = quantise_halves<quantise_block_bf16, widen_bf16_row>;
#else
constexpr auto quantise_f16_values = quantise_values<uint16_t, widen_f16_row>;
constexpr auto quantise_bf16_values = quantise_values<uint16_t, widen_bf16_row>;
#endif

void quantise_static_values(const float* source, float scale, float offset, int8_t* codes, int64_t n) {
    for (int64_t i = 0; i < n; ++i) codes[i] = code_of(source[i] * scale + offset);
}

// The operations on one value wait for one another: vectors take turns.
template <float (*function)(float)>
void map_row(float* values, int64_t n) {
#pragma GCC unroll 4
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
    quantise_f16_values,
    quantise_bf16_values,
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
