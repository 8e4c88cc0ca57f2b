// The products with vpdpbusd, which adds to each int32 four products of an unsigned and a signed byte: twice those of
// vpdpwssd, and half the bytes to load.
//
// Weights are the unsigned operand, as weight + 128 (the sign bit flipped). Since
//     sum over p of a[p] (w[p][j] + 128) = sum over p of a[p] w[p][j] + 128 sum over p of a[p],
// sums start with -128 sum(a), which comes along with a packed row. Exact: four products of at most 255 * 128 fit the
// int32 that the instruction adds, it does not saturate, and what sums wrap around modulo 2^32 on the way cancels,
// because the finished sum fits int32.
//
// Panels are (k / 4, 64, 4) bytes, packed rows (k / 4, 4) bytes and then the int32 correction; zeros fill up k.
#include <immintrin.h>

#include <cstring>

#include "kernels/qgemm/qgemm.h"

namespace moe {
namespace {

constexpr int lanes = 16;
// 24 sums, 4 vectors of weights, a quad of a: 29 of the 32 registers, and closer to a square than 12 x 2.
constexpr int tile_rows = 6;
constexpr int tile_vectors = 4;
constexpr int tile_columns = lanes * tile_vectors;
static_assert(tile_rows <= qgemm_max_rows && tile_columns <= qgemm_max_columns);

// Not the intrinsic: GCC 12 copies an operand to the stack beside every one of many.
inline void add_products(__m512i& sum, __m512i w, __m512i a) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(a));
}

int64_t quads_of(int64_t k) {
    return (k + 3) / 4;
}

int64_t row_size(int64_t k) {
    return (quads_of(k) * 4 + static_cast<int64_t>(sizeof(int32_t)) + 63) / 64 * 64;
}

int64_t panel_size(int64_t k) {
    return quads_of(k) * tile_columns * 4;
}

int32_t correction_of(const int8_t* a, int64_t k) {
    int32_t sum = 0;
    for (int64_t p = 0; p < k; ++p) sum += a[p];
    return static_cast<int32_t>(-128 * static_cast<int64_t>(sum));
}

void pack_row(const int8_t* a, int64_t k, void* packed) {
    auto* target = static_cast<char*>(packed);
    std::memcpy(target, a, static_cast<size_t>(k));
    std::memset(target + k, 0, static_cast<size_t>(4 * quads_of(k) - k));
    const int32_t correction = correction_of(a, k);
    std::memcpy(target + 4 * quads_of(k), &correction, sizeof correction);
}

__mmask64 bytes_of(int64_t count) {
    return count >= tile_columns ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
}

__mmask16 lanes_of(int64_t count) {
    return count >= lanes ? static_cast<__mmask16>(~0)
           : count <= 0   ? __mmask16{0}
                          : static_cast<__mmask16>((1 << count) - 1);
}

// Columns of one row, in fours: those that interleaving brings together come from different quarters of a vector, and
// interleaving works on each quarter for itself.
inline __m512i load_columns(const int8_t* row, __mmask64 columns) {
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_epi32(order, _mm512_maskz_loadu_epi8(columns, row));
}

struct Quads {
    __m512i part[tile_vectors];
};

// `rows` <= 4 rows of weights, side by side for every column, unsigned.
inline Quads load_quads(const int8_t* w, int64_t stride, int64_t rows, __mmask64 columns) {
    const __m512i zeros = _mm512_setzero_si512();
    const __m512i a = load_columns(w, columns);
    const __m512i b = rows > 1 ? load_columns(w + stride, columns) : zeros;
    const __m512i c = rows > 2 ? load_columns(w + 2 * stride, columns) : zeros;
    const __m512i d = rows > 3 ? load_columns(w + 3 * stride, columns) : zeros;
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

void pack(const int8_t* w, int64_t stride, int64_t k, int64_t columns, void* panels) {
    // Along a row first: the weights come from memory, the panels go to the cache.
    for (int64_t p = 0; p < k; p += 4) {
        char* target = static_cast<char*>(panels) + p * tile_columns;
        for (int64_t j = 0; j < columns; j += tile_columns, target += panel_size(k)) {
            const Quads quads = load_quads(w + p * stride + j, stride, k - p, bytes_of(columns - j));
            for (int v = 0; v < tile_vectors; ++v) _mm512_storeu_si512(target + 64 * v, quads.part[v]);
        }
    }
}

inline int32_t int32_at(const void* source) {
    int32_t value;
    std::memcpy(&value, source, sizeof value);
    return value;
}

template <int rows>
void tile_of(int64_t k, const char* a, const char* panel, int32_t* c, int64_t c_stride) {
    const int64_t quads = quads_of(k);
    const int64_t a_stride = row_size(k);
    __m512i sum[rows][tile_vectors];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
        const __m512i correction = _mm512_set1_epi32(int32_at(a + i * a_stride + 4 * quads));
#pragma GCC unroll 16
        for (int v = 0; v < tile_vectors; ++v)
            sum[i][v] = _mm512_add_epi32(correction, _mm512_loadu_si512(c + i * c_stride + v * lanes));
    }
    for (int64_t q = 0; q < quads; ++q, a += 4, panel += 4 * tile_columns) {
        __m512i w[tile_vectors];
#pragma GCC unroll 16
        for (int v = 0; v < tile_vectors; ++v) w[v] = _mm512_loadu_si512(panel + 64 * v);
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
            const __m512i quad = _mm512_set1_epi32(int32_at(a + i * a_stride));
#pragma GCC unroll 16
            for (int v = 0; v < tile_vectors; ++v) add_products(sum[i][v], w[v], quad);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 16
        for (int v = 0; v < tile_vectors; ++v) _mm512_storeu_si512(c + i * c_stride + v * lanes, sum[i][v]);
}

template <int rows>
void tile_up_to(int64_t wanted, int64_t k, const char* a, const char* panel, int32_t* c, int64_t c_stride) {
    if (wanted == rows) return tile_of<rows>(k, a, panel, c, c_stride);
    if constexpr (rows > 1) tile_up_to<rows - 1>(wanted, k, a, panel, c, c_stride);
}

void tile(int64_t rows, int64_t k, const void* packed_rows, const void* panel, int32_t* c, int64_t c_stride) {
    tile_up_to<tile_rows>(rows, k, static_cast<const char*>(packed_rows), static_cast<const char*>(panel), c, c_stride);
}

// Up to 4 `quads` rows of weights and 64 columns: the sums stay in registers meanwhile.
template <int quads>
inline void add_rows(const int8_t* w, int64_t stride, int64_t rows, const int8_t* a, int32_t correction,
                     int64_t columns, int32_t* c) {
    __m512i sum[tile_vectors];
    for (int v = 0; v < tile_vectors; ++v)
        sum[v] = _mm512_add_epi32(_mm512_set1_epi32(correction),
                                  _mm512_maskz_loadu_epi32(lanes_of(columns - v * lanes), c + v * lanes));
    for (int q = 0; q < quads; ++q) {
        int32_t quad = 0;
        std::memcpy(&quad, a + 4 * q, rows - 4 * q < 4 ? static_cast<size_t>(rows - 4 * q) : sizeof quad);
        const Quads weights = load_quads(w + 4 * q * stride, stride, rows - 4 * q, bytes_of(columns));
        for (int v = 0; v < tile_vectors; ++v) add_products(sum[v], weights.part[v], _mm512_set1_epi32(quad));
    }
    for (int v = 0; v < tile_vectors; ++v)
        _mm512_mask_storeu_epi32(c + v * lanes, lanes_of(columns - v * lanes), sum[v]);
}

void row(const int8_t* w, int64_t stride, int64_t k, int64_t columns, const int8_t* a, int32_t* c) {
    constexpr int64_t at_once = 8;
    int64_t p = 0;
    for (; p + at_once <= k; p += at_once) {
        const int8_t* weights = w + p * stride;
        const bool ahead = p + 2 * at_once <= k;
        const int32_t correction = correction_of(a + p, at_once);
        for (int64_t j = 0; j < columns; j += tile_columns) {
            // Memory is fastest with several streams, and the processor's own prefetching starts anew in every row.
            for (int64_t next = at_once; ahead && next < 2 * at_once; ++next)
                _mm_prefetch(weights + next * stride + j, _MM_HINT_T1);
            add_rows<at_once / 4>(weights + j, stride, at_once, a + p, correction, columns - j, c + j);
        }
    }
    for (; p < k; p += 4) {
        const int64_t rows = k - p < 4 ? k - p : 4;
        for (int64_t j = 0; j < columns; j += tile_columns)
            add_rows<1>(w + p * stride + j, stride, rows, a + p, correction_of(a + p, rows), columns - j, c + j);
    }
}

// The sum of two int32 is exact in float64, so that float32 rounds it once.
void dequantise(const int32_t* c, const int32_t* bias, const float* scale, float* out, int64_t n) {
    if (bias == nullptr) {
        for (int64_t j = 0; j < n; ++j) out[j] = static_cast<float>(c[j]) * scale[j];
        return;
    }
    for (int64_t j = 0; j < n; ++j)
        out[j] = static_cast<float>(static_cast<double>(c[j]) + static_cast<double>(bias[j])) * scale[j];
}

}  // namespace

extern const QgemmKernels qgemm_avx512vnni;
const QgemmKernels qgemm_avx512vnni = {
    tile_rows, tile_columns, row_size, panel_size, pack_row, pack, tile, row, dequantise,
};

}  // namespace moe
