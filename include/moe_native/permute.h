/* Token permutation by a routing map: tokens are copied into one contiguous block per expert, and summed back.
 *
 * Document: torch_npu.npu_moe_token_permute_with_routing_map, npu_moe_token_unpermute_with_routing_map;
 * aclnnMoeTokenPermuteWithRoutingMap, aclnnMoeTokenUnpermuteWithRoutingMap.
 *
 * With T tokens, H columns, E experts; a map entry routes when it is not zero.
 *
 * Permute, dropless: K = num_out_tokens / T (floor), N = K * T rows. All routed (token, expert) pairs in ascending
 * order of expert, then token; pair j gives
 *
 *   permuted_tokens[j] = tokens[token(j)]        permuted_probs[j] = probs[token(j), expert(j)]
 *   sorted_indices[t*K + r] = the row of token t's r-th expert, experts ascending
 *
 * Every row of the map must route to exactly K experts, unless N is 0, when the map is not looked at.
 *
 * Permute, drop_and_pad: C = num_out_tokens / E (floor), N = E * C rows. Expert e takes C tokens: those routed to it
 * in ascending order, then, if there are fewer, the other tokens in ascending order;
 *
 *   sorted_indices[e*C + i] = t       permuted_tokens[e*C + i] = tokens[t]       permuted_probs[e*C + i] = probs[t, e]
 *
 * so padding holds real tokens and their real probabilities.
 *
 * | tensor          | shape  | dtype                                                          |
 * | tokens          | (T, H) | float16, bfloat16, float32                                     |
 * | routing_map     | (T, E) | int8, bool                                                     |
 * | probs           | (T, E) | that of the tokens, or float32 with bfloat16 tokens; optional  |
 * | permuted_tokens | (N, H) | that of the tokens                                             |
 * | permuted_probs  | (N,)   | that of probs; exactly when probs is given                     |
 * | sorted_indices  | (N,)   | int32                                                          |
 *
 * Everything is a copy, bit by bit.
 *
 * Unpermute, dropless: S rows, K = S / T, p[i] = the i-th routed entry of probs in row-major order (1 without probs);
 *
 *   unpermuted[t] = sum over r = 0 .. K-1 of p[t*K + r] * permuted_tokens[sorted_indices[t*K + r]]
 *
 * in float32 in this order: a product and an addition per term, each rounded, and one rounding to nearest even to the
 * dtype of the tokens at the end. A term whose p is zero is left out: it adds nothing even if the token is not finite.
 *
 * Unpermute, drop_and_pad: S = E * C rows, p[j] = probs[sorted_indices[j], j / C] (1 without probs);
 *
 *   out_index = stable argsort of sorted_indices        permuted_token_id = sorted_indices[out_index]
 *   unpermuted[t] = sum over the j with sorted_indices[j] = t, ascending, of p[j] * permuted_tokens[j]
 *
 * with products in float32, sums in float64, one rounding at the end, nothing left out.
 *
 * In both modes the sum of one term is that term, its sign of zero included; the sum of none is +0. A NaN result is
 * the positive quiet NaN without payload. Without tokens or indices all outputs are undefined. Results are
 * bit-identical on every instruction set.
 *
 * | tensor            | shape  | dtype                                                                         |
 * | permuted_tokens   | (S, H) | float16, bfloat16, float32                                                    |
 * | sorted_indices    | (S,)   | int32; rows below S when dropless, tokens below T with drop_and_pad           |
 * | routing_map       | (T, E) | int8, bool; needed when dropless with probs, and then K per row; else not read |
 * | probs             | (T, E) | float16, bfloat16, float32; optional                                          |
 * | unpermuted        | (T, H) | that of the tokens                                                            |
 * | out_index         | (S,)   | int32; drop_and_pad only, else undefined and optional                         |
 * | permuted_token_id | (S,)   | int32; drop_and_pad only, else undefined and optional                         |
 * | permute_probs     | (S,)   | that of probs: p; optional, and never written without probs                   |
 *
 * Data policy MOE_DATA_SKIP. Permute: a map that is not K per row yields its first N pairs; if it has fewer, the rows
 * left over are zeros and their indices -1. Unpermute: an index outside its range adds nothing; with drop_and_pad
 * out_index and permuted_token_id end in one -1, and permute_probs has a 0, for each; a map that is not K per row
 * yields its first S probabilities, then zeros.
 */
#ifndef MOE_NATIVE_PERMUTE_H
#define MOE_NATIVE_PERMUTE_H

#include "moe_native/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moe_token_permute_with_routing_map_args {
    const moe_tensor* tokens;
    const moe_tensor* routing_map;
    const moe_tensor* probs;
    int64_t num_out_tokens; /* 0 .. T*E */
    bool drop_and_pad;
    moe_tensor* permuted_tokens;
    moe_tensor* permuted_probs;
    moe_tensor* sorted_indices;
} moe_token_permute_with_routing_map_args;

/* Null tensors, and permuted_probs without probs or the reverse: 161001. Shapes of tokens, width of permuted_tokens,
 * rank of sorted_indices: 561002. All else, and the map at the run step: 161002. `outputs` has three entries, the
 * second with dtype MOE_UNDEFINED when there are no probs. */
MOE_API moe_status moe_token_permute_with_routing_map_shapes(const moe_token_permute_with_routing_map_args* args,
                                                             moe_tensor outputs[3]);
MOE_API moe_status moe_token_permute_with_routing_map_check(const moe_token_permute_with_routing_map_args* args);
MOE_API moe_status moe_token_permute_with_routing_map_plan(const moe_token_permute_with_routing_map_args* args,
                                                           moe_plan* plan);
MOE_API moe_status moe_token_permute_with_routing_map_run(const moe_token_permute_with_routing_map_args* args,
                                                          const moe_plan* plan, void* workspace,
                                                          uint64_t workspace_size, const moe_run_options* options);

typedef struct moe_token_unpermute_with_routing_map_args {
    const moe_tensor* permuted_tokens;
    const moe_tensor* sorted_indices;
    const moe_tensor* routing_map;
    const moe_tensor* probs;
    bool drop_and_pad;
    const int64_t* restore_shape; /* {T, H}; may be null when probs is given */
    moe_tensor* unpermuted;
    moe_tensor* out_index;
    moe_tensor* permuted_token_id;
    moe_tensor* permute_probs;
} moe_token_unpermute_with_routing_map_args;

/* Null tensors, probs and restore_shape both null: 161001. Dtypes but that of the map, ranks of permuted_tokens,
 * unpermuted and sorted_indices: 161002. All else: 561002. Indices and the map at the run step: 161002. `outputs` has
 * four entries, the last with dtype MOE_UNDEFINED when there are no probs. */
MOE_API moe_status moe_token_unpermute_with_routing_map_shapes(const moe_token_unpermute_with_routing_map_args* args,
                                                               moe_tensor outputs[4]);
MOE_API moe_status moe_token_unpermute_with_routing_map_check(const moe_token_unpermute_with_routing_map_args* args);
MOE_API moe_status moe_token_unpermute_with_routing_map_plan(const moe_token_unpermute_with_routing_map_args* args,
                                                             moe_plan* plan);
MOE_API moe_status moe_token_unpermute_with_routing_map_run(const moe_token_unpermute_with_routing_map_args* args,
                                                            const moe_plan* plan, void* workspace,
                                                            uint64_t workspace_size, const moe_run_options* options);

#ifdef __cplusplus
}
#endif

#endif
