"""The float64 definition of npu_grouped_matmul_swiglu_quant against numbers worked by hand."""

import numpy as np
import pytest

from moe_native.oracle.grouped_matmul import grouped_matmul_swiglu_quant, int4_product, unpack_int4

X = np.array([[1, 2], [3, -1], [0, 0], [-2, 4], [5, 3]], np.int8)
W = np.array([[[1, -1, 2, 3], [2, 3, -2, 1]], [[-3, 2, 1, 4], [1, 1, -1, 2]]], np.int8)
WEIGHT_SCALE = np.array([[0.5, 0.25, 1, 0.5], [1, 0.5, 0.25, 2]], np.float32)
X_SCALE = np.array([1, 0.5, 3, 0.25, 0.125], np.float32)


def run(group_list, **changes):
    args = {"x": X, "weight": W, "weight_scale": WEIGHT_SCALE, "x_scale": X_SCALE} | changes
    return grouped_matmul_swiglu_quant(group_list=np.array(group_list), **args)


def assert_scale(scale, expected):
    # The worked numbers carry nine digits of a float32 evaluation, which is a few ulp from float64.
    np.testing.assert_allclose(scale, expected, rtol=4 * np.finfo(np.float32).eps, atol=0)


def test_worked_table():
    q, scale, offset = run([3, 4])
    np.testing.assert_array_equal(q, [[-127, 67], [127, -109], [0, 0], [-127, 0], [0, 0]])
    assert q.dtype == np.int8 and scale.dtype == np.float64
    assert_scale(scale, [0.0363835357, 0.00442658691, 0, 0.00682191318, 0])
    assert offset.shape == () and offset.dtype == np.float32 and offset == 0
    bits = np.array([0x3D1506E7, 0x3B910CE7, 0, 0x3BDF8A5B, 0], np.uint32).view(np.float32)
    assert_scale(scale, bits.astype(np.float64))


@pytest.mark.parametrize(
    ("group_list", "q", "scale"),
    [
        (
            [0, 5],
            [[0, 127], [0, 127], [0, 0], [-127, 0], [-1, 127]],
            [0.221933112, 0.076505892, 0, 0.00682191318, 0.0288032722],
        ),
        (
            [5, 5],
            [[-127, 67], [127, -109], [0, 0], [-127, -13], [127, 41]],
            [0.0363835357, 0.00442658691, 0, 0.0120326942, 0.00180106203],
        ),
        ([2, 2], [[-127, 67], [127, -109], [0, 0], [0, 0], [0, 0]], [0.0363835357, 0.00442658691, 0, 0, 0]),
        ([0, 0], np.zeros((5, 2)), np.zeros(5)),
    ],
)
def test_worked_group_lists(group_list, q, scale):
    got_q, got_scale, _ = run(group_list)
    np.testing.assert_array_equal(got_q, q)
    assert_scale(got_scale, scale)


def test_counts_are_differences_of_ends():
    ends, counts = run([3, 4]), run([3, 1], group_list_type=1)
    for a, b in zip(ends, counts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_short_list_and_column_of_scales():
    q, scale, _ = run([3], x_scale=X_SCALE[:, None])
    full_q, full_scale, _ = run([3, 3])
    np.testing.assert_array_equal(q, full_q)
    np.testing.assert_array_equal(scale, full_scale)


def test_the_first_half_is_activated():
    swapped = W[:, :, [2, 3, 0, 1]], WEIGHT_SCALE[:, [2, 3, 0, 1]]
    q, scale, _ = run([3, 4], weight=swapped[0], weight_scale=swapped[1])
    np.testing.assert_array_equal(q[0], [-26, 127])
    np.testing.assert_allclose(scale[0] * 127, 2.88794303, rtol=4 * np.finfo(np.float32).eps)


def test_rows_without_a_usable_scale_are_zero():
    x_scale = np.array([np.inf, np.nan, 0, 0.25, 0.125], np.float32)
    q, scale, _ = run([3, 5], x_scale=x_scale)
    np.testing.assert_array_equal(q[:3], 0)
    assert np.isinf(scale[0]) and np.isnan(scale[1]) and scale[2] == 0
    np.testing.assert_array_equal(q[3:], run([3, 5])[0][3:])


X4 = np.array([[37, -20, 5, -128], [127, 0, -1, 64]], np.int8)
W4 = np.array([[1, -8, 2, 3], [7, 3, -1, 0], [-2, 5, 4, -6], [4, -1, 1, 7]], np.int8)
SCALE4 = np.array([0.5, 0.25, 1, 0.5], np.float32)
X_SCALE4 = np.array([2**-6, 2**-8], np.float32)
BIAS4 = np.array([40, -2, 48, 16], np.float32)


def pack_int4(w):
    padded = np.zeros((*w.shape[:-1], -(-w.shape[-1] // 8) * 8), np.uint32)
    padded[..., : w.shape[-1]] = w.astype(np.uint32) & 15
    words = (padded.reshape(*w.shape[:-1], -1, 8) << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1)
    return words.astype(np.uint32).view(np.int32)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_worked_a8w4(dtype):
    np.testing.assert_array_equal(8 * W4.astype(int).sum(0) * SCALE4, BIAS4)
    c = (int4_product(X4, W4, SCALE4[None]) + BIAS4) * X_SCALE4[:, None]
    np.testing.assert_array_equal(
        c,
        [
            [-4.8828125, -0.79296875, -0.21875, -6.3671875],
            [0.751953125, -1.0595703125, 1.2265625, 1.630859375],
        ],
    )
    packed = pack_int4(W4[None])
    np.testing.assert_array_equal(unpack_int4(packed)[0, :, :4], W4)
    q, scale, _ = grouped_matmul_swiglu_quant(
        X4, packed, np.array([2]), SCALE4.view(np.uint32).astype(dtype)[None], X_SCALE4, bias=BIAS4[None]
    )
    np.testing.assert_array_equal(q, [[1, 127], [127, -90]])
    assert_scale(scale, [0.0123851718, 0.00493551791])


def test_a8w4_scale_per_block_of_k():
    scale = np.stack([SCALE4, 2 * SCALE4])
    bias = (8.0 * (W4[:2].astype(int).sum(0) * scale[0] + W4[2:].astype(int).sum(0) * scale[1])).astype(
        np.float32
    )
    c = int4_product(X4, W4, scale) + bias
    exact = (X4[:, :2].astype(int) @ W4[:2]) * scale[0] + (X4[:, 2:].astype(int) @ W4[2:]) * scale[1]
    np.testing.assert_array_equal(c, exact)
    packed = pack_int4(W4[None])
    bits = scale.view(np.uint32).astype(np.int64)[None]
    q, got, _ = grouped_matmul_swiglu_quant(X4, packed, np.array([2]), bits, X_SCALE4, bias=bias[None])
    rows = exact * X_SCALE4[:, None].astype(float)
    s = rows[:, :2] / (1 + np.exp(-rows[:, :2])) * rows[:, 2:]
    np.testing.assert_allclose(got, np.abs(s).max(1) / 127, rtol=1e-15)
    np.testing.assert_array_equal(q, np.rint(s / got[:, None]))
