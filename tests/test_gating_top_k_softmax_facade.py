"""The two softmax gatings: worked numbers, a float32 model bit for bit, bounds, and every refusal."""

import numpy as np
import pytest
from cases.gating import FINISHED, NO_SOFTMAX, PRINTED, SOFTMAX, SOFTMAX_V2, TIES, TIES_Y, X
from hypothesis import given, settings
from hypothesis import strategies as st
from models import gating as model

from moe_native import npu_moe_gating_top_k_softmax, npu_moe_gating_top_k_softmax_v2
from moe_native.oracle.gating import moe_gating_top_k_softmax, moe_gating_top_k_softmax_v2
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
F32 = np.float32
BOTH = {"v1": npu_moe_gating_top_k_softmax, "v2": npu_moe_gating_top_k_softmax_v2}


def assert_all_same_bits(seen, needed):
    assert len(seen) == len(needed)
    for a, b in zip(seen, needed, strict=True):
        assert_same_bits(a, b)


def scores(rng, shape, dtype, kind="spread"):
    """Random scores; "ties" holds few different values, "special" some that are not finite."""
    values = rng.normal(scale=3, size=shape)
    if kind == "ties":
        values = np.round(values)
    if kind == "large":
        values *= 3e3
    x = round_to(values, dtype)
    if kind == "special":
        chosen = rng.random(shape) < 0.05
        x[chosen] = rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0], chosen.sum()).astype(dtype)
        x[rng.random(shape[:-1]) < 0.1] = -np.inf
    return x


@pytest.mark.parametrize("case", SOFTMAX)
def test_worked_number(case):
    arguments, needed_y, needed_idx, needed_rows = SOFTMAX[case]
    y, expert_idx, row_idx = npu_moe_gating_top_k_softmax(*arguments)
    assert y.dtype == arguments[0].dtype
    assert_same_bits(expert_idx, np.array(needed_idx, np.int32))
    if needed_y is not None:
        np.testing.assert_allclose(y, needed_y, **PRINTED)
    if needed_rows is not None:
        assert_same_bits(row_idx, np.array(needed_rows, np.int32))


def test_worked_ties():
    assert_same_bits(npu_moe_gating_top_k_softmax(TIES, None, 3)[0], np.float16(TIES_Y))


@pytest.mark.parametrize("case", SOFTMAX_V2)
def test_v2_worked_number(case):
    arguments, needed_y, needed_idx = SOFTMAX_V2[case]
    y, expert_idx, softmax = npu_moe_gating_top_k_softmax_v2(**arguments)
    assert_same_bits(expert_idx, np.array(needed_idx, np.int32))
    if needed_y is not None:
        np.testing.assert_allclose(y, needed_y, **PRINTED)
    assert_same_bits(softmax, np.zeros(0, F32))


shapes = st.one_of(
    st.tuples(st.sampled_from([1, 2, 7])),
    st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 5])),
)
experts = st.sampled_from([1, 2, 3, 15, 16, 17, 31, 33, 64, 255, 256, 257, 1256])
kinds = st.sampled_from(["spread", "ties", "large", "special"])


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FLOATS),
    shape=shapes,
    experts=experts,
    kind=kinds,
    data=st.data(),
)
def test_equals_sequential_float32(seed, dtype, shape, experts, kind, data):
    rng = np.random.default_rng(seed)
    x = scores(rng, (*shape, experts), dtype, kind)
    finished = rng.random(shape) < 0.3 if data.draw(st.booleans(), "finished") else None
    k = data.draw(st.one_of(st.integers(1, min(experts, 9)), st.just(min(experts, 1024))), "k")
    seen = npu_moe_gating_top_k_softmax(x, finished, k)
    assert_all_same_bits(seen, model.gating_top_k_softmax(x, finished, k))
    for renorm in (0, 1):
        options = {"k": k, "finished": finished, "renorm": renorm, "output_softmax": data.draw(st.booleans())}
        seen = npu_moe_gating_top_k_softmax_v2(x, **options)
        assert_all_same_bits(seen, model.gating_top_k_softmax_v2(x, **options))


@pytest.mark.parametrize("kind", ["spread", "ties", "large"])
@pytest.mark.parametrize("experts", [5, 200, 1256, 5120])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_near_oracle(dtype, experts, kind):
    x = scores(np.random.default_rng(experts), (20, experts), dtype, kind)
    k = min(9, experts)
    p = moe_gating_top_k_softmax_v2(x, output_softmax=True)[2]
    error = model.softmax_error(x.astype(np.float64), p)

    # All probabilities, and a choice that is exact for the probabilities as the operator holds them.
    y, expert_idx, softmax = npu_moe_gating_top_k_softmax_v2(x, k=k, output_softmax=True)
    assert (np.abs(softmax - p) <= error).all()
    assert_same_bits(expert_idx, model.largest(softmax, k).astype(np.int32))
    assert_same_bits(y, np.take_along_axis(softmax, expert_idx, -1).astype(dtype))

    y, expert_idx, _ = npu_moe_gating_top_k_softmax(x, None, k)
    rounded = softmax.astype(dtype)
    assert_same_bits(expert_idx, model.largest(rounded.astype(F32), k).astype(np.int32))
    assert_same_bits(y, np.take_along_axis(rounded, expert_idx, -1))

    # Against the exact probabilities: none that was left out is certainly larger than one that was chosen.
    certainly, possibly = round_to(p - error, dtype).astype(F32), round_to(p + error, dtype).astype(F32)
    chosen = np.take_along_axis(possibly, expert_idx, -1)
    assert (chosen[:, :-1] >= np.take_along_axis(certainly, expert_idx, -1)[:, 1:]).all()
    np.put_along_axis(certainly, expert_idx, -1, -1)
    assert (chosen[:, -1:] >= certainly).all()

    # Softmax over the chosen scores.
    exact, needed_idx, _ = moe_gating_top_k_softmax_v2(x, k=k, renorm=1)
    y, expert_idx, _ = npu_moe_gating_top_k_softmax_v2(x, k=k, renorm=1)
    assert_same_bits(expert_idx, needed_idx)
    error = model.softmax_error(np.take_along_axis(x.astype(np.float64), expert_idx, -1), exact)
    assert (np.abs(y.astype(np.float64) - exact) <= error + model.rounding_error(exact + error, dtype)).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", BOTH)
def test_equal_scores_take_the_first_experts(name, dtype):
    for k in (1, 5, 70):
        y, expert_idx, _ = BOTH[name](np.full((2, 70), 3, dtype), k=k)
        assert_same_bits(expert_idx, np.tile(np.arange(k, dtype=np.int32), (2, 1)))
        assert_same_bits(y, np.full((2, k), F32(1) / F32(70), F32).astype(dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("row", NO_SOFTMAX)
def test_a_row_without_a_softmax_takes_the_first_experts(row, dtype):
    x = np.array([[1, 2, 3], row], dtype)
    y, expert_idx, softmax = npu_moe_gating_top_k_softmax_v2(x, k=2, output_softmax=True)
    assert_same_bits(expert_idx, np.array([[2, 1], [0, 1]], np.int32))
    assert_same_bits(y[1], np.full(2, np.nan, dtype))
    assert_same_bits(softmax[1], np.full(3, np.nan, F32))
    assert_same_bits(npu_moe_gating_top_k_softmax(x, None, 2)[1], expert_idx)


def test_v2_top_k_first_orders_all_values():
    x = np.array([[-0.0, np.nan, 0, -np.inf, 1, np.inf]], F32)
    y, expert_idx, _ = npu_moe_gating_top_k_softmax_v2(x, k=6, renorm=1)
    assert_same_bits(expert_idx, np.array([[5, 4, 0, 2, 3, 1]], np.int32))
    assert np.isnan(y).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_three_dimensions_are_two_flattened(dtype):
    x = scores(np.random.default_rng(1), (2, 4, 6), dtype)
    finished = np.random.default_rng(2).random((2, 4)) < 0.5
    for a, b in zip(
        npu_moe_gating_top_k_softmax(x, finished, 2),
        npu_moe_gating_top_k_softmax(x.reshape(8, 6), finished.reshape(8), 2),
        strict=True,
    ):
        assert_same_bits(a, b.reshape(2, 4, 2))


def test_finished_bytes_other_than_one_are_true():
    finished = np.array([0, 2, 255], np.uint8).view(bool)
    assert_same_bits(npu_moe_gating_top_k_softmax(X, finished, 1)[1], np.array([[1], [4], [4]], np.int32))


@pytest.mark.parametrize("name", BOTH)
def test_default_k_is_one(name):
    assert [r.shape for r in BOTH[name](X)][:2] == [(3, 1), (3, 1)]


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("shape", "k"), [((0, 4), 2), ((3, 4), 0), ((3, 0), 0), ((2, 0, 4), 1), ((0, 3, 4), 4)])
def test_empty(name, shape, k):
    x = np.zeros(shape, np.float16)
    y, expert_idx, _ = results = BOTH[name](x, k=k, finished=np.zeros(shape[:-1], bool))
    assert (y.shape, y.dtype) == ((*shape[:-1], k), np.float16)
    assert (expert_idx.shape, expert_idx.dtype) == ((*shape[:-1], k), np.int32)
    if name == "v1":
        assert_same_bits(results[2], np.zeros((*shape[:-1], k), np.int32))
    else:
        all_scores = BOTH[name](x, k=k, output_softmax=True)[2]
        assert_same_bits(all_scores, model.softmax(x))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_strided_and_read_only_inputs(dtype):
    x = scores(np.random.default_rng(3), (5, 37), dtype)
    finished = np.array([True, False, False, True, False])
    seen = npu_moe_gating_top_k_softmax(strided(x), strided(finished), 4)
    assert_all_same_bits(seen, npu_moe_gating_top_k_softmax(x, finished, 4))
    seen = npu_moe_gating_top_k_softmax_v2(strided(x), k=4, finished=strided(finished), output_softmax=True)
    assert_all_same_bits(seen, npu_moe_gating_top_k_softmax_v2(x, k=4, finished=finished, output_softmax=True))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", BOTH)
def test_out_is_written_and_nothing_around_it(name, dtype):
    x = scores(np.random.default_rng(4), (5, 19), dtype)
    options = {"k": 3, "finished": np.zeros(5, bool)}
    third = ((5, 3), np.int32)
    if name == "v2":
        options["output_softmax"] = True
        third = ((5, 19), F32)
    needed = BOTH[name](x, **options)
    outs, checks = zip(*(guarded(*a) for a in [((5, 3), dtype), ((5, 3), np.int32), third]), strict=True)
    results = BOTH[name](x, **options, out=outs)
    for check, result, out in zip(checks, results, outs, strict=True):
        check()
        assert result is out
    assert_all_same_bits(results, needed)
    results = BOTH[name](x, **options, out=(None, outs[1], None))
    assert results[1] is outs[1]
    assert_all_same_bits(results, needed)


X19 = np.zeros((5, 19), F32)
REFUSED = {
    # name: (arguments to replace, exception, status of the core or None, message)
    "x missing": ({"x": None}, TypeError, 161001, "x: missing"),
    "x a list": ({"x": [[1.0]]}, TypeError, None, "x: list"),
    "x float64": ({"x": np.zeros((5, 19))}, TypeError, 161002, "x: dtype float64, needed one of float16"),
    "x int32": ({"x": np.zeros((5, 19), np.int32)}, TypeError, 161002, "x: dtype int32"),
    "finished int8": ({"finished": np.zeros(5, np.int8)}, TypeError, 161002, "finished: dtype int8, needed bool"),
    "finished a list": ({"finished": [False] * 5}, TypeError, None, "finished: list"),
    "x of 1 dimension": ({"x": np.zeros(19, F32)}, ValueError, 561002, "x: shape .19,., needed 2 or 3 dimensions"),
    "x of 4 dimensions": ({"x": np.zeros((1, 1, 5, 19), F32)}, ValueError, 561002, "needed 2 or 3 dimensions"),
    "x of 0 dimensions": ({"x": np.zeros((), F32)}, ValueError, 561002, "needed 2 or 3 dimensions"),
    "finished of 2 dimensions": (
        {"finished": np.zeros((5, 1), bool)},
        ValueError,
        561002,
        r"finished: shape \(5, 1\)",
    ),
    "finished length": ({"finished": np.zeros(4, bool)}, ValueError, 561002, r"finished: shape \(4,\), .* = \(5,\)"),
    "finished for 3 dimensions": (
        {"x": np.zeros((1, 5, 19), F32), "finished": np.zeros(5, bool)},
        ValueError,
        561002,
        r"finished: shape \(5,\), .* = \(1, 5\)",
    ),
    "k negative": ({"k": -1}, ValueError, 561002, "k: -1, needed 0 to 19"),
    "k beyond the experts": ({"k": 20}, ValueError, 561002, "k: 20, needed 0 to 19"),
    "k 1 of no experts": ({"x": np.zeros((5, 0), F32), "k": 1}, ValueError, 561002, "k: 1, needed 0 to 0"),
    "k 1025": ({"x": np.zeros((5, 2000), F32), "k": 1025}, ValueError, 561002, "k: 1025, needed 0 to 1024"),
    "k float": ({"k": 1.0}, TypeError, None, "k: float, needed an int"),
    "k None": ({"k": None}, TypeError, None, "k: NoneType, needed an int"),
    "x too long": (
        {"x": np.broadcast_to(F32(0), (2**31, 1)), "finished": None, "k": 0},
        ValueError,
        561002,
        r"x: shape \(2147483648, 1\)",
    ),
}
REFUSED_V1 = {
    "row_idx beyond int32": (
        {"x": np.broadcast_to(F32(0), (2**30 + 1, 2)), "finished": None, "k": 2},
        ValueError,
        561002,
        "x: 1073741825 rows, needed at most .* 1073741824",
    ),
}
REFUSED_V2 = {
    "renorm 2": ({"renorm": 2}, ValueError, 561002, "renorm: 2, needed 0 or 1"),
    "renorm -1": ({"renorm": -1}, ValueError, 561002, "renorm: -1"),
    "renorm bool": ({"renorm": True}, TypeError, None, "renorm: True, needed an int"),
    "output_softmax int": ({"output_softmax": 1}, TypeError, None, "output_softmax: int, needed a bool"),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [("v1", c) for c in (REFUSED | REFUSED_V1).items()] + [("v2", c) for c in (REFUSED | REFUSED_V2).items()],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_refused(name, case):
    replaced, exception, status, message = case[1]
    outs, checks = zip(*(guarded((5, 3), d) for d in (F32, np.int32, np.int32)), strict=True)
    arguments = {"x": X19, "finished": np.zeros(5, bool), "k": 3} | replaced
    with pytest.raises(exception, match=message) as caught:
        BOTH[name](**arguments, out=outs)
    assert str(caught.value).startswith(f"{BOTH[name].__name__}: ")
    assert getattr(caught.value, "status", None) == status
    for out, check in zip(outs, checks, strict=True):
        assert is_untouched(out)
        check()


def test_k_1024_and_all_of_many_experts():
    x = scores(np.random.default_rng(5), (2, 1500), np.dtype(F32))
    assert_all_same_bits(npu_moe_gating_top_k_softmax(x, None, 1024), model.gating_top_k_softmax(x, None, 1024))


def test_bad_out():
    x = np.zeros((5, 19), F32)
    good = {"y": np.zeros((5, 3), F32), "expert_idx": np.zeros((5, 3), np.int32), "row_idx": np.zeros((5, 3), np.int32)}
    for name, bad in [
        ("y", np.zeros((5, 3), np.float16)),
        ("y", np.zeros((3, 5), F32)),
        ("y", np.zeros((5, 6), F32)[:, ::2]),
        ("y", read_only(np.zeros((5, 3), F32))),
        ("y", x[:, :3]),
        ("y", x.reshape(-1)[:15].reshape(5, 3)),
        ("expert_idx", np.zeros((5, 3), np.int64)),
        ("row_idx", np.zeros((5, 3), np.int64)),
        ("row_idx", good["expert_idx"]),
    ]:
        before = bad.copy()
        with pytest.raises(ValueError, match=f"npu_moe_gating_top_k_softmax: out: .*({name}|expert_idx)"):
            npu_moe_gating_top_k_softmax(x, None, 3, out=tuple((good | {name: bad}).values()))
        assert_same_bits(bad, before)
    with pytest.raises(TypeError, match="out: list"):
        npu_moe_gating_top_k_softmax(x, None, 3, out=list(good.values()))
    with pytest.raises(ValueError, match="out: 2 entries, needed 3"):
        npu_moe_gating_top_k_softmax(x, None, 3, out=(None, None))


def test_finished_changes_nothing_but_the_experts():
    seen = npu_moe_gating_top_k_softmax_v2(X, k=2, finished=FINISHED, output_softmax=True)
    needed = npu_moe_gating_top_k_softmax_v2(X, k=2, output_softmax=True)
    assert_same_bits(seen[0], needed[0])
    assert_same_bits(seen[1], np.array([[1, 3], [4, 4], [0, 1]], np.int32))
    assert_same_bits(seen[2], needed[2])


def test_row_idx_is_the_oracles():
    for shape in [(1, 5), (7, 5), (3, 4, 5)]:
        for k in (1, 5):
            seen = npu_moe_gating_top_k_softmax(np.zeros(shape, F32), None, k)[2]
            assert_same_bits(seen, moe_gating_top_k_softmax(np.zeros(shape), None, k)[2])
