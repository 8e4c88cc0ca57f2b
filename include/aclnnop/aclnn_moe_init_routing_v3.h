/* Sorts the rows of a batch by expert, for the experts of activeExpertRange [first, last), with quantisation on the
 * way.
 *
 * x (n, h) fp32, fp16, bf16 or int8; expertIdx (n, k) int32. quantMode -1: expandedXOut has the dtype of x, and
 * expandedScaleOut (n*k) fp32 the gathered scale (n), where given; 0: int8 by one scale and offset, each (1); 1: int8
 * by a scale of each row, which expandedScaleOut returns, after smoothing with scale (experts or 1, h).
 * expandedRowIdxOut (n*k) int32: with rowIdxType 0 where pair i*k + j went, -1 for none; with 1 the pair that a row
 * came from. expertTokensCountOrCumsumOut int64: expertTokensNumType 0 ends, 1 counts, each of the range, 2
 * (expertNum, 2) pairs of expert and count.
 *
 * Composite executor. The range may not be null, although the header of a card does not say so.
 */
#ifndef MOE_ACLNN_MOE_INIT_ROUTING_V3_H
#define MOE_ACLNN_MOE_INIT_ROUTING_V3_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnMoeInitRoutingV3GetWorkspaceSize(
    const aclTensor* x, const aclTensor* expertIdx, const aclTensor* scaleOptional, const aclTensor* offsetOptional,
    int64_t activeNum, int64_t expertCapacity, int64_t expertNum, int64_t dropPadMode, int64_t expertTokensNumType,
    bool expertTokensNumFlag, int64_t quantMode, const aclIntArray* activeExpertRangeOptional, int64_t rowIdxType,
    const aclTensor* expandedXOut, const aclTensor* expandedRowIdxOut, const aclTensor* expertTokensCountOrCumsumOut,
    const aclTensor* expandedScaleOut, uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnMoeInitRoutingV3(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                            aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
