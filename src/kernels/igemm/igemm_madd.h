// The products for instruction sets without a dot product of bytes: weights and activations are widened to int16, and
// pairs of k are multiplied and added to int32, which is exact (2 * 2^14 at most). Panels are (k / 2, 32, 2), tiles
// (k / 2, rows, 2). Included by one file per instruction set, which defines MOE_IGEMM_TABLE first.
#include <cstring>

#include "kernels/igemm/igemm_float.h"
#include "kernels/igemm/igemm_prefetch.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if !defined(__AVX2__)
#include "kernels/igemm/igemm_int4.h"
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
inline Vector add(Vector a, Vector b) {
    return _mm512_add_epi32(a, b);
}
inline Vector add_products(Vector sum, Vector x, Vector w) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(x, w));
}
// The lanes of both that `first` names, and those that are 8 further.
inline void permute(Vector (&values)[2], Vector first) {
    const Vector low = values[0];
    values[0] = _mm512_permutex2var_epi32(low, first, values[1]);
    values[1] = _mm512_permutex2var_epi32(low, _mm512_add_epi32(first, _mm512_set1_epi32(8)), values[1]);
}
// Two rows of a weight, widened to pairs, and what comes of these: lanes are in the order of `widen` until `order` puts
// them into that of the columns. Interleaved rows have their columns by fours, every other four in the second vector.
struct Rows {
    static void widen(const int8_t* first, const int8_t* second, Vector (&pairs)[2]) {
        const Vector a = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first)));
        const Vector b = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)));
        pairs[0] = _mm512_unpacklo_epi16(a, b);
        pairs[1] = _mm512_unpackhi_epi16(a, b);
    }
    static void order(Vector (&values)[2]) {
        permute(values, _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0));
    }
};
// The same for int4: the even columns, and the odd ones.
struct Nibbles {
    static void widen(const int8_t* first, const int8_t* second, Vector (&pairs)[2]) {
        const Vector a = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(first)));
        const Vector b = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(second)));
        const Vector bytes = _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
        pairs[0] = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 12), 12);
        pairs[1] = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 12);
    }
    static void order(Vector (&values)[2]) {
        permute(values, _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0));
    }
};
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
inline Vector add(Vector a, Vector b) {
    return _mm256_add_epi32(a, b);
}
inline Vector add_products(Vector sum, Vector x, Vector w) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w));
}
inline Vector widen_half(const int8_t* row) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)));
}
// As above, for each half of the columns.
struct Rows {
    static void widen(const int8_t* first, const int8_t* second, Vector (&pairs)[4]) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const Vector a = widen_half(first + 16 * half);
            const Vector b = widen_half(second + 16 * half);
            pairs[2 * half] = _mm256_unpacklo_epi16(a, b);
            pairs[2 * half + 1] = _mm256_unpackhi_epi16(a, b);
        }
    }
    static void order(Vector (&values)[4]) {
#pragma GCC unroll 2
        for (int v = 0; v < 4; v += 2) {
            const Vector low = values[v];
            values[v] = _mm256_permute2x128_si256(low, values[v + 1], 0x20);
            values[v + 1] = _mm256_permute2x128_si256(low, values[v + 1], 0x31);
        }
    }
};
struct Nibbles {
    static void widen(const int8_t* first, const int8_t* second, Vector (&pairs)[4]) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const Vector a = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(first + 8 * half)));
            const Vector b = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(second + 8 * half)));
            const Vector bytes = _mm256_or_si256(a, _mm256_slli_epi32(b, 16));
            pairs[2 * half] = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 12), 12);
            pairs[2 * half + 1] = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 12);
        }
    }
    static void order(Vector (&values)[4]) {
#pragma GCC unroll 2
        for (int v = 0; v < 4; v += 2) {
            const Vector low = _mm256_unpacklo_epi32(values[v], values[v + 1]);
            const Vector high = _mm256_unpackhi_epi32(values[v], values[v + 1]);
            values[v] = _mm256_permute2x128_si256(low, high, 0x20);
            values[v + 1] = _mm256_permute2x128_si256(low, high, 0x31);
        }
    }
};
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

// Stands in for the row that the last pair lacks.
constexpr int8_t zero_row[igemm::columns] = {};

#if defined(__AVX2__)
constexpr int vectors = igemm::columns / lanes;

template <class Weight>
void pack_any_panel(const int8_t* weight, int64_t stride, int64_t k, void* panel) {
    int16_t* target = static_cast<int16_t*>(panel);
    for (int64_t t = 0; t < k; t += 2) {
        Vector pairs[vectors];
        Weight::widen(weight + t * stride, t + 1 < k ? weight + (t + 1) * stride : zero_row, pairs);
        Weight::order(pairs);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v, target += 2 * lanes) store(target, pairs[v]);
    }
}
constexpr auto pack_panel = pack_any_panel<Rows>;
constexpr auto pack_panel_int4 = pack_any_panel<Nibbles>;
#else
void pack_panel(const int8_t* weight, int64_t stride, int64_t k, void* panel) {
    int16_t* target = static_cast<int16_t*>(panel);
    for (int64_t t = 0; t < k; t += 2, target += 2 * igemm::columns) {
        const int8_t* first = weight + t * stride;
        const int8_t* second = t + 1 < k ? first + stride : zero_row;
        for (int64_t j = 0; j < igemm::columns; ++j) {
            target[2 * j] = first[j];
            target[2 * j + 1] = second[j];
        }
    }
}
constexpr auto pack_panel_int4 = pack_widened_panel<pack_panel, 2 * igemm::columns>;
#endif

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
void multiply_rows(const int16_t* tile, const int16_t* panel, int64_t pairs, bool accumulate, int32_t* sums,
                   const Ahead& ahead) {
    Prefetcher prefetch(ahead, pairs * (igemm::columns / (2 * lanes)));
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
            prefetch.before(p);
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

using Multiply = void (*)(const int16_t*, const int16_t*, int64_t, bool, int32_t*, const Ahead&);
constexpr Multiply multiply_by_rows[] = {
    multiply_rows<1>, multiply_rows<2>, multiply_rows<3>, multiply_rows<4>,  multiply_rows<5>,  multiply_rows<6>,
#if defined(__AVX512BW__)
    multiply_rows<7>, multiply_rows<8>, multiply_rows<9>, multiply_rows<10>, multiply_rows<11>, multiply_rows<12>,
#endif
};
static_assert(sizeof multiply_by_rows / sizeof multiply_by_rows[0] == tile_rows);

void multiply(const void* tile, const void* panel, int64_t rows, int64_t k, bool accumulate, int32_t* sums,
              const Ahead& ahead) {
    multiply_by_rows[rows - 1](static_cast<const int16_t*>(tile), static_cast<const int16_t*>(panel), (k + 1) / 2,
                               accumulate, sums, ahead);
}

#if defined(__AVX2__)
// Rows of x whose sums are in registers beside a widened pair of rows of weights, which is widened again for others.
constexpr int64_t rows_at_once = vectors == 4 ? 2 : 4;
constexpr int64_t most_streamed_rows = 4;

// sum (rows, 32) += a pair of each row of x * two rows of a weight, without the order of the columns.
template <class Weight, int rows>
inline void add_pair(const int16_t* x, const int8_t* first, const int8_t* second, Vector (&sum)[rows][vectors]) {
    Vector w[vectors];
    Weight::widen(first, second, w);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
        const Vector pair = broadcast(pair_at(x + 2 * r));
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[r][v] = add_products(sum[r][v], pair, w[v]);
    }
}

template <class Weight, int rows>
void stream_rows(const int16_t* x, int64_t x_stride, const int8_t* weight, int64_t stride, int64_t k, bool accumulate,
                 int32_t* sums, const Ahead& ahead) {
    Vector sum[rows][vectors];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[r][v] = broadcast(0);
    Prefetcher prefetch(ahead, (k + 1) / 2);
    for (int64_t t = 0; t < k; t += 2, x += x_stride, weight += 2 * stride) {
        prefetch.before(t / 2);
        add_pair<Weight, rows>(x, weight, t + 1 < k ? weight + stride : zero_row, sum);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
        Weight::order(sum[r]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            int32_t* const target = sums + r * igemm::columns + v * lanes;
            store(target, accumulate ? add(load(target), sum[r][v]) : sum[r][v]);
        }
    }
}

using StreamRows = void (*)(const int16_t*, int64_t, const int8_t*, int64_t, int64_t, bool, int32_t*, const Ahead&);
template <class Weight>
constexpr StreamRows stream_by_rows[] = {stream_rows<Weight, 1>, stream_rows<Weight, 2>,
#if defined(__AVX512BW__)
                                         stream_rows<Weight, 3>, stream_rows<Weight, 4>
#endif
};

template <class Weight>
void stream_any(const void* tile, const int8_t* weight, int64_t stride, int64_t rows, int64_t k, bool accumulate,
                int32_t* sums, const Ahead& ahead) {
    Ahead left = ahead;
    for (int64_t r = 0; r < rows; r += rows_at_once) {
        const int64_t count = rows - r < rows_at_once ? rows - r : rows_at_once;
        stream_by_rows<Weight>[count - 1](static_cast<const int16_t*>(tile) + 2 * r, 2 * rows, weight, stride, k,
                                          accumulate, sums + r * igemm::columns, left);
        left = {};
    }
}
constexpr auto stream = stream_any<Rows>;
constexpr auto stream_int4 = stream_any<Nibbles>;

// Rows of a panel that are taken before those of the next one, half a KiB, and how far ahead of them memory is read.
constexpr int64_t k_in_turn = 16;
constexpr int64_t k_ahead = 32;

// A piece of a panel for some of the rows.
template <int rows>
inline void add_piece(const int16_t* x, int64_t x_stride, const int8_t* weight, int64_t pairs, const int8_t* fetched,
                      bool first, bool last, int32_t* sums) {
    Vector sum[rows][vectors];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v)
            sum[r][v] = first ? broadcast(0) : load(sums + r * igemm::columns + v * lanes);
    for (int64_t p = 0; p < pairs; ++p, x += x_stride, weight += 2 * igemm::columns) {
        __builtin_prefetch(fetched + 2 * p * igemm::columns);
        add_pair<Rows, rows>(x, weight, weight + igemm::columns, sum);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
        if (last) Rows::order(sum[r]);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) store(sums + r * igemm::columns + v * lanes, sum[r][v]);
    }
}

template <int rows>
void multiply_rows_in_turn(const int16_t* x, const PanelsInTurn& panels, int64_t k, int32_t* sums) {
    constexpr int at_once = rows < rows_at_once ? rows : static_cast<int>(rows_at_once);
    for (int64_t t = 0; t < k; t += k_in_turn, x += k_in_turn * rows) {
        const int64_t count = k - t < k_in_turn ? k - t : k_in_turn;
        const bool inside = t + k_ahead < k;
        const int64_t ahead = (t + k_ahead - (inside ? 0 : k)) * igemm::columns;
        for (int64_t p = 0; p < panels.count; ++p) {
            const int8_t* const weight = panels.first[p] + t * igemm::columns;
            const int8_t* const fetched = (inside ? panels.first : panels.next)[p] + ahead;
            int32_t* const target = sums + p * panels.sums_stride;
            add_piece<at_once>(x, 2 * rows, weight, (count + 1) / 2, fetched, t == 0, t + count == k, target);
            if constexpr (rows > at_once)
                add_piece<rows - at_once>(x + 2 * at_once, 2 * rows, weight, (count + 1) / 2, fetched, t == 0,
                                          t + count == k, target + at_once * igemm::columns);
        }
    }
}

using MultiplyInTurn = void (*)(const int16_t*, const PanelsInTurn&, int64_t, int32_t*);
constexpr MultiplyInTurn in_turn_by_rows[most_streamed_rows] = {multiply_rows_in_turn<1>, multiply_rows_in_turn<2>,
                                                                multiply_rows_in_turn<3>, multiply_rows_in_turn<4>};

// Panels are never packed: the weights of a pack are rows for these kernels.
void multiply_in_turn(const void* tile, const PanelsInTurn& panels, int64_t rows, int64_t k, int32_t* sums) {
    in_turn_by_rows[rows - 1](static_cast<const int16_t*>(tile), panels, k, sums);
}
#else
constexpr int64_t most_streamed_rows = 0;
constexpr decltype(IgemmKernels::stream) stream = nullptr;
constexpr decltype(IgemmKernels::stream_int4) stream_int4 = nullptr;
constexpr decltype(IgemmKernels::multiply_in_turn) multiply_in_turn = nullptr;
#endif

}  // namespace

extern const IgemmKernels MOE_IGEMM_TABLE;
const IgemmKernels MOE_IGEMM_TABLE = {
    tile_rows,
    most_streamed_rows,
    most_streamed_rows,
    2,
    2,
    0,
    pack_panel,
    pack_panel_int4,
    pack_tile,
    multiply,
    nullptr,
    stream,
    stream_int4,
    multiply_in_turn,
    nullptr,
    to_float_values,
    add_scaled_sums,
    dequantise_rows,
    combine_rows,
    PanelLayout::rows,
};

}  // namespace moe
