/* aclnnMoeFinalizeRouting with optional terms and four layouts: dropPadMode 0 and 1 number the pairs j*n + i, 2 and 3
 * i*k + j; 0 and 2 take expandedX (n*k, h), 1 and 3 (e, c, h) where an index of -1 is a row of zeros.
 *
 * x2 needs x1, bias needs expertIdx. scales may also be fp32 beside bf16; absent scales are 1.
 *
 * Individual executor. Dtypes: 161002; shapes and attributes: 561002.
 */
#ifndef MOE_ACLNN_MOE_FINALIZE_ROUTING_V2_H
#define MOE_ACLNN_MOE_FINALIZE_ROUTING_V2_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnMoeFinalizeRoutingV2GetWorkspaceSize(
    const aclTensor* expandedX, const aclTensor* expandedRowIdx, const aclTensor* x1Optional,
    const aclTensor* x2Optional, const aclTensor* biasOptional, const aclTensor* scalesOptional,
    const aclTensor* expertIdxOptional, int64_t dropPadMode, const aclTensor* out, uint64_t* workspaceSize,
    aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnMoeFinalizeRoutingV2(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                                aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
