"""Helpers for tests of code that uses the operators: poisoned and guarded outputs, exact comparison, strided inputs."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from moe_native import _core
from moe_native.types import Array

_GUARD = 64
_POISON = 0xA7

bfloat16 = np.dtype(ml_dtypes.bfloat16)


def guarded(shape: tuple[int, ...], dtype: npt.DTypeLike) -> tuple[Array, Callable[[], None]]:
    """Return a poisoned array for ``out=`` and a function that asserts that nothing around it was written.

    Examples
    --------
    >>> from moe_native.testing import guarded
    >>> out, check = guarded((2, 3), "float32")
    >>> out[...] = 0
    >>> check()
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.full(size + 2 * _GUARD, _POISON, np.uint8)
    array: Array = np.ndarray(shape, dtype, memory.data, offset=_GUARD)

    def check() -> None:
        assert (memory[:_GUARD] == _POISON).all(), "written before the array"
        assert (memory[_GUARD + size :] == _POISON).all(), "written behind the array"

    return array, check


def is_untouched(array: Array) -> bool:
    """Whether an array made by :func:`guarded` still holds nothing but poison.

    Examples
    --------
    >>> from moe_native.testing import guarded, is_untouched
    >>> out, check = guarded((2, 3), "float32")
    >>> is_untouched(out)
    True
    """
    return bool((np.ascontiguousarray(array).reshape(-1).view(np.uint8) == _POISON).all())


def read_only(array: Array) -> Array:
    """Return a view that cannot be written through.

    Examples
    --------
    >>> import numpy as np
    >>> from moe_native.testing import read_only
    >>> read_only(np.zeros(3)).flags.writeable
    False
    """
    view = array.view()
    view.flags.writeable = False
    return view


def instruction_sets() -> list[str]:
    """Return the names of the instruction sets that this processor has and kernels are written for.

    Examples
    --------
    >>> import moe_native
    >>> from moe_native.testing import instruction_sets
    >>> for isa in instruction_sets():
    ...     with moe_native.isa_limit(isa):
    ...         pass  # results are the same here
    """
    unsupported = 3  # of moe_kernel_state
    return list(dict.fromkeys(isa for _, _, isa, state, *_ in _core.kernels() if state != unsupported))


def strided(array: Array) -> Array:
    """Return an equal read-only array whose every dimension is strided, with a reversed first one.

    Examples
    --------
    >>> import numpy as np
    >>> from moe_native.testing import strided
    >>> view = strided(np.arange(6).reshape(2, 3))
    >>> view.flags.c_contiguous, (view == [[0, 1, 2], [3, 4, 5]]).all()
    (False, np.True_)
    """
    memory = np.zeros(tuple(2 * n + 1 for n in array.shape), array.dtype)
    view = memory[tuple(slice(1, 2 * n, 2) for n in array.shape)]
    if view.ndim > 0:
        view = view[::-1]
    view[...] = array
    return read_only(view)


def random_bits(rng: np.random.Generator, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Return numbers of any bit pattern: every magnitude, infinities, NaN of both signs and with any payload.

    Examples
    --------
    >>> import numpy as np
    >>> from moe_native.testing import random_bits
    >>> random_bits(np.random.default_rng(0), (2, 3), "float16").shape
    (2, 3)
    """
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    array: Array = rng.integers(0, 256, size, np.uint8).view(dtype).reshape(shape)
    return array


def assert_same_bits(seen: Any, needed: Any) -> None:
    """Assert equal dtype, shape and bytes: NaN equals the same NaN, and -0.0 differs from 0.0.

    Examples
    --------
    >>> import numpy as np
    >>> from moe_native.testing import assert_same_bits
    >>> assert_same_bits(np.float32([1, np.nan]), np.float32([1, np.nan]))
    """
    seen, needed = np.asarray(seen), np.asarray(needed)
    assert seen.dtype == needed.dtype, f"dtype {seen.dtype}, needed {needed.dtype}"
    assert seen.shape == needed.shape, f"shape {seen.shape}, needed {needed.shape}"
    unequal = np.ascontiguousarray(seen).reshape(-1, 1).view(np.uint8) != np.ascontiguousarray(needed).reshape(
        -1, 1
    ).view(np.uint8)
    places = np.flatnonzero(unequal.any(axis=1))
    assert places.size == 0, (
        f"{places.size} of {seen.size} elements differ, first at {places[0]}: "
        f"{seen.reshape(-1)[places[0]]!r}, needed {needed.reshape(-1)[places[0]]!r}"
    )


def round_to(values: npt.NDArray[Any], dtype: npt.DTypeLike) -> Array:
    """Round float64 values once, to nearest even, to a floating dtype; overflow gives inf without a warning.

    Examples
    --------
    >>> from moe_native.testing import round_to
    >>> import numpy as np
    >>> round_to(np.array([1 / 3, 1e6]), "float16")
    array([0.3333,    inf], dtype=float16)
    """
    values = np.asarray(values)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.dtype(dtype) == bfloat16 and values.dtype == np.float64:
            # astype rounds to float32 first, and then again. Scale the last of the 8 bits to one instead.
            last = np.maximum(np.frexp(values)[1] - 1, -126) - 7
            values = np.ldexp(np.rint(np.ldexp(values, -last)), last)
        return values.astype(dtype)
