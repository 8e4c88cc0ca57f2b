"""The FRACTAL_NZ oracle against positions, sizes and bytes worked out by hand."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from cases.format_cast import PLACES, SHAPES, WEIGHT, pack_int4

from moe_native.oracle import format as oracle


def test_worked_storage():
    storage = oracle.format_cast(WEIGHT, 29)
    assert storage.shape == (2, 2, 2, 16, 32)
    assert storage.size == 4096
    assert storage.dtype == np.int8
    assert storage.flags.c_contiguous
    padding = np.ones_like(storage, bool)
    for index in np.ndindex(2, 20, 40):
        padding[oracle.locate((2, 20, 40), 32, index)[1]] = False
    assert np.count_nonzero(padding) == 2496
    assert not storage[padding].any()


@pytest.mark.parametrize(("logical", "stored", "flat", "value"), PLACES)
def test_worked_positions(logical, stored, flat, value):
    storage = oracle.format_cast(WEIGHT, 29)
    assert oracle.locate(WEIGHT.shape, 32, logical) == (flat, stored)
    assert WEIGHT[logical] == storage[stored] == storage.ravel()[flat] == value


@pytest.mark.parametrize(("shape", "c0", "stored"), SHAPES)
def test_worked_shapes(shape, c0, stored):
    assert oracle.storage_shape(shape, c0) == stored


def test_worked_bytes_of_a_real_weight():
    assert np.prod(oracle.storage_shape((8, 2048, 7168), 32)) == 117_440_512


@pytest.mark.parametrize(
    ("dtype", "c0"),
    [
        (np.int8, 32),
        (np.uint8, 32),
        (np.float16, 16),
        (ml_dtypes.bfloat16, 16),
        (np.float32, 16),
        (np.int32, 16),
        (np.uint32, 16),
    ],
)
def test_default_columns_of_a_tile(dtype, c0):
    assert oracle.format_cast(np.zeros((1, 1), dtype), 29).shape == (1, 1, 16, c0)


@pytest.mark.parametrize("k", [1, 15, 16, 17, 31])
@pytest.mark.parametrize("n", [1, 31, 32, 33, 64])
@pytest.mark.parametrize("c0", [8, 16, 32, 64])
def test_element_by_element_and_back(k, n, c0):
    for lead in [(), (1,), (3,), (2, 2), (2, 1, 1, 2)]:
        w = np.random.default_rng(k * n).integers(1, 1 << 31, (*lead, k, n), np.int32)
        storage = oracle.format_cast(w, 29, c0=c0)
        assert storage.ndim == w.ndim + 2
        corners = [
            range(s) if s < 4 else sorted({0, s - 1, *(c for c in (15, 16, c0 - 1, c0) if c < s)}) for s in w.shape
        ]
        for index in itertools.product(*corners):
            flat, stored = oracle.locate(w.shape, c0, index)
            assert storage.ravel()[flat] == storage[stored] == w[index]
        assert np.count_nonzero(storage) == w.size
        np.testing.assert_array_equal(oracle.format_cast(storage, 2, shape=w.shape), w)


def test_packed_int4_is_eight_columns_of_int32():
    """64 int4 columns of a tile are 8 int32 columns: packing and tiling commute."""
    nibbles = np.random.default_rng(3).integers(-8, 8, (2, 20, 136), np.int8)
    by_nibble = pack_int4(oracle.format_cast(nibbles, 29, c0=64))
    by_word = oracle.format_cast(pack_int4(nibbles), 29, c0=8)
    assert by_nibble.shape == by_word.shape == (2, 3, 2, 16, 8)
    np.testing.assert_array_equal(by_nibble, by_word)
