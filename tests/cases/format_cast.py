"""Places in FRACTAL_NZ that were worked out by hand."""

import numpy as np

# (2, 20, 40) int8; stored as (2, 2, 2, 16, 32), 4096 elements of which 2496 are padding
WEIGHT = (np.arange(2 * 20 * 40) % 251 - 125).astype(np.int8).reshape(2, 20, 40)

# (e, k, n), index into the storage, flat position, value
PLACES = [
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

# shape, c0, storage shape
SHAPES = [
    ((8, 2048, 7168), 32, (8, 224, 128, 16, 32)),
    ((1, 20, 40), 16, (1, 3, 2, 16, 16)),
    ((1, 20, 40), 8, (1, 5, 2, 16, 8)),
    ((1, 20, 130), 64, (1, 3, 2, 16, 64)),
    ((64, 128), 32, (4, 4, 16, 32)),
    ((64, 128), 16, (8, 4, 16, 16)),
    ((64, 128), 8, (16, 4, 16, 8)),
    ((64, 128), 64, (2, 4, 16, 64)),
]


def pack_int4(nibbles):
    """Eight int4 of the last dimension into an int32, the first in the low nibble."""
    words = nibbles.reshape(*nibbles.shape[:-1], -1, 8).astype(np.uint32) & 15
    return np.bitwise_or.reduce(words << (4 * np.arange(8, dtype=np.uint32)), axis=-1).view(np.int32)
