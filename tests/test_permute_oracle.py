"""The oracle of npu_moe_token_permute_with_routing_map against numbers worked out by hand."""

import ml_dtypes
import numpy as np
import pytest
from cases.permute import PERMUTE, PROBS, ROUTING_MAP, TOKENS

from moe_native.oracle.permute import moe_token_permute_with_routing_map as permute


@pytest.mark.parametrize("map_dtype", [np.int8, np.bool_])
@pytest.mark.parametrize("case", PERMUTE)
def test_worked_number(case, map_dtype):
    arguments, needed = PERMUTE[case]
    seen = permute(**(arguments | {"routing_map": arguments["routing_map"].astype(map_dtype)}))
    for got, want in zip(seen, needed, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_ragged_map():
    # The operator refuses it; the order is defined all the same.
    ragged = np.array([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], np.bool_)
    rows, permuted_probs, sorted_indices = permute(TOKENS, ragged, num_out_tokens=12)
    np.testing.assert_array_equal(rows, TOKENS[[0, 0, 1, 0]])
    np.testing.assert_array_equal(sorted_indices, [0, 1, 3, 2])
    assert permuted_probs is None


def test_any_nonzero_routes():
    values = ROUTING_MAP * np.array([2, -1, 1, -128], np.int8)
    for got, want in zip(permute(TOKENS, values, probs=PROBS), permute(TOKENS, ROUTING_MAP, probs=PROBS), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_dtypes_pass_through(dtype):
    rows, permuted_probs, _ = permute(TOKENS.astype(dtype), ROUTING_MAP, probs=PROBS)
    assert rows.dtype == dtype
    assert permuted_probs.dtype == np.float32


@pytest.mark.parametrize("drop_and_pad", [False, True])
@pytest.mark.parametrize(("tokens", "experts"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_route(tokens, experts, drop_and_pad):
    rows, permuted_probs, sorted_indices = permute(
        np.zeros((tokens, 5), np.float32),
        np.zeros((tokens, experts), np.int8),
        probs=np.zeros((tokens, experts), np.float32),
        num_out_tokens=0,
        drop_and_pad=drop_and_pad,
    )
    assert rows.shape == (0, 5)
    assert permuted_probs.shape == sorted_indices.shape == (0,)
