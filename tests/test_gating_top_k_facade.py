"""npu_moe_gating_top_k: worked numbers, a float32 model bit for bit, bounds, and every refusal."""

import numpy as np
import pytest
from cases.gating import ALL, BIAS, PRINTED, SCORES, THREE, TOP_K
from hypothesis import given, settings
from hypothesis import strategies as st
from models import gating as model

from moe_native import npu_moe_gating_top_k
from moe_native.oracle.gating import choose_experts, moe_gating_top_k
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only, round_to, strided

FLOATS = [np.dtype(np.float32), np.dtype(np.float16), bfloat16]
F32 = np.float32


def assert_all_same_bits(seen, needed):
    assert len(seen) == len(needed)
    for a, b in zip(seen, needed, strict=True):
        assert_same_bits(a, b)


def scores(rng, shape, dtype, kind="spread"):
    """Random scores; "ties" holds few different values, "low" drives sigmoids to 0, "special" is not always finite."""
    values = rng.normal(scale=3, size=shape)
    if kind == "ties":
        values = np.round(values / 2)
    if kind == "low":
        values = values * 30 - 60
    x = round_to(values, dtype)
    if kind == "special":
        chosen = rng.random(shape) < 0.05
        x[chosen] = rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0], chosen.sum()).astype(dtype)
        x[..., rng.random(shape[-1]) < 0.1] = -np.inf
    return x


@pytest.mark.parametrize("case", TOP_K)
def test_worked_number(case):
    arguments, needed_y, needed_idx = TOP_K[case]
    y, expert_idx, norm_out = npu_moe_gating_top_k(**arguments)
    assert y.dtype == F32
    assert_same_bits(expert_idx, np.array(needed_idx, np.int32))
    np.testing.assert_allclose(y, needed_y, **PRINTED)
    assert_same_bits(norm_out, np.zeros(arguments["x"].shape, F32))


@st.composite
def groupings(draw):
    """group_count, experts, k_group, group_select_mode, k."""
    group_count = draw(st.sampled_from([1, 2, 3, 8, 16, 64]))
    group_size = draw(st.sampled_from([1, 2, 3, 15, 16, 17, 32, 33]))
    k_group = draw(st.integers(1, group_count))
    if k_group < group_count and group_size > 1 and group_count * (-(-group_size // 32) * 32) > 2048:
        k_group = group_count
    group_size = min(group_size, 2048 // group_count)
    mode = draw(st.integers(0, 1 if group_size > 1 else 0))
    most = k_group * group_size
    k = draw(st.one_of(st.integers(1, min(most, 9)), st.just(most)))
    return group_count, group_count * group_size, k_group, mode, k


@settings(max_examples=250, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FLOATS),
    rows=st.sampled_from([1, 2, 7]),
    grouping=groupings(),
    kind=st.sampled_from(["spread", "ties", "low", "special"]),
    biased=st.sampled_from([None, "spread", "special"]),
    norm_type=st.integers(0, 1),
    out_flag=st.booleans(),
    factor=st.sampled_from([1.0, 2.5, 0.0, -1.0, 1e30, 0.1]),
    eps=st.sampled_from([1e-20, 1.0, 0.0]),
)
def test_equals_sequential_float32(seed, dtype, rows, grouping, kind, biased, norm_type, out_flag, factor, eps):
    rng = np.random.default_rng(seed)
    group_count, experts, k_group, mode, k = grouping
    options = {
        "bias": None if biased is None else scores(rng, (experts,), dtype, biased),
        "k_group": k_group,
        "group_count": group_count,
        "group_select_mode": mode,
        "norm_type": norm_type,
        "out_flag": out_flag,
        "routed_scaling_factor": factor,
        "eps": eps,
    }
    x = scores(rng, (rows, experts), dtype, kind)
    assert_all_same_bits(npu_moe_gating_top_k(x, k, **options), model.gating_top_k(x, k, **options))


@pytest.mark.parametrize("kind", ["spread", "ties", "low"])
@pytest.mark.parametrize("norm_type", [0, 1])
@pytest.mark.parametrize(
    ("experts", "group_count", "k_group", "mode", "k"),
    [(256, 8, 4, 1, 8), (256, 8, 4, 0, 6), (256, 1, 1, 0, 32), (2048, 64, 7, 1, 32), (60, 5, 2, 1, 24)],
)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_near_oracle(dtype, experts, group_count, k_group, mode, k, norm_type, kind):
    rng = np.random.default_rng(experts + k)
    x = scores(rng, (20, experts), dtype, kind)
    groups = {"k_group": k_group, "group_count": group_count, "group_select_mode": mode}
    factor, eps = 2.5, 1e-20
    options = groups | {"norm_type": norm_type, "routed_scaling_factor": factor, "eps": eps, "out_flag": True}
    bias = scores(rng, (experts,), dtype)
    y, expert_idx, norm_out = npu_moe_gating_top_k(x, k, bias=bias, **options)

    # All scores, and a choice that is exact for the scores as the operator holds them.
    s = moe_gating_top_k(x, k, bias=bias, **options)[2]
    error = model.sigmoid_error(s) if norm_type else model.softmax_error(x.astype(np.float64), s)
    assert (np.abs(norm_out - s) <= error).all()
    assert_same_bits(expert_idx, choose_experts(norm_out, bias, k, **groups).astype(np.int32))

    # The weights of that choice.
    exact = np.take_along_axis(s, expert_idx, -1)
    error = np.take_along_axis(error, expert_idx, -1)
    if norm_type:
        error = model.weights_error(exact, error, eps, factor)
        exact = exact / (exact.sum(-1, keepdims=True) + eps)
    else:
        error = factor * (error + model.u * (exact + error))
    exact = exact * factor
    assert (np.abs(y.astype(np.float64) - exact) <= error + model.rounding_error(exact + error, dtype)).all()


def test_ties_between_groups_and_experts():
    x = np.zeros((2, 6), F32)
    for mode in (0, 1):
        for norm_type in (0, 1):
            seen = npu_moe_gating_top_k(x, 3, group_count=3, k_group=2, group_select_mode=mode, norm_type=norm_type)
            assert_same_bits(seen[1], np.array([[0, 1, 2]] * 2, np.int32))


def test_a_left_out_expert_ties_with_one_of_minus_infinity():
    # Group 1 is kept, expert 2 with v = 0.5 is first; then -inf of experts 0, 1 (left out) and 3 (by its bias).
    bias = np.array([-1, -1, 0, -np.inf], F32)
    seen = npu_moe_gating_top_k(np.zeros((1, 4), F32), 2, bias=bias, group_count=2, k_group=1, norm_type=1)
    assert_same_bits(seen[1], np.array([[2, 0]], np.int32))


def test_nan_scores_come_last():
    x = np.array([[np.nan, 1, -np.inf, 2, np.nan, 0]], F32)
    y, expert_idx, norm_out = npu_moe_gating_top_k(x, 6, norm_type=1, out_flag=True)
    assert_same_bits(expert_idx, np.array([[3, 1, 5, 2, 0, 4]], np.int32))
    assert_same_bits(y, np.full((1, 6), np.nan, F32))
    assert_same_bits(norm_out[0, [0, 2, 4]], np.array([np.nan, 0, np.nan], F32))
    # As the score of a group as well: 1 + 2 beats NaN + 9.
    x = np.array([[np.nan, 9, 1, 2]], F32)
    seen = npu_moe_gating_top_k(x, 2, group_count=2, group_select_mode=1, norm_type=1)
    assert_same_bits(seen[1], np.array([[3, 2]], np.int32))


def test_no_bias_is_a_zero_bias():
    for dtype in FLOATS:
        x = scores(np.random.default_rng(1), (9, 64), dtype, "ties")
        options = {"group_count": 8, "k_group": 3, "group_select_mode": 1, "norm_type": 1, "out_flag": True}
        seen = npu_moe_gating_top_k(x, 5, bias=np.zeros(64, dtype), **options)
        assert_all_same_bits(seen, npu_moe_gating_top_k(x, 5, **options))


def test_all_groups_kept_is_no_grouping():
    x = scores(np.random.default_rng(2), (9, 64), np.dtype(F32))
    needed = npu_moe_gating_top_k(x, 7, norm_type=1)
    for group_count in (2, 32, 64):
        seen = npu_moe_gating_top_k(x, 7, group_count=group_count, k_group=group_count, norm_type=1)
        assert_all_same_bits(seen, needed)


def test_softmax_weights_are_not_normalised_again():
    y = npu_moe_gating_top_k(SCORES, 2)[0]
    assert 0 < y.sum() < 0.9
    assert_same_bits(npu_moe_gating_top_k(SCORES, 2, eps=7.0)[0], y)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_factor_0_gives_zeros(dtype):
    x = scores(np.random.default_rng(3), (5, 256), dtype)
    y = npu_moe_gating_top_k(x, 16, norm_type=1, routed_scaling_factor=0)[0]
    assert_same_bits(y, np.zeros((5, 16), dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_one_final_rounding(dtype):
    # A float32 result of the widened input, rounded once.
    x, bias = round_to(SCORES, dtype), round_to(BIAS, dtype)
    options = {"group_count": 4, "k_group": 3, "norm_type": 1, "routed_scaling_factor": 2.7}
    wide = npu_moe_gating_top_k(x.astype(F32), 4, bias=bias.astype(F32), **options)
    seen = npu_moe_gating_top_k(x, 4, bias=bias, **options)
    assert_same_bits(seen[0], wide[0].astype(dtype))
    assert_same_bits(seen[1], wide[1])


def test_eps_is_float32():
    # 1e-46 is 0 in float32, and 0 / 0 is NaN.
    x = np.full((1, 3), -200, F32)
    assert_same_bits(npu_moe_gating_top_k(x, 2, norm_type=1, eps=1e-46)[0], np.full((1, 2), np.nan, F32))
    assert_same_bits(npu_moe_gating_top_k(x, 2, norm_type=1, eps=1e-44)[0], np.zeros((1, 2), F32))


@pytest.mark.parametrize("out_flag", [False, True])
def test_norm_out(out_flag):
    (out, check) = guarded((1, 8), F32)
    y, expert_idx, norm_out = npu_moe_gating_top_k(**ALL, out_flag=out_flag, out=(None, None, out))
    check()
    assert norm_out is out
    assert_same_bits(norm_out, model.sigmoid(SCORES) if out_flag else np.zeros((1, 8), F32))
    assert_all_same_bits((y, expert_idx), npu_moe_gating_top_k(**ALL)[:2])


def test_no_rows():
    y, expert_idx, norm_out = npu_moe_gating_top_k(
        np.zeros((0, 8), np.float16), 2, bias=np.zeros(8, np.float16), group_count=4, k_group=2, out_flag=True
    )
    assert_same_bits(y, np.zeros((0, 2), np.float16))
    assert_same_bits(expert_idx, np.zeros((0, 2), np.int32))
    assert_same_bits(norm_out, np.zeros((0, 8), F32))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_strided_and_read_only_inputs(dtype):
    x, bias = scores(np.random.default_rng(4), (5, 48), dtype), scores(np.random.default_rng(5), (48,), dtype)
    options = {"group_count": 3, "k_group": 2, "norm_type": 1, "out_flag": True}
    seen = npu_moe_gating_top_k(strided(x), 4, bias=strided(bias), **options)
    assert_all_same_bits(seen, npu_moe_gating_top_k(x, 4, bias=bias, **options))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_out_is_written_and_nothing_around_it(dtype):
    x = scores(np.random.default_rng(6), (5, 48), dtype)
    options = {"group_count": 3, "k_group": 2, "norm_type": 1, "out_flag": True}
    outs, checks = zip(*(guarded(*a) for a in [((5, 4), dtype), ((5, 4), np.int32), ((5, 48), F32)]), strict=True)
    results = npu_moe_gating_top_k(x, 4, **options, out=outs)
    for check, result, out in zip(checks, results, outs, strict=True):
        check()
        assert result is out
    assert_all_same_bits(results, npu_moe_gating_top_k(x, 4, **options))


def grouped(experts, group_count, **options):
    return {"x": np.zeros((2, experts), F32), "k": 1, "group_count": group_count} | options


ACCEPTED = {
    "2048 experts": grouped(2048, 1),
    "64 groups of 2": grouped(128, 64, k_group=63),
    "65 groups of 2, all kept": grouped(130, 65, k_group=65),
    "65 groups of 1": grouped(65, 65, k_group=64),
    "2048 groups of 1": grouped(2048, 2048, k_group=3, k=3),
    "k of all kept": grouped(12, 4, k_group=2, k=6),
    "groups of 2 in mode 1": grouped(12, 6, group_select_mode=1),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case):
    arguments = ACCEPTED[case]
    seen = npu_moe_gating_top_k(**arguments)
    assert_same_bits(seen[1], np.tile(np.arange(arguments["k"], dtype=np.int32), (2, 1)))


IDS = np.zeros(1, np.int32)
TABLE = np.zeros((10, 2), np.int32)
REFUSED = {
    # name: (arguments to replace, exception, status of the core or None, message)
    "x missing": ({"x": None}, TypeError, 161001, "x: missing"),
    "x a list": ({"x": [[1.0]]}, TypeError, None, "x: list"),
    "x float64": ({"x": np.zeros((1, 6))}, TypeError, 161002, "x: dtype float64, needed one of float16"),
    "bias dtype": (
        {"bias": np.zeros(6, np.float16)},
        TypeError,
        161002,
        "bias: dtype float16, needed float32 as x has",
    ),
    "x of 1 dimension": ({"x": np.zeros(6, F32)}, ValueError, 561002, r"x: shape \(6,\), needed 2 dimensions"),
    "x of 3 dimensions": ({"x": np.zeros((1, 1, 6), F32)}, ValueError, 561002, "x: shape .*, needed 2 dimensions"),
    "2049 experts": (
        {"x": np.zeros((1, 2049), F32), "bias": None},
        ValueError,
        561002,
        "x: 2049 experts, needed 1 to 2048",
    ),
    "no experts": ({"x": np.zeros((1, 0), F32), "bias": None}, ValueError, 561002, "x: 0 experts, needed 1 to 2048"),
    "bias rank": ({"bias": np.zeros((1, 6), F32)}, ValueError, 561002, r"bias: shape \(1, 6\), needed \(experts,\)"),
    "bias length": (
        {"bias": np.zeros(5, F32)},
        ValueError,
        561002,
        r"bias: shape \(5,\), needed \(experts,\) = \(6,\)",
    ),
    "k 0": ({"k": 0}, ValueError, 561002, "k: 0, needed 1 to 2"),
    "k beyond the kept": ({"k": 3}, ValueError, 561002, r"k: 3, needed 1 to 2 \(the experts of k_group groups\)"),
    "k beyond two groups": ({"k": 5, "k_group": 2}, ValueError, 561002, "k: 5, needed 1 to 4"),
    "k float": ({"k": 2.0}, TypeError, None, "k: float, needed an int"),
    "k_group 0": ({"k_group": 0}, ValueError, 561002, r"k_group: 0, needed 1 to 3 \(group_count\)"),
    "k_group 4": ({"k_group": 4}, ValueError, 561002, "k_group: 4, needed 1 to 3"),
    "group_count 0": ({"group_count": 0}, ValueError, 561002, "group_count: 0, needed 1 to 6"),
    "group_count negative": ({"group_count": -3}, ValueError, 561002, "group_count: -3"),
    "group_count 7": ({"group_count": 7}, ValueError, 561002, "group_count: 7, needed 1 to 6"),
    "group_count 4": ({"group_count": 4}, ValueError, 561002, "group_count: 4, needed a divisor of the 6 experts"),
    "mode 2": ({"group_select_mode": 2}, ValueError, 561002, "group_select_mode: 2, needed 0 to 1"),
    "mode -1": ({"group_select_mode": -1}, ValueError, 561002, "group_select_mode: -1, needed 0 to 1"),
    "groups of 1 in mode 1": (
        {"group_count": 6, "group_select_mode": 1, "k": 1},
        ValueError,
        561002,
        "group_count: 6, needed groups of at least 2",
    ),
    "65 groups of 2": (
        {"x": np.zeros((1, 130), F32), "bias": None, "group_count": 65, "k_group": 64},
        ValueError,
        561002,
        "group_count: 65 groups of 2 experts, which take 2080 places in multiples of 32, needed at most 2048",
    ),
    "33 groups of 33": (
        {"x": np.zeros((1, 33 * 33), F32), "bias": None, "group_count": 33},
        ValueError,
        561002,
        "group_count: 33 groups of 33 experts, which take 2112 places",
    ),
    "renorm 1": ({"renorm": 1}, ValueError, 561002, "renorm: 1, needed 0"),
    "norm_type 2": ({"norm_type": 2}, ValueError, 561002, "norm_type: 2, needed 0 to 1"),
    "norm_type -1": ({"norm_type": -1}, ValueError, 561002, "norm_type: -1, needed 0 to 1"),
    "out_flag int": ({"out_flag": 1}, TypeError, None, "out_flag: int, needed a bool"),
    "factor a string": ({"routed_scaling_factor": "1"}, TypeError, None, "routed_scaling_factor: str"),
    "eps None": ({"eps": None}, TypeError, None, "eps: NoneType, needed a float"),
    "eps huge": ({"eps": 10**400}, ValueError, None, "eps: an int beyond the range of a float"),
    "input_ids alone": ({"input_ids": IDS}, ValueError, None, "input_ids: given, needed None: .*not supported yet"),
    "tid2eid alone": ({"tid2eid": TABLE}, ValueError, None, "tid2eid: given, needed None: .*not supported yet"),
    "hash mode": ({"input_ids": IDS, "tid2eid": TABLE}, ValueError, None, "input_ids: .*not supported yet"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    replaced, exception, status, message = REFUSED[case]
    outs, checks = zip(*(guarded(*a) for a in [((1, 2), F32), ((1, 2), np.int32), ((1, 6), F32)]), strict=True)
    with pytest.raises(exception, match=message) as caught:
        npu_moe_gating_top_k(**(THREE | replaced), out=outs)
    assert str(caught.value).startswith("npu_moe_gating_top_k: ")
    assert getattr(caught.value, "status", None) == status
    for out, check in zip(outs, checks, strict=True):
        assert is_untouched(out)
        check()


def test_bad_out():
    x, bias = np.zeros((5, 6), F32), np.zeros(6, F32)
    good = {"y": np.zeros((5, 2), F32), "expert_idx": np.zeros((5, 2), np.int32), "norm_out": np.zeros((5, 6), F32)}
    for name, bad in [
        ("y", np.zeros((5, 2), np.float16)),
        ("y", np.zeros((5, 3), F32)),
        ("expert_idx", np.zeros((5, 2), np.int64)),
        ("norm_out", np.zeros((5, 5), F32)),
        ("norm_out", read_only(np.zeros((5, 6), F32))),
        ("norm_out", np.zeros((6, 5), F32).T),
        ("norm_out", x),
    ]:
        before = bad.copy()
        with pytest.raises(ValueError, match=f"npu_moe_gating_top_k: out: .*{name}"):
            npu_moe_gating_top_k(x, 2, bias=bias, out=tuple((good | {name: bad}).values()))
        assert_same_bits(bad, before)
