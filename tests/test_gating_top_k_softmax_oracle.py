"""The oracles of the two softmax gatings against numbers worked out by hand."""

import ml_dtypes
import numpy as np
import pytest
from cases.gating import FINISHED, NO_SOFTMAX, PRINTED, SOFTMAX, SOFTMAX_V2, TIES, TIES_Y, X
from numpy.testing import assert_allclose, assert_array_equal

from moe_native.oracle.gating import moe_gating_top_k_softmax, moe_gating_top_k_softmax_v2


@pytest.mark.parametrize("case", SOFTMAX)
def test_worked_number(case):
    arguments, needed_y, needed_idx, needed_rows = SOFTMAX[case]
    y, expert_idx, row_idx = moe_gating_top_k_softmax(*arguments)
    assert y.dtype == np.float64
    assert_array_equal(expert_idx, np.array(needed_idx, np.int32), strict=True)
    if needed_y is not None:
        assert_allclose(y, needed_y, **PRINTED)
    if needed_rows is not None:
        assert_array_equal(row_idx, np.array(needed_rows, np.int32), strict=True)


def test_rounded_probabilities_are_those_printed():
    assert_array_equal(moe_gating_top_k_softmax(TIES, None, 3)[0].astype(np.float16), TIES_Y)


def test_finished_in_three_dimensions():
    x = np.stack([X[:2], X[1:]])
    expert_idx = moe_gating_top_k_softmax(x, np.array([[True, False], [False, True]]), 2)[1]
    assert_array_equal(expert_idx, [[[4, 4], [2, 3]], [[2, 3], [4, 4]]])


def test_bfloat16_ties_are_those_of_rounded_probabilities():
    # Near a third, bfloat16 numbers lie 2^-9 apart: these three probabilities are one number.
    x = np.array([[0, 2**-14, 2**-13]], ml_dtypes.bfloat16)
    assert_array_equal(moe_gating_top_k_softmax(x, None, 3)[1], [[0, 1, 2]])
    assert_array_equal(moe_gating_top_k_softmax(x.astype(np.float32), None, 3)[1], [[2, 1, 0]])
    assert_array_equal(moe_gating_top_k_softmax_v2(x, k=3)[1], [[2, 1, 0]])


@pytest.mark.parametrize("row", NO_SOFTMAX)
def test_a_row_without_a_softmax_takes_the_first_experts(row):
    y, expert_idx, _ = moe_gating_top_k_softmax(np.array([row], np.float32), None, 2)
    assert_array_equal(expert_idx, [[0, 1]])
    assert np.isnan(y).all()


@pytest.mark.parametrize(("shape", "k"), [((0, 4), 2), ((3, 4), 0), ((3, 0), 0), ((2, 0, 4), 1)])
def test_empty(shape, k):
    for result in moe_gating_top_k_softmax(np.zeros(shape, np.float32), None, k):
        assert result.shape == (*shape[:-1], k)


@pytest.mark.parametrize("case", SOFTMAX_V2)
def test_v2_worked_number(case):
    arguments, needed_y, needed_idx = SOFTMAX_V2[case]
    y, expert_idx, softmax = moe_gating_top_k_softmax_v2(**arguments)
    assert_array_equal(expert_idx, np.array(needed_idx, np.int32), strict=True)
    if needed_y is not None:
        assert_allclose(y, needed_y, **PRINTED)
    assert softmax.shape == (0,)


def test_v2_returns_the_softmax_only_when_it_decides():
    softmax = moe_gating_top_k_softmax_v2(X, k=2, finished=FINISHED, output_softmax=True)[2]
    # One division and up to three additions of exact quotients of exp.
    assert_allclose(softmax.sum(-1), 1, rtol=8 * 2**-53)
    assert_allclose(softmax[1] / softmax[1, 0], np.exp([0, -1, 4, 2]), rtol=8 * 2**-53)
    assert moe_gating_top_k_softmax_v2(X, k=2, renorm=1, output_softmax=True)[2].shape == (0,)
