"""The oracle of npu_dynamic_quant against rows worked out by hand, and the rules that define it."""

import numpy as np
import pytest
from cases.quant import DYNAMIC_QUANT, PLAIN_SCALE_BITS, ROWS

from moe_native.oracle import quant as oracle
from moe_native.testing import bfloat16


@pytest.mark.parametrize("dtype", [np.float16, bfloat16, np.float32])
@pytest.mark.parametrize("case", DYNAMIC_QUANT)
def test_worked_number(case, dtype):
    smooth, group_index, codes, scales = DYNAMIC_QUANT[case]
    q, scale = oracle.dynamic_quant(
        np.array(ROWS, dtype),
        smooth_scales=None if smooth is None else np.array(smooth, dtype),
        group_index=None if group_index is None else np.array(group_index),
    )
    assert q.dtype == np.int8
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(q, codes)
    np.testing.assert_array_equal(scale, np.array(scales, np.float32))
    if case == "plain":
        np.testing.assert_array_equal(scale.view(np.uint32), PLAIN_SCALE_BITS)


def test_worked_rows_of_other_operators():
    """The codes that the dynamic quantisation inside npu_moe_init_routing_v2 gives for the same rows."""
    x = np.array([[1, 2, -3, 4], [1, -0.5, 0.125, 1], [-8, 6, 7, 5]], np.float32)
    q, _ = oracle.dynamic_quant(x)
    np.testing.assert_array_equal(q, [[32, 64, -95, 127], [127, -64, 16, 127], [-127, 95, 111, 79]])


def test_rows_that_have_no_scale():
    inf, nan = np.inf, np.nan
    x = np.array([[0, -0.0], [1, inf], [-inf, 1], [nan, 1], [inf, nan], [1, 2]], np.float32)
    q, scale = oracle.dynamic_quant(x)
    np.testing.assert_array_equal(scale[:5], np.float32([0, inf, inf, nan, nan]))
    assert not q[:5].any()
    assert q[5, 1] == 127


def test_subnormal_scale():
    """Below 127 times the smallest normal number the quotient can pass 127; below half of 127 units the scale is 0."""
    tiny = np.finfo(np.float32).smallest_subnormal
    q, scale = oracle.dynamic_quant(np.array([[63, -1], [64, -1], [190, -190], [-190, 190]], np.float32) * tiny)
    np.testing.assert_array_equal(scale, np.float32([0, 1, 1, 1]) * tiny)
    np.testing.assert_array_equal(q, [[0, 0], [64, -1], [127, -128], [-128, 127]])


def test_half_to_even():
    q, _ = oracle.dynamic_quant(np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 100.5, 101.5]], np.float32))
    np.testing.assert_array_equal(q, [[127, 0, 2, 2, 0, -2, -2, 100, 102]])


def test_shape_and_empty_groups():
    x = np.random.default_rng(1).normal(size=(2, 3, 5)).astype(np.float32)
    smooth = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)
    q, scale = oracle.dynamic_quant(x, smooth_scales=smooth, group_index=np.array([0, 2, 2, 6]))
    assert q.shape == x.shape
    assert scale.shape == (2, 3)
    rows = x.reshape(6, 5)
    for r in range(6):
        alone = oracle.dynamic_quant(rows[r : r + 1], smooth_scales=smooth[1 if r < 2 else 3])
        np.testing.assert_array_equal(q.reshape(6, 5)[r], alone[0][0])
        assert scale.ravel()[r] == alone[1][0]
    assert np.abs(q).max() == 127


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 0, 7)])
def test_empty(shape):
    q, scale = oracle.dynamic_quant(np.zeros(shape, np.float16))
    assert q.shape == shape
    assert scale.shape == shape[:-1]
    assert not scale.any()
