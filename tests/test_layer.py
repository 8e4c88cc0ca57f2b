"""A whole MoE layer, operator after operator, against a dense evaluation: each token goes through its own experts.

The dense side is written in float64 per token and knows nothing of sorting, groups or scatter indices. It also
follows what float32 may add: u is the unit roundoff, ``gamma(k) = k u / (1 - k u)`` bounds k roundings, and an int8
code whose quotient is within its error of a half may be either neighbour.
"""

import numpy as np
import pytest

import moe_native
from moe_native.testing import assert_same_bits, bfloat16

U = 2.0**-24
# Relative rounding of a store in each dtype, beyond float32, and half of its smallest subnormal where that matters.
STORE = {"float32": (0.0, 0.0), "float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 0.0)}
TOKENS, HIDDEN, INTER, EXPERTS, TOP_K = 37, 70, 33, 12, 3


def gamma(k):
    return k * U / (1 - k * U)


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def layer(request):
    rng = np.random.default_rng(7)
    dtype = bfloat16 if request.param == "bfloat16" else np.dtype(request.param)
    x = rng.standard_normal((TOKENS, HIDDEN)).astype(dtype)
    logits = rng.standard_normal((TOKENS, EXPERTS), dtype=np.float32)
    logits[:, 4] += 2  # A popular expert,
    logits[:, 9] -= 50  # and one that nobody chooses.
    return {
        "x": x,
        "logits": logits,
        "w1": rng.integers(-128, 128, (EXPERTS, HIDDEN, 2 * INTER), dtype=np.int8),
        "w2": rng.integers(-128, 128, (EXPERTS, INTER, HIDDEN), dtype=np.int8),
        "w1_scale": rng.uniform(1e-3, 3e-3, (EXPERTS, 2 * INTER)).astype(np.float32),
        "w2_scale": rng.uniform(1e-3, 3e-3, (EXPERTS, HIDDEN)).astype(np.float32),
        # The same layer without quantisation.
        "f1": (rng.standard_normal((EXPERTS, HIDDEN, INTER)) / HIDDEN**0.5).astype(dtype),
        "f2": (rng.standard_normal((EXPERTS, INTER, HIDDEN)) / INTER**0.5).astype(dtype),
        "b1": rng.standard_normal((EXPERTS, INTER)).astype(dtype),
        "b2": rng.standard_normal((EXPERTS, HIDDEN)).astype(dtype),
    }


def dense(layer):
    """Results (TOKENS, HIDDEN) in float64, and how far a float32 evaluation may be off."""
    y, bound = np.zeros((2, TOKENS, HIDDEN))
    for t in range(TOKENS):
        s = 1 / (1 + np.exp(-layer["logits"][t].astype(np.float64)))
        chosen = np.argsort(-s, kind="stable")[:TOP_K]
        weight = s[chosen] / s[chosen].sum()
        # The codes of the input are exact: one float32 division for the scale, one for each quotient.
        x = layer["x"][t].astype(np.float32)
        scale = np.abs(x).max() / np.float32(127)
        codes = np.rint(x / scale).astype(np.int64)
        size = np.zeros(HIDDEN)
        for e, w in zip(chosen, weight, strict=True):
            c = (codes @ layer["w1"][e]) * layer["w1_scale"][e].astype(np.float64) * float(scale)
            a, b = c[:INTER], c[INTER:]
            h = a / (1 + np.exp(-a)) * b
            # Three roundings in each of a and b; silu turns a relative error d into at most (1 + |a|) d and adds
            # four (exp within one ulp, sum, quotient), the product one.
            h_error = gamma(3 * np.abs(a) + 11) * np.abs(h)
            h_scale = np.abs(h).max() / 127
            scale_error = h_error.max() / np.abs(h).max() + U
            q = h / h_scale
            q_error = h_error / h_scale + (scale_error + U) * np.abs(q)
            tie = np.abs(np.abs(q - np.floor(q)) - 0.5) <= q_error
            w2 = layer["w2"][e].astype(np.float64) * layer["w2_scale"][e] * h_scale * w
            term = np.rint(q) @ w2
            y[t] += term
            size += np.abs(term)
            # Gate: 4 + 4 + TOP_K + 2; conversion, three products.
            bound[t] += (scale_error + gamma(TOP_K + 10 + 4)) * np.abs(term) + tie @ np.abs(w2)
        bound[t] += gamma(TOP_K) * size
    return y, bound


def nz(weights):
    return moe_native.npu_format_cast(weights, 29)


def run(layer, first=0, last=EXPERTS, weights=nz):
    """The share of the experts in ``[first, last)``."""
    gate, expert_idx, _ = moe_native.npu_moe_gating_top_k(layer["logits"], TOP_K, norm_type=1)
    rows, source, counts, row_scale = moe_native.npu_moe_init_routing_v2(
        layer["x"],
        expert_idx,
        expert_num=EXPERTS,
        expert_tokens_num_type=1,
        expert_tokens_num_flag=True,
        quant_mode=1,
        active_expert_range=[first, last],
        row_idx_type=1,
    )
    act, act_scale, _ = moe_native.npu_grouped_matmul_swiglu_quant(
        rows, weights(layer["w1"][first:last]), counts.cumsum(), layer["w1_scale"][first:last], row_scale
    )
    return moe_native.npu_grouped_matmul_finalize_routing(
        act,
        weights(layer["w2"][first:last]),
        counts,
        scale=layer["w2_scale"][first:last],
        pertoken_scale=act_scale,
        logit=gate.ravel()[source],
        row_index=(source // TOP_K).astype(np.int64),
        output_bs=len(layer["x"]),
    )


def test_layer_equals_dense(layer):
    y, bound = dense(layer)
    assert (np.abs(run(layer) - y) <= bound).all()
    # The bound says something: with no ties it is a few units in the last place of the terms.
    assert np.median(bound) < 1e-6 * np.abs(y).max()


@pytest.mark.parametrize("ranks", [2, 4])
def test_sum_of_the_ranks_equals_dense(layer, ranks):
    """Every rank computes its own experts for all tokens; what they send back adds up."""
    y, bound = dense(layer)
    share = EXPERTS // ranks
    parts = [run(layer, first, first + share) for first in range(0, EXPERTS, share)]
    assert (np.abs(np.sum(parts, axis=0, dtype=np.float64) - y) <= bound).all()


def test_plain_weights_and_threads_give_the_same_bits(layer):
    needed = run(layer)
    moe_native.set_num_threads(1)
    try:
        assert_same_bits(run(layer, weights=lambda w: w), needed)
    finally:
        moe_native.set_num_threads(0)


def test_split_batch(layer):
    """Tokens do not know of each other."""
    whole = run(layer)
    for begin, end in [(0, 1), (1, 20), (20, TOKENS)]:
        part = layer | {"x": layer["x"][begin:end], "logits": layer["logits"][begin:end]}
        assert_same_bits(run(part), whole[begin:end])


def dense_float(layer):
    """The layer without quantisation: softmax gate, silu between two products with biases."""
    store, tiny = STORE[layer["x"].dtype.name]
    y, bound = np.zeros((2, TOKENS, HIDDEN))
    for t in range(TOKENS):
        logits = layer["logits"][t].astype(np.float64)
        p = np.exp(logits - logits.max())
        p /= p.sum()
        # The rounding of a difference is a relative error of its exp, which adds two units; then the sum, a quotient.
        p_error = gamma(2 * (np.ptp(logits) + 2) + EXPERTS)
        x = layer["x"][t].astype(np.float64)
        size = np.zeros(HIDDEN)
        for e in np.argsort(-p, kind="stable")[:TOP_K]:
            f1, f2, b1, b2 = (layer[name][e].astype(np.float64) for name in ("f1", "f2", "b1", "b2"))
            c = x @ f1 + b1
            c_error = gamma(HIDDEN + 1) * (np.abs(x) @ np.abs(f1) + np.abs(b1))
            a = c / (1 + np.exp(-c))
            a_error = 1.1 * c_error + gamma(4) * np.abs(a)  # silu is nowhere steeper than 1.1
            a_error += store * (np.abs(a) + a_error) + tiny
            h = a @ f2
            h_error = gamma(INTER + 1) * ((np.abs(a) + a_error) @ np.abs(f2) + np.abs(b2)) + a_error @ np.abs(f2)
            h_error += store * (np.abs(h) + np.abs(b2) + h_error) + tiny
            y[t] += p[e] * (h + b2)
            size += p[e] * (np.abs(h + b2) + h_error)
            bound[t] += p[e] * h_error
        bound[t] += (p_error + gamma(TOP_K + 1)) * size
        bound[t] += store * (np.abs(y[t]) + bound[t]) + tiny
    return y, bound


def wide_bias(layer, name):
    """npu_ffn takes float32 biases with bfloat16 rows."""
    return layer[name].astype(np.float32) if layer["x"].dtype == bfloat16 else layer[name]


def run_with_indices(layer):
    """Sorted by index arrays; the second bias is added where the experts are combined."""
    gate, expert_idx, _ = moe_native.npu_moe_gating_top_k_softmax(layer["logits"], k=TOP_K)
    rows, row_of, counts, _ = moe_native.npu_moe_init_routing_v2(
        layer["x"], expert_idx, expert_num=EXPERTS, expert_tokens_num_type=1, expert_tokens_num_flag=True
    )
    h = moe_native.npu_ffn(rows, layer["f1"], layer["f2"], "silu", counts, wide_bias(layer, "b1"))
    return moe_native.npu_moe_finalize_routing(h, None, None, layer["b2"], gate, row_of, expert_idx, drop_pad_mode=2)


def run_with_map(layer):
    """Sorted by a routing map."""
    gate, expert_idx, _ = moe_native.npu_moe_gating_top_k_softmax(layer["logits"], k=TOP_K)
    probs = np.zeros((TOKENS, EXPERTS), np.float32)
    np.put_along_axis(probs, expert_idx.astype(np.int64), gate, axis=1)
    routing_map = probs != 0
    rows, _, index = moe_native.npu_moe_token_permute_with_routing_map(layer["x"], routing_map)
    h = moe_native.npu_ffn(
        rows,
        layer["f1"],
        layer["f2"],
        "silu",
        bias1=wide_bias(layer, "b1"),
        bias2=wide_bias(layer, "b2"),
        expert_tokens_index=routing_map.sum(axis=0).cumsum(),
    )
    return moe_native.npu_moe_token_unpermute_with_routing_map(
        h, index, (TOKENS, HIDDEN), probs=probs, routing_map=routing_map
    )


@pytest.mark.parametrize("run", [run_with_indices, run_with_map])
def test_float_layer_equals_dense(layer, run):
    y, bound = dense_float(layer)
    seen = run(layer)
    assert seen.dtype == layer["x"].dtype
    assert (np.abs(seen.astype(np.float64) - y) <= bound).all()
    # A wrong weight or a wrong expert is far outside the bound.
    assert np.median(bound) < {"float32": 1e-4, "float16": 1e-3, "bfloat16": 0.01}[seen.dtype.name] * np.abs(y).max()
