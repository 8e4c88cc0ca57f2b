"""Token permutation by a routing map: ``npu_moe_token_permute_with_routing_map`` and its inverse."""

from collections.abc import Sequence
from typing import cast

from moe_native import _core
from moe_native.types import Array, ArrayLike


def npu_moe_token_permute_with_routing_map(
    tokens: ArrayLike,
    routing_map: ArrayLike,
    *,
    probs: ArrayLike | None = None,
    num_out_tokens: int | None = None,
    drop_and_pad: bool = False,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array | None, Array]:
    """Copy every token into the block of each expert that the routing map sends it to.

    T tokens, H columns, E experts. Dropless, with ``K = num_out_tokens // T`` experts per token::

        expert, token = np.nonzero(routing_map.T)
        permuted_tokens, permuted_probs = tokens[token], probs[token, expert]
        sorted_indices = np.argsort(token, kind="stable")

    With `drop_and_pad`, ``C = num_out_tokens // E`` tokens per expert, the routed ones first::

        token = np.argsort(routing_map.T == 0, axis=1, kind="stable")[:, :C]
        permuted_tokens, permuted_probs = tokens[token], probs[token, np.arange(E)[:, None]]
        sorted_indices = token

    with the first two dimensions of each result then merged.

    Parameters
    ----------
    tokens : array (T, H)
        float16, bfloat16 or float32.
    routing_map : array (T, E), int8 or bool
        Not zero where a token goes to an expert. Dropless, every row has exactly K such entries.
    probs : array (T, E), optional
        Of the dtype of the tokens; float32 is fine with bfloat16 tokens.
    num_out_tokens : int, optional
        0 to T * E; rounded down to a multiple of T (dropless) or of E. None: the number of entries of the map that are
        not zero (dropless), or T. Dropless with less than T, all results are empty and the map is not looked at.
    drop_and_pad : bool
        Give every expert C rows: experts with more tokens drop the last ones, those with less are padded with
        tokens that are not routed to them (their own values and probabilities, not zeros).
    out : tuple of 3, optional
        Where to put the results, or None for each: C-contiguous arrays that overlap nothing. None for the second
        without `probs`.

    Returns
    -------
    permuted_tokens : array (N, H)
        Of the dtype of the tokens; N is K * T or E * C.
    permuted_probs : array (N,) or None
        Of the dtype of `probs`; None without.
    sorted_indices : array (N,), int32
        Dropless: entry ``t * K + r`` is the row of token t's r-th expert, experts ascending. With `drop_and_pad`:
        the token of each row.

    Raises
    ------
    TypeError
        A wrong dtype or a missing argument.
    ValueError
        A shape or number that does not fit; dropless, a row of the map that has not K entries. `out` is untouched.

    Notes
    -----
    ``torch_npu.npu_moe_token_permute_with_routing_map``; ``aclnnMoeTokenPermuteWithRoutingMap``. Values are copied bit
    by bit. There, None for `num_out_tokens` means T in both modes.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> tokens = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    >>> routing_map = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]], np.int8)
    >>> rows, _, index = moe_native.npu_moe_token_permute_with_routing_map(tokens, routing_map)
    >>> rows[:, 0]
    array([1., 5., 3., 1., 3., 5.], dtype=float32)
    >>> index  # token 0 went to rows 0 and 3, token 1 to rows 2 and 4, token 2 to rows 1 and 5
    array([0, 3, 2, 4, 1, 5], dtype=int32)
    """
    result = _core.permute(tokens, routing_map, probs, num_out_tokens, drop_and_pad, out)
    return cast(tuple[Array, Array | None, Array], result)


def npu_moe_token_unpermute_with_routing_map(
    permuted_tokens: ArrayLike,
    sorted_indices: ArrayLike,
    restore_shape: Sequence[int] | None,
    *,
    probs: ArrayLike | None = None,
    routing_map: ArrayLike | None = None,
    drop_and_pad: bool = False,
    out: Array | None = None,
) -> Array:
    """Sum the rows of every token, weighted by its probabilities: the way back from the experts.

    T tokens, H columns, E experts, S rows. Dropless, ``K = S // T``::

        weight = probs[routing_map != 0]
        out = (weight[:, None] * permuted_tokens[sorted_indices]).reshape(T, K, H).sum(axis=1)

    With `drop_and_pad`, ``C = S // E``::

        weight = probs[sorted_indices, np.arange(S) // C]
        np.add.at(out, sorted_indices, weight[:, None] * permuted_tokens)

    Parameters
    ----------
    permuted_tokens : array (S, H)
        float16, bfloat16 or float32.
    sorted_indices : array (S,), int32
        As `npu_moe_token_permute_with_routing_map` returns it. Dropless: rows of `permuted_tokens`, in the order of the
        tokens. With `drop_and_pad`: the token of each row.
    restore_shape : (T, H)
        Shape of the result; must agree with the arrays. None is fine when `probs` is given.
    probs : array (T, E), optional
        float16, bfloat16 or float32. None: all weights are 1.
    routing_map : array (T, E), int8 or bool, optional
        Needed when dropless with `probs`, and then every row has exactly K entries that are not zero. Else not read.
    drop_and_pad : bool
        Which of the two forms `permuted_tokens` and `sorted_indices` have.
    out : array (T, H), optional
        Where to put the result: C-contiguous, of the dtype of the tokens, overlapping no input.

    Returns
    -------
    array (T, H)
        Of the dtype of the tokens. Zeros for tokens without rows, and when there are no rows at all.

    Raises
    ------
    TypeError
        A wrong dtype or a missing argument.
    ValueError
        A shape or an index that does not fit; a row of the map that has not K entries. `out` is untouched.

    Notes
    -----
    ``torch_npu.npu_moe_token_unpermute_with_routing_map``; ``aclnnMoeTokenUnpermuteWithRoutingMap``. Dropless: products
    and sums in float32, in ascending order of the experts; a row whose probability is 0 is left out, even if it is inf
    or NaN. With `drop_and_pad`: products in float32, sums in float64, in ascending order of the rows, nothing left
    out. One rounding to the dtype of the tokens at the end.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> tokens = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    >>> routing_map = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]], np.int8)
    >>> probs = np.array([[.5, 0, .5, 0], [0, .25, .25, 0], [2, 0, 0, 0]], np.float32)
    >>> rows, _, index = moe_native.npu_moe_token_permute_with_routing_map(tokens, routing_map)
    >>> moe_native.npu_moe_token_unpermute_with_routing_map(
    ...     rows, index, tokens.shape, probs=probs, routing_map=routing_map
    ... )
    array([[ 1. ,  2. ],
           [ 1.5,  2. ],
           [10. , 12. ]], dtype=float32)
    """
    result = _core.unpermute(
        permuted_tokens,
        sorted_indices,
        restore_shape,
        probs,
        routing_map,
        drop_and_pad,
        None if out is None else (out, None, None, None),
    )[0]
    return cast(Array, result)


def _npu_moe_token_unpermute_with_routing_map(
    permuted_tokens: ArrayLike,
    sorted_indices: ArrayLike,
    restore_shape: Sequence[int] | None,
    *,
    probs: ArrayLike | None = None,
    routing_map: ArrayLike | None = None,
    drop_and_pad: bool = False,
    out: tuple[Array | None, Array | None, Array | None, Array | None] | None = None,
) -> tuple[Array, Array, Array, Array | None]:
    """Do what :func:`npu_moe_token_unpermute_with_routing_map` does, and return what a backward pass needs too.

    Parameters
    ----------
    permuted_tokens, sorted_indices, restore_shape, probs, routing_map, drop_and_pad
        As there.
    out : tuple of 4, optional
        Where to put the results, or None for each. None for the last without `probs`.

    Returns
    -------
    unpermuted : array (T, H)
        The sums.
    out_index : array (S,), int32
        With `drop_and_pad` the stable argsort of `sorted_indices`, else zeros.
    permuted_token_id : array (S,), int32
        With `drop_and_pad` ``sorted_indices[out_index]``, else zeros.
    permute_probs : array (S,) or None
        The weights, of the dtype of `probs`: dropless in the order of the tokens, else of the rows. None without
        `probs`.

    Raises
    ------
    TypeError, ValueError
        As there.

    Notes
    -----
    ``torch_npu._npu_moe_token_unpermute_with_routing_map``; ``aclnnMoeTokenUnpermuteWithRoutingMap``.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> rows, index = np.array([[1], [2], [4]], np.float32), np.array([1, 0, 1], np.int32)
    >>> unpermuted, out_index, token_id, _ = moe_native._npu_moe_token_unpermute_with_routing_map(
    ...     rows, index, (2, 1), drop_and_pad=True
    ... )
    >>> unpermuted.tolist(), out_index.tolist(), token_id.tolist()
    ([[2.0], [5.0]], [1, 0, 2], [0, 1, 1])
    """
    result = _core.unpermute(permuted_tokens, sorted_indices, restore_shape, probs, routing_map, drop_and_pad, out)
    return cast(tuple[Array, Array, Array, Array | None], result)
