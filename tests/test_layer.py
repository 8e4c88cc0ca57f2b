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
TOKENS, HIDDEN, INTER, EXPERTS, TOP_K = 37, 70, 33, 12, 3


def gamma(k):
    return k * U / (1 - k * U)


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def layer(request):
    rng = np.random.default_rng(7)
    x = rng.standard_normal((TOKENS, HIDDEN)).astype(bfloat16 if request.param == "bfloat16" else request.param)
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
    assert np.median(bound) < 1e-4 * np.abs(y).max()


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
