/* Matrix product of the rows of each expert with its weight, swiglu, and quantisation of each row to int8:
 *
 *   c = (x[i] @ weight[g]) * weightScale[g] * xScale[i];  s = silu(first half of c) * second half
 *   outputScale[i] = max|s| / 127;  output[i] = s / outputScale[i], rounded half to even
 *
 * x (m, k) int8; weight int8 in FRACTAL_NZ: a storage of five dimensions, whatever its format says, its view those
 * five or (e, k, n); weightScale (e, n) fp32, fp16 or bf16; xScale (m) fp32; groupList int64, at most e ends of the
 * experts' rows (counts are something else); output (m, n/2) int8, outputScale (m) fp32. bias is for int4 weights (e,
 * n) fp32; offset and outputOffset are not used.
 *
 * Composite executor. Errors: 161001 and 161002; the run step returns 561000.
 */
#ifndef MOE_ACLNN_GROUPED_MATMUL_SWIGLU_QUANT_WEIGHT_NZ_H
#define MOE_ACLNN_GROUPED_MATMUL_SWIGLU_QUANT_WEIGHT_NZ_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnGroupedMatmulSwigluQuantWeightNZGetWorkspaceSize(
    const aclTensor* x, const aclTensor* weight, const aclTensor* bias, const aclTensor* offset,
    const aclTensor* weightScale, const aclTensor* xScale, const aclTensor* groupList, aclTensor* output,
    aclTensor* outputScale, aclTensor* outputOffset, uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnGroupedMatmulSwigluQuantWeightNZ(void* workspace, uint64_t workspaceSize,
                                                            aclOpExecutor* executor, aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
