// Pairs of bfloat16 products. The dot instruction neither rounds nor traps as MXCSR says: it flushes subnormal numbers
// and rounds to nearest even.
#include <immintrin.h>

#include <cstring>

#include "kernels/fgemm/fgemm.h"

namespace moe {
namespace {

struct Vector {
    // Not the type of the intrinsics: GCC keeps an array of those in memory, beside every instruction.
    typedef float Type __attribute__((vector_size(64)));
    static constexpr int lanes = 16;
    // 24 accumulators, 4 vectors of weights, a pair.
    static constexpr int tile_rows = 6;
    static constexpr int tile_vectors = 4;

    static Type load(const float* source) { return (Type)_mm512_loadu_ps(source); }
    static void store(float* target, Type value) { _mm512_storeu_ps(target, (__m512)value); }
    static Type broadcast(const float* source) {
        int32_t pair;
        std::memcpy(&pair, source, sizeof pair);
        return (Type)_mm512_set1_epi32(pair);
    }
    static Type multiply_add(Type a, Type w, Type c) {
        return (Type)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)w);
    }
};

}  // namespace
}  // namespace moe

#include "kernels/fgemm/fgemm_tile.h"

namespace moe {
namespace {

// Columns of two vectors: those of one load of weights.
constexpr int load_columns = 2 * lanes;

// The first columns of such a load.
__mmask32 columns_of(int64_t count) {
    return count >= load_columns ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << count) - 1);
}

// One pair of rows of weights: for every column the weight of the upper row beside that of the lower one.
struct Pairs {
    Lanes low, high;
};
inline Pairs interleave(const uint16_t* upper, const uint16_t* lower, __mmask32 columns) {
    const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                           37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    const __m512i a = _mm512_maskz_loadu_epi16(columns, upper);
    const __m512i b = lower == nullptr ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi16(columns, lower);
    return {(Lanes)_mm512_permutex2var_epi16(a, first, b), (Lanes)_mm512_permutex2var_epi16(a, second, b)};
}

void pack(const WeightBlock& block, void* panel) {
    const auto* w = static_cast<const uint16_t*>(block.data);
    auto* packed = static_cast<float*>(panel);
    const int64_t width = (block.columns + lanes - 1) / lanes * lanes;
    for (int64_t p = 0; p < block.k; p += 2, w += 2 * block.stride, packed += width) {
        const uint16_t* lower = p + 1 < block.k ? w + block.stride : nullptr;
        for (int64_t j = 0; j < block.columns; j += load_columns) {
            const Pairs pairs =
                interleave(w + j, lower == nullptr ? nullptr : lower + j, columns_of(block.columns - j));
            Vector::store(packed + j, pairs.low);
            if (j + lanes < width) Vector::store(packed + j + lanes, pairs.high);
        }
    }
}

constexpr int together = rows_together(load_columns / lanes);

// c[i][0 .. 32) += a[i] * w for the columns of a mask and `pairs` pairs of rows, of the last one perhaps only the upper
// row. Prefetches a line for each row, `apart` elements apart.
template <int rows, int pairs>
inline void add_pairs(const uint16_t* w, int64_t stride, const uint16_t* fetched, int64_t apart, const uint16_t* a,
                      bool half, __mmask32 columns, float* c, int64_t c_stride) {
    const auto left = static_cast<__mmask16>(columns);
    const auto right = static_cast<__mmask16>(columns >> 16);
    Lanes low[rows];
    Lanes high[rows];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
        low[i] = (Lanes)_mm512_maskz_loadu_ps(left, c + i * c_stride);
        high[i] = (Lanes)_mm512_maskz_loadu_ps(right, c + i * c_stride + lanes);
    }
    for (int p = 0; p < pairs; ++p, w += 2 * stride, a += 2) {
        fetch_line(fetched + 2 * p * apart);
        fetch_line(fetched + (2 * p + 1) * apart);
        const Pairs both = interleave(w, half ? nullptr : w + stride, columns);
#pragma GCC unroll 8
        for (int i = 0; i < rows; ++i) {
            const uint16_t* own = a + 2 * i * fgemm_row_stride;
            const uint32_t pair = half ? own[0] : own[0] | static_cast<uint32_t>(own[1]) << 16;
            const Lanes factor = (Lanes)_mm512_set1_epi32(static_cast<int32_t>(pair));
            low[i] = Vector::multiply_add(factor, both.low, low[i]);
            high[i] = Vector::multiply_add(factor, both.high, high[i]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
        _mm512_mask_storeu_ps(c + i * c_stride, left, (__m512)low[i]);
        _mm512_mask_storeu_ps(c + i * c_stride + lanes, right, (__m512)high[i]);
    }
}

void stream(const WeightBlock& block, int64_t rows, const void* rows_of_a, float* c, int64_t c_stride) {
    const auto* w = static_cast<const uint16_t*>(block.data);
    const auto* a = static_cast<const uint16_t*>(rows_of_a);
    const int64_t row_bytes = block.stride * static_cast<int64_t>(sizeof *w);
    for_each_group<together>(rows, [&](int64_t first, auto count) {
        const uint16_t* own = a + 2 * first * fgemm_row_stride;
        float* sums = c + first * c_stride;
        const int64_t eights = for_each_eight_rows(block, row_bytes, [&](int64_t p, const RowsAhead& ahead) {
            const uint16_t* eight = w + p * block.stride;
            for_each_stretch(eight, block.stride, ahead, block.columns,
                             [&](int64_t j, int64_t end, const uint16_t* fetched, int64_t apart) {
                                 for (; j < end; j += load_columns)
                                     add_pairs<count, rows_at_once / 2>(eight + j, block.stride, fetched + j, apart,
                                                                        own + p, false, columns_of(block.columns - j),
                                                                        sums + j, c_stride);
                             });
        });
        for (int64_t p = eights; p < block.k; p += 2)
            for (int64_t j = 0; j < block.columns; j += load_columns) {
                const uint16_t* at = w + p * block.stride + j;
                add_pairs<count, 1>(at, block.stride, at, 0, own + p, p + 1 == block.k, columns_of(block.columns - j),
                                    sums + j, c_stride);
            }
    });
}

}  // namespace

extern const FgemmKernels fgemm_avx512bf16;
const FgemmKernels fgemm_avx512bf16 = {true,
                                       true,
                                       Vector::tile_rows,
                                       tile_columns,
                                       lanes,
                                       PanelLayout::float_pairs_64,
                                       {0, 0, together, 0, 0},
                                       {nullptr, nullptr, pack, nullptr, nullptr},
                                       {nullptr, nullptr, stream, nullptr, nullptr},
                                       tile<F32>,
                                       {nullptr, nullptr, tile<F32>, nullptr, nullptr}};

}  // namespace moe
