"""npu_grouped_matmul_finalize_routing: what must hold whatever the numbers are."""

import numpy as np
import pytest
from cases.grouped_matmul import bits_as_int64, pack_int4

import moe_native
from moe_native import npu_format_cast, set_num_threads
from moe_native import npu_grouped_matmul_finalize_routing as combine
from moe_native.testing import assert_same_bits, bfloat16, instruction_sets


@pytest.fixture(params=["int8", "int4"])
def layer(request):
    """300 rows of k = 300 for 8 experts, 500 columns, 60 output rows: enough work for several threads."""
    rng = np.random.default_rng(0)
    int4 = request.param == "int4"
    m, k, n, e = 300, 300, 500, 8
    w = rng.integers(-8, 8, (e, k, n), dtype=np.int8)
    scale = rng.normal(size=(e, n)).astype(np.float32)
    return {
        "x": rng.integers(-128, 128, (m, k), dtype=np.int8),
        "w": pack_int4(w) if int4 else w,
        "group_list": np.array([20, 0, 90, 1, 13, 100, 60, 0]),
        "scale": bits_as_int64(scale[:, None]) if int4 else scale,
        "bias": rng.normal(size=(e, n)).astype(np.float32),
        "pertoken_scale": rng.normal(size=m).astype(np.float32),
        "logit": rng.normal(size=m).astype(np.float32),
        "row_index": rng.integers(0, 60, m),
        "shared_input": rng.normal(size=(7, n)).astype(bfloat16),
        "shared_input_offset": 11,
        "output_bs": 60,
    }


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_any_number_of_threads(layer, threads):
    set_num_threads(1)
    needed = combine(**layer)
    set_num_threads(threads)
    try:
        for _ in range(7):
            assert_same_bits(combine(**layer), needed)
    finally:
        set_num_threads(0)


@pytest.mark.parametrize("storage", ["plain", "tiles"])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 12, 13, 25, 97, 193, 300])
def test_rows_together_and_one_by_one(layer, count, storage):
    """Few rows of an expert take another way through its weights than many, and the last of many are no few rows."""
    w = npu_format_cast(layer["w"], 29) if storage == "tiles" else layer["w"]
    rows = {name: layer[name][:count] for name in ("x", "pertoken_scale", "logit")}
    call = {"w": w, "scale": layer["scale"], "bias": layer["bias"], "row_index": np.arange(count)}
    together = combine(**call, **rows, group_list=np.array([0, count, 0, 0, 0, 0, 0, 0]))
    for row in {0, count // 2, count - 1}:
        alone = {name: values[row : row + 1] for name, values in rows.items()}
        call["row_index"] = np.array([0])
        assert_same_bits(
            combine(**call, **alone, group_list=np.array([0, 1, 0, 0, 0, 0, 0, 0])), together[row : row + 1]
        )


@pytest.mark.parametrize("isa", instruction_sets())
def test_any_instruction_set(layer, isa):
    needed = combine(**layer)
    with moe_native.isa_limit(isa):
        assert_same_bits(combine(**layer), needed)
        assert_same_bits(combine(**(layer | {"w": npu_format_cast(layer["w"], 29)})), needed)


def test_tiled_weight_equals_plain_weight(layer):
    assert_same_bits(combine(**(layer | {"w": npu_format_cast(layer["w"], 29)})), combine(**layer))


def test_ends_equal_counts(layer):
    ends = {"group_list": np.cumsum(layer["group_list"]), "group_list_type": 0}
    assert_same_bits(combine(**(layer | ends)), combine(**layer))


def test_split_columns(layer):
    """Columns do not see each other."""
    whole = combine(**layer)
    for begin, end in [(0, 32), (32, 200), (200, 500)]:
        words = slice(begin // 8, -(-end // 8)) if layer["w"].dtype == np.int32 else slice(begin, end)
        part = layer | {
            "w": layer["w"][:, :, words],
            "scale": layer["scale"][..., begin:end],
            "bias": layer["bias"][:, begin:end],
            "shared_input": layer["shared_input"][:, begin:end],
        }
        assert_same_bits(combine(**part), whole[:, begin:end])


def test_split_experts(layer):
    """The experts one after the other, each starting from what those before it left, equal all at once."""
    shared = combine(**(layer | {"group_list": np.zeros(8, np.int64)}))
    begin = 0
    rows = []
    for expert, count in enumerate(layer["group_list"]):
        if count > 0:
            part = layer | {name: layer[name][begin : begin + count] for name in ("x", "pertoken_scale", "logit")}
            part |= {name: layer[name][expert : expert + 1] for name in ("w", "scale", "bias")}
            part |= {"group_list": np.array([count]), "shared_input": None, "shared_input_offset": 0}
            part |= {"row_index": np.arange(count), "output_bs": 0}
            rows.append(combine(**part))
        begin += count
    total = shared.copy()
    for target, row in zip(layer["row_index"], np.concatenate(rows), strict=False):
        total[target] += row
    assert_same_bits(combine(**layer), total)


def test_relabelled_experts(layer):
    """Rows of an expert are multiplied by its weight, wherever it stands; the order of the additions stays."""
    row_by_row = layer | {"row_index": np.arange(300), "output_bs": 300, "shared_input": None, "shared_input_offset": 0}
    whole = combine(**row_by_row)
    label = np.random.default_rng(1).permutation(8)
    begins = np.cumsum(layer["group_list"]) - layer["group_list"]
    order = np.concatenate([np.arange(begins[g], begins[g] + layer["group_list"][g]) for g in label])
    moved = row_by_row | {name: layer[name][label] for name in ("w", "scale", "bias", "group_list")}
    moved |= {name: layer[name][order] for name in ("x", "pertoken_scale", "logit")}
    moved |= {"row_index": np.arange(order.size), "output_bs": order.size}
    assert_same_bits(combine(**moved), whole[order])


def test_rows_that_go_elsewhere(layer):
    """Output rows may be permuted."""
    whole = combine(**(layer | {"shared_input": None, "shared_input_offset": 0}))
    place = np.random.default_rng(2).permutation(60)
    moved = {"row_index": place[layer["row_index"]], "shared_input": None, "shared_input_offset": 0}
    assert_same_bits(combine(**(layer | moved))[place], whole)


def test_split_batch(layer):
    """Tokens in two calls: those below row 30 of the output, and the others."""
    whole = combine(**layer)
    expert = np.repeat(np.arange(8), layer["group_list"])
    for begin, end in [(0, 30), (30, 60)]:
        mine = np.flatnonzero((layer["row_index"][: expert.size] >= begin) & (layer["row_index"][: expert.size] < end))
        first, last = np.clip([11 - begin, 18 - begin], 0, end - begin)
        part = layer | {name: layer[name][mine] for name in ("x", "pertoken_scale", "logit")}
        part |= {
            "row_index": layer["row_index"][mine] - begin,
            "group_list": np.bincount(expert[mine], minlength=8),
            "output_bs": end - begin,
            "shared_input": layer["shared_input"] if last > first else None,
            "shared_input_offset": int(first) if last > first else 0,
        }
        assert_same_bits(combine(**part), whole[begin:end])
