"""npu_dynamic_quant: codes and scales against the oracle bit for bit, what must hold for any input, every refusal."""

import numpy as np
import pytest
from cases.quant import DYNAMIC_QUANT, ROWS
from hypothesis import given, settings
from hypothesis import strategies as st

import moe_native
from moe_native import limits, npu_dynamic_quant, npu_format_cast, set_num_threads
from moe_native.oracle import quant as oracle
from moe_native.testing import (
    assert_same_bits,
    bfloat16,
    guarded,
    instruction_sets,
    is_untouched,
    read_only,
    round_to,
    strided,
)

FLOATS = [np.dtype(np.float32), np.dtype(np.float16), bfloat16]


def assert_same(seen, needed):
    """Equal bits, but a scale that is NaN may be any NaN."""
    assert isinstance(seen, tuple)
    assert_same_bits(seen[0], needed[0])
    assert_same_bits(np.nan_to_num(seen[1], nan=-1.0, posinf=np.inf), np.nan_to_num(needed[1], nan=-1.0, posinf=np.inf))


def any_bits(rng, shape, dtype):
    """Every bit pattern: subnormal and huge numbers, inf and NaN."""
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def values(rng, shape, dtype):
    return round_to(rng.normal(size=shape) * 10.0 ** rng.integers(-4, 4), dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("case", DYNAMIC_QUANT)
def test_worked_number(case, dtype):
    smooth, group_index, codes, scales = DYNAMIC_QUANT[case]
    for index_dtype in (np.int32, np.int64):
        seen = npu_dynamic_quant(
            np.array(ROWS, dtype),
            smooth_scales=None if smooth is None else np.array(smooth, dtype),
            group_index=None if group_index is None else np.array(group_index, index_dtype),
        )
        assert_same(seen, (np.array(codes, np.int8), np.array(scales, np.float32)))


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FLOATS),
    lead=st.sampled_from([(1,), (2,), (5,), (31,), (2, 3), (1, 2, 1, 2, 1, 2, 1), (0,), (2, 0)]),
    hidden=st.sampled_from([0, 1, 2, 7, 15, 16, 17, 33, 1023, 1024, 1025, 2049]),
    smooth=st.sampled_from([None, "columns", "groups"]),
    make=st.sampled_from([any_bits, values]),
    views=st.booleans(),
)
def test_equals_oracle(seed, dtype, lead, hidden, smooth, make, views):
    rng = np.random.default_rng(seed)
    rows = int(np.prod(lead))
    x = make(rng, (*lead, hidden), dtype)
    arguments = {}
    if smooth == "columns":
        arguments["smooth_scales"] = make(rng, (hidden,), dtype)
    if smooth == "groups":
        groups = int(rng.integers(1, 5))
        ends = np.sort(rng.integers(0, rows + 1, groups))
        ends[-1] = rows
        arguments["smooth_scales"] = make(rng, (groups, hidden), dtype)
        arguments["group_index"] = ends.astype(rng.choice([np.int32, np.int64]))
    needed = oracle.dynamic_quant(x, **arguments)
    if views:
        x, arguments = strided(x), {n: strided(a) for n, a in arguments.items()}
    assert_same(npu_dynamic_quant(x, **arguments), needed)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_codes_give_the_values_back(dtype):
    x = values(np.random.default_rng(0), (64, 777), dtype)
    y, scale = npu_dynamic_quant(x)
    # Half a step of the code; the quotient and the scale are rounded once each, relative to at most 127 steps.
    bound = scale.astype(np.float64) * (0.5 + 127 * 2 * 2.0**-24)
    error = np.abs(y * scale[:, None].astype(np.float64) - x.astype(np.float64))
    assert (error <= bound[:, None]).all()
    assert (np.abs(y.astype(int)).max(axis=1) == 127).all()


def test_rows_that_have_no_scale():
    inf, nan = np.inf, np.nan
    x = np.array([[0, -0.0], [1, inf], [-inf, 1], [nan, 1], [inf, nan], [1, 2]], np.float32)
    y, scale = npu_dynamic_quant(x)
    np.testing.assert_array_equal(scale[:5], np.float32([0, inf, inf, nan, nan]))
    assert not y[:5].any()
    np.testing.assert_array_equal(y[5], [64, 127])
    # A zero factor, and a product that overflows.
    y, scale = npu_dynamic_quant(x[5:] * np.float32(1e38), smooth_scales=np.array([0, 100], np.float32))
    assert scale == inf
    assert not y.any()
    y, scale = npu_dynamic_quant(x[5:], smooth_scales=np.zeros(2, np.float32))
    assert scale == 0
    assert not y.any()


def test_subnormal_scale_is_clamped():
    tiny = np.finfo(np.float32).smallest_subnormal
    x = np.array([[63, -1], [64, -1], [190, -190], [-190, 190]], np.float32) * tiny
    y, scale = npu_dynamic_quant(x)
    np.testing.assert_array_equal(scale, np.float32([0, 1, 1, 1]) * tiny)
    np.testing.assert_array_equal(y, [[0, 0], [64, -1], [127, -128], [-128, 127]])


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 300)).astype(bfloat16)
    smooth = rng.normal(size=(7, 300)).astype(bfloat16)
    ends = np.array([0, 100, 100, 101, 350, 600, 600], np.int32)
    return {"input": x, "smooth_scales": smooth, "group_index": ends}


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_any_number_of_threads(layer, threads):
    set_num_threads(1)
    needed = npu_dynamic_quant(**layer)
    set_num_threads(threads)
    try:
        for _ in range(3):
            assert_same(npu_dynamic_quant(**layer), needed)
    finally:
        set_num_threads(0)


def test_every_instruction_set(layer):
    needed = npu_dynamic_quant(**layer)
    plain = npu_dynamic_quant(layer["input"].astype(np.float32))
    for isa in instruction_sets():
        with moe_native.isa_limit(isa):
            assert_same(npu_dynamic_quant(**layer), needed)
            assert_same(npu_dynamic_quant(layer["input"].astype(np.float32)), plain)


def test_split_batch(layer):
    y, scale = npu_dynamic_quant(**layer)
    group = np.searchsorted(layer["group_index"], np.arange(600), side="right")
    for begin, end in [(0, 1), (1, 101), (101, 600)]:
        rows = slice(begin, end)
        ends = np.searchsorted(group[rows], np.arange(7), side="right")
        part = npu_dynamic_quant(layer["input"][rows], smooth_scales=layer["smooth_scales"], group_index=ends)
        assert_same(part, (y[rows], scale[rows]))


def test_group_index_of_one_group_equals_columns(layer):
    smooth = layer["smooth_scales"][:1]
    assert_same(
        npu_dynamic_quant(layer["input"], smooth_scales=smooth, group_index=np.array([600])),
        npu_dynamic_quant(layer["input"], smooth_scales=smooth[0]),
    )


def test_both_spellings_of_the_input():
    x = np.array(ROWS, np.float16)
    assert_same(npu_dynamic_quant(x=x), npu_dynamic_quant(input=x))
    with pytest.raises(TypeError, match="npu_dynamic_quant: input: given as x too, needed one"):
        npu_dynamic_quant(x, x=x)


class TorchInt8:
    def __str__(self):
        return "torch.int8"


@pytest.mark.parametrize("dst_type", [None, np.int8, np.dtype(np.int8), "int8", TorchInt8()])
def test_dst_type(dst_type):
    assert npu_dynamic_quant(np.array(ROWS, np.float16), dst_type=dst_type)[0].dtype == np.int8


def test_out():
    x = np.array(ROWS, np.float16)
    needed = npu_dynamic_quant(x)
    y, check_y = guarded((4, 4), np.int8)
    scale, check_scale = guarded((4,), np.float32)
    seen = npu_dynamic_quant(x, out=(y, scale))
    check_y()
    check_scale()
    assert seen[0] is y
    assert seen[1] is scale
    assert_same(seen, needed)
    y[...] = 0
    seen = npu_dynamic_quant(x, out=(y, None))
    assert seen[0] is y
    assert_same(seen, needed)


def test_bad_out():
    x = np.array(ROWS, np.float32)
    memory = np.zeros((4, 8), np.int8)
    both = np.zeros(32, np.int8)
    for out, exception in [
        ((np.zeros((4, 5), np.int8), None), ValueError),
        ((np.zeros((4, 4), np.uint8), None), ValueError),
        ((None, np.zeros(4, np.float64)), ValueError),
        ((None, np.zeros((4, 1), np.float32)), ValueError),
        ((memory[:, ::2], None), ValueError),
        ((read_only(np.zeros((4, 4), np.int8)), None), ValueError),
        ((None,), ValueError),
        (np.zeros((4, 4), np.int8), TypeError),
        (([0], None), TypeError),
        ((x.view(np.int8).reshape(-1)[:16].reshape(4, 4), None), ValueError),
        ((both[:16].reshape(4, 4), both[12:28].view(np.float32)), ValueError),
    ]:
        before = x.copy()
        with pytest.raises(exception, match="npu_dynamic_quant: out: "):
            npu_dynamic_quant(x, out=out)
        assert_same_bits(x, before)


F16 = np.float16
REFUSED = {
    # name: (arguments to replace, exception, status of the core or None, message)
    "input missing": ({"input": None}, TypeError, 161001, "input: missing"),
    "input a list": ({"input": ROWS}, TypeError, None, "input: list, needed an array"),
    "input NZ": ({"input": npu_format_cast(np.zeros((4, 4), F16), 29)}, TypeError, None, "input: NzArray"),
    "input float64": ({"input": np.ones((4, 4))}, TypeError, 161002, "input: dtype float64, needed one of float16"),
    "input int8": ({"input": np.ones((4, 4), np.int8)}, TypeError, 161002, "input: dtype int8"),
    "input rank 0": ({"input": np.array(1, F16)}, ValueError, 161002, r"input: shape \(\), needed 2 to 8"),
    "input rank 1": ({"input": np.ones(4, F16)}, ValueError, 161002, r"input: shape \(4,\), needed 2 to 8 dimensions"),
    "input rank 9": ({"input": np.ones((1,) * 9, F16)}, ValueError, None, "9 dimensions"),
    "smooth dtype": (
        {"smooth_scales": np.ones((3, 4), np.float32)},
        TypeError,
        161002,
        "smooth_scales: dtype float32, needed float16 as input has",
    ),
    "smooth columns": (
        {"smooth_scales": np.ones((3, 5), F16)},
        ValueError,
        161002,
        r"smooth_scales: shape \(3, 5\), needed \(groups, hidden\) = \(3, 4\)",
    ),
    "smooth groups": ({"smooth_scales": np.ones((2, 4), F16)}, ValueError, 161002, r"smooth_scales: shape \(2, 4\)"),
    "smooth rank": ({"smooth_scales": np.ones(4, F16)}, ValueError, 161002, r"smooth_scales: shape \(4,\)"),
    "smooth without groups": (
        {"group_index": None},
        ValueError,
        161002,
        r"smooth_scales: shape \(3, 4\), needed \(hidden,\), without group_index = \(4,\)",
    ),
    "smooth of one row without groups": (
        {"group_index": None, "smooth_scales": np.ones((1, 4), F16)},
        ValueError,
        161002,
        "smooth_scales: shape",
    ),
    "groups without smooth": (
        {"smooth_scales": None},
        ValueError,
        161002,
        "group_index: given without smooth_scales",
    ),
    "groups float": ({"group_index": np.ones(3)}, TypeError, 161002, "group_index: dtype float64, needed one of int32"),
    "groups int8": ({"group_index": np.ones(3, np.int8)}, TypeError, 161002, "group_index: dtype int8"),
    "groups bool": ({"group_index": np.ones(3, bool)}, TypeError, 161002, "group_index: dtype bool"),
    "groups rank": ({"group_index": np.ones((3, 1), np.int32)}, ValueError, 161002, "group_index: shape"),
    "groups decreasing": ({"group_index": np.array([3, 1, 4])}, ValueError, 161002, "group_index: 1 at position 1"),
    "groups negative": ({"group_index": np.array([-1, 1, 4])}, ValueError, 161002, "group_index: -1 at position 0"),
    "groups beyond": ({"group_index": np.array([1, 3, 5])}, ValueError, 161002, "group_index: 5 at position 2"),
    "groups huge": ({"group_index": np.array([1, 2**62, 4])}, ValueError, 161002, "group_index: .* at position 1"),
    "groups short": (
        {"group_index": np.array([1, 3, 3])},
        ValueError,
        161002,
        "group_index: 3 at position 2, needed the number of rows as the last end",
    ),
    "no groups": (
        {"group_index": np.zeros(0, np.int32), "smooth_scales": np.ones((0, 4), F16)},
        ValueError,
        161002,
        "group_index: 0 at position 0, needed the number of rows",
    ),
    "dst_type": ({"dst_type": np.uint8}, ValueError, None, "dst_type: .*uint8.*, needed None or int8"),
    "dst_type int4": ({"dst_type": "torch.quint4x2"}, ValueError, None, "dst_type: 'torch.quint4x2'"),
    "dst_type number": ({"dst_type": 2}, ValueError, None, "dst_type: 2"),
    "quant_mode": ({"quant_mode": "pertensor"}, ValueError, None, "quant_mode: 'pertensor', needed \"pertoken\""),
    "quant_mode None": ({"quant_mode": None}, ValueError, None, "quant_mode: None"),
    "dst_type_max": ({"dst_type_max": 1.0}, ValueError, None, "dst_type_max: 1.0, needed 0.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    replaced, exception, status, message = REFUSED[name]
    y, check_y = guarded((4, 4), np.int8)
    scale, check_scale = guarded((4,), np.float32)
    arguments = {
        "input": np.array(ROWS, F16),
        "smooth_scales": np.ones((3, 4), F16),
        "group_index": np.array([1, 3, 4], np.int32),
    } | replaced
    with pytest.raises(exception, match=message) as caught:
        npu_dynamic_quant(**arguments, out=(y, scale))
    assert str(caught.value).startswith("npu_dynamic_quant: ")
    assert getattr(caught.value, "status", None) == status
    assert is_untouched(y)
    assert is_untouched(scale)
    check_y()
    check_scale()


def test_no_groups_for_no_rows():
    y, scale = npu_dynamic_quant(
        np.ones((0, 4), F16), smooth_scales=np.ones((0, 4), F16), group_index=np.zeros(0, np.int32)
    )
    assert y.shape == (0, 4)
    assert scale.shape == (0,)


def test_no_rows_of_any_size():
    y, scale = npu_dynamic_quant(np.ones((0, 1 << 50), F16))
    assert y.shape == (0, 1 << 50)
    assert scale.shape == (0,)


def test_limits():
    x = np.ones((1030, 2), F16)
    ends = np.arange(1, 1031)
    smooth = np.ones((1030, 2), F16)
    npu_dynamic_quant(x.astype(np.float32))
    npu_dynamic_quant(x, smooth_scales=smooth, group_index=ends)
    with limits("atlas-a2"):
        npu_dynamic_quant(x)
        with pytest.raises(TypeError, match="input: dtype float32, needed one of float16, bfloat16"):
            npu_dynamic_quant(x.astype(np.float32))
        with pytest.raises(ValueError, match="group_index: 1030 groups, needed at most 1024"):
            npu_dynamic_quant(x, smooth_scales=smooth, group_index=ends)
        npu_dynamic_quant(x[:1024], smooth_scales=smooth[:1024], group_index=ends[:1024])
