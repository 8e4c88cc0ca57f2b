"""Grouped int8 matrix products of an MoE layer, defined in float64.

Products of int8 codes are summed in float64: every partial sum is an integer below 2**53 for any k that fits
into memory, so the matrix products here are exact and the only error left is that of float64 itself.
"""

import numpy as np

FRACTAL_ROWS = 16


def unpack_int4(packed):
    """Widen int32 words holding eight int4 each (low nibble first) along the last axis to int8."""
    nibbles = (packed[..., None] >> np.arange(0, 32, 4, dtype=np.int32)) & 15
    return (((nibbles ^ 8) - 8).astype(np.int8)).reshape(*packed.shape[:-1], -1)


def logical_weight(w, k, n):
    """Return the (e, k, n) int8 weight held by a plain 3-D or an NZ 5-D array of int8 or packed int4."""
    w = np.asarray(w)
    if w.dtype == np.int32:
        w = unpack_int4(w)
    if w.ndim == 5:
        e, n1, k1, k0, n0 = w.shape
        w = w.transpose(0, 2, 3, 1, 4).reshape(e, k1 * k0, n1 * n0)
    return w[:, :k, :n]


def row_ranges(group_list, group_list_type):
    """Return the first row and the end row of each expert, from cumulative ends (0) or counts (1)."""
    ends = np.asarray(group_list, np.int64)
    if group_list_type == 1:
        ends = np.cumsum(ends)
    return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))


def float_bits(scale):
    """Read the float32 whose bits are the low half of each 64-bit integer."""
    return (np.asarray(scale).astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)


def exact_matmul(x, w):
    return x.astype(np.float64) @ w.astype(np.float64)


def int4_product(x, w, scale):
    """Dequantised product of int8 rows with an int4 weight, through the two nibbles of each row.

    `scale` is (G, n): one float32 per block of k / G rows of the weight and per column. The high nibble
    (signed) and the low nibble less 8 are multiplied apart, summed over the blocks in float32 and rounded to
    float16 once each; the caller's bias carries 8 * sum(w * scale), which takes the -8 back.
    """
    blocks = scale.shape[0]
    halves = []
    for part in (x >> 4, (x & 15) - np.int8(8)):
        total = np.zeros((x.shape[0], w.shape[1]), np.float32)
        for rows, columns, s in zip(np.split(part, blocks, 1), np.split(w, blocks), scale, strict=True):
            total = total + exact_matmul(rows, columns).astype(np.float32) * s
        with np.errstate(over="ignore"):
            halves.append(total.astype(np.float16).astype(np.float64))
    return halves[0] * 16 + halves[1]


def grouped_matmul_finalize_routing(
    x,
    w,
    group_list,
    *,
    scale,
    bias=None,
    offset=None,
    pertoken_scale=None,
    shared_input=None,
    logit=None,
    row_index=None,
    dtype=None,
    shared_input_weight=1.0,
    shared_input_offset=0,
    output_bs=0,
    group_list_type=1,
    tuning_config=None,
):
    """Multiply each expert's rows by its weight, dequantise, and add each into its output row (float64)."""
    m, k = x.shape
    scale = np.asarray(scale)
    n = scale.shape[-1]
    weight = logical_weight(w, k, n)
    y = np.zeros((output_bs or m, n))
    if shared_input is not None:
        rows = slice(shared_input_offset, shared_input_offset + len(shared_input))
        y[rows] = np.float64(np.float32(shared_input_weight)) * np.asarray(shared_input, np.float64)
    for g, (start, end) in enumerate(row_ranges(group_list, group_list_type)):
        xg = x[start:end]
        if scale.dtype == np.int64:
            v = int4_product(xg, weight[g], float_bits(scale[g]))
            if offset is not None:
                v += xg.sum(1, dtype=np.int64)[:, None] * offset[g].astype(np.float64)
            v += bias[g].astype(np.float64)
            v *= pertoken_scale[start:end].astype(np.float64).reshape(-1, 1)
        else:
            v = exact_matmul(xg, weight[g]) * scale[g].astype(np.float64)
            if pertoken_scale is not None:
                v *= pertoken_scale[start:end].astype(np.float64).reshape(-1, 1)
            if bias is not None:
                v += bias[g].astype(np.float64)
        if logit is not None:
            v *= logit[start:end].astype(np.float64)[:, None]
        np.add.at(y, row_index[start:end], v)
    return y


def grouped_matmul_swiglu_quant(
    x, weight, group_list, weight_scale, x_scale, *, bias=None, offset=None, group_list_type=0
):
    """Multiply each expert's rows by its weight, dequantise, apply SwiGLU, quantise each row to int8.

    Returns the int8 codes, the float64 scales and the reserved zero offset. Rows past the last group are
    zero.
    """
    m, k = x.shape
    weight_scale = np.asarray(weight_scale)
    n = weight_scale.shape[-1]
    w = logical_weight(weight, k, n)
    q = np.zeros((m, n // 2), np.int8)
    q_scale = np.zeros(m)
    for g, (start, end) in enumerate(row_ranges(group_list, group_list_type)):
        if weight_scale.dtype.kind in "iu":
            c = int4_product(x[start:end], w[g], float_bits(weight_scale[g]).reshape(-1, n))
            c += bias[g].astype(np.float64)
        else:
            c = exact_matmul(x[start:end], w[g]) * weight_scale[g].astype(np.float64)
        c *= x_scale[start:end].astype(np.float64).reshape(-1, 1)
        a, b = c[:, : n // 2], c[:, n // 2 :]
        with np.errstate(over="ignore", invalid="ignore"):
            s = a / (1 + np.exp(-a)) * b
            row_scale = np.abs(s).max(1) / 127
            usable = np.isfinite(row_scale) & (row_scale != 0)
            codes = np.rint(s / np.where(usable, row_scale, 1)[:, None])
        q_scale[start:end] = row_scale
        q[start:end] = np.where(usable[:, None], codes.clip(-128, 127), 0)
    return q, q_scale, np.zeros((), np.float32)
