"""npu_moe_finalize_routing: what must hold whatever the numbers are."""

import numpy as np
import pytest

import moe_native
from moe_native import npu_moe_finalize_routing, set_num_threads
from moe_native.testing import assert_same_bits, bfloat16, instruction_sets, random_bits


@pytest.fixture
def layer():
    """Arguments large enough that every thread gets a share: 600 tokens, 4 experts each, 300 columns."""
    rng = np.random.default_rng(0)
    tokens, per_token, hidden, experts = 600, 4, 300, 16

    def values(*shape):
        return rng.normal(size=shape).astype(bfloat16)

    return {
        "expanded_permuted_rows": values(tokens * per_token, hidden),
        "skip1": values(tokens, hidden),
        "skip2": values(tokens, hidden),
        "bias": values(experts, hidden),
        "scales": values(tokens, per_token),
        "expanded_src_to_dst_row": rng.permutation(tokens * per_token).astype(np.int32),
        "export_for_source_row": rng.integers(0, experts, (tokens, per_token), dtype=np.int32),
        "drop_pad_mode": 2,
    }


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_any_number_of_threads(layer, threads):
    set_num_threads(1)
    needed = npu_moe_finalize_routing(**layer)
    set_num_threads(threads)
    try:
        for _ in range(3):
            assert_same_bits(npu_moe_finalize_routing(**layer), needed)
    finally:
        set_num_threads(0)


def test_split_batch(layer):
    whole = npu_moe_finalize_routing(**layer)
    for begin, end in [(0, 1), (1, 250), (250, 600)]:
        index = layer["expanded_src_to_dst_row"][begin * 4 : end * 4]
        part = layer | {
            "expanded_permuted_rows": layer["expanded_permuted_rows"][index],
            "expanded_src_to_dst_row": np.arange(index.size, dtype=np.int32),
            "skip1": layer["skip1"][begin:end],
            "skip2": layer["skip2"][begin:end],
            "scales": layer["scales"][begin:end],
            "export_for_source_row": layer["export_for_source_row"][begin:end],
        }
        assert_same_bits(npu_moe_finalize_routing(**part), whole[begin:end])


def test_relabelled_experts(layer):
    whole = npu_moe_finalize_routing(**layer)
    label = np.random.default_rng(1).permutation(16)
    bias = np.empty_like(layer["bias"])
    bias[label] = layer["bias"]
    expert = label[layer["export_for_source_row"]].astype(np.int32)
    assert_same_bits(npu_moe_finalize_routing(**(layer | {"bias": bias, "export_for_source_row": expert})), whole)


def test_permuted_rows(layer):
    whole = npu_moe_finalize_routing(**layer)
    order = np.random.default_rng(2).permutation(2400)
    rows = np.empty_like(layer["expanded_permuted_rows"])
    rows[order] = layer["expanded_permuted_rows"]
    index = order[layer["expanded_src_to_dst_row"]].astype(np.int32)
    moved = layer | {"expanded_permuted_rows": rows, "expanded_src_to_dst_row": index}
    assert_same_bits(npu_moe_finalize_routing(**moved), whole)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16], ids=str)
def test_every_instruction_set_gives_the_same_bits_of_nan_too(layer, dtype):
    """NaN of any sign and payload in every operand: which one an addition keeps is up to the instruction."""
    rng = np.random.default_rng(3)
    for name in ("expanded_permuted_rows", "skip1", "skip2", "bias", "scales"):
        layer[name] = random_bits(rng, layer[name].shape, dtype)
    needed = npu_moe_finalize_routing(**layer)
    nan = np.isnan(needed)
    assert 0 < nan.sum() < nan.size
    assert_same_bits(needed[nan], np.full(nan.sum(), np.nan, dtype))
    for isa in instruction_sets():
        with moe_native.isa_limit(isa):
            assert_same_bits(npu_moe_finalize_routing(**layer), needed)
