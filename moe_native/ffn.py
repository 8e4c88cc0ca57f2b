"""The feed-forward block: ``npu_ffn``."""

from collections.abc import Sequence
from typing import cast

import numpy.typing as npt

from moe_native import _core
from moe_native.packed import PackedWeight
from moe_native.types import Array, ArrayLike

_GATED = ("geglu", "swiglu", "reglu")


def npu_ffn(
    x: ArrayLike,
    weight1: ArrayLike | PackedWeight,
    weight2: ArrayLike | PackedWeight,
    activation: str,
    expert_tokens: Sequence[int] | ArrayLike | None = None,
    bias1: ArrayLike | None = None,
    bias2: ArrayLike | None = None,
    inner_precise: int | None = None,
    *,
    expert_tokens_index: Sequence[int] | ArrayLike | None = None,
    scale: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    deq_scale1: ArrayLike | None = None,
    deq_scale2: ArrayLike | None = None,
    antiquant_scale1: ArrayLike | None = None,
    antiquant_scale2: ArrayLike | None = None,
    antiquant_offset1: ArrayLike | None = None,
    antiquant_offset2: ArrayLike | None = None,
    output_dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
) -> Array:
    """Compute ``activation(x @ weight1 + bias1) @ weight2 + bias2``, with weights of one expert or of many.

    M rows (all dimensions of `x` but the last), E experts. Shapes below are those without experts; with experts
    every one but that of `x` leads with E, and expert e computes its own rows with its own slice of everything.

    ======== ================ ======== ======================================================================
    x        weights          biases   also needed
    ======== ================ ======== ======================================================================
    float32  float32          float32
    float16  float16          float16
    bfloat16 bfloat16         float32
    int8     int8             int32    `scale`, `offset`, `deq_scale1`, `deq_scale2`; float16 or bfloat16 result
    float16  int8             float16  `antiquant_scale1`, `antiquant_scale2` and both offsets, float16
    bfloat16 int8             float32  the same, bfloat16
    ======== ================ ======== ======================================================================

    Parameters
    ----------
    x : array (..., K1)
        2 to 8 dimensions.
    weight1 : array or PackedWeight (K1, N1)
    weight2 : array or PackedWeight (K2, N2)
        N1 = K2, or N1 = 2 * K2 with a gated activation. Any N2. Floating ones may come from :func:`pack`; where
        there are no experts, (1, K, N).
    activation : str
        ``"fastgelu"``, ``"gelu"`` (the erf form), ``"relu"``, ``"silu"``; or gated, without experts, in float16 and
        float32 only: ``"geglu"`` (the tanh form), ``"swiglu"``, ``"reglu"``, which multiply the left half of the N1
        columns by the activated right half. Upper and lower case are the same.
    expert_tokens : list, tuple or integer array of E ints, optional
        Number of rows of every expert, in order; their sum is M. None or empty: no experts.
    bias1 : array (N1,), optional
    bias2 : array (N2,), optional
    inner_precise : {0, 1}, optional
        1 rounds float16 sums to float16 before the activation, 0 keeps them in float32. None means 0, and 1 with a
        gated activation, where 0 is not possible. Without effect where `x` is not float16 or weights are int8;
        bfloat16 `x` with bfloat16 weights takes 0 only.
    expert_tokens_index : list, tuple or integer array of E ints, optional
        The end row of every expert, in place of `expert_tokens`: never decreasing, the last one M.
    scale : array (1,) or (N1,), float32, optional
        Factor of the requantisation between the products. With experts (E,) or (E, N1).
    offset : array (1,), float32, optional
        Addend of the requantisation. With experts (E,).
    deq_scale1, deq_scale2 : array (N1,) and (N2,), optional
        Factors of the int32 sums. For a float16 result float32, or uint64 or int64 words whose low 32 bits are a
        float32 (of which the 19 upper bits count); for a bfloat16 result bfloat16. float32 goes with one `scale` per
        expert only.
    antiquant_scale1, antiquant_scale2, antiquant_offset1, antiquant_offset2 : array (N1,) or (N2,), optional
        The weights that are multiplied are ``(weight + offset) * scale``, rounded to the dtype of `x`.
    output_dtype : {float16, bfloat16}, optional
        Dtype of the result when `deq_scale1` is given, by default float16. Otherwise it is that of `x`.
    out : array (..., N2), optional
        Where to put the result: C-contiguous, of its dtype, overlapping no input.

    Returns
    -------
    array (..., N2)
        Floating sums are float32, in ascending k; the values between the products are stored in the dtype of `x`
        (in float32 when float16 `x` meets int8 weights). int8 sums are exact. A row's result does not depend on which
        rows are computed with it. bfloat16 weights: see `bf16_mode`.

    Raises
    ------
    TypeError
        A wrong dtype or a missing argument.
    ValueError
        An unknown activation, a shape or a list of tokens that does not fit, an argument that the dtypes of `x` and
        the weights exclude, a quantisation argument that is missing. `out` is untouched.

    Notes
    -----
    ``torch_npu.npu_ffn``; ``aclnnFFNV3``. `expert_tokens` and the biases may be given by position, as in the first
    version of the operator, or by name. ``limits("atlas-a2")`` refuses float32, more than 256 experts, K > 65535 and
    N2 != K1.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> x = np.array([[1, -2], [0.5, 3]], np.float16)
    >>> weight1 = np.array([[1, 0.5, -1], [2, -0.25, 0.75]], np.float16)
    >>> weight2 = np.array([[1, 0], [0.5, -1], [2, 1]], np.float16)
    >>> moe_native.npu_ffn(x, weight1, weight2, "relu")
    array([[ 0.5 , -1.  ],
           [10.  ,  1.75]], dtype=float16)

    Two experts, one row each:

    >>> moe_native.npu_ffn(x, np.stack([weight1, -weight1]), np.stack([weight2, weight2]), "relu", [1, 1])
    array([[ 0.5 , -1.  ],
           [ 0.25, -0.5 ]], dtype=float16)
    """
    if expert_tokens is not None and expert_tokens_index is not None:
        raise ValueError("npu_ffn: expert_tokens: given with expert_tokens_index, needed one of them")
    if inner_precise is None:
        inner_precise = int(isinstance(activation, str) and activation.lower() in _GATED)
    result = _core.ffn(
        x,
        weight1,
        weight2,
        activation,
        expert_tokens,
        expert_tokens_index,
        bias1,
        bias2,
        scale,
        offset,
        deq_scale1,
        deq_scale2,
        antiquant_scale1,
        antiquant_scale2,
        antiquant_offset1,
        antiquant_offset2,
        inner_precise,
        output_dtype,
        out,
    )
    return cast(Array, result)
