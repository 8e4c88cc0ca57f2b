/* A view of the caller's memory: what every operator takes and fills. */
#ifndef MOE_NATIVE_TENSOR_H
#define MOE_NATIVE_TENSOR_H

#include <stdint.h>

#include "moe_native/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_MAX_RANK 8

/* Element types; the numbers equal those of aclDataType. The last enumerator, here and below, makes every int a value
 * of the type also in C++, so that numbers of nobody can be refused. */
typedef enum moe_dtype {
    MOE_UNDEFINED = -1,
    MOE_FLOAT32 = 0,
    MOE_FLOAT16 = 1,
    MOE_INT8 = 2,
    MOE_INT32 = 3,
    MOE_UINT8 = 4,
    MOE_INT16 = 6,
    MOE_UINT16 = 7,
    MOE_UINT32 = 8,
    MOE_INT64 = 9,
    MOE_UINT64 = 10,
    MOE_FLOAT64 = 11,
    MOE_BOOL = 12, /* one byte; any non-zero byte is true */
    MOE_BFLOAT16 = 27,
    MOE_INT4 = 29, /* two's complement, two a byte along the last dimension, even element in the low nibble */
    MOE_DTYPE_RANGE = INT32_MAX
} moe_dtype;

/* Storage formats; the numbers equal those of aclFormat. */
typedef enum moe_format {
    MOE_FORMAT_ND = 2,  /* plain, described by shape and stride */
    MOE_FORMAT_NZ = 29, /* FRACTAL_NZ: tiles of 16 rows by c0 columns; described by storage_shape, contiguous */
    /* Of this library only: the contents of a packed weight, contiguous; described by storage_shape. See pack.h. */
    MOE_FORMAT_PACKED = 1000,
    MOE_FORMAT_RANGE = INT32_MAX
} moe_format;

/* A tensor does not own its memory. `stride` is in bytes and may be zero, negative, or no multiple of the
 * item size; operators copy what is not contiguous into their workspace. With MOE_FORMAT_NZ `shape` is the
 * logical shape (..., k, n), `storage_shape` is (..., n1, k1, 16, c0), the memory is contiguous and `stride` is
 * not used; likewise with MOE_FORMAT_PACKED, where the shape is (e, k, n) and `storage_shape` is (e, ceil(n / 32),
 * bytes of 32 columns, number of the layout). */
typedef struct moe_tensor {
    void* data;
    moe_dtype dtype;
    moe_format format;
    int32_t rank;
    int32_t storage_rank; /* 0 for MOE_FORMAT_ND */
    int64_t shape[MOE_MAX_RANK];
    int64_t stride[MOE_MAX_RANK];
    int64_t storage_shape[MOE_MAX_RANK];
} moe_tensor;

/* A contiguous MOE_FORMAT_ND tensor over `data`. `rank` is clamped to 0..MOE_MAX_RANK. For MOE_INT4 the
 * strides are meaningless and memory is contiguous. */
MOE_API moe_tensor moe_tensor_make(void* data, moe_dtype dtype, int32_t rank, const int64_t* shape);

/* Bytes of one element; 0 for MOE_INT4, which has two elements a byte, and for numbers that are no dtype. */
MOE_API int64_t moe_dtype_size(moe_dtype dtype);

/* "float16", "int4", ...; "unknown dtype" for other numbers. */
MOE_API const char* moe_dtype_name(moe_dtype dtype);

#ifdef __cplusplus
}
#endif

#endif
