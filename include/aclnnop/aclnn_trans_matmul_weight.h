/* Weights in the layout FRACTAL_NZ, in place.
 *
 * mmWeightRef (..., k, n) fp16, bf16 or int8, ND, over memory for the elements that aclnnCalculateMatmulWeightSizeV2
 * reports. The first function makes the tensor a FRACTAL_NZ one, the work rearranges its memory; a second time is
 * 161002.
 *
 * Composite executor.
 */
#ifndef MOE_ACLNN_TRANS_MATMUL_WEIGHT_H
#define MOE_ACLNN_TRANS_MATMUL_WEIGHT_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnTransMatmulWeightGetWorkspaceSize(aclTensor* mmWeightRef, uint64_t* workspaceSize,
                                                             aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnTransMatmulWeight(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                             aclrtStream stream);

/* Elements that a weight of this shape takes as FRACTAL_NZ: k rounded up to 16, n to 16, or to 32 for int8. The first
 * form is for fp16. */
ACLNN_API aclnnStatus aclnnCalculateMatmulWeightSize(const aclIntArray* tensorShape, uint64_t* weightTensorSize);
ACLNN_API aclnnStatus aclnnCalculateMatmulWeightSizeV2(const aclIntArray* tensorShape, aclDataType dataType,
                                                       uint64_t* weightTensorSize);

#ifdef __cplusplus
}
#endif

#endif
