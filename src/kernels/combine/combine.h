// The sum of the rows that a token's experts gave, with weights.
//
//     out = start, or skips[0], or skips[0] + skips[1]; then for every term: out = out + scale * (row + bias)
//
// in float32, in this order, every operation rounded on its own; the result is rounded once to the dtype, and a NaN
// becomes the positive quiet one without payload. Results are identical on every instruction set.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace moe {

// All pointers are to the first column of a row.
struct CombineTerm {
    const char* row;
    const char* bias;  // in all terms of a sum, or in none
    float scale;
};

struct CombineSum {
    float start;
    const char* skips[2];  // null where there is none; not only the second
    const CombineTerm* terms;
    int64_t count;
    char* out;
};

// Computes rows of `n` columns, and reads the rows of `next` ahead. `streams`: with stores that bypass the caches;
// CopyKernels::end follows after the last of them.
using CombineKernel = void (*)(const CombineSum& sum, const CombineSum& next, int64_t n, bool streams);

struct CombineKernels {
    CombineKernel f16;
    CombineKernel bf16;
    CombineKernel f32;
};

// The kernel to use now for a floating dtype.
CombineKernel combine_kernel(Dtype dtype);

}  // namespace moe
