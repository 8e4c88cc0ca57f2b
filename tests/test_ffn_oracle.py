"""The oracle of npu_ffn against numbers worked by hand."""

import ml_dtypes
import numpy as np
import pytest
from cases.ffn import ANTIQUANT, CASES, QUANT, A, C, X, packed

from moe_native.oracle.ffn import activate, antiquantize, decode_deq_scale, ffn, requantize, round_to

f16, f32, bf16 = np.float16, np.float32, ml_dtypes.bfloat16


def stored(y, dtype=f16):
    """Return the result as it is stored, widened for comparison."""
    return round_to(y, dtype)


V = [-3, -2.25, -1, -0.5, 0.5, 1, 2, 3.5]
ACTIVATIONS = {
    "silu": [-0.1422776, -0.2145363, -0.2689414, -0.1887703, 0.3112297, 0.7310586, 1.7615941, 3.3974072],
    "fastgelu": [-0.0180713, -0.0478321, -0.1542042, -0.1496116, 0.3503884, 0.8457958, 1.9356586, 3.4909666],
    "gelu": [-0.0040497, -0.0275051, -0.1586553, -0.1542688, 0.3457312, 0.8413448, 1.9544997, 3.4991858],
    "geglu": [-0.0036374, -0.0272013, -0.1588080, -0.1542860, 0.3457140, 0.8411920, 1.9545978, 3.4993838],
    "relu": [0, 0, 0, 0, 0.5, 1, 2, 3.5],
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_table(name):
    # the table holds float32 results to seven decimals
    np.testing.assert_allclose(activate(name, V), ACTIVATIONS[name], rtol=2**-23, atol=0.5e-7)


def test_inner_functions_of_gated_activations():
    np.testing.assert_array_equal(activate("swiglu", V), activate("silu", V))
    np.testing.assert_array_equal(activate("reglu", V), activate("relu", V))


def test_gelu_forms_differ_most_near_2_70():
    v = np.linspace(0, 6, 60001)
    gap = np.abs(activate("gelu", v) - activate("geglu", v))
    assert gap.max() == pytest.approx(4.7e-4, abs=0.05e-4)
    assert v[gap.argmax()] == pytest.approx(2.70, abs=0.02)


def test_tanh_gelu_equals_its_other_spelling():
    v = np.linspace(-8, 8, 1001)
    other = v / (1 + np.exp(-0.0713548162726 * v * (v**2 + 22.363860002236)))
    np.testing.assert_allclose(activate("geglu", v), other, rtol=1e-9)


def test_activations_at_minus_infinity_and_nan():
    for name in ("silu", "fastgelu", "gelu", "geglu"):
        assert np.isnan(activate(name, [-np.inf])).all()
        assert activate(name, [np.inf]) == np.inf
    for name in ACTIVATIONS:
        assert np.isnan(activate(name, [np.nan])).all()


def test_intermediate_product():
    np.testing.assert_array_equal(X.astype(float) @ A.astype(float), [[-3, 1, -2.5], [6.5, -0.5, 1.75]])


@pytest.mark.parametrize("case", CASES)
def test_worked_number(case):
    arguments, needed, dtype = CASES[case]
    np.testing.assert_array_equal(stored(ffn(**arguments), dtype), needed)


def test_gelu_is_not_the_tanh_form():
    h = round_to(activate("geglu", X.astype(float) @ A.astype(float)), f16)
    np.testing.assert_array_equal(stored(h @ C.astype(float))[0], [0.386962890625, -0.8564453125])
    assert (stored(ffn(X, A, C, "gelu"))[0] != [0.386962890625, -0.8564453125]).all()


def test_index_list_gives_counts():
    rng = np.random.default_rng(1)
    x, w1, w2 = (rng.standard_normal(s).astype(f16) for s in ((50, 3), (4, 3, 5), (4, 5, 2)))
    by_index = ffn(x, w1, w2, "silu", expert_tokens_index=[1, 6, 10, 50])
    np.testing.assert_array_equal(by_index, ffn(x, w1, w2, "silu", [1, 5, 4, 40]))
    begin = 0
    for e, n in enumerate([1, 5, 4, 40]):
        np.testing.assert_array_equal(by_index[begin : begin + n], ffn(x[begin : begin + n], w1[e], w2[e], "silu"))
        begin += n


def test_gated_halves_are_left_and_right():
    arguments, needed, dtype = CASES["swiglu"]
    u = arguments["x"].astype(float) @ arguments["weight1"].astype(float)
    np.testing.assert_array_equal(u, [[2, 1, -1.5, 2.5], [-0.75, 1.5, -1, -1.875]])
    swapped = arguments | {"weight1": np.roll(arguments["weight1"], 2, axis=1)}
    assert (stored(ffn(**swapped), dtype) != needed).any()


def test_quantised_steps():
    qx, qw1, qw2, d1 = (QUANT[n] for n in ("x", "weight1", "weight2", "deq_scale1"))
    accumulated = qx.astype(int) @ qw1.astype(int)
    np.testing.assert_array_equal(accumulated, [[100, 280], [-12, -56]])
    t = round_to(accumulated * d1, f16)
    np.testing.assert_array_equal(t, [[3.125, 17.5], [-0.375, -3.5]])
    q = requantize(round_to(activate("relu", t), f16), f32(2), f32(3))
    np.testing.assert_array_equal(q, [[9, 38], [3, 3]])
    np.testing.assert_array_equal(q.astype(int) @ qw2.astype(int), [[405, 308, -67], [48, 6, -3]])
    q = requantize(round_to(activate("relu", t), f16), np.array([2, 0.1], f32), f32(3))
    np.testing.assert_array_equal(q, [[9, 5], [3, 3]])
    np.testing.assert_array_equal(q[0].astype(int) @ qw2.astype(int), [108, -22, -1])
    np.testing.assert_array_equal(round_to((accumulated[0] + [100, -100]) * d1, f16), [6.25, 11.25])


def test_quantised_bias_is_added_before_the_scale():
    bias1, bias2 = np.array([100, -100], np.int32), np.array([1, 2, 3], np.int32)
    y = ffn(**QUANT | {"scale": f32([1]), "offset": f32([0]), "bias1": bias1, "bias2": bias2})
    q = np.array([6, 11])  # 6.25 and 11.25
    np.testing.assert_array_equal(y[0], (q @ QUANT["weight2"].astype(int) + bias2) * QUANT["deq_scale2"])


def test_quantised_sum_beyond_float16_stays_finite():
    # 600 * 127 * 127 = 9677400; the product with 1e-5 fits float16 although the sum does not
    ones = np.full((600, 1), 127, np.int8)
    args = {"scale": np.array([1], f32), "offset": np.array([127], f32)}
    deq = {"deq_scale1": np.zeros(600, f32), "deq_scale2": np.array([1e-5], f32)}
    y = ffn(np.zeros((1, 1), np.int8), np.zeros((1, 600), np.int8), ones, "relu", **args, **deq)
    assert y.item() == pytest.approx(96.774, rel=1e-6)


def test_requantise_ties_and_saturation():
    np.testing.assert_array_equal(
        requantize(np.array([0.25, 0.75, 1.25, 70, -70]), f32(2), f32(0)), [0, 2, 2, 127, -128]
    )


def test_requantise_rounds_scale_product_and_sum_to_float16():
    # 0.3 becomes 0.300048828125: 108.375 * 0.3 would be 32.5125, a tie in float16, but 32.53 rounds to 33
    assert requantize(np.array([108.375]), f32(0.3), f32(0)).item() == 33
    # 15 * float16(0.1) = 1.49963, which float16 stores as the tie 1.5
    assert requantize(np.array([15.0]), f32(0.1), f32(0)).item() == 2
    # 64.5 + 2**-12 is stored as the tie 64.5
    assert requantize(np.array([2.0**-12]), f32(1), f32(64.5)).item() == 64


def test_requantise_without_a_number():
    assert requantize(np.array([np.nan, np.inf, -np.inf]), f32(1), f32(0)).tolist() == [0, 127, -128]


@pytest.mark.parametrize(
    ("value", "bits", "kept", "decoded"),
    [
        (0.0333333, 0x3D088880, 0x3D088000, 0.0333251953125),
        (0.01, None, 0x3C23C000, 0.0099945068359375),
        (0.5, 1056964608, 1056964608, 0.5),
    ],
)
def test_packed_deq_scale(value, bits, kept, decoded):
    raw = np.array([value], f32).view(np.uint32)
    if bits is not None:
        assert abs(int(raw[0]) - bits) <= 0x10  # the decimal is abbreviated
    word = packed(np.array([value], f32))
    assert word[0] == kept
    assert decode_deq_scale(word)[0] == decoded
    flagged = word | np.uint64(1 << 46) | np.uint64(0x1FFF)
    assert decode_deq_scale(flagged)[0] == decoded
    assert decode_deq_scale(flagged.view(np.int64))[0] == decoded
    exact = np.array([value], f32)
    assert decode_deq_scale(exact)[0] == exact[0]


def test_antiquant_float16():
    w1 = antiquantize(ANTIQUANT["weight1"], ANTIQUANT["antiquant_scale1"], ANTIQUANT["antiquant_offset1"])
    np.testing.assert_array_equal(w1, [[0.330078125, -1.5], [0.72998046875, 0.25]])
    w2 = antiquantize(ANTIQUANT["weight2"], ANTIQUANT["antiquant_scale2"], ANTIQUANT["antiquant_offset2"])
    np.testing.assert_array_equal(w2, [[1.5, -0.1949462890625], [4, 0.405029296875]])
    once = round_to((3 + float(f16(0.3))) * float(f16(0.1)), f16)
    assert once == pytest.approx(0.3298, abs=0.5e-4)


def test_antiquant_float16_keeps_the_hidden_values_in_float32():
    scale, offset = np.array([1], f16), np.array([0], f16)
    args = {"antiquant_scale1": scale, "antiquant_scale2": scale}
    args |= {"antiquant_offset1": offset, "antiquant_offset2": offset}
    x = np.array([[2048, 1]], f16)
    one = np.array([[1], [1]], np.int8)
    y = ffn(x, one, one[:1], "relu", bias2=np.array([-2048], f16), **args)
    assert y.item() == 1  # float16 would have stored 2048


def test_antiquant_bfloat16_rounds_once():
    scale, offset = np.array([0.1, 0.25], f32).astype(bf16), np.array([0.3, -1], f32).astype(bf16)
    w = antiquantize(ANTIQUANT["weight1"], scale, offset)
    expected = (ANTIQUANT["weight1"].astype(f32) + offset.astype(f32)) * scale.astype(f32)
    np.testing.assert_array_equal(w, round_to(expected, bf16))
    args = {"antiquant_scale1": scale, "antiquant_scale2": scale}
    args |= {"antiquant_offset1": offset, "antiquant_offset2": offset}
    y = ffn(X.astype(bf16), ANTIQUANT["weight1"], ANTIQUANT["weight2"], "relu", bias1=np.array([1, 2], f32), **args)
    h = round_to(np.maximum(X.astype(float) @ w + [1, 2], 0), bf16)
    np.testing.assert_array_equal(y, h @ antiquantize(ANTIQUANT["weight2"], scale, offset))


def test_antiquant_per_group():
    w = np.array([[1, -8], [7, 3], [-2, 5], [4, 0]], np.int8)
    scale, offset = np.array([[0.5, 0.25], [2, 0.125]], f16), np.array([[1, 0], [0, -1]], f16)
    expected = [[1, -2], [4, 0.75], [-4, 0.5], [8, -0.125]]
    np.testing.assert_array_equal(antiquantize(w, scale, offset), expected)
    np.testing.assert_array_equal(antiquantize(w, scale.astype(bf16), offset.astype(bf16)), expected)


def test_float32_rounds_nothing():
    rng = np.random.default_rng(2)
    x, w1, w2, b1, b2 = (rng.standard_normal(s).astype(f32) for s in ((3, 4), (4, 6), (6, 2), (6,), (2,)))
    wide = [a.astype(float) for a in (x, w1, w2, b1, b2)]
    t = wide[0] @ wide[1] + wide[3]
    np.testing.assert_array_equal(ffn(x, w1, w2, "silu", None, b1, b2), activate("silu", t) @ wide[2] + wide[4])
    gated = (t[:, :3] * activate("geglu", t[:, 3:])) @ wide[2][:3]
    np.testing.assert_array_equal(ffn(x, w1, w2[:3], "GEGLU", None, b1), gated)


def test_leading_dimensions_are_rows():
    rng = np.random.default_rng(3)
    x, w1, w2 = (rng.standard_normal(s).astype(f16) for s in ((2, 1, 3, 4), (2, 4, 6), (2, 6, 5)))
    y = ffn(x, w1, w2, "relu", [1, 5])
    assert y.shape == (2, 1, 3, 5)
    np.testing.assert_array_equal(y.reshape(6, 5), ffn(x.reshape(6, 4), w1, w2, "relu", [1, 5]))


def test_degenerate_sizes():
    zeros = np.zeros
    b2 = np.array([1.5, -2], f16)
    assert ffn(zeros((0, 3), f16), zeros((3, 4), f16), zeros((4, 2), f16), "relu").shape == (0, 2)
    assert ffn(zeros((2, 3), f16), zeros((3, 4), f16), zeros((4, 0), f16), "relu").shape == (2, 0)
    no_hidden = zeros((3, 0), f16), zeros((0, 2), f16)
    np.testing.assert_array_equal(ffn(zeros((2, 3), f16), *no_hidden, "relu"), np.zeros((2, 2)))
    np.testing.assert_array_equal(ffn(zeros((2, 3), f16), *no_hidden, "relu", bias2=b2), [[1.5, -2]] * 2)
    no_input = zeros((2, 0), f16), zeros((0, 3), f16), np.ones((3, 2), f16)
    np.testing.assert_array_equal(ffn(*no_input, "relu", bias1=np.array([1, 2, -3], f16)), np.full((2, 2), 3.0))
    quant = {"scale": zeros(1, f32), "offset": zeros(1, f32), "deq_scale1": zeros(0, f32)}
    quant |= {"deq_scale2": np.array([0.5, 2], f32), "bias2": np.array([3, 4], np.int32)}
    y = ffn(zeros((2, 3), np.int8), zeros((3, 0), np.int8), zeros((0, 2), np.int8), "relu", **quant)
    np.testing.assert_array_equal(y, [[1.5, 8]] * 2)


def test_float16_overflow_and_nan_stay_in_their_row():
    x = np.array([[1, 1], [60000, 60000], [np.nan, 1]], f16)
    w1, w2 = np.array([[1, 0], [1, 1]], f16), np.ones((2, 1), f16)
    y = stored(ffn(x, w1, w2, "relu"))
    assert y[0] == 3
    assert y[1] == np.inf
    assert np.isnan(y[2])
