"""Gating: which experts a token goes to and with what weight, and where the rows of each expert end."""

import math
from bisect import bisect_right

import numpy as np


def _descending(values, k):
    """Positions of the k largest along the last axis: ties to the lower position, NaN after everything."""
    return np.argsort(-values.astype(np.float64), axis=-1, kind="stable")[..., :k]


def _softmax(x):
    x = x.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf: a row with +inf, or of -inf alone, has no softmax
        e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
        return e / e.sum(axis=-1, keepdims=True)


def _sigmoid(x):
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x.astype(np.float64)))


def _experts(order, finished, num_expert):
    if finished is not None:
        order = np.where(finished[..., np.newaxis], num_expert, order)
    return order.astype(np.int32)


def moe_gating_top_k_softmax(x, finished=None, k=1):
    """Probabilities and numbers of the k likeliest experts, and the slot numbers.

    The order is decided on probabilities as the operator holds them: float32, then rounded to the type of x.
    """
    p = _softmax(x)
    order = _descending(p.astype(np.float32).astype(x.dtype), k)
    rows = math.prod(x.shape[:-1])
    row_idx = np.arange(k * rows, dtype=np.int32).reshape(k, rows).T.reshape(order.shape)
    return np.take_along_axis(p, order, -1), _experts(order, finished, x.shape[-1]), row_idx


def moe_gating_top_k_softmax_v2(x, *, k=1, finished=None, renorm=0, output_softmax=False):
    """Softmax and then top-k (renorm 0), or top-k and then softmax over those k (renorm 1)."""
    p = _softmax(x)
    order = _descending(x if renorm else p.astype(np.float32), k)
    y = _softmax(np.take_along_axis(x, order, -1)) if renorm else np.take_along_axis(p, order, -1)
    softmax = p if output_softmax and not renorm else np.zeros(0)
    return y, _experts(order, finished, x.shape[-1]), softmax


def choose_experts(scores, bias, k, k_group, group_count, group_select_mode):
    """Numbers of the chosen experts for given float32 scores: all that is compared is float32."""
    rows, num_expert = scores.shape
    with np.errstate(invalid="ignore", over="ignore"):
        v = scores + (np.float32(0) if bias is None else bias.astype(np.float32))
        if k_group < group_count:
            groups = v.reshape(rows, group_count, num_expert // group_count)
            best = np.take_along_axis(groups, _descending(groups, 1 + group_select_mode), -1)
            dropped = np.ones((rows, group_count, 1), bool)
            np.put_along_axis(dropped, _descending(best.sum(-1), k_group)[..., np.newaxis], False, 1)
            v = np.where(dropped, np.float32(-np.inf), groups).reshape(rows, num_expert)
    return _descending(v, k)


def moe_gating_top_k(
    x,
    k,
    *,
    bias=None,
    k_group=1,
    group_count=1,
    group_select_mode=0,
    norm_type=0,
    out_flag=False,
    routed_scaling_factor=1.0,
    eps=1e-20,
):
    """Group-limited top-k on biased scores; the weights are the unbiased scores of the chosen experts.

    What is compared (biased scores, group scores) is float32, as in the operator; the weights are float64.
    """
    s = _sigmoid(x) if norm_type else _softmax(x)
    order = choose_experts(s.astype(np.float32), bias, k, k_group, group_count, group_select_mode)
    y = np.take_along_axis(s, order, -1)
    if norm_type:
        y = y / (y.sum(-1, keepdims=True) + np.float64(np.float32(eps)))
    y = y * np.float64(np.float32(routed_scaling_factor))
    return y, order.astype(np.int32), s if out_flag else np.zeros_like(s)


def moe_compute_expert_tokens(sorted_expert_for_source_row, num_expert):
    """For every expert, the number of rows of it and the experts before it."""
    ids = sorted_expert_for_source_row.tolist()
    return np.array([bisect_right(ids, expert) for expert in range(num_expert)], np.int32)
