"""The float64 definition of npu_grouped_matmul_finalize_routing against numbers worked by hand."""

import ml_dtypes
import numpy as np
import pytest

from moe_native.oracle.grouped_matmul import (
    float_bits,
    grouped_matmul_finalize_routing,
    logical_weight,
    unpack_int4,
)

X = np.array([[1, 2], [3, -1], [-2, 4], [5, 0]], np.int8)
W = np.array([[[1, -1], [2, 3]], [[-3, 2], [1, 1]]], np.int8)
SCALE = np.array([[0.5, 0.25], [1, 2]], np.float32)
PERTOKEN = np.array([1, 0.5, 2, 0.25], np.float32)
LOGIT = np.array([0.5, 1, 0.25, 2], np.float32)
ROWS = np.array([0, 1, 1, 0], np.int64)
BASE = {"scale": SCALE, "pertoken_scale": PERTOKEN, "logit": LOGIT, "row_index": ROWS, "output_bs": 2}
NO_SHARED = [[-6.25, 10.625], [1.75, 1.0]]


def to_nz(w, n0, pad=0):
    """Tile (e, k, n) into (e, n1, k1, 16, n0); cells outside k x n hold `pad`."""
    e, k, n = w.shape
    k1, n1 = -(-k // 16), -(-n // n0)
    full = np.full((e, k1 * 16, n1 * n0), pad, w.dtype)
    full[:, :k, :n] = w
    return np.ascontiguousarray(full.reshape(e, k1, 16, n1, n0).transpose(0, 3, 1, 2, 4))


def pack_int4(w):
    """Pack int8 values in [-8, 7] along the last axis into int32 words, low nibble first."""
    nibbles = (w.astype(np.uint32) & 15).reshape(*w.shape[:-1], -1, 8)
    words = np.bitwise_or.reduce(nibbles << np.arange(0, 32, 4, dtype=np.uint32), axis=-1)
    return words.astype(np.uint32).view(np.int32)


@pytest.mark.parametrize(
    ("changes", "group_list", "expected"),
    [
        ({}, [3, 1], NO_SHARED),
        (
            {
                "shared_input": np.array([[1.5, -2]], ml_dtypes.bfloat16),
                "shared_input_weight": 0.5,
                "shared_input_offset": 1,
            },
            [3, 1],
            [[-6.25, 10.625], [2.5, 0]],
        ),
        ({"group_list_type": 0}, [3, 4], NO_SHARED),
        ({}, [2, 1], [[1.25, 0.625], [5.25, -0.75]]),
        ({"logit": None, "pertoken_scale": None}, [3, 1], [[-12.5, 21.25], [3.5, 2.0]]),
        ({"row_index": np.array([0, 0, 0, 1])}, [3, 1], [[3, 1.625], [-7.5, 10]]),
        ({"pertoken_scale": PERTOKEN[:, None]}, [3, 1], NO_SHARED),
    ],
)
def test_worked_lines(changes, group_list, expected):
    y = grouped_matmul_finalize_routing(X, W, np.array(group_list), **(BASE | changes))
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, expected)


def test_worked_intermediate_steps():
    rows = {"row_index": np.arange(4), "output_bs": 4}
    acc = [[5, 5], [1, -6], [6, 14], [-15, 10]]
    ones = np.ones_like(SCALE)
    none = {"pertoken_scale": None, "logit": None}
    got = grouped_matmul_finalize_routing(X, W, np.array([3, 1]), **(BASE | rows | none | {"scale": ones}))
    np.testing.assert_array_equal(got, acc)
    got = grouped_matmul_finalize_routing(X, W, np.array([3, 1]), **(BASE | rows | {"logit": None}))
    np.testing.assert_array_equal(got, [[2.5, 1.25], [0.25, -0.75], [6, 7], [-3.75, 5]])
    got = grouped_matmul_finalize_routing(X, W, np.array([3, 1]), **(BASE | rows))
    np.testing.assert_array_equal(got, [[1.25, 0.625], [0.25, -0.75], [1.5, 1.75], [-7.5, 10]])


def test_bias_is_added_before_the_logit():
    bias = np.array([[1, 2], [3, 4]], ml_dtypes.bfloat16)
    got = grouped_matmul_finalize_routing(X, W, np.array([3, 1]), bias=bias, **BASE)
    added = np.array([[0.5 * 1 + 2 * 3, 0.5 * 2 + 2 * 4], [1 * 1 + 0.25 * 1, 1 * 2 + 0.25 * 2]])
    np.testing.assert_array_equal(got, np.array(NO_SHARED) + added)


def test_tiled_weight_is_the_plain_weight():
    w = (np.arange(2 * 20 * 40) % 251 - 125).astype(np.int8).reshape(2, 20, 40)
    tiled = to_nz(w, 32, pad=127)
    assert tiled.shape == (2, 2, 2, 16, 32)
    for flat, value in [(0, -125), (31, -94), (1024, -93), (32, -85), (511, 4), (512, 13), (1639, -79)]:
        assert tiled.ravel()[flat] == value
    assert tiled.ravel()[2048] == -78 and tiled.ravel()[3687] == -32
    np.testing.assert_array_equal(logical_weight(tiled, 20, 40), w)


X4 = np.array([[37, -20, 5, -128], [127, 0, -1, 64]], np.int8)
W4 = np.array([[[1, -8], [7, 3], [-2, 5], [4, -1]], [[-3, 2], [6, -7], [1, 1], [0, 4]]], np.int8)
SCALE4 = np.array([[[1056964608, 1048576000]], [[1073741824, 1040187392]]], np.int64)


def padded(a, width):
    return np.concatenate([a, np.zeros((*a.shape[:-1], width - a.shape[-1]), a.dtype)], -1)


@pytest.mark.parametrize("tile", [None, 8, 16])
@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (None, [[-382, 31.8125], [-625, -101.5]]),
        ([[[0.5, -1]], [[0.25, 1]]], [[-358.25, 126.8125], [-731, 110.5]]),
    ],
)
def test_worked_a8w4(tile, offset, expected):
    np.testing.assert_array_equal(float_bits(SCALE4), [[[0.5, 0.25]], [[2, 0.125]]])
    w = pack_int4(padded(W4, 8))
    np.testing.assert_array_equal(unpack_int4(w)[..., :2], W4)
    bias = np.array([[40, -2], [64, 0]], np.float32)
    np.testing.assert_array_equal(8 * W4.sum(1) * float_bits(SCALE4)[:, 0], bias)
    y = grouped_matmul_finalize_routing(
        X4,
        w if tile is None else to_nz(w, tile, pad=0x77777777),
        np.array([1, 1]),
        scale=SCALE4,
        bias=bias,
        offset=None if offset is None else np.array(offset, np.float32),
        pertoken_scale=np.array([1, 0.5], np.float32),
        logit=np.array([2, 1], np.float32),
        row_index=np.array([1, 0]),
        shared_input=np.zeros((2, 2), ml_dtypes.bfloat16),
    )
    np.testing.assert_array_equal(y, expected)


def test_a8w4_without_rounding_is_the_dequantised_product():
    rng = np.random.default_rng(11)
    x = rng.integers(-128, 128, (6, 32)).astype(np.int8)
    w = rng.integers(-8, 8, (2, 32, 16)).astype(np.int8)
    # Powers of two and small sums: h and l fit into float16's 11 bits, so nothing is rounded.
    x[:, 4:] = 0
    scale = np.exp2(rng.integers(-4, 3, (2, 1, 16))).astype(np.float32)
    y = grouped_matmul_finalize_routing(
        x,
        pack_int4(w),
        np.array([2, 4]),
        scale=scale.view(np.uint32).astype(np.int64),
        bias=(8.0 * w.astype(np.float64).sum(1) * scale[:, 0]).astype(np.float32),
        pertoken_scale=np.ones(6, np.float32),
        row_index=np.arange(6),
    )
    for g, rows in enumerate([slice(0, 2), slice(2, 6)]):
        np.testing.assert_array_equal(y[rows], (x[rows].astype(np.int64) @ w[g]) * scale[g, 0].astype(float))
