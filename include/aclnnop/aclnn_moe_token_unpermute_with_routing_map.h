/* Takes permutedTokens back to the order of the batch, summing the rows of a token, each times its probability where
 * probs (t, e) are given.
 *
 * sortedIndices int32 as aclnnMoeTokenPermuteWithRoutingMap returns it; routingMap (t, e) int8 or bool goes with
 * probs; without probs restoreShapeOptional holds (t, h). outIndex, permuteTokenId (int32) and permuteProbs are what
 * the backward pass needs.
 *
 * Composite executor. Errors: 161001 and 161002.
 */
#ifndef MOE_ACLNN_MOE_TOKEN_UNPERMUTE_WITH_ROUTING_MAP_H
#define MOE_ACLNN_MOE_TOKEN_UNPERMUTE_WITH_ROUTING_MAP_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnMoeTokenUnpermuteWithRoutingMapGetWorkspaceSize(
    const aclTensor* permutedTokens, const aclTensor* sortedIndices, const aclTensor* routingMapOptional,
    const aclTensor* probsOptional, bool paddedMode, const aclIntArray* restoreShapeOptional,
    aclTensor* unpermutedTokens, aclTensor* outIndex, aclTensor* permuteTokenId, aclTensor* permuteProbs,
    uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnMoeTokenUnpermuteWithRoutingMap(void* workspace, uint64_t workspaceSize,
                                                           aclOpExecutor* executor, aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
