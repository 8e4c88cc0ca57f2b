/* Matrix product of the rows of each expert with its weight, scattered back to the tokens of the batch:
 *
 *   y[i]             = (x1[i] @ x2[g] * scale[g] + bias[g]) * pertokenScale[i] * logit[i]     for row i of group g
 *   out[rowIndex[i]] = the sum of its rows y[i], plus sharedInputWeight * sharedInput from row sharedInputOffset on
 *
 * x1 (m, k) int8; x2 int8 in FRACTAL_NZ, view (e, k, n); scale (e, n), pertokenScale, logit (m) fp32; groupList (e),
 * rowIndex (m) int64; sharedInput (rows, n) bf16; bias may be null; out (batch, n) fp32. k a multiple of 16, n one of
 * 32 and at least 256. groupListType 1: groupList counts rows, 0: ends. dtype 0 and no transposition.
 *
 * Composite executor. Errors: 161001 and 161002.
 */
#ifndef MOE_ACLNN_GROUPED_MATMUL_FINALIZE_ROUTING_WEIGHT_NZ_H
#define MOE_ACLNN_GROUPED_MATMUL_FINALIZE_ROUTING_WEIGHT_NZ_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnGroupedMatmulFinalizeRoutingWeightNzGetWorkspaceSize(
    const aclTensor* x1, const aclTensor* x2, const aclTensor* scale, const aclTensor* bias,
    const aclTensor* pertokenScaleOptional, const aclTensor* groupList, const aclTensor* sharedInput,
    const aclTensor* logit, const aclTensor* rowIndex, int64_t dtype, float sharedInputWeight,
    int64_t sharedInputOffset, bool transposeX1, bool transposeX2, int64_t groupListType, aclTensor* out,
    uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnGroupedMatmulFinalizeRoutingWeightNz(void* workspace, uint64_t workspaceSize,
                                                                aclOpExecutor* executor, aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
