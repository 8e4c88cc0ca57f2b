/* The weighted sum of each token's expert outputs:
 *
 *   out[i] = x1[i] + x2[i] + sum over j < k of scales[i,j] * (expandedX[expandedRowIdx[j*n + i]]
 *                                                             + bias[expandedExpertIdx[i,j]])
 *
 * expandedX (n*k, h), x1, x2Optional (n, h), bias (e, h), scales (n, k), out (n, h): fp32, fp16 or bf16, the same;
 * indices int32: expandedRowIdx (n*k), expandedExpertIdx (n, k).
 *
 * Individual executor. Dtypes: 161002; shapes: 561002.
 */
#ifndef MOE_ACLNN_MOE_FINALIZE_ROUTING_H
#define MOE_ACLNN_MOE_FINALIZE_ROUTING_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnMoeFinalizeRoutingGetWorkspaceSize(const aclTensor* expandedX, const aclTensor* x1,
                                                              const aclTensor* x2Optional, const aclTensor* bias,
                                                              const aclTensor* scales, const aclTensor* expandedRowIdx,
                                                              const aclTensor* expandedExpertIdx, const aclTensor* out,
                                                              uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnMoeFinalizeRouting(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                              aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
