"""Which aclnn entry points compute an operator, and with which arguments: a table for :mod:`moe_native.backend`.

An operator's function takes its arguments, as the facade has checked them, and its outputs, both by name. It yields the
forms of the call in order of preference: a library that lacks the first entry point may have the next. A result that a
form does not mention, or leaves undefined, is zero.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_native import _core
from moe_native.layout import NzArray
from moe_native.packed import PackedWeight
from moe_native.types import Array

_INT8 = 2
_NZ = 29


class Arguments(dict[str, Any]):
    """Arguments by name; those that were not given are None."""

    def __missing__(self, name: str) -> None:
        return None


@dataclass(frozen=True, eq=False)
class Out:
    """A result in the arguments of a form."""

    array: Array
    """Where it goes in the end."""
    dtype: Any = None
    """What the entry point writes, when that is not the dtype of `array`."""
    shape: tuple[int, ...] | None = None
    """The logical shape of a result in FRACTAL_NZ, whose storage `array` is."""


@dataclass(frozen=True)
class Form:
    """A call of an entry point."""

    name: str
    arguments: tuple[Any, ...]
    """In the order of the C signature: arrays, NzArray, Out, numbers, lists of int, strings, None."""


class Inexpressible(Exception):
    """An argument that no entry point has a form for.

    Parameters
    ----------
    entry : str
        The entry point that comes closest.
    rule : str
        The rule of the interface that it breaks, by the name that the CPU device has for it.
    reason : str
        The argument, what was seen, what is needed, and why.
    """

    def __init__(self, entry: str, rule: str, reason: str) -> None:
        super().__init__(f"{reason} [{rule}]")
        self.entry = entry


Outputs = Mapping[str, Array]
_ONLY = "the result"


def _init_routing(given: Arguments, out: Outputs) -> Iterator[Form]:
    x, ids = given["x"], given["expert_idx"]
    experts = given["expert_num"]
    bounds = list(given["active_expert_range"]) or [0, experts]
    rows, row_idx = Out(out["expanded_x"]), Out(out["expanded_row_idx"])
    counts = out["expert_token_cumsum_or_count"]
    yield Form(
        "aclnnMoeInitRoutingV3",
        (
            x,
            ids,
            given["scale"],
            given["offset"],
            given["active_num"],
            given["expert_capacity"],
            experts,
            given["drop_pad_mode"],
            given["expert_tokens_num_type"],
            given["expert_tokens_num_flag"],
            given["quant_mode"],
            bounds,
            given["row_idx_type"],
            rows,
            row_idx,
            Out(counts),
            Out(out["expanded_scale"]),
        ),
    )
    padded, counted = given["drop_pad_mode"] == 1, given["expert_tokens_num_flag"]
    pairs = counted and given["expert_tokens_num_type"] == 2
    copies = given["quant_mode"] == -1 and given["scale"] is None and x.dtype != np.int8
    # The second version knows no range: every id has to be one of an expert.
    if copies and not pairs and given["row_idx_type"] == 0 and bounds == [0, experts]:
        if ids.size and not (ids.min() >= 0 and ids.max() < experts):
            return
        narrow = Out(counts, np.int32)
        flag = 0 if padded or not counted else 1 + given["expert_tokens_num_type"]
        yield Form(
            "aclnnMoeInitRoutingV2",
            (
                x,
                ids,
                max(0, given["active_num"]),
                max(0, given["expert_capacity"]),
                experts,
                given["drop_pad_mode"],
                flag,
                padded and counted,
                rows,
                row_idx,
                narrow if flag else None,
                narrow if padded and counted else None,
            ),
        )


def _permute(given: Arguments, out: Outputs) -> Iterator[Form]:
    probs = out.get("permuted_probs")
    yield Form(
        "aclnnMoeTokenPermuteWithRoutingMap",
        (
            given["tokens"],
            given["routing_map"],
            given["probs"],
            given["num_out_tokens"],
            given["drop_and_pad"],
            Out(out["permuted_tokens"]),
            None if probs is None else Out(probs),
            Out(out["sorted_indices"]),
        ),
    )


def _unpermute(given: Arguments, out: Outputs) -> Iterator[Form]:
    shape, probs = given["restore_shape"], out.get("permute_probs")
    yield Form(
        "aclnnMoeTokenUnpermuteWithRoutingMap",
        (
            given["permuted_tokens"],
            given["sorted_indices"],
            given["routing_map"],
            given["probs"],
            given["drop_and_pad"],
            None if shape is None else list(shape),
            Out(out["unpermuted"]),
            Out(out["out_index"]),
            Out(out["permuted_token_id"]),
            # Without probs nothing is written there, but a card wants a tensor.
            Out(np.empty(out["out_index"].shape, given["permuted_tokens"].dtype) if probs is None else probs),
        ),
    )


def _finalize(given: Arguments, out: Outputs) -> Iterator[Form]:
    rows, index = given["expanded_permuted_rows"], given["expanded_src_to_dst_row"]
    skip1, skip2, bias, experts = (given[name] for name in ("skip1", "skip2", "bias", "export_for_source_row"))
    scales, result = given["scales"], out[_ONLY]
    if scales is None and given["k"] != 1:
        # There is no k: the scales say it.
        scales = np.ones((len(result), given["k"]), rows.dtype)
    elif scales is not None and scales.dtype != rows.dtype and rows.dtype != np.float16:
        # Of other dtypes than that of the rows there is only float32, which has every number of them.
        scales = scales.astype(np.float32)
    mode = given["drop_pad_mode"]
    yield Form("aclnnMoeFinalizeRoutingV2", (rows, index, skip1, skip2, bias, scales, experts, mode, Out(result)))
    if mode == 0 and not any(array is None for array in (skip1, bias, scales, experts)):
        yield Form("aclnnMoeFinalizeRouting", (rows, skip1, skip2, bias, scales, index, experts, Out(result)))


def _gating_top_k_softmax(given: Arguments, out: Outputs) -> Iterator[Form]:
    results = (Out(out["y"]), Out(out["expert_idx"]), Out(out["row_idx"]))
    yield Form("aclnnMoeGatingTopKSoftmax", (given["x"], given["finished"], given["k"], *results))


def _gating_top_k_softmax_v2(given: Arguments, out: Outputs) -> Iterator[Form]:
    wanted = given["output_softmax"] and given["renorm"] == 0
    yield Form(
        "aclnnMoeGatingTopKSoftmaxV2",
        (
            given["x"],
            given["finished"],
            given["k"],
            given["renorm"],
            given["output_softmax"],
            Out(out["y"]),
            Out(out["expert_idx"]),
            Out(out["softmax"]) if wanted else None,
        ),
    )


def _gating_top_k(given: Arguments, out: Outputs) -> Iterator[Form]:
    yield Form(
        "aclnnMoeGatingTopK",
        (
            given["x"],
            given["bias"],
            given["k"],
            given["k_group"],
            given["group_count"],
            given["group_select_mode"],
            given["renorm"],
            given["norm_type"],
            given["out_flag"],
            given["routed_scaling_factor"],
            given["eps"],
            Out(out["y"]),
            Out(out["expert_idx"]),
            Out(out["norm_out"]),
        ),
    )


def _compute_expert_tokens(given: Arguments, out: Outputs) -> Iterator[Form]:
    yield Form(
        "aclnnMoeComputeExpertTokens", (given["sorted_expert_for_source_row"], given["num_expert"], Out(out[_ONLY]))
    )


def _column(array: Array | None) -> Array | None:
    """(m, 1) as (m,)."""
    return None if array is None else array.reshape(-1)


def _refuse_packed(entry: str, name: str, weight: Any, needed: str) -> None:
    if isinstance(weight, PackedWeight):
        message = f"{name}: a PackedWeight, needed {needed}: its layout is that of this processor"
        raise Inexpressible(entry, "argument", message)


def _weight(entry: str, name: str, weight: Any, k: int, n: int) -> Any:
    """A weight as entry points take it: int8 in FRACTAL_NZ, int4 as a plain array of int32."""
    _refuse_packed(entry, name, weight, "an array or an NzArray")
    int4 = weight.dtype == np.int32
    if not isinstance(weight, NzArray) and weight.ndim == 5:
        weight = NzArray(weight, (len(weight), k, -(-n // 8) if int4 else n))
    if int4:
        return weight.to_nd() if isinstance(weight, NzArray) else weight
    return weight if isinstance(weight, NzArray) else NzArray(_core.nd_to_nz(weight, 32, None), weight.shape)


def _grouped_matmul_finalize_routing(given: Arguments, out: Outputs) -> Iterator[Form]:
    base = "aclnnGroupedMatmulFinalizeRouting"
    x, result = given["x"], out[_ONLY]
    weight = _weight(f"{base}WeightNzV2", "w", given["w"], x.shape[1], result.shape[1])
    tiled = isinstance(weight, NzArray)
    logit, offset, tuning = given["logit"], given["offset"], given["tuning_config"]
    if logit is None:
        logit = np.ones(len(x), np.float32)
    first = (x, weight, given["scale"], given["bias"])
    last = (
        _column(given["pertoken_scale"]),
        given["group_list"],
        given["shared_input"],
        logit,
        given["row_index"],
        0,
        given["shared_input_weight"],
        given["shared_input_offset"],
        False,
        False,
        given["group_list_type"],
    )
    extended = (*first, offset, None, None, *last)
    yield Form(f"{base}WeightNzV2" if tiled else f"{base}V3", (*extended, tuning, Out(result)))
    if tuning is None and not tiled:
        yield Form(f"{base}V2", (*extended, Out(result)))
    if tuning is None and offset is None:
        yield Form(f"{base}WeightNz" if tiled else base, (*first, *last, Out(result)))


def _grouped_matmul_swiglu_quant(given: Arguments, out: Outputs) -> Iterator[Form]:
    base = "aclnnGroupedMatmulSwigluQuant"
    x = given["x"]
    weight = _weight(f"{base}WeightNZ", "weight", given["weight"], x.shape[1], 2 * out["output"].shape[1])
    ends = given["group_list"].astype(np.int64)
    if given["group_list_type"] == 1:
        ends = ends.cumsum()
    arguments = (
        x,
        weight,
        given["bias"],
        None,
        given["weight_scale"],
        _column(given["x_scale"]),
        ends,
        Out(out["output"]),
        Out(out["output_scale"]),
        None,
    )
    yield Form(f"{base}WeightNZ" if isinstance(weight, NzArray) else base, arguments)


def _ffn(given: Arguments, out: Outputs) -> Iterator[Form]:
    index = given["expert_tokens_index"] is not None
    tokens = given["expert_tokens_index" if index else "expert_tokens"]
    if tokens is not None and tokens.size == 0:
        tokens = None
    for name in ("weight1", "weight2"):
        _refuse_packed("aclnnFFNV3", name, given[name], "an array")
    weights = (given["x"], given["weight1"], given["weight2"])
    more = (
        *(given[name] for name in ("bias1", "bias2", "scale", "offset", "deq_scale1", "deq_scale2")),
        *(given[f"antiquant_{name}"] for name in ("scale1", "scale2", "offset1", "offset2")),
        given["activation"],
        given["inner_precise"],
    )
    result = Out(out[_ONLY])
    yield Form("aclnnFFNV3", (*weights, tokens, *more, index, result))
    numbers = None if tokens is None else tokens.tolist()
    yield Form("aclnnFFNV2", (*weights, numbers, *more, index, result))
    if not index:
        yield Form("aclnnFFN", (*weights, numbers, *more, result))


def _dynamic_quant(given: Arguments, out: Outputs) -> Iterator[Form]:
    x, smooth, groups = given["input"], given["smooth_scales"], given["group_index"]
    results = (Out(out["y"]), Out(out["scale"]))
    if groups is None:
        yield Form("aclnnDynamicQuant", (x, smooth, *results))
    yield Form("aclnnDynamicQuantV2", (x, smooth, groups, _INT8, *results, None))


def _swiglu(given: Arguments, out: Outputs) -> Iterator[Form]:
    yield Form("aclnnSwiGlu", (given["input"], given["dim"], Out(out[_ONLY])))


def _format_cast(given: Arguments, out: Outputs) -> Iterator[Form]:
    entry, source = "aclnnNpuFormatCast", given["input"]
    (result,) = out.values()
    to_nz = given["acl_format"] == _NZ
    columns = result.shape[-1] if to_nz else source.c0
    if columns != 32 // source.dtype.itemsize:
        name = "c0" if to_nz else "input"
        raise Inexpressible(
            entry,
            "nz-not-ready",
            f"{name}: tiles of {columns} columns, needed {32 // source.dtype.itemsize}: "
            f"its tiles are 32 bytes wide, and these numbers are {source.dtype}",
        )
    yield Form(entry, (source, Out(result, shape=source.shape) if to_nz else Out(result)))


FORMS: Mapping[str, Callable[[Arguments, Outputs], Iterator[Form]]] = {
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
    "npu_swiglu": _swiglu,
    "npu_format_cast": _format_cast,
}
"""The forms of every operator."""


def clear_undefined(op: str, given: Arguments, out: Outputs) -> None:
    """Set to zero what an entry point leaves undefined in its results, as the facade promises."""
    undefined = _UNDEFINED.get(op)
    for part in () if undefined is None else undefined(given, out):
        part[...] = 0


def _undefined_init_routing(given: Arguments, out: Outputs) -> Iterator[Array]:
    if not given["expert_tokens_num_flag"]:
        yield out["expert_token_cumsum_or_count"]
    quantised = given["quant_mode"]
    if quantised == 0 or (quantised == -1 and given["scale"] is None):
        yield out["expanded_scale"]
    if given["drop_pad_mode"] == 0:
        start, end = list(given["active_expert_range"]) or [0, given["expert_num"]]
        ids = given["expert_idx"]
        used = int(((ids >= start) & (ids < end)).sum())
        yield out["expanded_x"][used:]
        yield out["expanded_scale"][used:]


def _undefined_unpermute(given: Arguments, out: Outputs) -> Iterator[Array]:
    if not given["drop_and_pad"]:
        yield out["out_index"]
        yield out["permuted_token_id"]
    if out["out_index"].size == 0:
        yield out["unpermuted"]


def _undefined_gating_top_k(given: Arguments, out: Outputs) -> Iterator[Array]:
    if not given["out_flag"]:
        yield out["norm_out"]


def _undefined_swiglu_quant(given: Arguments, out: Outputs) -> Iterator[Array]:
    groups = given["group_list"]
    used = 0 if groups.size == 0 else int(groups.sum() if given["group_list_type"] == 1 else groups[-1])
    yield out["output"][used:]
    yield out["output_scale"][used:]


_UNDEFINED: Mapping[str, Callable[[Arguments, Outputs], Iterator[Array]]] = {
    "npu_moe_init_routing_v2": _undefined_init_routing,
    "npu_moe_token_unpermute_with_routing_map": _undefined_unpermute,
    "npu_moe_gating_top_k": _undefined_gating_top_k,
    "npu_grouped_matmul_swiglu_quant": _undefined_swiglu_quant,
}
