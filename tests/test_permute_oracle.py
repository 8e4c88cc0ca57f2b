"""The definition of the permute operator against numbers worked by hand."""

import ml_dtypes
import numpy as np
import pytest

from moe_native.oracle.permute import moe_token_permute_with_routing_map as permute

TOKENS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
ROUTING_MAP = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]], np.int8)
PROBS = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9, 1.0, 1.1, 1.2]], np.float32)


@pytest.mark.parametrize(
    ("num_out_tokens", "drop_and_pad", "token_ids", "permuted_probs", "sorted_indices"),
    [
        (6, False, [0, 2, 1, 0, 1, 2], [0.1, 0.9, 0.6, 0.3, 0.7, 1.2], [0, 3, 2, 4, 1, 5]),
        (7, False, [0, 2, 1, 0, 1, 2], [0.1, 0.9, 0.6, 0.3, 0.7, 1.2], [0, 3, 2, 4, 1, 5]),
        (8, False, [0, 2, 1, 0, 1, 2], [0.1, 0.9, 0.6, 0.3, 0.7, 1.2], [0, 3, 2, 4, 1, 5]),
        (None, False, [0, 2, 1, 0, 1, 2], [0.1, 0.9, 0.6, 0.3, 0.7, 1.2], [0, 3, 2, 4, 1, 5]),
        (
            8,
            True,
            [0, 2, 1, 0, 0, 1, 2, 0],
            [0.1, 0.9, 0.6, 0.2, 0.3, 0.7, 1.2, 0.4],
            [0, 2, 1, 0, 0, 1, 2, 0],
        ),
        (4, True, [0, 1, 0, 2], [0.1, 0.6, 0.3, 1.2], [0, 1, 0, 2]),
        (
            12,
            True,
            [0, 2, 1, 1, 0, 2, 0, 1, 2, 2, 0, 1],
            [0.1, 0.9, 0.5, 0.6, 0.2, 1.0, 0.3, 0.7, 1.1, 1.2, 0.4, 0.8],
            [0, 2, 1, 1, 0, 2, 0, 1, 2, 2, 0, 1],
        ),
        (3, True, [], [], []),
        (None, True, [], [], []),
        (2, False, [], [], []),
        (0, False, [], [], []),
    ],
)
@pytest.mark.parametrize("map_dtype", [np.int8, np.bool_])
def test_worked_example(num_out_tokens, drop_and_pad, token_ids, permuted_probs, sorted_indices, map_dtype):
    got = permute(
        TOKENS,
        ROUTING_MAP.astype(map_dtype),
        probs=PROBS,
        num_out_tokens=num_out_tokens,
        drop_and_pad=drop_and_pad,
    )
    assert got[0].dtype == np.float32
    assert got[1].dtype == np.float32
    assert got[2].dtype == np.int32
    np.testing.assert_array_equal(got[0], TOKENS[np.array(token_ids, int)])
    np.testing.assert_array_equal(got[1], np.array(permuted_probs, np.float32))
    np.testing.assert_array_equal(got[2], sorted_indices)


def test_every_token_to_every_expert():
    probs = np.array([[0.5, 0.3], [0.4, 0.6], [0.2, 0.8]], np.float32)
    rows, permuted_probs, sorted_indices = permute(
        TOKENS, np.ones((3, 2), np.bool_), probs=probs, num_out_tokens=6
    )
    np.testing.assert_array_equal(rows, TOKENS[[0, 1, 2, 0, 1, 2]])
    np.testing.assert_array_equal(sorted_indices, [0, 3, 1, 4, 2, 5])
    np.testing.assert_array_equal(permuted_probs, np.array([0.5, 0.4, 0.2, 0.3, 0.6, 0.8], np.float32))


def test_ragged_map():
    # Not a valid call of the operator; the order is defined all the same.
    ragged = np.array([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], np.bool_)
    rows, permuted_probs, sorted_indices = permute(TOKENS, ragged, num_out_tokens=12)
    np.testing.assert_array_equal(rows, TOKENS[[0, 0, 1, 0]])
    np.testing.assert_array_equal(sorted_indices, [0, 1, 3, 2])
    assert permuted_probs is None


def test_any_nonzero_routes():
    values = ROUTING_MAP * np.array([2, -1, 1, -128], np.int8)
    for got, want in zip(
        permute(TOKENS, values, probs=PROBS), permute(TOKENS, ROUTING_MAP, probs=PROBS), strict=True
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_dtypes_pass_through(dtype):
    rows, permuted_probs, _ = permute(TOKENS.astype(dtype), ROUTING_MAP, probs=PROBS)
    assert rows.dtype == dtype
    assert permuted_probs.dtype == np.float32


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_no_tokens(drop_and_pad):
    rows, permuted_probs, sorted_indices = permute(
        np.zeros((0, 5), np.float32),
        np.zeros((0, 3), np.int8),
        probs=np.zeros((0, 3), np.float32),
        drop_and_pad=drop_and_pad,
    )
    assert rows.shape == (0, 5)
    assert permuted_probs.shape == sorted_indices.shape == (0,)


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_no_experts(drop_and_pad):
    rows, _, sorted_indices = permute(
        TOKENS, np.zeros((3, 0), np.int8), num_out_tokens=0, drop_and_pad=drop_and_pad
    )
    assert rows.shape == (0, 2)
    assert sorted_indices.shape == (0,)
