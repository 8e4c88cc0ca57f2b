/* Dispatch step of a Mixture-of-Experts layer: every token's row, once per expert it chose, grouped by expert.
 *
 * Document: torch_npu.npu_moe_init_routing_v2; aclnnMoeInitRoutingV3.
 *
 * T tokens, H columns, K experts per token, N = T*K entries (entry f = t*K + k belongs to token f / K), E experts
 * of which the range [s, e) is wanted here. An entry is routed when s <= expert_idx[f] < e; any other id, negative
 * ones included, is legal and means "not here". Routed entries are ordered by (expert, f): sorted[0 .. V-1].
 *
 * drop_pad_mode 0: row i of expanded_x is the row of the token of sorted[i], for i < R, where R is N, or
 *   min(active_num, N) for active_num > 0. Rows from V on are undefined.
 * drop_pad_mode 1: expert q keeps its first C = expert_capacity entries, the j-th in slot q*C + j. Empty slots are
 *   zero. active_num is not used.
 *
 * Inputs
 *   x            (T, H)  float16, bfloat16, float32; int8 with quant_mode -1
 *   expert_idx   (T, K)  int32
 *   scale        float32, optional. quant_mode -1: (T,), copied along. 0: (1,), needed. 1: (e-s, H), a factor per
 *                expert and column, or (1, H), one for all experts
 *   offset       float32 (1,), needed with quant_mode 0, else not looked at
 * Outputs
 *   expanded_x                    (R, H), or (E, C, H) with drop_pad_mode 1; the dtype of x, int8 when quantised
 *   expanded_row_idx              (N,) int32. row_idx_type 0: the row or slot of each entry, -1 for entries that are
 *                                 not routed or dropped (rows cut off by active_num keep their number, >= R).
 *                                 1: sorted, then the entries with ids >= e ordered by (id, f), then those with ids
 *                                 < s by f; an id of INT32_MAX counts among the last
 *   expert_token_cumsum_or_count  int64 (types 0 and 1 also int32), entries of each expert of the range before anything
 *                                 is cut or dropped. expert_tokens_num_type 0: (e-s,) their running sum. 1: (e-s,) their number.
 *                                 2: (E, 2) pairs (expert, number) of those that have any, then zeros.
 *                                 Undefined when expert_tokens_num_flag is false
 *   expanded_scale                float32 (R,), or (E*C,) with drop_pad_mode 1. quant_mode -1: scale of the row's
 *                                 token; undefined without scale. 0: undefined. 1: the scale of the row. Empty
 *                                 slots are zero; rows from V on are undefined
 * Dtype and shape of an output that stays wholly undefined are not checked (the dtype of the counts is).
 *
 * Numerics, bit-identical on every instruction set and for every number of threads: rows that are not quantised are
 * copied bit by bit. Quantisation is float32 arithmetic, each operation rounded on its own, codes rounded half to
 * even and clamped to [-128, 127].
 *   0 (static):  code = x * scale + offset; NaN gives 0
 *   1 (dynamic): y = x * factor; row scale = max|y| / 127; code = y / row scale. A row whose scale is 0, inf or NaN
 *                has codes 0
 */
#ifndef MOE_NATIVE_INIT_ROUTING_H
#define MOE_NATIVE_INIT_ROUTING_H

#include "moe_native/runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct moe_init_routing_v2_args {
    const moe_tensor* x;
    const moe_tensor* expert_idx;
    const moe_tensor* scale;
    const moe_tensor* offset;
    int64_t active_num;             /* -1 or 0: no limit */
    int64_t expert_capacity;        /* 1..T with drop_pad_mode 1, else not used */
    int64_t expert_num;             /* 1..10240, 1..5120 with expert_tokens_num_type 2 */
    int64_t drop_pad_mode;          /* 0, 1 */
    int64_t expert_tokens_num_type; /* 0, 1, 2; 1 with drop_pad_mode 1 */
    bool expert_tokens_num_flag;
    int64_t quant_mode;                 /* -1, 0, 1 */
    const int64_t* active_expert_range; /* {s, e}; null or of length 0: all experts, as drop_pad_mode 1 needs */
    int64_t active_expert_range_length;
    int64_t row_idx_type; /* 0, 1; 0 with drop_pad_mode 1 */
    moe_tensor* expanded_x;
    moe_tensor* expanded_row_idx;
    moe_tensor* expert_token_cumsum_or_count;
    moe_tensor* expanded_scale;
} moe_init_routing_v2_args;

/* Null tensors: 161001. Dtypes: 161002. Attributes and shapes: 561002. No data is refused. */
MOE_API moe_status moe_init_routing_v2_shapes(const moe_init_routing_v2_args* args, moe_tensor outputs[4]);
MOE_API moe_status moe_init_routing_v2_check(const moe_init_routing_v2_args* args);
MOE_API moe_status moe_init_routing_v2_plan(const moe_init_routing_v2_args* args, moe_plan* plan);
MOE_API moe_status moe_init_routing_v2_run(const moe_init_routing_v2_args* args, const moe_plan* plan, void* workspace,
                                           uint64_t workspace_size, const moe_run_options* options);

#ifdef __cplusplus
}
#endif

#endif
