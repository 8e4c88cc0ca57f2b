"""Weights packed once for all calls: ``pack`` and the object it returns."""

import os
from typing import Any, cast

import ml_dtypes
import numpy as np

from moe_native import _core
from moe_native.layout import NzArray
from moe_native.types import Array, ArrayLike


class PackedWeight:
    """A weight (e, k, n) in the order in which the matrix kernels of a processor read it.

    Made by :func:`pack`, or from the bytes of one. Integers are a weight for
    :func:`npu_grouped_matmul_finalize_routing` and :func:`npu_grouped_matmul_swiglu_quant`, floating types for
    :func:`npu_ffn`. They compute the same bits from it as from the weight it was made of. On the instruction set that
    it was packed for they read it as it is best for them; on any other they convert parts of it in every call, as they
    do with other weights. ``pack(packed)`` packs it for the one in use.

    Parameters
    ----------
    array : array of uint8, (bytes,)
        What :attr:`array` of another one holds. Used where it is, read-only or memory-mapped too, unless it is strided.
        All of it is read once, to see whether it is complete and unchanged.

    Raises
    ------
    TypeError
        No array of uint8.
    ValueError
        Bytes that are no packed weight, or were cut off or changed, or are of another version of the format or from a
        machine of the other byte order.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> packed = moe_native.pack(np.ones((2, 20, 40), np.int8))
    >>> packed.shape, packed.dtype, packed.is_current
    ((2, 20, 40), dtype('int8'), True)
    >>> moe_native.PackedWeight(packed.array).shape
    (2, 20, 40)
    >>> moe_native.PackedWeight(np.zeros(4096, np.uint8))
    Traceback (most recent call last):
        ...
    ValueError: pack: packed weight: bytes of something else, needed what pack made
    """

    __slots__ = ("_array",)

    _array: Array

    def __init__(self, array: ArrayLike) -> None:
        value = _core.as_array(array)
        if value is None or value.dtype != np.uint8:
            seen = type(array).__name__ if value is None else f"dtype {value.dtype}"
            raise TypeError(f"PackedWeight: array: {seen}, needed an array of uint8")
        if value.ndim != 1:
            raise ValueError(f"PackedWeight: array: shape {value.shape}, needed (bytes,)")
        self._array = np.require(value, requirements=["C"])
        _core.packed_verify(self._array)

    @property
    def array(self) -> Array:
        """All of it as bytes: what to store, to send, or to share between processes."""
        return self._array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Experts, k and n."""
        return cast(tuple[int, int, int], _core.packed_description(self._array)[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the weight: float32, float16 or int8, or bfloat16 or int4 of ``ml_dtypes``."""
        name = str(_core.packed_description(self._array)[1])
        special = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "int4": np.dtype(ml_dtypes.int4)}
        return special[name] if name in special else np.dtype(name)

    @property
    def is_current(self) -> bool:
        """Whether this is how :func:`pack` would pack it for the kernels that would be used now.

        That depends on the instruction set, and for bfloat16 on `bf16_mode`, which each thread has of its own.
        """
        return bool(_core.packed_description(self._array)[2])

    @property
    def nbytes(self) -> int:
        """Bytes of it, header included."""
        return self._array.nbytes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :attr:`array` to a file, as ``numpy.save`` does.

        Examples
        --------
        >>> import numpy as np, moe_native, os, tempfile
        >>> packed = moe_native.pack(np.ones((2, 20, 40), np.int8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "weight.npy")
        ...     packed.save(path)
        ...     moe_native.load_packed(path).shape
        (2, 20, 40)
        """
        with open(path, "wb") as file:
            np.save(file, self._array)

    def __repr__(self) -> str:
        return f"PackedWeight(shape={self.shape}, dtype={self.dtype})"


_core.set_packed_weight_class(PackedWeight)


def pack(
    w: ArrayLike | NzArray | PackedWeight, *, k: int | None = None, n: int | None = None, out: Array | None = None
) -> PackedWeight:
    """Pack a weight for the instruction set in use.

    :func:`npu_grouped_matmul_finalize_routing`, :func:`npu_grouped_matmul_swiglu_quant` and :func:`npu_ffn` bring a
    weight into the order of their kernels in every call, and need memory for that. A packed one was brought there once.
    Where kernels compute in another type than the weight has, a call still converts it: int8 on processors without
    products of bytes, float16, and bfloat16 where no dot products are used.

    Parameters
    ----------
    w : array, NzArray or PackedWeight
        In any form the operators take. For grouped products: int8 (e, k, n), int32 (e, k, n / 8) with eight int4 each,
        tiles (e, n1, k1, 16, c0). For :func:`npu_ffn`: float32, float16 or bfloat16 (e, k, n), or (k, n), which
        becomes (1, k, n). Or one that was packed for another instruction set. int4 takes twice its memory packed.
    k, n : int, optional
        Rows and columns of the weight where the shape of `w` does not say them exactly: raw tiles may hold fewer
        than they have room for, and an int32 fewer than eight columns. By default as many as fit.
    out : array of uint8, (bytes,), optional
        Where to put the bytes; ``pack(w).nbytes`` of them.

    Returns
    -------
    PackedWeight
        A copy of `w` of its own.

    Raises
    ------
    TypeError
        A dtype that is no weight's.
    ValueError
        A shape or size that does not fit.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> rng = np.random.default_rng(0)
    >>> w = rng.integers(-128, 128, (2, 64, 96), dtype=np.int8)
    >>> arguments = {
    ...     "x": rng.integers(-128, 128, (5, 64), dtype=np.int8),
    ...     "group_list": np.array([2, 3]),
    ...     "scale": np.ones((2, 96), np.float32),
    ...     "row_index": np.array([0, 1, 2, 0, 1]),
    ...     "output_bs": 3,
    ... }
    >>> packed = moe_native.pack(w)
    >>> y = moe_native.npu_grouped_matmul_finalize_routing(w=packed, **arguments)
    >>> bool((y == moe_native.npu_grouped_matmul_finalize_routing(w=w, **arguments)).all())
    True
    >>> x, w1, w2 = rng.normal(size=(3, 20)), rng.normal(size=(20, 40)), rng.normal(size=(40, 20))
    >>> x, w1, w2 = (array.astype(np.float16) for array in (x, w1, w2))
    >>> y = moe_native.npu_ffn(x, moe_native.pack(w1), moe_native.pack(w2), "silu")
    >>> bool((y == moe_native.npu_ffn(x, w1, w2, "silu")).all())
    True
    """
    if not isinstance(w, (NzArray, PackedWeight)) and _core.as_array(w) is None:
        raise TypeError(f"pack: w: {type(w).__name__}, needed an array, an NzArray or a PackedWeight")
    for name, size in (("k", k), ("n", n)):
        if size == 0:
            raise ValueError(f"pack: {name}: 0, needed 1 or more")
    array = _core.pack(w, 0 if k is None else k, 0 if n is None else n, out)
    packed = PackedWeight.__new__(PackedWeight)
    packed._array = array
    return packed


def load_packed(path: str | os.PathLike[str]) -> PackedWeight:
    """Return the weight that :meth:`PackedWeight.save` wrote, packed for the instruction set in use.

    One that was packed for another instruction set is packed again. To share one copy between processes, or to start
    without reading a large file into memory, use ``PackedWeight(np.load(path, mmap_mode="r"))``.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    PackedWeight
        One for which :attr:`PackedWeight.is_current` is true.

    Raises
    ------
    OSError
        A file that cannot be read.
    ValueError
        A file that is no packed weight, or was cut off or changed, or comes from a later version of the library or a
        machine of the other byte order.

    Examples
    --------
    >>> import numpy as np, moe_native, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weight.npy")
    ...     moe_native.pack(np.ones((2, 20, 40), np.int8)).save(path)
    ...     moe_native.load_packed(path)
    PackedWeight(shape=(2, 20, 40), dtype=int8)
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except Exception as error:  # whatever NumPy raises at bytes that are no array
            raise ValueError(f"load_packed: {name}: no array, needed a file that PackedWeight.save wrote") from error
        size = os.fstat(file.fileno()).st_size - file.tell()
        if dtype != np.uint8 or len(shape) != 1:
            raise ValueError(f"load_packed: {name}: an array {dtype} {shape}, needed uint8 (bytes,)")
        if shape[0] != size:
            raise ValueError(f"load_packed: {name}: {size} bytes of an array of {shape[0]}, needed a whole file")
        array = _core.aligned_bytes(size)
        file.readinto(array.data)
    try:
        packed = PackedWeight(array)
    except ValueError as error:
        raise ValueError(f"load_packed: {name}: {error}") from error
    return packed if packed.is_current else pack(packed)
