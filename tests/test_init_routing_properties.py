"""npu_moe_init_routing_v2: what must hold whatever the numbers are."""

import numpy as np
import pytest

from moe_native import npu_moe_init_routing_v2, set_num_threads
from moe_native.oracle.init_routing import moe_init_routing_v2
from moe_native.testing import assert_same_bits, bfloat16

MODES = {
    "gather": {},
    "scatter": {"row_idx_type": 1},
    "cut off": {"active_num": 9000, "expert_tokens_num_type": 2},
    "range": {"active_expert_range": [40, 72], "row_idx_type": 1, "expert_tokens_num_type": 0},
    "dynamic": {"quant_mode": 1},
    "dynamic, factors": {"quant_mode": 1, "scale": "experts", "active_expert_range": [40, 72]},
    "static": {"quant_mode": 0, "scale": np.float32([30]), "offset": np.float32([0.25])},
    "padded": {"drop_pad_mode": 1, "expert_capacity": 300},
    "padded, dynamic": {"drop_pad_mode": 1, "expert_capacity": 200, "quant_mode": 1, "scale": "experts"},
}


@pytest.fixture(scope="module")
def batch():
    """Enough entries for several blocks of the sort: 9000 tokens, 8 of 256 experts, skewed, some ids of no expert."""
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.geometric(0.02, (9000, 8)) - 1, 255).astype(np.int32)
    stray = rng.choice([-5, 256, 257, 300, 2**31 - 1], ids.shape)
    return {
        "x": rng.normal(size=(9000, 9)).astype(bfloat16),
        "expert_idx": np.where(rng.random(ids.shape) < 0.1, stray, ids).astype(np.int32),
        "expert_num": 256,
        "expert_tokens_num_type": 1,
        "expert_tokens_num_flag": True,
    }


def arguments_of(batch, mode):
    arguments = batch | MODES[mode]
    if isinstance(arguments.get("scale"), str):
        start, end = arguments.get("active_expert_range", [0, 256])
        rng = np.random.default_rng(1)
        arguments["scale"] = rng.normal(size=(end - start, 9)).astype(np.float32)
    return arguments


@pytest.mark.parametrize("mode", MODES)
def test_any_number_of_threads(batch, mode):
    arguments = arguments_of(batch, mode)
    needed = moe_init_routing_v2(**arguments)
    try:
        for threads in (1, 2, 3, 7):
            set_num_threads(threads)
            for result, expected in zip(npu_moe_init_routing_v2(**arguments), needed, strict=True):
                assert_same_bits(result, expected)
    finally:
        set_num_threads(0)


def test_unevenly_spread_entries(batch):
    """The first tokens choose nothing that is here; the rest goes to one expert."""
    ids = np.full((9000, 8), -1, np.int32)
    ids[8000:] = 3
    arguments = batch | {"expert_idx": ids}
    for result, expected in zip(npu_moe_init_routing_v2(**arguments), moe_init_routing_v2(**arguments), strict=True):
        assert_same_bits(result, expected)


def test_gather_and_scatter_invert_each_other(batch):
    gather = npu_moe_init_routing_v2(**batch)[1]
    scatter = npu_moe_init_routing_v2(**batch, row_idx_type=1)[1]
    routed = np.flatnonzero(gather >= 0)
    assert_same_bits(scatter[gather[routed]], routed.astype(np.int32))
    assert_same_bits(np.sort(scatter), np.arange(72000, dtype=np.int32))


def test_rows_are_those_that_the_index_names(batch):
    x, row_idx, count, _ = npu_moe_init_routing_v2(**batch)
    token = np.arange(72000) // 8
    assert_same_bits(x[row_idx[row_idx >= 0]], batch["x"][token[row_idx >= 0]])
    assert not x[count.sum() :].view(np.uint16).any()
    # Row by row the experts ascend, and the entries of one expert do.
    routed = batch["expert_idx"].reshape(-1)[np.argsort(row_idx, kind="stable")][-count.sum() :]
    assert_same_bits(routed, np.repeat(np.arange(256, dtype=np.int32), count))


def test_forms_of_the_counts_agree(batch):
    cumsum, count, pairs = [
        npu_moe_init_routing_v2(**(batch | {"expert_tokens_num_type": kind, "active_expert_range": [7, 250]}))[2]
        for kind in range(3)
    ]
    assert_same_bits(np.cumsum(count), cumsum)
    occupied = np.flatnonzero(count)
    assert_same_bits(pairs[: occupied.size], np.stack([occupied + 7, count[occupied]], axis=1))
    assert not pairs[occupied.size :].any()


def test_relabelled_experts(batch):
    """Other labels move whole groups of rows and change nothing inside them."""
    label = np.random.default_rng(2).permutation(256).astype(np.int32)
    ids = batch["expert_idx"]
    known = (ids >= 0) & (ids < 256)
    relabelled = batch | {"expert_idx": np.where(known, label[np.where(known, ids, 0)], ids).astype(np.int32)}
    x, _, count, _ = npu_moe_init_routing_v2(**batch)
    moved_x, _, moved_count, _ = npu_moe_init_routing_v2(**relabelled)
    assert_same_bits(moved_count[label], count)
    groups = np.split(x, np.cumsum(count))
    moved = np.split(moved_x, np.cumsum(moved_count))
    for expert in range(256):
        assert_same_bits(moved[label[expert]], groups[expert])


def test_split_batch(batch):
    """Every expert's rows of the whole batch are its rows of the first part, then those of the second."""
    whole = npu_moe_init_routing_v2(**batch, quant_mode=1)
    parts = [
        npu_moe_init_routing_v2(
            **(batch | {"x": batch["x"][rows], "expert_idx": batch["expert_idx"][rows]}), quant_mode=1
        )
        for rows in (slice(0, 1234), slice(1234, None))
    ]
    assert_same_bits(sum(part[2] for part in parts), whole[2])
    for position in (0, 3):
        groups = [np.split(part[position], np.cumsum(part[2]))[:256] for part in parts]
        joined = np.concatenate([np.concatenate(pair) for pair in zip(*groups, strict=True)])
        assert_same_bits(whole[position][: joined.shape[0]], joined)


def test_ranges_partition_the_whole(batch):
    """Each device's part, put together, is the result for all experts."""
    whole = npu_moe_init_routing_v2(**batch)
    parts = [npu_moe_init_routing_v2(**batch, active_expert_range=[s, s + 64]) for s in range(0, 256, 64)]
    assert_same_bits(np.concatenate([part[2] for part in parts]), whole[2])
    rows = np.concatenate([part[0][: part[2].sum()] for part in parts])
    assert_same_bits(rows, whole[0][: whole[2].sum()])


def test_padded_rows_are_the_first_of_every_expert(batch):
    x, _, count, _ = npu_moe_init_routing_v2(**batch)
    padded, slots, counts, _ = npu_moe_init_routing_v2(**batch, drop_pad_mode=1, expert_capacity=300)
    assert_same_bits(counts, count)
    for expert, group in enumerate(np.split(x, np.cumsum(count))[:256]):
        assert_same_bits(padded[expert, : min(300, len(group))], group[:300])
        assert not padded[expert, len(group) :].view(np.uint16).any()
    assert_same_bits(
        np.sort(slots[slots >= 0]) // 300, np.repeat(np.arange(256, dtype=np.int32), np.minimum(count, 300))
    )
