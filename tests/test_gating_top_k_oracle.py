"""The oracle of npu_moe_gating_top_k against numbers worked out by hand."""

import ml_dtypes
import numpy as np
import pytest
from cases.gating import BIAS, PRINTED, SCORES, TOP_K
from numpy.testing import assert_allclose, assert_array_equal

from moe_native.oracle.gating import moe_gating_top_k


@pytest.mark.parametrize("case", TOP_K)
def test_worked_number(case):
    arguments, needed_y, needed_idx = TOP_K[case]
    y, expert_idx, norm_out = moe_gating_top_k(**arguments)
    assert y.dtype == np.float64
    assert_array_equal(expert_idx, np.array(needed_idx, np.int32), strict=True)
    assert_allclose(y, needed_y, **PRINTED)
    assert_array_equal(norm_out, np.zeros(arguments["x"].shape))


def test_scores_of_the_worked_number():
    s = moe_gating_top_k(**(TOP_K["two groups"][0] | {"out_flag": True}))[2]
    pairs = (s + BIAS).reshape(4, 2)
    assert_allclose(pairs.max(1), [1.0, 0.8808, 0.6225, 0.8176], rtol=0, atol=0.5e-4)
    assert_allclose(pairs.sum(1), [1.7311, 1.5497, 0.6750, 1.5368], rtol=0, atol=0.5e-4)
    assert np.argmax(s) == 4  # the bias, not the score, keeps expert 4 out


def test_ties_between_groups_and_experts():
    for mode in (0, 1):
        seen = moe_gating_top_k(
            np.zeros((1, 6), np.float32), 3, group_count=3, k_group=2, group_select_mode=mode, norm_type=1
        )
        assert_array_equal(seen[1], [[0, 1, 2]])


def test_no_bias_is_a_zero_bias():
    with_zeros = moe_gating_top_k(SCORES, 3, bias=np.zeros(8, np.float32), norm_type=1, out_flag=True)
    for a, b in zip(with_zeros, moe_gating_top_k(SCORES, 3, norm_type=1, out_flag=True), strict=True):
        assert_array_equal(a, b)


def test_scores_are_widened_first():
    for dtype in (np.float16, ml_dtypes.bfloat16):
        x, bias = SCORES.astype(dtype), BIAS.astype(dtype)
        wide = moe_gating_top_k(x.astype(np.float32), 3, bias=bias.astype(np.float32), norm_type=1)
        for a, b in zip(moe_gating_top_k(x, 3, bias=bias, norm_type=1), wide, strict=True):
            assert_array_equal(a, b)


def test_no_rows():
    results = moe_gating_top_k(np.zeros((0, 8), np.float32), 2, group_count=4, k_group=2, norm_type=1)
    assert [r.shape for r in results] == [(0, 2), (0, 2), (0, 8)]
