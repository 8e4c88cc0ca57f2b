// The products with vpdpbusd, which multiplies unsigned by signed bytes. The weight is the unsigned operand: the
// panel holds weight + 128 (the sign bit flipped), which adds 128 * sum(x) to every column of a row. A tile carries
// -128 * sum(x) of each of its rows, and sums start from it. Sums wrap modulo 2^32 on the way and come out exact.
// Panels are (k / 4, 32, 4) bytes, tiles (k / 4, rows, 4) bytes and then one int32 per row.
#include <immintrin.h>

#include <cstring>

#include "kernels/igemm/igemm_float.h"
#include "kernels/igemm/igemm_int4.h"

namespace moe {
namespace {

constexpr int64_t tile_rows = 12;  // 24 sums, two vectors of weights, one of x: of 32 registers

// Four rows of 32 bytes become 32 quads. Interleaving bytes and then pairs of bytes works on 128-bit halves, and
// leaves groups of four columns in the order 0 4, 1 5, 2 6, 3 7.
void pack_quad(__m256i a, __m256i b, __m256i c, __m256i d, void* target) {
    const __m256i ab_low = _mm256_unpacklo_epi8(a, b);
    const __m256i ab_high = _mm256_unpackhi_epi8(a, b);
    const __m256i cd_low = _mm256_unpacklo_epi8(c, d);
    const __m256i cd_high = _mm256_unpackhi_epi8(c, d);
    const __m256i groups_04 = _mm256_unpacklo_epi16(ab_low, cd_low);
    const __m256i groups_15 = _mm256_unpackhi_epi16(ab_low, cd_low);
    const __m256i groups_26 = _mm256_unpacklo_epi16(ab_high, cd_high);
    const __m256i groups_37 = _mm256_unpackhi_epi16(ab_high, cd_high);
    const __m256i sign = _mm256_set1_epi8(-128);
    __m256i* quads = static_cast<__m256i*>(target);
    _mm256_storeu_si256(quads, _mm256_xor_si256(sign, _mm256_permute2x128_si256(groups_04, groups_15, 0x20)));
    _mm256_storeu_si256(quads + 1, _mm256_xor_si256(sign, _mm256_permute2x128_si256(groups_26, groups_37, 0x20)));
    _mm256_storeu_si256(quads + 2, _mm256_xor_si256(sign, _mm256_permute2x128_si256(groups_04, groups_15, 0x31)));
    _mm256_storeu_si256(quads + 3, _mm256_xor_si256(sign, _mm256_permute2x128_si256(groups_26, groups_37, 0x31)));
}

__m256i load_row(const int8_t* row) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
}

void pack_panel(const int8_t* weight, int64_t stride, int64_t k, void* panel) {
    char* target = static_cast<char*>(panel);
    int64_t t = 0;
    for (; t + 4 <= k; t += 4, target += 4 * igemm::columns) {
        const int8_t* row = weight + t * stride;
        pack_quad(load_row(row), load_row(row + stride), load_row(row + 2 * stride), load_row(row + 3 * stride),
                  target);
    }
    if (t == k) return;
    const auto row_or_zeros = [&](int64_t row) {
        return row < k ? load_row(weight + row * stride) : _mm256_setzero_si256();
    };
    pack_quad(row_or_zeros(t), row_or_zeros(t + 1), row_or_zeros(t + 2), _mm256_setzero_si256(), target);
}

void pack_tile(const int8_t* x, int64_t stride, int64_t rows, int64_t k, void* tile) {
    const int64_t quads = (k + 3) / 4;
    for (int64_t r = 0; r < rows; ++r) {
        const int8_t* row = x + r * stride;
        char* target = static_cast<char*>(tile) + 4 * r;
        int32_t sum = 0;
        for (int64_t t = 0; t < k; ++t) sum += row[t];
        for (int64_t t = 0; t + 4 <= k; t += 4, target += 4 * rows) std::memcpy(target, row + t, 4);
        if (k % 4 != 0) {
            std::memset(target, 0, 4);
            std::memcpy(target, row + k / 4 * 4, static_cast<size_t>(k % 4));
        }
        const auto correction = static_cast<int32_t>(-128 * static_cast<int64_t>(sum));
        std::memcpy(static_cast<char*>(tile) + 4 * (quads * rows + r), &correction, sizeof correction);
    }
}

int32_t int32_at(const char* source) {
    int32_t value;
    std::memcpy(&value, source, sizeof value);
    return value;
}

// Not the intrinsic: GCC 12 copies an operand to the stack beside every one of many.
inline void add_products(__m512i& sum, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
}

template <int rows>
void multiply_rows(const char* tile, const char* panel, int64_t quads, bool accumulate, int32_t* sums) {
    __m512i sum[rows][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        const __m512i correction = _mm512_set1_epi32(int32_at(tile + 4 * (quads * rows + r)));
        sum[r][0] = correction;
        sum[r][1] = correction;
    }
    const char* x = tile;
    for (int64_t q = 0; q < quads; ++q, x += 4 * rows, panel += 4 * igemm::columns) {
        const __m512i w0 = _mm512_loadu_si512(panel);
        const __m512i w1 = _mm512_loadu_si512(panel + 64);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const __m512i quad = _mm512_set1_epi32(int32_at(x + 4 * r));
            add_products(sum[r][0], w0, quad);
            add_products(sum[r][1], w1, quad);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        int32_t* row = sums + r * igemm::columns;
        if (accumulate) {
            sum[r][0] = _mm512_add_epi32(sum[r][0], _mm512_loadu_si512(row));
            sum[r][1] = _mm512_add_epi32(sum[r][1], _mm512_loadu_si512(row + 16));
        }
        _mm512_storeu_si512(row, sum[r][0]);
        _mm512_storeu_si512(row + 16, sum[r][1]);
    }
}

using Multiply = void (*)(const char*, const char*, int64_t, bool, int32_t*);
constexpr Multiply multiply_by_rows[tile_rows] = {
    multiply_rows<1>, multiply_rows<2>, multiply_rows<3>, multiply_rows<4>,  multiply_rows<5>,  multiply_rows<6>,
    multiply_rows<7>, multiply_rows<8>, multiply_rows<9>, multiply_rows<10>, multiply_rows<11>, multiply_rows<12>,
};

void multiply(const void* tile, const void* panel, int64_t rows, int64_t k, bool accumulate, int32_t* sums,
              const Ahead&) {
    multiply_by_rows[rows - 1](static_cast<const char*>(tile), static_cast<const char*>(panel), (k + 3) / 4, accumulate,
                               sums);
}

}  // namespace

extern const IgemmKernels igemm_avx512vnni;
const IgemmKernels igemm_avx512vnni = {
    tile_rows,
    0,
    4,
    1,
    4,
    pack_panel,
    pack_widened_panel<pack_panel, igemm::columns>,
    pack_tile,
    multiply,
    nullptr,
    nullptr,
    to_float_values,
    dequantise_rows,
    combine_rows,
};

}  // namespace moe
