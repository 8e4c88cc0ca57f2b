"""npu_grouped_matmul_swiglu_quant: what must hold whatever the numbers are."""

import numpy as np
import pytest
from cases.grouped_matmul import bits_as_int64, pack_int4

import moe_native
from moe_native import npu_format_cast, set_num_threads
from moe_native import npu_grouped_matmul_swiglu_quant as swiglu_quant
from moe_native.testing import assert_same_bits, instruction_sets

ENDS = np.array([20, 20, 110, 111, 124, 224, 284, 284])


@pytest.fixture(params=["int8", "int4"])
def layer(request):
    """300 rows of k = 300 for 8 experts, half of 520 columns: enough work for several threads."""
    rng = np.random.default_rng(0)
    int4 = request.param == "int4"
    m, k, n, e = 300, 300, 520, 8
    w = rng.integers(-8, 8, (e, k, n), dtype=np.int8)
    scale = rng.normal(size=(e, 3, n) if int4 else (e, n)).astype(np.float32)
    arguments = {
        "x": rng.integers(-128, 128, (m, k), dtype=np.int8),
        "weight": pack_int4(w) if int4 else w,
        "group_list": ENDS,
        "weight_scale": bits_as_int64(scale) if int4 else scale,
        "x_scale": (rng.normal(size=m) / 4000).astype(np.float32),
    }
    if int4:
        arguments["bias"] = rng.normal(size=(e, n)).astype(np.float32)
    return arguments


def assert_same_results(seen, needed):
    for one, other in zip(seen, needed, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_any_number_of_threads(layer, threads):
    set_num_threads(1)
    needed = swiglu_quant(**layer)
    set_num_threads(threads)
    try:
        for _ in range(7):
            assert_same_results(swiglu_quant(**layer), needed)
    finally:
        set_num_threads(0)


@pytest.mark.parametrize("isa", instruction_sets())
def test_any_instruction_set(layer, isa):
    needed = swiglu_quant(**layer)
    with moe_native.isa_limit(isa):
        assert_same_results(swiglu_quant(**layer), needed)
        assert_same_results(swiglu_quant(**(layer | {"weight": npu_format_cast(layer["weight"], 29)})), needed)


def test_tiled_weight_equals_plain_weight(layer):
    tiled = layer | {"weight": npu_format_cast(layer["weight"], 29)}
    assert_same_results(swiglu_quant(**tiled), swiglu_quant(**layer))


def test_counts_equal_ends(layer):
    counts = {"group_list": np.diff(ENDS, prepend=0), "group_list_type": 1}
    assert_same_results(swiglu_quant(**(layer | counts)), swiglu_quant(**layer))


@pytest.mark.parametrize("begin", [0, 1, 20, 117, 283])
def test_split_batch(layer, begin):
    """Rows from any one on, in a call of their own."""
    output, scale, _ = swiglu_quant(**layer)
    part = layer | {
        "x": layer["x"][begin:],
        "x_scale": layer["x_scale"][begin:],
        "group_list": np.maximum(ENDS - begin, 0),
    }
    seen = swiglu_quant(**part)
    assert_same_bits(seen[0], output[begin:])
    assert_same_bits(seen[1], scale[begin:])


def test_relabelled_experts(layer):
    output, scale, _ = swiglu_quant(**layer)
    label = np.random.default_rng(1).permutation(8)
    counts = np.diff(ENDS, prepend=0)
    order = np.concatenate([np.arange(ENDS[g] - counts[g], ENDS[g]) for g in label])
    moved = {name: layer[name][label] for name in ("weight", "weight_scale")}
    if "bias" in layer:
        moved["bias"] = layer["bias"][label]
    moved |= {"x": layer["x"][order], "x_scale": layer["x_scale"][order], "group_list": np.cumsum(counts[label])}
    seen = swiglu_quant(**(layer | moved))
    assert_same_bits(seen[0], output[order])
    assert_same_bits(seen[1], scale[order])


def test_permuted_columns(layer):
    """The columns of a row do not see each other, apart from its scale, which has no order."""
    if layer["weight"].dtype == np.int32:
        columns = np.random.default_rng(2).permutation(260 // 4)
        pairs = np.concatenate([4 * columns[:, None] + np.arange(4)], 1).reshape(-1)
        w = np.stack([layer["weight"] >> shift & 15 for shift in range(0, 32, 4)], -1).reshape(8, 300, 520)
        permuted = {"weight": pack_int4(w[:, :, np.concatenate([pairs, 260 + pairs])])}
    else:
        pairs = np.random.default_rng(2).permutation(260)
        permuted = {"weight": layer["weight"][:, :, np.concatenate([pairs, 260 + pairs])]}
    both = np.concatenate([pairs, 260 + pairs])
    permuted["weight_scale"] = layer["weight_scale"][..., both]
    if "bias" in layer:
        permuted["bias"] = layer["bias"][:, both]
    output, scale, _ = swiglu_quant(**layer)
    seen = swiglu_quant(**(layer | permuted))
    assert_same_bits(seen[0], output[:, pairs])
    assert_same_bits(seen[1], scale)
