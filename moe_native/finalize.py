"""The combine step: ``npu_moe_finalize_routing``."""

from typing import cast

from moe_native import _core
from moe_native.types import Array, ArrayLike


def npu_moe_finalize_routing(
    expanded_permuted_rows: ArrayLike,
    skip1: ArrayLike | None,
    skip2: ArrayLike | None,
    bias: ArrayLike | None,
    scales: ArrayLike | None,
    expanded_src_to_dst_row: ArrayLike,
    export_for_source_row: ArrayLike | None = None,
    drop_pad_mode: int | None = 0,
    k: int | None = 1,
    *,
    expert_for_source_row: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Combine the rows that the experts computed: a weighted sum per token, plus residuals.

    ``out[i] = skip1[i] + skip2[i] + sum_k scales[i, k] * (rows[index[p]] + bias[expert[i, k]])`` with
    ``p = k * R + i`` in modes 0 and 1, ``p = i * K + k`` in modes 2 and 3. R tokens, K experts per token, H columns,
    E experts, C rows per expert.

    Parameters
    ----------
    expanded_permuted_rows : array, (R * K, H) in modes 0 and 2, (E, C, H) in modes 1 and 3
        Expert outputs; float16, bfloat16 or float32.
    skip1, skip2 : array (R, H) or None
        Addends, of the dtype of the rows. `skip2` needs `skip1`.
    bias : array (E, H) or None
        Bias of every expert, of the dtype of the rows; needs `export_for_source_row` and E >= K.
    scales : array (R, K) or None
        Weights; float16, bfloat16 or float32. None: all 1, and K is `k`.
    expanded_src_to_dst_row : array (R * K,), int32
        Row of each (token, k). -1, in modes 1 and 3 only, stands for a row of zeros (its bias still counts).
    export_for_source_row : array (R, K), int32, or None
        Expert of each (token, k); read only when `bias` is given.
    drop_pad_mode : {0, 1, 2, 3}
        0 and 2: dropless rows; 1 and 3: rows padded to a capacity. 0 and 1: index column-major; 2 and 3: row-major.
    k : int
        Experts per token when `scales` is None.
    expert_for_source_row : array, optional
        Another spelling of `export_for_source_row`.
    out : array (R, H), optional
        Where to put the result: C-contiguous, of the dtype of the rows, overlapping no input.

    Returns
    -------
    array (R, H)
        Of the dtype of the rows. Accumulated in float32 in ascending k, rounded once.

    Raises
    ------
    TypeError
        A wrong dtype, a missing argument, or both spellings of `export_for_source_row`.
    ValueError
        A shape, mode or index that does not fit. `out` is untouched.

    Notes
    -----
    ``torch_npu.npu_moe_finalize_routing``; ``aclnnMoeFinalizeRoutingV2``.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> rows = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.float32)
    >>> scales = np.array([[0.5, 2], [1, -1]], np.float32)
    >>> index = np.array([3, 1, 0, 2], np.int32)  # token 0 uses rows 3 and 1, token 1 rows 0 and 2
    >>> moe_native.npu_moe_finalize_routing(rows, None, None, None, scales, index, None, drop_pad_mode=2)
    array([[ 9.5, 12. ],
           [-4. , -4. ]], dtype=float32)
    """
    if expert_for_source_row is not None:
        if export_for_source_row is not None:
            raise TypeError(
                "npu_moe_finalize_routing: export_for_source_row: given as expert_for_source_row too, needed one"
            )
        export_for_source_row = expert_for_source_row
    result = _core.finalize_routing(
        expanded_permuted_rows,
        skip1,
        skip2,
        bias,
        scales,
        expanded_src_to_dst_row,
        export_for_source_row,
        0 if drop_pad_mode is None else drop_pad_mode,
        1 if k is None else k,
        out,
    )
    return cast(Array, result)
