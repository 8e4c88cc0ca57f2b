"""Dynamic int8 quantisation per token, and the gated activation silu(a) * b."""

import math

import numpy as np


def quantise_rows(y):
    """Symmetric int8 codes and dequantisation scales of float32 rows (R, H).

    The int8 codes are part of the contract, so every float32 rounding that leads to them is too: one for
    the scale, one for the quotient, then half to even. A row whose scale is 0 or not finite is all zeros.
    """
    y = np.asarray(y, np.float32)
    with np.errstate(all="ignore"):  # NaN, inf and underflow are values here, not accidents
        scale = np.max(np.abs(y), axis=-1, initial=np.float32(0)) / np.float32(127)
        usable = np.isfinite(scale) & (scale != 0)
        divisor = np.where(usable, scale, np.float32(1))
        q = np.where(usable[:, None], np.clip(np.rint(y / divisor[:, None]), -128, 127), 0)
    return q.astype(np.int8), scale


def dynamic_quant(input, *, smooth_scales=None, group_index=None):
    """Codes (int8, shape of `input`) and scales (float32, shape without the last axis)."""
    input = np.asarray(input)
    rows = input.astype(np.float32).reshape(math.prod(input.shape[:-1]), input.shape[-1])
    if smooth_scales is not None:
        smooth = np.asarray(smooth_scales).astype(np.float32)
        if group_index is not None:  # group_index[g] is the end of group g
            smooth = smooth[np.searchsorted(group_index, np.arange(len(rows)), side="right")]
        with np.errstate(all="ignore"):
            rows = rows * smooth
    q, scale = quantise_rows(rows)
    return q.reshape(input.shape), scale.reshape(input.shape[:-1])


def swiglu(self, dim=-1):
    """a / (1 + exp(-a)) * b for the first half a and the second half b of `self` along `dim`, in float64.

    exp has the range of float32: where it overflows the quotient is -0, not a tiny number.
    """
    with np.errstate(all="ignore"):
        a, b = np.split(np.asarray(self).astype(np.float64), 2, axis=dim)
        e = np.exp(-a)
        return a / (1 + np.where(e > np.finfo(np.float32).max, np.inf, e)) * b
