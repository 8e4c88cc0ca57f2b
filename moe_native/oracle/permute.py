"""Token permutation by a routing map, and the weighted sum that undoes it, as NumPy definitions.

Copies, indices and probabilities come back in the operator's dtypes. Sums come back as float64, with the
intermediate roundings that the operator prescribes and without the last one, to the dtype of the tokens.
"""

from __future__ import annotations

import numpy as np


def moe_token_permute_with_routing_map(tokens, routing_map, *, probs=None, num_out_tokens=None, drop_and_pad=False):
    routed = np.asarray(routing_map) != 0
    num_tokens, num_experts = routed.shape
    if drop_and_pad:
        slots = num_tokens if num_out_tokens is None else num_out_tokens
        capacity = slots // num_experts if num_experts else 0
        # Routed tokens first, ascending, then the others, ascending: a stable sort by "not routed".
        token_ids = np.argsort(~routed.T, axis=1, kind="stable")[:, :capacity].reshape(-1)
        expert_ids = np.repeat(np.arange(num_experts), capacity)
        sorted_indices = token_ids
    else:
        slots = np.count_nonzero(routed) if num_out_tokens is None else num_out_tokens
        rows = slots // num_tokens * num_tokens if num_tokens else 0
        expert_ids, token_ids = (ids[:rows] for ids in np.nonzero(routed.T))
        sorted_indices = np.argsort(token_ids, kind="stable")
    permuted_probs = None if probs is None else probs[token_ids, expert_ids]
    return tokens[token_ids], permuted_probs, sorted_indices.astype(np.int32)


def _moe_token_unpermute_with_routing_map(
    permuted_tokens, sorted_indices, restore_shape, *, probs=None, routing_map=None, drop_and_pad=False
):
    num_slots = len(sorted_indices)
    num_rows, hidden_size = permuted_tokens.shape
    num_tokens = restore_shape[0] if probs is None else len(probs)
    out_index = np.zeros(num_slots, np.int32)
    permuted_token_id = np.zeros(num_slots, np.int32)
    permute_probs = None if probs is None else np.zeros(num_slots, probs.dtype)
    unpermuted = np.zeros((num_tokens, hidden_size))
    if num_slots == 0 or num_rows == 0:
        return unpermuted, out_index, permuted_token_id, permute_probs

    if drop_and_pad:
        out_index = np.argsort(sorted_indices, kind="stable").astype(np.int32)
        permuted_token_id = sorted_indices[out_index]
        if probs is not None:
            capacity = num_slots // probs.shape[1]
            permute_probs = probs[sorted_indices, np.arange(num_slots) // capacity]
        token_of_slot, row_of_slot = sorted_indices, np.arange(num_slots)
        used = np.ones(num_slots, bool)
        accumulator = "float64"
    else:
        if probs is not None:
            permute_probs = probs[np.asarray(routing_map) != 0]
        token_of_slot = np.repeat(np.arange(num_tokens), num_rows // num_tokens)
        row_of_slot = sorted_indices
        used = np.ones(num_slots, bool) if permute_probs is None else permute_probs != 0
        accumulator = "float32"

    # A sum of one term is that term, so it starts from -0.0, the neutral element of floating point
    # addition; the sum of no term is +0.0. The unbuffered add runs over the slots in ascending order.
    total = np.where(np.isin(np.arange(num_tokens), token_of_slot[used]), -0.0, 0.0)
    total = np.repeat(total[:, None], hidden_size, axis=1).astype(accumulator)
    with np.errstate(over="ignore", invalid="ignore"):
        terms = permuted_tokens[row_of_slot].astype(np.float32)
        if permute_probs is not None:
            terms = terms * permute_probs.astype(np.float32)[:, None]
        np.add.at(total, token_of_slot[used], terms[used].astype(accumulator))
    return total.astype(np.float64), out_index, permuted_token_id, permute_probs


def moe_token_unpermute_with_routing_map(
    permuted_tokens, sorted_indices, restore_shape, *, probs=None, routing_map=None, drop_and_pad=False
):
    return _moe_token_unpermute_with_routing_map(
        permuted_tokens,
        sorted_indices,
        restore_shape,
        probs=probs,
        routing_map=routing_map,
        drop_and_pad=drop_and_pad,
    )[0]
