/* Gating of a Mixture-of-Experts layer: which experts a token goes to, with what weight, and how many rows each got.
 *
 * Documents: torch_npu.npu_moe_gating_top_k_softmax, npu_moe_gating_top_k_softmax_v2, npu_moe_gating_top_k,
 * npu_moe_compute_expert_tokens; aclnnMoeGatingTopKSoftmax, aclnnMoeGatingTopKSoftmaxV2, aclnnMoeGatingTopK,
 * aclnnMoeComputeExpertTokens.
 *
 * Order. "The k largest" are taken in descending order; of equal ones the lower position comes first (-0 equals 0),
 * NaN comes after everything, -inf included.
 *
 * Numerics. Inputs are widened to float32 exactly. Every operation is a float32 operation of its own, rounded to
 * nearest even; exp is the library's, within one unit in the last place. With E values in a row,
 *
 *   softmax   e[i] = exp(x[i] - max x),  p[i] = e[i] / S;  S adds e in 16 partial sums, the j-th over i = j modulo 16
 *             in ascending i, and these in halves: 16 to 8 to 4 to 2 to 1
 *   sigmoid   1 / (1 + exp(-x))
 *
 * so results are bit-identical on every instruction set, for every number of threads and every split of the rows. A
 * row without a softmax (a NaN, inf, or -inf alone) has probabilities NaN, hence the experts 0 .. k-1. NaN results are
 * the positive quiet NaN without payload.
 *
 * None of these operators has a data error. Null tensors: 161001. Dtypes: 161002. Shapes and attributes: 561002.
 * Tensors without elements are fine here, and so is k = 0 in the two softmax gatings; the aclnn functions refuse both.
 */
#ifndef MOE_NATIVE_GATING_H
#define MOE_NATIVE_GATING_H

#include "moe_native/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* p = softmax(x[r]) rounded to the dtype of x; y[r], expert_idx[r] = the k largest p and their experts.
 * A finished row keeps its y and gets the expert number E in every place. row_idx[r,c] = c * R + r.
 *
 * | tensor     | shape                       | dtype                       |
 * | x          | (R, E) or (B, S, E), R = BS | float16, bfloat16, float32  |
 * | finished   | x.shape[:-1], optional      | bool                        |
 * | y          | x.shape[:-1] + (k,)         | that of x                   |
 * | expert_idx | the same                    | int32                       |
 * | row_idx    | the same                    | int32                       |
 *
 * 0 <= k <= E, k <= 1024; no dimension of x above 2^31 - 1; R * k <= 2^31, so that row_idx can hold its numbers. */
typedef struct moe_gating_top_k_softmax_args {
    const moe_tensor* x;
    const moe_tensor* finished;
    int64_t k;
    moe_tensor* y;
    moe_tensor* expert_idx;
    moe_tensor* row_idx;
} moe_gating_top_k_softmax_args;

MOE_API moe_status moe_gating_top_k_softmax_shapes(const moe_gating_top_k_softmax_args* args, moe_tensor outputs[3]);
MOE_API moe_status moe_gating_top_k_softmax_check(const moe_gating_top_k_softmax_args* args);
MOE_API moe_status moe_gating_top_k_softmax_plan(const moe_gating_top_k_softmax_args* args, moe_plan* plan);
MOE_API moe_status moe_gating_top_k_softmax_run(const moe_gating_top_k_softmax_args* args, const moe_plan* plan,
                                                void* workspace, uint64_t workspace_size,
                                                const moe_run_options* options);

/* renorm 0: softmax, then the k largest of its float32 probabilities. renorm 1: the k largest of x, then softmax over
 * these k. y is rounded to the dtype of x once, at the end; finished rows as above.
 *
 * softmax is the whole softmax, float32 of the shape of x, when output_softmax is set and renorm is 0. Otherwise it is
 * described as float32 (0,), is not looked at, and may be null. x, finished, y, expert_idx and k as above, except that
 * there is no row_idx and no limit to R * k. */
typedef struct moe_gating_top_k_softmax_v2_args {
    const moe_tensor* x;
    const moe_tensor* finished;
    int64_t k;
    int64_t renorm;
    bool output_softmax;
    moe_tensor* y;
    moe_tensor* expert_idx;
    moe_tensor* softmax;
} moe_gating_top_k_softmax_v2_args;

MOE_API moe_status moe_gating_top_k_softmax_v2_shapes(const moe_gating_top_k_softmax_v2_args* args,
                                                      moe_tensor outputs[3]);
MOE_API moe_status moe_gating_top_k_softmax_v2_check(const moe_gating_top_k_softmax_v2_args* args);
MOE_API moe_status moe_gating_top_k_softmax_v2_plan(const moe_gating_top_k_softmax_v2_args* args, moe_plan* plan);
MOE_API moe_status moe_gating_top_k_softmax_v2_run(const moe_gating_top_k_softmax_v2_args* args, const moe_plan* plan,
                                                   void* workspace, uint64_t workspace_size,
                                                   const moe_run_options* options);

/* Group-limited top-k on biased scores. With G = group_count groups of P = E / G neighbouring experts:
 *
 *   s = softmax(x[r]) (norm_type 0) or sigmoid(x[r]) (norm_type 1)
 *   v = s + bias
 *   k_group < G: score of a group = its largest v (mode 0) or the sum of its two largest (mode 1);
 *                v = -inf outside of the k_group groups of the largest score
 *   expert_idx[r] = experts of the k largest v
 *   y[r,c] = s[expert_idx[r,c]]                     the score without bias
 *   y[r,c] = y[r,c] / (sum_c y[r,c] + eps)          norm_type 1 only; the sum in ascending c
 *   y[r,c] = y[r,c] * routed_scaling_factor         then rounded to the dtype of x once
 *   norm_out[r] = s                                 out_flag only; else norm_out is undefined
 *
 * | tensor     | shape            | dtype                      |
 * | x          | (R, E), E <= 2048 | float16, bfloat16, float32 |
 * | bias       | (E,), optional   | that of x                  |
 * | y          | (R, k)           | that of x                  |
 * | expert_idx | (R, k)           | int32                      |
 * | norm_out   | (R, E)           | float32                    |
 *
 * G divides E; 1 <= k_group <= G; P >= 2 in mode 1; 1 <= k <= k_group * P; renorm is 0. When 1 < G < E and k_group < G,
 * G times P rounded up to a multiple of 32 is at most 2048. routed_scaling_factor and eps are used as float32.
 * The shape of norm_out is looked at only with out_flag. */
typedef struct moe_gating_top_k_args {
    const moe_tensor* x;
    const moe_tensor* bias;
    int64_t k;
    int64_t k_group;
    int64_t group_count;
    int64_t group_select_mode; /* 0, 1 */
    int64_t renorm;            /* 0 */
    int64_t norm_type;         /* 0, 1 */
    bool out_flag;
    double routed_scaling_factor;
    double eps;
    moe_tensor* y;
    moe_tensor* expert_idx;
    moe_tensor* norm_out;
} moe_gating_top_k_args;

MOE_API moe_status moe_gating_top_k_shapes(const moe_gating_top_k_args* args, moe_tensor outputs[3]);
MOE_API moe_status moe_gating_top_k_check(const moe_gating_top_k_args* args);
MOE_API moe_status moe_gating_top_k_plan(const moe_gating_top_k_args* args, moe_plan* plan);
MOE_API moe_status moe_gating_top_k_run(const moe_gating_top_k_args* args, const moe_plan* plan, void* workspace,
                                        uint64_t workspace_size, const moe_run_options* options);

/* out[i] = how many of the ids are <= i: the end of the rows of expert i once the rows are sorted by expert.
 *
 * sorted_expert_for_source_row int32 (N,), N <= 2^24; out int32 (num_expert,), 1 <= num_expert <= 2048.
 *
 * The ids are taken to ascend; ids from num_expert on (finished rows) count nowhere, negative ones everywhere. Each
 * out[i] is found by a bisection of its own over the whole list, which also says what comes out when they do not
 * ascend. */
typedef struct moe_compute_expert_tokens_args {
    const moe_tensor* sorted_expert_for_source_row;
    int64_t num_expert;
    moe_tensor* out;
} moe_compute_expert_tokens_args;

MOE_API moe_status moe_compute_expert_tokens_shapes(const moe_compute_expert_tokens_args* args, moe_tensor outputs[1]);
MOE_API moe_status moe_compute_expert_tokens_check(const moe_compute_expert_tokens_args* args);
MOE_API moe_status moe_compute_expert_tokens_plan(const moe_compute_expert_tokens_args* args, moe_plan* plan);
MOE_API moe_status moe_compute_expert_tokens_run(const moe_compute_expert_tokens_args* args, const moe_plan* plan,
                                                 void* workspace, uint64_t workspace_size,
                                                 const moe_run_options* options);

#ifdef __cplusplus
}
#endif

#endif
