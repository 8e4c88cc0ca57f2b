/* Sorts the rows of a batch by expert: x (n, h) goes to expandedX, one copy per chosen expert, rows of one expert
 * together, tokens in their order.
 *
 * x, expandedXOut: fp32, fp16 or bf16, the same; expertIdx (n, k) int32. dropPadMode 0: expandedXOut is (min(n*k,
 * activeNum), h), activeNum 0 standing for all; mode 1: (expertNum, expertCapacity, h), what exceeds the capacity is
 * dropped and what is missing is zero. expandedRowIdxOut (n*k) int32: the row that pair i*k + j went to, -1 for none.
 * expertTokensCountOrCumsumOut (expertNum) int32, mode 0: ends of the experts' rows with flag 1, counts with flag 2,
 * null with 0. expertTokensBeforeCapacityOut (expertNum) int32, mode 1 with its flag: counts before dropping.
 *
 * Individual executor. Dtypes: 161002; shapes and attributes: 561002.
 */
#ifndef MOE_ACLNN_MOE_INIT_ROUTING_V2_H
#define MOE_ACLNN_MOE_INIT_ROUTING_V2_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnMoeInitRoutingV2GetWorkspaceSize(
    const aclTensor* x, const aclTensor* expertIdx, int64_t activeNum, int64_t expertCapacity, int64_t expertNum,
    int64_t dropPadMode, int64_t expertTokensCountOrCumsumFlag, bool expertTokensBeforeCapacityFlag,
    const aclTensor* expandedXOut, const aclTensor* expandedRowIdxOut,
    const aclTensor* expertTokensCountOrCumsumOutOptional, const aclTensor* expertTokensBeforeCapacityOutOptional,
    uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnMoeInitRoutingV2(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                            aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
