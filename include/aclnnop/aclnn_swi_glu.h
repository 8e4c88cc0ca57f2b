/* out = a / (1 + exp(-a)) * b, a and b being the halves of x along dim.
 *
 * x and out fp32, fp16 or bf16, one to eight dimensions, an even number along dim.
 *
 * Individual executor. Dtypes: 161002; rank, dim and sizes: 561002.
 */
#ifndef MOE_ACLNN_SWI_GLU_H
#define MOE_ACLNN_SWI_GLU_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnSwiGluGetWorkspaceSize(const aclTensor* x, int64_t dim, const aclTensor* out,
                                                  uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnSwiGlu(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
