// Blocks of int8 matrix products c += a * w with int32 accumulators, weights plain (k, n), and the dequantisation of c.
//
// Exact: the caller sees to it that k * 128 * 128 fits int32. Results are the same on every instruction set.
#pragma once

#include <cstdint>

namespace moe {

struct QgemmKernels {
    int mr;  // rows of a tile, at most qgemm_max_rows
    int nr;  // columns of a tile and of a packed panel, at most qgemm_max_columns

    // Both operands are brought into a layout of the table's own: k columns of one row, and k rows of nr columns.
    // Sizes in bytes, multiples of 64 and at most qgemm_packed_item bytes for every item of k rounded up to
    // qgemm_k_unit.
    int64_t (*row_size)(int64_t k);
    int64_t (*panel_size)(int64_t k);
    void (*pack_row)(const int8_t* a, int64_t k, void* packed);
    // `stride` elements between rows; the last panel is filled up with zeros.
    void (*pack)(const int8_t* w, int64_t stride, int64_t k, int64_t columns, void* panels);

    // For one panel and `rows` <= mr packed rows: c[i][j] += sum over p of a[i][p] * w[p][j], all nr columns of it.
    void (*tile)(int64_t rows, int64_t k, const void* packed_rows, const void* panel, int32_t* c, int64_t c_stride);

    // c[j] += sum over p of a[p] * w[p][j], without packing.
    void (*row)(const int8_t* w, int64_t stride, int64_t k, int64_t columns, const int8_t* a, int32_t* c);

    // out[j] = float32(c[j] + bias[j]) * scale[j]; the sum is exact, `bias` may be null.
    void (*dequantise)(const int32_t* c, const int32_t* bias, const float* scale, float* out, int64_t n);
};

constexpr int qgemm_max_rows = 16;
constexpr int qgemm_max_columns = 64;
constexpr int64_t qgemm_packed_item = 2;
constexpr int64_t qgemm_k_unit = 64;

// The kernels to use now.
const QgemmKernels& qgemm_kernels();

}  // namespace moe
