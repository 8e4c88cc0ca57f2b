"""The combine step in float64."""

import numpy as np


def moe_finalize_routing(
    expanded_permuted_rows,
    skip1,
    skip2,
    bias,
    scales,
    expanded_src_to_dst_row,
    export_for_source_row,
    drop_pad_mode=0,
    k=1,
):
    """Return the weighted sum of every token's rows, float64, not rounded."""
    rows = expanded_permuted_rows.reshape(-1, expanded_permuted_rows.shape[-1]).astype(np.float64)
    per_token = k if scales is None else scales.shape[1]
    index = expanded_src_to_dst_row
    index = index.reshape(per_token, -1).T if drop_pad_mode < 2 else index.reshape(-1, per_token)
    terms = np.where(index[..., None] == -1, 0.0, rows[index])
    if bias is not None:
        terms = terms + bias.astype(np.float64)[export_for_source_row]
    weights = np.ones(index.shape) if scales is None else scales.astype(np.float64)
    result = (weights[..., None] * terms).sum(axis=1)
    for skip in (skip1, skip2):
        if skip is not None:
            result = result + skip.astype(np.float64)
    return result
