"""The float64 definition of npu_grouped_matmul_finalize_routing against numbers worked by hand."""

import numpy as np
import pytest
from cases.grouped_matmul import (
    BIAS4,
    COMBINE,
    COMBINE4,
    COMBINE4_CASES,
    COMBINE_CASES,
    SCALE4,
    SCALE4_VALUES,
    W4,
    bits_as_int64,
    pack_int4,
    to_tiles,
)

from moe_native.oracle.grouped_matmul import (
    float_bits,
    grouped_matmul_finalize_routing,
    logical_weight,
    unpack_int4,
)


@pytest.mark.parametrize("case", COMBINE_CASES)
def test_worked_number(case):
    changes, needed = COMBINE_CASES[case]
    y = grouped_matmul_finalize_routing(**(COMBINE | changes))
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, needed)


def test_tiles_hold_the_plain_weight():
    w = (np.arange(2 * 20 * 40) % 251 - 125).astype(np.int8).reshape(2, 20, 40)
    tiles = to_tiles(w, 32, padding=127)
    assert tiles.shape == (2, 2, 2, 16, 32)
    for flat, value in [(0, -125), (31, -94), (1024, -93), (32, -85), (511, 4), (512, 13), (1639, -79)]:
        assert tiles.ravel()[flat] == value
    assert tiles.ravel()[2048] == -78
    assert tiles.ravel()[3687] == -32
    np.testing.assert_array_equal(logical_weight(tiles, 20, 40), w)


@pytest.mark.parametrize("c0", [None, 8, 16])
@pytest.mark.parametrize("case", COMBINE4_CASES)
def test_worked_int4_number(case, c0):
    changes, needed = COMBINE4_CASES[case]
    arguments = COMBINE4 | changes
    if c0 is not None:
        arguments["w"] = to_tiles(arguments["w"], c0, padding=0x77777777)
    np.testing.assert_array_equal(grouped_matmul_finalize_routing(**arguments), needed)


def test_worked_int4_operands():
    np.testing.assert_array_equal(unpack_int4(COMBINE4["w"])[..., :2], W4)
    np.testing.assert_array_equal(float_bits(SCALE4), SCALE4_VALUES)
    np.testing.assert_array_equal(float_bits(bits_as_int64(SCALE4_VALUES)), SCALE4_VALUES)
    np.testing.assert_array_equal(8 * W4.sum(1) * SCALE4_VALUES[:, 0], BIAS4)


def test_int4_without_rounding_is_the_dequantised_product():
    rng = np.random.default_rng(11)
    x = rng.integers(-128, 128, (6, 32)).astype(np.int8)
    w = rng.integers(-8, 8, (2, 32, 16)).astype(np.int8)
    # Scales that are powers of two, and sums that fit into the 11 bits of float16: nothing is rounded.
    x[:, 4:] = 0
    scale = np.exp2(rng.integers(-4, 3, (2, 1, 16))).astype(np.float32)
    y = grouped_matmul_finalize_routing(
        x,
        pack_int4(w),
        np.array([2, 4]),
        scale=bits_as_int64(scale),
        bias=(8.0 * w.astype(np.float64).sum(1) * scale[:, 0]).astype(np.float32),
        pertoken_scale=np.ones(6, np.float32),
        row_index=np.arange(6),
    )
    for g, rows in enumerate([slice(0, 2), slice(2, 6)]):
        np.testing.assert_array_equal(y[rows], (x[rows].astype(np.int64) @ w[g]) * scale[g, 0].astype(float))
