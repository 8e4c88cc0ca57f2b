"""npu_ffn: results against hand-worked numbers and the oracle within derived bounds, and every refusal."""

import numpy as np
import pytest
from cases.ffn import (
    ANTIQUANT,
    CASES,
    F16,
    F32,
    FINE,
    GLU,
    I8,
    PLAIN,
    QUANT,
    SCENARIOS,
    A,
    C,
    X,
    example,
    half,
    interval,
    packed,
    single,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native import bf16_mode, limits, npu_ffn
from moe_native.oracle import ffn as oracle
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only, round_to, strided

SIZES = [1, 2, 5, 8, 15, 16, 17, 31, 33, 64, 65, 100]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("case", CASES)
def test_worked_number(case):
    arguments, needed, dtype = CASES[case]
    assert_same_bits(npu_ffn(**arguments), np.array(needed).astype(dtype))


def assert_within_bounds(arguments):
    seen = npu_ffn(**arguments)
    low, high = interval(arguments, seen.dtype)
    assert seen.shape == (*arguments["x"].shape[:-1], arguments["weight2"].shape[-1])
    wide = seen.astype(float).reshape(low.shape)
    assert ((low <= wide) & (wide <= high)).all(), f"{wide[(wide < low) | (wide > high)][:5]}"


@settings(max_examples=250, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scenario=st.sampled_from(SCENARIOS),
    activation=st.sampled_from(PLAIN),
    rows=st.sampled_from([1, 2, 3, 4, 5, 13, 40]),
    k1=st.sampled_from([0, *SIZES]),
    k2=st.sampled_from([0, *SIZES, 257]),
    n2=st.sampled_from(SIZES),
    experts=st.sampled_from([0, 0, 1, 3, 7]),
    bias1=st.booleans(),
    bias2=st.booleans(),
)
def test_near_oracle(seed, scenario, activation, rows, k1, k2, n2, experts, bias1, bias2):
    sizes = {"rows": rows, "k1": k1, "k2": k2, "n2": n2, "experts": experts, "bias1": bias1, "bias2": bias2}
    assert_within_bounds(example(rng(seed), scenario, activation, **sizes))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scenario=st.sampled_from(["f16", "f32"]),
    activation=st.sampled_from(GLU),
    rows=st.sampled_from([1, 3, 4, 20]),
    k1=st.sampled_from(SIZES),
    k2=st.sampled_from(SIZES),
    n2=st.sampled_from(SIZES),
    bias1=st.booleans(),
)
def test_gated_near_oracle(seed, scenario, activation, rows, k1, k2, n2, bias1):
    assert_within_bounds(example(rng(seed), scenario, activation, rows=rows, k1=k1, k2=k2, n2=n2, bias1=bias1))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_more_than_one_block_near_oracle(scenario):
    """More than 256 rows of an expert, 512 columns, 192 of k: where the work is cut."""
    arguments = example(rng(1), scenario, "gelu", rows=290, k1=391, k2=530, n2=520, experts=3)
    assert_within_bounds(arguments | {"expert_tokens": [274, 2, 14]})


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_few_rows_wider_than_a_block_near_oracle(scenario):
    """More than 2048 columns that are streamed, in both products."""
    assert_within_bounds(example(rng(2), scenario, "silu", rows=2, k1=70, k2=2100, n2=3))
    assert_within_bounds(example(rng(3), scenario, "silu", rows=3, k1=7, k2=70, n2=2100))


@pytest.mark.parametrize("mode", ["fast", "dot"])
@pytest.mark.parametrize("dtype", [F32, F16, bfloat16], ids=str)
def test_small_integers_are_exact(dtype, mode):
    """Every partial sum is an integer that the dtype holds: any kernel, any order, must be exact."""
    r = rng(3)
    bias_dtype = F16 if dtype == F16 else F32

    def integers(*shape, dtype=dtype):
        return r.integers(-1, 2, shape).astype(dtype)

    for rows in (1, 3, 4, 100):
        arguments = {
            "x": integers(rows, 60),
            "weight1": integers(60, 90),
            "weight2": integers(90, 70),
            "activation": "relu",
            "bias1": integers(90, dtype=bias_dtype),
            "bias2": integers(70, dtype=bias_dtype),
        }
        with bf16_mode(mode):
            assert_same_bits(npu_ffn(**arguments), round_to(oracle.ffn(**arguments), dtype))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scenario=st.sampled_from(["int8", "int8 bf16"]),
    per_column=st.booleans(),
    deq=st.sampled_from([np.uint64, np.int64]),
    rows=st.sampled_from([1, 4, 30]),
    k1=st.sampled_from(SIZES),
    k2=st.sampled_from(SIZES),
    experts=st.sampled_from([0, 1, 4]),
)
def test_int8_with_relu_is_exact(seed, scenario, per_column, deq, rows, k1, k2, experts):
    sizes = {"rows": rows, "k1": k1, "k2": k2, "experts": experts, "scale_per_column": per_column, "deq": deq}
    arguments = example(rng(seed), scenario, "relu", **sizes)
    dtype = bfloat16 if scenario == "int8 bf16" else F16
    needed = round_to(oracle.ffn(**arguments).astype(F32), dtype)
    assert_same_bits(npu_ffn(**arguments), needed)


def test_seed_example():
    tokens = [227, 62, 78, 126, 178, 27, 122, 1, 19, 182, 166, 118, 66, 217, 122, 243]
    x = round_to(rng(4).normal(size=(sum(tokens), 64)), F16)
    weight1 = round_to(rng(5).normal(size=(16, 64, 96)) / 8, F16)
    weight2 = round_to(rng(6).normal(size=(16, 96, 200)) / 10, F16)
    y = npu_ffn(x, weight1, weight2, "fastgelu", tokens, None, None, 1)
    assert y.shape == (1954, 200)
    assert y.dtype == F16
    arguments = {"x": x, "weight1": weight1, "weight2": weight2, "activation": "fastgelu"}
    assert_within_bounds(arguments | {"expert_tokens": tokens, "inner_precise": 1})


@pytest.mark.parametrize("experts", [0, 3])
@pytest.mark.parametrize("lead", [(2, 3, 2), (1, 2, 1, 3, 1, 2, 1), (12,)])
def test_leading_dimensions_are_rows(lead, experts):
    arguments = example(rng(7), "f16", rows=12, experts=experts)
    needed = npu_ffn(**arguments)
    seen = npu_ffn(**arguments | {"x": arguments["x"].reshape(*lead, 7)})
    assert_same_bits(seen, needed.reshape(*lead, 6))


@pytest.mark.parametrize(
    "tokens", [[0, 0, 5, 7], [5, 0, 0, 7], [5, 7, 0, 0], [0, 12, 0, 0], [12, 0, 0, 0], [0, 0, 0, 12], [1, 2, 3, 6]]
)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_counts_equal_slices_and_ends(scenario, tokens):
    arguments = example(rng(8), scenario, rows=12, experts=4) | {"expert_tokens": tokens}
    seen = npu_ffn(**arguments)
    del arguments["expert_tokens"]
    ends = np.cumsum(tokens)
    assert_same_bits(npu_ffn(**arguments, expert_tokens_index=ends.tolist()), seen)
    for e, (begin, end) in enumerate(zip(ends - tokens, ends, strict=True)):
        own = {n: a[e : e + 1] if n in ("scale", "offset") else a[e] for n, a in arguments.items() if is_array(n, a)}
        rest = {n: a for n, a in arguments.items() if not is_array(n, a)}
        rest["x"] = arguments["x"][begin:end]
        assert_same_bits(npu_ffn(**rest | own), seen[begin:end])


def is_array(name, value):
    return isinstance(value, np.ndarray) and name != "x"


def test_weights_of_an_expert_without_rows_are_not_used():
    arguments = example(rng(9), "f16", rows=6, experts=3) | {"expert_tokens": [4, 0, 2]}
    needed = npu_ffn(**arguments)
    for name in ("weight1", "weight2", "bias1", "bias2"):
        arguments[name][1] = np.nan
    assert_same_bits(npu_ffn(**arguments), needed)


def test_many_experts():
    for experts in (1, 256, 257):
        arguments = example(rng(10), "f16", rows=300, experts=experts, k1=3, k2=4, n2=3)
        assert_within_bounds(arguments)
        with limits("atlas-a2"):
            if experts <= 256:
                npu_ffn(**arguments)
            else:
                with pytest.raises(ValueError, match="expert_tokens: 257 experts, needed at most 256") as caught:
                    npu_ffn(**arguments)
                assert caught.value.status == 561103


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda t: np.array(t, np.int32), lambda t: np.array(t, "u1")])
def test_kinds_of_token_lists(kind):
    arguments = example(rng(11), "f16", rows=9, experts=3) | {"expert_tokens": [4, 0, 5]}
    needed = npu_ffn(**arguments)
    assert_same_bits(npu_ffn(**arguments | {"expert_tokens": kind([4, 0, 5])}), needed)
    del arguments["expert_tokens"]
    assert_same_bits(npu_ffn(**arguments, expert_tokens_index=kind([4, 4, 9])), needed)


def test_token_array_may_be_strided():
    arguments = example(rng(11), "f16", rows=9, experts=3) | {"expert_tokens": [4, 0, 5]}
    needed = npu_ffn(**arguments)
    assert_same_bits(npu_ffn(**arguments | {"expert_tokens": strided(np.array([4, 0, 5]))}), needed)


def test_empty_token_list_means_no_experts():
    arguments = example(rng(12), "f16")
    needed = npu_ffn(**arguments)
    for empty in ([], (), np.zeros(0, np.int64), np.zeros(0, np.int32)):
        assert_same_bits(npu_ffn(**arguments, expert_tokens=empty), needed)
        assert_same_bits(npu_ffn(**arguments, expert_tokens_index=empty), needed)
    gated = example(rng(12), "f16", "swiglu")
    assert_same_bits(npu_ffn(**gated, expert_tokens=[]), npu_ffn(**gated))


@pytest.mark.parametrize("name", [*PLAIN, *GLU])
def test_activation_in_any_case(name):
    arguments = example(rng(13), "f16", name)
    needed = npu_ffn(**arguments)
    for spelling in (name.upper(), name.capitalize(), name.replace("gelu", "GeLu")):
        assert_same_bits(npu_ffn(**arguments | {"activation": spelling}), needed)


def test_inner_precise():
    none, high, fast = (npu_ffn(**FINE | {"inner_precise": ip})[0, 0] for ip in (None, 0, 1))
    assert none == high != fast
    gated = example(rng(14), "f16", "swiglu")
    with_one = npu_ffn(**gated | {"inner_precise": 1})
    assert_same_bits(npu_ffn(**gated | {"inner_precise": None}), with_one)
    assert_same_bits(npu_ffn(**gated | {"activation": "SwiGLU", "inner_precise": None}), with_one)


@pytest.mark.parametrize("scenario", ["f32", "int8", "int8 bf16", "f16 antiquant", "bf16 antiquant"])
def test_inner_precise_is_ignored(scenario):
    arguments = example(rng(15), scenario)
    assert_same_bits(npu_ffn(**arguments | {"inner_precise": 1}), npu_ffn(**arguments | {"inner_precise": 0}))


def test_inner_precise_is_ignored_by_gated_float32():
    arguments = example(rng(15), "f32", "geglu")
    assert_same_bits(npu_ffn(**arguments | {"inner_precise": 1}), npu_ffn(**arguments | {"inner_precise": 0}))


def test_the_right_half_is_activated():
    arguments = example(rng(16), "f32", "reglu", bias2=False, k2=4)
    left, right = np.split(arguments["weight1"], 2, axis=1)
    swapped = arguments | {"weight1": np.concatenate([right, left], axis=1)}
    swapped["bias1"] = np.roll(arguments["bias1"], 4)
    seen, other = npu_ffn(**arguments), npu_ffn(**swapped)
    assert (seen != other).any()
    u = arguments["x"] @ arguments["weight1"] + arguments["bias1"]
    np.testing.assert_allclose(seen, (u[:, :4] * np.maximum(u[:, 4:], 0)) @ arguments["weight2"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("experts", [0, 3])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_bias_alone(scenario, experts):
    arguments = example(rng(17), scenario, experts=experts, rows=9)
    results = {
        (one, two): npu_ffn(
            **{n: a for n, a in arguments.items() if not ((n == "bias1" and not one) or (n == "bias2" and not two))}
        )
        for one in (False, True)
        for two in (False, True)
    }
    assert len({r.tobytes() for r in results.values()}) == 4
    for one in (False, True):
        for two in (False, True):
            zeroed = dict(arguments)
            for name, kept in (("bias1", one), ("bias2", two)):
                if not kept:
                    zeroed[name] = np.zeros_like(arguments[name])
            # Adding 0.0 changes at most the sign of a zero.
            np.testing.assert_array_equal(results[one, two], npu_ffn(**zeroed))


def test_overflow_and_nan_stay_in_their_row():
    x = half([1, 1], [60000, 60000], [np.nan, 1], [2, 1], [-np.inf, 0], [0, 0])
    w1, w2 = half([1, 0], [1, 1]), half([1], [1])
    np.testing.assert_array_equal(npu_ffn(x, w1, w2, "relu"), half([3], [np.inf], [np.nan], [4], [np.nan], [0]))
    assert_same_bits(npu_ffn(x, w1, w2, "silu")[3:4], npu_ffn(x[3:4], w1, w2, "silu"))
    # float16 rounds the sum of 65520 to inf before the activation, float32 does not, but the stored value does.
    high = half([60000, 5520])
    one = np.ones((2, 1), F16)
    for inner_precise in (0, 1):
        assert npu_ffn(high, one, half([0.5]), "relu", inner_precise=inner_precise) == np.inf
    assert npu_ffn(high.astype(F32), one.astype(F32), single([0.5]), "relu") == 32760


@pytest.mark.parametrize("activation", ["silu", "gelu", "fastgelu"])
def test_minus_infinity_is_not_a_number(activation):
    x = half([-np.inf])
    assert np.isnan(npu_ffn(x, half([1]), half([1]), activation)).all()


def test_int8_sum_beyond_float16_stays_finite():
    weight2 = np.full((600, 1), 127, I8)
    quant = {
        "scale": single(1),
        "offset": single(127),
        "deq_scale1": packed(np.ones(600)),
        "deq_scale2": packed([1e-5]),
    }
    y = npu_ffn(np.zeros((1, 1), I8), np.zeros((1, 600), I8), weight2, "relu", **quant)
    assert_same_bits(y, half([9677400 * oracle.decode_deq_scale(packed([1e-5]))[0]]))
    assert abs(float(y[0, 0]) - 96.77) < 0.1


def requantised(values, scale, offset=0.0):
    """What the second product sees of float16 values: weight1 dequantises 1 to a value, weight2 is the identity."""
    n = len(values)
    quant = {"deq_scale1": single(*values), "deq_scale2": np.ones(n, F32)}
    quant |= {"scale": single(scale), "offset": single(offset)}
    one, identity = np.ones((1, 1), I8), np.eye(n, dtype=I8)
    return npu_ffn(one, np.ones((1, n), I8), identity, "relu", **quant)[0].tolist()


def test_requantisation_ties_and_saturation():
    assert requantised([0.25, 0.75, 1.25, 70], 2) == [0, 2, 2, 127]
    assert requantised([0.25, 0.75, 1.25, 70], -2) == [0, -2, -2, -128]
    assert requantised([70], 1, 60) == [127]
    assert requantised([70], -1, -60) == [-128]
    assert requantised([0, 1, 2], 1, -3) == [-3, -2, -1]


def test_requantisation_rounds_scale_product_and_sum_to_float16():
    assert requantised([108.375], 0.3) == [33]
    assert requantised([15], 0.1) == [2]
    assert requantised([2.0**-12], 1, 64.5) == [64]


def test_requantisation_of_what_is_no_number():
    quant = QUANT | {"deq_scale1": single(np.nan, np.inf), "x": QUANT["x"][:1], "deq_scale2": np.ones(3, F32)}
    # NaN becomes 0, inf becomes 127.
    np.testing.assert_array_equal(npu_ffn(**quant)[0], 127 * QUANT["weight2"][1].astype(float))


def test_scale_per_expert_and_per_column():
    for deq in (np.uint64, np.int64):
        arguments = example(rng(18), "int8", "relu", rows=8, experts=2, k2=5, deq=deq)
        per_expert = arguments["scale"]
        assert per_expert.shape == (2,)
        per_column = np.repeat(per_expert[:, None], 5, axis=1)
        assert_same_bits(npu_ffn(**arguments | {"scale": per_column}), npu_ffn(**arguments))
    alone = example(rng(18), "int8", "relu", k2=5)
    assert_same_bits(npu_ffn(**alone | {"scale": np.repeat(alone["scale"], 5)}), npu_ffn(**alone))


def test_one_column_is_one_scale():
    arguments = example(rng(19), "int8", "relu", k2=1, deq=np.float32)
    assert arguments["scale"].shape == (1,)
    npu_ffn(**arguments)
    experts = example(rng(19), "int8", "relu", k2=1, experts=2, deq=np.float32)
    with pytest.raises(ValueError, match="scale: shape .2, 1., one per column, with float32 deq_scale1"):
        npu_ffn(**experts | {"scale": experts["scale"][:, None]})


def test_float32_deq_scale_is_exact_and_a_packed_one_is_not():
    fine = np.nextafter(QUANT["deq_scale2"], F32.type(1))
    seen = npu_ffn(**QUANT | {"deq_scale2": fine * F32.type(1 + 2**-9)})
    cut = npu_ffn(**QUANT | {"deq_scale1": packed(QUANT["deq_scale1"]), "deq_scale2": packed(fine)})
    np.testing.assert_array_equal(cut, npu_ffn(**QUANT))
    assert (seen != cut).any()


def test_expert_slices_of_antiquant_scales_differ():
    arguments = example(rng(20), "f16 antiquant", rows=8, experts=2) | {"expert_tokens": [4, 4]}
    seen = npu_ffn(**arguments)
    for name in [n for n in arguments if n.startswith("antiquant")]:
        assert (npu_ffn(**arguments | {name: arguments[name][::-1]}) != seen).any()


def test_output_dtype_matters_only_to_int8():
    arguments = example(rng(21), "f16")
    needed = npu_ffn(**arguments)
    for dtype in (None, np.float16, bfloat16):
        assert_same_bits(npu_ffn(**arguments, output_dtype=dtype), needed)
    assert_same_bits(npu_ffn(**QUANT, output_dtype="float16"), npu_ffn(**QUANT))


def test_output_dtype_of_torch():
    class TorchDtype:
        def __init__(self, name):
            self.name = name

        def __repr__(self):
            return f"torch.{self.name}"

    assert npu_ffn(**QUANT, output_dtype=TorchDtype("float16")).dtype == F16
    quant = QUANT | DEQ_BF16
    assert npu_ffn(**quant, output_dtype=TorchDtype("bfloat16")).dtype == bfloat16
    with pytest.raises(TypeError, match="output_dtype: torch.float32, needed float16 or bfloat16"):
        npu_ffn(**QUANT, output_dtype=TorchDtype("float32"))


@pytest.mark.parametrize("experts", [0, 2])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_degenerate_sizes(scenario, experts):
    def result(**sizes):
        arguments = example(rng(22), scenario, "relu", experts=experts, **sizes)
        return arguments, npu_ffn(**arguments)

    arguments, y = result(rows=0)
    assert y.shape == (0, 6)
    arguments, y = result(n2=0)
    assert y.shape == (5, 0)
    arguments, y = result(k2=0, bias2=False)
    np.testing.assert_array_equal(y, np.zeros((5, 6)))
    arguments, y = result(k2=0)
    bias = np.broadcast_to(arguments["bias2"], (experts or 1, 6))
    of_row = np.repeat(np.arange(experts or 1), arguments.get("expert_tokens", [5]))
    if "deq_scale2" in arguments:
        factor = oracle.decode_deq_scale(np.broadcast_to(arguments["deq_scale2"], (experts or 1, 6)))
        bias = bias.astype(F32) * factor
    assert_same_bits(y, round_to(bias.astype(F32), y.dtype)[of_row])
    arguments, y = result(k1=0)
    assert_within_bounds(arguments)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_rows_without_columns_cost_nothing(scenario):
    """They take no memory, so there can be more of them than a loop ever gets through."""
    arguments = example(rng(22), scenario, k1=0, k2=0, n2=0)
    x = np.empty((2**50, 0), arguments["x"].dtype)
    assert npu_ffn(**arguments | {"x": x}).shape == (2**50, 0)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_strided_and_read_only_inputs(scenario):
    arguments = example(rng(23), scenario, experts=3, rows=11)
    needed = npu_ffn(**arguments)
    views = {n: strided(a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
    assert_same_bits(npu_ffn(**views), needed)
    transposed = dict(arguments)
    for name in ("weight1", "weight2"):
        transposed[name] = read_only(np.ascontiguousarray(arguments[name].swapaxes(1, 2)).swapaxes(1, 2))
    before = {n: (a.dtype, a.tobytes()) for n, a in transposed.items() if isinstance(a, np.ndarray)}
    assert_same_bits(npu_ffn(**transposed), needed)
    assert before == {n: (a.dtype, a.tobytes()) for n, a in transposed.items() if isinstance(a, np.ndarray)}


def test_out_is_written_and_nothing_around_it():
    for scenario in SCENARIOS:
        arguments = example(rng(24), scenario, rows=7, n2=5)
        needed = npu_ffn(**arguments)
        out, check = guarded((7, 5), needed.dtype)
        assert npu_ffn(**arguments, out=out) is out
        check()
        assert_same_bits(out, needed)


def test_any_number_of_output_columns():
    arguments = example(rng(25), "f16", k1=7, n2=200)
    assert npu_ffn(**arguments).shape == (5, 200)
    with limits("seed"):
        npu_ffn(**arguments)
    with limits("atlas-a2"), pytest.raises(ValueError, match="weight2: 200 columns, needed as many as x has = 7"):
        npu_ffn(**arguments)


@pytest.mark.parametrize("name", ["atlas-a2", "seed"])
def test_limits(name):
    for sizes, weight in (
        ({"k1": 65536, "k2": 2, "n2": 65536}, "weight1"),
        ({"k1": 2, "k2": 65536, "n2": 2}, "weight2"),
    ):
        arguments = example(rng(26), "f16", rows=1, **sizes)
        npu_ffn(**arguments)
        with limits(name), pytest.raises(ValueError, match=f"{weight}: 65536 rows, needed at most 65535") as caught:
            npu_ffn(**arguments)
        assert caught.value.status == 161002
    with limits(name), pytest.raises(TypeError, match="x: dtype float32"):
        npu_ffn(**example(rng(26), "f32"))


def test_int8_sums_stay_exact_up_to_their_longest():
    def call(k):
        x, w1 = np.full((1, k), -128, I8), np.full((k, 1), -128, I8)
        quant = {"scale": single(1), "offset": single(0), "deq_scale1": single(2.0**-25), "deq_scale2": single(1)}
        return npu_ffn(x, w1, np.ones((1, 1), I8), "relu", **quant)

    assert call(131071) == 64
    with pytest.raises(ValueError, match="weight1: 131072 rows, needed at most 131071 for exact sums"):
        call(131072)


# --- Refusals ---

HALF, BF16 = X, {n: a.astype(bfloat16) for n, a in (("x", X), ("weight1", A), ("weight2", C))}
PLAIN_CALL = {"x": X, "weight1": A, "weight2": C, "activation": "relu"}
EXPERT_CALL = {"x": np.ones((4, 2), F16), "weight1": np.stack([A] * 3), "weight2": np.stack([C] * 3)}
EXPERT_CALL |= {"activation": "relu", "expert_tokens": [2, 0, 2]}
GATED_CALL = {"x": X, "weight1": np.ones((2, 4), F16), "weight2": np.ones((2, 2), F16), "activation": "swiglu"}
PACKED = {n: packed(QUANT[n]) for n in ("deq_scale1", "deq_scale2")}
DEQ_BF16 = {n: QUANT[n].astype(bfloat16) for n in PACKED}
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
    arguments = example(rng(27), "f16", k1=6, n2=6)
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
