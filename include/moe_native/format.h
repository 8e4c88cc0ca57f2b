/* FRACTAL_NZ: the tiled storage in which matrices, mostly weights, are handed to the matrix operators.
 *
 * Document: torch_npu.npu_format_cast; aclnnNpuFormatCast, aclnnTransMatmulWeight,
 * aclnnCalculateMatmulWeightSize.
 *
 * A matrix (..., k, n) is cut into tiles of 16 rows by c0 columns. A tile is contiguous; tiles that lie below
 * each other follow each other; then comes the next column of tiles:
 *
 *   k1 = ceil(k / 16)    n1 = ceil(n / c0)
 *   storage[..., b, a, i, j] = matrix[..., 16 * a + i, c0 * b + j], 0 where that lies outside the matrix
 *   storage shape: (..., n1, k1, 16, c0)
 *
 * c0 is a power of two from 2 to 64. A device uses 32 bytes of elements: 64 int4, 32 of 1 byte, 16 of 2 bytes,
 * 8 of 4 bytes, 4 of 8 bytes. Leading dimensions (experts, batch) are untouched; the matrix has 2 to 6 dimensions.
 *
 * A conversion to FRACTAL_NZ writes zeros to every padding cell. Whoever reads FRACTAL_NZ must not rely on
 * them, and the conversion back does not look at them. Elements are moved as they are: NaN payloads, -0.0 and
 * packed contents (eight int4 in an int32) survive.
 */
#ifndef MOE_NATIVE_FORMAT_H
#define MOE_NATIVE_FORMAT_H

#include "moe_native/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_NZ_ROWS 16 /* rows of a tile, for every dtype */

/* Columns of a tile that take 32 bytes: 64 for MOE_INT4; 0 for numbers that are no dtype. */
MOE_API int64_t moe_nz_default_c0(moe_dtype dtype);

/* Describes a matrix of `shape` in FRACTAL_NZ over `data`, which may be null while only its storage shape is
 * wanted. A wrong rank, c0 or dimension, or a size beyond 64-bit arithmetic: 161002. */
MOE_API moe_status moe_nz_make(void* data, moe_dtype dtype, int32_t rank, const int64_t* shape, int64_t c0,
                               moe_tensor* tensor);

/* Elements that the storage of a matrix takes, padding included. */
MOE_API moe_status moe_nz_element_count(int32_t rank, const int64_t* shape, int64_t c0, int64_t* count);

/* Whether a tensor described by someone else is a FRACTAL_NZ matrix of numbers whose storage shape belongs to its
 * shape: MOE_OK or 161002 (null: 161001). Every operator checks the shapes of every FRACTAL_NZ tensor. */
MOE_API moe_status moe_nz_check(const moe_tensor* tensor);

/* Where the element `index` (rank numbers) of a FRACTAL_NZ matrix lies: its position in the storage, in
 * elements, and its index into the storage shape (rank + 2 numbers). Either may be null. An index outside the
 * matrix: 161002. */
MOE_API moe_status moe_nz_locate(const moe_tensor* tensor, const int64_t* index, int64_t* position,
                                 int64_t* storage_index);

typedef struct moe_format_cast_args {
    const moe_tensor* input; /* any dtype but bool and int4, 2 to 6 dimensions; MOE_FORMAT_ND may be strided */
    moe_format acl_format;   /* the other format */
    int64_t c0;              /* columns of a tile of the result; 0: 32 bytes of them. Not read for MOE_FORMAT_ND */
    bool in_place;           /* `out` lies in the memory of `input`: a copy of the input is kept in the workspace */
    moe_tensor* out;         /* same dtype and shape; MOE_FORMAT_ND may be strided */
} moe_format_cast_args;

/* Null tensors: 161001. An input that is in `acl_format` already: 361001. All else: 161002. Without `in_place`
 * nothing is booked. */
MOE_API moe_status moe_format_cast_shapes(const moe_format_cast_args* args, moe_tensor outputs[1]);
MOE_API moe_status moe_format_cast_check(const moe_format_cast_args* args);
MOE_API moe_status moe_format_cast_plan(const moe_format_cast_args* args, moe_plan* plan);
MOE_API moe_status moe_format_cast_run(const moe_format_cast_args* args, const moe_plan* plan, void* workspace,
                                       uint64_t workspace_size, const moe_run_options* options);

#ifdef __cplusplus
}
#endif

#endif
