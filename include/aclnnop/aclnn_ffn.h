/* Two matrix products with an activation between them: y = act(x @ weight1 + bias1) @ weight2 + bias2, each expert on
 * its own rows.
 *
 * x (..., k) fp16, bf16 or int8; weights (k, n1) and (n2, k), or (e, ...) with experts, n2 = k; y (..., k). Names of
 * activations, in any case: gelu, relu, fastgelu, silu, geglu, swiglu, reglu, the last three with half of n1 as a
 * gate, fp16 and without experts. int8 x goes with scale, offset, deqScale1 and 2, int8 or int4 weights under fp16 or
 * bf16 x with antiquant scales and offsets. innerPrecise 0 keeps fp32 between the products, 1 rounds to fp16.
 *
 * expertTokens: rows of each expert, on the host; null without experts.
 *
 * Composite executor. A null activation crashes on a card. The run step returns 561000 for everything.
 */
#ifndef MOE_ACLNN_FFN_H
#define MOE_ACLNN_FFN_H

#include "aclnn/aclnn_base.h"
#include "aclnn_util.h"

#ifdef __cplusplus
extern "C" {
#endif

ACLNN_API aclnnStatus aclnnFFNGetWorkspaceSize(const aclTensor* x, const aclTensor* weight1, const aclTensor* weight2,
                                               const aclIntArray* expertTokens, const aclTensor* bias1,
                                               const aclTensor* bias2, const aclTensor* scale, const aclTensor* offset,
                                               const aclTensor* deqScale1, const aclTensor* deqScale2,
                                               const aclTensor* antiquantScale1, const aclTensor* antiquantScale2,
                                               const aclTensor* antiquantOffset1, const aclTensor* antiquantOffset2,
                                               const char* activation, int64_t innerPrecise, const aclTensor* y,
                                               uint64_t* workspaceSize, aclOpExecutor** executor);
ACLNN_API aclnnStatus aclnnFFN(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream);

#ifdef __cplusplus
}
#endif

#endif
