// FRACTAL_NZ as operators see it.
#pragma once

#include <cstdint>

#include "core/divide.h"
#include "core/tensor.h"
#include "moe_native/format.h"

namespace moe {

constexpr int32_t nz_lowest_rank = 2;
constexpr int32_t nz_highest_rank = 6;

// The numbers of one FRACTAL_NZ matrix.
struct NzLayout {
    int64_t matrices;  // product of the leading dimensions
    int64_t k, n;      // logical rows and columns
    int64_t k1, n1;    // tiles below and beside each other
    int64_t c0;        // columns of a tile
    int64_t tile() const { return MOE_NZ_ROWS * c0; }
    // Elements of one column of tiles, and of one matrix.
    int64_t column() const { return k1 * tile(); }
    int64_t matrix() const { return n1 * column(); }
};

// Of a tensor in MOE_FORMAT_NZ that passed `required`.
NzLayout nz_layout(const Tensor& tensor);

// 2 to 6 dimensions, of a tensor whose description makes sense.
Status nz_rank_in_range(int32_t rank, const int64_t* shape, const char* name);
Status nz_c0_in_range(int64_t c0, const char* name);

// A FRACTAL_NZ tensor for a shape; complains about `name`. Rank and c0 must have been checked.
Status nz_describe(void* data, Dtype dtype, int32_t rank, const int64_t* shape, int64_t c0, const char* name,
                   Tensor* tensor);

// The storage shape belongs to the shape. Dimensions must have been checked for size.
Status nz_consistent(const Tensor& tensor, const char* name);

}  // namespace moe
