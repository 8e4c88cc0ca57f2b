"""npu_ffn: results against hand-worked numbers and the oracle within derived bounds."""

import numpy as np
import pytest
from cases.ffn import (
    CASES,
    DEQ_BF16,
    F16,
    F32,
    FINE,
    GLU,
    I8,
    PLAIN,
    QUANT,
    SCENARIOS,
    example,
    half,
    interval,
    packed,
    single,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from moe_native import bf16_mode, limits, npu_ffn
from moe_native.oracle import ffn as oracle
from moe_native.testing import assert_same_bits, bfloat16, guarded, read_only, round_to, strided

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
    """More columns than are streamed at a time, 16,384 at most, by one thread, in both products."""
    assert_within_bounds(example(rng(2), scenario, "silu", rows=2, k1=70, k2=2100, n2=3))
    with threadpool_limits(1, user_api="openmp"):
        assert_within_bounds(example(rng(3), scenario, "silu", rows=2, k1=7, k2=16_500, n2=3))
        assert_within_bounds(example(rng(4), scenario, "silu", rows=3, k1=7, k2=70, n2=16_500))


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
