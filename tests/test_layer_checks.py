"""The checks of `moe-native` against float32 models of the steps in NumPy: right results pass, wrong ones do not."""

import numpy as np
import pytest

from moe_native.cli import checks

F32 = np.float32
E, FIRST, LAST, TOP_K, GROUPS, KEPT = 32, 8, 16, 4, 4, 2
GATE = {"k": TOP_K, "k_group": KEPT, "group_count": GROUPS, "routed_scaling_factor": 2.5, "eps": 1e-20}
TOKENS, K, HALF, N = 96, 70, 33, 45


def exp32(x):
    return np.exp(x.astype(np.float64)).astype(F32)


def quantise(y):
    """Codes and scale of each float32 row."""
    scale = np.abs(y).max(axis=1) / F32(127)
    with np.errstate(invalid="ignore", divide="ignore"):
        codes = np.where(scale[:, None] > 0, np.clip(np.rint(y / scale[:, None]), -128, 127), 0)
    return codes.astype(np.int8), scale


def gating(logits, bias):
    s = F32(1) / (F32(1) + exp32(-logits))
    v = s + bias
    two = np.sort(v.reshape(len(v), GROUPS, -1), axis=2)[..., -2:]
    best = np.argsort(-(two[..., 0] + two[..., 1]), axis=1, kind="stable")[:, :KEPT]
    kept = (best[:, :, None] == np.arange(E) // (E // GROUPS)).any(axis=1)
    idx = np.argsort(np.where(kept, -v, np.inf), axis=1, kind="stable")[:, :TOP_K].astype(np.int32)
    y = np.take_along_axis(s, idx, axis=1)
    return y / (y.sum(axis=1, keepdims=True, dtype=F32) + F32(1e-20)) * F32(2.5), idx


def init_routing(x, expert_idx):
    flat = expert_idx.ravel()
    order = np.argsort(np.where(flat < FIRST, 2**31 - 1, flat), kind="stable").astype(np.int32)
    counts = np.array([(flat == e).sum() for e in range(FIRST, LAST)], np.int64)
    rows, scale = quantise(x.astype(F32)[order // TOP_K])
    rows[counts.sum() :] = 0
    scale[counts.sum() :] = 0
    return rows, order, counts, scale


def swiglu_quant(x, w, counts, w_scale, x_scale):
    expert = np.repeat(np.arange(len(counts)), counts)
    output, scale = np.zeros((len(x), HALF), np.int8), np.zeros(len(x), F32)
    acc = np.array([row.astype(np.int64) @ w[e] for row, e in zip(x, expert, strict=False)])
    c = acc.astype(F32) * w_scale[expert] * x_scale[: len(expert), None]
    a, b = c[:, :HALF], c[:, HALF:]
    output[: len(expert)], scale[: len(expert)] = quantise(a / (F32(1) + exp32(-a)) * b)
    return output, scale


def finalize_routing(x, w, counts, w_scale, x_scale, logit, row_index):
    y = np.zeros((TOKENS, N), F32)
    for i, e in enumerate(np.repeat(np.arange(len(counts)), counts)):
        acc = x[i].astype(np.int64) @ w[e]
        y[row_index[i]] += acc.astype(F32) * w_scale[e] * x_scale[i] * logit[i]
    return y


@pytest.fixture
def layer():
    """Inputs and outputs of each step, by the name of its check; each test may spoil its own."""
    rng = np.random.default_rng(20)
    x = rng.standard_normal((TOKENS, K)).astype(np.float16)
    logits = rng.standard_normal((TOKENS, E)).astype(F32)
    bias = np.concatenate([rng.permutation(-0.2 * np.log1p(np.arange(8))) for _ in range(GROUPS)]).astype(F32)
    w1 = rng.integers(-128, 128, (LAST - FIRST, K, 2 * HALF), dtype=np.int8)
    w2 = rng.integers(-128, 128, (LAST - FIRST, HALF, N), dtype=np.int8)
    w1_scale = rng.uniform(1e-3, 3e-3, (LAST - FIRST, 2 * HALF)).astype(F32)
    w2_scale = rng.uniform(1e-3, 3e-3, (LAST - FIRST, N)).astype(F32)
    y, idx = gating(logits, bias)
    rows, order, counts, scale = init_routing(x, idx)
    assert counts.min() < counts.max() / 4, "the histogram is skewed"
    act, act_scale = swiglu_quant(rows, w1, counts, w1_scale, scale)
    source = (order // TOP_K).astype(np.int64)
    logit = y.ravel()[order]
    return {
        "gating": {"logits": logits, "bias": bias, "y": y, "expert_idx": idx},
        "init_routing": {
            "x": x,
            "expert_idx": idx,
            "expanded_x": rows,
            "row_idx": order,
            "counts": counts,
            "scale": scale,
        },
        "swiglu_quant": {
            "x": rows,
            "weights": w1.copy(),
            "group_list": counts.cumsum(),
            "weight_scale": w1_scale,
            "x_scale": scale,
            "output": act,
            "output_scale": act_scale,
        },
        "finalize_routing": {
            "x": act,
            "weights": w2.copy(),
            "counts": counts,
            "scale": w2_scale,
            "pertoken_scale": act_scale,
            "logit": logit,
            "row_index": source,
            "y": finalize_routing(act, w2, counts, w2_scale, act_scale, logit, source),
        },
    }


def verdict_of(step, arrays, tokens=None):
    tokens = np.arange(TOKENS) if tokens is None else tokens
    arrays = dict(arrays)
    if "weights" in arrays:
        arrays["weights"] = arrays["weights"].__getitem__
    if step == "gating":
        return checks.gating(**arrays, **GATE)
    if step == "init_routing":
        return checks.init_routing(**arrays, active=(FIRST, LAST), tokens=tokens)
    if step == "swiglu_quant":
        return checks.swiglu_quant(**arrays, rows=np.arange(arrays["group_list"][-1]))
    return checks.finalize_routing(**arrays, tokens=tokens)


STEPS = ["gating", "init_routing", "swiglu_quant", "finalize_routing"]


@pytest.mark.parametrize("step", STEPS)
def test_right_results_pass(layer, step):
    verdict = verdict_of(step, layer[step])
    assert verdict.problem == ""
    assert verdict.rows >= 64
    assert verdict.worst <= 1


@pytest.mark.parametrize("step", STEPS)
def test_a_sample_of_tokens_passes(layer, step):
    assert verdict_of(step, layer[step], tokens=np.arange(0, TOKENS, 7)).ok


def bump(array, at):
    """The next float, or the next integer that is not a saturated code."""
    if array.dtype.kind == "f":
        array[at] *= F32(1 + 2.0**-15)
    else:
        array[at] += -1 if array[at] > 0 else 1


@pytest.mark.parametrize(
    ("step", "name", "at"),
    [
        ("gating", "y", (95, 3)),
        ("gating", "expert_idx", (17, 0)),
        ("init_routing", "expanded_x", (0, 69)),
        ("init_routing", "expanded_x", (-1, 0)),
        ("init_routing", "row_idx", 0),
        ("init_routing", "row_idx", -1),
        ("init_routing", "counts", 7),
        ("init_routing", "scale", 3),
        ("swiglu_quant", "output", (0, 0)),
        ("swiglu_quant", "output", (-1, 0)),
        ("swiglu_quant", "output_scale", 5),
        ("finalize_routing", "y", (40, 44)),
    ],
)
def test_one_wrong_element_fails(layer, step, name, at):
    array = layer[step][name]
    if name == "y" and step == "finalize_routing":
        at = tuple(np.argwhere(array)[-1])
    bump(array, at)
    verdict = verdict_of(step, layer[step])
    assert not verdict.ok
    assert name in verdict.problem or "beyond" in verdict.problem


@pytest.mark.parametrize("step", STEPS)
def test_nan_and_wrong_shapes_fail(layer, step):
    name = {"gating": "y", "init_routing": "scale", "swiglu_quant": "output_scale", "finalize_routing": "y"}[step]
    right = layer[step][name]
    layer[step][name] = right.copy()
    layer[step][name].flat[0] = np.nan
    assert not verdict_of(step, layer[step]).ok
    layer[step][name] = right[..., :-1]
    assert not verdict_of(step, layer[step]).ok
    layer[step][name] = right.astype(np.float64)
    assert not verdict_of(step, layer[step]).ok


@pytest.mark.parametrize("step", ["swiglu_quant", "finalize_routing"])
def test_one_flipped_weight_fails(layer, step):
    """A weight whose sign bit differs between operator and check shows, wherever it changes the result at all."""
    arrays = layer[step]
    counts = layer["init_routing"]["counts"]
    model, results, scales = {
        "swiglu_quant": (swiglu_quant, ("output", "output_scale"), ("weight_scale", "x_scale")),
        "finalize_routing": (finalize_routing, ("y",), ("scale", "pertoken_scale", "logit", "row_index")),
    }[step]
    right = [arrays[name] for name in results]
    rng = np.random.default_rng(3)
    changed = 0
    for _ in range(60):
        spoilt = arrays["weights"].copy()
        at = tuple(int(rng.integers(size)) for size in spoilt.shape)
        spoilt[at] ^= -128
        wrong = model(arrays["x"], spoilt, counts, *(arrays[name] for name in scales))
        wrong = wrong if isinstance(wrong, tuple) else (wrong,)
        changes = any((a != b).any() for a, b in zip(right, wrong, strict=True))
        assert verdict_of(step, arrays | dict(zip(results, wrong, strict=True))).ok != changes, at
        changed += changes
    assert changed > 40


def test_rows_swapped_between_experts_fail(layer):
    arrays = layer["swiglu_quant"]
    arrays["weights"] = arrays["weights"][::-1]
    assert not verdict_of("swiglu_quant", arrays).ok


def test_ties_are_counted_not_failed():
    """A code on either side of a half is a tie; the same distance away from a half is wrong."""
    verdict = checks.Verdict()
    error = np.full((1, 3), 1e-6)
    verdict.codes("q", np.array([[3, 4, -2]], np.int8), np.array([[3.5000005, 3.5, -1.5 - 5e-7]]), error)
    assert verdict.ok
    assert verdict.ties == 1
    verdict.codes("q", np.array([[3, 4, -2]], np.int8), np.array([[3.50001, 3.5, -1.5]]), error)
    assert not verdict.ok
    assert "q[0, 0] is 3, needed 4" in verdict.problem


def test_saturated_codes():
    verdict = checks.Verdict()
    verdict.codes("q", np.array([[127, -128]], np.int8), np.array([[127.9, -140.0]]), np.zeros((1, 2)))
    assert verdict.ok
    assert verdict.ties == 0


def test_gating_ties_of_float32_are_counted():
    """Two experts whose order float32 cannot see may come in either order, but not a third before them."""
    logits = np.full((1, 8), -5, F32)
    logits[0, :3] = [1, 1, 2]
    bias = np.zeros(8, F32)
    bias[1] = 2.0**-26
    gate = {"k": 2, "k_group": 1, "group_count": 2, "routed_scaling_factor": 1.0, "eps": 0.0}
    s = 1 / (1 + np.exp(-np.array([2.0, 1.0])))
    y = (s / s.sum()).astype(F32)[None]
    for second, ok, ties in ((1, True, 0), (0, True, 1), (3, False, 0)):
        verdict = checks.gating(logits, bias, y, np.array([[2, second]], np.int32), **gate)
        assert (verdict.ok, verdict.ties) == (ok, ties), second


def test_gating_ties_of_groups_are_counted():
    """Where two groups score alike, the experts of either are right."""
    logits = np.zeros((1, 8), F32)
    bias = np.zeros(8, F32)
    bias[4] = 2.0**-27
    gate = {"k": 2, "k_group": 1, "group_count": 2, "routed_scaling_factor": 1.0, "eps": 0.0}
    y = np.full((1, 2), 0.5, F32)
    for chosen, ok, ties in (([4, 5], True, 0), ([0, 1], True, 1), ([0, 4], False, 0), ([0, 0], False, 0)):
        verdict = checks.gating(logits, bias, y, np.array([chosen], np.int32), **gate)
        assert (verdict.ok, verdict.ties) == (ok, ties), chosen


@pytest.mark.parametrize(("k", "n"), [(1, 1), (15, 31), (16, 32), (17, 33), (40, 70)])
def test_format_cast(k, n):
    rng = np.random.default_rng(k)
    plain = rng.integers(-128, 128, (k, n), dtype=np.int8)
    storage = np.zeros((-(-n // 32), -(-k // 16), 16, 32), np.int8)
    for i in range(k):
        for j in range(n):
            storage[j // 32, i // 16, i % 16, j % 32] = plain[i, j]
    rows = np.arange(k)
    assert checks.format_cast(plain, storage, rows).ok
    storage[0, 0, 0, 0] ^= 1
    assert not checks.format_cast(plain, storage, rows).ok
    assert not checks.format_cast(plain, storage[..., ::2], rows).ok


def test_product_is_exact():
    """Worst case signs at a real k."""
    x = np.full((2, 7168), -128, np.int8)
    x[1, ::2] = 127
    w = np.full((7168, 3), -128, np.int8)
    w[:, 1] = 127
    w[5, 2] = 1
    wanted = x.astype(np.int64) @ w.astype(np.int64)
    assert (checks.product(x, w) == wanted).all()
