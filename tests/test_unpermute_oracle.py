"""The definition of the unpermute operators against numbers worked by hand."""

import numpy as np
import pytest

from moe_native.oracle.permute import (
    _moe_token_unpermute_with_routing_map as unpermute_all,
)
from moe_native.oracle.permute import (
    moe_token_permute_with_routing_map as permute,
)
from moe_native.oracle.permute import (
    moe_token_unpermute_with_routing_map as unpermute,
)

TOKENS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
ROUTING_MAP = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]], np.int8)
PROBS = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8], [0.9, 1.0, 1.1, 1.2]], np.float32)
EPS = float(np.finfo(np.float32).eps)


def assert_close_to_hand_numbers(got, want, terms):
    """`want` is in decimals: each probability is half an ulp off, then `terms` products and sums round.

    All numbers are positive here, so the sum of the magnitudes is the result itself.
    """
    assert np.all(np.abs(got - np.array(want)) <= EPS * (terms + 1) * np.abs(np.array(want)))


def test_dropless_with_probs():
    rows, _, sorted_indices = permute(TOKENS, ROUTING_MAP, num_out_tokens=6)
    total, out_index, token_id, permute_probs = unpermute_all(
        rows, sorted_indices, (3, 2), probs=PROBS, routing_map=ROUTING_MAP
    )
    assert total.dtype == np.float64
    assert_close_to_hand_numbers(total, [[0.4, 0.8], [3.9, 5.2], [10.5, 12.6]], terms=2)
    np.testing.assert_array_equal(permute_probs, np.array([0.1, 0.3, 0.6, 0.7, 0.9, 1.2], np.float32))
    np.testing.assert_array_equal(out_index, np.zeros(6, np.int32))
    np.testing.assert_array_equal(token_id, np.zeros(6, np.int32))


def test_dropless_without_probs():
    rows, _, sorted_indices = permute(TOKENS, ROUTING_MAP, num_out_tokens=6)
    total, _, _, permute_probs = unpermute_all(rows, sorted_indices, (3, 2))
    np.testing.assert_array_equal(total, 2 * TOKENS)
    assert permute_probs is None


def test_padded_with_probs():
    rows, _, sorted_indices = permute(TOKENS, ROUTING_MAP, num_out_tokens=8, drop_and_pad=True)
    total, out_index, token_id, permute_probs = unpermute_all(
        rows, sorted_indices, (3, 2), probs=PROBS, routing_map=ROUTING_MAP, drop_and_pad=True
    )
    assert_close_to_hand_numbers(total, [[1.0, 2.0], [3.9, 5.2], [10.5, 12.6]], terms=4)
    assert out_index.dtype == token_id.dtype == np.int32
    np.testing.assert_array_equal(out_index, [0, 3, 4, 7, 2, 5, 1, 6])
    np.testing.assert_array_equal(token_id, [0, 0, 0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(
        permute_probs, np.array([0.1, 0.9, 0.6, 0.2, 0.3, 0.7, 1.2, 0.4], np.float32)
    )


def test_padded_without_probs():
    rows, _, sorted_indices = permute(TOKENS, ROUTING_MAP, num_out_tokens=8, drop_and_pad=True)
    np.testing.assert_array_equal(
        unpermute(rows, sorted_indices, (3, 2), drop_and_pad=True), [[4, 8], [6, 8], [10, 12]]
    )


def test_padded_token_that_nobody_selects():
    total, out_index, token_id, permute_probs = unpermute_all(
        np.ones((2, 2), np.float32),
        np.array([1, 1], np.int32),
        (2, 2),
        probs=np.ones((2, 2), np.float32),
        routing_map=np.ones((2, 2), np.int8),
        drop_and_pad=True,
    )
    np.testing.assert_array_equal(total, [[0, 0], [2, 2]])
    assert not np.signbit(total).any()
    np.testing.assert_array_equal(out_index, [0, 1])
    np.testing.assert_array_equal(token_id, [1, 1])
    np.testing.assert_array_equal(permute_probs, [1, 1])


def test_a_probability_of_zero_hides_the_token_in_dropless_mode_only():
    rows = np.array([[np.inf, np.nan], [3, 4]], np.float32)
    indices = np.array([0, 1], np.int32)
    probs = np.array([[0.0, 2.0]], np.float32)
    routing_map = np.ones((1, 2), np.int8)
    np.testing.assert_array_equal(
        unpermute(rows, indices, (1, 2), probs=probs, routing_map=routing_map), [[6, 8]]
    )
    padded = unpermute(rows, np.zeros(2, np.int32), (1, 2), probs=probs, drop_and_pad=True)
    assert np.isnan(padded).all()


def test_dropless_accumulates_in_float32_and_padded_in_float64():
    # In float32 2**24 + 1 is 2**24 again, twice; in float64 nothing is lost.
    rows = np.array([[2.0**24], [1], [1]], np.float32)
    dropless = unpermute(rows, np.arange(3, dtype=np.int32), (1, 1))
    padded = unpermute(rows, np.zeros(3, np.int32), (1, 1), drop_and_pad=True)
    assert dropless[0, 0] == 2.0**24
    assert padded[0, 0] == 2.0**24 + 2


def test_products_are_rounded_to_float32_in_both_modes():
    x = np.float32(1 + 2**-23)
    rows, probs = np.array([[x]], np.float32), np.array([[x]], np.float32)
    for drop_and_pad in (False, True):
        total = unpermute(
            rows,
            np.zeros(1, np.int32),
            (1, 1),
            probs=probs,
            routing_map=np.ones((1, 1), np.int8),
            drop_and_pad=drop_and_pad,
        )
        assert total[0, 0] == 1 + 2**-22


def test_one_term_keeps_its_sign():
    rows = np.array([[-0.0, 0.0]], np.float32)
    for drop_and_pad in (False, True):
        total = unpermute(rows, np.zeros(1, np.int32), (1, 2), drop_and_pad=drop_and_pad)
        np.testing.assert_array_equal(np.signbit(total), [[True, False]])


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_nothing_permuted_gives_zeros(drop_and_pad):
    total, out_index, token_id, permute_probs = unpermute_all(
        np.zeros((0, 2), np.float32), np.zeros(0, np.int32), (3, 2), drop_and_pad=drop_and_pad
    )
    np.testing.assert_array_equal(total, np.zeros((3, 2)))
    assert out_index.shape == token_id.shape == (0,)
    assert permute_probs is None
