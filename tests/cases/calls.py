"""A small valid call of every public operator: name to a function from a random generator to keyword arguments."""

import numpy as np

import moe_native
from moe_native.testing import bfloat16

F16, F32 = np.float16, np.float32


def _floats(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


def _codes(rng, *shape):
    return rng.integers(-128, 128, shape, dtype=np.int8)


def _routing_map(rng, tokens, experts, per_token):
    return (rng.random((tokens, experts)).argsort(axis=1) < per_token).astype(np.int8)


def _init_routing(rng):
    return {
        "x": _floats(rng, bfloat16, 6, 33),
        "expert_idx": rng.integers(-1, 9, (6, 3), dtype=np.int32),
        "scale": _floats(rng, F32, 4, 33),
        "active_num": 0,
        "expert_capacity": 2,
        "expert_num": 8,
        "drop_pad_mode": 0,
        "expert_tokens_num_type": 1,
        "expert_tokens_num_flag": True,
        "quant_mode": 1,
        "active_expert_range": [2, 6],
        "row_idx_type": 0,
    }


def _permute(rng):
    return {
        "tokens": _floats(rng, bfloat16, 6, 33),
        "routing_map": _routing_map(rng, 6, 5, 2),
        "probs": _floats(rng, bfloat16, 6, 5),
        "num_out_tokens": 12,
        "drop_and_pad": False,
    }


def _unpermute(rng):
    return {
        "permuted_tokens": _floats(rng, F16, 12, 33),
        "sorted_indices": rng.permutation(12).astype(np.int32),
        "restore_shape": [6, 33],
        "probs": _floats(rng, F16, 6, 5),
        "routing_map": _routing_map(rng, 6, 5, 2).astype(bool),
        "drop_and_pad": False,
    }


def _finalize(rng):
    return {
        "expanded_permuted_rows": _floats(rng, F16, 12, 33),
        "skip1": _floats(rng, F16, 6, 33),
        "skip2": _floats(rng, F16, 6, 33),
        "bias": _floats(rng, F16, 5, 33),
        "scales": _floats(rng, F16, 6, 2),
        "expanded_src_to_dst_row": rng.permutation(12).astype(np.int32),
        "export_for_source_row": rng.integers(0, 5, (6, 2), dtype=np.int32),
        "drop_pad_mode": 2,
        "k": 2,
    }


def _gating_top_k_softmax(rng):
    return {"x": _floats(rng, F16, 6, 17), "finished": rng.random(6) < 0.3, "k": 3}


def _gating_top_k_softmax_v2(rng):
    return {**_gating_top_k_softmax(rng), "renorm": 0, "output_softmax": True}


def _gating_top_k(rng):
    return {
        "x": _floats(rng, F32, 6, 16),
        "k": 3,
        "bias": _floats(rng, F32, 16),
        "k_group": 2,
        "group_count": 4,
        "group_select_mode": 1,
        "renorm": 0,
        "norm_type": 1,
        "out_flag": True,
        "routed_scaling_factor": 2.5,
        "eps": 1e-20,
    }


def _compute_expert_tokens(rng):
    return {"sorted_expert_for_source_row": np.sort(rng.integers(0, 6, 20, dtype=np.int32)), "num_expert": 5}


def _grouped_matmul_finalize_routing(rng):
    return {
        "x": _codes(rng, 12, 35),
        "w": _codes(rng, 3, 35, 41),
        "group_list": np.array([5, 0, 6]),
        "scale": _floats(rng, F32, 3, 41),
        "bias": _floats(rng, F32, 3, 41),
        "pertoken_scale": _floats(rng, F32, 12),
        "shared_input": _floats(rng, bfloat16, 2, 41),
        "logit": _floats(rng, F32, 12),
        "row_index": rng.integers(0, 6, 12),
        "shared_input_weight": 0.5,
        "shared_input_offset": 1,
        "output_bs": 6,
        "group_list_type": 1,
    }


def _grouped_matmul_swiglu_quant(rng):
    return {
        "x": _codes(rng, 12, 35),
        "weight": _codes(rng, 3, 35, 42),
        "group_list": np.array([5, 5, 11]),
        "weight_scale": _floats(rng, F32, 3, 42),
        "x_scale": _floats(rng, F32, 12),
    }


def _ffn(rng):
    return {
        "x": _floats(rng, F16, 12, 35),
        "weight1": _floats(rng, F16, 3, 35, 24),
        "weight2": _floats(rng, F16, 3, 24, 19),
        "activation": "gelu",
        "expert_tokens": [5, 0, 7],
        "bias1": _floats(rng, F16, 3, 24),
        "bias2": _floats(rng, F16, 3, 19),
        "inner_precise": 0,
    }


def _dynamic_quant(rng):
    return {
        "input": _floats(rng, F16, 12, 33),
        "smooth_scales": _floats(rng, F16, 3, 33),
        "group_index": np.array([5, 5, 12], np.int32),
    }


def _format_cast(rng):
    return {"input": _codes(rng, 2, 35, 41), "acl_format": 29}


CALLS = {
    "npu_moe_init_routing_v2": _init_routing,
    "npu_moe_token_permute_with_routing_map": _permute,
    "npu_moe_token_unpermute_with_routing_map": _unpermute,
    "npu_moe_finalize_routing": _finalize,
    "npu_moe_gating_top_k_softmax": _gating_top_k_softmax,
    "npu_moe_gating_top_k_softmax_v2": _gating_top_k_softmax_v2,
    "npu_moe_gating_top_k": _gating_top_k,
    "npu_moe_compute_expert_tokens": _compute_expert_tokens,
    "npu_grouped_matmul_finalize_routing": _grouped_matmul_finalize_routing,
    "npu_grouped_matmul_swiglu_quant": _grouped_matmul_swiglu_quant,
    "npu_ffn": _ffn,
    "npu_dynamic_quant": _dynamic_quant,
    "npu_swiglu": lambda rng: {"input": _floats(rng, F16, 12, 34), "dim": -1},
    "npu_format_cast": _format_cast,
}
"""Every operator that `moe_native` exports."""


def call(name, arguments, **more):
    """Call an operator and return its results as a tuple of plain arrays."""
    result = getattr(moe_native, name)(**arguments, **more)
    results = result if isinstance(result, tuple) else (result,)
    return tuple(r.storage if isinstance(r, moe_native.NzArray) else r for r in results)
