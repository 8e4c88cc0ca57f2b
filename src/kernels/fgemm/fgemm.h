// Blocks of float32 matrix products c += a * w, with weights of several stored types.
//
// Every element of c is one float32 accumulator, to which its products are added in ascending k. A long k may
// therefore be cut into blocks, rows and columns into tiles, and rows may be streamed past weights that are not
// packed: the result is the same. Tables with `fused` round once per product and sum (FMA), the others twice; tables
// that agree in `fused` give the same bits.
//
// Tables with `pairs` are for bfloat16 only, in a and in w: products are added two by two, k = 2p + 1 before k = 2p,
// and subnormal operands and sums count as zero. Blocks begin at even k.
#pragma once

#include <cstdint>

#include "core/panel.h"

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
    const float* scale;       // of the columns; integers only
    const float* offset;      // likewise
    int64_t rows_behind = 0;  // that follow in memory and are wanted next
};

// Rows of memory that tiles bring into the cache while they compute, about `count` lines for every fgemm_unit words that
// a tile is long. Eight rows, `stride` bytes apart, take turns: memory is fastest with several streams.
struct FgemmAhead {
    const char* line;  // of the first of these rows
    int64_t stride;
    int64_t rows;  // still to come, these included
    int64_t row_lines;
    int64_t count;
    int64_t due = 0;   // lines
    int64_t done = 0;  // of the lines of these rows
};

using FgemmTile = void (*)(int64_t rows, int64_t columns, int64_t words, const void* a, const void* panel, float* c,
                           int64_t c_stride, bool fresh, FgemmAhead* ahead);

struct FgemmKernels {
    bool fused;
    bool pairs;
    int mr;              // rows of a tile, at most fgemm_max_rows
    int nr;              // columns of a tile and of a packed panel, at most fgemm_max_columns
    int unit;            // panels with fewer columns are filled up with zeros to a multiple of it
    PanelLayout layout;  // of weights that are packed for it
    // By WeightKind. So many rows are better streamed than packed for, at most fgemm_max_stream_rows.
    int stream_rows[weight_kinds];

    // By WeightKind; null for the kinds that the table has not. Converts a block of at most nr columns to a panel: its
    // rows side by side as float32, or its pairs of rows as pairs of bfloat16.
    void (*pack[weight_kinds])(const WeightBlock& block, void* panel);

    // By WeightKind. c[i][j] += sum over p of a[i][p] * w[p][j] for i < rows, without packing; a is float32, or bfloat16
    // with `pairs`, its rows fgemm_row_stride words apart.
    void (*stream[weight_kinds])(const WeightBlock& block, int64_t rows, const void* a, float* c, int64_t c_stride);

    // For `rows` <= mr and a panel: c[i][j] += sum over p of a[i][p] * panel[p][j], all columns of it, those that fill it
    // up included. `words` are the k of it, or the pairs of k. Rows of a lie fgemm_row_stride words apart. `fresh`: c
    // counts as 0.
    FgemmTile tile;

    // By WeightKind; null for integers. The same for panels of packed weights, which are converted on the way: where that
    // takes nothing this is `tile`.
    FgemmTile stored_tile[weight_kinds];
};

constexpr int fgemm_max_rows = 16;
constexpr int fgemm_max_columns = 64;
constexpr int fgemm_max_stream_rows = 8;
// The more of them, the less often sums are loaded and stored; but a panel and the rows of a tile share the first-level
// cache.
constexpr int64_t fgemm_max_words = 96;
// Off the powers of two, or rows would compete for the same sets of the first-level cache.
constexpr int64_t fgemm_row_stride = fgemm_max_words + 16;
constexpr int64_t fgemm_unit = 16;

// The kernels to use now.
const FgemmKernels& fgemm_kernels();
// Those for pairs of bfloat16; null where the instruction sets that may be used have none.
const FgemmKernels* fgemm_pairs_kernels();

}  // namespace moe
