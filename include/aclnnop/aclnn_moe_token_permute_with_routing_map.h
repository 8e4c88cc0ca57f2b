/* Gathers the rows of tokens (t, h) by the experts that routingMap (t, e) marks, expert by expert.
 *
 * tokens fp32, fp16 or bf16; routingMap int8 or bool; probs (t, e), optional, together with permuteProbsOutOptional.
 * Without dropAndPad each row of the map holds numOutTokens/t ones, and row r of permuteTokensOut comes from the pair
 * that sorts r-th; with it every expert takes its first numOutTokens/e tokens. sortedIndicesOut int32 leads back.
 *
 * Composite executor. Errors: 161001 and 161002.
 */
#ifndef MOE_ACLNN_MOE_TOKEN_PERMUTE_WITH_ROUTING_MAP_H
#define MOE_ACLNN_MOE_TOKEN_PERMUTE_WITH_ROUTING_MAP_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnMoeTokenPermuteWithRoutingMapGetWorkspaceSize(
    const aclTensor* tokens, const aclTensor* routingMap, const aclTensor* probsOptional, int64_t numOutTokens,
    bool dropAndPad, aclTensor* permuteTokensOut, aclTensor* permuteProbsOutOptional, aclTensor* sortedIndicesOut,
    uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnMoeTokenPermuteWithRoutingMap(void* workspace, uint64_t workspaceSize,
                                                         aclOpExecutor* executor, aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
