"""npu_ffn: numbers worked out by hand, random arguments, and how far from exact a result may be."""

import math

import numpy as np

from moe_native.oracle import ffn as oracle
from moe_native.testing import bfloat16, round_to

F16, F32, I8 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.int8)


def half(*values):
    return np.array(values, F16)


def single(*values):
    return np.array(values, F32)


def packed(scale, dtype=np.uint64):
    """Scales as the 64-bit words of the operator: the upper 19 bits of a float32."""
    return (np.asarray(scale, F32).view(np.uint32) & np.uint32(0xFFFFE000)).astype(dtype)


X = half([1, -2], [0.5, 3])
A = half([1, 0.5, -1], [2, -0.25, 0.75])
C = half([1, 0], [0.5, -1], [2, 1])


def call(x, weight1, weight2, activation, **others):
    return {"x": x, "weight1": weight1, "weight2": weight2, "activation": activation} | others


EXPERTS = {
    "x": half([1, 2], [3, 4], [-1, 1], [2, -2]),
    "weight1": np.stack([A, -A, 2 * A]),
    "weight2": np.stack([C, C, -C]),
    "activation": "relu",
}
BY_EXPERT = [[6, 0.5], [11.25, -0.5], [-9, -3.5], [-1.5, 3]]

GATED = {
    "x": half([1, 2], [-1, 0.5]),
    "weight1": half([1, -1, 0.5, 2], [0.5, 1, -1, 0.25]),
    "weight2": half([1, -2], [0.5, 1]),
    "inner_precise": 1,
}
QUANT = {
    "x": np.array([[10, -20, 30], [5, 6, -7]], I8),
    "weight1": np.array([[1, 2], [3, -4], [5, 6]], I8),
    "weight2": np.array([[7, -8, 1], [9, 10, -2]], I8),
    "activation": "relu",
    "scale": single(2),
    "offset": single(3),
    "deq_scale1": single(0.03125, 0.0625),
    "deq_scale2": single(0.5, 0.25, 0.125),
}
QUANTISED = [[202.5, 77, -8.375], [24, 1.5, -0.375]]
PACKED = {n: packed(QUANT[n]) for n in ("deq_scale1", "deq_scale2")}
NOISY = {n: words | np.uint64(1 << 46 | 0x1FFF) for n, words in PACKED.items()}
DEQ_BF16 = {n: QUANT[n].astype(bfloat16) for n in PACKED}
ANTIQUANT = {
    "x": X,
    "weight1": np.array([[3, -5], [7, 2]], I8),
    "weight2": np.array([[1, -4], [6, 8]], I8),
    "activation": "relu",
    "antiquant_scale1": half(0.1, 0.25),
    "antiquant_offset1": half(0.3, -1),
    "antiquant_scale2": half(0.5, 0.05),
    "antiquant_offset2": half(2, 0.1),
}
FINE = {"x": half([1, 1]), "weight1": half([-10], [-0.00390625]), "weight2": half([1000]), "activation": "silu"}

# name: (arguments, result, its dtype)
CASES = {
    "relu": (call(X, A, C, "relu"), [[0.5, -1], [10, 1.75]], F16),
    "silu": (call(X, A, C, "silu"), [[-0.15625, -0.9208984375], [9.3828125, 1.6796875]], F16),
    "gelu": (call(X, A, C, "gelu"), [[0.385498046875, -0.85693359375], [9.78125, 1.833984375]], F16),
    "fastgelu": (call(X, A, C, "fastgelu"), [[0.3349609375, -0.880859375], [9.7578125, 1.814453125]], F16),
    "fastgelu, high performance": (
        call(X, A, C, "fastgelu", inner_precise=1),
        [[0.3349609375, -0.880859375], [9.7578125, 1.814453125]],
        F16,
    ),
    "biases": (
        call(X, A, C, "relu", bias1=half(4, -1, 1), bias2=half(0.25, -0.5)),
        [[1.25, -0.5], [16.25, 2.25]],
        F16,
    ),
    "bfloat16 and float32 biases": (
        call(*(a.astype(bfloat16) for a in (X, A, C)), "silu", bias1=single(4, -1, 1.001), bias2=single(0.25, -0.5)),
        [[0.43359375, -0.7734375], [15.75, 2.34375]],
        bfloat16,
    ),
    "float32": (call(*(a.astype(F32) for a in (X, A, C)), "relu"), [[0.5, -1], [10, 1.75]], F32),
    "experts by count": (EXPERTS | {"expert_tokens": [2, 0, 2]}, BY_EXPERT, F16),
    "experts by index": (EXPERTS | {"expert_tokens_index": [2, 2, 4]}, BY_EXPERT, F16),
    "high precision": (FINE | {"inner_precise": 0}, [[-0.452392578125]], F16),
    "high performance": (FINE | {"inner_precise": 1}, [[-0.453857421875]], F16),
    "reglu": (GATED | {"activation": "reglu"}, [[1.25, 2.5], [0, 0]], F16),
    "swiglu": (GATED | {"activation": "swiglu"}, [[0.60791015625, 3.40625], [0.0146484375, -0.77734375]], F16),
    "geglu": (GATED | {"activation": "geglu"}, [[1.041015625, 2.88671875], [0.0762939453125, -0.32373046875]], F16),
    "int8, float32 scales": (QUANT, QUANTISED, F16),
    "int8, uint64 scales": (QUANT | PACKED, QUANTISED, F16),
    "int8, int64 scales": (QUANT | {n: w.view(np.int64) for n, w in PACKED.items()}, QUANTISED, F16),
    "int8, flags and low bits in the scales": (QUANT | NOISY, QUANTISED, F16),
    "int8, scale per column": (
        QUANT | PACKED | {"scale": single(2, 0.1)},
        [[54, -5.5, -0.125], [24, 1.5, -0.375]],
        F16,
    ),
    "int8, bfloat16": (
        QUANT | {n: QUANT[n].astype(bfloat16) for n in PACKED} | {"output_dtype": bfloat16},
        [[202, 77, -8.375], [24, 1.5, -0.375]],
        bfloat16,
    ),
    "int8 weights, float16 rows": (ANTIQUANT, [[0, 0], [3.533203125, -0.458984375]], F16),
}

# --- Random arguments ---

PLAIN = ("fastgelu", "gelu", "relu", "silu")
GLU = ("geglu", "swiglu", "reglu")
SCENARIOS = ("f32", "f16", "f16 fast", "bf16", "int8", "int8 bf16", "f16 antiquant", "bf16 antiquant")


def tokens_of(rng, rows, experts):
    """Row counts of experts, some of them zero."""
    cuts = np.sort(rng.integers(0, rows + 1, experts - 1)) if experts > 1 else np.zeros(0, int)
    return np.diff(np.concatenate([[0], cuts, [rows]])).tolist()


def example(
    rng,
    scenario,
    activation="silu",
    *,
    rows=5,
    k1=7,
    k2=9,
    n2=6,
    experts=0,
    bias1=True,
    bias2=True,
    scale_per_column=False,
    deq=np.uint64,
):
    """Random arguments as a dict."""
    gated = activation in GLU
    n1 = 2 * k2 if gated else k2
    lead = (experts,) if experts else ()

    def values(dtype, *shape, spread=1.0):
        return round_to(rng.normal(size=lead + shape) * spread, dtype)

    def codes(*shape):
        return rng.integers(-128, 128, lead + shape, dtype=I8)

    float_dtype = {"f": F16, "b": bfloat16}.get(scenario[0], F16) if scenario != "f32" else F32
    quantised, antiquant = scenario.startswith("int8"), "antiquant" in scenario
    x = (
        rng.integers(-128, 128, (rows, k1), dtype=I8)
        if quantised
        else round_to(rng.normal(size=(rows, k1)), float_dtype)
    )
    if quantised or antiquant:
        weights = codes(k1, n1), codes(k2, n2)
    else:
        weights = (
            values(float_dtype, k1, n1, spread=max(1, k1) ** -0.5),
            values(float_dtype, k2, n2, spread=max(1, k2) ** -0.5),
        )
    arguments = {"x": x, "weight1": weights[0], "weight2": weights[1], "activation": activation}
    if experts:
        arguments["expert_tokens"] = tokens_of(rng, rows, experts)
    for name, wanted, n in (("bias1", bias1, n1), ("bias2", bias2, n2)):
        if wanted and quantised:
            arguments[name] = rng.integers(-5000, 5000, (*lead, n), dtype=np.int32)
        elif wanted:
            arguments[name] = values(F16 if float_dtype == F16 else F32, n)
    if scenario == "f16 fast" or (gated and scenario == "f16"):
        arguments["inner_precise"] = 1
    if quantised:
        scale_shape = (*lead, n1) if scale_per_column else lead or (1,)
        arguments["scale"] = rng.uniform(5, 30, scale_shape).astype(F32)
        arguments["offset"] = rng.uniform(-20, 20, lead or (1,)).astype(F32)
        for name, n, size in (("deq_scale1", n1, 1e-4), ("deq_scale2", n2, 1e-3)):
            deq_scale = rng.uniform(0.2, 2, (*lead, n)).astype(F32) * F32.type(size)
            if scenario == "int8 bf16":
                arguments[name] = deq_scale.astype(bfloat16)
            else:
                arguments[name] = deq_scale if deq == np.float32 else packed(deq_scale, deq)
        if scenario == "int8 bf16":
            arguments["output_dtype"] = bfloat16
    if antiquant:
        for number, n, k in ((1, n1, k1), (2, n2, k2)):
            spread = 0.02 * max(1, k) ** -0.5
            arguments[f"antiquant_scale{number}"] = values(float_dtype, n, spread=spread)
            arguments[f"antiquant_offset{number}"] = values(float_dtype, n, spread=4.0)
    return arguments


# --- How far from exact a result may be ---

_UNIT = 2.0**-24
# Largest slopes: relu 1, silu and fastgelu 1.0999, the gelus 1.1290.
_SLOPE = 1.13


def _sum_error(magnitude, k):
    """k + 2 roundings of every term: of the product, of the sums that it is part of, and of the bias."""
    terms = k + 2
    return terms * _UNIT / (1 - terms * _UNIT) * magnitude


def _rounded(value, error, dtype):
    """Value and error after a rounding, which is monotonic: the ends of the interval bound the result."""
    if dtype is None:
        return value, error
    low, middle, high = (oracle.round_to(v, dtype) for v in (value - error, value, value + error))
    return middle, np.maximum(high - middle, middle - low)


def _activated(name, value, error):
    result = oracle.activate(name, value)
    exact = name in ("relu", "reglu")
    return result, _SLOPE * error + (0.0 if exact else 4e-7 * (1 + np.abs(result)))


def _float_interval(x, w1, w2, activation, bias1, bias2, inner_precise, antiquant1, antiquant2):
    antiquantised = antiquant1[0] is not None
    x_dtype, x = x.dtype, x.astype(float)
    w1 = oracle.antiquantize(w1, *antiquant1) if antiquantised else w1.astype(float)
    w2 = oracle.antiquantize(w2, *antiquant2) if antiquantised else w2.astype(float)
    bias1, bias2 = (0.0 if b is None else b.astype(float) for b in (bias1, bias2))
    t = x @ w1 + bias1
    error = _sum_error(np.abs(x) @ np.abs(w1) + np.abs(bias1), x.shape[1])
    t, error = _rounded(t, error, x_dtype if inner_precise == 1 and x_dtype == F16 and not antiquantised else None)
    if activation in GLU:
        (left, right), (left_error, right_error) = np.split(t, 2, axis=1), np.split(error, 2, axis=1)
        right, right_error = _activated(activation, right, right_error)
        h = left * right
        error = np.abs(left) * right_error + np.abs(right) * left_error + left_error * right_error
        error = error + _UNIT * (np.abs(h) + error)
    else:
        h, error = _activated(activation, t, error)
    stored_wide = x_dtype == F32 or (x_dtype == F16 and antiquantised)
    h, error = _rounded(h, error, None if stored_wide else x_dtype)
    y = h @ w2 + bias2
    magnitude = (np.abs(h) + error) @ np.abs(w2) + np.abs(bias2)
    return y, error @ np.abs(w2) + _sum_error(magnitude, h.shape[1])


def _int8_interval(x, w1, w2, activation, bias1, bias2, scale, offset, deq1, deq2):
    def total(a, w, bias):
        return a.astype(np.int64) @ w.astype(np.int64) + (0 if bias is None else bias.astype(np.int64))

    t = (total(x, w1, bias1).astype(F32) * oracle.decode_deq_scale(deq1)).astype(float)
    t = oracle.round_to(t, F16) if deq1.dtype != bfloat16 else t
    h, error = _rounded(*_activated(activation, t, 0.0), F16)
    ends = [oracle.requantize(h + d, scale, offset).astype(np.int64) for d in (-error, 0 * error, error)]
    spread = np.maximum(np.abs(ends[0] - ends[1]), np.abs(ends[2] - ends[1]))
    factor = oracle.decode_deq_scale(deq2)
    y = (total(ends[1], w2, bias2).astype(F32) * factor).astype(float)
    off = spread @ np.abs(w2.astype(np.int64)) * np.abs(factor.astype(float))
    # A sum that is off is also rounded differently, twice on either side.
    return y, np.where(off > 0, off + 4 * _UNIT * (np.abs(y) + off), 0.0)


def interval(arguments, dtype):
    """Lowest and highest result that the numerics of the operator allow, in float64."""
    names = ("bias1", "bias2", "scale", "offset", "deq_scale1", "deq_scale2")
    names += ("antiquant_scale1", "antiquant_scale2", "antiquant_offset1", "antiquant_offset2")
    x = arguments["x"]
    x = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    tokens = arguments.get("expert_tokens")
    ends = np.cumsum(tokens) if tokens else [x.shape[0]]
    value = np.zeros((x.shape[0], arguments["weight2"].shape[-1]))
    error = np.zeros_like(value)
    begin = 0
    for e, end in enumerate(ends):
        got = {n: arguments.get(n) for n in ("weight1", "weight2", *names)}
        if tokens:
            got = {n: None if a is None else a[e] for n, a in got.items()}
        head = (x[begin:end], got["weight1"], got["weight2"], arguments["activation"], got["bias1"], got["bias2"])
        if x.dtype == I8:
            quant = (got["scale"], got["offset"], got["deq_scale1"], got["deq_scale2"])
            value[begin:end], error[begin:end] = _int8_interval(*head, *quant)
        else:
            antiquant = [(got[f"antiquant_scale{i}"], got[f"antiquant_offset{i}"]) for i in (1, 2)]
            value[begin:end], error[begin:end] = _float_interval(*head, arguments.get("inner_precise"), *antiquant)
        begin = end
    np.testing.assert_allclose(value, oracle.ffn(**arguments).reshape(value.shape), rtol=1e-12, atol=1e-300)
    return oracle.round_to(value - error, dtype), oracle.round_to(value + error, dtype)
