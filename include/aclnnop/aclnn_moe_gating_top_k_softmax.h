/* Softmax of each row of x, and its k largest values with their experts, ties to the lower expert.
 *
 * x (n, e) or (b, s, e) fp32, fp16 or bf16; finishedOptional (n) or (b, s) bool: such a row gets expert e. yOut of x's
 * dtype, expertIdxOut and rowIdxOut int32, each (n, k) or (b, s, k); rowIdxOut[r, c] = c*n + r.
 *
 * Individual executor. Dtypes: 161002; shapes and attributes: 561002.
 */
#ifndef MOE_ACLNN_MOE_GATING_TOP_K_SOFTMAX_H
#define MOE_ACLNN_MOE_GATING_TOP_K_SOFTMAX_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnMoeGatingTopKSoftmaxGetWorkspaceSize(const aclTensor* x, const aclTensor* finishedOptional,
                                                                int64_t k, const aclTensor* yOut,
                                                                const aclTensor* expertIdxOut,
                                                                const aclTensor* rowIdxOut, uint64_t* workspaceSize,
                                                                aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnMoeGatingTopKSoftmax(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                                aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
