"""The oracle of npu_swiglu against numbers worked out by hand."""

import numpy as np
import pytest
from cases.quant import PAIRS, SWIGLU, SWIGLU_BFLOAT16, SWIGLU_FLOAT16

from moe_native.oracle import quant as oracle
from moe_native.testing import bfloat16, round_to

# The worked numbers come from float32 steps: exp (one ulp, two half-ulps), sum, quotient, product.
RTOL = 5 * 2.0**-24


@pytest.mark.parametrize("dim", SWIGLU)
def test_worked_number(dim):
    y = oracle.swiglu(np.array(PAIRS, np.float32), dim)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, SWIGLU[dim], rtol=RTOL, atol=0)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(SWIGLU[dim]))


@pytest.mark.parametrize(("dtype", "needed"), [(bfloat16, SWIGLU_BFLOAT16), (np.float16, SWIGLU_FLOAT16)])
def test_worked_number_rounded_once(dtype, needed):
    y = round_to(oracle.swiglu(np.array(PAIRS, dtype)), dtype)
    np.testing.assert_array_equal(y, np.array(needed).astype(dtype))


def test_halves_and_special_values():
    x = np.array([[-1e4, 1e4, 0, np.nan, 3, 3, 2, 5]], np.float32)
    np.testing.assert_array_equal(oracle.swiglu(x), [[-0.0, 3e4, 0, np.nan]])
    assert oracle.swiglu(np.ones((2, 6, 4)), dim=1).shape == (2, 3, 4)
    assert oracle.swiglu(np.ones((2, 6, 4)), dim=-3).shape == (1, 6, 4)
