"""The swiglu oracle against hand-worked numbers."""

import ml_dtypes
import numpy as np
import pytest

from moe_native.oracle import quant as oracle

X = [[1, -2, 3, 0.5], [0, 4, -1, 2]]

# The worked numbers come from float32 steps: exp (one ulp, two half-ulps), sum, quotient, product.
RTOL = 5 * 2.0**-24


def test_worked_last_dim():
    y = oracle.swiglu(np.array(X, np.float32))
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, [[2.19317579, -0.119202919], [-0.0, 7.85611010]], rtol=RTOL, atol=0)
    assert np.signbit(y[1, 0])


def test_worked_first_dim():
    y = oracle.swiglu(np.array(X, np.float32), dim=0)
    np.testing.assert_allclose(y, [[0, -0.953623354, -2.85772252, 0.622459352]], rtol=RTOL, atol=0)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (ml_dtypes.bfloat16, [[2.1875, -0.119140625], [-0.0, 7.84375]]),
        (np.float16, [[2.193359375, -0.11920166], [-0.0, 7.85546875]]),
    ],
)
def test_worked_rounded_once(dtype, expected):
    y = oracle.swiglu(np.array(X, dtype)).astype(dtype)
    np.testing.assert_array_equal(y, np.array(expected).astype(dtype))


def test_halves_and_special_values():
    x = np.array([[-1e4, 1e4, 0, np.nan, 3, 3, 2, 5]], np.float32)
    np.testing.assert_array_equal(oracle.swiglu(x), [[-0.0, 3e4, 0, np.nan]])
    assert oracle.swiglu(np.ones((2, 6, 4)), dim=1).shape == (2, 3, 4)
    assert oracle.swiglu(np.ones((2, 6, 4)), dim=-3).shape == (1, 6, 4)
