/* Grouped matrix products of a Mixture-of-Experts layer in int8: rows sorted by expert, each multiplied by the weight
 * of its expert.
 *
 * Documents: torch_npu.npu_grouped_matmul_finalize_routing, torch_npu.npu_grouped_matmul_swiglu_quant;
 * aclnnGroupedMatmulFinalizeRouting and its V2, V3, WeightNz, WeightNzV2; aclnnGroupedMatmulSwigluQuant and its
 * WeightNZ.
 *
 * Rows. m rows of x belong to e experts, consecutively. group_list holds their numbers (group_list_type 1), or the
 * cumulative ends (0). Rows past the last expert are no input: nothing of theirs is looked at.
 *
 * Weights W (e, k, n), int8 or int4, in one of these forms, which all give the same bits:
 *
 * | form                  | int8                | int4                                                          |
 * | MOE_FORMAT_ND, rank 3 | (e, k, n)           | int32 (e, k, ceil(n/8)), low nibble first; MOE_INT4 (e, k, n) |
 * | MOE_FORMAT_ND, rank 5 | (e, n1, k1, 16, 32) | int32 (e, n1, k1, 16, c0); MOE_INT4 (e, n1, k1, 16, 64)       |
 * | MOE_FORMAT_NZ         | shape as in the first row, storage_shape as in the second                          |
 * | MOE_FORMAT_PACKED     | what moe_packed_view made: (e, k, n)                                                 |
 *
 * with k1 = ceil(k / 16), n1 = ceil(n / columns of a tile). What tiles hold beyond k and n is not used. Plain
 * weights are read where they are, whatever their strides.
 *
 * Product of row i of expert g. int8: P[j] = float32(sum_t x[i,t] * W[g,t,j]), the sum exact. int4: x = 16 * h + l + 8
 * with h, l in [-8, 7]; H[j] = float16(sum over blocks b of float32(sum_t h[t] * W[g,t,j]) * scale[g,b,j]), t in block
 * b, ascending b in float32; L[j] likewise; P[j] = 16 * H[j] + L[j]. The caller's bias holds 8 * sum_t W * scale, which
 * takes the 8 back. scale is an integer whose low 32 bits are those of a float32.
 *
 * Numerics: float32, one operation after the other as written (never fused), ties to even; inf and NaN propagate.
 * Bit-identical on every instruction set. Any k, m, n.
 */
#ifndef MOE_NATIVE_GROUPED_MATMUL_H
#define MOE_NATIVE_GROUPED_MATMUL_H

#include "moe_native/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Product, dequantisation, and the weighted sum of the rows of each token:
 *
 *   y = 0, then y[shared_input_offset + r] = shared_input_weight * shared_input[r]
 *   int8: v = ((P * scale[g]) * pertoken_scale[i] + bias[g]) * logit[i]
 *   int4: v = (P + bias[g] + rowsum(x[i]) * offset[g]) * (pertoken_scale[i] * logit[i])
 *   y[row_index[i]] += v, in ascending i
 *
 * | tensor         | shape                       | dtype                                                            |
 * | x              | (m, k)                      | int8                                                             |
 * | w              | see above                   | int8; int32, int4                                                |
 * | group_list     | (e,)                        | int64                                                            |
 * | scale          | int8 (e, n); int4 (e, 1, n) | float32, bfloat16; int4: int64                                   |
 * | bias           | (e, n)                      | float32, bfloat16, optional; int4: float32, required             |
 * | offset         | (e, 1, n)                   | float32, optional; int4 only                                     |
 * | pertoken_scale | (m,)                        | float32, optional (all 1); int4: required                        |
 * | shared_input   | (L, n), L <= output_bs      | bfloat16, optional                                               |
 * | logit          | (m,)                        | float32, optional (all 1) without shared_input                   |
 * | row_index      | (m,)                        | int64; int8 also int32                                           |
 * | out            | (output_bs, n)              | float32                                                          |
 */
typedef struct moe_grouped_matmul_finalize_routing_args {
    const moe_tensor* x;
    const moe_tensor* w;
    const moe_tensor* group_list;
    const moe_tensor* scale;
    const moe_tensor* bias;
    const moe_tensor* offset;
    const moe_tensor* pertoken_scale;
    const moe_tensor* shared_input;
    const moe_tensor* logit;
    const moe_tensor* row_index;
    int64_t dtype; /* of out: 0, float32 */
    float shared_input_weight;
    int64_t shared_input_offset;
    int64_t output_bs;            /* rows of out, at most m; 0 means m */
    int64_t group_list_type;      /* 1 counts, 0 cumulative ends */
    const int64_t* tuning_config; /* null, or a hint that changes no result: [0] rows to expect per expert, 0..m */
    int64_t tuning_config_size;
    moe_tensor* out;
} moe_grouped_matmul_finalize_routing_args;

/* Null tensors, and logit missing beside a shared input, bias or pertoken_scale beside int4: 161001. All else: 161002. */
MOE_API moe_status moe_grouped_matmul_finalize_routing_shapes(const moe_grouped_matmul_finalize_routing_args* args,
                                                              moe_tensor outputs[1]);
MOE_API moe_status moe_grouped_matmul_finalize_routing_check(const moe_grouped_matmul_finalize_routing_args* args);
MOE_API moe_status moe_grouped_matmul_finalize_routing_plan(const moe_grouped_matmul_finalize_routing_args* args,
                                                            moe_plan* plan);
MOE_API moe_status moe_grouped_matmul_finalize_routing_run(const moe_grouped_matmul_finalize_routing_args* args,
                                                           const moe_plan* plan, void* workspace,
                                                           uint64_t workspace_size, const moe_run_options* options);

/* Product, dequantisation, SwiGLU, and quantisation of every row:
 *
 *   int8: c = (P * weight_scale[g]) * x_scale[i]
 *   int4: c = (P + bias[g]) * x_scale[i]
 *   s[j] = c[j] / (1 + exp(-c[j])) * c[n/2 + j], j < n/2
 *   output_scale[i] = max|s| / 127;  output[i] = clamp(round_half_even(s / output_scale[i]), -128, 127)
 *
 * A row whose scale is zero or not finite becomes zeros. Rows past the last expert are undefined parts of output and
 * output_scale, and all of output_offset is one.
 *
 * | tensor        | shape                               | dtype                                     |
 * | x             | (m, k)                              | int8                                      |
 * | weight        | see above                           | int8; int32, int4                         |
 * | group_list    | (length,), length <= e              | int64, int32                              |
 * | weight_scale  | (e, n), n even; int4 also (e, G, n) | float32, float16, bfloat16; int4: int64, uint64 |
 * | x_scale       | (m,)                                | float32                                   |
 * | bias          | (e, n)                              | int4: float32, required; int8: null       |
 * | offset        |                                     | null                                      |
 * | output        | (m, n/2)                            | int8                                      |
 * | output_scale  | (m,)                                | float32                                   |
 * | output_offset | ()                                  | float32, optional                         |
 */
typedef struct moe_grouped_matmul_swiglu_quant_args {
    const moe_tensor* x;
    const moe_tensor* weight;
    const moe_tensor* group_list;
    const moe_tensor* weight_scale;
    const moe_tensor* x_scale;
    const moe_tensor* bias;
    const moe_tensor* offset;
    int64_t group_list_type; /* 0 cumulative ends, 1 counts */
    moe_tensor* output;
    moe_tensor* output_scale;
    moe_tensor* output_offset;
} moe_grouped_matmul_swiglu_quant_args;

/* Null tensors, and bias missing beside int4: 161001. All else: 161002. No rows, or a group_list of length 0: nothing
 * is computed. */
MOE_API moe_status moe_grouped_matmul_swiglu_quant_shapes(const moe_grouped_matmul_swiglu_quant_args* args,
                                                          moe_tensor outputs[3]);
MOE_API moe_status moe_grouped_matmul_swiglu_quant_check(const moe_grouped_matmul_swiglu_quant_args* args);
MOE_API moe_status moe_grouped_matmul_swiglu_quant_plan(const moe_grouped_matmul_swiglu_quant_args* args,
                                                        moe_plan* plan);
MOE_API moe_status moe_grouped_matmul_swiglu_quant_run(const moe_grouped_matmul_swiglu_quant_args* args,
                                                       const moe_plan* plan, void* workspace, uint64_t workspace_size,
                                                       const moe_run_options* options);

#ifdef __cplusplus
}
#endif

#endif
