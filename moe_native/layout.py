"""FRACTAL_NZ, the tiled storage of weights: ``npu_format_cast`` and the array object it returns."""

import operator
from typing import Any, Literal, NamedTuple, SupportsIndex, cast, overload

import ml_dtypes
import numpy as np
import numpy.typing as npt

from moe_native import _core
from moe_native.types import Array, ArrayLike, as_dtype

_ND: Literal[2] = 2
_NZ: Literal[29] = 29

# aclDataType numbers of the types that can fix the width of a tile.
_ACL_DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    2: np.dtype(np.int8),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    8: np.dtype(np.uint32),
    27: np.dtype(ml_dtypes.bfloat16),
}


class NzLocation(NamedTuple):
    """Where an element of an :class:`NzArray` is stored."""

    flat: int
    """Position in the storage, counted in elements."""
    multi_index: tuple[int, ...]
    """Index into the storage array: (..., n1, k1, row of the tile, column of the tile)."""


class NzArray:
    """A matrix, or a stack of them, in FRACTAL_NZ storage, which knows its logical shape.

    A matrix (k, n) is cut into tiles of 16 rows by `c0` columns, padded with zeros; the storage has the shape
    (..., ceil(n / c0), ceil(k / 16), 16, c0) and ``storage[..., n // c0, k // 16, k % 16, n % c0]`` is element
    (..., k, n). Operators that multiply by a weight take this object directly. Made by :func:`npu_format_cast`, or
    from storage that comes from elsewhere.

    Parameters
    ----------
    storage : array, (..., n1, k1, 16, c0)
        Kept as it is when it is C-contiguous, else copied. Its padding may hold anything; it is never read.
    shape : tuple of int
        Logical shape (..., k, n), 2 to 6 dimensions.

    Raises
    ------
    TypeError
        A dtype that is not numeric.
    ValueError
        A storage shape that does not belong to `shape`.

    Examples
    --------
    >>> import numpy as np
    >>> from moe_native import npu_format_cast
    >>> weight = npu_format_cast(np.arange(2 * 20 * 40, dtype=np.int16).astype(np.int8).reshape(2, 20, 40), 29)
    >>> weight
    NzArray(shape=(2, 20, 40), dtype=int8, c0=32)
    >>> weight.storage.shape
    (2, 2, 2, 16, 32)
    >>> weight.locate(0, 19, 39)
    NzLocation(flat=1639, multi_index=(0, 1, 1, 3, 7))
    >>> bool(weight.storage[0, 1, 1, 3, 7] == weight.to_nd()[0, 19, 39])
    True
    """

    __slots__ = ("_shape", "_storage")

    _shape: tuple[int, ...]
    _storage: Array

    def __init__(self, storage: ArrayLike, shape: tuple[SupportsIndex, ...]) -> None:
        array = _core.as_array(storage)
        if array is None:
            raise TypeError(f"NzArray: storage: {type(storage).__name__}, needed an array")
        self._storage = np.require(array, requirements=["C", "A"])
        self._shape = tuple(operator.index(size) for size in shape)
        _core.nz_check(self._storage, self._shape)

    @property
    def storage(self) -> Array:
        """The stored array, (..., n1, k1, 16, c0), C-contiguous."""
        return self._storage

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape, (..., k, n)."""
        return self._shape

    @property
    def ndim(self) -> int:
        """Number of logical dimensions."""
        return len(self._shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the elements."""
        return self._storage.dtype

    @property
    def format(self) -> Literal[29]:
        """29, the number of FRACTAL_NZ."""
        return _NZ

    @property
    def c0(self) -> int:
        """Columns of a tile."""
        return int(self._storage.shape[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of the storage, padding included."""
        return self._storage.nbytes

    def to_nd(self, out: Array | None = None) -> Array:
        """Return the elements as a plain array of the logical shape, in `out` if that is given.

        Examples
        --------
        >>> import numpy as np
        >>> from moe_native import npu_format_cast
        >>> npu_format_cast(np.array([[1, 2], [3, 4]], np.float32), 29).to_nd()
        array([[1., 2.],
               [3., 4.]], dtype=float32)
        """
        return cast(Array, _core.nz_to_nd(self, out))

    def numpy(self) -> Array:
        """Return :meth:`to_nd`."""
        return self.to_nd()

    def locate(self, *index: SupportsIndex) -> NzLocation:
        """Return where element `index`, e.g. (e, k, n), is stored.

        Negative numbers count from the end. An index outside the array is an ``IndexError``.

        Examples
        --------
        >>> import numpy as np
        >>> from moe_native import npu_format_cast
        >>> npu_format_cast(np.zeros((20, 40), np.float16), 29).locate(-1, -1)
        NzLocation(flat=1335, multi_index=(2, 1, 3, 7))
        """
        if len(index) != self.ndim:
            raise IndexError(f"NzArray: index: {len(index)} numbers, needed {self.ndim} for shape {self._shape}")
        where = []
        for d, (i, size) in enumerate(zip(map(operator.index, index), self._shape, strict=True)):
            if not -size <= i < size:
                raise IndexError(f"NzArray: index: {i} in dimension {d}, needed {-size} to {size - 1}")
            where.append(i % size)
        flat, stored = _core.nz_locate(self._storage, self._shape, tuple(where))
        return NzLocation(flat, stored)

    def view(self, dtype: npt.DTypeLike) -> "NzArray":
        """Return the same memory read as another dtype, whose tiles are as many bytes wide.

        The last dimension changes with the item size, as it does for a plain array. A weight of packed int4, cast as
        int8 (e, k, n / 2), becomes the int32 (e, k, n / 8) that the operators take.

        Examples
        --------
        >>> import numpy as np
        >>> from moe_native import npu_format_cast
        >>> npu_format_cast(np.zeros((4, 32, 64), np.int8), 29).view(np.int32)
        NzArray(shape=(4, 32, 16), dtype=int32, c0=8)
        """
        dtype = np.dtype(dtype)
        row = self._shape[-1] * self.dtype.itemsize
        if row % dtype.itemsize != 0:
            raise ValueError(f"NzArray: dtype: {dtype}, needed one that divides a row of {row} bytes")
        return NzArray(self._storage.view(dtype), (*self._shape[:-1], row // dtype.itemsize))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("NzArray: copy: False, but a plain array needs a copy")
        array = self.to_nd()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"NzArray(shape={self._shape}, dtype={self.dtype}, c0={self.c0})"


_core.set_nz_array_class(NzArray)


def _tile_columns(itemsize: int, customize_dtype: Any, c0: int | None) -> int:
    """Columns of a tile of `itemsize`-byte elements, from the two arguments that can change it."""
    if customize_dtype is None:
        return c0 if c0 is not None else 16 if itemsize == 4 else 32 // max(1, itemsize)
    is_number = isinstance(customize_dtype, (int, np.integer)) and not isinstance(customize_dtype, bool)
    dtype = _ACL_DTYPES.get(int(customize_dtype)) if is_number else as_dtype(customize_dtype)
    if dtype is None or dtype not in _ACL_DTYPES.values():
        choice = ", ".join(f"{dtype} ({number})" for number, dtype in _ACL_DTYPES.items())
        error = TypeError if dtype is None and not is_number else ValueError
        raise error(f"npu_format_cast: customize_dtype: {customize_dtype!r}, needed one of {choice}")
    columns = 32 // dtype.itemsize
    if c0 is not None and c0 != columns:
        raise ValueError(f"npu_format_cast: c0: {c0}, needed {columns} as customize_dtype {dtype} says, or one of both")
    return columns


def _refuse_out(out: Array | None) -> None:
    """Raise if an array was given for a result that is the input itself."""
    if out is not None:
        raise ValueError("npu_format_cast: out: given, but input has the format already and is returned itself")


@overload
def npu_format_cast(
    input: ArrayLike | NzArray,
    acl_format: Literal[29],
    customize_dtype: Any = None,
    *,
    c0: int | None = None,
    out: Array | None = None,
) -> NzArray: ...
@overload
def npu_format_cast(
    input: ArrayLike | NzArray,
    acl_format: Literal[2],
    customize_dtype: Any = None,
    *,
    c0: int | None = None,
    out: Array | None = None,
) -> Array: ...
@overload
def npu_format_cast(
    input: ArrayLike | NzArray,
    acl_format: int,
    customize_dtype: Any = None,
    *,
    c0: int | None = None,
    out: Array | None = None,
) -> Array | NzArray: ...
def npu_format_cast(
    input: ArrayLike | NzArray,
    acl_format: int,
    customize_dtype: Any = None,
    *,
    c0: int | None = None,
    out: Array | None = None,
) -> Array | NzArray:
    """Convert a weight between plain (ND) and tiled (FRACTAL_NZ) storage.

    Elements keep their bits. What already has the format, and the tile width if one is asked for, is returned itself.

    Parameters
    ----------
    input : array or NzArray, (..., k, n)
        2 to 6 dimensions; integers and floats of 1, 2, 4 or 8 bytes. Eight int4 packed into an int32 (low nibble
        first, along n) are cast as the int32 (..., k, n / 8) that they are.
    acl_format : {29, 2}
        29: to FRACTAL_NZ. 2: to a plain array.
    customize_dtype : dtype or int, optional
        Makes the tiles as wide as 32 bytes of this dtype (an int is an aclDataType number: 2 is int8, 3 int32).
    c0 : {2, 4, 8, 16, 32, 64}, optional
        Columns of a tile. By default 32 for 1-byte elements, 16 for 2-byte and 4-byte ones, 4 for 8-byte ones; a
        device of the C interface has 8 for 4-byte elements, which ``c0=8`` and ``customize_dtype=3`` give.
    out : array, optional
        Where to put the result: for format 29 the storage (..., ceil(n / c0), ceil(k / 16), 16, c0), for format 2
        the plain array. C-contiguous, of the dtype of `input`, overlapping it nowhere.

    Returns
    -------
    NzArray or array
        An :class:`NzArray` for format 29, an array for format 2.

    Raises
    ------
    TypeError
        A dtype that is not numeric.
    ValueError
        A format other than 2 and 29, a rank or `c0` that is not allowed, or an `out` that does not fit or has
        nothing to receive because `input` already is what was asked for.

    Notes
    -----
    ``torch_npu.npu_format_cast``; ``aclnnNpuFormatCast``.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> weight = np.arange(3 * 40, dtype=np.int8).reshape(3, 40)
    >>> nz = moe_native.npu_format_cast(weight, 29)
    >>> nz, nz.storage.shape
    (NzArray(shape=(3, 40), dtype=int8, c0=32), (2, 1, 16, 32))
    >>> bool((moe_native.npu_format_cast(nz, 2) == weight).all())
    True
    """
    if isinstance(acl_format, bool) or not isinstance(acl_format, SupportsIndex):
        raise TypeError(f"npu_format_cast: acl_format: {acl_format!r}, needed an int")
    if acl_format not in (_ND, _NZ):
        raise ValueError(f"npu_format_cast: acl_format: {acl_format}, needed 29 (FRACTAL_NZ) or 2 (ND)")
    if c0 is not None and c0 not in (2, 4, 8, 16, 32, 64):
        raise ValueError(f"npu_format_cast: c0: {c0}, needed 2, 4, 8, 16, 32 or 64")
    array: Array | NzArray | None = input if isinstance(input, NzArray) else _core.as_array(input)
    if array is None:
        raise TypeError(f"npu_format_cast: input: {type(input).__name__}, needed an array")
    columns = _tile_columns(array.dtype.itemsize, customize_dtype, c0)
    if isinstance(array, NzArray):
        if acl_format == _ND:
            return array.to_nd(out)
        if (customize_dtype is None and c0 is None) or columns == array.c0:
            _refuse_out(out)
            return array
        array = array.to_nd()
    elif acl_format == _ND:
        _refuse_out(out)
        return array
    return NzArray(_core.nd_to_nz(array, columns, out), array.shape)
