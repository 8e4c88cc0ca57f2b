/* Copies srcTensor to dstTensor between ND and FRACTAL_NZ.
 *
 * dstTensor has the view and dtype of srcTensor, and the format and storage shape that
 * aclnnNpuFormatCastCalculateSizeAndFormat reports.
 *
 * Composite executor. Errors: 161001, 161002; a FRACTAL_NZ source that shall become FRACTAL_NZ: 361001.
 */
#ifndef MOE_ACLNN_NPU_FORMAT_CAST_H
#define MOE_ACLNN_NPU_FORMAT_CAST_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnNpuFormatCastGetWorkspaceSize(const aclTensor* srcTensor, aclTensor* dstTensor,
                                                         uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnNpuFormatCast(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                         aclrtStream stream);

/* The storage shape and format of srcTensor in dstFormat, which is ACL_FORMAT_ND or ACL_FORMAT_FRACTAL_NZ;
 * additionalDtype is -1 or the data type of srcTensor. *dstShape is made by new int64_t[] and belongs to the caller,
 * who uses delete[]. */
ACLNN_API aclnnStatus aclnnNpuFormatCastCalculateSizeAndFormat(const aclTensor* srcTensor, const int dstFormat,
                                                               const int additionalDtype, int64_t** dstShape,
                                                               uint64_t* dstShapeSize, int* actualFormat);

#ifdef __cplusplus
}
#endif

#endif
