// The products for instruction sets without a dot product of bytes: weights and activations are widened to int16, and
// pairs of k are multiplied and added to int32, which is exact (2 * 2^14 at most). Panels are (k / 2, 32, 2), tiles
// (k / 2, rows, 2). Included by one file per instruction set, which defines MOE_IGEMM_TABLE first.
#include <cstring>

#include "kernels/igemm/igemm_float.h"
#include "kernels/igemm/igemm_int4.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace moe {
namespace {

#if defined(__AVX512BW__)
using Vector = __m512i;
constexpr int64_t tile_rows = 12;  // 24 sums, two vectors of weights, one of x, one product: of 32 registers
inline Vector load(const void* source) {
    return _mm512_loadu_si512(source);
}
inline void store(void* target, Vector value) {
    _mm512_storeu_si512(target, value);
}
inline Vector broadcast(int32_t lane) {
    return _mm512_set1_epi32(lane);
}
inline Vector add_products(Vector sum, Vector x, Vector w) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w));
}
#elif defined(__AVX2__)
using Vector = __m256i;
constexpr int64_t tile_rows = 6;  // 12 sums, two vectors of weights, one of x, one product: of 16 registers
inline Vector load(const void* source) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(source));
}
inline void store(void* target, Vector value) {
    _mm256_storeu_si256(static_cast<__m256i*>(target), value);
}
inline Vector broadcast(int32_t lane) {
    return _mm256_set1_epi32(lane);
}
inline Vector add_products(Vector sum, Vector x, Vector w) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w));
}
#elif defined(__SSE2__)
using Vector = __m128i;
constexpr int64_t tile_rows = 6;
inline Vector load(const void* source) {
    return _mm_loadu_si128(static_cast<const __m128i*>(source));
}
inline void store(void* target, Vector value) {
    _mm_storeu_si128(static_cast<__m128i*>(target), value);
}
inline Vector broadcast(int32_t lane) {
    return _mm_set1_epi32(lane);
}
inline Vector add_products(Vector sum, Vector x, Vector w) {
    return _mm_add_epi32(sum, _mm_madd_epi16(x, w));
}
#else
using Vector = int32_t __attribute__((vector_size(16)));
constexpr int64_t tile_rows = 6;
inline Vector load(const void* source) {
    Vector value;
    std::memcpy(&value, source, sizeof value);
    return value;
}
inline void store(void* target, Vector value) {
    std::memcpy(target, &value, sizeof value);
}
inline Vector broadcast(int32_t lane) {
    return Vector{lane, lane, lane, lane};
}
// The two halves of every lane apart, sign-extended: which of them is the first in memory does not matter.
inline Vector add_products(Vector sum, Vector x, Vector w) {
    return sum + (x >> 16) * (w >> 16) + ((x << 16) >> 16) * ((w << 16) >> 16);
}
#endif
constexpr int64_t lanes = sizeof(Vector) / sizeof(int32_t);

int32_t pair_at(const int16_t* pair) {
    int32_t lane;
    std::memcpy(&lane, pair, sizeof lane);
    return lane;
}

void pack_pair(const int8_t* first, const int8_t* second, int16_t* target) {
    for (int64_t j = 0; j < igemm::columns; ++j) {
        target[2 * j] = first[j];
        target[2 * j + 1] = second[j];
    }
}

void pack_panel(const int8_t* weight, int64_t stride, int64_t k, void* panel) {
    static constexpr int8_t zeros[igemm::columns] = {};
    int16_t* target = static_cast<int16_t*>(panel);
    for (int64_t t = 0; t < k; t += 2, target += 2 * igemm::columns)
        pack_pair(weight + t * stride, t + 1 < k ? weight + (t + 1) * stride : zeros, target);
}

void pack_tile(const int8_t* x, int64_t stride, int64_t rows, int64_t k, void* tile) {
    for (int64_t r = 0; r < rows; ++r) {
        const int8_t* row = x + r * stride;
        int16_t* target = static_cast<int16_t*>(tile) + 2 * r;
        for (int64_t t = 0; t + 2 <= k; t += 2, target += 2 * rows) {
            target[0] = row[t];
            target[1] = row[t + 1];
        }
        if (k % 2 != 0) {
            target[0] = row[k - 1];
            target[1] = 0;
        }
    }
}

template <int rows>
void multiply_rows(const int16_t* tile, const int16_t* panel, int64_t pairs, bool accumulate, int32_t* sums) {
    for (int64_t column = 0; column < igemm::columns; column += 2 * lanes) {
        Vector sum[rows][2];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const int32_t* row = sums + r * igemm::columns + column;
            sum[r][0] = accumulate ? load(row) : broadcast(0);
            sum[r][1] = accumulate ? load(row + lanes) : broadcast(0);
        }
        const int16_t* w = panel + 2 * column;
        const int16_t* x = tile;
        for (int64_t p = 0; p < pairs; ++p, w += 2 * igemm::columns, x += 2 * rows) {
            const Vector w0 = load(w);
            const Vector w1 = load(w + 2 * lanes);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const Vector pair = broadcast(pair_at(x + 2 * r));
                sum[r][0] = add_products(sum[r][0], pair, w0);
                sum[r][1] = add_products(sum[r][1], pair, w1);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            int32_t* row = sums + r * igemm::columns + column;
            store(row, sum[r][0]);
            store(row + lanes, sum[r][1]);
        }
    }
}

using Multiply = void (*)(const int16_t*, const int16_t*, int64_t, bool, int32_t*);
constexpr Multiply multiply_by_rows[] = {
    multiply_rows<1>, multiply_rows<2>, multiply_rows<3>, multiply_rows<4>,  multiply_rows<5>,  multiply_rows<6>,
#if defined(__AVX512BW__)
    multiply_rows<7>, multiply_rows<8>, multiply_rows<9>, multiply_rows<10>, multiply_rows<11>, multiply_rows<12>,
#endif
};
static_assert(sizeof multiply_by_rows / sizeof multiply_by_rows[0] == tile_rows);

void multiply(const void* tile, const void* panel, int64_t rows, int64_t k, bool accumulate, int32_t* sums,
              const Ahead&) {
    multiply_by_rows[rows - 1](static_cast<const int16_t*>(tile), static_cast<const int16_t*>(panel), (k + 1) / 2,
                               accumulate, sums);
}

}  // namespace

extern const IgemmKernels MOE_IGEMM_TABLE;
const IgemmKernels MOE_IGEMM_TABLE = {
    tile_rows,
    0,
    2,
    2,
    0,
    pack_panel,
    pack_widened_panel<pack_panel, 2 * igemm::columns>,
    pack_tile,
    multiply,
    nullptr,
    nullptr,
    nullptr,
    to_float_values,
    add_scaled_sums,
    dequantise_rows,
    combine_rows,
    PanelLayout::pairs_of_16,
};

}  // namespace moe
