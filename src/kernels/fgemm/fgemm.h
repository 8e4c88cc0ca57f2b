// Blocks of float32 matrix products c += a * w, with weights of several stored types.
//
// Every element of c is one float32 accumulator, to which its products are added in ascending k. A long k may
// therefore be cut into blocks, rows and columns into tiles, and one row may be streamed past weights that are not
// packed: the result is the same. Tables with `fused` round once per product and sum (FMA), the others twice; tables
// that agree in `fused` give the same bits.
#pragma once

#include <cstdint>

namespace moe {

// How weights are stored, and what float32 number w stands for one. Integers are dequantised with a scale s and an
// offset o per column, every operation rounding to the type given.
enum class WeightKind {
    f32,
    f16,
    bf16,
    s8_f16,   // float16(float16(w + o) * s)
    s8_bf16,  // bfloat16(float32(float32(w + o) * s))
};
constexpr int weight_kinds = 5;

// A block of k rows of weights, `stride` elements apart, in columns that the caller names.
struct WeightBlock {
    const void* data;
    int64_t stride;
    int64_t k;
    int64_t columns;
    const float* scale;   // of the columns; integers only
    const float* offset;  // likewise
};

struct FgemmKernels {
    bool fused;
    int mr;  // rows of a tile, at most fgemm_max_rows
    int nr;  // columns of a tile and of a packed panel, at most fgemm_max_columns

    // By WeightKind. Converts a block to panels of nr columns, the last one filled up with zeros; a panel holds its
    // rows side by side. Panels begin `panel_stride` elements apart.
    void (*pack[weight_kinds])(const WeightBlock& block, float* packed, int64_t panel_stride);

    // By WeightKind. c[j] += sum over p of a[p] * w[p][j], without packing.
    void (*row[weight_kinds])(const WeightBlock& block, const float* a, float* c);

    // For one panel and `rows` <= mr: c[i][j] += sum over p of a[i][p] * panel[p][j], all nr columns of it.
    void (*tile)(int64_t rows, int64_t k, const float* a, int64_t a_stride, const float* panel, float* c,
                 int64_t c_stride);
};

constexpr int fgemm_max_rows = 16;
constexpr int fgemm_max_columns = 64;

// The kernels to use now.
const FgemmKernels& fgemm_kernels();

}  // namespace moe
