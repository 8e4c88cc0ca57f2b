"""The oracle of npu_moe_token_unpermute_with_routing_map against numbers worked out by hand."""

import numpy as np
import pytest
from cases.permute import UNPERMUTE, assert_unpermuted

from moe_native.oracle.permute import (
    _moe_token_unpermute_with_routing_map as unpermute_all,
)
from moe_native.oracle.permute import (
    moe_token_unpermute_with_routing_map as unpermute,
)


@pytest.mark.parametrize("case", UNPERMUTE)
def test_worked_number(case):
    arguments, needed = UNPERMUTE[case]
    seen = unpermute_all(**arguments)
    assert seen[0].dtype == np.float64
    assert_unpermuted(seen, needed)
    np.testing.assert_array_equal(unpermute(**arguments), seen[0])


def test_a_probability_of_zero_hides_the_token_in_dropless_mode_only():
    rows = np.array([[np.inf, np.nan], [3, 4]], np.float32)
    indices = np.array([0, 1], np.int32)
    probs = np.array([[0.0, 2.0]], np.float32)
    routing_map = np.ones((1, 2), np.int8)
    np.testing.assert_array_equal(unpermute(rows, indices, (1, 2), probs=probs, routing_map=routing_map), [[6, 8]])
    padded = unpermute(rows, np.zeros(2, np.int32), (1, 2), probs=probs, drop_and_pad=True)
    assert np.isnan(padded).all()


def test_dropless_accumulates_in_float32_and_padded_in_float64():
    # In float32 2**24 + 1 is 2**24 again, twice; in float64 nothing is lost.
    rows = np.array([[2.0**24], [1], [1]], np.float32)
    dropless = unpermute(rows, np.arange(3, dtype=np.int32), (1, 1))
    padded = unpermute(rows, np.zeros(3, np.int32), (1, 1), drop_and_pad=True)
    assert dropless[0, 0] == 2.0**24
    assert padded[0, 0] == 2.0**24 + 2


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_products_are_rounded_to_float32(drop_and_pad):
    x = np.array([[1 + 2**-23]], np.float32)
    total = unpermute(
        x,
        np.zeros(1, np.int32),
        (1, 1),
        probs=x,
        routing_map=np.ones((1, 1), np.int8),
        drop_and_pad=drop_and_pad,
    )
    assert total[0, 0] == 1 + 2**-22


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_one_term_keeps_its_sign(drop_and_pad):
    rows = np.array([[-0.0, 0.0]], np.float32)
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
