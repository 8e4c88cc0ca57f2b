// Questions about a moe_tensor, and the checks that every operator makes of its arguments.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/status.h"
#include "moe_native/tensor.h"

namespace moe {

using Tensor = moe_tensor;
using Dtype = moe_dtype;

// Number of elements of the logical shape. The tensor must have passed well_formed.
int64_t element_count(const Tensor& tensor);

// Bytes that `count` elements take when they lie side by side (two MOE_INT4 a byte, rounded up).
int64_t contiguous_bytes(Dtype dtype, int64_t count);

// Row-major without gaps, and aligned to the item size: kernels may use it as it is.
bool is_contiguous(const Tensor& tensor);

// "float16 (3, 4)" for messages. Holds its text itself.
struct Description {
    char text[192];
};
Description describe(const Tensor& tensor);
Description describe_shape(int32_t rank, const int64_t* shape);

// --- Checks. Each returns MOE_OK or fails with the status given, naming the argument. ---

// Not null, and a description that makes sense: known dtype and format, rank within 0..8, no negative
// dimension, sizes that fit 64-bit arithmetic. `null_status` is for a null pointer; anything else is
// MOE_ERROR_INVALID.
Status required(const Tensor* tensor, const char* name, Status null_status = MOE_ERROR_NULL);

// As `required`, but null is fine.
Status optional(const Tensor* tensor, const char* name);

// Memory is there when the tensor has elements: for the run step.
Status has_data(const Tensor* tensor, const char* name);

Status dtype_in(const Tensor& tensor, const char* name, std::initializer_list<Dtype> allowed,
                Status status = MOE_ERROR_INVALID);

// The dtype of another argument.
Status same_dtype(const Tensor& tensor, const char* name, Dtype needed, const char* other,
                  Status status = MOE_ERROR_INVALID);

Status rank_is(const Tensor& tensor, const char* name, int32_t rank, Status status);

// A dimension of `needed` of -1 accepts anything. `layout` says what the shape means, e.g. "(tokens,
// hidden)".
Status shape_is(const Tensor& tensor, const char* name, std::initializer_list<int64_t> needed, const char* layout,
                Status status);

}  // namespace moe
