/* aclnnGroupedMatmulFinalizeRoutingV2 with tuningConfigOptional: its first number, the expected rows of an expert,
 * lies in [0, m] and changes no result.
 *
 * x1 (m, k) int8; x2 int32 (e, k, n/8), eight int4 of a row in each, low nibble first; scale int64 (e, 1, n) holding
 * the bits of fp32; bias (e, n), pertokenScale and logit (m) fp32; groupList (e), rowIndex (m) int64; sharedInput
 * (rows, n) bf16; out (batch, n) fp32. groupListType 1: groupList counts rows, 0: ends. dtype 0 and no transposition.
 *
 * Composite executor. Errors: 161001 and 161002.
 */
#ifndef MOE_ACLNN_GROUPED_MATMUL_FINALIZE_ROUTING_V3_H
#define MOE_ACLNN_GROUPED_MATMUL_FINALIZE_ROUTING_V3_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnGroupedMatmulFinalizeRoutingV3GetWorkspaceSize(
    const aclTensor* x1, aclTensor* x2, const aclTensor* scale, const aclTensor* bias, const aclTensor* offsetOptional,
    const aclTensor* antiquantScaleOptional, const aclTensor* antiquantOffsetOptional,
    const aclTensor* pertokenScaleOptional, const aclTensor* groupList, const aclTensor* sharedInput,
    const aclTensor* logit, const aclTensor* rowIndex, int64_t dtype, float sharedInputWeight,
    int64_t sharedInputOffset, bool transposeX1, bool transposeX2, int64_t groupListType,
    const aclIntArray* tuningConfigOptional, aclTensor* out, uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnGroupedMatmulFinalizeRoutingV3(void* workspace, uint64_t workspaceSize,
                                                          aclOpExecutor* executor, aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
