/* Combine step of a Mixture-of-Experts layer: the weighted sum of each token's expert outputs.
 *
 * Document: torch_npu.npu_moe_finalize_routing; aclnnMoeFinalizeRouting, aclnnMoeFinalizeRoutingV2.
 *
 * With R tokens, K experts per token, H columns, E experts:
 *
 *   acc[i] = skip1[i] + skip2[i]
 *   for k = 0 .. K-1:  acc[i] += scales[i,k] * (rows[index[p]] + bias[expert[i,k]])
 *   out[i] = acc[i] rounded to the dtype of the rows
 *
 * p = k*R + i in drop_pad_mode 0 and 1, p = i*K + k in 2 and 3. An index of -1 (modes 1 and 3 only) stands
 * for a row of zeros: its bias still counts.
 *
 * Numerics: float32 throughout, terms in the order above, a multiplication and an addition per term (never
 * fused), one rounding to nearest even at the end. inf and NaN propagate; a NaN result is the positive quiet NaN
 * without payload. Bit-identical on every instruction set.
 *
 * | tensor                  | shape                                     | dtype                      |
 * | expanded_permuted_rows  | (R*K, H) modes 0, 2; (E, C, H) modes 1, 3 | float16, bfloat16, float32 |
 * | skip1, skip2            | (R, H), optional; skip2 needs skip1       | that of the rows           |
 * | bias                    | (E, H), optional; E >= K                  | that of the rows           |
 * | scales                  | (R, K), optional: all 1                   | float16, bfloat16, float32 |
 * | expanded_src_to_dst_row | (R*K,)                                    | int32                      |
 * | export_for_source_row   | (R, K), needed with bias, else never read | int32                      |
 * | out                     | (R, H)                                    | that of the rows           |
 */
#ifndef MOE_NATIVE_FINALIZE_H
#define MOE_NATIVE_FINALIZE_H

#include "moe_native/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moe_finalize_routing_args {
    const moe_tensor* expanded_permuted_rows;
    const moe_tensor* skip1;
    const moe_tensor* skip2;
    const moe_tensor* bias;
    const moe_tensor* scales;
    const moe_tensor* expanded_src_to_dst_row;
    const moe_tensor* export_for_source_row;
    int64_t drop_pad_mode; /* 0..3 */
    int64_t k;             /* experts per token when scales is absent; with scales 1 or scales.shape[1] */
    moe_tensor* out;
} moe_finalize_routing_args;

/* Null tensors: 161001. Dtypes: 161002. Shapes and attributes: 561002. Indices, at the run step: 161002. */
MOE_API moe_status moe_finalize_routing_shapes(const moe_finalize_routing_args* args, moe_tensor outputs[1]);
MOE_API moe_status moe_finalize_routing_check(const moe_finalize_routing_args* args);
MOE_API moe_status moe_finalize_routing_plan(const moe_finalize_routing_args* args, moe_plan* plan);
MOE_API moe_status moe_finalize_routing_run(const moe_finalize_routing_args* args, const moe_plan* plan,
                                            void* workspace, uint64_t workspace_size, const moe_run_options* options);

#ifdef __cplusplus
}
#endif

#endif
