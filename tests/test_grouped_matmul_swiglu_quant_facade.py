"""npu_grouped_matmul_swiglu_quant: against hand-worked numbers, the oracle within derived bounds, every refusal."""

import numpy as np
import pytest
from cases.grouped_matmul import (
    SWIGLU,
    SWIGLU4,
    SWIGLU4_ROWS,
    SWIGLU4_SCALES,
    SWIGLU_CASES,
    SWIGLU_SCALE_BITS,
    bits_as_int64,
    pack_int4,
    to_tiles,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native import (
    NzArray,
    limits,
    npu_dynamic_quant,
    npu_format_cast,
    npu_grouped_matmul_finalize_routing,
    npu_swiglu,
)
from moe_native import npu_grouped_matmul_swiglu_quant as swiglu_quant
from moe_native.oracle import grouped_matmul as oracle
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only, strided

F32 = np.float32
U = np.finfo(F32).eps / 2


def example(rng, m=9, k=20, n=40, e=3, used=7, int4=False, blocks=None):
    """Random arguments whose activations are mostly of the order of 1. `used` rows belong to experts."""
    w = rng.integers(-8, 8, (e, k, n), dtype=np.int8) if int4 else rng.integers(-128, 128, (e, k, n), dtype=np.int8)
    scale = rng.normal(size=(e, n) if blocks is None else (e, blocks, n)).astype(F32)
    arguments = {
        "x": rng.integers(-128, 128, (m, k), dtype=np.int8),
        "weight": pack_int4(w) if int4 else w,
        "group_list": np.cumsum(np.bincount(rng.integers(0, e, used), minlength=e)),
        "weight_scale": bits_as_int64(scale / 8) if int4 else scale,
        "x_scale": (rng.normal(size=m) / ((400 if int4 else 5000) * np.sqrt(k))).astype(F32),
    }
    if int4:
        arguments["bias"] = rng.normal(size=(e, n)).astype(F32)
    return arguments, w


def assert_same_results(seen, needed):
    for one, other in zip(seen, needed, strict=True):
        assert_same_bits(one, other)


def assert_near_oracle(arguments, seen):
    """Every scale and every code within what the operator's roundings can do."""
    output, scale, _ = seen
    k = arguments["x"].shape[1]
    n = arguments["weight_scale"].shape[-1]
    int4 = arguments["weight_scale"].dtype.kind in "iu"
    w = oracle.logical_weight(arguments["weight"], k, n)
    for g, (begin, end) in enumerate(oracle.row_ranges(arguments["group_list"], 0)):
        if begin == end:
            continue
        x = arguments["x"][begin:end]
        if int4:
            # The product is a float16 pair that the oracle rounds alike; 16 * high + low and the bias round in float32.
            product = oracle.int4_product(x, w[g], oracle.float_bits(arguments["weight_scale"][g]).reshape(-1, n))
            bias = arguments["bias"][g].astype(np.float64)
            size = np.abs(product) * 2 + np.abs(bias)
            dequantised = product + bias
        else:
            dequantised = oracle.exact_matmul(x, w[g]) * arguments["weight_scale"][g].astype(np.float64)
            size = np.abs(dequantised)
        row = arguments["x_scale"].reshape(-1)[begin:end].astype(np.float64)[:, None]
        c, error = dequantised * row, 3 * U * size * np.abs(row) + 2.0**-149
        a, b = c[:, : n // 2], c[:, n // 2 :]
        a_error, b_error = error[:, : n // 2], error[:, n // 2 :]
        silu = a / (1 + np.exp(-a))
        # |silu'(a)| <= 1.1 everywhere and <= (1 + |a|) exp(a) below 0. Then exp is within one unit in the last place
        # (2 U), and the sum and the quotient round.
        slope = np.minimum(1.1, (1 + np.abs(a) + a_error) * np.exp(np.minimum(a + a_error, 0)))
        silu_error = slope * a_error + 4 * U * np.abs(silu) + 2.0**-126
        s = silu * b
        s_error = silu_error * np.abs(b) + np.abs(silu) * b_error + silu_error * b_error + U * np.abs(s) + 2.0**-149
        largest, largest_error = np.abs(s).max(1), s_error.max(1)
        exact = largest / 127
        scale_error = largest_error / 127 + U * exact + 2.0**-149
        assert (np.abs(scale[begin:end] - exact) <= scale_error).all()
        rows = np.flatnonzero(exact > 2.0**-100)
        quotient = s[rows] / exact[rows, None]
        room = (s_error[rows] + np.abs(quotient) * scale_error[rows, None]) / (exact - scale_error)[rows, None]
        room += 128 * U
        assert (np.abs(output[begin:end][rows] - quotient) <= 0.5 + room).all()
    ends = arguments["group_list"]
    used = int(ends[-1]) if ends.size else 0
    assert (output[used:] == 0).all()
    assert (scale[used:] == 0).all()


@pytest.mark.parametrize("case", SWIGLU_CASES)
def test_worked_number(case):
    changes, rows, scales = SWIGLU_CASES[case]
    output, scale, offset = swiglu_quant(**(SWIGLU | changes))
    assert_same_bits(output, np.array(rows, np.int8))
    np.testing.assert_allclose(scale, scales, rtol=4 * np.finfo(F32).eps, atol=0)
    assert_same_bits(offset, np.zeros((), F32))


def test_worked_bits():
    _, scale, _ = swiglu_quant(**SWIGLU)
    assert_same_bits(scale, np.array(SWIGLU_SCALE_BITS, np.uint32).view(F32))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("blocked", [False, True])
def test_worked_int4_number(dtype, blocked):
    scale = SWIGLU4["weight_scale"].view(dtype)
    output, output_scale, _ = swiglu_quant(**(SWIGLU4 | {"weight_scale": scale[:, None] if blocked else scale}))
    assert_same_bits(output, np.array(SWIGLU4_ROWS, np.int8))
    np.testing.assert_allclose(output_scale, SWIGLU4_SCALES, rtol=4 * np.finfo(F32).eps, atol=0)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.sampled_from([1, 2, 5, 12, 13, 30]),
    k=st.sampled_from([1, 2, 15, 16, 17, 63, 130]),
    n=st.sampled_from([2, 30, 32, 34, 62, 64, 66, 96, 130]),
    e=st.sampled_from([1, 2, 7]),
    dtype=st.sampled_from([F32, np.float16, bfloat16]),
)
def test_near_oracle(seed, m, k, n, e, dtype):
    rng = np.random.default_rng(seed)
    arguments, _ = example(rng, m, k, n, e, int(rng.integers(0, m + 1)))
    arguments["weight_scale"] = arguments["weight_scale"].astype(dtype)
    seen = swiglu_quant(**arguments)
    assert_near_oracle(arguments, seen)
    # The scales of 16 bits are widened exactly.
    assert_same_results(swiglu_quant(**(arguments | {"weight_scale": arguments["weight_scale"].astype(F32)})), seen)
    for form in int8_forms(arguments["weight"]).values():
        assert_same_results(swiglu_quant(**(arguments | {"weight": form})), seen)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.sampled_from([1, 5, 13]),
    k=st.sampled_from([1, 6, 48, 66, 130]),
    n=st.sampled_from([2, 8, 62, 64, 66, 128, 130]),
    e=st.sampled_from([1, 3]),
    blocks=st.sampled_from([None, 1, 2, 3, 130]),
)
def test_int4_near_oracle(seed, m, k, n, e, blocks):
    if blocks is not None and k % blocks != 0:
        blocks = k
    rng = np.random.default_rng(seed)
    arguments, _ = example(rng, m, k, n, e, int(rng.integers(0, m + 1)), int4=True, blocks=blocks)
    seen = swiglu_quant(**arguments)
    assert_near_oracle(arguments, seen)
    for form in int4_forms(arguments["weight"]).values():
        assert_same_results(swiglu_quant(**(arguments | {"weight": form})), seen)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.sampled_from([1, 5, 30]),
    k=st.sampled_from([1, 16, 130]),
    n=st.sampled_from([2, 30, 34, 64, 66, 130]),
    int4=st.booleans(),
)
def test_equals_its_parts_bit_for_bit(seed, m, k, n, int4):
    """Float32 operations in NumPy for the product, then npu_swiglu and npu_dynamic_quant."""
    rng = np.random.default_rng(seed)
    arguments, w = example(rng, m, k, n, 3, m, int4)
    arguments["x_scale"] *= rng.choice([1, 100, 1e-30], m).astype(F32)
    c = np.zeros((m, n), F32)
    for g, (begin, end) in enumerate(oracle.row_ranges(arguments["group_list"], 0)):
        x, row = arguments["x"][begin:end], arguments["x_scale"][begin:end, None]
        scale = arguments["weight_scale"][g]
        if int4:
            product = oracle.int4_product(x, w[g], oracle.float_bits(scale).reshape(-1, n)).astype(F32)
            c[begin:end] = (product + arguments["bias"][g]) * row
        else:
            c[begin:end] = (oracle.exact_matmul(x, w[g]).astype(F32) * scale) * row
    output, scale = npu_dynamic_quant(npu_swiglu(c))
    assert_same_results(swiglu_quant(**arguments), (output, scale, np.zeros((), F32)))


def test_layer_end_to_end():
    """Hidden states through dynamic quantisation, both products and the combine step, against a dense evaluation."""
    rng = np.random.default_rng(21)
    tokens, top_k, experts, hidden, inner = 40, 2, 4, 96, 64
    x = rng.normal(size=(tokens, hidden)).astype(F32)
    w1, w2 = rng.integers(-127, 128, (experts, hidden, 2 * inner)), rng.integers(-127, 128, (experts, inner, hidden))
    s1 = (rng.random((experts, 2 * inner)) / (73 * np.sqrt(hidden))).astype(F32)
    s2 = (rng.random((experts, hidden)) / (73 * np.sqrt(inner))).astype(F32)
    expert_of = rng.integers(0, experts, (tokens, top_k)).reshape(-1)
    order = np.argsort(expert_of, kind="stable")
    counts = np.bincount(expert_of, minlength=experts)
    logit = rng.random(tokens * top_k).astype(F32)
    codes, x_scale = npu_dynamic_quant(x)
    w1_nz, w2_nz = (npu_format_cast(w.astype(np.int8), 29) for w in (w1, w2))
    token = order // top_k
    middle, middle_scale, _ = swiglu_quant(codes[token], w1_nz, np.cumsum(counts), s1, x_scale[token])
    y = npu_grouped_matmul_finalize_routing(
        middle,
        w2_nz,
        counts,
        scale=s2,
        pertoken_scale=middle_scale,
        logit=logit[order],
        row_index=token,
        output_bs=tokens,
    )
    needed = np.zeros((tokens, hidden))
    bound = np.zeros((tokens, hidden))
    for i, g in enumerate(expert_of):
        c = x[i // top_k] @ (w1[g] * s1[g].astype(float))
        # Half a code of x per element.
        c_error = x_scale[i // top_k] / 2 * np.abs(w1[g] * s1[g].astype(float)).sum(0)
        a, b = c[:inner], c[inner:]
        s = a / (1 + np.exp(-a)) * b
        s_error = 1.1 * c_error[:inner] * (np.abs(b) + c_error[inner:]) + np.abs(a / (1 + np.exp(-a))) * c_error[inner:]
        s_error += (np.abs(s) + s_error).max() / 127 / 2
        needed[i // top_k] += logit[i] * (s @ (w2[g] * s2[g].astype(float)))
        bound[i // top_k] += logit[i] * (s_error @ np.abs(w2[g] * s2[g].astype(float)))
    # The errors of the codes dwarf those of float32, for which a thousandth is plenty.
    assert (np.abs(y - needed) <= 1.001 * bound).all()


def int8_forms(w):
    """The same weight in every form the operator takes."""
    dirty = to_tiles(w, 32, padding=127)
    return {
        "NzArray": npu_format_cast(w, 29),
        "tiles with padding": dirty,
        "NzArray with padding": NzArray(dirty, w.shape),
        "strided": strided(w),
        "strided tiles": strided(dirty),
    }


def int4_forms(words):
    return {
        "NzArray": npu_format_cast(words, 29),
        "NzArray of 8 words": npu_format_cast(words, 29, c0=8),
        "tiles with padding": to_tiles(words, 8, 0x77777777),
        "strided": strided(words),
    }


@pytest.mark.parametrize("int4", [False, True])
def test_any_length_of_k(int4):
    """Sums that leave int32 when int8 (there they are kept in 64 bits), and rows in several batches."""
    rng = np.random.default_rng(1)
    arguments, w = example(rng, m=150, k=131072 + 40, n=6, e=2, used=149, int4=int4)
    arguments["x"][:] = rng.integers(-128, -100, arguments["x"].shape, dtype=np.int8)
    if int4:  # sums of a million must fit into float16
        arguments["weight_scale"] = bits_as_int64(rng.normal(size=(2, 6)) / 100)
    else:
        arguments["weight"] = rng.integers(-128, -100, w.shape, dtype=np.int8)
        arguments["x_scale"] /= 100
    assert_near_oracle(arguments, swiglu_quant(**arguments))


def test_int4_blocks_longer_than_exact_sums():
    rng = np.random.default_rng(2)
    arguments, _ = example(rng, m=3, k=2 * (131072 + 5), n=4, e=1, used=3, int4=True, blocks=2)
    assert_near_oracle(arguments, swiglu_quant(**arguments))


@pytest.mark.parametrize(("k", "total"), [(65535, 1073725440), (131071, 2147467264), (131072, 2**31)])
def test_extreme_sums_are_exact(k, total):
    x, w = np.full((1, k), -128, np.int8), np.full((1, k, 2), -128, np.int8)
    one = np.ones((1, 2), F32)
    # silu(1) * total / 127 with an x_scale that makes the activated half 1
    w_scale = np.array([[1 / F32(total), 1]], F32)
    output, scale, _ = swiglu_quant(x, w, np.array([1]), w_scale, np.ones(1, F32))
    assert_same_bits(output, np.array([[127]], np.int8))
    silu = F32(1) / (F32(1) + F32(np.exp(F32(-1))))
    assert abs(scale[0] - F32(total) * silu / 127) <= 8 * U * scale[0]
    output, scale, _ = swiglu_quant(x, w, np.array([1]), one, np.ones(1, F32))
    # exp(-total) is 0: silu is the sum itself, and the product overflows float32 nowhere.
    assert scale[0] == F32(F32(total) * F32(total)) / F32(127)


def test_odd_sum_beyond_float32_rounds_once():
    x, w = np.zeros((1, 1025), np.int8), np.zeros((1, 1025, 2), np.int8)
    x[0, :1024], w[0, :1024] = -128, -128
    x[0, 1024], w[0, 1024] = 1, [1, 3]  # 2**24 + 1 rounds down, 2**24 + 3 up
    _, scale, _ = swiglu_quant(x, w, np.array([1]), np.ones((1, 2), F32), np.ones(1, F32))
    assert scale[0] == F32(2**24) * F32(2**24 + 4) / F32(127)


def test_group_list_forms():
    arguments, _ = example(np.random.default_rng(3), e=3, used=9)
    ends = np.array([4, 4, 9])
    needed = swiglu_quant(**(arguments | {"group_list": ends}))
    assert_same_results(swiglu_quant(**(arguments | {"group_list": ends.astype(np.int32)})), needed)
    counts = {"group_list": np.array([4, 0, 5]), "group_list_type": 1}
    assert_same_results(swiglu_quant(**(arguments | counts)), needed)
    short = swiglu_quant(**(arguments | {"group_list": ends[:1]}))
    assert_same_bits(short[0][:4], needed[0][:4])
    assert (short[0][4:] == 0).all()
    assert (short[1][4:] == 0).all()


@pytest.mark.parametrize("ends", [[0, 3, 9], [3, 3, 9], [3, 9, 9], [0, 0, 0]])
def test_experts_without_rows(ends):
    arguments, _ = example(np.random.default_rng(4))
    arguments["group_list"] = np.array(ends)
    assert_near_oracle(arguments, swiglu_quant(**arguments))


def test_tail_rows_are_not_looked_at():
    arguments, _ = example(np.random.default_rng(5), used=6)
    needed = swiglu_quant(**arguments)
    arguments["x_scale"][6:] = np.nan
    arguments["x"][6:] = 127
    assert_same_results(swiglu_quant(**arguments), needed)


def test_nothing_to_compute():
    arguments, _ = example(np.random.default_rng(6))
    output, scale, offset = swiglu_quant(**(arguments | {"group_list": np.zeros(0, np.int64)}))
    assert_same_bits(output, np.zeros((9, 20), np.int8))
    assert_same_bits(scale, np.zeros(9, F32))
    assert_same_bits(offset, np.zeros((), F32))
    none = {"x": np.zeros((0, 20), np.int8), "x_scale": np.zeros(0, F32), "group_list": np.zeros(3, np.int64)}
    output, scale, offset = swiglu_quant(**(arguments | none))
    assert output.shape == (0, 20)
    assert scale.shape == (0,)
    assert_same_bits(offset, np.zeros((), F32))


@pytest.mark.parametrize("zero", ["x", "weight_scale", "x_scale", "gate", "activated half"])
def test_zero_row(zero):
    arguments, _ = example(np.random.default_rng(7), e=1, used=9)
    if zero in ("gate", "activated half"):
        half = slice(20, 40) if zero == "gate" else slice(0, 20)
        arguments["weight"][:, :, half] = 0
    else:
        arguments[zero][:] = 0
    output, scale, _ = swiglu_quant(**arguments)
    assert (output == 0).all()
    assert (scale == 0).all()


def test_rows_without_a_usable_scale():
    arguments, _ = example(np.random.default_rng(8), used=9)
    needed = swiglu_quant(**arguments)
    arguments["x_scale"][2] = np.nan
    arguments["x_scale"][5] = np.inf
    arguments["x"][5] = np.abs(arguments["x"][5].astype(int)).clip(0, 127)
    output, scale, _ = swiglu_quant(**arguments)
    assert np.isnan(scale[2])
    assert not np.isfinite(scale[5])
    others = [0, 1, 3, 4, 6, 7, 8]
    assert (output[[2, 5]] == 0).all()
    assert_same_bits(output[others], needed[0][others])
    assert_same_bits(scale[others], needed[1][others])


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_weight_scale_that_is_not_finite(bad):
    x = np.ones((2, 4), np.int8)
    w = np.ones((2, 4, 4), np.int8)
    weight_scale = np.ones((2, 4), F32)
    weight_scale[1, 0] = bad
    output, scale, _ = swiglu_quant(x, w, np.array([1, 2]), weight_scale, np.ones(2, F32))
    assert (output[1] == 0).all()
    np.testing.assert_array_equal(scale[1], F32(bad))
    assert (output[0] == 127).all()
    assert np.isfinite(scale[0])


@pytest.mark.parametrize("value", [-200, -104, -88, 88, 200])
def test_exponents_overflow_to_no_nan(value):
    x = np.ones((1, 1), np.int8)
    w = np.ones((1, 1, 4), np.int8)
    weight_scale = np.array([[value, 1, 1, 1]], F32)
    output, scale, _ = swiglu_quant(x, w, np.array([1]), weight_scale, np.ones(1, F32))
    if value > 0:
        assert_same_bits(output, np.array([[127, round(127 / (1 + np.exp(-1)) / value)]], np.int8))
    else:
        assert_same_bits(output, np.array([[0, 127]], np.int8))
    assert np.isfinite(scale[0])


@pytest.mark.parametrize("largest", [6, 21, 22, 42, 43, 63, 64, 85, 106, 127])
def test_subnormal_scales_clamp(largest):
    """A subnormal scale that was rounded down far makes quotients of up to 190: they clamp, to 127 and to -128."""
    activated = np.array([largest, largest, 6, largest // 2 + 6], np.int8)  # times 3, where silu(a) is a
    gate = np.array([1, -1, 1, -1], np.int8)  # times the smallest subnormal
    weight_scale = np.array([[3] * 4 + [2.0**-149] * 4], F32)
    weight = np.concatenate([activated, gate]).reshape(1, 1, 8)
    output, scale, _ = swiglu_quant(np.ones((1, 1), np.int8), weight, np.array([1]), weight_scale, np.ones(1, F32))
    s = 3 * activated.astype(F32) * gate * F32(2.0**-149)
    needed = np.abs(s).max() / F32(127)
    assert_same_bits(scale, needed.reshape(1))
    codes = np.zeros(4) if needed == 0 else np.rint(s / needed).clip(-128, 127)
    assert_same_bits(output, codes.astype(np.int8)[None])


def test_signs_of_scales():
    arguments, _ = example(np.random.default_rng(10), used=9)
    arguments["x_scale"] = -np.abs(arguments["x_scale"])
    arguments["weight_scale"] = -np.abs(arguments["weight_scale"])
    seen = swiglu_quant(**arguments)
    assert_near_oracle(arguments, seen)
    assert seen[0].min() == -127


def test_strided_and_read_only_inputs():
    for int4 in (False, True):
        arguments, _ = example(np.random.default_rng(11), int4=int4)
        needed = swiglu_quant(**arguments)
        assert_same_results(swiglu_quant(**{n: strided(a) for n, a in arguments.items()}), needed)
        assert_same_results(swiglu_quant(**{n: read_only(a) for n, a in arguments.items()}), needed)
    assert_same_results(swiglu_quant(**(arguments | {"x_scale": arguments["x_scale"][:, None]})), needed)


def test_outs_are_written_and_nothing_around_them():
    arguments, _ = example(np.random.default_rng(12), n=34)
    needed = swiglu_quant(**arguments)
    outs = [guarded((9, 17), np.int8), guarded((9,), F32), guarded((), F32)]
    for given_ones in [(0, 1, 2), (0,), (1,), (2,), ()]:
        out = tuple(outs[i][0] if i in given_ones else None for i in range(3))
        seen = swiglu_quant(**arguments, out=out)
        assert_same_results(seen, needed)
        for i in given_ones:
            assert seen[i] is out[i]
    for _, check in outs:
        check()


REFUSED = {
    # name: (arguments to replace, exception, status of the core or None, message)
    "x missing": ({"x": None}, TypeError, 161001, "x: missing"),
    "weight missing": ({"weight": None}, TypeError, 161001, "weight: missing"),
    "group_list missing": ({"group_list": None}, TypeError, 161001, "group_list: missing"),
    "weight_scale missing": ({"weight_scale": None}, TypeError, 161001, "weight_scale: missing"),
    "x_scale missing": ({"x_scale": None}, TypeError, 161001, "x_scale: missing"),
    "x a list": ({"x": [[1]]}, TypeError, None, "x: list"),
    "x uint8": ({"x": np.zeros((9, 20), np.uint8)}, TypeError, 161002, "x: dtype uint8, needed int8"),
    "weight float16": ({"weight": np.zeros((3, 20, 40), np.float16)}, TypeError, 161002, "weight: dtype float16"),
    "group_list float": ({"group_list": np.ones(3)}, TypeError, 161002, "group_list: dtype float64"),
    "group_list uint8": ({"group_list": np.ones(3, np.uint8)}, TypeError, 161002, "group_list: dtype uint8"),
    "weight_scale float64": ({"weight_scale": np.ones((3, 40))}, TypeError, 161002, "weight_scale: dtype float64"),
    "weight_scale int64": (
        {"weight_scale": np.ones((3, 40), np.int64)},
        TypeError,
        161002,
        "weight_scale: dtype int64",
    ),
    "x_scale float16": ({"x_scale": np.ones(9, np.float16)}, TypeError, 161002, "x_scale: dtype float16"),
    "x_scale bfloat16": ({"x_scale": np.ones(9, bfloat16)}, TypeError, 161002, "x_scale: dtype bfloat16"),
    "x rank": ({"x": np.zeros((9, 20, 1), np.int8)}, ValueError, 161002, "x: shape"),
    "weight rank 4": ({"weight": np.zeros((3, 20, 40, 1), np.int8)}, ValueError, 161002, "weight: shape"),
    "weight rank 2": ({"weight": np.zeros((20, 40), np.int8)}, ValueError, 161002, "weight: shape"),
    "weight k": ({"weight": np.zeros((3, 19, 40), np.int8)}, ValueError, 161002, "weight: shape"),
    "weight n": ({"weight": np.zeros((3, 20, 20), np.int8)}, ValueError, 161002, "weight: shape"),
    "weight tiles": ({"weight": np.zeros((3, 2, 1, 16, 32), np.int8)}, ValueError, 161002, "k1 = 2 for k = 20"),
    "weight_scale rank": ({"weight_scale": np.ones(40, F32)}, ValueError, 161002, "weight_scale: shape"),
    "weight_scale rank 3": ({"weight_scale": np.ones((3, 1, 40), F32)}, ValueError, 161002, "weight_scale: shape"),
    "weight_scale experts": (
        {"weight_scale": np.ones((2, 40), F32)},
        ValueError,
        161002,
        r"weight_scale: shape .* = \(3, 40\)",
    ),
    "n odd": ({"weight_scale": np.ones((3, 39), F32)}, ValueError, 161002, "n = 39 columns, needed an even"),
    "n 0": ({"weight_scale": np.ones((3, 0), F32)}, ValueError, 161002, "n = 0 columns, needed an even"),
    "k 0": ({"x": np.zeros((9, 0), np.int8)}, ValueError, 161002, r"x: shape \(9, 0\), needed k >= 1"),
    "x_scale length": ({"x_scale": np.ones(8, F32)}, ValueError, 161002, "x_scale: shape"),
    "x_scale (1, m)": ({"x_scale": np.ones((1, 9), F32)}, ValueError, 161002, "x_scale: shape"),
    "x_scale (m, 2)": ({"x_scale": np.ones((9, 2), F32)}, ValueError, 161002, "x_scale: shape"),
    "group_list rank": ({"group_list": np.array([[3, 4, 5]])}, ValueError, 161002, "group_list: shape"),
    "group_list length": (
        {"group_list": np.array([1, 2, 3, 4])},
        ValueError,
        161002,
        "4 entries, needed at most the 3",
    ),
    "bias": ({"bias": np.ones((3, 40), F32)}, ValueError, 161002, "bias: given, needed none with an int8 weight"),
    "offset": ({"offset": np.ones((3, 40), F32)}, ValueError, 161002, "offset: given, needed none"),
    "group_list_type 2": ({"group_list_type": 2}, ValueError, 161002, "group_list_type: 2, needed 0"),
    "group_list_type None": ({"group_list_type": None}, TypeError, None, "group_list_type: NoneType"),
    "ends decrease": ({"group_list": np.array([5, 4, 9])}, ValueError, 161002, "4 at position 1, needed a cumulative"),
    "ends are counts": ({"group_list": np.array([4, 3, 2])}, ValueError, 161002, "looks like counts"),
    "end negative": ({"group_list": np.array([-1, 4, 9])}, ValueError, 161002, "-1 at position 0, needed a cumulative"),
    "end above m": ({"group_list": np.array([4, 9, 10])}, ValueError, 161002, "10 at position 2, needed a cumulative"),
    "end int32 above m": ({"group_list": np.array([4, 9, 2**31 - 1], np.int32)}, ValueError, 161002, "2147483647 at"),
    "end huge": ({"group_list": np.array([2**63 - 1, 0, 0])}, ValueError, 161002, "9223372036854775807 at position 0"),
    "counts above m": (
        {"group_list": np.array([4, 4, 4]), "group_list_type": 1},
        ValueError,
        161002,
        "group_list: 4 at position 2.*looks like cumulative ends",
    ),
}


def check_refused(arguments, case):
    replaced, exception, status, message = case
    outs = [guarded((9, 20), np.int8), guarded((9,), F32), guarded((), F32)]
    with pytest.raises(exception, match=message) as caught:
        swiglu_quant(**(arguments | replaced), out=tuple(out for out, _ in outs))
    assert str(caught.value).startswith("npu_grouped_matmul_swiglu_quant: ")
    assert getattr(caught.value, "status", None) == status
    for out, check in outs:
        assert is_untouched(out)
        check()


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    check_refused(example(np.random.default_rng(13))[0], REFUSED[name])


REFUSED4 = {
    "bias missing": ({"bias": None}, ValueError, 161001, "bias: missing, needed with an int4 weight"),
    "bias shape": ({"bias": np.ones((3, 20), F32)}, ValueError, 161002, "bias: shape"),
    "bias dtype": ({"bias": np.ones((3, 40), bfloat16)}, TypeError, 161002, "bias: dtype bfloat16"),
    "scale float32": ({"weight_scale": np.ones((3, 40), F32)}, TypeError, 161002, "weight_scale: dtype float32"),
    "scale rank": ({"weight_scale": np.ones((3, 1, 1, 40), np.int64)}, ValueError, 161002, "weight_scale: shape"),
    "no blocks": ({"weight_scale": np.ones((3, 0, 40), np.int64)}, ValueError, 161002, "0 blocks of k"),
    "blocks": ({"weight_scale": np.ones((3, 3, 40), np.int64)}, ValueError, 161002, "3 blocks of k.* k = 20"),
    "offset": ({"offset": np.ones((3, 40), F32)}, ValueError, 161002, "offset: given"),
    "weight words": ({"weight": np.zeros((3, 20, 40), np.int32)}, ValueError, 161002, "weight: shape"),
}


@pytest.mark.parametrize("name", REFUSED4)
def test_int4_refused(name):
    check_refused(example(np.random.default_rng(14), int4=True)[0], REFUSED4[name])


def test_bad_out():
    arguments, _ = example(np.random.default_rng(15))
    outs = (np.zeros((9, 20), np.int8), np.zeros(9, F32), np.zeros((), F32))
    for index, out, exception in [
        (0, np.zeros((9, 40), np.int8), ValueError),
        (0, np.zeros((9, 20), np.uint8), ValueError),
        (0, np.zeros((9, 40), np.int8)[:, ::2], ValueError),
        (1, np.zeros((9, 1), F32), ValueError),
        (1, np.zeros(9), ValueError),
        (1, read_only(np.zeros(9, F32)), ValueError),
        (2, np.zeros(1, F32), ValueError),
        (0, [0], TypeError),
        (0, arguments["x"], ValueError),
        (1, arguments["x_scale"], ValueError),
    ]:
        bad = (*outs[:index], out, *outs[index + 1 :])
        with pytest.raises(exception, match="npu_grouped_matmul_swiglu_quant: out: "):
            swiglu_quant(**arguments, out=bad)
    with pytest.raises(ValueError, match="out: 2 entries, needed 3"):
        swiglu_quant(**arguments, out=outs[:2])
    with pytest.raises(TypeError, match="out: ndarray, needed None or a tuple of 3"):
        swiglu_quant(**arguments, out=outs[0])


@pytest.mark.parametrize("name", ["atlas-a2", "seed"])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"k": 65536, "n": 32}, "k = 65536, needed below 65536"),
        ({"k": 20000, "n": 32, "int4": True}, "k = 20000, needed below 20000"),
        ({"k": 16, "n": 10272}, "n = 10272, needed a multiple of 32 up to 10240"),
        ({"k": 16, "n": 48}, "n = 48, needed a multiple of 32"),
    ],
)
def test_limits_refuse(name, sizes, message):
    arguments, _ = example(np.random.default_rng(16), m=2, e=1, used=2, **sizes)
    swiglu_quant(**arguments)
    with limits(name), pytest.raises(ValueError, match=message):
        swiglu_quant(**arguments)


def test_limits_on_tiles_and_group_list():
    arguments, w = example(np.random.default_rng(17), n=64)
    with limits("atlas-a2"):
        swiglu_quant(**arguments)
        with pytest.raises(ValueError, match="k = 20, needed a multiple of 16"):
            swiglu_quant(**(arguments | {"weight": to_tiles(w, 32)}))
        with pytest.raises(TypeError, match="group_list: dtype int32, needed int64"):
            swiglu_quant(**(arguments | {"group_list": arguments["group_list"].astype(np.int32)}))
