// The products with vpdpbusd, which multiplies unsigned by signed bytes. The weight is the unsigned operand: the
// panel holds weight + 128 (the sign bit flipped), which adds 128 * sum(x) to every column of a row. A tile carries
// -128 * sum(x) of each of its rows, and sums start from it. Sums wrap modulo 2^32 on the way and come out exact.
// Panels are (k / 4, 32, 4) bytes, tiles (k / 4, rows, 4) bytes and then one int32 per row.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/igemm/igemm_float.h"
#include "kernels/igemm/igemm_prefetch.h"

namespace moe {
namespace {

constexpr int64_t tile_rows = 12;  // 24 sums, two vectors of weights, one of x: of 32 registers
constexpr int64_t most_streamed_rows = 4;

// A quad of rows as panels hold it: fours of columns in the order 0-3, 16-19, 4-7, 20-23, and then those 8 columns
// further. Which column a lane belongs to matters only for the sums, once for all of k.
struct Quad {
    __m512i part[2];
};

__m256i load_row(const int8_t* row) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
}

// A row in each half.
__m512i load_rows(const int8_t* low, const int8_t* high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(load_row(low)), load_row(high), 1);
}

// Of two rows in each vector. Whole fours of columns come together before their bytes are interleaved: loads and stores
// are whole vectors, as unpacking bytes and then pairs of them would not have it.
Quad interleave_bytes(__m512i ab, __m512i cd) {
    const __m512i first = _mm512_set_epi32(29, 21, 13, 5, 25, 17, 9, 1, 28, 20, 12, 4, 24, 16, 8, 0);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(2));
    const __m512i bytes = _mm512_broadcast_i32x4(_mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0));
    return {{_mm512_shuffle_epi8(_mm512_permutex2var_epi32(ab, first, cd), bytes),
             _mm512_shuffle_epi8(_mm512_permutex2var_epi32(ab, second, cd), bytes)}};
}

Quad interleave(__m512i ab, __m512i cd) {
    const __m512i sign = _mm512_set1_epi8(-128);
    return interleave_bytes(_mm512_xor_si512(ab, sign), _mm512_xor_si512(cd, sign));
}

// Stands in for the rows that the last quad lacks.
alignas(32) constexpr int8_t zero_row[igemm::columns] = {};

// Of `rows` rows from `weight` on; there may be more of them than four.
Quad load_quad(const int8_t* weight, int64_t stride, int64_t rows) {
    return interleave(load_rows(weight, rows > 1 ? weight + stride : zero_row),
                      load_rows(rows > 2 ? weight + 2 * stride : zero_row, rows > 3 ? weight + 3 * stride : zero_row));
}

// Of four rows without gaps.
Quad load_quad(const int8_t* weight) {
    return interleave(_mm512_loadu_si512(weight), _mm512_loadu_si512(weight + 2 * igemm::columns));
}

void pack_panel(const int8_t* weight, int64_t stride, int64_t k, void* panel) {
    char* target = static_cast<char*>(panel);
    const auto store = [&target](const Quad& quad) {
        _mm512_storeu_si512(target, quad.part[0]);
        _mm512_storeu_si512(target + 64, quad.part[1]);
        target += 4 * igemm::columns;
    };
    int64_t t = 0;
    if (stride == igemm::columns)
        for (; t + 4 <= k; t += 4) store(load_quad(weight + t * igemm::columns));
    for (; t < k; t += 4) store(load_quad(weight + t * stride, stride, k - t));
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
inline void add_products(__m512i& sum, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
}
// With a quad of x in memory.
inline void add_products(__m512i& sum, __m512i w, const char* x) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*reinterpret_cast<const char(*)[4]>(x)));
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

// Of lanes in the order of a panel.
void store_in_order(const __m512i (&sum)[2], bool accumulate, int32_t* row) {
    store_sums(_mm512_shuffle_i32x4(sum[0], sum[1], 0x88), _mm512_shuffle_i32x4(sum[0], sum[1], 0xDD), accumulate, row);
}

// A quad of a row of x is broadcast for two products, or `folded` into each of them.
template <bool folded>
inline void add_row(const char* x, const __m512i (&w)[2], __m512i (&sum)[2]) {
    if constexpr (folded) {
        add_products(sum[0], w[0], x);
        add_products(sum[1], w[1], x);
    } else {
        const __m512i quad = _mm512_set1_epi32(int32_at(x));
        add_products(sum[0], w[0], quad);
        add_products(sum[1], w[1], quad);
    }
}

// Rows as template arguments and not as a loop: GCC keeps arrays that it indexes in a loop in memory as well.
template <bool folded, int... row>
void multiply_rows(std::integer_sequence<int, row...>, const char* x, const char* panel, int64_t quads, bool accumulate,
                   int32_t* sums, const Ahead& ahead) {
    constexpr int rows = sizeof...(row);
    const char* const corrections = x + 4 * quads * rows;
    __m512i sum[rows][2];
    const auto start = [&](int r, __m512i(&own)[2]) {
        own[0] = own[1] = _mm512_set1_epi32(int32_at(corrections + 4 * r));
    };
    (start(row, sum[row]), ...);
    Prefetcher prefetch(ahead, quads);
    for (int64_t first = 0; first < quads; first += prefetch.steps_at_once) {
        prefetch();
        const int64_t end = std::min(first + prefetch.steps_at_once, quads);
        for (int64_t q = first; q < end; ++q, x += 4 * rows, panel += 4 * igemm::columns) {
            const __m512i w[] = {_mm512_loadu_si512(panel), _mm512_loadu_si512(panel + 64)};
            // Every other row: a load for each product would be too many.
            (add_row<(folded && row % 2 == 0)>(x + 4 * row, w, sum[row]), ...);
        }
    }
    (store_in_order(sum[row], accumulate, sums + row * igemm::columns), ...);
}

// Calls visit with `wanted` rows, at most tile_rows, as a number that the compiler knows.
template <int rows = tile_rows, class Visit>
void with_rows(int64_t wanted, const Visit& visit) {
    if constexpr (rows > 1)
        if (wanted < rows) return with_rows<rows - 1>(wanted, visit);
    visit(std::integral_constant<int, rows>());
}

template <bool folded>
void multiply_tile(const void* tile, const void* panel, int64_t rows, int64_t k, bool accumulate, int32_t* sums,
                   const Ahead& ahead) {
    with_rows(rows, [&](auto count) {
        multiply_rows<folded>(std::make_integer_sequence<int, count>(), static_cast<const char*>(tile),
                              static_cast<const char*>(panel), (k + 3) / 4, accumulate, sums, ahead);
    });
}

template <int rows>
inline void add_quad(const char* x, const Quad& w, __m512i (&sum)[rows][2]) {
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) add_row<false>(x + 4 * r, w.part, sum[r]);
}

template <int rows>
void stream_rows(const char* x, const int8_t* weight, int64_t stride, int64_t k, bool accumulate, int32_t* sums,
                 const Ahead& ahead) {
    const int64_t quads = (k + 3) / 4;
    __m512i sum[rows][2];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) sum[r][0] = sum[r][1] = _mm512_set1_epi32(int32_at(x + 4 * (quads * rows + r)));
    Prefetcher prefetch(ahead, quads);
    for (int64_t q = 0; q < quads; ++q, x += 4 * rows, weight += 4 * stride) {
        prefetch.before(q);
        add_quad<rows>(x, load_quad(weight, stride, k - 4 * q), sum);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) store_in_order(sum[r], accumulate, sums + r * igemm::columns);
}

// Quads of panels that lie row by row, and of those that pack_panel made.
struct RowsOfPanel {
    static Quad load(const int8_t* rows) { return load_quad(rows); }
};
struct PackedPanel {
    static Quad load(const int8_t* quad) { return {{_mm512_loadu_si512(quad), _mm512_loadu_si512(quad + 64)}}; }
};

// Quads of a panel that are taken before those of the next one, half a KiB, and how far ahead of them memory is read.
constexpr int64_t quads_in_turn = 4;
constexpr int64_t quads_ahead = 8;

template <class Panel, int rows>
void multiply_rows_in_turn(const char* tile, const PanelsInTurn& panels, int64_t quads, int32_t* sums) {
    constexpr int64_t quad_bytes = 4 * igemm::columns;
    const char* const corrections = tile + 4 * quads * rows;
    for (int64_t first = 0; first < quads; first += quads_in_turn, tile += 4 * rows * quads_in_turn) {
        const int64_t count = std::min(quads_in_turn, quads - first);
        const bool inside = first + quads_ahead < quads;
        const int64_t ahead = (first + quads_ahead - (inside ? 0 : quads)) * quad_bytes;
        for (int64_t p = 0; p < panels.count; ++p) {
            const int8_t* w = panels.first[p] + first * quad_bytes;
            const int8_t* const fetched = (inside ? panels.first : panels.next)[p] + ahead;
            // Until the last quad sums lie in the order of the lanes.
            int32_t* const target = sums + p * panels.sums_stride;
            __m512i sum[rows][2];
#pragma GCC unroll 12
            for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
                for (int v = 0; v < 2; ++v)
                    sum[r][v] = first == 0 ? _mm512_set1_epi32(int32_at(corrections + 4 * r))
                                           : _mm512_loadu_si512(target + r * igemm::columns + 16 * v);
            for (int64_t q = 0; q < count; ++q, w += quad_bytes) {
                _mm_prefetch(reinterpret_cast<const char*>(fetched + q * quad_bytes), _MM_HINT_T0);
                _mm_prefetch(reinterpret_cast<const char*>(fetched + q * quad_bytes + 64), _MM_HINT_T0);
                add_quad<rows>(tile + 4 * rows * q, Panel::load(w), sum);
            }
#pragma GCC unroll 12
            for (int r = 0; r < rows; ++r) {
                int32_t* const row = target + r * igemm::columns;
                if (first + count == quads) {
                    store_in_order(sum[r], false, row);
                } else {
                    _mm512_storeu_si512(row, sum[r][0]);
                    _mm512_storeu_si512(row + 16, sum[r][1]);
                }
            }
        }
    }
}

void multiply_in_turn(const void* tile, const PanelsInTurn& panels, int64_t rows, int64_t k, int32_t* sums) {
    with_rows(rows, [&](auto count) {
        const auto multiply =
            panels.packed ? multiply_rows_in_turn<PackedPanel, count> : multiply_rows_in_turn<RowsOfPanel, count>;
        multiply(static_cast<const char*>(tile), panels, (k + 3) / 4, sums);
    });
}

template <int rows>
void stream_rows_int4(const char* x, const int8_t* weight, int64_t stride, int64_t k, bool accumulate, int32_t* sums,
                      const Ahead& ahead) {
    const int64_t quads = (k + 3) / 4;
    __m512i even[rows];
    __m512i odd[rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) even[r] = odd[r] = _mm512_set1_epi32(int32_at(x + 4 * (quads * rows + r)));
    Prefetcher prefetch(ahead, quads);
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

// Four rows of a pair of panels: value + 8 of the even and the odd columns of the first part of a quad of bytes, then of
// the second.
struct PairQuad {
    __m512i part[4];
};

inline PairQuad split_nibbles(const Quad& bytes) {
    const __m512i sign = _mm512_set1_epi8(8);
    const __m512i low = _mm512_set1_epi8(15);
    constexpr int flip_and_mask = 0x28;  // (a ^ b) & c
    const auto even = [&](__m512i part) { return _mm512_ternarylogic_epi32(part, sign, low, flip_and_mask); };
    const auto odd = [&](__m512i part) { return even(_mm512_srli_epi16(part, 4)); };
    return {{even(bytes.part[0]), odd(bytes.part[0]), even(bytes.part[1]), odd(bytes.part[1])}};
}

// Sums of a row for a pair of panels, in the lanes of a PairQuad: of even and odd columns of its first part, of its second.
using PairSums = __m512i[4];

void load_pair_in_order(const int32_t* row, const int32_t* next_row, PairSums& sums) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 14, 12, 10, 8, 22, 20, 18, 16, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const __m512i first = _mm512_loadu_si512(row);
    const __m512i second = _mm512_loadu_si512(row + 16);
    const __m512i next_first = _mm512_loadu_si512(next_row);
    const __m512i next_second = _mm512_loadu_si512(next_row + 16);
    sums[0] = _mm512_permutex2var_epi32(first, even, next_first);
    sums[1] = _mm512_permutex2var_epi32(first, odd, next_first);
    sums[2] = _mm512_permutex2var_epi32(second, even, next_second);
    sums[3] = _mm512_permutex2var_epi32(second, odd, next_second);
}

void store_pair_in_order(const PairSums& sums, int32_t* row, int32_t* next_row) {
    const __m512i low = _mm512_set_epi32(27, 11, 26, 10, 25, 9, 24, 8, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(4));
    _mm512_storeu_si512(row, _mm512_permutex2var_epi32(sums[0], low, sums[1]));
    _mm512_storeu_si512(row + 16, _mm512_permutex2var_epi32(sums[2], low, sums[3]));
    _mm512_storeu_si512(next_row, _mm512_permutex2var_epi32(sums[0], high, sums[1]));
    _mm512_storeu_si512(next_row + 16, _mm512_permutex2var_epi32(sums[2], high, sums[3]));
}

void load_pair(const int32_t* row, const int32_t* next_row, PairSums& sums) {
    sums[0] = _mm512_loadu_si512(row);
    sums[1] = _mm512_loadu_si512(row + 16);
    sums[2] = _mm512_loadu_si512(next_row);
    sums[3] = _mm512_loadu_si512(next_row + 16);
}

void store_pair(const PairSums& sums, int32_t* row, int32_t* next_row) {
    store_sums(sums[0], sums[1], false, row);
    store_sums(sums[2], sums[3], false, next_row);
}

// What the sums of a row begin with. The correction is for weights that are 128 too large, and these are so by 8.
void begin_pair(int32_t correction, bool accumulate, const int32_t* row, const int32_t* next_row, PairSums& sums) {
    const __m512i eights = _mm512_set1_epi32(correction / 16);
    if (!accumulate) {
        sums[0] = sums[1] = sums[2] = sums[3] = eights;
        return;
    }
    load_pair_in_order(row, next_row, sums);
    sums[0] = _mm512_add_epi32(sums[0], eights);
    sums[1] = _mm512_add_epi32(sums[1], eights);
    sums[2] = _mm512_add_epi32(sums[2], eights);
    sums[3] = _mm512_add_epi32(sums[3], eights);
}

inline PairQuad load_pair_quad(const int8_t* a, const int8_t* b, const int8_t* c, const int8_t* d) {
    return split_nibbles(interleave_bytes(load_rows(a, b), load_rows(c, d)));
}

// By value: GCC stores what an asm statement changes in an array.
inline __m512i with_products(__m512i sum, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}

inline void add_pair_row(const char* x, const PairQuad& w, PairSums& sums) {
    const __m512i quad = _mm512_set1_epi32(int32_at(x));
    sums[0] = with_products(sums[0], w.part[0], quad);
    sums[1] = with_products(sums[1], w.part[1], quad);
    sums[2] = with_products(sums[2], w.part[2], quad);
    sums[3] = with_products(sums[3], w.part[3], quad);
}

// Quads of rows of a pair that are taken before those of the next one.
constexpr int64_t pair_quads_in_turn = 4;
constexpr int64_t pair_quads_ahead = 8;

template <int... row>
void stream_pairs(std::integer_sequence<int, row...>, const char* tile, const PairsInTurn& pairs, int64_t k,
                  bool accumulate, int32_t* sums) {
    constexpr int rows = sizeof...(row);
    const int64_t quads = (k + 3) / 4;
    const int64_t stride = pairs.stride;
    const char* const corrections = tile + 4 * quads * rows;
    for (int64_t first = 0; first < quads; first += pair_quads_in_turn, tile += 4 * rows * pair_quads_in_turn) {
        const int64_t count = std::min(pair_quads_in_turn, quads - first);
        const int64_t whole = std::min(count, k / 4 - first);
        const bool inside = first + pair_quads_ahead < quads;
        const int64_t ahead = 4 * (first + pair_quads_ahead - (inside ? 0 : quads)) * stride;
        for (int64_t p = 0; p < pairs.count; ++p) {
            const int8_t* w = pairs.first[p] + 4 * first * stride;
            const int8_t* fetched = (inside ? pairs.first : pairs.next)[p] + ahead;
            // Until the last quad sums lie in the order of the lanes, in the memory of both panels.
            int32_t* const target = sums + pairs.panel[p] * pairs.sums_stride;
            PairSums sum[rows];
            const auto begin = [&](int r, PairSums& own) {
                const int32_t* const at = target + r * igemm::columns;
                if (first > 0)
                    load_pair(at, at + pairs.sums_stride, own);
                else
                    begin_pair(int32_at(corrections + 4 * r), accumulate, at, at + pairs.sums_stride, own);
            };
            (begin(row, sum[row]), ...);
            const char* x = tile;
            for (int64_t q = 0; q < whole; ++q, w += 4 * stride, x += 4 * rows) {
                for (int64_t i = 0; i < 4; ++i, fetched += stride)
                    _mm_prefetch(reinterpret_cast<const char*>(fetched), _MM_HINT_T0);
                const PairQuad quad = load_pair_quad(w, w + stride, w + 2 * stride, w + 3 * stride);
                (add_pair_row(x + 4 * row, quad, sum[row]), ...);
            }
            if (whole < count) {
                // What it lacks meets zeros of x: any row will do.
                const PairQuad quad = load_pair_quad(w, k % 4 > 1 ? w + stride : w, k % 4 > 2 ? w + 2 * stride : w, w);
                (add_pair_row(x + 4 * row, quad, sum[row]), ...);
            }
            const auto end = [&](int r, const PairSums& own) {
                int32_t* const at = target + r * igemm::columns;
                if (first + count == quads)
                    store_pair_in_order(own, at, at + pairs.sums_stride);
                else
                    store_pair(own, at, at + pairs.sums_stride);
            };
            (end(row, sum[row]), ...);
        }
    }
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

void stream_int4_in_turn(const void* tile, const PairsInTurn& pairs, int64_t rows, int64_t k, bool accumulate,
                         int32_t* sums) {
    with_rows<most_streamed_rows>(rows, [&](auto count) {
        stream_pairs(std::make_integer_sequence<int, count>(), static_cast<const char*>(tile), pairs, k, accumulate,
                     sums);
    });
}

}  // namespace

extern const IgemmKernels igemm_avx512vnni;
const IgemmKernels igemm_avx512vnni = {
    tile_rows,
    most_streamed_rows,
    tile_rows,
    4,
    1,
    4,
    pack_panel,
    pack_panel_int4,
    pack_tile,
    multiply_tile<false>,
    multiply_tile<true>,
    stream,
    stream_int4,
    multiply_in_turn,
    stream_int4_in_turn,
    to_float_values,
    add_scaled_sums,
    dequantise_rows,
    combine_rows,
    PanelLayout::flipped_quads,
};

}  // namespace moe
