/* aclnnDynamicQuant with smooth scales of groups: smoothScalesOptional (e, h), groupIndexOptional (e) int32 holding
 * the ends of their rows. dstType 2 is int8; a null offsetOut means symmetric, the only form there is here. */
#ifndef MOE_ACLNN_DYNAMIC_QUANT_V2_H
#define MOE_ACLNN_DYNAMIC_QUANT_V2_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnDynamicQuantV2GetWorkspaceSize(const aclTensor* x, const aclTensor* smoothScalesOptional,
                                                          const aclTensor* groupIndexOptional, int64_t dstType,
                                                          const aclTensor* yOut, const aclTensor* scaleOut,
                                                          const aclTensor* offsetOut, uint64_t* workspaceSize,
                                                          aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnDynamicQuantV2(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                          aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
