"""npu_moe_finalize_routing: results against hand-worked numbers and a sequential float32 model, and every refusal."""

import numpy as np
import pytest
from cases.finalize_routing import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native import limits, npu_moe_finalize_routing
from moe_native.oracle.finalize import moe_finalize_routing
from moe_native.testing import (
    assert_same_bits,
    bfloat16,
    guarded,
    is_untouched,
    read_only,
    round_to,
    strided,
)

FLOATS = [np.dtype(np.float32), np.dtype(np.float16), bfloat16]


def model(rows, skip1, skip2, bias, scales, index, expert, mode=0, k=1):
    """The operator's float32 arithmetic, operation by operation."""
    flat = rows.reshape(-1, rows.shape[-1]).astype(np.float32)
    per_token = k if scales is None else scales.shape[1]
    index = index.reshape(per_token, -1).T if mode < 2 else index.reshape(-1, per_token)
    total = np.zeros((index.shape[0], flat.shape[1]), np.float32)
    for skip in (skip1, skip2):
        if skip is not None:
            total = total + skip.astype(np.float32)
    for j in range(per_token):
        term = np.where(index[:, j, None] == -1, np.float32(0), flat[index[:, j]])
        if bias is not None:
            term = term + bias.astype(np.float32)[expert[:, j]]
        if scales is not None:
            term = scales[:, j, None].astype(np.float32) * term
        total = total + term
    return round_to(total, rows.dtype)


def example(rng, dtype, mode=0, tokens=5, per_token=3, hidden=7, experts=4, skips=2, bias=True, scales=True):
    """Random arguments, as a dict in the order of the signature."""

    def values(*shape):
        return round_to(rng.normal(size=shape), dtype)

    padded = mode in (1, 3)
    capacity = 1 + tokens * per_token // experts
    rows = values(experts, capacity, hidden) if padded else values(tokens * per_token, hidden)
    index = rng.integers(-1 if padded else 0, rows.size // hidden, tokens * per_token, dtype=np.int32)
    return {
        "expanded_permuted_rows": rows,
        "skip1": values(tokens, hidden) if skips > 0 else None,
        "skip2": values(tokens, hidden) if skips > 1 else None,
        "bias": values(experts, hidden) if bias else None,
        "scales": values(tokens, per_token) if scales else None,
        "expanded_src_to_dst_row": index,
        "export_for_source_row": rng.integers(0, experts, (tokens, per_token), dtype=np.int32),
        "drop_pad_mode": mode,
        "k": per_token,
    }


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_worked_number(case, dtype):
    arguments, needed = CASES[case]
    arguments = [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arguments]
    assert_same_bits(npu_moe_finalize_routing(*arguments), np.array(needed).astype(dtype))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FLOATS),
    mode=st.integers(0, 3),
    tokens=st.sampled_from([1, 2, 5, 31]),
    per_token=st.sampled_from([1, 2, 3, 8]),
    hidden=st.sampled_from([1, 7, 15, 16, 17, 33, 1023, 1024, 1025, 2053]),
    skips=st.integers(0, 2),
    bias=st.booleans(),
    scales=st.booleans(),
)
def test_equals_sequential_float32(seed, dtype, mode, tokens, per_token, hidden, skips, bias, scales):
    rng = np.random.default_rng(seed)
    arguments = example(rng, dtype, mode, tokens, per_token, hidden, 9, skips, bias, scales)
    seen = npu_moe_finalize_routing(**arguments)
    assert_same_bits(seen, model(*arguments.values()))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("mode", range(4))
def test_near_oracle(dtype, mode):
    arguments = example(np.random.default_rng(mode), dtype, mode, tokens=40, per_token=257, hidden=65, experts=300)
    seen = npu_moe_finalize_routing(**arguments).astype(np.float64)
    exact = moe_finalize_routing(*arguments.values())
    magnitudes = {n: np.abs(a) if n != "expanded_src_to_dst_row" and a is not None else a for n, a in arguments.items()}
    # Each of the 2 + 3 * 257 operations rounds a partial result that is no larger than the sum of magnitudes.
    float32_error = (2 + 3 * 257) * np.finfo(np.float32).eps / 2 * moe_finalize_routing(*magnitudes.values())
    final = {2: 2.0**-11, 4: 0.0}[dtype.itemsize] if dtype != bfloat16 else 2.0**-8
    assert (np.abs(seen - exact) <= float32_error + final * (np.abs(exact) + float32_error)).all()


def test_modes_differ_in_index_order_only():
    rng = np.random.default_rng(1)
    for mode in (0, 1):
        arguments = example(rng, np.dtype(np.float32), mode)
        column_major = npu_moe_finalize_routing(**arguments)
        arguments["expanded_src_to_dst_row"] = arguments["expanded_src_to_dst_row"].reshape(3, 5).T.reshape(-1)
        arguments["drop_pad_mode"] = mode + 2
        assert_same_bits(npu_moe_finalize_routing(**arguments), column_major)


def test_scales_of_one_equal_no_scales():
    arguments = example(np.random.default_rng(2), np.dtype(np.float32), bias=False)
    arguments["scales"] = np.ones((5, 3), np.float32)
    with_ones = npu_moe_finalize_routing(**arguments)
    arguments["scales"] = None
    assert_same_bits(npu_moe_finalize_routing(**arguments), with_ones)


def test_bfloat16_rounds_once_to_nearest_even():
    def combine(*terms):
        rows = np.array(terms, np.float32).reshape(-1, 1).astype(bfloat16)
        scales = np.ones((1, len(terms)), bfloat16)
        return float(
            npu_moe_finalize_routing(rows, None, None, None, scales, np.arange(len(terms), dtype=np.int32))[0, 0]
        )

    assert combine(1, 1 / 256, 1 / 256) == 1.0078125
    assert combine(1, 1 / 256) == 1.0
    assert combine(1, 3 / 256) == 1.015625


def test_special_values_stay_in_their_row():
    rows = np.array([[1, 2], [np.nan, np.inf], [60000, -60000]], np.float16)
    scales = np.array([[1, 1], [0, 1], [2, 2]], np.float16)
    index = np.array([0, 0, 1, 0, 2, 2], np.int32)
    seen = npu_moe_finalize_routing(rows.repeat(2, 0), None, None, None, scales, index * 2, None, 2)
    np.testing.assert_array_equal(seen, np.array([[2, 4], [np.nan, np.nan], [np.inf, -np.inf]], np.float16))


def test_expert_ids_are_not_read_without_bias():
    arguments = example(np.random.default_rng(3), np.dtype(np.float32), bias=False)
    needed = npu_moe_finalize_routing(**arguments)
    arguments["export_for_source_row"] = np.full((5, 3), -(2**31), np.int32)
    assert_same_bits(npu_moe_finalize_routing(**arguments), needed)


def test_all_padding_leaves_skips():
    arguments = example(np.random.default_rng(4), np.dtype(np.float32), mode=3, skips=1, bias=False)
    arguments["expanded_src_to_dst_row"][:] = -1
    np.testing.assert_array_equal(npu_moe_finalize_routing(**arguments), arguments["skip1"])


@pytest.mark.parametrize("scales", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_scales_of_another_dtype(dtype, scales):
    arguments = example(np.random.default_rng(5), dtype)
    arguments["scales"] = arguments["scales"].astype(scales)
    assert_same_bits(npu_moe_finalize_routing(**arguments), model(*arguments.values()))
    with limits("atlas-a2"):
        if dtype == scales or (dtype == bfloat16 and scales == np.float32):
            npu_moe_finalize_routing(**arguments)
        else:
            with pytest.raises(TypeError, match="scales: dtype"):
                npu_moe_finalize_routing(**arguments)


def test_strided_and_read_only_inputs():
    for dtype in FLOATS:
        arguments = example(np.random.default_rng(6), dtype, mode=3)
        needed = npu_moe_finalize_routing(**arguments)
        views = {n: strided(a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
        assert_same_bits(npu_moe_finalize_routing(**views), needed)


def test_out_is_written_and_nothing_around_it():
    arguments = example(np.random.default_rng(7), bfloat16)
    out, check = guarded((5, 7), bfloat16)
    result = npu_moe_finalize_routing(**arguments, out=out)
    check()
    assert result is out
    assert_same_bits(out, npu_moe_finalize_routing(**arguments))


def test_both_spellings_of_the_expert_argument():
    arguments = example(np.random.default_rng(8), np.dtype(np.float32))
    needed = npu_moe_finalize_routing(**arguments)
    expert = arguments.pop("export_for_source_row")
    assert_same_bits(npu_moe_finalize_routing(**arguments, expert_for_source_row=expert), needed)
    with pytest.raises(TypeError, match="export_for_source_row.*needed one"):
        npu_moe_finalize_routing(**arguments, expert_for_source_row=expert, export_for_source_row=expert)


F32 = np.float32
REFUSED = {
    # name: (arguments to replace, exception, status of the core or None, message)
    "rows missing": ({"expanded_permuted_rows": None}, TypeError, 161001, "expanded_permuted_rows: missing"),
    "index missing": (
        {"expanded_src_to_dst_row": None},
        TypeError,
        161001,
        "expanded_src_to_dst_row: missing",
    ),
    "rows a list": ({"expanded_permuted_rows": [[1.0]]}, TypeError, None, "expanded_permuted_rows: list"),
    "rows float64": ({"expanded_permuted_rows": np.ones((15, 7))}, TypeError, 161002, "dtype float64"),
    "rows complex": ({"expanded_permuted_rows": np.ones((15, 7), complex)}, TypeError, None, "complex128"),
    "rows big-endian": ({"expanded_permuted_rows": np.ones((15, 7), ">f4")}, TypeError, None, ">f4"),
    "skip1 dtype": (
        {"skip1": np.ones((5, 7), np.float16)},
        TypeError,
        161002,
        "skip1: dtype float16, needed float32",
    ),
    "skip2 dtype": ({"skip2": np.ones((5, 7), np.float16)}, TypeError, 161002, "skip2: dtype"),
    "bias dtype": ({"bias": np.ones((4, 7), np.float16)}, TypeError, 161002, "bias: dtype"),
    "scales dtype": ({"scales": np.ones((5, 3), np.int32)}, TypeError, 161002, "scales: dtype int32"),
    "index int64": ({"expanded_src_to_dst_row": np.zeros(15, np.int64)}, TypeError, 161002, "needed int32"),
    "index bool": ({"expanded_src_to_dst_row": np.zeros(15, bool)}, TypeError, 161002, "needed int32"),
    "index float": ({"expanded_src_to_dst_row": np.zeros(15, F32)}, TypeError, 161002, "needed int32"),
    "expert int64": (
        {"export_for_source_row": np.zeros((5, 3), np.int64)},
        TypeError,
        161002,
        "needed int32",
    ),
    "mode 4": ({"drop_pad_mode": 4}, ValueError, 561002, "drop_pad_mode: 4, needed 0 to 3"),
    "mode -1": ({"drop_pad_mode": -1}, ValueError, 561002, "drop_pad_mode: -1"),
    "mode float": ({"drop_pad_mode": 1.0}, TypeError, None, "drop_pad_mode: float, needed an int"),
    "mode bool": ({"drop_pad_mode": True}, TypeError, None, "drop_pad_mode: True, needed an int"),
    "k 0": ({"k": 0}, ValueError, 561002, "k: 0, needed >= 1"),
    "k unlike scales": ({"k": 2}, ValueError, 561002, r"k: 2, needed 1 or scales.shape\[1\] = 3"),
    "k huge": ({"k": 2**70}, ValueError, None, "does not fit 64 bits"),
    "rows rank": (
        {"expanded_permuted_rows": np.ones((3, 5, 7), F32)},
        ValueError,
        561002,
        "needed 2 dimensions",
    ),
    "rows rank, padded": ({"drop_pad_mode": 1}, ValueError, 561002, "needed 3 dimensions"),
    "rows rank 9": ({"expanded_permuted_rows": np.ones((1,) * 9, F32)}, ValueError, None, "9 dimensions"),
    "index rank": (
        {"expanded_src_to_dst_row": np.zeros((5, 3), np.int32)},
        ValueError,
        561002,
        "1 dimension",
    ),
    "scales rank": ({"scales": np.ones(15, F32)}, ValueError, 561002, "scales: shape"),
    "scales tokens": ({"scales": np.ones((4, 3), F32)}, ValueError, 561002, r"scales: shape \(4, 3\)"),
    "index not whole": (
        {"expanded_src_to_dst_row": np.zeros(14, np.int32)},
        ValueError,
        561002,
        "14 indices",
    ),
    "no experts per token": ({"scales": np.ones((5, 0), F32), "k": 1}, ValueError, 561002, "scales: shape"),
    "no rows": ({"expanded_permuted_rows": np.ones((0, 7), F32)}, ValueError, 561002, "no empty dimension"),
    "no columns": (
        {"expanded_permuted_rows": np.ones((15, 0), F32)},
        ValueError,
        561002,
        "no empty dimension",
    ),
    "no indices": ({"expanded_src_to_dst_row": np.zeros(0, np.int32)}, ValueError, 561002, "0 indices"),
    "row count": ({"expanded_permuted_rows": np.ones((16, 7), F32)}, ValueError, 561002, "16 rows"),
    "skip1 shape": ({"skip1": np.ones((5, 8), F32)}, ValueError, 561002, r"skip1: shape \(5, 8\)"),
    "skip2 shape": ({"skip2": np.ones((6, 7), F32)}, ValueError, 561002, r"skip2: shape \(6, 7\)"),
    "skip2 alone": ({"skip1": None}, ValueError, 561002, "skip2: given without skip1"),
    "bias without expert": (
        {"export_for_source_row": None},
        ValueError,
        561002,
        "export_for_source_row: missing",
    ),
    "bias columns": ({"bias": np.ones((4, 8), F32)}, ValueError, 561002, "bias: shape"),
    "bias with fewer experts than k": ({"bias": np.ones((2, 7), F32)}, ValueError, 561002, "2 experts"),
    "expert shape": (
        {"export_for_source_row": np.zeros((3, 5), np.int32)},
        ValueError,
        561002,
        "source_row: shape",
    ),
    "index beyond": (
        {"expanded_src_to_dst_row": np.arange(1, 16, dtype=np.int32)},
        ValueError,
        161002,
        "15 at position 14",
    ),
    "index -1": (
        {"expanded_src_to_dst_row": np.full(15, -1, np.int32)},
        ValueError,
        161002,
        "-1 at position 0",
    ),
    "index -2": (
        {"expanded_src_to_dst_row": np.full(15, -2, np.int32)},
        ValueError,
        161002,
        "-2 at position 0",
    ),
    "expert beyond": (
        {"export_for_source_row": np.full((5, 3), 4, np.int32)},
        ValueError,
        161002,
        "4 at position 0",
    ),
    "expert negative": (
        {"export_for_source_row": np.full((5, 3), -1, np.int32)},
        ValueError,
        161002,
        "-1 at pos",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    replaced, exception, status, message = REFUSED[name]
    out, check = guarded((5, 7), np.float32)
    arguments = example(np.random.default_rng(9), np.dtype(np.float32)) | replaced
    with pytest.raises(exception, match=message) as caught:
        npu_moe_finalize_routing(**arguments, out=out)
    assert str(caught.value).startswith("npu_moe_finalize_routing: ")
    assert getattr(caught.value, "status", None) == status
    assert is_untouched(out)
    check()


def test_padded_index_and_expert_count_are_checked():
    arguments = example(np.random.default_rng(10), np.dtype(np.float32), mode=1)
    slots = arguments["expanded_permuted_rows"].shape[0] * arguments["expanded_permuted_rows"].shape[1]
    for bad in (slots, -2):
        arguments["expanded_src_to_dst_row"][3] = bad
        with pytest.raises(ValueError, match=f"{bad} at position 3"):
            npu_moe_finalize_routing(**arguments)
    arguments["expanded_src_to_dst_row"][3] = slots - 1
    npu_moe_finalize_routing(**arguments)
    arguments["bias"] = np.ones((5, 7), np.float32)
    with pytest.raises(ValueError, match=r"bias: shape \(5, 7\), needed \(experts, hidden\) = \(4, 7\)"):
        npu_moe_finalize_routing(**arguments)


def test_seed_limits_allow_only_mode_0():
    arguments = example(np.random.default_rng(11), np.dtype(np.float32), mode=2)
    npu_moe_finalize_routing(**arguments)
    with limits("seed"), pytest.raises(ValueError, match="drop_pad_mode: 2, needed 0 to 0"):
        npu_moe_finalize_routing(**arguments)


@pytest.mark.parametrize("none", ["drop_pad_mode", "k"])
def test_none_means_the_default(none):
    arguments = example(np.random.default_rng(12), np.dtype(np.float32))
    needed = npu_moe_finalize_routing(**arguments)
    assert_same_bits(npu_moe_finalize_routing(**(arguments | {none: None})), needed)


def test_bad_out():
    arguments = example(np.random.default_rng(13), np.dtype(np.float32))
    memory = np.zeros((5, 14), np.float32)
    for out, exception in [
        (np.zeros((5, 8), np.float32), ValueError),
        (np.zeros((5, 7), np.float64), ValueError),
        (memory[:, ::2], ValueError),
        (read_only(np.zeros((5, 7), np.float32)), ValueError),
        ([0.0], TypeError),
        (arguments["skip1"], ValueError),
        (arguments["expanded_permuted_rows"][3:8], ValueError),
    ]:
        before = np.array(out)
        with pytest.raises(exception, match="npu_moe_finalize_routing: out: "):
            npu_moe_finalize_routing(**arguments, out=out)
        np.testing.assert_array_equal(np.array(out), before)
