"""npu_ffn: every call that is refused, with its exception, status and message."""

import numpy as np
import pytest
from cases.ffn import (
    ANTIQUANT,
    DEQ_BF16,
    F16,
    F32,
    I8,
    PACKED,
    QUANT,
    A,
    C,
    X,
    example,
    half,
    packed,
    single,
)

from moe_native import npu_ffn
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only

HALF, BF16 = X, {n: a.astype(bfloat16) for n, a in (("x", X), ("weight1", A), ("weight2", C))}
PLAIN_CALL = {"x": X, "weight1": A, "weight2": C, "activation": "relu"}
EXPERT_CALL = {"x": np.ones((4, 2), F16), "weight1": np.stack([A] * 3), "weight2": np.stack([C] * 3)}
EXPERT_CALL |= {"activation": "relu", "expert_tokens": [2, 0, 2]}
GATED_CALL = {"x": X, "weight1": np.ones((2, 4), F16), "weight2": np.ones((2, 2), F16), "activation": "swiglu"}
F64 = np.float64


def without(arguments, *names):
    return {n: a for n, a in arguments.items() if n not in names}


def both(arguments, prefix, value):
    return arguments | {n: value for n in arguments if n.startswith(prefix)}


REFUSED = {
    # name: (arguments, exception, status of the core or None, message)
    "x missing": (PLAIN_CALL | {"x": None}, TypeError, 161001, "x: missing"),
    "weight1 missing": (PLAIN_CALL | {"weight1": None}, TypeError, 161001, "weight1: missing"),
    "weight2 missing": (PLAIN_CALL | {"weight2": None}, TypeError, 161001, "weight2: missing"),
    "x a list": (PLAIN_CALL | {"x": [[1.0, 2.0]]}, TypeError, None, "x: list, needed an array"),
    "weight1 a string": (PLAIN_CALL | {"weight1": "w"}, TypeError, None, "weight1: str, needed an array"),
    "activation missing": (PLAIN_CALL | {"activation": None}, TypeError, None, "activation: NoneType, needed a str"),
    "activation bytes": (PLAIN_CALL | {"activation": b"relu"}, TypeError, None, "activation: bytes"),
    "activation a number": (PLAIN_CALL | {"activation": 1}, TypeError, None, "activation: int"),
    "activation null": (PLAIN_CALL | {"activation": "relu\0x"}, ValueError, None, "without null characters"),
    "activation lone surrogate": (PLAIN_CALL | {"activation": "\ud800"}, ValueError, 161002, "activation: "),
    **{
        f"activation {name!r}": (PLAIN_CALL | {"activation": name}, ValueError, 161002, f'activation: "{name}", needed')
        for name in ("fast_gelu", "swish", "", "relu ", " relu", "gelu_tanh", "reluu", "rel", "x" * 60)
    },
    "x float64": (PLAIN_CALL | {"x": X.astype(F64)}, TypeError, 161002, "x: dtype float64, needed one of float16"),
    "x complex": (PLAIN_CALL | {"x": X.astype(complex)}, TypeError, None, "x: dtype complex128"),
    "x big-endian": (PLAIN_CALL | {"x": X.astype(">f2")}, TypeError, None, "x: dtype >f2"),
    "weight1 float64": (
        PLAIN_CALL | {"weight1": A.astype(F64), "weight2": C.astype(F64)},
        TypeError,
        161002,
        "weight1: dtype float64",
    ),
    "weights of two dtypes": (PLAIN_CALL | {"weight2": C.astype(F32)}, TypeError, 161002, "weight2: dtype float32"),
    "float16 x, bfloat16 weights": (PLAIN_CALL | without(BF16, "x"), TypeError, 161002, "weight1: dtype bfloat16"),
    "bfloat16 x, float16 weights": (PLAIN_CALL | {"x": BF16["x"]}, TypeError, 161002, "weight1: dtype float16"),
    "int8 x, float16 weights": (PLAIN_CALL | {"x": X.astype(I8)}, TypeError, 161002, "weight1: dtype float16"),
    "float32 x, int8 weights": (ANTIQUANT | {"x": X.astype(F32)}, TypeError, 161002, "weight1: dtype int8"),
    "weights uint8": (
        PLAIN_CALL | {"weight1": A.astype(np.uint8), "weight2": C.astype(np.uint8)},
        TypeError,
        161002,
        "weight1: dtype uint8",
    ),
    "x of rank 1": (PLAIN_CALL | {"x": X[0]}, ValueError, 161002, r"x: shape \(2,\), needed 2 to 8"),
    "x of rank 9": (
        PLAIN_CALL | {"x": X.reshape((1,) * 7 + (2, 2))},
        ValueError,
        None,
        "9 dimensions, needed at most 8",
    ),
    "weight1 of rank 3 without experts": (PLAIN_CALL | {"weight1": A[None]}, ValueError, 161002, "weight1: shape"),
    "weight2 of rank 3 without experts": (PLAIN_CALL | {"weight2": C[None]}, ValueError, 161002, "weight2: shape"),
    "weights of rank 3 with no tokens": (
        without(EXPERT_CALL, "expert_tokens"),
        ValueError,
        161002,
        r"weight1: shape \(3, 2, 3\), needed \(k, n\) without expert_tokens",
    ),
    "weights of rank 3 with an empty list": (EXPERT_CALL | {"expert_tokens": []}, ValueError, 161002, "weight1: shape"),
    "weight1 of rank 2 with experts": (EXPERT_CALL | {"weight1": A}, ValueError, 161002, r"needed \(experts, k, n\)"),
    "weight2 of rank 2 with experts": (EXPERT_CALL | {"weight2": C}, ValueError, 161002, "weight2: shape"),
    "K of x": (PLAIN_CALL | {"x": np.ones((2, 3), F16)}, ValueError, 161002, "weight1: 2 rows, needed.* = 3"),
    "K of weight2": (PLAIN_CALL | {"weight2": C[:2]}, ValueError, 161002, "weight2: 2 rows, needed.* = 3"),
    "gated, odd N1": (GATED_CALL | {"weight1": np.ones((2, 3), F16)}, ValueError, 161002, "3 columns, needed an even"),
    "gated, K2 = N1": (
        GATED_CALL | {"weight2": np.ones((4, 2), F16)},
        ValueError,
        161002,
        "weight2: 4 rows, needed half the columns of weight1 = 2",
    ),
    "gated, experts": (
        GATED_CALL | {"weight1": np.ones((1, 2, 4), F16), "weight2": np.ones((1, 2, 2), F16), "expert_tokens": [2]},
        ValueError,
        161002,
        "activation: swiglu with 1 experts",
    ),
    "gated, bfloat16": (
        GATED_CALL | {n: GATED_CALL[n].astype(bfloat16) for n in ("x", "weight1", "weight2")},
        ValueError,
        161002,
        "activation: swiglu with bfloat16 x",
    ),
    "gated, int8": (
        QUANT | {"activation": "reglu", "weight1": np.ones((3, 4), I8), "deq_scale1": np.ones(4, F32)},
        ValueError,
        161002,
        "activation: reglu with int8 x",
    ),
    "gated, int8 weights": (
        ANTIQUANT | {"activation": "geglu", "weight1": np.ones((2, 4), I8)},
        ValueError,
        161002,
        "activation: geglu with float16 x and int8 weights",
    ),
    "gated, inner_precise 0": (
        GATED_CALL | {"inner_precise": 0},
        ValueError,
        161002,
        "inner_precise: 0 with swiglu, needed 1",
    ),
    "gated, quantisation tensor": (GATED_CALL | {"scale": single(1)}, ValueError, 161002, "scale: given with float16"),
    "gated, antiquant tensor": (
        GATED_CALL | {"antiquant_scale1": half(1, 1, 1, 1)},
        ValueError,
        161002,
        "antiquant_scale1: given with float16 x and float16 weights",
    ),
    "inner_precise 2": (PLAIN_CALL | {"inner_precise": 2}, ValueError, 561103, "inner_precise: 2, needed 0 or 1"),
    "inner_precise -1": (PLAIN_CALL | {"inner_precise": -1}, ValueError, 561103, "inner_precise: -1"),
    "inner_precise 2 with int8": (QUANT | {"inner_precise": 2}, ValueError, 561103, "inner_precise: 2"),
    "inner_precise float": (PLAIN_CALL | {"inner_precise": 1.0}, TypeError, None, "inner_precise: float"),
    "inner_precise bool": (PLAIN_CALL | {"inner_precise": True}, TypeError, None, "inner_precise: True"),
    "inner_precise 1 with bfloat16": (
        PLAIN_CALL | BF16 | {"inner_precise": 1},
        ValueError,
        161002,
        "inner_precise: 1 with bfloat16 x, needed 0",
    ),
    "both token lists": (
        EXPERT_CALL | {"expert_tokens_index": [2, 2, 4]},
        ValueError,
        None,
        "expert_tokens: given with expert_tokens_index",
    ),
    "both token lists, empty": (
        PLAIN_CALL | {"expert_tokens_index": [], "expert_tokens": []},
        ValueError,
        None,
        "expert_tokens: given with expert_tokens_index",
    ),
    "negative count": (
        EXPERT_CALL | {"expert_tokens": [2, -1, 3]},
        ValueError,
        161002,
        "-1 at position 1, needed a count",
    ),
    "too many rows": (
        EXPERT_CALL | {"expert_tokens": [2, 1, 2]},
        ValueError,
        161002,
        "2 at position 2, needed at most 1",
    ),
    "too few rows": (
        EXPERT_CALL | {"expert_tokens": [2, 0, 1]},
        ValueError,
        161002,
        "3 rows in total, needed the 4 of x",
    ),
    "huge counts": (EXPERT_CALL | {"expert_tokens": [2**63 - 1] * 3}, ValueError, 161002, "needed at most 4"),
    "counts beyond 64 bits": (EXPERT_CALL | {"expert_tokens": [2**63, 0, 0]}, ValueError, None, "does not fit 64 bits"),
    "uint64 counts beyond 64 bits": (
        EXPERT_CALL | {"expert_tokens": np.array([2**63, 0, 0], np.uint64)},
        ValueError,
        None,
        "does not fit 64 bits",
    ),
    "number of experts": (
        EXPERT_CALL | {"expert_tokens": [2, 2]},
        ValueError,
        161002,
        "weight1: 3 experts, needed the 2",
    ),
    "experts of weight2": (
        EXPERT_CALL | {"weight2": np.stack([C] * 2)},
        ValueError,
        161002,
        "weight2: 2 experts, needed the 3 of expert_tokens",
    ),
    **{
        f"tokens {value!r}": (EXPERT_CALL | {"expert_tokens": value}, TypeError, None, "expert_tokens: ")
        for value in (
            4,
            "abc",
            [2, 0, 2.0],
            [True, 1, 2],
            ["2", 0, 2],
            [None, 2, 2],
            np.array([2.0, 0, 2]),
            np.array([True, True, True]),
            np.array([[2, 0, 2]]),
            np.array(4),
            {2, 0},
        )
    },
    "bias1 shape": (PLAIN_CALL | {"bias1": half(1, 2)}, ValueError, 161002, r"bias1: shape \(2,\)"),
    "bias2 shape": (PLAIN_CALL | {"bias2": half([1, 2])}, ValueError, 161002, r"bias2: shape \(1, 2\)"),
    "bias1 without experts": (EXPERT_CALL | {"bias1": half(1, 2, 3)}, ValueError, 161002, r"bias1: shape \(3,\)"),
    "bias2 experts": (EXPERT_CALL | {"bias2": np.ones((2, 2), F16)}, ValueError, 161002, r"bias2: shape \(2, 2\)"),
    "bias1 float32 with float16": (PLAIN_CALL | {"bias1": single(1, 2, 3)}, TypeError, 161002, "bias1: dtype float32"),
    "bias2 float32 with float16": (PLAIN_CALL | {"bias2": single(1, 2)}, TypeError, 161002, "bias2: dtype float32"),
    "bias1 bfloat16 with bfloat16": (
        PLAIN_CALL | BF16 | {"bias1": half(1, 2, 3).astype(bfloat16)},
        TypeError,
        161002,
        "bias1: dtype bfloat16, needed float32",
    ),
    "bias1 float16 with int8": (QUANT | {"bias1": half(1, 2)}, TypeError, 161002, "bias1: dtype float16, needed int32"),
    "bias2 int64 with int8": (
        QUANT | {"bias2": np.ones(3, np.int64)},
        TypeError,
        161002,
        "bias2: dtype int64, needed int32",
    ),
    "bias1 float32 with antiquant": (ANTIQUANT | {"bias1": single(1, 2)}, TypeError, 161002, "bias1: dtype float32"),
    **{
        f"int8 without {name}": (without(QUANT, name), ValueError, 161002, f"{name}: missing, needed with int8 x")
        for name in ("scale", "offset", "deq_scale1", "deq_scale2")
    },
    "deq scales of two dtypes": (
        QUANT | {"deq_scale2": packed(QUANT["deq_scale2"])},
        TypeError,
        161002,
        "deq_scale2: dtype uint64, needed float32 as deq_scale1 has",
    ),
    "deq scales bfloat16 for float16": (QUANT | DEQ_BF16, TypeError, 161002, "deq_scale1: dtype bfloat16"),
    "deq scales float32 for bfloat16": (QUANT | {"output_dtype": bfloat16}, TypeError, 161002, "needed bfloat16"),
    "deq scales uint64 for bfloat16": (QUANT | PACKED | {"output_dtype": bfloat16}, TypeError, 161002, "deq_scale1"),
    "deq scales int32": (both(QUANT, "deq", np.ones(2, np.int32)), TypeError, 161002, "deq_scale1: dtype int32"),
    "output_dtype float32": (QUANT | {"output_dtype": F32}, TypeError, 161002, "output_dtype: float32, needed"),
    "output_dtype int8": (QUANT | {"output_dtype": I8}, TypeError, 161002, "output_dtype: int8, needed"),
    **{
        f"output_dtype {value!r}": (
            QUANT | {"output_dtype": value},
            TypeError,
            None,
            "output_dtype: .*, needed float16",
        )
        for value in ("half a float", 1, "f2,,", ("f2", -1))
    },
    "output_dtype complex": (QUANT | {"output_dtype": complex}, TypeError, None, "output_dtype: .*complex"),
    "float32 deq scale, scale per column": (
        QUANT | {"scale": single(1, 2)},
        ValueError,
        161002,
        r"scale: shape \(2,\), one per column, with float32 deq_scale1",
    ),
    "scale float16": (QUANT | {"scale": half(2)}, TypeError, 161002, "scale: dtype float16, needed float32"),
    "offset float16": (QUANT | {"offset": half(2)}, TypeError, 161002, "offset: dtype float16, needed float32"),
    "scale shape": (
        QUANT | {"scale": single(1, 2, 3)},
        ValueError,
        161002,
        r"scale: shape \(3,\), needed \(1,\) or \(2,\)",
    ),
    "scale rank": (QUANT | {"scale": single([1])}, ValueError, 161002, r"scale: shape \(1, 1\)"),
    "offset per column": (
        QUANT | {"offset": single(1, 2)},
        ValueError,
        161002,
        r"offset: shape \(2,\), needed \(1\) =",
    ),
    "deq_scale1 shape": (QUANT | {"deq_scale1": single(1)}, ValueError, 161002, r"deq_scale1: shape \(1,\)"),
    "deq_scale2 shape": (QUANT | {"deq_scale2": single(1, 2)}, ValueError, 161002, r"deq_scale2: shape \(2,\)"),
    **{
        f"antiquant without {name}": (
            without(ANTIQUANT, name),
            ValueError,
            161002,
            f"{name}: missing, needed with int8 weights",
        )
        for name in ANTIQUANT
        if name.startswith("antiquant")
    },
    "antiquant dtype": (
        ANTIQUANT | {"antiquant_scale2": single(0.5, 0.05)},
        TypeError,
        161002,
        "antiquant_scale2: dtype float32, needed float16 as x has",
    ),
    "antiquant float16 with bfloat16": (ANTIQUANT | {"x": BF16["x"]}, TypeError, 161002, "antiquant_scale1: dtype"),
    "antiquant ranks": (
        ANTIQUANT | {"antiquant_offset2": half([2, 0.1])},
        ValueError,
        161002,
        r"antiquant_offset2: shape \(1, 2\), needed 1 dimensions as antiquant_scale1 has",
    ),
    "antiquant rank 0": (
        both(ANTIQUANT, "antiquant", half(1)[0:1].reshape(())),
        ValueError,
        161002,
        "antiquant_scale1",
    ),
    "antiquant scale columns": (
        ANTIQUANT | {"antiquant_scale1": half(1, 2, 3)},
        ValueError,
        161002,
        r"antiquant_scale1: shape \(3,\)",
    ),
    "antiquant offset columns": (
        ANTIQUANT | {"antiquant_offset2": half(1, 2, 3)},
        ValueError,
        161002,
        r"antiquant_offset2: shape \(3,\)",
    ),
    "antiquant per group": (
        both(ANTIQUANT, "antiquant", half([1, 1])),
        ValueError,
        161002,
        "one row per group, with int8 weights, needed int4 weights",
    ),
    **{
        f"float16 with {name}": (
            PLAIN_CALL | {name: QUANT[name]},
            ValueError,
            161002,
            f"{name}: given with float16 x, needed int8",
        )
        for name in ("scale", "offset", "deq_scale1", "deq_scale2")
    },
    **{
        f"int8 with {name}": (
            QUANT | {name: ANTIQUANT[name]},
            ValueError,
            161002,
            f"{name}: given with int8 x and int8 weights",
        )
        for name in ANTIQUANT
        if name.startswith("antiquant")
    },
    "antiquant with scale": (ANTIQUANT | {"scale": single(1)}, ValueError, 161002, "scale: given with float16 x"),
    "float16 with antiquant": (
        PLAIN_CALL | {"antiquant_offset1": half(1, 2, 3)},
        ValueError,
        161002,
        "antiquant_offset1: given with float16 x and float16 weights",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    arguments, exception, status, message = REFUSED[name]
    out, check = guarded((2, 3), F16)
    with pytest.raises(exception, match=message) as caught:
        npu_ffn(**arguments, out=out)
    assert str(caught.value).startswith("npu_ffn: ")
    assert getattr(caught.value, "status", None) == status
    assert is_untouched(out)
    check()


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([2, 1, 4], "1 at position 1, needed an end row >= 2"),
        ([-1, 2, 4], "-1 at position 0, needed an end row >= 0"),
        ([2, 2, 5], "5 at position 2, needed at most 4, the rows of x"),
        ([2, 2, 3], "3 rows in total, needed the 4 of x"),
        ([2**63 - 1, 2, 4], "at position 0, needed at most 4"),
    ],
)
def test_bad_ends(ends, message):
    arguments = without(EXPERT_CALL, "expert_tokens")
    with pytest.raises(ValueError, match=f"npu_ffn: expert_tokens_index: .*{message}") as caught:
        npu_ffn(**arguments, expert_tokens_index=ends)
    assert caught.value.status == 161002


def test_ends_may_begin_with_zero():
    arguments = without(EXPERT_CALL, "expert_tokens")
    assert_same_bits(npu_ffn(**arguments, expert_tokens_index=[0, 1, 4]), npu_ffn(**arguments, expert_tokens=[0, 1, 3]))


def test_checks_come_in_the_order_of_the_document():
    wrong = {
        "activation": ("swish", 'activation: "swish"'),
        "weight2": (None, "weight2: missing"),
        "deq_scale2": (QUANT["deq_scale2"].astype(bfloat16), "deq_scale2: dtype"),
        "expert_tokens": ([1], "expert_tokens: 1 rows in total"),
        "x": (np.ones((2, 4), I8), "weight1: 3 rows"),
        "bias1": (half(1), "bias1: shape"),
    }
    arguments = QUANT | {n: value for n, (value, _) in wrong.items()}
    for name, (_, message) in wrong.items():
        with pytest.raises((ValueError, TypeError), match=message):
            npu_ffn(**arguments)
        arguments[name] = QUANT.get(name)


def test_bad_out():
    arguments = example(np.random.default_rng(27), "f16", k1=6, n2=6)
    memory = np.zeros((5, 12), F16)
    for out, exception in [
        (np.zeros((5, 7), F16), ValueError),
        (np.zeros((6, 5), F16), ValueError),
        (np.zeros((5, 6), F32), ValueError),
        (memory[:, ::2], ValueError),
        (read_only(np.zeros((5, 6), F16)), ValueError),
        ([0.0], TypeError),
        (arguments["x"], ValueError),
        (arguments["weight1"].reshape(-1)[:30].reshape(5, 6), ValueError),
    ]:
        before = np.array(out)
        with pytest.raises(exception, match="npu_ffn: out: "):
            npu_ffn(**arguments, out=out)
        np.testing.assert_array_equal(np.array(out), before)
