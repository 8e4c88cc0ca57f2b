// Products of int8 rows with panels of 32 columns on aarch64, for the families that multiply int8: with smmla, sdot, or
// smull and sadalp, whichever is the best that the including file is compiled for. Included by one file per instruction
// set.
//
// A panel holds `k_step` consecutive k of a column side by side, (ceil(k / k_step), 32, k_step) bytes, k padded with
// zeros. All products are signed and no instruction saturates: sums are exact modulo 2^32.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace moe {
namespace {

constexpr int64_t panel_columns = 32;

// Four sums of `dot_step` products each; `Weights` are those of four columns.
#if defined(__ARM_FEATURE_DOTPROD)
constexpr int dot_step = 4;
using Weights = int8x16_t;
inline Weights load_weights(const int8_t* source) {
    return vld1q_s8(source);
}
inline Weights repeat(const int8_t* x) {
    int32_t bytes;
    std::memcpy(&bytes, x, sizeof bytes);
    return vreinterpretq_s8_s32(vdupq_n_s32(bytes));
}
inline int32x4_t add_products(int32x4_t sum, Weights x, Weights w) {
    return vdotq_s32(sum, x, w);
}
// Columns 4 v to 4 v + 3 of 16 interleaved ones.
inline Weights weights_of(const int8x16_t* interleaved, int v) {
    return interleaved[v];
}
#else
constexpr int dot_step = 2;
using Weights = int8x8_t;
inline Weights load_weights(const int8_t* source) {
    return vld1_s8(source);
}
// Not vdup_n_s16: GCC 12 makes a detour over an integer register of it.
inline Weights repeat(const int8_t* x) {
    Weights pairs;
    __asm__("ld1r {%0.4h}, %1" : "=w"(pairs) : "Q"(*reinterpret_cast<const int8_t(*)[2]>(x)));
    return pairs;
}
// A product fits int16, (-128)^2 included; pairs of them are added in int32.
inline int32x4_t add_products(int32x4_t sum, Weights x, Weights w) {
    return vpadalq_s16(sum, vmull_s8(x, w));
}
inline Weights weights_of(const int8x16_t* interleaved, int v) {
    return v % 2 == 0 ? vget_low_s8(interleaved[v / 2]) : vget_high_s8(interleaved[v / 2]);
}
#endif

#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int k_step = 8;
constexpr int tile_rows = 12;
#else
constexpr int k_step = dot_step;
constexpr int tile_rows = 6;
#endif

int64_t steps_of(int64_t k) {
    return (k + k_step - 1) / k_step;
}

// `rows` rows of 16 bytes become 16 groups of `rows` bytes.
template <int rows>
inline void interleave(int8x16_t* row) {
    for (int pass = 1; pass < rows; pass *= 2) {
        int8x16_t shuffled[rows];
#pragma GCC unroll 4
        for (int i = 0; i < rows / 2; ++i) {
            shuffled[2 * i] = vzip1q_s8(row[i], row[i + rows / 2]);
            shuffled[2 * i + 1] = vzip2q_s8(row[i], row[i + rows / 2]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < rows; ++i) row[i] = shuffled[i];
    }
}

// Rows from `present` on are taken as zeros.
inline void pack_step(const int8_t* weight, int64_t stride, int present, int8_t* target) {
    for (int64_t half = 0; half < panel_columns; half += 16) {
        int8x16_t row[k_step];
#pragma GCC unroll 8
        for (int i = 0; i < k_step; ++i) row[i] = i < present ? vld1q_s8(weight + i * stride + half) : vdupq_n_s8(0);
        interleave<k_step>(row);
#pragma GCC unroll 8
        for (int i = 0; i < k_step; ++i) vst1q_s8(target + half * k_step + 16 * i, row[i]);
    }
}

// Packs `k` rows of 32 bytes, `stride` bytes apart.
void pack_rows(const int8_t* weight, int64_t stride, int64_t k, int8_t* panel) {
    int64_t t = 0;
    for (; t + k_step <= k; t += k_step) pack_step(weight + t * stride, stride, k_step, panel + t * panel_columns);
    if (t < k) pack_step(weight + t * stride, stride, static_cast<int>(k - t), panel + t * panel_columns);
}

// Steps between two calls of what is done on the way.
constexpr int64_t stretch = 16;

// sums (rows, 32) = [sums +] x * panel; at(step, row) is where k_step bytes of x are. Calls ahead() before every stretch
// of steps in each of passes_of(rows) passes.
constexpr int passes_of(int rows) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return rows <= 2 ? 1 : rows <= 6 ? 2 : 4;
#else
    return rows <= 2 ? 1 : 2;
#endif
}

#if defined(__ARM_FEATURE_MATMUL_INT8)

// smmla multiplies 2 rows by 2 columns, eight k each.
template <int rows, class At, class Next>
inline void multiply_rows(const At& at, const int8_t* panel, int64_t steps, bool accumulate, int32_t* sums,
                          int64_t stride, Next&& ahead) {
    constexpr int row_pairs = (rows + 1) / 2;
    // 24 sums at most, a vector of weights, one of x for each pair of rows: of 32 registers.
    constexpr int column_pairs = 16 / passes_of(rows);
    for (int64_t column = 0; column < panel_columns; column += 2 * column_pairs) {
        int32x4_t sum[row_pairs][column_pairs];
#pragma GCC unroll 16
        for (int r = 0; r < row_pairs; ++r)
#pragma GCC unroll 16
            for (int j = 0; j < column_pairs; ++j) sum[r][j] = vdupq_n_s32(0);
        const int8_t* w = panel + column * k_step;
        for (int64_t begin = 0; begin < steps; begin += stretch) {
            ahead();
            const int64_t end = begin + stretch < steps ? begin + stretch : steps;
            for (int64_t s = begin; s < end; ++s, w += panel_columns * k_step) {
                int8x16_t x[row_pairs];
#pragma GCC unroll 16
                for (int r = 0; r < row_pairs; ++r)
                    x[r] =
                        vcombine_s8(vld1_s8(at(s, 2 * r)), 2 * r + 1 < rows ? vld1_s8(at(s, 2 * r + 1)) : vdup_n_s8(0));
#pragma GCC unroll 16
                for (int j = 0; j < column_pairs; ++j) {
                    const int8x16_t pair = vld1q_s8(w + 16 * j);
#pragma GCC unroll 16
                    for (int r = 0; r < row_pairs; ++r) sum[r][j] = vmmlaq_s32(sum[r][j], x[r], pair);
                }
            }
        }
        const auto store = [&](int row, int j, int64x2_t four) {
            int32_t* target = sums + row * stride + column + 2 * j;
            const int32x4_t value = vreinterpretq_s32_s64(four);
            vst1q_s32(target, accumulate ? vaddq_s32(vld1q_s32(target), value) : value);
        };
#pragma GCC unroll 16
        for (int r = 0; r < row_pairs; ++r)
#pragma GCC unroll 16
            for (int j = 0; j < column_pairs; j += 2) {
                const int64x2_t left = vreinterpretq_s64_s32(sum[r][j]);
                const int64x2_t right = vreinterpretq_s64_s32(sum[r][j + 1]);
                store(2 * r, j, vzip1q_s64(left, right));
                if (2 * r + 1 < rows) store(2 * r + 1, j, vzip2q_s64(left, right));
            }
    }
}

#else

template <int rows, class At, class Next>
inline void multiply_rows(const At& at, const int8_t* panel, int64_t steps, bool accumulate, int32_t* sums,
                          int64_t stride, Next&& ahead) {
    // 24 sums, four vectors of weights, one of x, a product: of 32 registers.
    constexpr int vectors = 8 / passes_of(rows);
    for (int64_t column = 0; column < panel_columns; column += 4 * vectors) {
        int32x4_t sum[rows][vectors];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v)
                sum[r][v] = accumulate ? vld1q_s32(sums + r * stride + column + 4 * v) : vdupq_n_s32(0);
        const int8_t* w = panel + column * k_step;
        for (int64_t begin = 0; begin < steps; begin += stretch) {
            ahead();
            const int64_t end = begin + stretch < steps ? begin + stretch : steps;
            for (int64_t s = begin; s < end; ++s, w += panel_columns * k_step) {
                Weights weights[vectors];
#pragma GCC unroll 16
                for (int v = 0; v < vectors; ++v) weights[v] = load_weights(w + 4 * k_step * v);
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r) {
                    const Weights x = repeat(at(s, r));
#pragma GCC unroll 16
                    for (int v = 0; v < vectors; ++v) sum[r][v] = add_products(sum[r][v], x, weights[v]);
                }
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v) vst1q_s32(sums + r * stride + column + 4 * v, sum[r][v]);
    }
}

#endif

}  // namespace
}  // namespace moe
