// The products with vpdpbusd, which multiplies unsigned by signed bytes. The weight is the unsigned operand: the
// panel holds weight + 128 (the sign bit flipped), which adds 128 * sum(x) to every column of a row. A tile carries
// -128 * sum(x) of each of its rows, and sums start from it. Sums wrap modulo 2^32 on the way and come out exact.
// Panels are (k / 4, 32, 4) bytes, tiles (k / 4, rows, 4) bytes and then one int32 per row.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/igemm/igemm_float.h"
#include "kernels/igemm/igemm_prefetch.h"

namespace moe {
namespace {

constexpr int64_t tile_rows = 12;  // 24 sums, two vectors of weights, one of x: of 32 registers

// Pieces of quads whose columns are no longer side by side: interleaving bytes and then pairs of bytes works on 128-bit
// lanes, and piece g has columns 4 g to 4 g + 3 in its even lanes and 16 columns further in its odd ones.
struct Pieces {
    __m256i part[4];
};

// Of a quad in the lower and another one in the upper halves.
struct PiecesOfTwo {
    __m512i part[4];
};

Pieces interleave(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i ab_low = _mm256_unpacklo_epi8(a, b);
    const __m256i ab_high = _mm256_unpackhi_epi8(a, b);
    const __m256i cd_low = _mm256_unpacklo_epi8(c, d);
    const __m256i cd_high = _mm256_unpackhi_epi8(c, d);
    const __m256i sign = _mm256_set1_epi8(-128);
    return {{_mm256_xor_si256(sign, _mm256_unpacklo_epi16(ab_low, cd_low)),
             _mm256_xor_si256(sign, _mm256_unpackhi_epi16(ab_low, cd_low)),
             _mm256_xor_si256(sign, _mm256_unpacklo_epi16(ab_high, cd_high)),
             _mm256_xor_si256(sign, _mm256_unpackhi_epi16(ab_high, cd_high))}};
}

PiecesOfTwo interleave(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab_low = _mm512_unpacklo_epi8(a, b);
    const __m512i ab_high = _mm512_unpackhi_epi8(a, b);
    const __m512i cd_low = _mm512_unpacklo_epi8(c, d);
    const __m512i cd_high = _mm512_unpackhi_epi8(c, d);
    const __m512i sign = _mm512_set1_epi8(-128);
    return {{_mm512_xor_si512(sign, _mm512_unpacklo_epi16(ab_low, cd_low)),
             _mm512_xor_si512(sign, _mm512_unpackhi_epi16(ab_low, cd_low)),
             _mm512_xor_si512(sign, _mm512_unpacklo_epi16(ab_high, cd_high)),
             _mm512_xor_si512(sign, _mm512_unpackhi_epi16(ab_high, cd_high))}};
}

__m256i load_row(const int8_t* row) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
}

// A row in each half.
__m512i load_rows(const int8_t* low, const int8_t* high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(load_row(low)), load_row(high), 1);
}

// Panels keep the columns of a quad in the order of the pieces: which column a lane belongs to matters only for the
// sums, once for all of k.
void pack_panel(const int8_t* weight, int64_t stride, int64_t k, void* panel) {
    char* target = static_cast<char*>(panel);
    const auto store = [](char* at, __m256i part) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), part); };
    int64_t t = 0;
    for (; t + 8 <= k; t += 8, target += 8 * igemm::columns) {
        const int8_t* row = weight + t * stride;
        const int8_t* next = row + 4 * stride;
        const PiecesOfTwo pieces =
            interleave(load_rows(row, next), load_rows(row + stride, next + stride),
                       load_rows(row + 2 * stride, next + 2 * stride), load_rows(row + 3 * stride, next + 3 * stride));
        for (int g = 0; g < 4; ++g) {
            store(target + 32 * g, _mm512_castsi512_si256(pieces.part[g]));
            store(target + 128 + 32 * g, _mm512_extracti64x4_epi64(pieces.part[g], 1));
        }
    }
    for (; t < k; t += 4, target += 4 * igemm::columns) {
        const auto row_or_zeros = [&](int64_t row) {
            return row < k ? load_row(weight + row * stride) : _mm256_setzero_si256();
        };
        const Pieces pieces =
            interleave(row_or_zeros(t), row_or_zeros(t + 1), row_or_zeros(t + 2), row_or_zeros(t + 3));
        for (int g = 0; g < 4; ++g) store(target + 32 * g, pieces.part[g]);
    }
}

// The quads of the even and of the odd columns of four rows of int4.
struct Nibbles {
    __m512i even;
    __m512i odd;
};

__m512i load_bytes(const int8_t* row) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)));
}

Nibbles interleave_int4(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab = _mm512_or_si512(a, _mm512_slli_epi32(b, 8));
    const __m512i cd = _mm512_or_si512(_mm512_slli_epi32(c, 16), _mm512_slli_epi32(d, 24));
    const __m512i quads = _mm512_or_si512(ab, cd);
    const __m512i low = _mm512_set1_epi8(15);
    // value + 128 of every nibble
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_set_epi8(127, 126, 125, 124, 123, 122, 121, 120, -121, -122, -123, -124, -125, -126, -127, -128));
    return {_mm512_shuffle_epi8(table, _mm512_and_si512(quads, low)),
            _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(quads, 4), low))};
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
template <class Vector>
inline void add_products(Vector& sum, Vector w, Vector x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
}

void pack_panel_int4(const int8_t* weight, int64_t stride, int64_t k, void* panel) {
    char* target = static_cast<char*>(panel);
    for (int64_t t = 0; t < k; t += 4, target += 4 * igemm::columns) {
        const auto row_or_zeros = [&](int64_t row) {
            return row < k ? load_bytes(weight + row * stride) : _mm512_setzero_si512();
        };
        const Nibbles quads =
            interleave_int4(row_or_zeros(t), row_or_zeros(t + 1), row_or_zeros(t + 2), row_or_zeros(t + 3));
        const __m512i low = _mm512_unpacklo_epi32(quads.even, quads.odd);
        const __m512i high = _mm512_unpackhi_epi32(quads.even, quads.odd);
        _mm512_storeu_si512(target, _mm512_shuffle_i32x4(low, high, 0x88));
        _mm512_storeu_si512(target + 64, _mm512_shuffle_i32x4(low, high, 0xDD));
    }
}

// 32 columns in order; adds to what is there already if asked to.
void store_sums(__m512i low, __m512i high, bool accumulate, int32_t* row) {
    if (accumulate) {
        low = _mm512_add_epi32(low, _mm512_loadu_si512(row));
        high = _mm512_add_epi32(high, _mm512_loadu_si512(row + 16));
    }
    _mm512_storeu_si512(row, low);
    _mm512_storeu_si512(row + 16, high);
}

template <int rows>
void multiply_rows(const char* tile, const char* panel, int64_t quads, bool accumulate, int32_t* sums,
                   const Ahead& ahead) {
    __m512i sum[rows][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        const __m512i correction = _mm512_set1_epi32(int32_at(tile + 4 * (quads * rows + r)));
        sum[r][0] = correction;
        sum[r][1] = correction;
    }
    Prefetcher<8> prefetch(ahead, quads);
    const char* x = tile;
    for (int64_t q = 0; q < quads; ++q, x += 4 * rows, panel += 4 * igemm::columns) {
        prefetch.before(q);
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
    for (int r = 0; r < rows; ++r)
        store_sums(_mm512_shuffle_i32x4(sum[r][0], sum[r][1], 0x88), _mm512_shuffle_i32x4(sum[r][0], sum[r][1], 0xDD),
                   accumulate, sums + r * igemm::columns);
}

using Multiply = void (*)(const char*, const char*, int64_t, bool, int32_t*, const Ahead&);
constexpr Multiply multiply_by_rows[tile_rows] = {
    multiply_rows<1>, multiply_rows<2>, multiply_rows<3>, multiply_rows<4>,  multiply_rows<5>,  multiply_rows<6>,
    multiply_rows<7>, multiply_rows<8>, multiply_rows<9>, multiply_rows<10>, multiply_rows<11>, multiply_rows<12>,
};

void multiply(const void* tile, const void* panel, int64_t rows, int64_t k, bool accumulate, int32_t* sums,
              const Ahead& ahead) {
    multiply_by_rows[rows - 1](static_cast<const char*>(tile), static_cast<const char*>(panel), (k + 3) / 4, accumulate,
                               sums, ahead);
}

// Stands in for the rows that the last quad lacks.
alignas(32) constexpr int8_t zero_row[igemm::columns] = {};

template <int rows>
inline void add_pieces(const char* x, const Pieces& w, __m256i (&sum)[rows][4]) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
        const __m256i quad = _mm256_set1_epi32(int32_at(x + 4 * r));
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) add_products(sum[r][g], w.part[g], quad);
    }
}

template <int rows>
void stream_rows(const char* x, const int8_t* weight, int64_t stride, int64_t k, bool accumulate, int32_t* sums,
                 const Ahead& ahead) {
    const int64_t quads = (k + 3) / 4;
    __m256i sum[rows][4];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) sum[r][g] = _mm256_set1_epi32(int32_at(x + 4 * (quads * rows + r)));
    Prefetcher<8> prefetch(ahead, quads);
    for (int64_t q = 0; q < quads; ++q, x += 4 * rows, weight += 4 * stride) {
        prefetch.before(q);
        const int64_t left = k - 4 * q;
        const Pieces w = interleave(load_row(weight), load_row(left > 1 ? weight + stride : zero_row),
                                    load_row(left > 2 ? weight + 2 * stride : zero_row),
                                    load_row(left > 3 ? weight + 3 * stride : zero_row));
        add_pieces<rows>(x, w, sum);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
        const __m512i low = _mm512_inserti64x4(_mm512_castsi256_si512(sum[r][0]), sum[r][1], 1);
        const __m512i high = _mm512_inserti64x4(_mm512_castsi256_si512(sum[r][2]), sum[r][3], 1);
        store_sums(_mm512_shuffle_i32x4(low, high, 0x88), _mm512_shuffle_i32x4(low, high, 0xDD), accumulate,
                   sums + r * igemm::columns);
    }
}

// Panels that lie row by row, whose quads are interleaved as they come.
struct RowsOfPanel {
    using Vector = __m256i;
    static constexpr int vectors = 4;

    template <int rows>
    static void add_quad(const char* x, const int8_t* w, Vector (&sum)[rows][vectors]) {
        const Pieces quad = interleave(load_row(w), load_row(w + igemm::columns), load_row(w + 2 * igemm::columns),
                                       load_row(w + 3 * igemm::columns));
        add_pieces<rows>(x, quad, sum);
    }
};

// Panels as pack_panel makes them.
struct PackedPanel {
    using Vector = __m512i;
    static constexpr int vectors = 2;

    template <int rows>
    static void add_quad(const char* x, const int8_t* w, Vector (&sum)[rows][vectors]) {
        const Vector low = _mm512_loadu_si512(w);
        const Vector high = _mm512_loadu_si512(w + 64);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const Vector factor = _mm512_set1_epi32(int32_at(x + 4 * r));
            add_products(sum[r][0], low, factor);
            add_products(sum[r][1], high, factor);
        }
    }
};

// Quads of a panel that are taken before those of the next one, half a KiB, and how far ahead of them memory is read.
constexpr int64_t quads_in_turn = 4;
constexpr int64_t quads_ahead = 8;

template <class Panel, int rows>
void multiply_rows_in_turn(const char* tile, const PanelsInTurn& panels, int64_t quads, int32_t* sums) {
    constexpr int64_t quad_bytes = 4 * igemm::columns;
    using Vector = typename Panel::Vector;
    constexpr int vectors = Panel::vectors;
    for (int64_t p = 0; p < panels.count; ++p)
        for (int r = 0; r < rows; ++r)
            std::fill_n(sums + p * panels.sums_stride + r * igemm::columns, igemm::columns,
                        int32_at(tile + 4 * (quads * rows + r)));
    // Until the last quad sums lie in the order of the vectors.
    const auto at = [&](int64_t p, int r, int v) {
        return sums + p * panels.sums_stride + r * igemm::columns + v * (igemm::columns / vectors);
    };
    for (int64_t first = 0; first < quads; first += quads_in_turn, tile += 4 * rows * quads_in_turn) {
        const int64_t count = std::min(quads_in_turn, quads - first);
        const bool inside = first + quads_ahead < quads;
        const int64_t ahead = (first + quads_ahead - (inside ? 0 : quads)) * quad_bytes;
        for (int64_t p = 0; p < panels.count; ++p) {
            const int8_t* w = panels.first[p] + first * quad_bytes;
            const int8_t* const fetched = (inside ? panels.first : panels.next)[p] + ahead;
            Vector sum[rows][vectors];
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; ++v) std::memcpy(&sum[r][v], at(p, r, v), sizeof(Vector));
            for (int64_t q = 0; q < count; ++q, w += quad_bytes) {
                _mm_prefetch(reinterpret_cast<const char*>(fetched + q * quad_bytes), _MM_HINT_T0);
                _mm_prefetch(reinterpret_cast<const char*>(fetched + q * quad_bytes + 64), _MM_HINT_T0);
                Panel::template add_quad<rows>(tile + 4 * rows * q, w, sum);
            }
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; ++v) std::memcpy(at(p, r, v), &sum[r][v], sizeof(Vector));
        }
    }
    for (int64_t p = 0; p < panels.count; ++p) {
        for (int r = 0; r < rows; ++r) {
            int32_t* const row = sums + p * panels.sums_stride + r * igemm::columns;
            const __m512i low = _mm512_loadu_si512(row);
            const __m512i high = _mm512_loadu_si512(row + 16);
            store_sums(_mm512_shuffle_i32x4(low, high, 0x88), _mm512_shuffle_i32x4(low, high, 0xDD), false, row);
        }
    }
}

using MultiplyInTurn = void (*)(const char*, const PanelsInTurn&, int64_t, int32_t*);
template <class Panel>
constexpr MultiplyInTurn in_turn_by_rows[] = {multiply_rows_in_turn<Panel, 1>, multiply_rows_in_turn<Panel, 2>,
                                              multiply_rows_in_turn<Panel, 3>, multiply_rows_in_turn<Panel, 4>};

void multiply_in_turn(const void* tile, const PanelsInTurn& panels, int64_t rows, int64_t k, int32_t* sums) {
    const auto& by_rows = panels.packed ? in_turn_by_rows<PackedPanel> : in_turn_by_rows<RowsOfPanel>;
    by_rows[rows - 1](static_cast<const char*>(tile), panels, (k + 3) / 4, sums);
}

template <int rows>
void stream_rows_int4(const char* x, const int8_t* weight, int64_t stride, int64_t k, bool accumulate, int32_t* sums,
                      const Ahead& ahead) {
    const int64_t quads = (k + 3) / 4;
    __m512i even[rows];
    __m512i odd[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) even[r] = odd[r] = _mm512_set1_epi32(int32_at(x + 4 * (quads * rows + r)));
    Prefetcher<8> prefetch(ahead, quads);
    for (int64_t q = 0; q < quads; ++q, x += 4 * rows, weight += 4 * stride) {
        prefetch.before(q);
        const int64_t left = k - 4 * q;
        const Nibbles w = interleave_int4(load_bytes(weight), load_bytes(left > 1 ? weight + stride : zero_row),
                                          load_bytes(left > 2 ? weight + 2 * stride : zero_row),
                                          load_bytes(left > 3 ? weight + 3 * stride : zero_row));
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const __m512i quad = _mm512_set1_epi32(int32_at(x + 4 * r));
            add_products(even[r], w.even, quad);
            add_products(odd[r], w.odd, quad);
        }
    }
    const __m512i first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
        store_sums(_mm512_permutex2var_epi32(even[r], first, odd[r]),
                   _mm512_permutex2var_epi32(even[r], second, odd[r]), accumulate, sums + r * igemm::columns);
}

using Stream = void (*)(const char*, const int8_t*, int64_t, int64_t, bool, int32_t*, const Ahead&);
constexpr Stream stream_by_rows[] = {stream_rows<1>, stream_rows<2>, stream_rows<3>, stream_rows<4>};
constexpr Stream stream_by_rows_int4[] = {stream_rows_int4<1>, stream_rows_int4<2>, stream_rows_int4<3>,
                                          stream_rows_int4<4>};

void stream(const void* tile, const int8_t* weight, int64_t stride, int64_t rows, int64_t k, bool accumulate,
            int32_t* sums, const Ahead& ahead) {
    stream_by_rows[rows - 1](static_cast<const char*>(tile), weight, stride, k, accumulate, sums, ahead);
}

void stream_int4(const void* tile, const int8_t* weight, int64_t stride, int64_t rows, int64_t k, bool accumulate,
                 int32_t* sums, const Ahead& ahead) {
    stream_by_rows_int4[rows - 1](static_cast<const char*>(tile), weight, stride, k, accumulate, sums, ahead);
}

}  // namespace

extern const IgemmKernels igemm_avx512vnni;
const IgemmKernels igemm_avx512vnni = {
    tile_rows,
    4,
    4,
    1,
    4,
    pack_panel,
    pack_panel_int4,
    pack_tile,
    multiply,
    stream,
    stream_int4,
    multiply_in_turn,
    to_float_values,
    add_scaled_sums,
    dequantise_rows,
    combine_rows,
    PanelLayout::flipped_quads,
};

}  // namespace moe
