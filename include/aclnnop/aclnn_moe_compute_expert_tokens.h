/* out[i] = how many elements of sortedExperts are at most i: the ends of the experts' rows.
 *
 * sortedExperts int32, one dimension, ascending; out (numExperts) int32.
 *
 * Individual executor. Dtypes: 161002; shapes and attributes: 561002.
 */
#ifndef MOE_ACLNN_MOE_COMPUTE_EXPERT_TOKENS_H
#define MOE_ACLNN_MOE_COMPUTE_EXPERT_TOKENS_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnMoeComputeExpertTokensGetWorkspaceSize(const aclTensor* sortedExperts, int64_t numExperts,
                                                                  const aclTensor* out, uint64_t* workspaceSize,
                                                                  aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnMoeComputeExpertTokens(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                                  aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
