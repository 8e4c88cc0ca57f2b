"""The gating operators: what must hold whatever the numbers are."""

import numpy as np
import pytest

import moe_native
from moe_native import (
    npu_ffn,
    npu_moe_compute_expert_tokens,
    npu_moe_gating_top_k,
    npu_moe_gating_top_k_softmax,
    npu_moe_gating_top_k_softmax_v2,
    set_num_threads,
)
from moe_native.testing import assert_same_bits, bfloat16, instruction_sets

FLOATS = [np.dtype(np.float32), np.dtype(np.float16), bfloat16]
GROUPS = {"group_count": 8, "k_group": 4, "group_select_mode": 1, "norm_type": 1, "out_flag": True}
BIAS = np.random.default_rng(1).normal(scale=0.1, size=256)

OPERATORS = {
    "softmax": lambda x: npu_moe_gating_top_k_softmax(x, None, 8)[:2],  # row_idx depends on the number of rows
    "softmax v2": lambda x: npu_moe_gating_top_k_softmax_v2(x, k=8, output_softmax=True),
    "softmax v2, renorm 1": lambda x: npu_moe_gating_top_k_softmax_v2(x, k=8, renorm=1)[:2],
    "top k": lambda x: npu_moe_gating_top_k(x, 8, bias=BIAS.astype(x.dtype), **GROUPS),
    "top k, softmax": lambda x: npu_moe_gating_top_k(x, 8, bias=BIAS.astype(x.dtype), **(GROUPS | {"norm_type": 0})),
}


@pytest.fixture(params=FLOATS, ids=str)
def x(request):
    """Enough rows that every thread gets a share, with ties (rounded values) and rows that are not finite."""
    x = np.round(np.random.default_rng(0).normal(scale=2, size=(600, 256)) * 16) / 16
    x[::97, 3] = np.nan
    return x.astype(request.param)


def assert_all_same_bits(seen, needed):
    assert len(seen) == len(needed)
    for a, b in zip(seen, needed, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("name", OPERATORS)
def test_any_number_of_threads(name, x):
    try:
        set_num_threads(1)
        needed = OPERATORS[name](x)
        for threads in (2, 3, 7):
            set_num_threads(threads)
            assert_all_same_bits(OPERATORS[name](x), needed)
    finally:
        set_num_threads(0)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_instruction_set(name, x):
    needed = OPERATORS[name](x)
    for isa in instruction_sets():
        with moe_native.isa_limit(isa):
            assert_all_same_bits(OPERATORS[name](x), needed)


@pytest.mark.parametrize("name", OPERATORS)
def test_split_batch(name, x):
    whole = OPERATORS[name](x)
    for begin, end in [(0, 1), (1, 250), (250, 600)]:
        assert_all_same_bits(OPERATORS[name](x[begin:end]), [r[begin:end] if r.size else r for r in whole])


@pytest.mark.parametrize("name", OPERATORS)
def test_permuted_rows(name, x):
    whole = OPERATORS[name](x)
    order = np.random.default_rng(2).permutation(len(x))
    assert_all_same_bits(OPERATORS[name](x[order]), [r[order] if r.size else r for r in whole])


@pytest.mark.parametrize("name", ["softmax v2, renorm 1", "top k"])
def test_relabelled_experts(name):
    # Without ties and with scores that do not depend on the order of the experts. Whole groups move.
    values = np.random.default_rng(3).permuted(np.tile(np.linspace(-4, 4, 256), (100, 1)), axis=1)
    x = values.astype(np.float32)
    label = np.random.default_rng(4).permutation(8)
    label = (label[:, None] * 32 + np.arange(32)).reshape(-1)
    moved = np.empty_like(x)
    moved[:, label] = x
    if name == "top k":
        bias = BIAS.astype(np.float32)
        moved_bias = np.empty_like(bias)
        moved_bias[label] = bias
        needed = npu_moe_gating_top_k(x, 8, bias=bias, **GROUPS)
        seen = npu_moe_gating_top_k(moved, 8, bias=moved_bias, **GROUPS)
        assert_same_bits(seen[2][:, label], needed[2])
    else:
        needed, seen = OPERATORS[name](x), OPERATORS[name](moved)
    assert_same_bits(seen[0], needed[0])
    assert_same_bits(seen[1], label[needed[1]].astype(np.int32))


@pytest.mark.parametrize("name", OPERATORS)
def test_experts_of_a_row_are_different(name, x):
    expert_idx = OPERATORS[name](x)[1]
    assert (np.diff(np.sort(expert_idx, axis=1), axis=1) > 0).all()
    assert ((expert_idx >= 0) & (expert_idx < 256)).all()


def test_cumulative_counts_are_the_running_sum_of_the_counts(x):
    finished = np.arange(len(x)) % 5 == 0
    expert_idx = npu_moe_gating_top_k_softmax(x, finished, 8)[1]
    ends = npu_moe_compute_expert_tokens(np.sort(expert_idx.reshape(-1)), 256)
    assert_same_bits(ends, np.cumsum(np.bincount(expert_idx.reshape(-1), minlength=257)[:256]).astype(np.int32))
    assert ends[-1] == 8 * np.count_nonzero(~finished)


def test_cumulative_counts_are_what_npu_ffn_takes():
    # Small integers: the products are exact. Expert 5 stands for finished rows, which are cut off; 0 and 3 are empty.
    rng = np.random.default_rng(5)
    expert = np.sort(rng.choice([1, 2, 4, 5], 40)).astype(np.int32)
    rows, w1, w2 = (rng.integers(-4, 5, shape).astype(np.float32) for shape in [(40, 6), (5, 6, 8), (5, 8, 3)])
    ends = npu_moe_compute_expert_tokens(expert, 5)
    seen = npu_ffn(rows[: ends[-1]], w1, w2, "relu", expert_tokens_index=ends)
    assert 0 < len(seen) < 40
    for row, e, result in zip(rows, expert, seen, strict=False):
        np.testing.assert_array_equal(result, np.maximum(row @ w1[e], 0) @ w2[e])
