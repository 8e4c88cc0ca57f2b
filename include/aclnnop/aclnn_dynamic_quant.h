/* Quantises every row of x to int8 by a scale of its own: scaleOut = max|row| / 127, yOut = row / scaleOut rounded
 * half to even.
 *
 * x (..., h) fp16 or bf16, smoothScalesOptional (h) of the same dtype multiplies every row before; yOut int8 like x,
 * scaleOut fp32 without the last dimension.
 *
 * Composite executor. Errors: 161001 and 161002.
 */
#ifndef MOE_ACLNN_DYNAMIC_QUANT_H
#define MOE_ACLNN_DYNAMIC_QUANT_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnDynamicQuantGetWorkspaceSize(const aclTensor* x, const aclTensor* smoothScalesOptional,
                                                        const aclTensor* yOut, const aclTensor* scaleOut,
                                                        uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnDynamicQuant(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                        aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
