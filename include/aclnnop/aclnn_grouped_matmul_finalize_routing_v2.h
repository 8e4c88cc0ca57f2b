/* aclnnGroupedMatmulFinalizeRouting with offset (e, 1, n) fp32, which adds to the product before the scales of the
 * rows. antiquantScale and antiquantOffset have to be null.
 *
 * x1 (m, k) int8; x2 int32 (e, k, n/8), eight int4 of a row in each, low nibble first; scale int64 (e, 1, n) holding
 * the bits of fp32; bias (e, n), pertokenScale and logit (m) fp32; groupList (e), rowIndex (m) int64; sharedInput
 * (rows, n) bf16; out (batch, n) fp32. groupListType 1: groupList counts rows, 0: ends. dtype 0 and no transposition.
 *
 * Composite executor. Errors: 161001 and 161002.
 */
#ifndef MOE_ACLNN_GROUPED_MATMUL_FINALIZE_ROUTING_V2_H
#define MOE_ACLNN_GROUPED_MATMUL_FINALIZE_ROUTING_V2_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnGroupedMatmulFinalizeRoutingV2GetWorkspaceSize(
    const aclTensor* x1, aclTensor* x2, const aclTensor* scaleOptional, const aclTensor* biasOptional,
    const aclTensor* offsetOptional, const aclTensor* antiquantScaleOptional, const aclTensor* antiquantOffsetOptional,
    const aclTensor* pertokenScaleOptional, const aclTensor* groupListOptional, const aclTensor* sharedInputOptional,
    const aclTensor* logitOptional, const aclTensor* rowIndexOptional, int64_t dtype, float sharedInputWeight,
    int64_t sharedInputOffset, bool transposeX1, bool transposeX2, int64_t groupListType, aclTensor* out,
    uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnGroupedMatmulFinalizeRoutingV2(void* workspace, uint64_t workspaceSize,
                                                          aclOpExecutor* executor, aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
