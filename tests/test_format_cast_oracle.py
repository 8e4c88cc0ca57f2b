"""The NZ oracle against hand-worked positions, sizes and bytes."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from moe_native.oracle import format as oracle

# (e, k, n), index into the storage, flat position, value; for (2, 20, 40) int8 holding arange % 251 - 125
WORKED = [
    ((0, 0, 0), (0, 0, 0, 0, 0), 0, -125),
    ((0, 0, 31), (0, 0, 0, 0, 31), 31, -94),
    ((0, 0, 32), (0, 1, 0, 0, 0), 1024, -93),
    ((0, 1, 0), (0, 0, 0, 1, 0), 32, -85),
    ((0, 15, 31), (0, 0, 0, 15, 31), 511, 4),
    ((0, 16, 0), (0, 0, 1, 0, 0), 512, 13),
    ((0, 19, 39), (0, 1, 1, 3, 7), 1639, -79),
    ((1, 0, 0), (1, 0, 0, 0, 0), 2048, -78),
    ((1, 19, 39), (1, 1, 1, 3, 7), 3687, -32),
]


def worked_weight():
    return (np.arange(2 * 20 * 40) % 251 - 125).astype(np.int8).reshape(2, 20, 40)


def test_worked_storage():
    storage = oracle.format_cast(worked_weight(), 29)
    assert storage.shape == (2, 2, 2, 16, 32)
    assert storage.size == 4096
    assert storage.dtype == np.int8
    assert storage.flags.c_contiguous
    padding = np.ones_like(storage, bool)
    for index in np.ndindex(2, 20, 40):
        padding[oracle.locate((2, 20, 40), 32, index)[1]] = False
    assert np.count_nonzero(padding) == 2496
    assert not storage[padding].any()


@pytest.mark.parametrize(("logical", "stored", "flat", "value"), WORKED)
def test_worked_positions(logical, stored, flat, value):
    w = worked_weight()
    storage = oracle.format_cast(w, 29)
    assert oracle.locate(w.shape, 32, logical) == (flat, stored)
    assert w[logical] == storage[stored] == storage.ravel()[flat] == value


@pytest.mark.parametrize(
    ("shape", "c0", "stored"),
    [
        ((8, 2048, 7168), 32, (8, 224, 128, 16, 32)),
        ((1, 20, 40), 16, (1, 3, 2, 16, 16)),
        ((1, 20, 40), 8, (1, 5, 2, 16, 8)),
        ((1, 20, 130), 64, (1, 3, 2, 16, 64)),
        ((64, 128), 32, (4, 4, 16, 32)),
        ((64, 128), 16, (8, 4, 16, 16)),
        ((64, 128), 8, (16, 4, 16, 8)),
        ((64, 128), 64, (2, 4, 16, 64)),
    ],
)
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
    nibbles = np.random.default_rng(3).integers(0, 16, (2, 20, 136), np.uint8)

    def pack(w):  # low nibble first
        halves = w.reshape(*w.shape[:-1], -1, 8).astype(np.uint32) << (4 * np.arange(8, dtype=np.uint32))
        return np.bitwise_or.reduce(halves, axis=-1)

    by_nibble = pack(oracle.format_cast(nibbles, 29, c0=64))
    by_word = oracle.format_cast(pack(nibbles), 29, c0=8)
    assert by_nibble.shape == by_word.shape == (2, 3, 2, 16, 8)
    np.testing.assert_array_equal(by_nibble, by_word)
