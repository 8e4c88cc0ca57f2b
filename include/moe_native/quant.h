/* Dynamic int8 quantisation of rows, and the gated activation swiglu.
 *
 * Documents: torch_npu.npu_dynamic_quant; aclnnDynamicQuant, aclnnDynamicQuantV2.
 *            torch_npu.npu_swiglu; aclnnSwiGlu.
 *
 * Numerics of both: float32, each operation rounded on its own, bit-identical on every instruction set, in every
 * position of a row and for every number of threads.
 */
#ifndef MOE_NATIVE_QUANT_H
#define MOE_NATIVE_QUANT_H

#include "moe_native/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Every row r (all dimensions but the last, H, flattened to R rows) gets its own scale:
 *
 *   v        = input[r] * smooth_scales[g]      float32; without smooth_scales v = input[r]
 *   scale[r] = max|v| / 127
 *   y[r]     = v / scale[r], rounded half to even, clamped to [-128, 127]
 *
 * so that v is about y * scale. A row whose scale is 0, inf or NaN has codes 0. Without group_index there is one row
 * of smooth_scales; with it, row r belongs to the group g with group_index[g-1] <= r < group_index[g].
 *
 *   input          (..., H), 2 to 8 dimensions  float16, bfloat16, float32
 *   smooth_scales  optional; (H,), or (E, H) with group_index  the dtype of input
 *   group_index    optional, needs smooth_scales; (E,)  int32 or int64: ends of the groups, non-decreasing, the last R
 *   y              the shape of input  int8
 *   scale          the shape of input without H  float32
 *
 * Under limits (MOE_LIMITS_ATLAS_A2, MOE_LIMITS_SEED) input is float16 or bfloat16 and E at most 1024.
 */
typedef struct moe_dynamic_quant_args {
    const moe_tensor* input;
    const moe_tensor* smooth_scales;
    const moe_tensor* group_index;
    moe_tensor* y;
    moe_tensor* scale;
} moe_dynamic_quant_args;

/* Null tensors: 161001. All else, the contents of group_index at the run step included: 161002. With MOE_DATA_SKIP
 * an end that lies before the previous one or beyond R closes an empty group, and rows behind the last end are
 * quantised without smooth_scales. */
MOE_API moe_status moe_dynamic_quant_shapes(const moe_dynamic_quant_args* args, moe_tensor outputs[2]);
MOE_API moe_status moe_dynamic_quant_check(const moe_dynamic_quant_args* args);
MOE_API moe_status moe_dynamic_quant_plan(const moe_dynamic_quant_args* args, moe_plan* plan);
MOE_API moe_status moe_dynamic_quant_run(const moe_dynamic_quant_args* args, const moe_plan* plan, void* workspace,
                                         uint64_t workspace_size, const moe_run_options* options);

/* With a the first and b the second half of input along dim:
 *
 *   out = a / (1 + exp(-a)) * b, rounded once to the dtype of input
 *
 * An exp(-a) that overflows gives -0 (times b), not NaN.
 *
 *   input  1 to 8 dimensions, none empty, an even number along dim  float16, bfloat16, float32
 *   out    the shape of input, half as large along dim  the dtype of input
 */
typedef struct moe_swiglu_args {
    const moe_tensor* input;
    int64_t dim; /* -rank..rank-1 */
    moe_tensor* out;
} moe_swiglu_args;

/* Null tensors: 161001. Dtypes and formats: 161002. Rank, dim and sizes: 561002. */
MOE_API moe_status moe_swiglu_shapes(const moe_swiglu_args* args, moe_tensor outputs[1]);
MOE_API moe_status moe_swiglu_check(const moe_swiglu_args* args);
MOE_API moe_status moe_swiglu_plan(const moe_swiglu_args* args, moe_plan* plan);
MOE_API moe_status moe_swiglu_run(const moe_swiglu_args* args, const moe_plan* plan, void* workspace,
                                  uint64_t workspace_size, const moe_run_options* options);

#ifdef __cplusplus
}
#endif

#endif
