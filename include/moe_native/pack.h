/* Weights of the grouped matrix products and of the feed-forward block, packed once for all calls: in the order in which
 * the kernels of a processor read them, behind a header that says which one it is. The caller owns the memory, and may
 * keep it in a file.
 *
 * A packed weight is one run of bytes: a header of MOE_PACKED_HEADER bytes and the contents. The contents are panels of
 * `width` columns, in which `step` consecutive k of a column lie side by side; step, which may be 1, depends on the
 * instruction set, and for bfloat16 on moe_set_bf16_mode:
 *
 *   contents[e, n / width, k / step, column, k % step], k and n padded with zeros
 *
 * int8 and int4 take a byte each, in panels of 32 columns, whose order depends on the instruction set too. float32, float16
 * and bfloat16 lie as they are, in panels of 8, 16 or 64 columns; the last one is as narrow as a multiple of 16 (of 8 where
 * panels have 8) can be.
 *
 * Every operator that takes the weight computes the same bits from it as from the one it was made of, on every
 * instruction set. On the one it was packed for (moe_packed_is_current) it is fastest; elsewhere parts of it are packed
 * again in every call, as with any other weight.
 *
 * The header holds a magic number, the byte order, the version of the format, dtype, shape and layout, all sizes, and
 * sums over itself and the contents. Whatever it says is checked against the memory before it is believed.
 */
#ifndef MOE_NATIVE_PACK_H
#define MOE_NATIVE_PACK_H

#include "moe_native/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MOE_PACKED_HEADER 128
#define MOE_PACKED_VERSION 2

/* w: int8, int32 or int4 in any form of grouped_matmul.h; float32, float16 or bfloat16 (e, k, n), or (k, n) for e = 1; or
 * packed already. */
typedef struct moe_pack_args {
    const moe_tensor* w;
    int64_t k;       /* 0: as many as the shape of w says, padding of tiles included */
    int64_t n;       /* likewise; eight to an int32 */
    moe_tensor* out; /* uint8 (bytes,), contiguous. From an address that 64 divides, kernels read it fastest */
} moe_pack_args;

/* Null tensors: 161001. All else, also weights without k or n: 161002. `shapes` tells the bytes needed. */
MOE_API moe_status moe_pack_shapes(const moe_pack_args* args, moe_tensor outputs[1]);
MOE_API moe_status moe_pack_check(const moe_pack_args* args);
MOE_API moe_status moe_pack_plan(const moe_pack_args* args, moe_plan* plan);
MOE_API moe_status moe_pack_run(const moe_pack_args* args, const moe_plan* plan, void* workspace,
                                uint64_t workspace_size, const moe_run_options* options);

/* Describes the packed weight in `memory` as a tensor (e, k, n) of its dtype, which the operators take as a weight.
 * Memory that is no packed weight, belongs to a newer version or another byte order, is cut off, or has a header that
 * contradicts itself: 161002. Reads the header only. Null: 161001. */
MOE_API moe_status moe_packed_view(const void* memory, uint64_t size, moe_tensor* tensor);

/* The same, and whether the contents are those that were packed. Reads all of them. */
MOE_API moe_status moe_packed_verify(const void* memory, uint64_t size);

/* Whether the tensor is packed as pack would pack it now, for the kernels that would be used. */
MOE_API bool moe_packed_is_current(const moe_tensor* tensor);

#ifdef __cplusplus
}
#endif

#endif
