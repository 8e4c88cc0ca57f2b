"""The calls of ``moe-native verify``: every operator over shapes, data types and modes that a card takes too."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any
from zlib import crc32

import ml_dtypes
import numpy as np

from moe_native.layout import npu_format_cast
from moe_native.types import Array

Random = np.random.Generator
Given = dict[str, Any]
Spec = tuple[str, Callable[[Random], Given]]

_F32, _F16, _BF16 = (np.dtype(dtype) for dtype in (np.float32, np.float16, ml_dtypes.bfloat16))
_FLOATS = (_F32, _F16, _BF16)


@dataclass(frozen=True)
class Case:
    """A call of an operator."""

    op: str
    label: str
    """Shape, data types and modes."""
    make: Callable[[Random], Given]

    def arguments(self) -> Given:
        """Make the arguments, the same whenever this is called."""
        return self.make(np.random.default_rng(crc32(f"{self.op} {self.label}".encode())))


def cases(op: str | None = None) -> Iterator[Case]:
    """Go through the cases of an operator, or of all.

    Examples
    --------
    >>> from moe_native.verification.cases import cases
    >>> next(cases("npu_swiglu")).label
    '1x64 float32'
    """
    for name, specs in _CASES.items():
        if op is None or op == name:
            for label, make in specs():
                yield Case(name, label, make)


def _floats(rng: Random, dtype: np.dtype[Any], *shape: int) -> Array:
    return rng.standard_normal(shape, np.float32).astype(dtype)


def _factors(rng: Random, *shape: int) -> Array:
    """Scales: positive, of one magnitude."""
    return (rng.random(shape, np.float32) + np.float32(0.5)) / np.float32(64)


def _codes(rng: Random, *shape: int) -> Array:
    return rng.integers(-128, 128, shape, np.int8)


def _nibbles(rng: Random, *shape: int) -> Array:
    """Eight int4 in every int32."""
    return rng.integers(-(2**31), 2**31, shape, np.int32)


def _routing_map(rng: Random, tokens: int, experts: int, per_token: int) -> Array:
    return (rng.random((tokens, experts)).argsort(axis=1) < per_token).astype(np.int8)


def _counts(rng: Random, rows: int, experts: int) -> Array:
    """Rows of every expert, one of which has none."""
    counts = rng.multinomial(rows, [1 / (experts - 1)] * (experts - 1)) if experts > 1 else np.array([rows])
    return np.append(counts, 0) if experts > 1 else counts


def _init_routing() -> Iterator[Spec]:
    modes: dict[str, Given] = {
        "": {},
        "cumsum": {"expert_tokens_num_flag": True},
        "count, range, scatter": {
            "expert_tokens_num_flag": True,
            "expert_tokens_num_type": 1,
            "active_expert_range": [1, 5],
            "row_idx_type": 1,
        },
        "pairs, active": {"expert_tokens_num_flag": True, "expert_tokens_num_type": 2, "active_num": 7},
        "padded": {
            "expert_tokens_num_flag": True,
            "expert_tokens_num_type": 1,
            "drop_pad_mode": 1,
            "expert_capacity": 3,
        },
    }
    for (tokens, hidden, k, experts), (dtype, quant), (mode, extra) in product(
        [(1, 7168, 8, 256), (33, 608, 3, 16)],
        [(dtype, quant) for dtype in _FLOATS for quant in (-1, 0, 1)] + [(np.dtype(np.int8), -1)],
        modes.items(),
    ):
        if tokens == 1 and mode == "padded":
            extra = extra | {"expert_capacity": 1}

        def make(rng: Random, sizes: Any = (tokens, hidden, k, experts, dtype, quant), extra: Given = extra) -> Given:
            tokens, hidden, k, experts, dtype, quant = sizes
            x = _codes(rng, tokens, hidden) if dtype == np.int8 else _floats(rng, dtype, tokens, hidden)
            ids = np.stack([rng.choice(experts, k, replace=False) for _ in range(tokens)]).astype(np.int32)
            given: Given = {"x": x, "expert_idx": ids, "expert_num": experts, "quant_mode": quant} | extra
            if quant == 0:
                given |= {"scale": np.full(1, 20, np.float32), "offset": np.full(1, 3, np.float32)}
            elif quant == 1:
                given["scale"] = _factors(rng, 1, hidden)
            elif tokens > 1:
                given["scale"] = _factors(rng, tokens)
            return given

        yield f"{tokens}x{hidden} {dtype.name}, top {k} of {experts}, quant {quant}" + (mode and f", {mode}"), make


def _permute() -> Iterator[Spec]:
    for (tokens, hidden, k, experts), dtype, padded, probs in product(
        [(1, 7168, 8, 64), (48, 608, 3, 16)], _FLOATS, (False, True), (False, True)
    ):

        def make(rng: Random, sizes: Any = (tokens, hidden, k, experts, dtype, padded, probs)) -> Given:
            tokens, hidden, k, experts, dtype, padded, probs = sizes
            return {
                "tokens": _floats(rng, dtype, tokens, hidden),
                "routing_map": _routing_map(rng, tokens, experts, k),
                "probs": _floats(rng, dtype, tokens, experts) if probs else None,
                "num_out_tokens": min(tokens, 2) * experts if padded else tokens * k,
                "drop_and_pad": padded,
            }

        yield (
            f"{tokens}x{hidden} {dtype.name}, {experts} experts, "
            f"{'padded' if padded else f'top {k}'}{', probs' * probs}",
            make,
        )


def _unpermute() -> Iterator[Spec]:
    for (tokens, hidden, k, experts), dtype, padded, probs in product(
        [(1, 7168, 8, 64), (48, 608, 3, 16)], _FLOATS, (False, True), (False, True)
    ):

        def make(rng: Random, sizes: Any = (tokens, hidden, k, experts, dtype, padded, probs)) -> Given:
            tokens, hidden, k, experts, dtype, padded, probs = sizes
            rows = min(tokens, 2) * experts if padded else tokens * k
            index = (
                np.concatenate([rng.choice(tokens, rows // experts, replace=False) for _ in range(experts)])
                if padded
                else rng.permutation(rows)
            )
            return {
                "permuted_tokens": _floats(rng, dtype, rows, hidden),
                "sorted_indices": index.astype(np.int32),
                "restore_shape": [tokens, hidden],
                "probs": _floats(rng, dtype, tokens, experts) if probs else None,
                "routing_map": _routing_map(rng, tokens, experts, k),
                "drop_and_pad": padded,
            }

        yield (
            f"{tokens}x{hidden} {dtype.name}, {experts} experts, "
            f"{'padded' if padded else f'top {k}'}{', probs' * probs}",
            make,
        )


def _finalize() -> Iterator[Spec]:
    for (tokens, hidden, k, experts), dtype, mode, extras in product(
        [(1, 7168, 8, 16), (33, 608, 3, 16)], _FLOATS, range(4), (0, 1, 2)
    ):

        def make(rng: Random, sizes: Any = (tokens, hidden, k, experts, dtype, mode, extras)) -> Given:
            tokens, hidden, k, experts, dtype, mode, extras = sizes
            rows = tokens * k
            padded = mode in (1, 3)
            capacity = -(-rows // experts)
            shape = (experts, capacity, hidden) if padded else (rows, hidden)
            index = rng.permutation(experts * capacity if padded else rows)[:rows].astype(np.int32)
            if padded and rows > 1:
                index[-1] = -1
            given: Given = {
                "expanded_permuted_rows": _floats(rng, dtype, *shape),
                "skip1": _floats(rng, dtype, tokens, hidden) if extras > 0 else None,
                "skip2": _floats(rng, dtype, tokens, hidden) if extras > 1 else None,
                "bias": _floats(rng, dtype, experts, hidden) if extras > 1 else None,
                "scales": _floats(rng, dtype, tokens, k),
                "expanded_src_to_dst_row": index,
                "drop_pad_mode": mode,
            }
            if extras > 1:
                given["export_for_source_row"] = rng.integers(0, experts, (tokens, k), np.int32)
            return given

        extra = ("", ", skip", ", skips, bias")[extras]
        yield f"{tokens}x{hidden} {dtype.name}, top {k}, mode {mode}{extra}", make


def _gating_softmax(second: bool) -> Iterator[Spec]:
    modes: list[Given] = [{}]
    if second:
        modes = [{}, {"output_softmax": True}, {"renorm": 1}]
    for shape, k, dtype, finished, extra in product(
        [(1, 256), (33, 64), (2, 5, 128)], (1, 8), _FLOATS, (False, True), modes
    ):

        def make(rng: Random, sizes: Any = (shape, k, dtype, finished), extra: Given = extra) -> Given:
            shape, k, dtype, finished = sizes
            # No ties: which of two equals is chosen is not what is tested.
            x = rng.permuted(np.broadcast_to(np.linspace(-4, 4, shape[-1]), shape), axis=-1).astype(dtype)
            return {"x": x, "k": k, "finished": rng.random(shape[:-1]) < 0.3 if finished else None} | extra

        sizes = "x".join(map(str, shape))
        mode = "".join(f", {name} {value}" for name, value in extra.items())
        yield f"{sizes} {dtype.name}, top {k}{', finished' * finished}{mode}", make


def _gating_top_k() -> Iterator[Spec]:
    for (rows, experts), dtype, norm, select, bias, flag in product(
        [(1, 256), (33, 64)], _FLOATS, (0, 1), (0, 1), (False, True), (False, True)
    ):

        def make(rng: Random, sizes: Any = (rows, experts, dtype, norm, select, bias, flag)) -> Given:
            rows, experts, dtype, norm, select, bias, flag = sizes
            return {
                "x": rng.permuted(np.tile(np.linspace(-4, 4, experts), (rows, 1)), axis=1).astype(dtype),
                "k": 8,
                "bias": np.linspace(0, 1 / 16, experts).astype(dtype) if bias else None,
                "k_group": 4,
                "group_count": 8,
                "group_select_mode": select,
                "norm_type": norm,
                "out_flag": flag,
                "routed_scaling_factor": 2.5,
                "eps": 1e-20,
            }

        extra = f"{', bias' * bias}{', scores' * flag}"
        yield f"{rows}x{experts} {dtype.name}, norm {norm}, groups by {select}{extra}", make


def _compute_expert_tokens() -> Iterator[Spec]:
    for rows, experts in product((1, 100, 4096), (1, 8, 256)):

        def make(rng: Random, rows: int = rows, experts: int = experts) -> Given:
            ids = np.sort(rng.integers(0, experts, rows, np.int32))
            return {"sorted_expert_for_source_row": ids, "num_expert": experts}

        yield f"{rows} rows, {experts} experts", make


def _grouped_matmul_finalize() -> Iterator[Spec]:
    for (rows, k, n, experts), list_type, scale, shared, tiled in product(
        [(16, 256, 256, 2), (96, 512, 768, 4)], (0, 1), (_F32, _BF16), (False, True), (False, True)
    ):

        def make(rng: Random, sizes: Any = (rows, k, n, experts, list_type, scale, shared, tiled)) -> Given:
            rows, k, n, experts, list_type, scale, shared, tiled = sizes
            counts = _counts(rng, rows, experts)
            w = _codes(rng, experts, k, n)
            given: Given = {
                "x": _codes(rng, rows, k),
                "w": npu_format_cast(w, 29) if tiled else w,
                "group_list": counts if list_type == 1 else counts.cumsum(),
                "scale": _factors(rng, experts, n).astype(scale),
                "pertoken_scale": _factors(rng, rows),
                "logit": _floats(rng, _F32, rows),
                "row_index": rng.permutation(np.arange(rows) % (rows // 2)),
                "output_bs": rows // 2,
                "group_list_type": list_type,
            }
            if shared:
                given |= {
                    "shared_input": _floats(rng, _BF16, 2, n),
                    "shared_input_weight": 0.5,
                    "shared_input_offset": 1,
                }
            return given

        extra = f"{', shared' * shared}{', tiles' * tiled}"
        yield f"{rows}x{k}x{n} int8, {experts} experts, list {list_type}, {scale.name} scale{extra}", make
    for (rows, k, n, experts), offset in product([(16, 256, 256, 2), (48, 512, 256, 3)], (False, True)):

        def make_int4(rng: Random, sizes: Any = (rows, k, n, experts, offset)) -> Given:
            rows, k, n, experts, offset = sizes
            return {
                "x": _codes(rng, rows, k),
                "w": _nibbles(rng, experts, k, n // 8),
                "group_list": _counts(rng, rows, experts),
                "scale": _factors(rng, experts, 1, n).view(np.uint32).astype(np.int64),
                "bias": _floats(rng, _F32, experts, n),
                "offset": _factors(rng, experts, 1, n) if offset else None,
                "pertoken_scale": _factors(rng, rows),
                "logit": _floats(rng, _F32, rows),
                "row_index": rng.integers(0, rows // 2, rows),
                "output_bs": rows // 2,
            }

        yield f"{rows}x{k}x{n} int4, {experts} experts{', offset' * offset}", make_int4


def _grouped_matmul_swiglu() -> Iterator[Spec]:
    for (rows, k, n, experts), scale, rest, tiled in product(
        [(16, 256, 256, 2), (96, 512, 768, 4)], _FLOATS, (False, True), (False, True)
    ):

        def make(rng: Random, sizes: Any = (rows, k, n, experts, scale, rest, tiled)) -> Given:
            rows, k, n, experts, scale, rest, tiled = sizes
            weight = _codes(rng, experts, k, n)
            return {
                "x": _codes(rng, rows, k),
                "weight": npu_format_cast(weight, 29) if tiled else weight,
                "group_list": _counts(rng, rows - 3 * rest, experts).cumsum(),
                "weight_scale": _factors(rng, experts, n).astype(scale),
                "x_scale": _factors(rng, rows),
            }

        extra = f"{', rows without expert' * rest}{', tiles' * tiled}"
        yield f"{rows}x{k}x{n} int8, {experts} experts, {scale.name} scale{extra}", make
    for rows, k, n, experts in [(16, 256, 256, 2), (48, 512, 256, 3)]:

        def make_int4(rng: Random, sizes: Any = (rows, k, n, experts)) -> Given:
            rows, k, n, experts = sizes
            return {
                "x": _codes(rng, rows, k),
                "weight": _nibbles(rng, experts, k, n // 8),
                "group_list": _counts(rng, rows, experts).cumsum(),
                "weight_scale": _factors(rng, experts, n).view(np.uint32).astype(np.int64),
                "bias": _floats(rng, _F32, experts, n),
                "x_scale": _factors(rng, rows),
            }

        yield f"{rows}x{k}x{n} int4, {experts} experts", make_int4


def _ffn() -> Iterator[Spec]:
    sizes = [(1, 64, 128, 0), (33, 128, 256, 4)]
    for (rows, k, n, experts), (scenario, precise), activation, biases in product(
        sizes,
        [("float16", 0), ("float16", 1), ("bfloat16", 0), ("int8", 0), ("int8 to bfloat16", 0), ("int8 weights", 0)],
        ("fastgelu", "gelu", "relu", "silu"),
        (False, True),
    ):

        def make(rng: Random, of: Any = (rows, k, n, experts, scenario, precise, activation, biases)) -> Given:
            return _ffn_arguments(rng, *of)

        yield (
            f"{rows}x{k}x{n} {scenario}, {activation}, {experts} experts, precise {precise}{', biases' * biases}",
            make,
        )
    for rows, k, n, experts in [(1, 64, 128, 2), (33, 128, 256, 4)]:

        def make_index(rng: Random, of: Any = (rows, k, n, experts, "float16", 0, "silu", True)) -> Given:
            given = _ffn_arguments(rng, *of)
            given["expert_tokens_index"] = np.cumsum(given.pop("expert_tokens")).tolist()
            return given

        yield f"{rows}x{k}x{n} float16, silu, {experts} experts by their ends", make_index
    for activation in ("geglu", "swiglu", "reglu"):

        def make_gated(rng: Random, activation: str = activation) -> Given:
            return {
                "x": _floats(rng, _F16, 16, 64),
                "weight1": _floats(rng, _F16, 64, 256) / np.float16(8),
                "weight2": _floats(rng, _F16, 128, 64) / np.float16(8),
                "activation": activation,
                "inner_precise": 1,
            }

        yield f"16x64x128 float16, {activation}", make_gated


def _ffn_arguments(
    rng: Random,
    rows: int,
    k: int,
    n: int,
    experts: int,
    scenario: str,
    precise: int,
    activation: str,
    biases: bool,
) -> Given:
    lead = (experts,) if experts else ()
    per = (experts,) if experts else (1,)
    given: Given = {"activation": activation, "inner_precise": precise}
    if experts:
        given["expert_tokens"] = _counts(rng, rows, experts).tolist()
    if scenario in ("float16", "bfloat16"):
        dtype = np.dtype(getattr(ml_dtypes, scenario, scenario))
        bias = dtype if dtype == _F16 else _F32
        given |= {
            "x": _floats(rng, dtype, rows, k),
            "weight1": (_floats(rng, _F32, *lead, k, n) / np.float32(8)).astype(dtype),
            "weight2": (_floats(rng, _F32, *lead, n, k) / np.float32(8)).astype(dtype),
        }
        if biases:
            given |= {"bias1": _floats(rng, bias, *lead, n), "bias2": _floats(rng, bias, *lead, k)}
        return given
    given |= {"weight1": _codes(rng, *lead, k, n), "weight2": _codes(rng, *lead, n, k)}
    if scenario == "int8 weights":
        given["x"] = _floats(rng, _F16, rows, k)
        for index, size in (("1", n), ("2", k)):
            given[f"antiquant_scale{index}"] = (_factors(rng, *lead, size) / np.float32(8)).astype(_F16)
            given[f"antiquant_offset{index}"] = _floats(rng, _F16, *lead, size)
            if biases:
                given[f"bias{index}"] = _floats(rng, _F16, *lead, size)
        return given
    to_bfloat16 = scenario == "int8 to bfloat16"
    given |= {
        "x": _codes(rng, rows, k),
        "scale": np.full(per, 8, np.float32),
        "offset": np.full(per, 1, np.float32),
        "output_dtype": "bfloat16" if to_bfloat16 else "float16",
    }
    for index, size in (("1", n), ("2", k)):
        factors = _factors(rng, *lead, size) / np.float32(256)
        given[f"deq_scale{index}"] = factors.astype(_BF16) if to_bfloat16 else factors
        if biases:
            given[f"bias{index}"] = rng.integers(-1000, 1000, (*lead, size), np.int32)
    return given


def _dynamic_quant() -> Iterator[Spec]:
    for shape, dtype, smooth in product([(1, 7168), (2, 17, 608)], (_F16, _BF16), (0, 1, 4)):

        def make(rng: Random, sizes: Any = (shape, dtype, smooth)) -> Given:
            shape, dtype, groups = sizes
            given: Given = {"input": _floats(rng, dtype, *shape)}
            rows = int(np.prod(shape[:-1]))
            if groups == 1:
                given["smooth_scales"] = _floats(rng, dtype, shape[-1])
            elif groups > 1:
                given["smooth_scales"] = _floats(rng, dtype, groups, shape[-1])
                given["group_index"] = _counts(rng, rows, groups).cumsum().astype(np.int32)
            return given

        extra = {0: "", 1: ", smooth", 4: ", smooth by groups"}[smooth]
        yield f"{'x'.join(map(str, shape))} {dtype.name}{extra}", make


def _swiglu() -> Iterator[Spec]:
    for shape, dtype in product([(1, 64), (33, 608), (2, 17, 256)], _FLOATS):

        def make(rng: Random, shape: tuple[int, ...] = shape, dtype: np.dtype[Any] = dtype) -> Given:
            return {"input": _floats(rng, dtype, *shape)}

        yield f"{'x'.join(map(str, shape))} {dtype.name}", make


def _format_cast() -> Iterator[Spec]:
    dtypes: list[np.dtype[Any]] = [np.dtype(np.int8), _F16, _BF16, _F32, np.dtype(np.int32)]
    for shape, dtype, back in product([(32, 64), (3, 48, 96), (2, 20, 40)], dtypes, (False, True)):

        def make(rng: Random, sizes: Any = (shape, dtype, back)) -> Given:
            shape, dtype, back = sizes
            integers = dtype.kind == "i"
            array = rng.integers(-100, 100, shape).astype(dtype) if integers else _floats(rng, dtype, *shape)
            columns = 32 // dtype.itemsize
            if back:
                return {"input": npu_format_cast(array, 29, c0=columns), "acl_format": 2}
            return {"input": array, "acl_format": 29, "c0": columns}

        yield f"{'x'.join(map(str, shape))} {dtype.name}, {'from' if back else 'to'} tiles", make


_CASES: Mapping[str, Callable[[], Iterator[Spec]]] = {
    "npu_moe_gating_top_k_softmax": lambda: _gating_softmax(False),
    "npu_moe_gating_top_k_softmax_v2": lambda: _gating_softmax(True),
    "npu_moe_gating_top_k": _gating_top_k,
    "npu_moe_compute_expert_tokens": _compute_expert_tokens,
    "npu_moe_init_routing_v2": _init_routing,
    "npu_moe_token_permute_with_routing_map": _permute,
    "npu_moe_token_unpermute_with_routing_map": _unpermute,
    "npu_dynamic_quant": _dynamic_quant,
    "npu_swiglu": _swiglu,
    "npu_ffn": _ffn,
    "npu_grouped_matmul_swiglu_quant": _grouped_matmul_swiglu,
    "npu_grouped_matmul_finalize_routing": _grouped_matmul_finalize,
    "npu_moe_finalize_routing": _finalize,
    "npu_format_cast": _format_cast,
}

OPERATORS = tuple(_CASES)
"""The operators that have cases, in the order of a layer."""
