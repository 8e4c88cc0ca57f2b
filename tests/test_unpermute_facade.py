"""npu_moe_token_unpermute_with_routing_map and its twin: results against hand-worked numbers, the oracle, refusals."""

import numpy as np
import pytest
from cases.permute import UNPERMUTE, assert_unpermuted
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native import _npu_moe_token_unpermute_with_routing_map as unpermute_all
from moe_native import limits
from moe_native import npu_moe_token_unpermute_with_routing_map as unpermute
from moe_native.oracle.permute import _moe_token_unpermute_with_routing_map as oracle
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only, round_to, strided

FLOATS = [np.dtype(np.float32), np.dtype(np.float16), bfloat16]
F32 = np.float32


def dropless_map(rng, tokens, experts, per_token):
    routing_map = np.zeros((tokens, experts), np.int8)
    np.put_along_axis(routing_map, rng.random((tokens, experts)).argsort(axis=1)[:, :per_token], 1, axis=1)
    return routing_map


def numbers(rng, shape, dtype):
    """Finite numbers over many magnitudes, so that the order and precision of sums shows."""
    return round_to(rng.normal(size=shape) * 2.0 ** rng.integers(-12, 5, shape), dtype)


def example(rng, dtype=F32, probs=F32, tokens=5, experts=4, per_token=2, hidden=7, drop_and_pad=False):
    """Random arguments, as a dict. With `drop_and_pad` `per_token` tokens per expert."""
    slots = experts * per_token if drop_and_pad else tokens * per_token
    weights = None
    if probs is not None:
        weights = numbers(rng, (tokens, experts), probs)
        weights[rng.random((tokens, experts)) < 0.2] = 0
    return {
        "permuted_tokens": numbers(rng, (slots, hidden), dtype),
        "sorted_indices": rng.integers(0, tokens, slots, dtype=np.int32)
        if drop_and_pad
        else rng.permutation(slots).astype(np.int32),
        "restore_shape": (tokens, hidden),
        "probs": weights,
        "routing_map": dropless_map(rng, tokens, experts, min(per_token, experts)),
        "drop_and_pad": drop_and_pad,
    }


def assert_results(seen, needed, dtype):
    assert isinstance(seen, tuple)
    assert_same_bits(seen[0], round_to(needed[0], dtype))
    assert_same_bits(seen[1], needed[1])
    assert_same_bits(seen[2], needed[2])
    if needed[3] is None:
        assert seen[3] is None
    else:
        assert_same_bits(seen[3], needed[3])


@pytest.mark.parametrize("map_dtype", [np.int8, np.bool_])
@pytest.mark.parametrize("case", UNPERMUTE)
def test_worked_number(case, map_dtype):
    arguments, needed = UNPERMUTE[case]
    if arguments["routing_map"] is not None:
        arguments = arguments | {"routing_map": arguments["routing_map"].astype(map_dtype)}
    seen = unpermute_all(**arguments)
    assert_unpermuted(seen, needed)
    assert_same_bits(unpermute(**arguments), seen[0])


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FLOATS),
    probs=st.sampled_from([None, *FLOATS]),
    tokens=st.sampled_from([1, 2, 5, 31, 200]),
    experts=st.sampled_from([1, 2, 7, 8, 9, 16, 65]),
    hidden=st.sampled_from([0, 1, 7, 15, 16, 17, 33, 1023, 1024, 1025]),
    data=st.data(),
)
def test_dropless_equals_oracle(seed, dtype, probs, tokens, experts, hidden, data):
    per_token = data.draw(st.integers(1, min(experts, 9)))
    arguments = example(np.random.default_rng(seed), dtype, probs, tokens, experts, per_token, hidden)
    assert_results(unpermute_all(**arguments), oracle(**arguments), dtype)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FLOATS),
    probs=st.sampled_from([None, *FLOATS]),
    tokens=st.sampled_from([1, 2, 5, 31, 200]),
    experts=st.sampled_from([1, 2, 7, 16]),
    hidden=st.sampled_from([0, 1, 7, 15, 16, 17, 33, 1023, 1024, 1025]),
    data=st.data(),
)
def test_padded_equals_oracle(seed, dtype, probs, tokens, experts, hidden, data):
    capacity = data.draw(st.integers(1, min(tokens, 40)))
    arguments = example(np.random.default_rng(seed), dtype, probs, tokens, experts, capacity, hidden, True)
    assert_results(unpermute_all(**arguments), oracle(**arguments), dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_near_the_formula_in_float64(dtype, drop_and_pad):
    arguments = example(np.random.default_rng(0), dtype, dtype, 60, 90, 40, 65, drop_and_pad)
    rows, index = arguments["permuted_tokens"].astype(np.float64), arguments["sorted_indices"]
    probs = arguments["probs"].astype(np.float64)

    def formula(rows, probs):
        total = np.zeros((60, 65))
        if drop_and_pad:
            np.add.at(total, index, probs[index, np.arange(index.size) // 40, None] * rows)
            return total
        return (probs[arguments["routing_map"] != 0][:, None] * rows[index]).reshape(60, 40, 65).sum(axis=1)

    exact, magnitude = formula(rows, probs), formula(np.abs(rows), np.abs(probs))
    # Dropless, 40 products and 40 sums round to float32; padded, each product once.
    terms = 1 if drop_and_pad else 80
    computed = terms * np.finfo(F32).eps / 2 * magnitude
    final = {np.dtype(F32): 2.0**-24, np.dtype(np.float16): 2.0**-11, bfloat16: 2.0**-8}[np.dtype(dtype)]
    tiny = 2.0**-25 if dtype == np.float16 else 0.0
    seen = unpermute(**arguments).astype(np.float64)
    assert (np.abs(seen - exact) <= computed + final * (np.abs(exact) + computed) + tiny).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dropless_accumulates_in_float32_and_padded_in_float64(dtype):
    # In float32, 2**24 + 1 is 2**24 again. The large term is taken away at the end, to show what was kept.
    rows = np.array([[2.0**12], [1], [1], [-(2.0**12)]]).astype(dtype)
    weight = np.array([[2.0**12, 1, 1, 2.0**12]]).astype(dtype)
    ones = np.ones((1, 4), np.int8)
    assert unpermute(rows, np.arange(4, dtype=np.int32), (1, 1), probs=weight, routing_map=ones)[0, 0] == 0
    assert unpermute(rows, np.zeros(4, np.int32), (1, 1), probs=weight, drop_and_pad=True)[0, 0] == 2


def test_padded_sums_round_once():
    # 1 + 2**-8 is halfway between two bfloat16; the third term decides, and float32 would lose it.
    for third, needed in [(2.0**-30, 1 + 2.0**-7), (-(2.0**-30), 1.0), (0.0, 1.0)]:
        rows = np.array([[1], [2.0**-8], [third]]).astype(bfloat16)
        seen = unpermute(rows, np.zeros(3, np.int32), (1, 1), drop_and_pad=True)
        assert float(seen[0, 0]) == needed


def test_a_probability_of_zero_hides_the_token_in_dropless_mode_only():
    rows = np.array([[np.inf, np.nan], [3, 4]], F32)
    routing_map = np.ones((1, 2), bool)
    index = np.arange(2, dtype=np.int32)
    for zero in (0.0, -0.0):
        probs = np.array([[zero, 2]], F32)
        seen = unpermute(rows, index, (1, 2), probs=probs, routing_map=routing_map)
        np.testing.assert_array_equal(seen, [[6, 8]])
        assert np.isnan(unpermute(rows, index * 0, (1, 2), probs=probs, drop_and_pad=True)).all()
    all_hidden = unpermute(rows, index, (1, 2), probs=np.zeros((1, 2), F32), routing_map=routing_map)
    assert_same_bits(all_hidden, np.zeros((1, 2), F32))
    subnormal = np.array([[1e-45, 2]], F32)
    seen = unpermute(rows, index, (1, 2), probs=subnormal, routing_map=routing_map)
    np.testing.assert_array_equal(seen, [[np.inf, np.nan]])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_special_values_stay_in_their_column(drop_and_pad, dtype):
    rows = np.array([[np.inf, np.nan, np.inf, 1], [1, 1, -np.inf, 1]]).astype(dtype)
    index = np.zeros(2, np.int32) if drop_and_pad else np.arange(2, dtype=np.int32)
    seen = unpermute(rows, index, (1, 4), drop_and_pad=drop_and_pad)
    np.testing.assert_array_equal(seen.astype(F32), [[np.inf, np.nan, np.nan, 2]])


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_one_term_keeps_its_sign_and_no_term_is_positive_zero(drop_and_pad):
    rows = np.array([[-0.0, 0.0]], F32)
    seen = unpermute(rows, np.zeros(1, np.int32), (1, 2), drop_and_pad=drop_and_pad)
    assert_same_bits(seen, rows)
    seen = unpermute(rows, np.ones(1, np.int32), (2, 2), drop_and_pad=True)
    assert_same_bits(seen, np.array([[0.0, 0.0], [-0.0, 0.0]], F32))


def test_results_overflow_to_inf():
    rows = np.full((2, 1), 60000, np.float16)
    index = np.arange(2, dtype=np.int32)
    assert unpermute(rows, index, (1, 1))[0, 0] == np.inf
    assert unpermute(rows, index * 0, (1, 1), drop_and_pad=True)[0, 0] == np.inf


def test_several_experts_select_a_token_one_of_them_twice():
    rows = np.array([[1], [2], [4], [8]], F32)
    index = np.array([1, 1, 0, 1], np.int32)
    probs = np.array([[10, 20], [30, 40]], F32)
    unpermuted, out_index, token_id, weights = unpermute_all(rows, index, None, probs=probs, drop_and_pad=True)
    np.testing.assert_array_equal(weights, [30, 30, 20, 40])
    np.testing.assert_array_equal(unpermuted, [[4 * 20], [30 + 2 * 30 + 8 * 40]])
    np.testing.assert_array_equal(out_index, [2, 0, 1, 3])
    np.testing.assert_array_equal(token_id, [0, 1, 1, 1])


def test_restore_shape_may_come_as_any_pair_or_from_probs():
    arguments = example(np.random.default_rng(1))
    needed = unpermute(**arguments)
    for shape in ([5, 7], np.array([5, 7]), None):
        assert_same_bits(unpermute(**(arguments | {"restore_shape": shape})), needed)


@pytest.mark.parametrize("probs", [None, F32])
@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_nothing_permuted_gives_zeros(drop_and_pad, probs):
    arguments = example(np.random.default_rng(2), probs=probs, per_token=0, drop_and_pad=drop_and_pad)
    unpermuted, out_index, token_id, weights = unpermute_all(**arguments)
    assert_same_bits(unpermuted, np.zeros((5, 7), F32))
    assert out_index.shape == token_id.shape == (0,)
    assert weights is None if probs is None else weights.shape == (0,)
    # One of the two empty is enough.
    index = np.array([7, -7], np.int32)
    seen = unpermute_all(**(arguments | {"sorted_indices": index}))
    assert_same_bits(seen[0], np.zeros((5, 7), F32))
    assert_same_bits(seen[1], np.zeros(2, np.int32))
    assert_same_bits(seen[2], np.zeros(2, np.int32))
    if probs is not None:
        assert_same_bits(seen[3], np.zeros(2, F32))
    rows = np.ones((3, 7), F32)
    assert_same_bits(unpermute(**(arguments | {"permuted_tokens": rows})), np.zeros((5, 7), F32))


def test_restore_shape_beyond_any_array():
    with pytest.raises(ValueError, match=r"unpermute.*: unpermuted: float32 \(4611686018427387904, 7\), which is more"):
        unpermute(np.ones((4, 7), F32), np.zeros(4, np.int32), (2**62, 7), drop_and_pad=True)


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_no_tokens_and_no_rows(drop_and_pad):
    seen = unpermute(np.zeros((0, 3), F32), np.zeros(0, np.int32), (0, 3), drop_and_pad=drop_and_pad)
    assert seen.shape == (0, 3)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_strided_and_read_only_inputs(dtype, drop_and_pad):
    arguments = example(np.random.default_rng(3), dtype, dtype, drop_and_pad=drop_and_pad)
    needed = unpermute(**arguments)
    views = {n: strided(a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
    assert_same_bits(unpermute(**views), needed)


def test_map_is_not_read_when_it_is_not_needed():
    for replaced in ({"probs": None}, {"drop_and_pad": True, "sorted_indices": np.zeros(8, np.int32)}):
        arguments = example(np.random.default_rng(4), tokens=4) | replaced
        arguments["permuted_tokens"] = arguments["permuted_tokens"][:8]
        needed = unpermute(**arguments)
        assert_same_bits(unpermute(**(arguments | {"routing_map": np.zeros((4, 4), np.int8)})), needed)
        assert_same_bits(unpermute(**(arguments | {"routing_map": None})), needed)


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_out_is_written_and_nothing_around_it(drop_and_pad):
    arguments = example(np.random.default_rng(5), bfloat16, drop_and_pad=drop_and_pad)
    needed = unpermute_all(**arguments)
    arrays, checks = zip(*[guarded(a.shape, a.dtype) for a in needed], strict=True)
    seen = unpermute_all(**arguments, out=arrays)
    assert all(got is given for got, given in zip(seen, arrays, strict=True))
    for got, want in zip(seen, needed, strict=True):
        assert_same_bits(got, want)
    out, check = guarded((5, 7), bfloat16)
    assert unpermute(**arguments, out=out) is out
    assert_same_bits(out, needed[0])
    for check_guard in (*checks, check):
        check_guard()


MAP = np.zeros((5, 4), np.int8)
REFUSED = {
    # name: (arguments to replace, exception, status of the core or None, message)
    "tokens missing": ({"permuted_tokens": None}, TypeError, 161001, "permuted_tokens: missing"),
    "indices missing": ({"sorted_indices": None}, TypeError, 161001, "sorted_indices: missing"),
    "shape and probs missing": (
        {"restore_shape": None, "probs": None},
        TypeError,
        161001,
        "restore_shape: missing, needed when probs is missing",
    ),
    "tokens float64": ({"permuted_tokens": np.ones((10, 7))}, TypeError, 161002, "permuted_tokens: dtype float64"),
    "tokens int8": ({"permuted_tokens": np.ones((10, 7), np.int8)}, TypeError, 161002, "permuted_tokens: dtype int8"),
    "probs int32": ({"probs": np.ones((5, 4), np.int32)}, TypeError, 161002, "probs: dtype int32, needed one of"),
    "indices int64": (
        {"sorted_indices": np.arange(10)},
        TypeError,
        161002,
        "sorted_indices: dtype int64, needed int32",
    ),
    "indices bool": ({"sorted_indices": np.zeros(10, bool)}, TypeError, 161002, "sorted_indices: dtype bool"),
    "tokens rank 1": ({"permuted_tokens": np.ones(10, F32)}, ValueError, 161002, "permuted_tokens: shape"),
    "tokens rank 3": ({"permuted_tokens": np.ones((10, 7, 1), F32)}, ValueError, 161002, "permuted_tokens: shape"),
    "indices rank": (
        {"sorted_indices": np.zeros((5, 2), np.int32)},
        ValueError,
        161002,
        r"sorted_indices: shape \(5, 2\), needed 1 dimension",
    ),
    "map int32": ({"routing_map": MAP.astype(np.int32)}, TypeError, 561002, "routing_map: dtype int32"),
    "map uint8": ({"routing_map": MAP.astype(np.uint8)}, TypeError, 561002, "routing_map: dtype uint8"),
    "map rank": ({"routing_map": MAP.reshape(-1)}, ValueError, 561002, r"routing_map: shape \(20,\)"),
    "map rows": ({"routing_map": np.ones((4, 4), np.int8)}, ValueError, 561002, r"routing_map: shape \(4, 4\)"),
    "map columns": ({"routing_map": np.ones((5, 5), np.int8)}, ValueError, 561002, r"shape \(5, 5\), needed"),
    "map missing": ({"routing_map": None}, ValueError, 561002, "routing_map: missing, needed with probs"),
    "probs rank": ({"probs": np.ones(20, F32)}, ValueError, 561002, r"probs: shape \(20,\), needed 2"),
    "tokens of probs": (
        {"probs": np.ones((6, 4), F32)},
        ValueError,
        561002,
        r"restore_shape: \(5, 7\), needed the tokens of probs = 6",
    ),
    "columns": ({"restore_shape": (5, 8)}, ValueError, 561002, r"\(5, 8\), needed the columns of .* = 7"),
    "negative shape": ({"restore_shape": (-5, 7)}, ValueError, 561002, r"restore_shape: \(-5, 7\)"),
    "shape of 3": ({"restore_shape": (5, 7, 1)}, ValueError, None, "restore_shape: 3 numbers, needed 2"),
    "shape a number": ({"restore_shape": 5}, TypeError, None, r"restore_shape: int, needed \(tokens, hidden\)"),
    "shape of floats": ({"restore_shape": (5.0, 7)}, TypeError, None, "restore_shape: float, needed an int"),
    "mode": ({"drop_and_pad": 0}, TypeError, None, "drop_and_pad: int, needed a bool"),
    "rows unlike indices": (
        {"permuted_tokens": np.ones((11, 7), F32)},
        ValueError,
        561002,
        "permuted_tokens: 11 rows, needed one for each of the 10 sorted_indices",
    ),
    "indices not whole": (
        {"permuted_tokens": np.ones((11, 7), F32), "sorted_indices": np.arange(11, dtype=np.int32)},
        ValueError,
        561002,
        "sorted_indices: 11 indices, needed a multiple of the 5 tokens",
    ),
    "more per token than experts": (
        {"permuted_tokens": np.ones((25, 7), F32), "sorted_indices": np.arange(25, dtype=np.int32)},
        ValueError,
        561002,
        "routing_map: 4 experts, needed at least the 5 indices per token",
    ),
    "index beyond": (
        {"sorted_indices": np.arange(1, 11, dtype=np.int32)},
        ValueError,
        161002,
        "sorted_indices: 10 at position 9, needed a row of permuted_tokens",
    ),
    "index -1": (
        {"sorted_indices": np.arange(-1, 9, dtype=np.int32)},
        ValueError,
        161002,
        "sorted_indices: -1 at position 0",
    ),
    "map of zeros": ({"routing_map": MAP}, ValueError, 161002, "routing_map: row 0 has 0 experts, needed .* = 2"),
    "ragged map": (
        {"routing_map": np.array([[1, 1, 0, 0]] * 3 + [[1, 1, 1, 0], [1, 0, 0, 0]], np.int8)},
        ValueError,
        161002,
        "routing_map: row 3 has 3 experts, needed indices per token = 2",
    ),
}


def refused(arguments, exception, status, message):
    out, check = guarded((5, 7), F32)
    with pytest.raises(exception, match=message) as caught:
        unpermute(**arguments, out=out)
    assert str(caught.value).startswith("npu_moe_token_unpermute_with_routing_map: ")
    assert getattr(caught.value, "status", None) == status
    assert is_untouched(out)
    check()


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    replaced, exception, status, message = REFUSED[name]
    refused(example(np.random.default_rng(6)) | replaced, exception, status, message)


PADDED_REFUSED = {
    "not whole": (np.zeros(9, np.int32), 561002, "9 indices, needed a multiple of the 4 experts"),
    "capacity": (np.zeros(24, np.int32), 561002, "6 indices per expert, needed at most the 5 tokens"),
    "token beyond": (np.array([0, 1, 2, 3, 4, 5, 0, 0], np.int32), 161002, "5 at position 5, needed a token"),
    "token -1": (np.array([0, 1, 2, -1, 4, 3, 0, 0], np.int32), 161002, "-1 at position 3, needed a token"),
}


@pytest.mark.parametrize("name", PADDED_REFUSED)
def test_padded_refused(name):
    index, status, message = PADDED_REFUSED[name]
    arguments = example(np.random.default_rng(7), drop_and_pad=True)
    arguments |= {"sorted_indices": index, "permuted_tokens": np.ones((len(index), 7), F32)}
    refused(arguments, ValueError, status, message)


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_rows_without_tokens(drop_and_pad):
    with pytest.raises(ValueError, match="sorted_indices: 2 indices for 0 tokens") as caught:
        unpermute(np.ones((2, 3), F32), np.zeros(2, np.int32), (0, 3), drop_and_pad=drop_and_pad)
    assert caught.value.status == 561002


def test_padded_probs_without_experts():
    with pytest.raises(ValueError, match="needed a multiple of the 0 experts"):
        unpermute(np.ones((2, 3), F32), np.zeros(2, np.int32), (4, 3), probs=np.ones((4, 0), F32), drop_and_pad=True)


def test_bad_out():
    arguments = example(np.random.default_rng(8))
    for out, exception in [
        (np.zeros((5, 8), F32), ValueError),
        (np.zeros((5, 7), np.float16), ValueError),
        (np.zeros((5, 14), F32)[:, ::2], ValueError),
        (read_only(np.zeros((5, 7), F32)), ValueError),
        ([0.0], TypeError),
        (arguments["permuted_tokens"][2:7], ValueError),
    ]:
        before = np.array(out)
        with pytest.raises(exception, match="npu_moe_token_unpermute_with_routing_map: out: "):
            unpermute(**arguments, out=out)
        np.testing.assert_array_equal(np.array(out), before)
    with pytest.raises(TypeError, match="out: ndarray, needed None or a tuple of 4"):
        unpermute_all(**arguments, out=np.zeros((5, 7), F32))
    with pytest.raises(ValueError, match="out: 3 entries, needed 4"):
        unpermute_all(**arguments, out=(None, None, None))
    index = np.zeros(10, np.int32)
    with pytest.raises(ValueError, match="out_index overlaps permuted_token_id"):
        unpermute_all(**arguments, out=(None, index, index, None))
    arguments["probs"] = None
    with pytest.raises(TypeError, match="out: an array for permute_probs, needed None"):
        unpermute_all(**arguments, out=(None, None, None, np.zeros(10, F32)))


def test_more_experts_per_token_than_a_card_takes():
    for per_token in (512, 513):
        arguments = example(np.random.default_rng(9), tokens=2, experts=600, per_token=per_token, hidden=1)
        assert_results(unpermute_all(**arguments), oracle(**arguments), F32)
        with limits("atlas-a2"):
            if per_token == 512:
                unpermute(**arguments)
            else:
                with pytest.raises(ValueError, match="513 per token, needed at most 512") as caught:
                    unpermute(**arguments)
                assert caught.value.status == 561002


def test_more_rows_than_indices_can_hold():
    rows = np.broadcast_to(F32(0), (2**31, 0))
    with pytest.raises(ValueError, match="needed at most 2147483647: indices are int32"):
        unpermute(rows, np.broadcast_to(np.int32(0), (2**31,)), (1, 0))
