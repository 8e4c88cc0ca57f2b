"""The definition of ``npu_moe_init_routing_v2``.

Every result of this operator is an integer, a copy, or a float32 whose roundings the operator prescribes, so
nothing here is approximate and results are compared exactly. Arguments are taken as valid. Elements that the
operator leaves undefined are zero.
"""

import numpy as np

_INT32_MAX = np.iinfo(np.int32).max


def moe_init_routing_v2(
    x,
    expert_idx,
    *,
    scale=None,
    offset=None,
    active_num=-1,
    expert_capacity=-1,
    expert_num=-1,
    drop_pad_mode=0,
    expert_tokens_num_type=0,
    expert_tokens_num_flag=False,
    quant_mode=-1,
    active_expert_range=(),
    row_idx_type=0,
    x_dtype=None,
):
    """Group the rows of `x` by expert.

    Returns ``(expanded_x, expanded_row_idx, expert_token_cumsum_or_count, expanded_scale)``.
    """
    hidden, top_k = x.shape[1], expert_idx.shape[1]
    start, end = active_expert_range or (0, expert_num)
    ids = expert_idx.reshape(-1).astype(np.int64)

    # The experts of the range come first, then the ids above it, then those below it, taken as INT32_MAX.
    order = np.argsort(np.where(ids < start, _INT32_MAX, ids), kind="stable")
    routed = order[: np.count_nonzero((ids >= start) & (ids < end))]
    expert = ids[routed] - start
    count = np.bincount(expert, minlength=end - start).astype(np.int64)

    # destination[i]: the row of the result where entry routed[i] lands, -1 if it is dropped.
    # source[r]: the entry that lands in row r of the result, -1 if none does.
    if drop_pad_mode == 1:
        place = np.arange(routed.size) - (np.cumsum(count) - count)[expert]
        destination = np.where(place < expert_capacity, expert * expert_capacity + place, -1)
        source = np.full(expert_num * expert_capacity, -1)
        source[destination[destination >= 0]] = routed[destination >= 0]
    else:
        destination = np.arange(routed.size)
        source = np.full(ids.size if active_num in (-1, 0) else min(active_num, ids.size), -1)
        source[: routed.size] = routed[: source.size]

    row_idx = order
    if row_idx_type == 0:
        row_idx = np.full(ids.size, -1)
        row_idx[routed] = destination

    filled = source >= 0
    flat = source[filled]
    token = flat // max(top_k, 1)
    expanded_x = np.zeros((source.size, hidden), x.dtype if quant_mode == -1 else np.int8)
    expanded_scale = np.zeros(source.size, np.float32)
    if flat.size:
        if quant_mode == -1:
            expanded_x[filled] = x[token]
            if scale is not None:
                expanded_scale[filled] = scale[token]
        elif quant_mode == 0:
            expanded_x[filled] = _static_quant(x[token], scale, offset)
        else:
            smooth = scale if scale is None or scale.shape[0] == 1 else scale[ids[flat] - start]
            expanded_x[filled], expanded_scale[filled] = _dynamic_quant(x[token], smooth)
    if drop_pad_mode == 1:
        expanded_x = expanded_x.reshape(expert_num, expert_capacity, hidden)

    num_type = 1 if drop_pad_mode == 1 else expert_tokens_num_type
    tokens = _expert_tokens(count, start, expert_num, num_type)
    if not expert_tokens_num_flag:
        tokens = np.zeros_like(tokens)
    return expanded_x, row_idx.astype(np.int32), tokens, expanded_scale


def _expert_tokens(count, start, expert_num, num_type):
    if num_type == 0:
        return np.cumsum(count)
    if num_type == 1:
        return count
    occupied = np.flatnonzero(count)
    pairs = np.zeros((expert_num, 2), np.int64)
    pairs[: occupied.size] = np.stack([start + occupied, count[occupied]], axis=1)
    return pairs


def _static_quant(x, scale, offset):
    with np.errstate(over="ignore", invalid="ignore"):
        q = np.rint(x.astype(np.float32) * scale[0] + offset[0])
    return np.where(np.isnan(q), 0, np.clip(q, -128, 127)).astype(np.int8)


def _dynamic_quant(x, smooth):
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        y = x.astype(np.float32)
        if smooth is not None:
            y = y * smooth
        scale = np.abs(y).max(axis=1, initial=0) / np.float32(127)
        usable = np.isfinite(scale) & (scale > 0)
        q = np.rint(y / np.where(usable, scale, np.float32(1))[:, None])
    return np.where(usable[:, None], np.clip(q, -128, 127), 0).astype(np.int8), scale
