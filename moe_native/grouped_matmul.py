"""Grouped int8 matrix products: ``npu_grouped_matmul_swiglu_quant`` and ``npu_grouped_matmul_finalize_routing``."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from moe_native import _core
from moe_native.layout import NzArray
from moe_native.packed import PackedWeight
from moe_native.types import Array, ArrayLike, as_dtype

_FLOAT32 = 0


def _output_dtype(dtype: Any) -> int:
    """The number that stands for float32, which is all there is."""
    number = isinstance(dtype, (int, np.integer)) and not isinstance(dtype, bool)
    if dtype is None or (dtype == _FLOAT32 if number else as_dtype(dtype) == np.float32):
        return _FLOAT32
    raise ValueError(f"npu_grouped_matmul_finalize_routing: dtype: {dtype!r}, needed None, 0 or float32")


def npu_grouped_matmul_finalize_routing(
    x: ArrayLike,
    w: ArrayLike | NzArray | PackedWeight,
    group_list: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    pertoken_scale: ArrayLike | None = None,
    shared_input: ArrayLike | None = None,
    logit: ArrayLike | None = None,
    row_index: ArrayLike | None = None,
    dtype: Any = None,
    shared_input_weight: float | None = 1.0,
    shared_input_offset: int | None = 0,
    output_bs: int | None = 0,
    group_list_type: int = 1,
    tuning_config: Sequence[int] | None = None,
    x_dtype: None = None,
    w_dtype: None = None,
    scale_dtype: None = None,
    pertoken_scale_dtype: None = None,
    out: Array | None = None,
) -> Array:
    """Multiply each expert's rows by its weight, dequantise, and add every row into the row of its token.

    ``y = 0``; ``y[shared_input_offset + r] = shared_input_weight * shared_input[r]``; then, in ascending i,
    ``y[row_index[i]] += ((x[i] @ w[g]) * scale[g] * pertoken_scale[i] + bias[g]) * logit[i]``, g being the expert of
    row i. m rows of x sorted by expert, e experts, L shared rows, B output rows.

    Parameters
    ----------
    x : array (m, k), int8
        Rows, those of one expert side by side.
    w : array, NzArray or PackedWeight, int8 or int32
        Weights. int8: ``npu_format_cast(w, 29)`` of an (e, k, n) array, its storage (e, ceil(n / 32), ceil(k / 16),
        16, 32), or the (e, k, n) array itself, with equal results. int32: eight int4 along n each, low nibble
        first, (e, k, ceil(n / 8)), likewise. Or ``pack(w)`` of any of these.
    group_list : array (e,), int64
        Rows of each expert (`group_list_type` 1) or their cumulative ends (0). Rows of x past the last one are
        ignored, whatever they and their `row_index` hold.
    scale : array (e, n), float32 or bfloat16; with int4 (e, 1, n), int64
        Scale of each column; with int4 the low 32 bits are those of a float32.
    bias : array (e, n), float32 or bfloat16, optional
        Added before `logit`. With int4 required, float32: ``8 * (w * scale).sum(k)``, which the algorithm takes back.
    offset : array (e, 1, n), float32, optional
        int4 only: the sum of a row of x times this is added.
    pertoken_scale : array (m,) or (m, 1), float32, optional
        Scale of each row; None: 1. With int4 required.
    shared_input : array (L, n), bfloat16, optional
        Rows of a shared expert. Needs `logit`.
    logit : array (m,), float32, optional
        Weight of each row (of x, not of the token); None: 1.
    row_index : array (m,), int64 or int32; with int4 int64
        Output row of each row of x. Rows may repeat, or be left out.
    dtype : optional
        None, 0 or float32.
    shared_input_weight : float
        Factor of `shared_input`.
    shared_input_offset : int
        Output row of the first row of `shared_input`.
    output_bs : int
        B, at most m; 0: m.
    group_list_type : {1, 0}
        Whether `group_list` holds counts (1) or cumulative ends (0).
    tuning_config : sequence of int, optional
        A hint for the device, which changes nothing here: the first number, 0 to m, is the rows to expect per
        expert.
    x_dtype, w_dtype, scale_dtype, pertoken_scale_dtype : None
        Formats of another processor, which are not supported.
    out : array (B, n), float32, optional
        Where to put the result: C-contiguous, overlapping no input.

    Returns
    -------
    array (B, n), float32
        Sums of int8 products are exact; everything after them is float32 in the order above, each operation rounded.

    Raises
    ------
    TypeError
        A wrong dtype or a missing argument.
    ValueError
        A shape, count, index or mode that does not fit, or arguments that do not go together. `out` is untouched.

    Notes
    -----
    ``torch_npu.npu_grouped_matmul_finalize_routing``; ``aclnnGroupedMatmulFinalizeRoutingWeightNzV2`` for int8,
    ``aclnnGroupedMatmulFinalizeRoutingV3`` for int4.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> x = np.array([[1, 2], [3, -1], [-2, 4]], np.int8)
    >>> w = np.array([[[1, -1], [2, 3]], [[-3, 2], [1, 1]]], np.int8)
    >>> moe_native.npu_grouped_matmul_finalize_routing(  # rows 0, 1 to expert 0, row 2 to expert 1
    ...     x,
    ...     moe_native.npu_format_cast(w, 29),
    ...     np.array([2, 1]),
    ...     scale=np.ones((2, 2), np.float32),
    ...     logit=np.array([0.5, 1, 2], np.float32),
    ...     row_index=np.array([0, 1, 0]),
    ...     output_bs=2,
    ... )
    array([[22.5,  2.5],
           [ 1. , -6. ]], dtype=float32)
    """
    op = "npu_grouped_matmul_finalize_routing"
    if group_list_type is None:
        raise ValueError(f"{op}: group_list_type: None, needed 0 (cumulative ends) or 1 (counts)")
    for name, value in (
        ("x_dtype", x_dtype),
        ("w_dtype", w_dtype),
        ("scale_dtype", scale_dtype),
        ("pertoken_scale_dtype", pertoken_scale_dtype),
    ):
        if value is not None:
            raise ValueError(f"{op}: {name}: {value!r}, needed None: it is not supported")
    result = _core.grouped_matmul_finalize_routing(
        x,
        w,
        group_list,
        scale,
        bias,
        offset,
        pertoken_scale,
        shared_input,
        logit,
        row_index,
        _output_dtype(dtype),
        1.0 if shared_input_weight is None else shared_input_weight,
        0 if shared_input_offset is None else shared_input_offset,
        0 if output_bs is None else output_bs,
        group_list_type,
        tuning_config,
        out,
    )
    return cast(Array, result)


def npu_grouped_matmul_swiglu_quant(
    x: ArrayLike,
    weight: ArrayLike | NzArray | PackedWeight,
    group_list: ArrayLike,
    weight_scale: ArrayLike,
    x_scale: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    offset: None = None,
    group_list_type: int = 0,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array]:
    """Multiply each expert's rows by its weight, dequantise, apply SwiGLU, and quantise every row to int8.

    ``c = (x[i] @ weight[g]) * weight_scale[g] * x_scale[i]``, g being the expert of row i;
    ``s = silu(c[: n // 2]) * c[n // 2 :]``; ``output_scale[i] = max|s| / 127`` and
    ``output[i] = round(s / output_scale[i])``, so that s is about ``output * output_scale[:, None]``.

    Parameters
    ----------
    x : array (m, k), int8
        Rows, those of one expert side by side.
    weight : array, NzArray or PackedWeight, int8 or int32
        Weights of e experts. int8: ``npu_format_cast(w, 29)`` of an (e, k, n) array, its storage (e, ceil(n / 32),
        ceil(k / 16), 16, 32), or the (e, k, n) array itself, with equal results. int32: eight int4 along n each,
        low nibble first, (e, k, ceil(n / 8)), likewise. Or ``pack(weight)`` of any of these.
    group_list : array (length,), int64 or int32, length <= e
        Cumulative ends of the rows of each expert (`group_list_type` 0), or their number (1). Rows of x past the
        last one are not computed.
    weight_scale : array (e, n), float32, float16 or bfloat16; with int4 (e, n) or (e, G, n), int64 or uint64
        Scale of each column, n being even; with int4 of each column and block of k / G rows, the low 32 bits being
        those of a float32.
    x_scale : array (m,) or (m, 1), float32
        Scale of each row.
    bias : array (e, n), float32, with int4; None with int8
        ``8 * (weight * weight_scale).sum(k)``, which the algorithm takes back.
    offset : None
        Reserved.
    group_list_type : {0, 1}
        Whether `group_list` holds cumulative ends (0) or counts (1).
    out : tuple of three arrays or None, optional
        Where to put the results: C-contiguous, overlapping no input.

    Returns
    -------
    output : array (m, n // 2), int8
        Zero in rows that belong to no expert, and in rows whose scale is zero or not finite.
    output_scale : array (m,), float32
        Zero in rows that belong to no expert.
    output_offset : array (), float32
        Reserved: zero.

    Raises
    ------
    TypeError
        A wrong dtype or a missing argument.
    ValueError
        A shape, row end or mode that does not fit, or arguments that do not go together. `out` is untouched.

    Notes
    -----
    ``torch_npu.npu_grouped_matmul_swiglu_quant``; ``aclnnGroupedMatmulSwigluQuantWeightNZ``. The operator itself
    knows only cumulative ends.

    Sums of int8 products are exact; everything after them is float32 in the order above, each operation rounded.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> x = np.array([[1, 2], [3, -1], [-2, 4]], np.int8)
    >>> w = np.array([[[1, -1, 2, 3], [2, 3, -2, 1]], [[-3, 2, 1, 4], [1, 1, -1, 2]]], np.int8)
    >>> scale = np.array([[0.5, 0.25, 1, 0.5], [1, 0.5, 0.25, 2]], np.float32)
    >>> output, output_scale, _ = moe_native.npu_grouped_matmul_swiglu_quant(  # rows 0, 1 to expert 0, row 2 to 1
    ...     x, moe_native.npu_format_cast(w, 29), np.array([2, 3]), scale, np.array([1, 0.5, 0.25], np.float32)
    ... )
    >>> output
    array([[-127,   67],
           [ 127, -109],
           [-127,    0]], dtype=int8)
    >>> output_scale.round(5)
    array([0.03638, 0.00443, 0.00682], dtype=float32)
    """
    result = _core.grouped_matmul_swiglu_quant(
        x, weight, group_list, weight_scale, x_scale, bias, offset, group_list_type, out
    )
    return cast(tuple[Array, Array, Array], result)
