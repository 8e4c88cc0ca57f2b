"""The dispatch step: ``npu_moe_init_routing_v2``."""

from collections.abc import Sequence
from typing import cast

from moe_native import _core
from moe_native.types import Array, ArrayLike

Results = tuple[Array, Array, Array, Array]


def npu_moe_init_routing_v2(
    x: ArrayLike,
    expert_idx: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    active_num: int = -1,
    expert_capacity: int = -1,
    expert_num: int = -1,
    drop_pad_mode: int = 0,
    expert_tokens_num_type: int = 0,
    expert_tokens_num_flag: bool = False,
    quant_mode: int = -1,
    active_expert_range: Sequence[int] | None = [],
    row_idx_type: int = 0,
    x_dtype: None = None,
    out: tuple[Array | None, Array | None, Array | None, Array | None] | None = None,
) -> Results:
    """Repeat every token's row for each of its experts, grouped by expert, optionally quantised to int8.

    T tokens, H columns, K experts per token, N = T * K entries: entry ``f = t * K + k`` is ``expert_idx[t, k]``. E
    experts, of which those in ``[start, end)`` are wanted here. An entry outside of that range (any number, negative
    ones too) goes nowhere. The V entries inside are ordered by expert, and for one expert by f.

    Parameters
    ----------
    x : array (T, H)
        Tokens; float16, bfloat16, float32, or with ``quant_mode=-1`` int8.
    expert_idx : array (T, K), int32
        Experts of every token.
    scale : array, float32, or None
        ``quant_mode=-1``: (T,), a scale of every token, which is copied along with its row. 0: (1,), required.
        1: (end - start, H), factors of every expert, or (1, H), the same for all; None for no factors.
    offset : array (1,), float32, or None
        Required with ``quant_mode=0``, ignored otherwise.
    active_num : int
        Keep this many rows, the first ones; -1 or 0: all N. Not used with ``drop_pad_mode=1``.
    expert_capacity : int
        Rows of every expert with ``drop_pad_mode=1``, C from 1 to T.
    expert_num : int
        E, from 1 to 10240 (5120 with ``expert_tokens_num_type=2``).
    drop_pad_mode : {0, 1}
        0: rows follow each other without gaps. 1: every expert has C rows; further entries are dropped, unused rows
        are zero. Needs all experts, ``row_idx_type=0`` and, for counts, ``expert_tokens_num_type=1``.
    expert_tokens_num_type : {0, 1, 2}
        Form of the third result: running sum, count, or pairs (expert, count).
    expert_tokens_num_flag : bool
        Whether the third result is wanted; otherwise it is zeros.
    quant_mode : {-1, 0, 1}
        -1: rows are copied. 0: static int8, ``x * scale + offset``. 1: dynamic int8, a scale per row.
    active_expert_range : list or tuple of two ints, or empty, or None
        ``[start, end]`` with ``0 <= start < end <= expert_num``, the end excluded; empty or None for all experts.
    row_idx_type : {0, 1}
        0: the second result leads from entries to rows. 1: from rows to entries.
    x_dtype : None
        Names packed formats of `x`, none of which is supported yet.
    out : tuple of four arrays or None, optional
        Where to put the results, None for those to be allocated: C-contiguous, of the dtype and shape below,
        overlapping neither an input nor each other.

    Returns
    -------
    expanded_x : array (R, H), or (E, C, H) with ``drop_pad_mode=1``
        The rows; R is N or ``min(active_num, N)``. Dtype of `x`, or int8. Rows from V on are zero.
    expanded_row_idx : array (N,), int32
        ``row_idx_type=0``: the row of every entry, -1 for entries that are not in the range or were dropped. Entries
        cut off by `active_num` keep their number. 1: the entry of every row; behind the V rows stand the entries
        with ids from end on, ordered by id, then those with ids below start (an id of 2**31 - 1 counts as such).
    expert_token_cumsum_or_count : array, int64
        Entries of every expert of the range, before rows are cut off or dropped: (end - start,), or for pairs (E, 2)
        with the experts that have any at the top and zeros below.
    expanded_scale : array (R,), or (E * C,) with ``drop_pad_mode=1``, float32
        ``quant_mode=1``: the scale of every row. -1: the `scale` of its token. Otherwise zeros.

    Raises
    ------
    TypeError
        A wrong dtype, a missing argument, an integer or flag that is none.
    ValueError
        A shape, mode or range that does not fit. `out` is untouched.

    Notes
    -----
    ``torch_npu.npu_moe_init_routing_v2``; ``aclnnMoeInitRoutingV3``.

    Rows that are not quantised are copied bit by bit. Quantisation is float32 arithmetic with codes rounded half to
    even and clamped to [-128, 127]. Dynamic: the row times its factors is y, its scale ``max|y| / 127``, the codes
    ``y / scale``; a row whose scale is 0, inf or NaN has codes 0. Static: NaN gives 0. Results are the same bits for
    every number of threads.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> x = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    >>> expert_idx = np.array([[1, 3], [0, 1], [2, 1]], np.int32)
    >>> rows, row_idx, counts, _ = moe_native.npu_moe_init_routing_v2(
    ...     x, expert_idx, expert_num=4, active_expert_range=[1, 3], expert_tokens_num_type=1,
    ...     expert_tokens_num_flag=True)
    >>> rows[:4]  # three tokens chose expert 1, one chose expert 2
    array([[1., 2.],
           [3., 4.],
           [5., 6.],
           [5., 6.]], dtype=float32)
    >>> row_idx
    array([ 0, -1, -1,  1,  3,  2], dtype=int32)
    >>> counts
    array([3, 1])
    """
    if x_dtype is not None:
        raise ValueError(f"npu_moe_init_routing_v2: x_dtype: {x_dtype!r} is not supported yet, needed None")
    results = _core.init_routing_v2(
        x,
        expert_idx,
        scale,
        offset,
        active_num,
        expert_capacity,
        expert_num,
        drop_pad_mode,
        expert_tokens_num_type,
        expert_tokens_num_flag,
        quant_mode,
        () if active_expert_range is None else active_expert_range,
        row_idx_type,
        out,
    )
    return cast(Results, results)
