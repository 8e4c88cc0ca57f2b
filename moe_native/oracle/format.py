"""NZ layout: the tiled storage in which an Ascend device keeps a matrix, as NumPy sees it."""

import numpy as np

ND = 2
NZ = 29
K0 = 16  # rows of a tile, for every element type


def default_c0(itemsize):
    """Columns of a tile: 32 bytes of them, except that 4-byte types get 16 columns unless asked otherwise."""
    return 16 if itemsize == 4 else 32 // itemsize


def storage_shape(shape, c0):
    """Shape of the stored array for a logical shape (..., k, n)."""
    *lead, k, n = shape
    return (*lead, -(-n // c0), -(-k // K0), K0, c0)


def format_cast(input, acl_format, *, c0=None, shape=None):
    """ND (2) to NZ (29): the zero-padded storage; NZ to ND: `input` is storage, `shape` the logical shape."""
    input = np.asarray(input)
    if acl_format == ND:
        k, n = shape[-2:]
        rows = np.moveaxis(input, -4, -2)  # (..., k1, k0, n1, c0)
        k1, k0, n1, c0 = rows.shape[-4:]
        return rows.reshape(*shape[:-2], k1 * k0, n1 * c0)[..., :k, :n]
    c0 = default_c0(input.itemsize) if c0 is None else c0
    *lead, n1, k1, k0, c0 = storage_shape(input.shape, c0)
    padded = np.zeros((*lead, k1 * k0, n1 * c0), input.dtype)
    padded[..., : input.shape[-2], : input.shape[-1]] = input
    return np.ascontiguousarray(np.moveaxis(padded.reshape(*lead, k1, k0, n1, c0), -2, -4))


def locate(shape, c0, index):
    """Flat position in the storage, and index into the stored array, of the logical element `index`."""
    *lead, k, n = index
    where = (*lead, n // c0, k // K0, k % K0, n % c0)
    flat = 0
    for size, i in zip(storage_shape(shape, c0), where, strict=True):
        flat = flat * size + i
    return flat, where
