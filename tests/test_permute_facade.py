"""npu_moe_token_permute_with_routing_map: results against hand-worked numbers and the oracle, and every refusal."""

import numpy as np
import pytest
from cases.permute import PERMUTE
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native import limits
from moe_native import npu_moe_token_permute_with_routing_map as permute
from moe_native.oracle.permute import moe_token_permute_with_routing_map as oracle
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only, strided

FLOATS = [np.dtype(np.float32), np.dtype(np.float16), bfloat16]
F32 = np.float32


def any_bits(rng, shape, dtype):
    """Numbers of every kind: infinities, subnormal ones and NaN too."""
    dtype = np.dtype(dtype)
    return rng.integers(0, 256, (*shape[:-1], shape[-1] * dtype.itemsize), np.uint8).view(dtype)


def dropless_map(rng, tokens, experts, per_token, dtype=np.int8):
    """A map with `per_token` entries in every row."""
    routing_map = np.zeros((tokens, experts), dtype)
    np.put_along_axis(routing_map, rng.random((tokens, experts)).argsort(axis=1)[:, :per_token], 1, axis=1)
    return routing_map


def example(rng, dtype=F32, tokens=5, experts=4, per_token=2, hidden=7, probs=True, drop_and_pad=False):
    """Random arguments, as a dict."""
    return {
        "tokens": any_bits(rng, (tokens, hidden), dtype),
        "routing_map": dropless_map(rng, tokens, experts, per_token),
        "probs": any_bits(rng, (tokens, experts), dtype) if probs else None,
        "num_out_tokens": tokens * per_token,
        "drop_and_pad": drop_and_pad,
    }


def assert_results(seen, needed):
    assert isinstance(seen, tuple)
    for got, want in zip(seen, needed, strict=True):
        if want is None:
            assert got is None
        else:
            assert_same_bits(got, want)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("map_dtype", [np.int8, np.bool_])
@pytest.mark.parametrize("case", PERMUTE)
def test_worked_number(case, map_dtype, dtype):
    arguments, (rows, permuted_probs, sorted_indices) = PERMUTE[case]
    arguments = arguments | {
        "tokens": arguments["tokens"].astype(dtype),
        "routing_map": arguments["routing_map"].astype(map_dtype),
        "probs": arguments["probs"].astype(dtype),
    }
    assert_results(permute(**arguments), (rows.astype(dtype), permuted_probs.astype(dtype), sorted_indices))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FLOATS),
    probs=st.sampled_from(["none", "same", "float32"]),
    tokens=st.sampled_from([1, 2, 5, 31, 200]),
    experts=st.sampled_from([1, 2, 7, 8, 9, 16, 65]),
    hidden=st.sampled_from([0, 1, 7, 16, 33, 613]),
    data=st.data(),
)
def test_dropless_equals_oracle(seed, dtype, probs, tokens, experts, hidden, data):
    per_token = data.draw(st.integers(0, experts))
    extra = data.draw(st.integers(0, tokens - 1)) if per_token < experts else 0
    rng = np.random.default_rng(seed)
    arguments = example(rng, dtype, tokens, experts, per_token, hidden, probs == "same")
    if probs == "float32" and dtype == bfloat16:
        arguments["probs"] = any_bits(rng, (tokens, experts), F32)
    arguments["num_out_tokens"] = data.draw(st.sampled_from([tokens * per_token + extra, None]))
    assert_results(permute(**arguments), oracle(**arguments))


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FLOATS),
    probs=st.booleans(),
    tokens=st.sampled_from([1, 2, 5, 31, 200]),
    experts=st.sampled_from([1, 2, 7, 8, 9, 16, 65]),
    hidden=st.sampled_from([0, 1, 7, 33]),
    density=st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]),
    data=st.data(),
)
def test_padded_equals_oracle(seed, dtype, probs, tokens, experts, hidden, density, data):
    rng = np.random.default_rng(seed)
    arguments = example(rng, dtype, tokens, experts, 0, hidden, probs, True)
    arguments["routing_map"] = (rng.random((tokens, experts)) < density).astype(np.int8)
    arguments["num_out_tokens"] = data.draw(st.integers(0, tokens * experts))
    assert_results(permute(**arguments), oracle(**arguments))


@pytest.mark.parametrize("drop_and_pad", [False, True])
@pytest.mark.parametrize("hidden", [1, 613, 7168])
def test_hidden_sizes(hidden, drop_and_pad):
    arguments = example(np.random.default_rng(0), bfloat16, 40, 8, 3, hidden, True, drop_and_pad)
    assert_results(permute(**arguments), oracle(**arguments))


def test_none_counts_the_map_when_dropless_and_the_tokens_when_padded():
    arguments = example(np.random.default_rng(1), tokens=6, experts=3)
    arguments["num_out_tokens"] = None
    rows, permuted_probs, sorted_indices = permute(**arguments)
    assert rows.shape == (12, 7)
    assert permuted_probs.shape == sorted_indices.shape == (12,)
    arguments["drop_and_pad"] = True
    assert permute(**arguments)[0].shape == (6, 7)  # capacity 6 // 3
    arguments["drop_and_pad"], arguments["routing_map"] = False, np.zeros((6, 3), np.int8)
    assert permute(**arguments)[0].shape == (0, 7)


def test_num_out_tokens_is_rounded_down():
    arguments = example(np.random.default_rng(2), tokens=5, experts=4)
    needed = permute(**arguments)
    for more in range(1, 5):
        assert_results(permute(**(arguments | {"num_out_tokens": 10 + more})), needed)
    arguments["drop_and_pad"] = True
    needed = permute(**(arguments | {"num_out_tokens": 8}))
    assert needed[0].shape == (8, 7)
    for number in (9, 10, 11, np.int32(8)):
        assert_results(permute(**(arguments | {"num_out_tokens": number})), needed)


def test_less_than_a_row_per_token_is_empty_whatever_the_map():
    arguments = example(np.random.default_rng(3))
    for number in (0, 4):
        rows, permuted_probs, sorted_indices = permute(**(arguments | {"num_out_tokens": number}))
        assert rows.shape == (0, 7)
        assert permuted_probs.shape == sorted_indices.shape == (0,)


def test_all_tokens_to_one_expert():
    arguments = example(np.random.default_rng(4), per_token=0)
    arguments["routing_map"][:, 2] = 1
    rows, permuted_probs, sorted_indices = permute(**(arguments | {"num_out_tokens": None}))
    assert_same_bits(rows, arguments["tokens"])
    assert_same_bits(permuted_probs, np.ascontiguousarray(arguments["probs"][:, 2]))
    assert_same_bits(sorted_indices, np.arange(5, dtype=np.int32))


def test_any_nonzero_routes():
    arguments = example(np.random.default_rng(5), tokens=50, experts=13)
    for drop_and_pad in (False, True):
        arguments["drop_and_pad"] = drop_and_pad
        needed = permute(**arguments)
        for factor in (2, -1, -128, 127):
            scaled = arguments | {"routing_map": arguments["routing_map"] * np.int8(factor)}
            assert_results(permute(**scaled), needed)
        assert_results(permute(**(arguments | {"routing_map": arguments["routing_map"].astype(bool)})), needed)


@pytest.mark.parametrize("drop_and_pad", [False, True])
@pytest.mark.parametrize(("tokens", "experts"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_route(tokens, experts, drop_and_pad):
    rows, permuted_probs, sorted_indices = permute(
        np.zeros((tokens, 5), F32),
        np.zeros((tokens, experts), np.int8),
        probs=np.zeros((tokens, experts), F32),
        num_out_tokens=0,
        drop_and_pad=drop_and_pad,
    )
    assert rows.shape == (0, 5)
    assert permuted_probs.shape == sorted_indices.shape == (0,)


def test_no_columns_still_gives_indices_and_probabilities():
    arguments = example(np.random.default_rng(6), hidden=0)
    rows, permuted_probs, sorted_indices = permute(**arguments)
    assert rows.shape == (10, 0)
    assert_results((permuted_probs, sorted_indices), oracle(**arguments)[1:])


def test_padding_takes_real_tokens_and_their_probabilities():
    tokens, probs = np.array([[1], [2], [3]], F32), np.array([[10, 11], [20, 21], [30, 31]], F32)
    rows, permuted_probs, sorted_indices = permute(
        tokens, np.array([[0, 0], [0, 0], [1, 0]], bool), probs=probs, num_out_tokens=4, drop_and_pad=True
    )
    np.testing.assert_array_equal(rows, [[3], [1], [1], [2]])
    np.testing.assert_array_equal(permuted_probs, [30, 10, 11, 21])
    np.testing.assert_array_equal(sorted_indices, [2, 0, 0, 1])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_strided_and_read_only_inputs(dtype, drop_and_pad):
    arguments = example(np.random.default_rng(7), dtype, drop_and_pad=drop_and_pad)
    needed = permute(**arguments)
    views = {n: strided(a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
    assert_results(permute(**views), needed)
    transposed = np.asfortranarray(arguments["routing_map"])
    assert_results(permute(**(arguments | {"routing_map": transposed})), needed)


def outputs(arguments):
    """Guarded arrays for every result, and a function that checks the guards."""
    shapes = [(a.shape, a.dtype) for a in oracle(**arguments) if a is not None]
    arrays, checks = zip(*[guarded(*s) for s in shapes], strict=True)
    if arguments["probs"] is None:
        arrays = (arrays[0], None, arrays[1])
    return arrays, lambda: [check() for check in checks]


@pytest.mark.parametrize("drop_and_pad", [False, True])
@pytest.mark.parametrize("probs", [False, True])
def test_out_is_written_and_nothing_around_it(probs, drop_and_pad):
    arguments = example(np.random.default_rng(8), bfloat16, probs=probs, drop_and_pad=drop_and_pad)
    out, check = outputs(arguments)
    seen = permute(**arguments, out=out)
    check()
    assert all(got is given for got, given in zip(seen, out, strict=True))
    assert_results(seen, permute(**arguments))
    indices, check_indices = guarded(out[2].shape, np.int32)
    seen = permute(**arguments, out=(None, None, indices))
    check_indices()
    assert seen[2] is indices
    assert_results(seen, out)


REFUSED = {
    # name: (arguments to replace, exception, status of the core or None, message)
    "tokens missing": ({"tokens": None}, TypeError, 161001, "tokens: missing"),
    "map missing": ({"routing_map": None}, TypeError, 161001, "routing_map: missing"),
    "map missing, no number": (
        {"routing_map": None, "num_out_tokens": None},
        TypeError,
        161001,
        "routing_map: missing",
    ),
    "tokens a list": ({"tokens": [[1.0]]}, TypeError, None, "tokens: list, needed an array"),
    "tokens float64": ({"tokens": np.ones((5, 7))}, TypeError, 161002, "tokens: dtype float64, needed one of"),
    "tokens int8": ({"tokens": np.ones((5, 7), np.int8)}, TypeError, 161002, "tokens: dtype int8"),
    "map int32": ({"routing_map": np.ones((5, 4), np.int32)}, TypeError, 161002, "routing_map: dtype int32"),
    "map uint8": ({"routing_map": np.ones((5, 4), np.uint8)}, TypeError, 161002, "routing_map: dtype uint8"),
    "map float": ({"routing_map": np.ones((5, 4), F32)}, TypeError, 161002, "routing_map: dtype float32"),
    "probs dtype": (
        {"probs": np.ones((5, 4), np.float16)},
        TypeError,
        161002,
        "probs: dtype float16, needed float32 as tokens has",
    ),
    "probs int": ({"probs": np.ones((5, 4), np.int32)}, TypeError, 161002, "probs: dtype int32"),
    "half tokens, float32 probs": (
        {"tokens": np.ones((5, 7), np.float16)},
        TypeError,
        161002,
        "probs: dtype float32, needed float16",
    ),
    "map rank 1": ({"routing_map": np.ones(20, np.int8)}, ValueError, 161002, r"routing_map: shape \(20,\)"),
    "map rank 3": ({"routing_map": np.ones((5, 4, 1), np.int8)}, ValueError, 161002, "routing_map: shape"),
    "map rank 1, no number": (
        {"routing_map": np.ones(20, np.int8), "num_out_tokens": None},
        ValueError,
        161002,
        "needed 2 dimensions",
    ),
    "probs rank": ({"probs": np.ones(20, F32)}, ValueError, 161002, r"probs: shape \(20,\), needed 2 dim"),
    "number -1": ({"num_out_tokens": -1}, ValueError, 161002, "num_out_tokens: -1, needed 0 to tokens"),
    "number too large": ({"num_out_tokens": 21}, ValueError, 161002, r"21, needed 0 to .* = 5 \* 4 = 20"),
    "number too large, padded": (
        {"num_out_tokens": 21, "drop_and_pad": True},
        ValueError,
        161002,
        "num_out_tokens: 21",
    ),
    "number huge": ({"num_out_tokens": 2**70}, ValueError, None, "does not fit 64 bits"),
    "number bool": ({"num_out_tokens": True}, TypeError, None, "num_out_tokens: True, needed an int"),
    "number float": ({"num_out_tokens": 10.0}, TypeError, None, "num_out_tokens: float, needed an int"),
    "mode int": ({"drop_and_pad": 1}, TypeError, None, "drop_and_pad: int, needed a bool"),
    "mode None": ({"drop_and_pad": None}, TypeError, None, "drop_and_pad: NoneType, needed a bool"),
    "tokens rank": ({"tokens": np.ones(5, F32)}, ValueError, 561002, r"tokens: shape \(5,\)"),
    "tokens rows": ({"tokens": np.ones((6, 7), F32)}, ValueError, 561002, r"tokens: shape \(6, 7\), needed"),
    "probs rows": ({"probs": np.ones((4, 4), F32)}, ValueError, 161002, r"probs: shape \(4, 4\)"),
    "probs columns": ({"probs": np.ones((5, 5), F32)}, ValueError, 161002, r"probs: shape \(5, 5\), needed"),
    "ragged map": (
        {"routing_map": np.array([[1, 1, 0, 0]] * 3 + [[1, 1, 1, 0], [1, 0, 0, 0]], np.int8)},
        ValueError,
        161002,
        r"routing_map: row 3 has 3 experts, needed num_out_tokens // tokens = 2",
    ),
    "map of zeros": ({"routing_map": np.zeros((5, 4), np.int8)}, ValueError, 161002, "row 0 has 0 experts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    replaced, exception, status, message = REFUSED[name]
    arguments = example(np.random.default_rng(9))
    out, check = outputs(arguments)
    with pytest.raises(exception, match=message) as caught:
        permute(**(arguments | replaced), out=out)
    assert str(caught.value).startswith("npu_moe_token_permute_with_routing_map: ")
    assert getattr(caught.value, "status", None) == status
    assert all(is_untouched(array) for array in out)
    check()


def test_rows_must_have_as_many_entries_as_the_number_says():
    with pytest.raises(ValueError, match="row 0 has 2 experts, needed num_out_tokens // tokens = 3"):
        permute(**(example(np.random.default_rng(9)) | {"num_out_tokens": 15}))


def test_ragged_map_without_a_number():
    # 5 entries for 3 tokens: 1 per token.
    ragged = np.array([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    with pytest.raises(ValueError, match="row 0 has 3 experts, needed num_out_tokens // tokens = 1"):
        permute(np.ones((3, 2), F32), ragged)


def test_experts_without_tokens_need_no_number():
    with pytest.raises(ValueError, match="num_out_tokens: 3, needed 0 to"):
        permute(np.ones((3, 2), F32), np.zeros((3, 0), bool), drop_and_pad=True)


def test_bad_out():
    arguments = example(np.random.default_rng(10))
    good = [np.zeros((10, 7), F32), np.zeros(10, F32), np.zeros(10, np.int32)]

    def refused(out, exception, message):
        before = [np.array(a) if isinstance(a, np.ndarray) else None for a in out]
        with pytest.raises(exception, match=message):
            permute(**arguments, out=out)
        for array, old in zip(out, before, strict=True):
            if old is not None:
                np.testing.assert_array_equal(array, old)

    refused(good, TypeError, "out: list, needed None or a tuple of 3")
    refused(tuple(good[:2]), ValueError, "out: 2 entries, needed 3")
    for place, bad in [
        (0, np.zeros((9, 7), F32)),
        (0, np.zeros((10, 8), F32)),
        (0, np.zeros((10, 7), np.float16)),
        (0, np.zeros((10, 14), F32)[:, ::2]),
        (0, read_only(np.zeros((10, 7), F32))),
        (1, np.zeros(9, F32)),
        (1, np.zeros((10, 1), F32)),
        (1, np.zeros(10, np.float16)),
        (2, np.zeros(10, np.int64)),
        (2, np.zeros(11, np.int32)),
        (2, np.zeros((10, 1), np.int32)),
    ]:
        refused(tuple(bad if i == place else a for i, a in enumerate(good)), ValueError, "out: ")
    refused((good[0], good[1], [0] * 10), TypeError, "out: list for sorted_indices")
    memory = np.zeros(80, F32)
    refused((memory[:70].reshape(10, 7), memory[65:75], None), ValueError, "permuted_tokens overlaps permuted_probs")
    refused((None, arguments["tokens"].reshape(-1)[:10], None), ValueError, "permuted_probs overlaps tokens")
    arguments["probs"] = None
    refused(tuple(good), TypeError, "out: an array for permuted_probs, needed None as probs is None")


def test_more_experts_per_token_than_a_card_takes():
    tokens, routing_map = np.ones((2, 1), F32), np.zeros((2, 600), np.int8)
    for per_token in (512, 513):
        routing_map[:, :per_token] = 1
        assert permute(tokens, routing_map)[0].shape == (2 * per_token, 1)
        with limits("atlas-a2"):
            if per_token == 512:
                permute(tokens, routing_map)
            else:
                with pytest.raises(ValueError, match="513 experts per token, needed at most 512") as caught:
                    permute(tokens, routing_map)
                assert caught.value.status == 561002
                permute(tokens, routing_map, num_out_tokens=1200, drop_and_pad=True)


@pytest.mark.parametrize("name", ["atlas-a2", "seed"])
@pytest.mark.parametrize("axis", [0, 1])
def test_more_tokens_or_experts_than_a_card_takes(axis, name):
    # Nothing of this size exists in memory: the map is one byte, repeated. Without a row there is nothing to copy.
    shape = [1, 1]
    for count in (16777214, 16777215):
        shape[axis] = count
        routing_map = np.broadcast_to(np.int8(0), shape)
        tokens = np.broadcast_to(F32(0), (shape[0], 0))
        with limits(name):
            if count == 16777214:
                permute(tokens, routing_map, num_out_tokens=0)
            else:
                with pytest.raises(ValueError, match="routing_map: shape .* needed at most 16777214") as caught:
                    permute(tokens, routing_map, num_out_tokens=0)
                assert caught.value.status == 161002


def test_more_rows_than_a_card_takes():
    tokens = np.broadcast_to(F32(0), (32768, 0))
    routing_map = np.broadcast_to(np.int8(1), (32768, 512))
    with limits("atlas-a2"), pytest.raises(ValueError, match="needed at most 16777214 rows") as caught:
        permute(tokens, routing_map, num_out_tokens=32768 * 512)
    assert caught.value.status == 561002


def test_sizes_that_indices_cannot_hold():
    tokens = np.broadcast_to(F32(0), (2**31, 0))
    with pytest.raises(ValueError, match="at most 2147483647 tokens: indices are int32"):
        permute(tokens, np.broadcast_to(np.int8(0), (2**31, 1)), num_out_tokens=0)
    tokens = np.broadcast_to(F32(0), (2**30, 0))
    with pytest.raises(ValueError, match="num_out_tokens: 2147483648, needed at most 2147483647"):
        permute(tokens, np.broadcast_to(np.int8(1), (2**30, 2)), num_out_tokens=2**31)
