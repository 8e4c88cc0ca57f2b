"""Definition of ``npu_ffn``: ``activation(x @ weight1 + bias1) @ weight2 + bias2``, expert by expert.

Sums are float64 and int64. The roundings that belong to the operator are made: the stored type of the hidden
values, the requantisation, the dequantised weights, the float32 products with a dequantisation scale. The last
rounding, to the type of the result, is left to the caller.
"""

import math

import ml_dtypes
import numpy as np

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def round_to(values, dtype):
    """Round float64 values to a narrower type (half to even, overflow to inf) and widen them again."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == ml_dtypes.bfloat16:
            values = np.asarray(values, np.float32)
        return np.asarray(values).astype(dtype).astype(np.float64)


def activate(name, v):
    """Evaluate a plain activation, or the inner function of a gated one, in float64."""
    v = np.asarray(v, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        match name.lower():
            case "relu" | "reglu":
                return np.maximum(v, 0.0)
            case "silu" | "swiglu":
                return v / (1.0 + np.exp(-v))
            case "fastgelu":
                return v / (1.0 + np.exp(-1.702 * v))
            case "gelu":
                return 0.5 * v * _erfc(-v / math.sqrt(2.0))
            case "geglu":
                return v / (1.0 + np.exp(-1.5957691216057308 * (v + 0.044715 * v**3)))
    raise ValueError(f"unknown activation {name!r}")


def decode_deq_scale(deq_scale):
    """Return a dequantisation scale as float32; a packed one keeps the upper 19 of its low 32 bits."""
    if deq_scale.dtype in (np.uint64, np.int64):
        return (deq_scale.astype(np.uint64) & np.uint64(0xFFFFE000)).astype(np.uint32).view(np.float32)
    return deq_scale.astype(np.float32)


def requantize(h, scale, offset):
    """Quantise float16 values to int8: the scale, the product and the sum are each rounded to float16."""
    p = round_to(h * round_to(scale, np.float16), np.float16)
    with np.errstate(invalid="ignore"):
        p = round_to(p + round_to(offset, np.float16), np.float16)
    return np.clip(np.rint(np.nan_to_num(p, nan=0.0)), -128, 127).astype(np.int8)


def antiquantize(weight, scale, offset):
    """Dequantise integer weights (k, n) with a scale and an offset of shape (n,) or (groups, n)."""
    if scale.ndim == weight.ndim:
        per_group = weight.shape[0] // scale.shape[0]
        scale, offset = np.repeat(scale, per_group, axis=0), np.repeat(offset, per_group, axis=0)
    if scale.dtype == ml_dtypes.bfloat16:
        product = (weight.astype(np.float32) + offset.astype(np.float32)) * scale.astype(np.float32)
        return round_to(product, ml_dtypes.bfloat16)
    shifted = round_to(weight.astype(np.float64) + offset.astype(np.float64), np.float16)
    return round_to(shifted * scale.astype(np.float64), np.float16)


def _quantised(x, weight1, weight2, activation, bias1, bias2, scale, offset, deq_scale1, deq_scale2):
    def product(a, weight, bias, deq_scale):
        total = a.astype(np.int64) @ weight.astype(np.int64) + (0 if bias is None else bias.astype(np.int64))
        with np.errstate(over="ignore", invalid="ignore"):
            return (total.astype(np.float32) * decode_deq_scale(deq_scale)).astype(np.float64)

    t = product(x, weight1, bias1, deq_scale1)
    if deq_scale1.dtype != ml_dtypes.bfloat16:
        t = round_to(t, np.float16)
    h = round_to(activate(activation, t), np.float16)
    return product(requantize(h, scale, offset), weight2, bias2, deq_scale2)


def _floating(x, weight1, weight2, activation, bias1, bias2, inner_precise, antiquant1, antiquant2):
    def product(a, weight, bias, antiquant):
        weight = weight.astype(np.float64) if antiquant[0] is None else antiquantize(weight, *antiquant)
        with np.errstate(over="ignore", invalid="ignore"):
            return a @ weight + (0.0 if bias is None else bias.astype(np.float64))

    gated = activation.lower() in ("geglu", "swiglu", "reglu")
    t = product(x.astype(np.float64), weight1, bias1, antiquant1)
    if x.dtype == np.float16 and antiquant1[0] is None and (gated or inner_precise == 1):
        t = round_to(t, np.float16)
    if gated:
        left, right = np.split(t, 2, axis=1)
        with np.errstate(invalid="ignore"):
            h = left * activate(activation, right)
    else:
        h = activate(activation, t)
    if x.dtype != np.float32 and not (x.dtype == np.float16 and antiquant1[0] is not None):
        h = round_to(h, x.dtype)
    return product(h, weight2, bias2, antiquant2)


def ffn(
    x,
    weight1,
    weight2,
    activation,
    expert_tokens=None,
    bias1=None,
    bias2=None,
    inner_precise=None,
    *,
    expert_tokens_index=None,
    scale=None,
    offset=None,
    deq_scale1=None,
    deq_scale2=None,
    antiquant_scale1=None,
    antiquant_scale2=None,
    antiquant_offset1=None,
    antiquant_offset2=None,
    output_dtype=None,
):
    """Return the result in float64, before the rounding to its own type (which ``output_dtype`` would name)."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    y = np.zeros((rows.shape[0], weight2.shape[-1]))
    if expert_tokens_index is not None:
        ends = np.asarray(expert_tokens_index, np.int64)
    else:
        ends = np.cumsum(np.asarray([] if expert_tokens is None else expert_tokens, np.int64))
    begin = 0
    for e, end in enumerate(ends if ends.size else [rows.shape[0]]):

        def of_expert(a, e=e):
            return a[e] if a is not None and ends.size else a

        weights = of_expert(weight1), of_expert(weight2)
        biases = of_expert(bias1), of_expert(bias2)
        part = slice(begin, end)
        if deq_scale1 is not None:
            extras = (of_expert(a) for a in (scale, offset, deq_scale1, deq_scale2))
            y[part] = _quantised(rows[part], *weights, activation, *biases, *extras)
        else:
            antiquant1 = of_expert(antiquant_scale1), of_expert(antiquant_offset1)
            antiquant2 = of_expert(antiquant_scale2), of_expert(antiquant_offset2)
            y[part] = _floating(rows[part], *weights, activation, *biases, inner_precise, antiquant1, antiquant2)
        begin = end
    return y.reshape(*x.shape[:-1], weight2.shape[-1])
