"""The dynamic quantisation oracle against hand-worked rows and against the properties that define it."""

import ml_dtypes
import numpy as np
import pytest

from moe_native.oracle import quant as oracle

X = [[1, -2, 3, 0.5], [127, 0.5, 1.5, -2.5], [0, 0, 0, 0], [-4, 2, 1, 8]]


def check(result, codes, scales):
    q, scale = result
    assert q.dtype == np.int8
    assert scale.dtype == np.float32
    np.testing.assert_array_equal(q, np.array(codes, np.int8))
    # the worked scales are printed to nine digits, which identify a float32
    np.testing.assert_array_equal(scale, np.array(scales, np.float32))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_worked_plain(dtype):
    result = oracle.dynamic_quant(np.array(X, dtype))
    check(
        result,
        [[42, -85, 127, 21], [127, 0, 2, -2], [0, 0, 0, 0], [-64, 32, 16, 127]],
        [0.0236220472, 1, 0, 0.0629921257],
    )
    np.testing.assert_array_equal(result[1][[0, 3]].view(np.uint32), [0x3CC18306, 0x3D810204])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_worked_smooth(dtype):
    check(
        oracle.dynamic_quant(np.array(X, dtype), smooth_scales=np.array([1, 0.5, 2, 1], dtype)),
        [[21, -21, 127, 11], [127, 0, 3, -2], [0, 0, 0, 0], [-64, 16, 32, 127]],
        [0.0472440943, 1, 0, 0.0629921257],
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_worked_groups(dtype):
    smooth = np.array([[1, 1, 1, 1], [1, 0.5, 2, 1], [-1, 2, 0, 0.25]], dtype)
    check(
        oracle.dynamic_quant(np.array(X, dtype), smooth_scales=smooth, group_index=np.array([1, 3, 4])),
        [[42, -85, 127, 21], [127, 0, 3, -2], [0, 0, 0, 0], [127, 127, 0, 64]],
        [0.0236220472, 1, 0, 0.0314960629],
    )


def test_worked_rows_of_other_operators():
    """The codes that dynamic quantisation inside init_routing_v2 gives for the same rows."""
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
    """Below 127 times the smallest normal number the quotient can pass 127; below its half the scale is 0."""
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
    assert not scale.any()
    assert scale.shape == shape[:-1]
