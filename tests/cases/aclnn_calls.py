"""A small valid call of every aclnn operator with the results of the facade: name to a function of a random generator.

The call is a list in the order of the C function. Arrays become tensors, `Out` the tensors that are written, `Nz` and
`Tiles` weights in FRACTAL_NZ; the rest is passed as it is. The results are in the order of the outputs, None for those
that have no counterpart or are undefined.
"""

from typing import Any, NamedTuple

import numpy as np

import moe_native as mn
from moe_native.testing import bfloat16

F16, F32, I32, I64 = np.float16, np.float32, np.int32, np.int64


class Out(NamedTuple):
    """An output, of zeros before the call."""

    shape: tuple[int, ...]
    dtype: Any


class Nz(NamedTuple):
    """A weight to be laid out as FRACTAL_NZ."""

    array: Any


class Tiles(NamedTuple):
    """FRACTAL_NZ that is there already, seen as the shape."""

    storage: Any
    shape: tuple[int, ...]


def _out(result):
    return Out(result.shape, result.dtype)


def _floats(rng, dtype, *shape):
    return rng.normal(size=shape).astype(dtype)


def _codes(rng, *shape):
    return rng.integers(-128, 128, shape, dtype=np.int8)


def _int32(rng, *shape):
    return rng.integers(-(2**31), 2**31, shape, dtype=I32)


def _init_routing_v2(rng):
    x, ids = _floats(rng, F16, 5, 33), rng.integers(0, 6, (5, 2), dtype=I32)
    rows, index, ends, _ = mn.npu_moe_init_routing_v2(x, ids, expert_num=6, expert_tokens_num_flag=True)
    results = [rows, index, ends.astype(I32), None]
    return [x, ids, 0, 0, 6, 0, 1, False, *map(_out, results[:3]), None], results


def _init_routing_v3(rng):
    x, ids, smooth = _floats(rng, bfloat16, 5, 33), rng.integers(0, 6, (5, 2), dtype=I32), _floats(rng, F32, 4, 33)
    results = mn.npu_moe_init_routing_v2(
        x,
        ids,
        scale=smooth,
        active_num=10,
        expert_num=6,
        expert_tokens_num_type=1,
        expert_tokens_num_flag=True,
        quant_mode=1,
        active_expert_range=[1, 5],
    )
    return [x, ids, smooth, None, 10, 0, 6, 0, 1, True, 1, [1, 5], 0, *map(_out, results)], results


def _routing_map(rng):
    return rng.random((5, 4)).argsort(axis=1) < 2


def _permute(rng):
    tokens, routing, probs = _floats(rng, bfloat16, 5, 33), _routing_map(rng), _floats(rng, bfloat16, 5, 4)
    results = mn.npu_moe_token_permute_with_routing_map(tokens, routing, probs=probs, num_out_tokens=10)
    return [tokens, routing, probs, 10, False, *map(_out, results)], results


def _unpermute(rng):
    rows, probs, routing = _floats(rng, F16, 10, 33), _floats(rng, F16, 5, 4), _routing_map(rng).astype(np.int8)
    index = rng.permutation(10).astype(I32)
    result = mn.npu_moe_token_unpermute_with_routing_map(rows, index, [5, 33], probs=probs, routing_map=routing)
    unused = [Out((10,), I32), Out((10,), I32), Out((10,), F16)]
    return [rows, index, routing, probs, False, [5, 33], _out(result), *unused], [result, None, None, None]


def _finalize(rng):
    rows, skip1, skip2, bias = (_floats(rng, F16, n, 33) for n in (10, 5, 5, 4))
    scales, index = _floats(rng, F16, 5, 2), rng.permutation(10).astype(I32)
    ids = rng.integers(0, 4, (5, 2), dtype=I32)
    return rows, skip1, skip2, bias, scales, index, ids


def _finalize_routing(rng):
    rows, skip1, skip2, bias, scales, index, ids = _finalize(rng)
    result = mn.npu_moe_finalize_routing(rows, skip1, skip2, bias, scales, index, ids)
    return [rows, skip1, skip2, bias, scales, index, ids, _out(result)], [result]


def _finalize_routing_v2(rng):
    rows, skip1, _, bias, scales, index, ids = _finalize(rng)
    result = mn.npu_moe_finalize_routing(rows, skip1, None, bias, scales, index, ids, drop_pad_mode=2)
    return [rows, index, skip1, None, bias, scales, ids, 2, _out(result)], [result]


def _gating_top_k_softmax(rng):
    x, finished = _floats(rng, bfloat16, 5, 17), rng.random(5) < 0.4
    results = mn.npu_moe_gating_top_k_softmax(x, finished, 3)
    return [x, finished, 3, *map(_out, results)], results


def _gating_top_k_softmax_v2(rng):
    x, finished = _floats(rng, F32, 5, 17), rng.random(5) < 0.4
    results = mn.npu_moe_gating_top_k_softmax_v2(x, finished=finished, k=3, output_softmax=True)
    return [x, finished, 3, 0, True, *map(_out, results)], results


def _gating_top_k(rng):
    x, bias = _floats(rng, F32, 5, 16), _floats(rng, F32, 16)
    results = mn.npu_moe_gating_top_k(
        x,
        3,
        bias=bias,
        k_group=2,
        group_count=4,
        group_select_mode=1,
        norm_type=1,
        out_flag=True,
        routed_scaling_factor=2.5,
    )
    return [x, bias, 3, 2, 4, 1, 0, 1, True, 2.5, 1e-20, *map(_out, results)], results


def _compute_expert_tokens(rng):
    ids = np.sort(rng.integers(0, 6, 20, dtype=I32))
    result = mn.npu_moe_compute_expert_tokens(ids, 5)
    return [ids, 5, _out(result)], [result]


def _grouped_matmul(rng, packed):
    """x, w, scale, bias, offset of int4, pertoken scale, groups, shared input, logit, row index, and the result."""
    m, k, n, experts, batch = 11, 192, 256, 3, 6
    x = _codes(rng, m, k)
    w = _int32(rng, experts, k, n // 8) if packed else _codes(rng, experts, k, n)
    # A scale of int4 is a float32 in the low half of an int64.
    scale = _floats(rng, F32, experts, n)
    if packed:
        scale = scale.view(np.uint32).astype(I64).reshape(experts, 1, n)
    bias = _floats(rng, F32, experts, n) if packed else _floats(rng, bfloat16, experts, n)
    offset = _floats(rng, F32, experts, 1, n) if packed else None
    pertoken, logit = _floats(rng, F32, m), _floats(rng, F32, m)
    groups, rows = np.array([5, 0, 6]), rng.integers(0, batch, m)
    shared = _floats(rng, bfloat16, 2, n)

    def result(offset):
        return mn.npu_grouped_matmul_finalize_routing(
            x,
            w,
            groups,
            scale=scale,
            bias=bias,
            offset=offset,
            pertoken_scale=pertoken,
            shared_input=shared,
            logit=logit,
            row_index=rows,
            shared_input_weight=0.5,
            shared_input_offset=1,
            output_bs=batch,
        )

    return x, w, scale, bias, offset, pertoken, groups, shared, logit, rows, result


_ATTRIBUTES = [0, 0.5, 1, False, False, 1]


def _grouped_matmul_finalize_routing(rng):
    x, w, scale, bias, _, *rest, result = _grouped_matmul(rng, True)
    y = result(None)
    return [x, w, scale, bias, *rest, *_ATTRIBUTES, _out(y)], [y]


def _grouped_matmul_finalize_routing_v2(rng):
    x, w, scale, bias, offset, *rest, result = _grouped_matmul(rng, True)
    y = result(offset)
    return [x, w, scale, bias, offset, None, None, *rest, *_ATTRIBUTES, _out(y)], [y]


def _grouped_matmul_finalize_routing_v3(rng):
    arguments, results = _grouped_matmul_finalize_routing_v2(rng)
    return [*arguments[:-1], [1], arguments[-1]], results


def _grouped_matmul_finalize_routing_weight_nz(rng):
    x, w, scale, bias, _, *rest, result = _grouped_matmul(rng, False)
    y = result(None)
    return [x, Nz(w), scale, bias, *rest, *_ATTRIBUTES, _out(y)], [y]


def _grouped_matmul_finalize_routing_weight_nz_v2(rng):
    x, w, scale, bias, _, *rest, result = _grouped_matmul(rng, False)
    y = result(None)
    return [x, Nz(w), scale, bias, None, None, None, *rest, *_ATTRIBUTES, [1], _out(y)], [y]


def _swiglu_quant(rng):
    x, w, w_scale, x_scale = _codes(rng, 9, 48), _codes(rng, 3, 48, 64), _floats(rng, F32, 3, 64), _floats(rng, F32, 9)
    groups = np.array([4, 4, 9])
    y, y_scale, _ = mn.npu_grouped_matmul_swiglu_quant(x, w, groups, w_scale, x_scale)
    return x, w, [None, None, w_scale, x_scale, groups, _out(y), _out(y_scale), None], [y, y_scale, None]


def _grouped_matmul_swiglu_quant(rng):
    x, w, rest, results = _swiglu_quant(rng)
    tiles = mn.npu_format_cast(w, 29).storage
    return [x, Tiles(tiles, tiles.shape), *rest], results


def _grouped_matmul_swiglu_quant_weight_nz(rng):
    x, w, rest, results = _swiglu_quant(rng)
    return [x, Nz(w), *rest], results


_FFN_TOKENS = [3, 0, 4]


def _ffn(rng, tokens, *flag):
    x, w1, w2 = _floats(rng, F16, 7, 32), _floats(rng, F16, 3, 32, 48), _floats(rng, F16, 3, 48, 32)
    b1, b2 = _floats(rng, F16, 3, 48), _floats(rng, F16, 3, 32)
    y = mn.npu_ffn(x, w1, w2, "gelu", expert_tokens=_FFN_TOKENS, bias1=b1, bias2=b2, inner_precise=0)
    return [x, w1, w2, tokens, b1, b2, *[None] * 8, "gelu", 0, *flag, _out(y)], [y]


def _dynamic_quant(rng):
    x, smooth = _floats(rng, F16, 4, 3, 32), _floats(rng, F16, 32)
    results = mn.npu_dynamic_quant(x, smooth_scales=smooth)
    return [x, smooth, *map(_out, results)], results


def _dynamic_quant_v2(rng):
    x, smooth, ends = _floats(rng, bfloat16, 12, 32), _floats(rng, bfloat16, 3, 32), np.array([5, 5, 12], I32)
    results = mn.npu_dynamic_quant(x, smooth_scales=smooth, group_index=ends)
    return [x, smooth, ends, 2, *map(_out, results), None], [*results, None]


def _swiglu(rng):
    x = _floats(rng, bfloat16, 6, 34)
    y = mn.npu_swiglu(x, dim=0)
    return [x, 0, _out(y)], [y]


CALLS = {
    "aclnnMoeInitRoutingV2": _init_routing_v2,
    "aclnnMoeInitRoutingV3": _init_routing_v3,
    "aclnnMoeTokenPermuteWithRoutingMap": _permute,
    "aclnnMoeTokenUnpermuteWithRoutingMap": _unpermute,
    "aclnnMoeFinalizeRouting": _finalize_routing,
    "aclnnMoeFinalizeRoutingV2": _finalize_routing_v2,
    "aclnnMoeGatingTopKSoftmax": _gating_top_k_softmax,
    "aclnnMoeGatingTopKSoftmaxV2": _gating_top_k_softmax_v2,
    "aclnnMoeGatingTopK": _gating_top_k,
    "aclnnMoeComputeExpertTokens": _compute_expert_tokens,
    "aclnnGroupedMatmulFinalizeRouting": _grouped_matmul_finalize_routing,
    "aclnnGroupedMatmulFinalizeRoutingV2": _grouped_matmul_finalize_routing_v2,
    "aclnnGroupedMatmulFinalizeRoutingV3": _grouped_matmul_finalize_routing_v3,
    "aclnnGroupedMatmulFinalizeRoutingWeightNz": _grouped_matmul_finalize_routing_weight_nz,
    "aclnnGroupedMatmulFinalizeRoutingWeightNzV2": _grouped_matmul_finalize_routing_weight_nz_v2,
    "aclnnGroupedMatmulSwigluQuant": _grouped_matmul_swiglu_quant,
    "aclnnGroupedMatmulSwigluQuantWeightNZ": _grouped_matmul_swiglu_quant_weight_nz,
    "aclnnFFN": lambda rng: _ffn(rng, _FFN_TOKENS),
    "aclnnFFNV2": lambda rng: _ffn(rng, np.cumsum(_FFN_TOKENS), True),
    "aclnnFFNV3": lambda rng: _ffn(rng, np.array(_FFN_TOKENS), False),
    "aclnnDynamicQuant": _dynamic_quant,
    "aclnnDynamicQuantV2": _dynamic_quant_v2,
    "aclnnSwiGlu": _swiglu,
}
"""Every operator with a kernel, but for the two that only change a layout."""
