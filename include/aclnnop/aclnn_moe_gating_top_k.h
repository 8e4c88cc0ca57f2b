/* The router of models whose experts come in groups: scores s = softmax(x) (normType 0) or sigmoid(x) (1), of which k
 * are chosen by s + bias among the kGroup best of groupCount groups; yOut is s of the chosen, normalised to their sum
 * with normType 1, times routedScalingFactor.
 *
 * x (n, e) fp32, fp16 or bf16; biasOptional (e) of the same dtype; groupSelectMode 0 ranks groups by their largest
 * value, 1 by the sum of the two largest; renorm 0. yOut (n, k), expertIdxOut (n, k) int32, outOut (n, e) fp32: s,
 * written with outFlag.
 *
 * Individual executor. Dtypes: 161002; shapes and attributes: 561002.
 */
#ifndef MOE_ACLNN_MOE_GATING_TOP_K_H
#define MOE_ACLNN_MOE_GATING_TOP_K_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnMoeGatingTopKGetWorkspaceSize(const aclTensor* x, const aclTensor* biasOptional, int64_t k,
                                                         int64_t kGroup, int64_t groupCount, int64_t groupSelectMode,
                                                         int64_t renorm, int64_t normType, bool outFlag,
                                                         double routedScalingFactor, double eps, const aclTensor* yOut,
                                                         const aclTensor* expertIdxOut, const aclTensor* outOut,
                                                         uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnMoeGatingTopK(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                         aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
