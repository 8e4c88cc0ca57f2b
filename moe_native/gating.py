"""Gating: which experts a token goes to, with what weight, and how many rows each expert gets."""

from typing import cast

from moe_native import _core
from moe_native.types import Array, ArrayLike


def npu_moe_gating_top_k_softmax(
    x: ArrayLike,
    finished: ArrayLike | None = None,
    k: int = 1,
    *,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array]:
    """Choose the k likeliest experts of every token by softmax.

    ``p = softmax(x)`` in float32, rounded to the dtype of `x`; then the k largest p of every row and their experts.
    The probabilities are not normalised again. Equal ones are taken in ascending expert order, NaN last.

    Parameters
    ----------
    x : array (R, E) or (B, S, E)
        Scores of E experts for R (or B * S) tokens; float16, bfloat16 or float32.
    finished : array x.shape[:-1], bool, or None
        True marks a token that must not be routed: its experts become E, a number that no expert has.
    k : int
        Experts per token, at most E and 1024. 0 gives empty results.
    out : tuple of 3, optional
        Where to put the results, each an array or None: C-contiguous, of the right dtype and shape, overlapping
        neither `x` nor each other.

    Returns
    -------
    y : array x.shape[:-1] + (k,)
        Probabilities in descending order, of the dtype of `x`.
    expert_idx : array of the same shape, int32
        Their experts.
    row_idx : array of the same shape, int32
        ``row_idx[r, c] = c * R + r``, rows numbered through all leading dimensions.

    Raises
    ------
    TypeError
        A wrong dtype or a missing argument.
    ValueError
        A shape or a k that does not fit. Nothing of `out` is written.

    Notes
    -----
    ``torch_npu.npu_moe_gating_top_k_softmax``; ``aclnnMoeGatingTopKSoftmax``. A row without a softmax (one with NaN or
    inf, or of -inf alone) has probabilities NaN and the experts 0 to k - 1.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> x = np.array([[0, 0, 0, 0], [0, 8, -8, 8]], np.float32)
    >>> y, expert_idx, row_idx = moe_native.npu_moe_gating_top_k_softmax(x, None, 2)
    >>> expert_idx
    array([[0, 1],
           [1, 3]], dtype=int32)
    >>> y[0]
    array([0.25, 0.25], dtype=float32)
    >>> row_idx
    array([[0, 2],
           [1, 3]], dtype=int32)
    """
    result = _core.gating_top_k_softmax(x, finished, k, out)
    return cast(tuple[Array, Array, Array], result)


def npu_moe_gating_top_k_softmax_v2(
    x: ArrayLike,
    *,
    k: int = 1,
    finished: ArrayLike | None = None,
    renorm: int = 0,
    output_softmax: bool = False,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array]:
    """Choose k experts of every token, with the softmax before or after the choice.

    ``renorm=0``: softmax in float32, then its k largest values. ``renorm=1``: the k largest values of `x`, then the
    softmax of these k, so that the weights of a token sum to one. Equal values are taken in ascending expert order, NaN
    last.

    Parameters
    ----------
    x : array (R, E) or (B, S, E)
        Scores of E experts for R (or B * S) tokens; float16, bfloat16 or float32.
    k : int
        Experts per token, at most E and 1024. 0 chooses none.
    finished : array x.shape[:-1], bool, or None
        True marks a token that must not be routed: its experts become E, a number that no expert has.
    renorm : {0, 1}
        Softmax before (0) or after (1) the choice.
    output_softmax : bool
        Whether to return all probabilities; only with ``renorm=0``.
    out : tuple of 3, optional
        Where to put the results, each an array or None: C-contiguous, of the right dtype and shape, overlapping
        neither an input nor each other.

    Returns
    -------
    y : array x.shape[:-1] + (k,)
        Weights, of the dtype of `x`: computed in float32 and rounded once.
    expert_idx : array of the same shape, int32
        Their experts.
    softmax : array x.shape, float32
        All probabilities; of shape (0,) when they are not asked for, or with ``renorm=1``.

    Raises
    ------
    TypeError
        A wrong dtype or a missing argument.
    ValueError
        A shape, k or renorm that does not fit. Nothing of `out` is written.

    Notes
    -----
    ``torch_npu.npu_moe_gating_top_k_softmax_v2``; ``aclnnMoeGatingTopKSoftmaxV2``. Unlike
    :func:`npu_moe_gating_top_k_softmax` it does not round float16 and bfloat16 probabilities before the choice.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> x = np.array([[0, 3, -9, 3]], np.float32)
    >>> y, expert_idx, _ = moe_native.npu_moe_gating_top_k_softmax_v2(x, k=2, renorm=1)
    >>> y, expert_idx
    (array([[0.5, 0.5]], dtype=float32), array([[1, 3]], dtype=int32))
    """
    result = _core.gating_top_k_softmax_v2(x, k, finished, renorm, output_softmax, out)
    return cast(tuple[Array, Array, Array], result)


def npu_moe_gating_top_k(
    x: ArrayLike,
    k: int,
    *,
    bias: ArrayLike | None = None,
    input_ids: ArrayLike | None = None,
    tid2eid: ArrayLike | None = None,
    k_group: int = 1,
    group_count: int = 1,
    group_select_mode: int = 0,
    renorm: int = 0,
    norm_type: int = 0,
    out_flag: bool = False,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array]:
    """Choose k experts of every token from the best groups of experts, as DeepSeek-V3 does.

    With groups of P = E / group_count neighbouring experts, all in float32::

        s = softmax(x) if norm_type == 0 else sigmoid(x)
        v = s + bias                                  # decides, but is no part of the weights
        score of a group = its largest v, or the sum of its two largest (group_select_mode 1)
        expert_idx = the k largest v within the k_group best groups
        y = s[expert_idx]
        y = y / (sum(y) + eps)                        # norm_type 1 only
        y = y * routed_scaling_factor

    Equal values are taken in ascending order of experts and of groups, NaN last.

    Parameters
    ----------
    x : array (R, E)
        Scores of E <= 2048 experts for R tokens; float16, bfloat16 or float32.
    k : int
        Experts per token, 1 to ``k_group * P``.
    bias : array (E,) or None
        Added to the scores for the choice, of the dtype of `x`.
    input_ids, tid2eid : None
        A choice of experts by token id is not supported yet.
    k_group : int
        Groups that a token may choose from, 1 to `group_count`, which means no restriction.
    group_count : int
        Number of groups, a divisor of E. When groups are left out and hold more than one expert each, group_count times
        P rounded up to a multiple of 32 is at most 2048.
    group_select_mode : {0, 1}
        A group counts as its largest v (0) or the sum of its two largest (1, P >= 2).
    renorm : {0}
        Reserved.
    norm_type : {0, 1}
        Softmax (0) or sigmoid (1).
    out_flag : bool
        Whether to return s.
    routed_scaling_factor, eps : float
        As in the formula; used as float32.
    out : tuple of 3, optional
        Where to put the results, each an array or None: C-contiguous, of the right dtype and shape, overlapping
        neither an input nor each other.

    Returns
    -------
    y : array (R, k)
        Weights, of the dtype of `x`: rounded once.
    expert_idx : array (R, k), int32
        Their experts, in descending order of v.
    norm_out : array (R, E), float32
        s with `out_flag`, zeros without.

    Raises
    ------
    TypeError
        A wrong dtype or a missing argument.
    ValueError
        A shape or a number that does not fit, or `input_ids` or `tid2eid`. Nothing of `out` is written.

    Notes
    -----
    ``torch_npu.npu_moe_gating_top_k``; ``aclnnMoeGatingTopK``. An expert of a left-out group counts as v = -inf, and so
    ties with an expert whose own v is -inf.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> x = np.array([[0, 0, 9, -9, 1, 1]], np.float32)
    >>> y, expert_idx, _ = moe_native.npu_moe_gating_top_k(
    ...     x, 2, group_count=3, k_group=1, group_select_mode=1, norm_type=1
    ... )
    >>> y, expert_idx  # the best two of a group, not the best one
    (array([[0.5, 0.5]], dtype=float32), array([[4, 5]], dtype=int32))
    """
    if input_ids is not None or tid2eid is not None:
        name = "tid2eid" if input_ids is None else "input_ids"
        raise ValueError(
            f"npu_moe_gating_top_k: {name}: given, needed None: choosing experts by token id is not supported yet"
        )
    result = _core.gating_top_k(
        x,
        k,
        bias,
        k_group,
        group_count,
        group_select_mode,
        renorm,
        norm_type,
        out_flag,
        routed_scaling_factor,
        eps,
        out,
    )
    return cast(tuple[Array, Array, Array], result)


def npu_moe_compute_expert_tokens(
    sorted_expert_for_source_row: ArrayLike,
    num_expert: int,
    *,
    out: Array | None = None,
) -> Array:
    """Find where the rows of every expert end once they are sorted by expert.

    ``out[i]`` is the number of ids that are at most i: a cumulative count, as ``npu_ffn`` takes it for
    ``expert_tokens_index``.

    Parameters
    ----------
    sorted_expert_for_source_row : array (N,), int32
        Experts of the rows, ascending; N <= 2**24. Ids from `num_expert` on (finished rows) count nowhere, negative
        ones everywhere.
    num_expert : int
        Number of experts, 1 to 2048.
    out : array (num_expert,), int32, optional
        Where to put the result: C-contiguous, not overlapping the ids.

    Returns
    -------
    array (num_expert,), int32
        Ends of the experts' rows.

    Raises
    ------
    TypeError
        A wrong dtype or a missing argument.
    ValueError
        A shape or a number of experts that does not fit. `out` is untouched.

    Notes
    -----
    ``torch_npu.npu_moe_compute_expert_tokens``; ``aclnnMoeComputeExpertTokens``. For ids that do not ascend the result
    is what a bisection per expert over the whole list finds.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> moe_native.npu_moe_compute_expert_tokens(np.array([0, 0, 2, 2, 2, 5], np.int32), 4)
    array([2, 2, 5, 5], dtype=int32)
    """
    result = _core.compute_expert_tokens(sorted_expert_for_source_row, num_expert, out)
    return cast(Array, result)
