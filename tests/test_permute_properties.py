"""Permute and unpermute by a routing map: what must hold whatever the numbers are."""

import numpy as np
import pytest

import moe_native
from moe_native import _npu_moe_token_unpermute_with_routing_map as unpermute_all
from moe_native import npu_moe_token_permute_with_routing_map as permute
from moe_native import npu_moe_token_unpermute_with_routing_map as unpermute
from moe_native import set_num_threads
from moe_native.testing import assert_same_bits, bfloat16, instruction_sets, random_bits

FLOATS = [np.dtype(np.float32), np.dtype(np.float16), bfloat16]
TOKENS, EXPERTS, PER_TOKEN, HIDDEN = 603, 32, 4, 300


@pytest.fixture
def layer():
    """Arguments of permute, large enough that every thread gets a share; the first experts are crowded."""
    rng = np.random.default_rng(0)
    routing_map = np.zeros((TOKENS, EXPERTS), np.int8)
    chosen = (rng.random((TOKENS, EXPERTS)) * np.arange(1, EXPERTS + 1)).argsort(axis=1)[:, :PER_TOKEN]
    np.put_along_axis(routing_map, chosen, 1, axis=1)
    return {
        "tokens": rng.normal(size=(TOKENS, HIDDEN)).astype(bfloat16),
        "routing_map": routing_map,
        "probs": rng.random((TOKENS, EXPERTS)).astype(np.float32),
        "num_out_tokens": TOKENS * PER_TOKEN,
    }


def back(layer, rows, index, drop_and_pad):
    return unpermute_all(
        rows,
        index,
        (TOKENS, HIDDEN),
        probs=layer["probs"],
        routing_map=layer["routing_map"],
        drop_and_pad=drop_and_pad,
    )


@pytest.mark.parametrize("drop_and_pad", [False, True])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_any_number_of_threads(layer, threads, drop_and_pad):
    set_num_threads(1)
    permuted = permute(**layer, drop_and_pad=drop_and_pad)
    unpermuted = back(layer, permuted[0], permuted[2], drop_and_pad)
    set_num_threads(threads)
    try:
        for _ in range(3):
            for seen, needed in zip(permute(**layer, drop_and_pad=drop_and_pad), permuted, strict=True):
                assert_same_bits(seen, needed)
            for seen, needed in zip(back(layer, permuted[0], permuted[2], drop_and_pad), unpermuted, strict=True):
                assert_same_bits(seen, needed)
    finally:
        set_num_threads(0)


def test_split_batch(layer):
    whole, whole_probs, whole_index = permute(**layer)
    combined = back(layer, whole, whole_index, False)
    for begin, end in [(0, 1), (1, 250), (250, TOKENS)]:
        part = {name: array[begin:end] for name, array in layer.items() if name != "num_out_tokens"}
        rows, probs, index = permute(**part, num_out_tokens=(end - begin) * PER_TOKEN)
        slots = slice(begin * PER_TOKEN, end * PER_TOKEN)
        # The same rows in the order of the tokens, though in other places.
        assert_same_bits(rows[index], whole[whole_index[slots]])
        assert_same_bits(probs[index], whole_probs[whole_index[slots]])
        seen = unpermute_all(rows, index, (end - begin, HIDDEN), probs=part["probs"], routing_map=part["routing_map"])
        assert_same_bits(seen[0], combined[0][begin:end])
        assert_same_bits(seen[3], combined[3][slots])


def test_relabelled_experts(layer):
    label = np.random.default_rng(1).permutation(EXPERTS)
    relabelled = layer | {n: np.empty_like(layer[n]) for n in ("routing_map", "probs")}
    for name in ("routing_map", "probs"):
        relabelled[name][:, label] = layer[name]
    counts = layer["routing_map"].sum(axis=0, dtype=np.int64)
    begin = np.cumsum(counts) - counts
    new_counts = relabelled["routing_map"].sum(axis=0, dtype=np.int64)
    new_begin = np.cumsum(new_counts) - new_counts
    whole, moved = permute(**layer), permute(**relabelled)
    whole_padded, moved_padded = permute(**layer, drop_and_pad=True), permute(**relabelled, drop_and_pad=True)
    capacity = TOKENS * PER_TOKEN // EXPERTS
    for expert in range(EXPERTS):
        old = slice(begin[expert], begin[expert] + counts[expert])
        new = slice(new_begin[label[expert]], new_begin[label[expert]] + counts[expert])
        for seen, needed in zip(moved[:2], whole[:2], strict=True):
            assert_same_bits(seen[new], needed[old])
        old = slice(expert * capacity, (expert + 1) * capacity)
        new = slice(label[expert] * capacity, (label[expert] + 1) * capacity)
        for seen, needed in zip(moved_padded, whole_padded, strict=True):
            assert_same_bits(seen[new], needed[old])


def test_blocks_are_experts(layer):
    rows, probs, index = permute(**layer)
    assert_same_bits(np.sort(index), np.arange(TOKENS * PER_TOKEN, dtype=np.int32))
    assert_same_bits(rows[index], layer["tokens"].repeat(PER_TOKEN, axis=0))
    token, expert = np.nonzero(layer["routing_map"])
    assert_same_bits(probs[index], layer["probs"][token, expert])
    # A position in the block of its expert.
    counts = layer["routing_map"].sum(axis=0, dtype=np.int64)
    end = np.cumsum(counts)
    assert ((end - counts)[expert] <= index).all()
    assert (index < end[expert]).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("per_token", [1, 2])
def test_round_trip_without_probs(dtype, per_token):
    rng = np.random.default_rng(2)
    routing_map = np.zeros((50, 7), bool)
    np.put_along_axis(routing_map, rng.random((50, 7)).argsort(axis=1)[:, :per_token], True, axis=1)
    # Every kind of number whose double is finite: both zeros and subnormal numbers included.
    bits = rng.integers(0, 256, (50, 33 * dtype.itemsize), np.uint8).view(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        tokens = np.where(np.isfinite(bits + bits), bits, dtype.type(-0.0))
    rows, _, index = permute(tokens, routing_map)
    seen = unpermute(rows, index, tokens.shape)
    assert_same_bits(seen, tokens if per_token == 1 else tokens + tokens)


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_round_trip_with_one_hot_probs(layer, drop_and_pad):
    chosen = np.argmax(layer["routing_map"], axis=1)
    probs = np.zeros((TOKENS, EXPERTS), np.float32)
    probs[np.arange(TOKENS), chosen] = 1
    layer |= {"probs": probs, "num_out_tokens": TOKENS * (EXPERTS if drop_and_pad else PER_TOKEN)}
    rows, _, index = permute(**layer, drop_and_pad=drop_and_pad)
    assert_same_bits(back(layer, rows, index, drop_and_pad)[0], layer["tokens"])


def test_enough_capacity_and_probs_of_zero_elsewhere_equal_dropless(layer):
    # Integers: sums are exact in both modes, whatever their order.
    rng = np.random.default_rng(3)
    layer["tokens"] = rng.integers(-8, 9, (TOKENS, HIDDEN)).astype(np.float32)
    layer["probs"] = (rng.integers(1, 5, (TOKENS, EXPERTS)) * layer["routing_map"]).astype(np.float32)
    rows, _, index = permute(**layer)
    dropless = back(layer, rows, index, False)[0]
    capacity = int(layer["routing_map"].sum(axis=0).max())
    rows, _, index = permute(**(layer | {"num_out_tokens": capacity * EXPERTS}), drop_and_pad=True)
    np.testing.assert_array_equal(back(layer, rows, index, True)[0], dropless)
    dense = layer["probs"].sum(axis=1, keepdims=True) * layer["tokens"]
    np.testing.assert_array_equal(dropless, dense)


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_permuted_rows(layer, drop_and_pad):
    rows, _, index = permute(**layer, drop_and_pad=drop_and_pad)
    order = np.random.default_rng(4).permutation(len(rows))
    if drop_and_pad:
        # Without weights a row is any expert's; integers make the order of the sum irrelevant.
        rows = np.rint(rows.astype(np.float32) * 4)
        seen = unpermute(rows[order], index[order], (TOKENS, HIDDEN), drop_and_pad=True)
        np.testing.assert_array_equal(seen, unpermute(rows, index, (TOKENS, HIDDEN), drop_and_pad=True))
    else:
        moved = np.empty_like(rows)
        moved[order] = rows
        needed = back(layer, rows, index, False)[0]
        assert_same_bits(back(layer, moved, order[index].astype(np.int32), False)[0], needed)


@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_every_instruction_set_gives_the_same_bits(layer, drop_and_pad):
    rows, _, index = permute(**layer, drop_and_pad=drop_and_pad)
    needed = back(layer, rows, index, drop_and_pad)[0]
    for isa in instruction_sets():
        with moe_native.isa_limit(isa):
            assert_same_bits(back(layer, rows, index, drop_and_pad)[0], needed)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("drop_and_pad", [False, True])
def test_every_instruction_set_gives_the_same_bits_of_nan_too(layer, drop_and_pad, dtype):
    """NaN of any sign and payload: which one an addition keeps is up to the instruction."""
    rng = np.random.default_rng(5)
    layer |= {name: random_bits(rng, layer[name].shape, dtype) for name in ("tokens", "probs")}
    rows, _, index = permute(**layer, drop_and_pad=drop_and_pad)
    needed = back(layer, rows, index, drop_and_pad)[0]
    nan = np.isnan(needed)
    assert 0 < nan.sum() < nan.size
    assert_same_bits(needed[nan], np.full(nan.sum(), np.nan, dtype))
    for isa in instruction_sets():
        with moe_native.isa_limit(isa):
            assert_same_bits(back(layer, rows, index, drop_and_pad)[0], needed)
