"""The definition of the group-limited gating against numbers worked out by hand."""

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from moe_native.oracle.gating import moe_gating_top_k

# The numbers below two were computed in float32 (two roundings granted) and printed with seven decimals.
PRINTED = {"rtol": 0, "atol": 2 * 2**-23 + 0.5e-7}

X = np.array([[0, 1, 2, -1, 3, 0.5, -2, 1.5]], np.float32)
BIAS = np.array([0.5, 0, 0, 0.4, -0.9, 0, 0.6, 0], np.float32)
PAIRS = {"bias": BIAS, "group_count": 4, "norm_type": 1, "routed_scaling_factor": 2.5}


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize(
    ("k_group", "experts", "weights"),
    [(2, [0, 2], [0.9052742, 1.5947257]), (1, [0, 1], [1.0153863, 1.4846137])],
)
def test_worked_example(mode, k_group, experts, weights):
    y, expert_idx, norm_out = moe_gating_top_k(X, 2, k_group=k_group, group_select_mode=mode, **PAIRS)
    assert_array_equal(expert_idx, [experts])
    assert_allclose(y, [weights], **PRINTED)
    assert y.dtype == np.float64
    assert expert_idx.dtype == np.int32
    assert_array_equal(norm_out, np.zeros((1, 8)))


def test_scores_of_the_worked_example():
    s = moe_gating_top_k(X, 1, out_flag=True, **PAIRS)[2]
    pairs = (s + BIAS).reshape(4, 2)
    assert_allclose(pairs.max(1), [1.0, 0.8808, 0.6225, 0.8176], rtol=0, atol=0.5e-4)
    assert_allclose(pairs.sum(1), [1.7311, 1.5497, 0.6750, 1.5368], rtol=0, atol=0.5e-4)
    assert np.argmax(s) == 4  # the bias, not the score, keeps expert 4 out


@pytest.mark.parametrize(
    ("mode", "experts", "weights"),
    [(0, [0, 1], [0.9924587, 0.0075413]), (1, [2, 3], [0.5080206, 0.4919794])],
)
def test_select_modes_differ(mode, experts, weights):
    x = np.array([[2, -5, 0.8, 0.7, -1, -1]], np.float32)
    y, expert_idx, _ = moe_gating_top_k(
        x, 2, bias=np.zeros(6, np.float32), group_count=3, k_group=1, group_select_mode=mode, norm_type=1
    )
    assert_array_equal(expert_idx, [experts])
    assert_allclose(y, [weights], **PRINTED)


def test_ties():
    y, expert_idx, _ = moe_gating_top_k(np.ones((1, 8), np.float32), 2, k_group=2, **PAIRS)
    assert_array_equal(expert_idx, [[6, 0]])
    assert_allclose(y, [[1.25, 1.25]], rtol=1e-15)


@pytest.mark.parametrize(
    ("bias", "factor", "experts", "weights"),
    [(None, 1, [2, 1], [0.6439143, 0.2368828]), ([1, 0, 0, 0], 2, [0, 2], [0.1742886, 1.2878286])],
)
def test_softmax(bias, factor, experts, weights):
    x = np.array([[0, 1, 2, -1]], np.float32)
    bias = None if bias is None else np.array(bias, np.float32)
    y, expert_idx, _ = moe_gating_top_k(x, 2, bias=bias, routed_scaling_factor=factor)
    assert_array_equal(expert_idx, [experts])
    assert_allclose(y, [weights], **PRINTED)


@pytest.mark.parametrize(("group_count", "k_group"), [(1, 1), (4, 4), (8, 8)])
def test_all_groups_kept_is_no_grouping(group_count, k_group):
    y, expert_idx, _ = moe_gating_top_k(
        X, 3, bias=BIAS, group_count=group_count, k_group=k_group, norm_type=1
    )
    assert_array_equal(expert_idx, [[0, 2, 7]])
    s = 1 / (1 + np.exp(-np.array([0, 2, 1.5])))
    assert_allclose(y, [s / s.sum()], rtol=1e-15)


def test_one_expert_a_group():
    # Scores 0.5, 0.73, 0.88, 0.27: the two best groups are the two best experts.
    x = np.array([[0, 1, 2, -1]], np.float32)
    assert_array_equal(moe_gating_top_k(x, 2, group_count=4, k_group=2, norm_type=1)[1], [[2, 1]])


def test_ties_between_groups_and_experts():
    x = np.zeros((1, 6), np.float32)
    for mode in (0, 1):
        got = moe_gating_top_k(x, 3, group_count=3, k_group=2, group_select_mode=mode, norm_type=1)
        assert_array_equal(got[1], [[0, 1, 2]])


def test_every_expert_of_the_kept_groups():
    # A bias below -1 makes the biased scores negative: a dropped group must lose all the same.
    bias = np.array([-2, -3, -5, -5], np.float32)
    expert_idx = moe_gating_top_k(
        np.zeros((1, 4), np.float32), 2, bias=bias, group_count=2, k_group=1, norm_type=1
    )[1]
    assert_array_equal(expert_idx, [[0, 1]])


def test_no_bias_is_a_zero_bias():
    with_zeros = moe_gating_top_k(X, 3, bias=np.zeros(8, np.float32), norm_type=1, out_flag=True)
    for a, b in zip(with_zeros, moe_gating_top_k(X, 3, norm_type=1, out_flag=True), strict=True):
        assert_array_equal(a, b)


def test_eps_and_factor():
    x = np.array([[-np.inf, -np.inf, -np.inf]], np.float32)
    assert_array_equal(moe_gating_top_k(x, 2, norm_type=1)[0], [[0, 0]])
    assert_array_equal(moe_gating_top_k(X, 2, norm_type=1, routed_scaling_factor=0.0)[0], [[0, 0]])
    y = moe_gating_top_k(np.zeros((1, 4), np.float32), 2, norm_type=1, eps=1.0)[0]
    assert_array_equal(y, [[0.25, 0.25]])


def test_scores_are_widened_first():
    for dtype in (np.float16, ml_dtypes.bfloat16):
        x, bias = X.astype(dtype), BIAS.astype(dtype)
        wide = moe_gating_top_k(x.astype(np.float32), 3, bias=bias.astype(np.float32), norm_type=1)
        for a, b in zip(moe_gating_top_k(x, 3, bias=bias, norm_type=1), wide, strict=True):
            assert_array_equal(a, b)


def test_no_rows():
    y, expert_idx, norm_out = moe_gating_top_k(
        np.zeros((0, 8), np.float32), 2, group_count=4, k_group=2, norm_type=1
    )
    assert (y.shape, expert_idx.shape, norm_out.shape) == ((0, 2), (0, 2), (0, 8))
