"""The float64 definition of npu_grouped_matmul_swiglu_quant against numbers worked by hand."""

import numpy as np
import pytest
from cases.grouped_matmul import (
    SWIGLU,
    SWIGLU4,
    SWIGLU4_DEQUANTISED,
    SWIGLU4_ROWS,
    SWIGLU4_SCALES,
    SWIGLU_CASES,
    SWIGLU_SCALE4,
    SWIGLU_SCALE_BITS,
    SWIGLU_SCALES,
    SWIGLU_W4,
    bits_as_int64,
)

from moe_native.oracle.grouped_matmul import grouped_matmul_swiglu_quant, int4_product


def assert_scale(scale, needed):
    # The worked numbers carry nine digits of a float32 evaluation, which is a few units in the last place away.
    np.testing.assert_allclose(scale, needed, rtol=4 * np.finfo(np.float32).eps, atol=0)


@pytest.mark.parametrize("case", SWIGLU_CASES)
def test_worked_number(case):
    changes, rows, scales = SWIGLU_CASES[case]
    output, scale, offset = grouped_matmul_swiglu_quant(**(SWIGLU | changes))
    np.testing.assert_array_equal(output, rows)
    assert output.dtype == np.int8
    assert scale.dtype == np.float64
    assert_scale(scale, scales)
    assert offset.shape == ()
    assert offset.dtype == np.float32
    assert offset == 0


def test_worked_bits_are_those_of_the_worked_scales():
    np.testing.assert_array_equal(np.array(SWIGLU_SCALE_BITS, np.uint32).view(np.float32), np.float32(SWIGLU_SCALES))


def test_rows_without_a_usable_scale_are_zero():
    x_scale = np.array([np.inf, np.nan, 0, 0.25, 0.125], np.float32)
    changes = {"x_scale": x_scale, "group_list": np.array([3, 5])}
    output, scale, _ = grouped_matmul_swiglu_quant(**(SWIGLU | changes))
    np.testing.assert_array_equal(output[:3], 0)
    assert np.isinf(scale[0])
    assert np.isnan(scale[1])
    assert scale[2] == 0
    whole = grouped_matmul_swiglu_quant(**(SWIGLU | {"group_list": np.array([3, 5])}))
    np.testing.assert_array_equal(output[3:], whole[0][3:])


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_worked_int4_number(dtype):
    np.testing.assert_array_equal(8 * SWIGLU_W4.astype(int).sum(0) * SWIGLU_SCALE4, SWIGLU4["bias"][0])
    c = int4_product(SWIGLU4["x"], SWIGLU_W4, SWIGLU_SCALE4[None]) + SWIGLU4["bias"][0]
    np.testing.assert_array_equal(c * SWIGLU4["x_scale"][:, None], SWIGLU4_DEQUANTISED)
    changes = {"weight_scale": SWIGLU4["weight_scale"].view(dtype)}
    output, scale, _ = grouped_matmul_swiglu_quant(**(SWIGLU4 | changes))
    np.testing.assert_array_equal(output, SWIGLU4_ROWS)
    assert_scale(scale, SWIGLU4_SCALES)


def test_int4_scale_per_block_of_k():
    x, w = SWIGLU4["x"].astype(int), SWIGLU_W4.astype(int)
    scale = np.stack([SWIGLU_SCALE4, 2 * SWIGLU_SCALE4])
    bias = (8.0 * (w[:2].sum(0) * scale[0] + w[2:].sum(0) * scale[1])).astype(np.float32)
    exact = (x[:, :2] @ w[:2]) * scale[0] + (x[:, 2:] @ w[2:]) * scale[1]
    np.testing.assert_array_equal(int4_product(SWIGLU4["x"], SWIGLU_W4, scale) + bias, exact)
    changes = {"weight_scale": bits_as_int64(scale)[None], "bias": bias[None]}
    output, output_scale, _ = grouped_matmul_swiglu_quant(**(SWIGLU4 | changes))
    c = exact * SWIGLU4["x_scale"][:, None].astype(float)
    s = c[:, :2] / (1 + np.exp(-c[:, :2])) * c[:, 2:]
    np.testing.assert_allclose(output_scale, np.abs(s).max(1) / 127, rtol=1e-15)
    np.testing.assert_array_equal(output, np.rint(s / output_scale[:, None]))
