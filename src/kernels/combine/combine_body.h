// The combine kernels. Included by one file per instruction set, which defines MOE_COMBINE_TABLE first.
#include <cstring>

#include "kernels/combine/combine.h"
#include "kernels/numeric.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace moe {
namespace {

// Columns of Floats, and of the block whose sums stay in registers.
#if defined(__AVX512F__)
constexpr int64_t lanes = 32;
#else
constexpr int64_t lanes = 16;
#endif
constexpr int64_t vectors = 64 / lanes;
constexpr int64_t block = vectors * lanes;
constexpr int64_t line = 64;

struct Half {
    static constexpr int64_t size = 2;
};
struct Bfloat {
    static constexpr int64_t size = 2;
};
struct Single {
    static constexpr int64_t size = 4;
};

// Floats that were loaded as one type: loads widen, stores round. Vectors hold the even columns of bfloat16 in the one
// half and the odd ones in the other: no lane has to move.
#if defined(__AVX512F__)
struct Floats {
    __m512 low, high;

    static Floats all(float value) { return {_mm512_set1_ps(value), _mm512_set1_ps(value)}; }
    static Floats load(const char* source, Half) {
        const auto* halves = reinterpret_cast<const __m256i*>(source);
        return {_mm512_cvtph_ps(_mm256_loadu_si256(halves)), _mm512_cvtph_ps(_mm256_loadu_si256(halves + 1))};
    }
    static Floats load(const char* source, Bfloat) {
        const __m512i bits = _mm512_loadu_si512(source);
        return {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)),
                _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(-0x10000)))};
    }
    static Floats load(const char* source, Single) { return {_mm512_loadu_ps(source), _mm512_loadu_ps(source + 64)}; }
    Floats operator+(Floats b) const { return {_mm512_add_ps(low, b.low), _mm512_add_ps(high, b.high)}; }
    Floats operator*(Floats b) const { return {_mm512_mul_ps(low, b.low), _mm512_mul_ps(high, b.high)}; }

    static __m512 one_nan(__m512 values) {
        return _mm512_mask_mov_ps(values, _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q),
                                  _mm512_set1_ps(float_of(quiet_nan)));
    }
    void store(char* target, Half) const {
        auto* halves = reinterpret_cast<__m256i*>(target);
        _mm256_storeu_si256(halves, _mm512_cvtps_ph(one_nan(low), _MM_FROUND_TO_NEAREST_INT));
        _mm256_storeu_si256(halves + 1, _mm512_cvtps_ph(one_nan(high), _MM_FROUND_TO_NEAREST_INT));
    }
    void store(char* target, Bfloat) const {
        // In the upper halves of the lanes.
        const auto narrow = [](__m512 values) {
            const __m512i bits = _mm512_castps_si512(values);
            const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
            const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
            return _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q),
                                         _mm512_set1_epi32(quiet_nan));
        };
        _mm512_storeu_si512(target,
                            _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(narrow(low), 16), narrow(high)));
    }
    void store(char* target, Single) const {
        _mm512_storeu_ps(target, one_nan(low));
        _mm512_storeu_ps(target + 64, one_nan(high));
    }
};
#elif defined(__AVX2__)
struct Floats {
    __m256 low, high;

    static const __m128i* part(const char* source) { return reinterpret_cast<const __m128i*>(source); }
    static Floats all(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static Floats load(const char* source, Half) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(part(source))), _mm256_cvtph_ps(_mm_loadu_si128(part(source) + 1))};
    }
    static Floats load(const char* source, Bfloat) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)),
                _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(-0x10000)))};
    }
    static Floats load(const char* source, Single) {
        const auto* floats = reinterpret_cast<const float*>(source);
        return {_mm256_loadu_ps(floats), _mm256_loadu_ps(floats + 8)};
    }
    Floats operator+(Floats b) const { return {_mm256_add_ps(low, b.low), _mm256_add_ps(high, b.high)}; }
    Floats operator*(Floats b) const { return {_mm256_mul_ps(low, b.low), _mm256_mul_ps(high, b.high)}; }

    static __m256 one_nan(__m256 values) {
        return _mm256_blendv_ps(values, _mm256_set1_ps(float_of(quiet_nan)),
                                _mm256_cmp_ps(values, values, _CMP_UNORD_Q));
    }
    void store(char* target, Half) const {
        auto* parts = reinterpret_cast<__m128i*>(target);
        _mm_storeu_si128(parts, _mm256_cvtps_ph(one_nan(low), _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128(parts + 1, _mm256_cvtps_ph(one_nan(high), _MM_FROUND_TO_NEAREST_INT));
    }
    void store(char* target, Bfloat) const {
        // In the upper halves of the lanes.
        const auto narrow = [](__m256 values) {
            const __m256i bits = _mm256_castps_si256(values);
            const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
            const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
            const __m256 is_nan = _mm256_cmp_ps(values, values, _CMP_UNORD_Q);
            return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(quiet_nan), _mm256_castps_si256(is_nan));
        };
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target),
                            _mm256_blend_epi16(_mm256_srli_epi32(narrow(low), 16), narrow(high), 0xAA));
    }
    void store(char* target, Single) const {
        auto* floats = reinterpret_cast<float*>(target);
        _mm256_storeu_ps(floats, one_nan(low));
        _mm256_storeu_ps(floats + 8, one_nan(high));
    }
};
#else
struct Floats {
    float values[lanes];

    static Floats all(float value) {
        Floats floats;
        for (float& v : floats.values) v = value;
        return floats;
    }
    template <class Widen>
    static Floats load_halves(const char* source, Widen widen) {
        uint16_t bits[lanes];
        std::memcpy(bits, source, sizeof bits);
        Floats floats;
        for (int64_t i = 0; i < lanes; ++i) floats.values[i] = widen(bits[i]);
        return floats;
    }
    static Floats load(const char* source, Half) { return load_halves(source, widen_f16); }
    static Floats load(const char* source, Bfloat) { return load_halves(source, widen_bf16); }
    static Floats load(const char* source, Single) {
        Floats floats;
        std::memcpy(floats.values, source, sizeof floats.values);
        return floats;
    }
    Floats operator+(const Floats& b) const {
        Floats floats;
        for (int64_t i = 0; i < lanes; ++i) floats.values[i] = values[i] + b.values[i];
        return floats;
    }
    Floats operator*(const Floats& b) const {
        Floats floats;
        for (int64_t i = 0; i < lanes; ++i) floats.values[i] = values[i] * b.values[i];
        return floats;
    }
    template <class Narrow>
    void store_halves(char* target, Narrow narrow) const {
        uint16_t bits[lanes];
        for (int64_t i = 0; i < lanes; ++i) bits[i] = narrow(values[i]);
        std::memcpy(target, bits, sizeof bits);
    }
    void store(char* target, Half) const { store_halves(target, narrow_f16); }
    void store(char* target, Bfloat) const { store_halves(target, narrow_bf16); }
    void store(char* target, Single) const {
        float floats[lanes];
        for (int64_t i = 0; i < lanes; ++i) floats[i] = with_one_nan(values[i]);
        std::memcpy(target, floats, sizeof floats);
    }
};
#endif

// A whole line; `target` is aligned to it.
inline void stream_line(char* target, const char* source) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target), _mm512_loadu_si512(source));
#elif defined(__SSE2__)
    const auto* from = reinterpret_cast<const __m128i*>(source);
    auto* to = reinterpret_cast<__m128i*>(target);
    for (int64_t i = 0; i < line / 16; ++i) _mm_stream_si128(to + i, _mm_loadu_si128(from + i));
#else
    std::memcpy(target, source, line);
#endif
}

// The sums of one block, from byte `offset` of the rows on.
template <class Type, bool has_bias>
inline void sum_block(const CombineSum& sum, const CombineSum& next, int64_t offset, char* target) {
    constexpr int64_t step = lanes * Type::size;
    constexpr Type type;
    Floats total[vectors];
    for (int64_t v = 0; v < vectors; ++v)
        total[v] =
            sum.skips[0] == nullptr ? Floats::all(sum.start) : Floats::load(sum.skips[0] + offset + v * step, type);
    if (sum.skips[1] != nullptr)
        for (int64_t v = 0; v < vectors; ++v)
            total[v] = total[v] + Floats::load(sum.skips[1] + offset + v * step, type);
    for (int64_t i = 0; i < sum.count; ++i) {
        const CombineTerm& term = sum.terms[i];
        const Floats scale = Floats::all(term.scale);
        for (int64_t v = 0; v < vectors; ++v) {
            Floats row = Floats::load(term.row + offset + v * step, type);
            if (has_bias) row = row + Floats::load(term.bias + offset + v * step, type);
            total[v] = total[v] + scale * row;
        }
        if (i < next.count)
            for (int64_t ahead = 0; ahead < vectors * step; ahead += line) {
                __builtin_prefetch(next.terms[i].row + offset + ahead);
                if (has_bias) __builtin_prefetch(next.terms[i].bias + offset + ahead);
            }
    }
    for (int64_t v = 0; v < vectors; ++v) total[v].store(target + v * step, type);
}

template <class Type>
inline Floats load_some(const char* source, int64_t count, Type type) {
    alignas(line) char padded[lanes * Type::size] = {};
    std::memcpy(padded, source, static_cast<size_t>(count * Type::size));
    return Floats::load(padded, type);
}

// Fewer than a block's columns, when the row has no more.
template <class Type, bool has_bias>
inline void sum_short(const CombineSum& sum, int64_t n) {
    constexpr Type type;
    for (int64_t column = 0; column < n; column += lanes) {
        const int64_t offset = column * Type::size;
        const int64_t count = n - column < lanes ? n - column : lanes;
        Floats total = sum.skips[0] == nullptr ? Floats::all(sum.start) : load_some(sum.skips[0] + offset, count, type);
        if (sum.skips[1] != nullptr) total = total + load_some(sum.skips[1] + offset, count, type);
        for (int64_t i = 0; i < sum.count; ++i) {
            Floats row = load_some(sum.terms[i].row + offset, count, type);
            if (has_bias) row = row + load_some(sum.terms[i].bias + offset, count, type);
            total = total + Floats::all(sum.terms[i].scale) * row;
        }
        alignas(line) char result[lanes * Type::size];
        total.store(result, type);
        std::memcpy(sum.out + offset, result, static_cast<size_t>(count * Type::size));
    }
}

// Blocks that begin with lines of the output. What is before the first and after the last of them is cut from blocks
// that overlap with these.
template <class Type, bool has_bias>
void combine_columns(const CombineSum& sum, const CombineSum& next, int64_t n, bool streams) {
    constexpr int64_t bytes = block * Type::size;
    if (n < block) return sum_short<Type, has_bias>(sum, n);
    const int64_t last = n * Type::size;
    int64_t offset = 0;
    alignas(line) char result[bytes];
    const auto head = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(sum.out) % line);
    if (streams && head > 0) {
        sum_block<Type, has_bias>(sum, next, offset, result);
        std::memcpy(sum.out + offset, result, static_cast<size_t>(head));
        offset += head;
    }
    for (; offset + bytes <= last; offset += bytes) {
        if (!streams) {
            sum_block<Type, has_bias>(sum, next, offset, sum.out + offset);
            continue;
        }
        sum_block<Type, has_bias>(sum, next, offset, result);
        for (int64_t i = 0; i < bytes; i += line) stream_line(sum.out + offset + i, result + i);
    }
    if (offset == last) return;
    sum_block<Type, has_bias>(sum, next, last - bytes, result);
    std::memcpy(sum.out + offset, result + (bytes - (last - offset)), static_cast<size_t>(last - offset));
}

template <class Type>
void combine(const CombineSum& sum, const CombineSum& next, int64_t n, bool streams) {
    if (sum.count > 0 && sum.terms[0].bias != nullptr)
        combine_columns<Type, true>(sum, next, n, streams);
    else
        combine_columns<Type, false>(sum, next, n, streams);
}

}  // namespace

extern const CombineKernels MOE_COMBINE_TABLE;
const CombineKernels MOE_COMBINE_TABLE = {combine<Half>, combine<Bfloat>, combine<Single>};

}  // namespace moe
