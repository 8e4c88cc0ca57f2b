"""The gating operators in float32, operation by operation: results must have the same bits.

Also how far such a result can be from the exact one: `u` is half a unit in the last place of 1, and 1.01 covers
products of errors, all of which are below 1e-4.
"""

import numpy as np

from moe_native.oracle.gating import choose_experts

f32 = np.float32
u = 2.0**-24


def exp(x):
    x = np.asarray(x, f32)
    c = np.where(x < f32(-104), f32(-104), x)
    c = np.where(c > f32(89), f32(89), c)
    shift = f32(1.5 * 2**23)
    shifted = c * f32(1.44269504) + shift
    n = shifted - shift
    r = (c - n * f32(0.693145751953125)) - n * f32(1.428606765330187e-06)
    p = f32(0.0001989933371078223)
    for coefficient in (
        0.001393368816934526,
        0.0083332983776927,
        0.041666463017463684,
        0.1666666716337204,
        0.5,
    ):
        p = p * r + f32(coefficient)
    e = f32(1) + (r + (r * r) * p)
    power = (shifted.view(np.int32) - shift.view(np.int32)).astype(np.int32)
    half = power >> 1
    low = ((half + 127) << 23).astype(np.int32).view(f32)
    high = ((power - half + 127) << 23).astype(np.int32).view(f32)
    return (e * low) * high


def softmax(x):
    """Sums in 16 lanes, which are then added in halves."""
    x = x.astype(f32)
    e = exp(x - x.max(axis=-1, keepdims=True, initial=-np.inf))
    padded = np.zeros((*x.shape[:-1], -(-x.shape[-1] // 16) * 16), f32)
    padded[..., : x.shape[-1]] = e
    lanes = np.zeros((*x.shape[:-1], 16), f32)
    for block in range(0, padded.shape[-1], 16):
        lanes = lanes + padded[..., block : block + 16]
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half:]
    return positive_nan(e / lanes)


def sigmoid(x):
    return positive_nan(f32(1) / (f32(1) + exp(-x.astype(f32))))


def positive_nan(values):
    return np.where(np.isnan(values), f32(np.nan), values)


def largest(values, k):
    return np.argsort(-values, axis=-1, kind="stable")[..., :k]


def finish(order, finished, num_expert):
    order = order.astype(np.int32)
    if finished is not None:
        order[finished] = num_expert
    return order


@np.errstate(all="ignore")
def gating_top_k_softmax(x, finished=None, k=1):
    p = softmax(x).astype(x.dtype)
    order = largest(p.astype(f32), k)
    rows = order.size // k
    row_idx = np.empty((rows, k), np.int32)
    for c in range(k):
        row_idx[:, c] = c * rows + np.arange(rows)
    return np.take_along_axis(p, order, -1), finish(order, finished, x.shape[-1]), row_idx.reshape(order.shape)


@np.errstate(all="ignore")
def gating_top_k_softmax_v2(x, *, k=1, finished=None, renorm=0, output_softmax=False):
    scores = x.astype(f32) if renorm else softmax(x)
    order = largest(scores, k)
    y = np.take_along_axis(scores, order, -1)
    y = (softmax(y) if renorm else y).astype(x.dtype)
    all_scores = scores if output_softmax and not renorm else np.zeros(0, f32)
    return y, finish(order, finished, x.shape[-1]), all_scores


@np.errstate(all="ignore")
def gating_top_k(
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
    s = sigmoid(x) if norm_type else softmax(x)
    order = choose_experts(s, bias, k, k_group, group_count, group_select_mode)
    y = np.take_along_axis(s, order, -1)
    if norm_type:
        total = np.zeros((len(x), 1), f32)
        for c in range(k):
            total = total + y[:, c : c + 1]
        y = y / (total + f32(eps))
    y = positive_nan(y * f32(routed_scaling_factor))
    return y.astype(x.dtype), order.astype(np.int32), s if out_flag else np.zeros_like(s)


def softmax_error(x, p):
    """Bound of a float32 softmax of finite x against the exact p.

    x - max is rounded, which changes its exp by that much times |x - max|; exp is within one unit; so are, weighted by
    p, all terms of the sum, whose E / 16 + 4 additions round; the division rounds. Below the normal range every
    rounding is half of 2^-149, and exp gives 0 where it would be less than that.
    """
    distance = np.where(p > 0, x.max(-1, keepdims=True) - x, 0)
    term = u * distance + 2 * u
    additions = -(-x.shape[-1] // 16) + 4
    of_sum = (p * term).sum(-1, keepdims=True) + additions * u
    return 1.01 * p * (term + of_sum + u) + 2.0**-148


def sigmoid_error(s):
    """exp within one unit, an addition, a division; exp(-x) overflows where the result is below 2^-127."""
    return 1.01 * 4 * u * s + 2.0**-127


def weights_error(y, y_error, eps, factor):
    """Bound of y / (sum y + eps) * factor: k additions, a division and a multiplication round."""
    total = y.sum(-1, keepdims=True)
    exact = y / (total + eps)
    of_total = y_error.sum(-1, keepdims=True) + (y.shape[-1] + 1) * u * (total + eps)
    error = (y_error + exact * of_total) / (total + eps) + u * exact
    return abs(factor) * 1.01 * (error + u * exact) + 2.0**-148


def rounding_error(values, dtype):
    """Bound of the final rounding of values of that size."""
    bits = {"float32": 24, "float16": 11, "bfloat16": 8}[dtype.name]
    tiny = {"float32": 2.0**-150, "float16": 2.0**-25, "bfloat16": 2.0**-134}[dtype.name]
    return np.maximum(np.abs(values) * 2.0**-bits, tiny) if bits < 24 else 0.0 * values
