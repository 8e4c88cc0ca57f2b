"""The definitions of the two softmax gatings against numbers worked out by hand."""

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from moe_native.oracle.gating import moe_gating_top_k_softmax, moe_gating_top_k_softmax_v2

# The numbers below one were computed in float32 (two roundings granted) and printed with seven decimals.
PRINTED = {"rtol": 0, "atol": 2 * 2**-24 + 0.5e-7}

X = np.array([[1, 3, 2, 3], [0, -1, 4, 2], [5, 5, 5, 5]], np.float32)


def test_worked_example():
    y, expert_idx, row_idx = moe_gating_top_k_softmax(X, np.array([False, True, False]), 2)
    assert_allclose(y, [[0.3994863, 0.3994863], [0.8617800, 0.1166292], [0.25, 0.25]], **PRINTED)
    assert_array_equal(expert_idx, [[1, 3], [4, 4], [0, 1]])
    assert_array_equal(row_idx, [[0, 3], [1, 4], [2, 5]])
    assert y.dtype == np.float64
    assert expert_idx.dtype == row_idx.dtype == np.int32


def test_unfinished_row_of_the_worked_example():
    assert_array_equal(moe_gating_top_k_softmax(X, None, 2)[1], [[1, 3], [2, 3], [0, 1]])


def test_k_is_one_unless_given():
    y, expert_idx, row_idx = moe_gating_top_k_softmax(X)
    assert y.shape == expert_idx.shape == row_idx.shape == (3, 1)


def test_row_idx_runs_down_the_columns():
    assert_array_equal(moe_gating_top_k_softmax(X, None, 3)[2], [[0, 3, 6], [1, 4, 7], [2, 5, 8]])


def test_row_idx_in_three_dimensions():
    x = np.zeros((2, 2, 3), np.float32)
    assert_array_equal(moe_gating_top_k_softmax(x, None, 2)[2], [[[0, 4], [1, 5]], [[2, 6], [3, 7]]])


def test_finished_in_three_dimensions():
    x = np.stack([X[:2], X[1:]])
    expert_idx = moe_gating_top_k_softmax(x, np.array([[True, False], [False, True]]), 2)[1]
    assert_array_equal(expert_idx, [[[4, 4], [2, 3]], [[2, 3], [4, 4]]])


def test_fp16_ties_are_those_of_rounded_probabilities():
    x = np.array([[-8, -7.99609375, 8, -7.9921875]], np.float16)
    y, expert_idx, _ = moe_gating_top_k_softmax(x, None, 3)
    assert_array_equal(expert_idx, [[2, 0, 1]])
    assert_array_equal(y.astype(np.float16), np.float16([[1, 2**-23, 2**-23]]))
    assert_array_equal(moe_gating_top_k_softmax(x.astype(np.float32), None, 3)[1], [[2, 3, 1]])


def test_bf16_ties_are_those_of_rounded_probabilities():
    # Near a third, bf16 numbers lie 2^-9 apart: these three probabilities are one number.
    x = np.array([[0, 2**-14, 2**-13]], ml_dtypes.bfloat16)
    assert_array_equal(moe_gating_top_k_softmax(x, None, 3)[1], [[0, 1, 2]])
    assert_array_equal(moe_gating_top_k_softmax(x.astype(np.float32), None, 3)[1], [[2, 1, 0]])


def test_an_infinitely_unlikely_expert_comes_last():
    x = np.array([[-np.inf, 0, -np.inf, 0]], np.float32)
    y, expert_idx, _ = moe_gating_top_k_softmax(x, None, 4)
    assert_array_equal(expert_idx, [[1, 3, 0, 2]])
    assert_array_equal(y, [[0.5, 0.5, 0, 0]])


@pytest.mark.parametrize("row", [[0, np.nan, 2], [0, np.inf, 2], [-np.inf] * 3, [np.nan] * 3])
def test_a_row_without_a_softmax_takes_the_first_experts(row):
    y, expert_idx, _ = moe_gating_top_k_softmax(np.array([row], np.float32), None, 2)
    assert_array_equal(expert_idx, [[0, 1]])
    assert np.isnan(y).all()


def test_large_logits():
    y, expert_idx, _ = moe_gating_top_k_softmax(np.array([[1e4, -1e4, 1e4]], np.float32), None, 3)
    assert_array_equal(expert_idx, [[0, 2, 1]])
    assert_array_equal(y, [[0.5, 0.5, 0]])


@pytest.mark.parametrize(("shape", "k"), [((0, 4), 2), ((3, 4), 0), ((3, 0), 0), ((2, 0, 4), 1)])
def test_empty(shape, k):
    for result in moe_gating_top_k_softmax(np.zeros(shape, np.float32), None, k):
        assert result.shape == (*shape[:-1], k)


def test_v2_softmax_first():
    y, expert_idx, softmax = moe_gating_top_k_softmax_v2(X, k=2, output_softmax=True)
    assert_allclose(y, [[0.3994863, 0.3994863], [0.8617800, 0.1166292], [0.25, 0.25]], **PRINTED)
    assert_array_equal(expert_idx, [[1, 3], [2, 3], [0, 1]])
    assert_allclose(softmax.sum(-1), 1, rtol=4 * 2**-52)
    assert_allclose(softmax[1, 2] / softmax[1, 0], np.exp(4), rtol=4 * 2**-52)


def test_v2_selects_on_float32_probabilities():
    x = np.array([[-8, -7.99609375, 8, -7.9921875]], np.float16)
    assert_array_equal(moe_gating_top_k_softmax_v2(x, k=3)[1], [[2, 3, 1]])


def test_v2_top_k_first():
    # exp(0) : exp(-1) of the two chosen ones.
    y, expert_idx, softmax = moe_gating_top_k_softmax_v2(
        np.array([[2, 5, 1, 4]], np.float32), k=2, renorm=1, output_softmax=True
    )
    assert_array_equal(expert_idx, [[1, 3]])
    assert_allclose(y, [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]], rtol=4 * 2**-52)
    assert softmax.shape == (0,)


def test_v2_top_k_first_tells_apart_what_the_softmax_would_not():
    x = np.array([[100, 0, 1]], np.float32)  # exp(-100) is 0 in float32, exp(-99) as well
    assert_array_equal(moe_gating_top_k_softmax_v2(x - 100, k=3, renorm=1)[1], [[0, 2, 1]])


def test_v2_finished():
    for renorm in (0, 1):
        result = moe_gating_top_k_softmax_v2(X, k=2, finished=np.array([False, True, False]), renorm=renorm)
        assert_array_equal(result[1], [[1, 3], [4, 4], [0, 1]])
        assert_array_equal(result[0], moe_gating_top_k_softmax_v2(X, k=2, renorm=renorm)[0])
        assert result[2].shape == (0,)
