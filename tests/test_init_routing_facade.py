"""npu_moe_init_routing_v2: hand-worked numbers, every mode against the oracle bit for bit, and every refusal."""

import numpy as np
import pytest
from cases.init_routing import CASES, INT32_MAX, PADDED, ROUTED, f32, i32, i64
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native import limits, npu_moe_init_routing_v2
from moe_native.oracle.init_routing import moe_init_routing_v2
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only, round_to, strided

FLOATS = [np.dtype(np.float32), np.dtype(np.float16), bfloat16]
DTYPES = [*FLOATS, np.dtype(np.int8)]
NAMES = ("expanded_x", "expanded_row_idx", "expert_token_cumsum_or_count", "expanded_scale")


def assert_same_results(seen, needed):
    for name, s, n in zip(NAMES, seen, needed, strict=True):
        try:
            assert_same_bits(s, n)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def assert_equals_oracle(**arguments):
    """Run on read-only inputs and guarded, poisoned outputs; compare with the oracle, bit for bit."""
    needed = moe_init_routing_v2(**arguments)
    frozen = {n: read_only(a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
    out, checks = zip(*[guarded(result.shape, result.dtype) for result in needed], strict=True)
    seen = npu_moe_init_routing_v2(**frozen, out=out)
    for result, array, check in zip(seen, out, checks, strict=True):
        assert result is array
        check()
    assert_same_results(seen, needed)
    assert_same_results(npu_moe_init_routing_v2(**frozen), needed)
    return seen


def rows(rng, dtype, shape, special=0.0):
    """Normal numbers, among them a share of zeros, subnormals, huge numbers, inf and NaN."""
    if dtype == np.int8:
        return rng.integers(-128, 128, shape, dtype=np.int8)
    values = rng.normal(size=shape)
    odd = rng.choice([0.0, -0.0, 1e-45, 2e-43, 1e-40, 6e-8, 6e4, 3e38, np.inf, -np.inf, np.nan], shape)
    return round_to(np.where(rng.random(shape) < special, odd, values), dtype)


@pytest.mark.parametrize("case", CASES)
def test_worked_numbers(case):
    arguments, needed = CASES[case]
    seen = assert_equals_oracle(**arguments)
    for result, numbers in zip(seen, needed, strict=True):
        if numbers is not None:
            assert_same_bits(result, numbers)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_equals_oracle(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    tokens, top_k = data.draw(st.sampled_from([1, 2, 5, 31])), data.draw(st.sampled_from([1, 2, 3, 8]))
    hidden = data.draw(st.sampled_from([0, 1, 2, 7, 15, 16, 17, 33, 64, 613]))
    experts = data.draw(st.sampled_from([1, 2, 6, 40]))
    padded = data.draw(st.booleans())
    quant_mode = data.draw(st.integers(-1, 1))
    dtype = data.draw(st.sampled_from(DTYPES if quant_mode == -1 else FLOATS))
    special = data.draw(st.sampled_from([0.0, 0.02, 0.5]))
    arguments = {
        "x": rows(rng, dtype, (tokens, hidden), special),
        "expert_num": experts,
        "quant_mode": quant_mode,
        "expert_tokens_num_flag": data.draw(st.booleans()),
    }
    start, end = 0, experts
    if padded:
        arguments |= {"drop_pad_mode": 1, "expert_tokens_num_type": 1, "active_num": -9}
        arguments["expert_capacity"] = data.draw(st.integers(1, tokens))
    else:
        start = data.draw(st.integers(0, experts - 1))
        end = data.draw(st.integers(start + 1, experts))
        arguments["active_expert_range"] = [start, end]
        arguments["active_num"] = data.draw(st.integers(-1, tokens * top_k + 3))
        arguments["expert_tokens_num_type"] = data.draw(st.integers(0, 2))
        arguments["row_idx_type"] = data.draw(st.integers(0, 1))
    if quant_mode == 0:
        arguments |= {"scale": rows(rng, np.float32, 1, special), "offset": rows(rng, np.float32, 1, special)}
    elif data.draw(st.booleans()):
        shape = (tokens,) if quant_mode == -1 else (data.draw(st.sampled_from([1, end - start])), hidden)
        arguments["scale"] = rows(rng, np.float32, shape, special)
    ids = rng.integers(0, experts, (tokens, top_k), dtype=np.int32)
    if data.draw(st.booleans()):
        away = rng.choice([-(2**31), -7, -1, experts, experts + 1, 10**6, INT32_MAX - 1, INT32_MAX], ids.shape)
        ids = np.where(rng.random(ids.shape) < 0.4, away, ids).astype(np.int32)
    assert_equals_oracle(expert_idx=ids, **arguments)


# Edge cases


@pytest.mark.parametrize("hidden", [1, 613])
@pytest.mark.parametrize(("tokens", "top_k", "experts"), [(1, 1, 1), (1, 475, 226), (7, 1, 3), (1, 8, 256)])
def test_small_and_odd_sizes(tokens, top_k, experts, hidden):
    rng = np.random.default_rng(0)
    assert_equals_oracle(
        x=rows(rng, bfloat16, (tokens, hidden)),
        expert_idx=rng.integers(0, experts, (tokens, top_k), dtype=np.int32),
        expert_num=experts,
        active_expert_range=[0, (experts + 1) // 2],
        quant_mode=1,
        expert_tokens_num_type=2,
        expert_tokens_num_flag=True,
    )


def test_all_entries_of_one_expert_keep_their_order():
    x = np.arange(50, dtype=np.float32).reshape(50, 1)
    arguments = {"x": x, "expert_idx": np.full((50, 3), 4, np.int32), "expert_num": 6}
    seen = assert_equals_oracle(**arguments, row_idx_type=1)
    assert_same_bits(seen[0], np.repeat(x, 3, axis=0))
    assert_same_bits(seen[1], np.arange(150, dtype=np.int32))


@pytest.mark.parametrize("given_range", [[0, 6], (0, 6), [], (), None, [5, 6], [np.int64(0), np.int8(6)]], ids=str)
def test_ranges(given_range):
    arguments = ROUTED | {"active_expert_range": given_range}
    needed = moe_init_routing_v2(
        **(arguments | {"active_expert_range": [5, 6] if 5 in (given_range or []) else [0, 6]})
    )
    assert_same_results(npu_moe_init_routing_v2(**arguments), needed)


@pytest.mark.parametrize("occupied", [6, 5, 1])
def test_pairs_of_nearly_all_experts(occupied):
    ids = np.arange(12, dtype=np.int32).reshape(12, 1) % occupied
    pairs = assert_equals_oracle(
        x=np.ones((12, 1), np.float32),
        expert_idx=ids,
        expert_num=6,
        expert_tokens_num_type=2,
        expert_tokens_num_flag=True,
    )[2]
    assert_same_bits(pairs[:occupied], np.array([[e, 12 // occupied + (e < 12 % occupied)] for e in range(occupied)]))
    assert not pairs[occupied:].any()


@pytest.mark.parametrize("active_num", [-1, 0, 1, 3, 4, 6, 11])
def test_active_num(active_num):
    """Of six entries four are routed."""
    for row_idx_type in (0, 1):
        arguments = ROUTED | {"active_num": active_num, "row_idx_type": row_idx_type, "scale": f32(10, 20, 30)}
        seen = assert_equals_oracle(**arguments)
        assert seen[0].shape[0] == (6 if active_num in (-1, 0) else min(active_num, 6))
        assert_same_bits(seen[1], [i32(0, -1, -1, 1, 3, 2), i32(0, 3, 5, 4, 1, 2)][row_idx_type])
        assert_same_bits(seen[2], i64(0, 3, 1))


@pytest.mark.parametrize("factors", [1, 2])
def test_one_row_of_factors_of_a_range_of_one(factors):
    """(1, hidden) means the same as (experts, hidden) when there is one expert; two rows do not fit."""
    arguments = ROUTED | {"active_expert_range": [2, 3], "quant_mode": 1, "scale": np.ones((factors, 4), np.float32)}
    if factors == 1:
        assert_equals_oracle(**arguments)
    else:
        with pytest.raises(ValueError, match=r"scale: shape \(2, 4\), needed .* = \(1, 4\)"):
            npu_moe_init_routing_v2(**arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_plain_rows_are_copied_bit_by_bit(dtype, padded):
    x = np.random.default_rng(0).integers(0, 256, 9 * 64, np.uint8).view(dtype).reshape(9, -1)
    if dtype == np.float32:
        x.view(np.uint32)[0, :3] = 0x7F800001, 0xFFC12345, 0x80000000  # signalling NaN, NaN with payload, -0.0
    ids = np.array([[0], [1]] * 4 + [[0]], np.int32)
    seen = npu_moe_init_routing_v2(x, ids, expert_num=2, drop_pad_mode=int(padded), expert_capacity=5)[0]
    order = [0, 2, 4, 6, 8, 1, 3, 5, 7]
    assert seen.dtype == dtype
    assert seen.tobytes() == b"".join(x[t].tobytes() for t in order) + (b"\0" * 64 if padded else b"")


@pytest.mark.parametrize("capacity", [1, 2, 3])
@pytest.mark.parametrize("quant_mode", [-1, 0, 1])
def test_capacities(capacity, quant_mode):
    """An expert over its capacity, an empty one in the middle, and an empty last one."""
    arguments = PADDED | {
        "expert_idx": i32([0, 0], [0, 2], [2, 0]),
        "expert_num": 4,
        "expert_capacity": capacity,
        "quant_mode": quant_mode,
    }
    if quant_mode == 0:
        arguments |= {"scale": f32(0), "offset": f32(7)}
    x, row_idx, count, _ = assert_equals_oracle(**arguments)
    assert_same_bits(count, i64(4, 0, 2, 0))
    assert np.count_nonzero(row_idx >= 0) == min(capacity, 4) + min(capacity, 2)
    if quant_mode == 0:
        assert (x[0] == 7).all()
        assert (x[2, : min(capacity, 2)] == 7).all()
        assert not x[[1, 3]].any()
        assert not x[2, 2:].any()


def test_two_entries_of_a_token_with_the_same_expert():
    seen = assert_equals_oracle(**(ROUTED | {"expert_idx": i32([2, 2], [3, 3], [2, 2]), "quant_mode": 1}))
    assert_same_bits(seen[1], i32(0, 1, 4, 5, 2, 3))


def test_int8_rows_cannot_be_quantised_but_copied():
    arguments = ROUTED | {"x": np.arange(12, dtype=np.int8).reshape(3, 4)}
    assert assert_equals_oracle(**arguments)[0].dtype == np.int8
    for mode in (0, 1):
        with pytest.raises(ValueError, match=f"x: int8 with quant_mode {mode}, needed float16"):
            npu_moe_init_routing_v2(**(arguments | {"quant_mode": mode, "scale": f32(1), "offset": f32(1)}))


@pytest.mark.parametrize("quant_mode", [-1, 1])
def test_offset_is_ignored(quant_mode):
    arguments = ROUTED | {"quant_mode": quant_mode}
    needed = npu_moe_init_routing_v2(**arguments)
    assert_same_results(npu_moe_init_routing_v2(**arguments, offset=np.ones((3, 2), np.float64)), needed)


@pytest.mark.parametrize("quant_mode", [-1, 0, 1])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_strided_inputs(dtype, quant_mode):
    rng = np.random.default_rng(0)
    arguments = {
        "x": rows(rng, dtype, (9, 33)),
        "expert_idx": rng.integers(0, 5, (9, 4), dtype=np.int32),
        "scale": rows(rng, np.float32, {-1: (9,), 0: (1,), 1: (5, 33)}[quant_mode]),
        "offset": f32(0.5),
        "expert_num": 5,
        "quant_mode": quant_mode,
    }
    views = {n: strided(a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
    assert_same_results(npu_moe_init_routing_v2(**views), moe_init_routing_v2(**arguments))
    repeated = np.broadcast_to(arguments["x"][:1], (9, 33))
    assert_same_results(
        npu_moe_init_routing_v2(**(arguments | {"x": repeated})),
        moe_init_routing_v2(**(arguments | {"x": repeated.copy()})),
    )


def test_results_that_are_given_and_results_that_are_not():
    out, check = guarded((6,), np.int32)
    seen = npu_moe_init_routing_v2(**ROUTED, out=(None, out, None, None))
    assert seen[1] is out
    check()
    assert_same_results(seen, npu_moe_init_routing_v2(**ROUTED))


# Refusals

F32 = np.float32
STATIC = {"quant_mode": 0, "scale": f32(1), "offset": f32(1)}
REFUSED = {
    # name: (arguments to replace, exception, status of the core or None, message)
    "x missing": ({"x": None}, TypeError, 161001, "x: missing"),
    "expert_idx missing": ({"expert_idx": None}, TypeError, 161001, "expert_idx: missing"),
    "x a list": ({"x": [[1.0]]}, TypeError, None, "x: list, needed an array"),
    "x float64": ({"x": np.ones((3, 4))}, TypeError, 161002, "x: dtype float64, needed one of"),
    "x uint8": ({"x": np.ones((3, 4), np.uint8)}, TypeError, 161002, "x: dtype uint8"),
    "expert_idx int64": ({"expert_idx": np.zeros((3, 2), np.int64)}, TypeError, 161002, "expert_idx: dtype int64"),
    "scale float64": ({"scale": np.ones(3)}, TypeError, 161002, "scale: dtype float64, needed float32"),
    "scale float16": (
        {"scale": np.ones((3, 4), np.float16), "quant_mode": 1},
        TypeError,
        161002,
        "scale: dtype float16",
    ),
    "offset float64": (STATIC | {"offset": np.ones(1)}, TypeError, 161002, "offset: dtype float64"),
    "x int8, static": (STATIC | {"x": np.ones((3, 4), np.int8)}, ValueError, 561002, "x: int8 with quant_mode 0"),
    "x int8, dynamic": (
        {"x": np.ones((3, 4), np.int8), "quant_mode": 1},
        ValueError,
        561002,
        "x: int8 with quant_mode 1",
    ),
    "active_num": ({"active_num": -2}, ValueError, 561002, "active_num: -2, needed >= -1"),
    "active_num None": ({"active_num": None}, TypeError, None, "active_num: NoneType, needed an int"),
    "active_num huge": ({"active_num": 2**63}, ValueError, None, "active_num: .* does not fit 64 bits"),
    "expert_num missing": ({"expert_num": -1}, ValueError, 561002, "expert_num: -1, needed 1 to 10240"),
    "expert_num 0": ({"expert_num": 0}, ValueError, 561002, "expert_num: 0, needed 1 to 10240"),
    "expert_num large": ({"expert_num": 10241}, ValueError, 561002, "expert_num: 10241, needed 1 to 10240"),
    "expert_num large, pairs": (
        {"expert_num": 5121, "expert_tokens_num_type": 2},
        ValueError,
        561002,
        "expert_num: 5121, needed 1 to 5120",
    ),
    "expert_num float": ({"expert_num": 6.0}, TypeError, None, "expert_num: float, needed an int"),
    "range of one": ({"active_expert_range": [1]}, ValueError, 561002, "active_expert_range: 1 numbers"),
    "range of three": ({"active_expert_range": [1, 2, 3]}, ValueError, 561002, "range: 3 numbers, needed 2 or none"),
    "range below": ({"active_expert_range": [-1, 3]}, ValueError, 561002, r"range: \[-1, 3\), needed 0 <= start"),
    "range empty": ({"active_expert_range": [3, 3]}, ValueError, 561002, r"range: \[3, 3\), needed 0 <= start < end"),
    "range reversed": ({"active_expert_range": [4, 1]}, ValueError, 561002, r"range: \[4, 1\)"),
    "range beyond": ({"active_expert_range": [1, 7]}, ValueError, 561002, r"\[1, 7\), .* <= expert_num = 6"),
    "range of floats": ({"active_expert_range": [1, 4.0]}, TypeError, None, "range: float, needed an int"),
    "range of bools": ({"active_expert_range": [False, True]}, TypeError, None, "range: False, needed an int"),
    "range a string": ({"active_expert_range": "14"}, TypeError, None, "range: str, needed a list"),
    "range an int": ({"active_expert_range": 4}, TypeError, None, "range: int, needed a list"),
    "range a set": ({"active_expert_range": {1, 4}}, TypeError, None, "range: set, needed a list"),
    "drop_pad_mode": ({"drop_pad_mode": 2}, ValueError, 561002, "drop_pad_mode: 2, needed 0 to 1"),
    "drop_pad_mode bool": ({"drop_pad_mode": True}, TypeError, None, "drop_pad_mode: True, needed an int"),
    "num_type": ({"expert_tokens_num_type": 3}, ValueError, 561002, "num_type: 3, needed 0 to 2"),
    "num_type below": ({"expert_tokens_num_type": -1}, ValueError, 561002, "num_type: -1, needed 0 to 2"),
    "num_type str": ({"expert_tokens_num_type": "1"}, TypeError, None, "num_type: str, needed an int"),
    "num_flag int": ({"expert_tokens_num_flag": 1}, TypeError, None, "num_flag: int, needed a bool"),
    "num_flag None": ({"expert_tokens_num_flag": None}, TypeError, None, "num_flag: NoneType, needed a bool"),
    "row_idx_type": ({"row_idx_type": -1}, ValueError, 561002, "row_idx_type: -1, needed 0 to 1"),
    "row_idx_type float": ({"row_idx_type": 1.0}, TypeError, None, "row_idx_type: float, needed an int"),
    "quant_mode -2": ({"quant_mode": -2}, ValueError, 561002, "quant_mode: -2, needed -1 to 1"),
    "quant_mode 18": ({"quant_mode": 18}, ValueError, 561002, "quant_mode: 18, needed -1 to 1"),
    "quant_mode str": ({"quant_mode": "dynamic"}, TypeError, None, "quant_mode: str, needed an int"),
    "x_dtype": ({"x_dtype": 285}, ValueError, None, "x_dtype: 285 is not supported yet"),
    "x rank": ({"x": np.ones(12, F32)}, ValueError, 561002, r"x: shape \(12,\), needed 2 dimensions"),
    "expert_idx rank": ({"expert_idx": i32(1, 2, 3)}, ValueError, 561002, "expert_idx: shape"),
    "tokens": ({"expert_idx": i32([1], [2])}, ValueError, 561002, r"expert_idx: shape \(2, 1\), needed .* \(3, any\)"),
    "too many entries": (
        {"x": np.broadcast_to(F32(0), (2**16, 4)), "expert_idx": np.broadcast_to(np.int32(0), (2**16, 2**15))},
        ValueError,
        561002,
        "expert_idx: 2147483648 entries, needed at most 2147483647",
    ),
    "rows too large": (
        {"x": np.broadcast_to(F32(0), (1, 2**54)), "expert_idx": np.zeros((1, 2**10), np.int32)},
        ValueError,
        561002,
        "x: 1024 expanded rows of 18014398509481984 columns are too large",
    ),
    "scale of tokens": ({"scale": np.ones(4, F32)}, ValueError, 561002, r"scale: shape \(4,\), needed \(tokens,\) ="),
    "scale of tokens, rank": ({"scale": np.ones((3, 1), F32)}, ValueError, 561002, r"scale: shape \(3, 1\)"),
    "static scale missing": (STATIC | {"scale": None}, ValueError, 561002, "scale: missing, needed with quant_mode 0"),
    "static offset missing": (STATIC | {"offset": None}, ValueError, 561002, "offset: missing, needed with"),
    "static scale shape": (STATIC | {"scale": f32(1, 2)}, ValueError, 561002, r"scale: shape \(2,\), needed \(1,\)"),
    "static offset shape": (STATIC | {"offset": f32([1])}, ValueError, 561002, r"offset: shape \(1, 1\)"),
    "factors, experts": ({"quant_mode": 1, "scale": np.ones((2, 4), F32)}, ValueError, 561002, r"= \(3, 4\)"),
    "factors, columns": ({"quant_mode": 1, "scale": np.ones((3, 5), F32)}, ValueError, 561002, r"= \(3, 4\)"),
    "factors for all, columns": ({"quant_mode": 1, "scale": np.ones((1, 5), F32)}, ValueError, 561002, "scale: shape"),
    "factors, rank": ({"quant_mode": 1, "scale": np.ones(4, F32)}, ValueError, 561002, r"scale: shape \(4,\)"),
}
REFUSED |= {
    f"quant_mode {mode}": ({"quant_mode": mode}, ValueError, 561002, f"quant_mode: {mode} is not supported yet")
    for mode in [*range(2, 10), *range(11, 18)]
}
REFUSED_PADDED = {
    "capacity missing": ({"expert_capacity": -1}, ValueError, 561002, "expert_capacity: -1, needed >= 1"),
    "capacity 0": ({"expert_capacity": 0}, ValueError, 561002, "expert_capacity: 0, needed >= 1"),
    "capacity above the tokens": ({"expert_capacity": 4}, ValueError, 561002, "capacity: 4, needed at most .* = 3"),
    "no tokens": (
        {"x": np.ones((0, 4), F32), "expert_idx": np.zeros((0, 2), np.int32), "expert_capacity": 1},
        ValueError,
        561002,
        "expert_capacity: 1, needed at most the number of tokens = 0",
    ),
    "too many slots": (
        {
            "x": np.broadcast_to(F32(0), (2**18, 4)),
            "expert_idx": np.broadcast_to(np.int32(0), (2**18, 1)),
            "expert_num": 10240,
            "expert_capacity": 2**18,
        },
        ValueError,
        561002,
        "expert_capacity: 262144 slots for each of 10240 experts",
    ),
    "scatter": ({"row_idx_type": 1}, ValueError, 561002, "row_idx_type: 1, needed 0 with drop_pad_mode 1"),
    "part of the experts": ({"active_expert_range": [0, 2]}, ValueError, 561002, r"range: \[0, 2\), needed all 3"),
    "cumsum": ({"expert_tokens_num_type": 0}, ValueError, 561002, "num_type: 0, needed 1 with drop_pad_mode 1"),
    "pairs": ({"expert_tokens_num_type": 2}, ValueError, 561002, "num_type: 2, needed 1 with drop_pad_mode 1"),
}


@pytest.mark.parametrize(
    ("base", "shapes", "refused"),
    [
        *[pytest.param(ROUTED, [(6, 4), (6,), (3,), (6,)], r, id=n) for n, r in REFUSED.items()],
        *[pytest.param(PADDED, [(3, 2, 4), (6,), (3,), (6,)], r, id=f"padded, {n}") for n, r in REFUSED_PADDED.items()],
    ],
)
def test_refused(base, shapes, refused):
    replaced, exception, status, message = refused
    npu_moe_init_routing_v2(**base)
    results = zip(shapes, [np.float32, np.int32, np.int64, np.float32], strict=True)
    out, checks = zip(*[guarded(*result) for result in results], strict=True)
    with pytest.raises(exception, match=message) as caught:
        npu_moe_init_routing_v2(**(base | replaced), out=out)
    assert str(caught.value).startswith("npu_moe_init_routing_v2: ")
    assert getattr(caught.value, "status", None) == status
    assert all(map(is_untouched, out))
    for check in checks:
        check()


def test_padded_rows_need_no_counts():
    """Without counts their form is free; active_num is not looked at, nor the whole range given in numbers."""
    arguments = PADDED | {
        "expert_tokens_num_flag": False,
        "expert_tokens_num_type": 2,
        "active_num": -5,
        "active_expert_range": [0, 3],
    }
    assert_same_bits(assert_equals_oracle(**arguments)[2], i64(0, 0, 0))


def test_arguments_after_the_first_two_are_by_name():
    with pytest.raises(TypeError, match="positional"):
        npu_moe_init_routing_v2(ROUTED["x"], ROUTED["expert_idx"], None)


def test_seed_limits():
    arguments = ROUTED | {"active_num": 6}
    refused = [
        ({"active_num": -1}, "active_num: -1, needed 6"),
        ({"active_num": 5}, "active_num: 5, needed 6"),
        ({"expert_tokens_num_type": 0}, "expert_tokens_num_type: 0, needed 1 to 2"),
        ({"expert_tokens_num_flag": False}, "expert_tokens_num_flag: false, needed true"),
        (STATIC, "quant_mode: 0, needed -1 or 1"),
        ({"quant_mode": 1, "scale": np.ones((1, 4), F32)}, r"scale: shape \(1, 4\), needed .* = \(3, any\)"),
        ({"drop_pad_mode": 1, "expert_capacity": 1, "active_expert_range": []}, "drop_pad_mode: 1, needed 0"),
    ]
    for replaced, message in refused:
        npu_moe_init_routing_v2(**(arguments | replaced))
        with limits("seed"), pytest.raises(ValueError, match=message):
            npu_moe_init_routing_v2(**(arguments | replaced))
    with limits("seed"):
        npu_moe_init_routing_v2(**arguments)
        npu_moe_init_routing_v2(**(arguments | {"quant_mode": 1, "scale": np.ones((3, 4), F32)}))


def test_bad_out():
    arguments = ROUTED | {"x": np.ones((6, 4), F32), "expert_idx": np.ones((6, 1), np.int32)}
    good = [np.zeros((6, 4), F32), np.zeros(6, np.int32), np.zeros(3, np.int64), np.zeros(6, F32)]

    def refused(exception, message, **replaced):
        out = tuple(replaced.get(f"out{i}", array) for i, array in enumerate(good))
        before = [np.array(array) for array in out]
        with pytest.raises(exception, match="npu_moe_init_routing_v2: out: " + message):
            npu_moe_init_routing_v2(**arguments, out=out)
        for array, kept in zip(out, before, strict=True):
            np.testing.assert_array_equal(np.array(array), kept)

    refused(ValueError, r"float32 \(4, 6\) for expanded_x, needed float32 \(6, 4\)", out0=np.zeros((4, 6), F32))
    refused(ValueError, "float64 .* for expanded_x", out0=np.zeros((6, 4)))
    refused(ValueError, "int64 .* for expanded_row_idx", out1=np.zeros(6, np.int64))
    refused(ValueError, "int32 .* for expert_token_cumsum_or_count", out2=np.zeros(3, np.int32))
    refused(ValueError, r"float32 \(6, 1\) for expanded_scale", out3=np.zeros((6, 1), F32))
    refused(ValueError, "the array for expanded_x must be", out0=read_only(np.zeros((6, 4), F32)))
    refused(ValueError, "the array for expanded_x must be", out0=np.zeros((6, 8), F32)[:, ::2])
    refused(TypeError, "list for expanded_scale", out3=[0.0])
    refused(ValueError, "the array for expanded_x overlaps x", out0=arguments["x"])
    refused(ValueError, "the array for expanded_row_idx overlaps expert_idx", out1=arguments["expert_idx"][:, 0])
    refused(ValueError, "the array for expanded_x overlaps expanded_scale", out3=good[0].reshape(-1)[2:8])
    with pytest.raises(ValueError, match="out: 3 entries, needed 4"):
        npu_moe_init_routing_v2(**arguments, out=tuple(good[:3]))
    with pytest.raises(TypeError, match="out: ndarray, needed None or a tuple of 4"):
        npu_moe_init_routing_v2(**arguments, out=good[0])
