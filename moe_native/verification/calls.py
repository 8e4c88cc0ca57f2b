"""Calls of operators by name, with all of their results."""

from collections.abc import Mapping
from typing import Any

import moe_native
from moe_native.layout import NzArray
from moe_native.types import Array

_RESULTS: Mapping[str, tuple[str, ...]] = {
    "npu_moe_gating_top_k_softmax": ("y", "expert_idx", "row_idx"),
    "npu_moe_gating_top_k_softmax_v2": ("y", "expert_idx", "softmax"),
    "npu_moe_gating_top_k": ("y", "expert_idx", "norm_out"),
    "npu_moe_init_routing_v2": (
        "expanded_x",
        "expanded_row_idx",
        "expert_token_cumsum_or_count",
        "expanded_scale",
    ),
    "npu_moe_token_permute_with_routing_map": ("permuted_tokens", "permuted_probs", "sorted_indices"),
    "npu_moe_token_unpermute_with_routing_map": ("unpermuted", "out_index", "permuted_token_id", "permute_probs"),
    "npu_dynamic_quant": ("y", "scale"),
    "npu_grouped_matmul_swiglu_quant": ("output", "output_scale", "output_offset"),
}
# The public form returns one of the results.
_WHOLE = {"npu_moe_token_unpermute_with_routing_map": "_npu_moe_token_unpermute_with_routing_map"}


def call_whole(op: str, arguments: Mapping[str, Any]) -> dict[str, Array]:
    """Call an operator, and return all results that there are as plain arrays, by name.

    Examples
    --------
    >>> import numpy as np
    >>> from moe_native.verification.calls import call_whole
    >>> call_whole("npu_dynamic_quant", {"input": np.array([[127, -1]], np.float32)})
    {'y': array([[127,  -1]], dtype=int8), 'scale': array([1.], dtype=float32)}
    """
    results = getattr(moe_native, _WHOLE.get(op, op))(**arguments)
    if not isinstance(results, tuple):
        results = (results,)
    plain = (result.storage if isinstance(result, NzArray) else result for result in results)
    named = zip(_RESULTS.get(op, ("the result",)), plain, strict=True)
    return {name: result for name, result in named if result is not None}
