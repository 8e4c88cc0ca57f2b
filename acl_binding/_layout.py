"""Data types, formats, and the layout FRACTAL_NZ."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from acl_binding._cdef import ffi

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

_ACL_NAMES = {
    "float32": "ACL_FLOAT",
    "float16": "ACL_FLOAT16",
    "bfloat16": "ACL_BF16",
    "int8": "ACL_INT8",
    "int16": "ACL_INT16",
    "int32": "ACL_INT32",
    "int64": "ACL_INT64",
    "uint8": "ACL_UINT8",
    "uint16": "ACL_UINT16",
    "uint32": "ACL_UINT32",
    "uint64": "ACL_UINT64",
    "float64": "ACL_DOUBLE",
    "bool": "ACL_BOOL",
    "complex64": "ACL_COMPLEX64",
    "complex128": "ACL_COMPLEX128",
    "float8_e5m2": "ACL_FLOAT8_E5M2",
    "float8_e4m3fn": "ACL_FLOAT8_E4M3FN",
    "float8_e8m0fnu": "ACL_FLOAT8_E8M0",
}
_FORMATS = ("ND", "NCHW", "NHWC", "HWCN", "NCDHW", "NDHWC", "NC", "NCL", "FRACTAL_NZ")

ACL_DTYPES: dict[str, int] = {name: ffi.integer_const(acl) for name, acl in _ACL_NAMES.items()}
INT4: int = ffi.integer_const("ACL_INT4")
FORMATS: dict[str, int] = {name: ffi.integer_const(f"ACL_FORMAT_{name}") for name in _FORMATS}
ND, NZ = FORMATS["ND"], FORMATS["FRACTAL_NZ"]
FORMATS["NZ"] = NZ
_NZ_BYTES, _NZ_ROWS = 32, 16


def numpy_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return a data type in the byte order of the machine; names of ml_dtypes are known as well."""
    if isinstance(dtype, str) and dtype in ACL_DTYPES:
        dtype = getattr(ml_dtypes, dtype, dtype)
    native = np.dtype(dtype).newbyteorder("=")
    acl_dtype(native)
    return native


def acl_dtype(dtype: np.dtype[Any]) -> int:
    """Return the number of a data type.

    Examples
    --------
    >>> import numpy as np
    >>> from acl_binding._layout import acl_dtype
    >>> acl_dtype(np.dtype("float16"))
    1
    """
    number = ACL_DTYPES.get(dtype.name)
    if number is None:
        raise TypeError(
            f"dtype: {dtype} has no counterpart, needed one of {', '.join(ACL_DTYPES)}, or 'int4' in integers"
        )
    return number


def format_number(format: str | int) -> int:
    """Return the number of a format; numbers stay what they are."""
    if not isinstance(format, str):
        return size("format", format)
    if format not in FORMATS:
        raise ValueError(f"format: {format!r}, needed one of {', '.join(FORMATS)}, or a number of aclFormat")
    return FORMATS[format]


def size(name: str, value: Any) -> int:
    """Return a number of elements or bytes as one that the interface takes."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {value!r}, needed an int") from None
    if not 0 <= number < 2**63:
        raise ValueError(f"{name}: {number}, needed a number of 0 or more, below 2**63")
    return number


def sizes(name: str, values: Any) -> Shape:
    """Return a shape, or strides, as numbers that the interface takes.

    Examples
    --------
    >>> import numpy as np
    >>> from acl_binding._layout import sizes
    >>> sizes("shape", np.array([2, 3]))
    (2, 3)
    """
    try:
        given = tuple(values)
    except TypeError:
        raise TypeError(f"{name}: {values!r}, needed a sequence of int") from None
    return tuple(size(name, value) for value in given)


def row_major(shape: Sequence[int]) -> Shape:
    """Return the strides of a dense array, in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def int4_shape(shape: Shape, itemsize: int) -> Shape:
    """Return the shape in int4 of integers that hold them.

    Examples
    --------
    >>> from acl_binding._layout import int4_shape
    >>> int4_shape((3, 8), 4)
    (3, 64)
    """
    if not shape:
        raise ValueError("dtype: int4 in a single integer, needed at least 1 dimension")
    return *shape[:-1], 2 * itemsize * shape[-1]


def nz_storage_shape(shape: Sequence[int], itemsize: float) -> Shape:
    """Return the shape that FRACTAL_NZ stores a shape in; an int4 is half a byte.

    Examples
    --------
    >>> from acl_binding._layout import nz_storage_shape
    >>> nz_storage_shape((2, 64, 128), 1)
    (2, 4, 4, 16, 32)
    """
    if len(shape) < 2:
        raise ValueError(f"format: FRACTAL_NZ of the shape {tuple(shape)}, needed at least 2 dimensions")
    *batch, k, n = shape
    c0 = int(_NZ_BYTES / itemsize)
    return *batch, -(-n // c0), -(-k // _NZ_ROWS), _NZ_ROWS, c0


def to_nz(array: Array) -> Array:
    """Lay an array out as FRACTAL_NZ, with zeros where the tiles reach beyond it."""
    *batch, columns, rows, k0, c0 = nz_storage_shape(array.shape, array.dtype.itemsize)
    k, n = array.shape[-2:]
    padded = np.zeros((*batch, rows * k0, columns * c0), array.dtype)
    padded[..., :k, :n] = array
    tiles = padded.reshape(*batch, rows, k0, columns, c0)
    return np.ascontiguousarray(np.moveaxis(tiles, -2, -4))


def from_nz(storage: Array, shape: Shape) -> Array:
    """Undo :func:`to_nz`."""
    *batch, columns, rows, k0, c0 = storage.shape
    padded = np.moveaxis(storage, -4, -2).reshape(*batch, rows * k0, columns * c0)
    return np.ascontiguousarray(padded[..., : shape[-2], : shape[-1]])
