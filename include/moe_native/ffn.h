/* Feed-forward block of a Transformer layer, of one expert or of many that share the rows among them.
 *
 * Document: torch_npu.npu_ffn; aclnnFFN, aclnnFFNV2, aclnnFFNV3.
 *
 *   y = activation(x @ weight1 + bias1) @ weight2 + bias2
 *
 * M rows (every dimension of x but the last), K1 columns; weight1 (K1, N1), weight2 (K2, N2); N1 = K2, or N1 = 2 * K2
 * with a gated activation. Without experts the weights have these shapes; with E experts there is a leading dimension
 * E, expert_tokens says how many consecutive rows of x each expert owns, and biases, scales and offsets lead with E.
 * Any N2 is fine. An expert without rows is not read.
 *
 * Activations, compared without regard to case, s(v) = 1 / (1 + exp(-v)):
 *
 *   "relu" max(v, 0)   "silu" v s(v)   "fastgelu" v s(1.702 v)   "gelu" v (1 + erf(v / sqrt 2)) / 2
 *   "reglu", "swiglu", "geglu": l f(r), with l the left and r the right half of the N1 columns, and f relu, silu, or
 *   the tanh form of gelu, r s(1.5957691 (r + 0.044715 r^3))
 *
 * Scenarios. r16, rb: rounding to float16, bfloat16, to nearest even; h: what the second product takes in.
 *
 * | x, y       | weights     | biases   | t = x @ weight1 + bias1     | h                   | attributes              |
 * | float32    | float32     | float32  | float32                     | act(t)              | also gated, no experts  |
 * | float16    | float16     | float16  | float32; inner_precise 1:   | r16(act(t))         | gated: no experts,      |
 * |            |             |          | r16; gated: r16             |                     | inner_precise 1         |
 * | bfloat16   | bfloat16    | float32  | float32                     | rb(act(t))          | inner_precise 0         |
 * | int8, y    | int8        | int32    | fp32(exact) * d1; for y     | q(r16(act(t)))      | scale, offset,          |
 * | float16 or |             |          | float16 then r16            |                     | deq_scale1, deq_scale2  |
 * | bfloat16   |             |          |                             |                     |                         |
 * | float16    | int8, int4  | float16  | float32                     | act(t), float32     | four antiquant tensors  |
 * | bfloat16   | int8, int4  | float32  | float32                     | rb(act(t))          | four antiquant tensors  |
 *
 * Quantised: integer sums are exact (K1, K2 <= 131071), the bias belongs to them; y = fp32(sum) * d2, rounded.
 * q(h) = clamp(round_half_even(r16(r16(h * r16(scale)) + r16(offset))), -128, 127), NaN gives 0. Scales d1, d2: the
 * low 32 bits of an int64 or uint64, without their low 13 bits, are a float32; float32 and bfloat16 count as they are.
 *
 * Antiquant: the weights that are multiplied are r16(r16(w + offset) * scale), or rb(fp32(fp32(w + offset) * scale))
 * with bfloat16. Per column, shape (N) or (E, N); int4 also per group of K / G rows, shape (G, N) or (E, G, N).
 *
 * Numerics: floating products add up in float32 in ascending k, one accumulator per element, starting from 0; the
 * bias is added to the finished sum. On instruction sets with FMA a product and its addition round once. Results are
 * bit-identical on all sets with FMA, and on all without; whichever rows are computed together; and for every number
 * of threads. The exception: bfloat16 with bfloat16 weights may go through the dot instruction of the processor
 * (moe_set_bf16_mode). It takes subnormal operands and sums for zero and adds the products of k = 2p + 1 and 2p in this
 * order, each to the float32 sum with one rounding to nearest even: with the operands so taken the sum of k < 2^22
 * products is off by at most k (2^-23 (sum of |x w|) + 2^-126), the first term as with FMA. Sums of integers that float32
 * holds stay exact, and the result still depends on neither the rows computed together nor the number of threads.
 * Activations are evaluated in float32, with an absolute error of at most 4e-7 (1 + |act(v)|). inf and NaN propagate;
 * silu and the gelus of -inf are NaN.
 */
#ifndef MOE_NATIVE_FFN_H
#define MOE_NATIVE_FFN_H

#include "moe_native/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moe_ffn_args {
    const moe_tensor* x;             /* (..., K1), 2 to 8 dimensions */
    const moe_tensor* weight1;       /* (K1, N1) or (E, K1, N1); int4: two columns a byte, N1 even */
    const moe_tensor* weight2;       /* (K2, N2) or (E, K2, N2); floating ones also packed, (1, K, N) without experts */
    const moe_tensor* expert_tokens; /* int64 (E,); null or empty: no experts */
    const moe_tensor* bias1;         /* (N1) or (E, N1), optional */
    const moe_tensor* bias2;         /* (N2) or (E, N2), optional */
    const moe_tensor* scale;         /* float32: (1) or (N1); (E) or (E, N1) */
    const moe_tensor* offset;        /* float32: (1) or (E) */
    const moe_tensor* deq_scale1; /* (N1) or (E, N1): uint64, int64 or float32 for float16 y, bfloat16 for bfloat16 */
    const moe_tensor* deq_scale2; /* (N2) or (E, N2), dtype of deq_scale1; float32 excludes a scale per column */
    const moe_tensor* antiquant_scale1; /* dtype of x, as the offsets; all four of the same rank */
    const moe_tensor* antiquant_scale2;
    const moe_tensor* antiquant_offset1;
    const moe_tensor* antiquant_offset2;
    const char* activation;
    int64_t inner_precise;  /* 0 or 1 */
    moe_dtype output_dtype; /* of y, only in the quantised scenario: float16 or bfloat16 */
    bool tokens_index;      /* expert_tokens holds the end row of each expert instead of its number of rows */
    bool tokens_known;      /* expert_tokens is final: shapes, check and plan refuse bad contents too */
    moe_tensor* y;          /* (..., N2) */
} moe_ffn_args;

/* Null pointers: 161001. inner_precise not 0 or 1: 561103, unless x is empty. Everything else: 161002, contents of
 * expert_tokens included. With limits also: 561103 for more than 256 experts or too many rows, 161002 for K1 or
 * K2 > 65535 and for float32; with MOE_LIMITS_ATLAS_A2 for N2 != K1.
 *
 * MOE_DATA_SKIP: a negative count and an end below the one before it give the expert no rows, rows beyond x are left
 * out, and a list that does not reach the last row leaves the remaining rows of y undefined. */
MOE_API moe_status moe_ffn_shapes(const moe_ffn_args* args, moe_tensor outputs[1]);
MOE_API moe_status moe_ffn_check(const moe_ffn_args* args);
MOE_API moe_status moe_ffn_plan(const moe_ffn_args* args, moe_plan* plan);
MOE_API moe_status moe_ffn_run(const moe_ffn_args* args, const moe_plan* plan, void* workspace, uint64_t workspace_size,
                               const moe_run_options* options);

#ifdef __cplusplus
}
#endif

#endif
