// The products on aarch64, on panels of kernels/int8_arm.h. Included by one file per instruction set, which defines
// MOE_QGEMM_TABLE first.
#include "kernels/int8_arm.h"
#include "kernels/qgemm/qgemm.h"

namespace moe {
namespace {

int64_t row_size(int64_t k) {
    return (k + 63) / 64 * 64;
}

int64_t panel_size(int64_t k) {
    static_assert(panel_columns * k_step % 64 == 0);
    return steps_of(k) * panel_columns * k_step;
}

void pack_row(const int8_t* a, int64_t k, void* packed) {
    std::memcpy(packed, a, static_cast<size_t>(k));
    std::memset(static_cast<int8_t*>(packed) + k, 0, static_cast<size_t>(row_size(k) - k));
}

void pack(const int8_t* w, int64_t stride, int64_t k, int64_t columns, void* panels) {
    // Along a row first: the weights come from memory, the panels go to the cache.
    for (int64_t p = 0; p < k; p += k_step) {
        const int64_t rows = k - p < k_step ? k - p : k_step;
        int8_t* target = static_cast<int8_t*>(panels) + p * panel_columns;
        int64_t j = 0;
        for (; j + panel_columns <= columns; j += panel_columns, target += panel_size(k))
            pack_rows(w + p * stride + j, stride, rows, target);
        if (j == columns) continue;
        int8_t rest[k_step * panel_columns] = {};
        for (int64_t r = 0; r < rows; ++r)
            std::memcpy(rest + r * panel_columns, w + (p + r) * stride + j, static_cast<size_t>(columns - j));
        pack_rows(rest, panel_columns, rows, target);
    }
}

template <int most = tile_rows>
void tile_up_to(int64_t rows, int64_t k, const int8_t* a, const int8_t* panel, int32_t* c, int64_t c_stride) {
    if (rows == most) {
        const int64_t stride = row_size(k);
        const auto at = [a, stride](int64_t step, int row) { return a + row * stride + step * k_step; };
        return multiply_rows<most>(at, panel, steps_of(k), true, c, c_stride, [] {});
    }
    if constexpr (most > 1) tile_up_to<most - 1>(rows, k, a, panel, c, c_stride);
}

void tile(int64_t rows, int64_t k, const void* packed_rows, const void* panel, int32_t* c, int64_t c_stride) {
    tile_up_to(rows, k, static_cast<const int8_t*>(packed_rows), static_cast<const int8_t*>(panel), c, c_stride);
}

void row_of_rest(const int8_t* w, int64_t stride, int64_t k, int64_t columns, const int8_t* a, int32_t* c) {
    for (int64_t p = 0; p < k; ++p)
        for (int64_t j = 0; j < columns; ++j) c[j] += int32_t{a[p]} * w[p * stride + j];
}

void row(const int8_t* w, int64_t stride, int64_t k, int64_t columns, const int8_t* a, int32_t* c) {
    // Rows of weights that are added to a sum while it is in a register.
    constexpr int rows_at_once = 8;
    constexpr int vectors = 4;
    const int64_t whole = columns / 16 * 16;
    int64_t p = 0;
    for (; p + rows_at_once <= k; p += rows_at_once) {
        for (int64_t j = 0; j < whole; j += 16) {
            int32x4_t sum[vectors];
            for (int v = 0; v < vectors; ++v) sum[v] = vld1q_s32(c + j + 4 * v);
#pragma GCC unroll 4
            for (int s = 0; s < rows_at_once; s += dot_step) {
                const Weights x = repeat(a + p + s);
                int8x16_t rows[dot_step];
                for (int i = 0; i < dot_step; ++i) rows[i] = vld1q_s8(w + (p + s + i) * stride + j);
                interleave<dot_step>(rows);
                for (int v = 0; v < vectors; ++v) sum[v] = add_products(sum[v], x, weights_of(rows, v));
            }
            for (int v = 0; v < vectors; ++v) vst1q_s32(c + j + 4 * v, sum[v]);
        }
    }
    row_of_rest(w + p * stride, stride, k - p, whole, a + p, c);
    row_of_rest(w + whole, stride, k, columns - whole, a, c + whole);
}

// The sum of two int32 is exact in int64, so that float32 rounds it once.
void dequantise(const int32_t* c, const int32_t* bias, const float* scale, float* out, int64_t n) {
    if (bias == nullptr) {
        for (int64_t j = 0; j < n; ++j) out[j] = static_cast<float>(c[j]) * scale[j];
        return;
    }
    for (int64_t j = 0; j < n; ++j) out[j] = static_cast<float>(int64_t{c[j]} + bias[j]) * scale[j];
}

static_assert(tile_rows <= qgemm_max_rows && panel_columns <= qgemm_max_columns);

}  // namespace

extern const QgemmKernels MOE_QGEMM_TABLE;
const QgemmKernels MOE_QGEMM_TABLE = {
    tile_rows, panel_columns, row_size, panel_size, pack_row, pack, tile, row, dequantise,
};

}  // namespace moe
