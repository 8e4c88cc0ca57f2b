"""Dynamic quantisation and the gated activation: ``npu_dynamic_quant``, ``npu_swiglu``."""

from typing import Any, cast

import numpy as np

from moe_native import _core
from moe_native.types import Array, ArrayLike, as_dtype


def npu_dynamic_quant(
    input: ArrayLike | None = None,
    *,
    smooth_scales: ArrayLike | None = None,
    group_index: ArrayLike | None = None,
    dst_type: Any = None,
    quant_mode: str = "pertoken",
    dst_type_max: float = 0.0,
    x: ArrayLike | None = None,
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    """Quantise every row to int8 with a scale of its own.

    ``v = input * smooth_scales; scale = abs(v).max(-1) / 127; y = round(v / scale)``, so that ``y * scale`` is about
    ``v``. H is the last dimension; the others are flattened to R rows.

    Parameters
    ----------
    input : array (..., H), 2 to 8 dimensions
        float16, bfloat16 or float32.
    smooth_scales : array (H,), or (E, H) with `group_index`, optional
        Factors of the columns, of the dtype of `input`.
    group_index : array (E,), int32 or int64, optional
        Where each group of rows ends: row r of R takes row g of `smooth_scales` when
        ``group_index[g - 1] <= r < group_index[g]``. Non-decreasing, the last is R. Needs `smooth_scales`.
    dst_type : dtype, optional
        int8, the only one supported.
    quant_mode : {"pertoken"}
        The only one supported.
    dst_type_max : float
        0.0, the only one supported.
    x : array, optional
        Another spelling of `input`.
    out : tuple of (array or None), optional
        Where to put (y, scale): C-contiguous, of their dtypes and shapes, overlapping no input.

    Returns
    -------
    y : array, int8, the shape of `input`
        Rounded half to even, within [-128, 127].
    scale : array, float32, the shape of `input` without H
        Factors that turn `y` back. Where it is 0, inf or NaN, the whole row of `y` is 0.

    Raises
    ------
    TypeError
        A wrong dtype, a missing argument, or both spellings of `input`.
    ValueError
        A shape or value that does not fit. `out` is untouched.

    Notes
    -----
    ``torch_npu.npu_dynamic_quant``; ``aclnnDynamicQuant``, ``aclnnDynamicQuantV2``. Arithmetic is float32, each
    operation rounded on its own.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> y, scale = moe_native.npu_dynamic_quant(np.array([[1, -2, 3, 0.5], [127, 0.5, 1.5, -2.5]], np.float16))
    >>> y
    array([[ 42, -85, 127,  21],
           [127,   0,   2,  -2]], dtype=int8)
    >>> scale
    array([0.02362205, 1.        ], dtype=float32)
    """
    if dst_type is not None and as_dtype(dst_type) != np.int8:
        raise ValueError(
            f"npu_dynamic_quant: dst_type: {dst_type!r}, needed None or int8; others are not supported yet"
        )
    if quant_mode != "pertoken":
        raise ValueError(
            f'npu_dynamic_quant: quant_mode: {quant_mode!r}, needed "pertoken"; others are not supported yet'
        )
    if dst_type_max != 0.0:
        raise ValueError(f"npu_dynamic_quant: dst_type_max: {dst_type_max!r}, needed 0.0; others are not supported yet")
    result = _core.dynamic_quant(_one_of("npu_dynamic_quant", "x", input, x), smooth_scales, group_index, out)
    return cast(tuple[Array, Array], result)


def npu_swiglu(
    self: ArrayLike | None = None,
    dim: int = -1,
    *,
    input: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Return ``a / (1 + exp(-a)) * b`` for the first half a and the second half b of an array.

    Parameters
    ----------
    self : array, 1 to 8 dimensions, none of them empty
        float16, bfloat16 or float32, with an even number of elements along `dim`.
    dim : int
        The dimension that is halved.
    input : array, optional
        Another spelling of `self`.
    out : array, optional
        Where to put the result: C-contiguous, of its dtype and shape, overlapping no input.

    Returns
    -------
    array, the shape of `self`, half as large along `dim`
        Of the dtype of `self`. Computed in float32, rounded once.

    Raises
    ------
    TypeError
        A wrong dtype, a missing argument, or both spellings of `self`.
    ValueError
        A `dim` or shape that does not fit. `out` is untouched.

    Notes
    -----
    ``torch_npu.npu_swiglu``; ``aclnnSwiGlu``. The activated half is the first, as in
    ``npu_grouped_matmul_swiglu_quant`` and unlike in ``npu_ffn``.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> moe_native.npu_swiglu(np.array([[1, -2, 3, 0.5], [0, 4, -1, 2]], np.float32))
    array([[ 2.1931758 , -0.11920292],
           [-0.        ,  7.85611   ]], dtype=float32)
    """
    return cast(Array, _core.swiglu(_one_of("npu_swiglu", "input", self, input), dim, out))


def _one_of(op: str, other_name: str, value: ArrayLike | None, other: ArrayLike | None) -> ArrayLike | None:
    """The array that came under one of two names."""
    if value is not None and other is not None:
        name = "self" if op == "npu_swiglu" else "input"
        raise TypeError(f"{op}: {name}: given as {other_name} too, needed one")
    return other if value is None else value
