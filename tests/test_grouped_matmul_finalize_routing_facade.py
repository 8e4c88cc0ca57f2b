"""npu_grouped_matmul_finalize_routing: against hand-worked numbers, a sequential float32 model, and every refusal."""

import numpy as np
import pytest
from cases.grouped_matmul import (
    COMBINE,
    COMBINE4,
    COMBINE4_CASES,
    COMBINE_CASES,
    bits_as_int64,
    pack_int4,
    to_tiles,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native import NzArray, limits, npu_format_cast
from moe_native import npu_grouped_matmul_finalize_routing as combine
from moe_native.oracle import grouped_matmul as oracle
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only, strided

F32 = np.float32


def model(
    x,
    w,
    group_list,
    *,
    scale,
    bias=None,
    offset=None,
    pertoken_scale=None,
    shared_input=None,
    logit=None,
    row_index=None,
    shared_input_weight=1.0,
    shared_input_offset=0,
    output_bs=0,
    group_list_type=1,
):
    """The operator's float32 arithmetic, operation by operation; `w` is (e, k, n), of int4 values with int4."""
    m, _ = x.shape
    n = scale.shape[-1]
    one = np.ones(m, F32)
    pertoken = one if pertoken_scale is None else pertoken_scale.reshape(-1)
    weight = one if logit is None else logit
    y = np.zeros((output_bs or m, n), F32)
    if shared_input is not None:
        rows = slice(shared_input_offset, shared_input_offset + len(shared_input))
        y[rows] = F32(shared_input_weight) * shared_input.astype(F32)
    with np.errstate(invalid="ignore", over="ignore"):
        for g, (begin, end) in enumerate(oracle.row_ranges(group_list, group_list_type)):
            if scale.dtype == np.int64:
                v = oracle.int4_product(x[begin:end], w[g], oracle.float_bits(scale[g])).astype(F32) + bias[g]
                if offset is not None:
                    v = v + x[begin:end].sum(1, dtype=np.int64).astype(F32)[:, None] * offset[g]
                v = v * (pertoken[begin:end] * weight[begin:end])[:, None]
            else:
                v = oracle.exact_matmul(x[begin:end], w[g]).astype(F32) * scale[g].astype(F32)
                v = v * pertoken[begin:end, None]
                if bias is not None:
                    v = v + bias[g].astype(F32)
                v = v * weight[begin:end, None]
            for row, target in zip(v, row_index[begin:end], strict=True):
                y[target] = y[target] + row
    return y


def counts(rng, rows, experts):
    return np.bincount(rng.integers(0, experts, rows), minlength=experts).astype(np.int64)


def example(rng, m=9, k=20, n=40, e=3, used=None, batch=4, shared=2, bias=None, int4=False, index=np.int64):
    """Random arguments. `used` rows belong to experts."""
    w = rng.integers(-8, 8, (e, k, n), dtype=np.int8) if int4 else rng.integers(-128, 128, (e, k, n), dtype=np.int8)
    arguments = {
        "x": rng.integers(-128, 128, (m, k), dtype=np.int8),
        "w": pack_int4(w) if int4 else w,
        "group_list": counts(rng, m if used is None else used, e),
        "scale": rng.normal(size=(e, 1, n) if int4 else (e, n)).astype(F32),
        "pertoken_scale": rng.normal(size=m).astype(F32),
        "logit": rng.normal(size=m).astype(F32),
        "row_index": rng.integers(0, batch, m, dtype=index),
        "output_bs": batch,
    }
    if int4:
        arguments["scale"] = bits_as_int64(arguments["scale"] / 8)
        arguments["bias"] = rng.normal(size=(e, n)).astype(F32)
    elif bias is not None:
        arguments["bias"] = rng.normal(size=(e, n)).astype(bias)
    if shared > 0:
        arguments |= {
            "shared_input": rng.normal(size=(shared, n)).astype(bfloat16),
            "shared_input_weight": 0.3,
            "shared_input_offset": batch - shared,
        }
    return arguments, w


@pytest.mark.parametrize("case", COMBINE_CASES)
def test_worked_number(case):
    changes, needed = COMBINE_CASES[case]
    assert_same_bits(combine(**(COMBINE | changes)), np.array(needed, F32))


@pytest.mark.parametrize("case", COMBINE4_CASES)
def test_worked_int4_number(case):
    changes, needed = COMBINE4_CASES[case]
    assert_same_bits(combine(**(COMBINE4 | changes)), np.array(needed, F32))


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.sampled_from([1, 2, 5, 12, 13, 30]),
    k=st.sampled_from([1, 2, 3, 4, 15, 16, 17, 63, 130]),
    n=st.sampled_from([1, 2, 31, 32, 33, 64, 101]),
    e=st.sampled_from([1, 2, 7]),
    shared=st.integers(0, 1),
    bias=st.sampled_from([None, F32, bfloat16]),
    optional=st.sets(st.sampled_from(["pertoken_scale", "logit", "bf16 scale", "cumulative"])),
    index=st.sampled_from([np.int64, np.int32]),
)
def test_equals_sequential_float32(seed, m, k, n, e, shared, bias, optional, index):
    rng = np.random.default_rng(seed)
    used = int(rng.integers(0, m + 1))
    arguments, _ = example(rng, m, k, n, e, used, int(rng.integers(1, m + 1)), shared, bias, index=index)
    if "pertoken_scale" in optional:
        arguments["pertoken_scale"] = None
    if "logit" in optional and shared == 0:
        arguments["logit"] = None
    if "bf16 scale" in optional:
        arguments["scale"] = arguments["scale"].astype(bfloat16)
    if "cumulative" in optional:
        arguments |= {"group_list": np.cumsum(arguments["group_list"]), "group_list_type": 0}
    needed = model(**arguments)
    assert_same_bits(combine(**arguments), needed)
    assert_same_bits(combine(**(arguments | {"w": npu_format_cast(arguments["w"], 29)})), needed)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.sampled_from([1, 2, 5, 13]),
    k=st.sampled_from([1, 3, 16, 33, 130]),
    n=st.sampled_from([1, 2, 8, 31, 63, 64, 65, 136]),
    e=st.sampled_from([1, 3]),
    offset=st.booleans(),
    logit=st.booleans(),
)
def test_int4_equals_sequential_float32(seed, m, k, n, e, offset, logit):
    rng = np.random.default_rng(seed)
    arguments, w = example(rng, m, k, n, e, batch=int(rng.integers(1, m + 1)), shared=0, int4=True)
    if offset:
        arguments["offset"] = rng.normal(size=(e, 1, n)).astype(F32)
    if not logit:
        arguments["logit"] = None
    needed = model(**(arguments | {"w": w}))
    for form in int4_forms(arguments["w"]).values():
        assert_same_bits(combine(**(arguments | {"w": form})), needed)


def test_near_oracle():
    arguments, _ = example(np.random.default_rng(1), m=200, k=300, n=70, e=5, batch=3, bias=F32)
    exact = oracle.grouped_matmul_finalize_routing(**arguments)
    # A row contributes v = ((acc * scale) * pertoken + bias) * logit: five roundings of terms no larger than |v| would
    # be with all magnitudes; then come at most 200 additions to a shared row that was rounded once.
    rows = {"row_index": np.arange(200), "output_bs": 200, "shared_input": None, "shared_input_offset": 0}
    terms = np.abs(oracle.grouped_matmul_finalize_routing(**(arguments | rows | {"bias": None})))
    experts = np.repeat(np.arange(5), arguments["group_list"])
    terms += np.abs(arguments["bias"][experts] * arguments["logit"][:, None])
    magnitude = np.zeros_like(exact)
    np.add.at(magnitude, arguments["row_index"], terms)
    magnitude[1:] += np.abs(0.3 * arguments["shared_input"].astype(float))
    error = np.abs(combine(**arguments).astype(np.float64) - exact)
    assert (error <= (5 + 200) * np.finfo(F32).eps / 2 * magnitude).all()


def int8_forms(w):
    """The same weight in every form the operator takes."""
    tiles = to_tiles(w, 32)
    dirty = to_tiles(w, 32, padding=127)
    return {
        "NzArray": npu_format_cast(w, 29),
        "tiles": tiles,
        "tiles with padding": dirty,
        "NzArray with padding": NzArray(dirty, w.shape),
        "strided": strided(w),
        "strided tiles": strided(tiles),
        "transposed": np.ascontiguousarray(w.transpose(0, 2, 1)).transpose(0, 2, 1),
        "rows of a wider array": np.concatenate([w, w], 2)[:, :, : w.shape[2]],
        "read-only": read_only(w),
    }


def int4_forms(words):
    rubbish = 0x77777777
    return {
        "plain": words,
        "NzArray": npu_format_cast(words, 29),
        "NzArray of 8 words": npu_format_cast(words, 29, c0=8),
        "NzArray of 2 words": npu_format_cast(words, 29, c0=2),
        "tiles with padding": to_tiles(words, 8, rubbish),
        "wide tiles with padding": to_tiles(words, 16, rubbish),
        "strided": strided(words),
        "strided tiles": strided(to_tiles(words, 8)),
    }


@pytest.mark.parametrize(("k", "n"), [(1, 1), (15, 31), (16, 32), (17, 33), (40, 100), (2047, 5)])
def test_every_form_of_the_weight_gives_the_same_bits(k, n):
    arguments, _ = example(np.random.default_rng(k), k=k, n=n)
    needed = combine(**arguments)
    for form in int8_forms(arguments["w"]).values():
        assert_same_bits(combine(**(arguments | {"w": form})), needed)


def test_int4_in_two_nibbles_of_int8():
    arguments, w = example(np.random.default_rng(4), k=20, n=128, int4=True)
    needed = combine(**arguments)
    nibbles = (w[..., ::2] & 15) | (w[..., 1::2] << 4)
    assert_same_bits(combine(**(arguments | {"w": npu_format_cast(nibbles, 29).view(np.int32)})), needed)


def test_one_weight_for_all_experts():
    arguments, w = example(np.random.default_rng(5))
    needed = combine(**(arguments | {"w": np.repeat(w[:1], 3, 0)}))
    assert_same_bits(combine(**(arguments | {"w": np.broadcast_to(w[:1], w.shape)})), needed)


def test_extreme_sums_are_exact():
    one = np.ones((1, 1), F32)
    for k, value in [(2048, 2**25), (131071, 131071 * 2**14), (131072, 2**31), (300000, 300000 * 2**14)]:
        x, w = np.full((1, k), -128, np.int8), np.full((1, k, 1), -128, np.int8)
        y = combine(x, w, np.array([1]), scale=one, row_index=np.array([0]))
        assert y[0, 0] == F32(value)
        y = combine(x, np.full((1, k, 1), 127, np.int8), np.array([1]), scale=one, row_index=np.array([0]))
        assert y[0, 0] == F32(-128 * 127 * k)


@pytest.mark.parametrize("odd", [2**24 + 1, 2**24 + 3, 2**25 + 2])
def test_sum_beyond_float32_rounds_once_to_nearest_even(odd):
    x, w = np.zeros((1, 2049), np.int8), np.zeros((1, 2049, 1), np.int8)
    x[0, : odd // 2**14] = -128
    w[0, : odd // 2**14] = -128
    x[0, -1], w[0, -1] = 1, odd % 2**14
    y = combine(x, w, np.array([1]), scale=np.ones((1, 1), F32), row_index=np.array([0]))
    assert y[0, 0] == F32(odd)


@pytest.mark.parametrize("int4", [False, True])
def test_any_length_of_k(int4):
    """Sums that leave int32 when int8 (there they are kept in 64 bits), and rows in several batches."""
    rng = np.random.default_rng(24)
    arguments, w = example(rng, m=150, k=131072 + 40, n=3, e=2, batch=5, shared=0, int4=int4)
    arguments["x"][:] = rng.integers(-128, -100, arguments["x"].shape, dtype=np.int8)
    if int4:  # sums of a million must fit into float16
        arguments["scale"] = bits_as_int64(rng.normal(size=(2, 1, 3)) / 100)
    else:
        arguments["w"] = w = rng.integers(-128, -100, w.shape, dtype=np.int8)
    needed = model(**(arguments | {"w": w}))
    assert np.isfinite(needed).all()
    assert_same_bits(combine(**arguments), needed)


@pytest.mark.parametrize("int4", [False, True])
def test_many_rows_and_long_k(int4):
    """More rows of an expert than keep their sums at a time, more of k than one panel of weights holds."""
    rng = np.random.default_rng(25)
    arguments, w = example(rng, m=410, k=8300, n=35, e=2, batch=5, shared=0, int4=int4)
    arguments["group_list"] = np.array([399, 11])
    assert_same_bits(combine(**arguments), model(**(arguments | {"w": w})))


def test_unused_rows_are_not_looked_at():
    arguments, _ = example(np.random.default_rng(6), m=9, used=5)
    needed = combine(**arguments)
    for name, rubbish in [("pertoken_scale", np.nan), ("logit", np.inf), ("x", 77)]:
        arguments[name][5:] = rubbish
    for rubbish in (-1, 2**40, 4):
        arguments["row_index"][5:] = rubbish
        assert_same_bits(combine(**arguments), needed)


@pytest.mark.parametrize("sizes", [[0, 4, 5], [4, 0, 5], [4, 5, 0], [0, 0, 9], [0, 0, 0]])
def test_experts_without_rows(sizes):
    arguments, _ = example(np.random.default_rng(7))
    arguments["group_list"] = np.array(sizes)
    needed = model(**arguments)
    assert_same_bits(combine(**arguments), needed)
    ends = {"group_list": np.cumsum(sizes), "group_list_type": 0}
    assert_same_bits(combine(**(arguments | ends)), needed)
    arguments["shared_input"], arguments["shared_input_offset"] = None, 0
    if sum(sizes) == 0:
        assert_same_bits(combine(**arguments), np.zeros((4, 40), F32))


def test_output_rows():
    arguments, _ = example(np.random.default_rng(8), m=6, batch=6, shared=0)
    arguments["row_index"] = np.array([3, 3, 3, 0, 0, 5])  # rows 1, 2, 4 get nothing
    arguments["group_list"] = np.array([2, 2, 2])
    y = combine(**arguments)
    assert_same_bits(y, model(**arguments))
    assert_same_bits(y[[1, 2, 4]], np.zeros((3, 40), F32))
    for none in (0, None):
        assert_same_bits(combine(**(arguments | {"output_bs": none})), y)
    one = arguments | {"output_bs": 1, "row_index": np.zeros(6, np.int64)}
    assert combine(**one).shape == (1, 40)
    assert_same_bits(combine(**one), model(**one))


def test_shared_rows():
    arguments, _ = example(np.random.default_rng(9), batch=4, shared=2)
    for offset in (0, 1, 2):
        assert_same_bits(
            combine(**(arguments | {"shared_input_offset": offset})),
            model(**(arguments | {"shared_input_offset": offset})),
        )
    for weight in (0, -2.5, 1, np.float32(0.1)):
        changed = arguments | {"shared_input_weight": weight}
        assert_same_bits(combine(**changed), model(**changed))
    arguments["shared_input"][0, 3] = np.nan
    y = combine(**arguments)
    assert np.isnan(y[2, 3])
    assert np.isnan(y).sum() == 1
    # Without shared rows the offset is looked at all the same.
    combine(**(arguments | {"shared_input": None, "shared_input_offset": 4}))


def test_zero_times_infinity_is_nan():
    arguments, _ = example(np.random.default_rng(10), shared=0, m=4, batch=4)
    arguments |= {"row_index": np.arange(4), "group_list": np.array([1, 2, 1])}
    arguments["x"][0] = 0
    arguments["scale"][0, :5] = np.inf
    arguments["logit"][3] = np.nan
    y = combine(**arguments)
    assert np.isnan(y[0, :5]).all()
    assert np.isnan(y[3]).all()
    assert np.isfinite(y[0, 5:]).all()
    assert np.isfinite(y[1:3]).all()


def test_zero_pertoken_scale():
    arguments, _ = example(np.random.default_rng(11), shared=0)
    arguments["pertoken_scale"][:] = 0
    np.testing.assert_array_equal(combine(**arguments), 0)


def test_none_means_the_default():
    arguments, _ = example(np.random.default_rng(12), shared=0)
    needed = combine(**arguments)
    none = dict.fromkeys(["shared_input_weight", "shared_input_offset", "dtype", "bias", "offset", "tuning_config"])
    assert_same_bits(combine(**arguments, **none), needed)
    for dtype in (0, np.int64(0), np.float32, "float32", np.dtype(np.float32), "torch.float32"):
        assert_same_bits(combine(**arguments, dtype=dtype), needed)


def test_tuning_config_changes_nothing():
    arguments, _ = example(np.random.default_rng(13))
    needed = combine(**arguments)
    for hint in ([], [0], [9], [3, 1], (3, 7, -5), np.array([2])):
        assert_same_bits(combine(**arguments, tuning_config=hint), needed)


def test_strided_and_read_only_inputs():
    for int4 in (False, True):
        arguments, _ = example(np.random.default_rng(14), int4=int4, bias=F32)
        needed = combine(**arguments)
        views = {n: strided(a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
        assert_same_bits(combine(**views), needed)


def test_out_is_written_and_nothing_around_it():
    arguments, _ = example(np.random.default_rng(15), n=33)
    out, check = guarded((4, 33), F32)
    assert combine(**arguments, out=out) is out
    check()
    assert_same_bits(out, combine(**arguments))


def test_layer_end_to_end():
    """Top-8 routing as the document has it: rows sorted by expert, row_index made by an argsort."""
    rng = np.random.default_rng(16)
    tokens, top_k, experts, k, n = 24, 8, 4, 128, 96
    expert_of = np.argsort(rng.random((tokens, experts)), 1)[:, [0, 1, 2, 3, 0, 1, 2, 3]].reshape(-1)
    order = np.argsort(expert_of, kind="stable")
    x = rng.integers(-10, 10, (tokens, k), dtype=np.int8)
    w = rng.integers(-10, 10, (experts, k, n), dtype=np.int8)
    scale = rng.random((experts, n), dtype=F32) / 100
    pertoken = rng.random(tokens, dtype=F32)
    logit = rng.random((tokens, top_k), dtype=F32)
    y = combine(
        x[order // top_k],
        npu_format_cast(w, 29),
        np.bincount(expert_of, minlength=experts),
        scale=scale,
        pertoken_scale=pertoken[order // top_k],
        logit=logit.reshape(-1)[order],
        row_index=order // top_k,
        output_bs=tokens,
    )
    dense = np.einsum("tk,ekn->ten", x.astype(float), w * scale[:, None].astype(float)) * pertoken[:, None, None]
    gathered = np.take_along_axis(dense, expert_of.reshape(tokens, top_k, 1), 1)
    exact = (gathered * logit[:, :, None]).sum(1)
    # Five roundings per term and eight additions.
    bound = 13 * np.finfo(F32).eps / 2 * (np.abs(gathered) * logit[:, :, None]).sum(1)
    assert (np.abs(y - exact) <= bound).all()


def filled(name, value, dtype=None):
    return {name: np.full({"scale": (3, 40)}.get(name, 9), value, dtype)}


def ends(*values):
    return {"group_list": np.array(values), "group_list_type": 0}


REFUSED = {
    # name: (arguments to replace, exception, status of the core or None, message)
    "x missing": ({"x": None}, TypeError, 161001, "x: missing"),
    "w missing": ({"w": None}, TypeError, 161001, "w: missing"),
    "group_list missing": ({"group_list": None}, TypeError, 161001, "group_list: missing"),
    "scale missing": ({"scale": None}, TypeError, 161001, "scale: missing"),
    "row_index missing": ({"row_index": None}, TypeError, 161001, "row_index: missing"),
    "logit missing": ({"logit": None}, ValueError, 161001, "logit: missing, needed beside shared_input"),
    "x list": ({"x": [[1]]}, TypeError, None, "x: list"),
    "x uint8": ({"x": np.zeros((9, 20), np.uint8)}, TypeError, 161002, "x: dtype uint8, needed int8"),
    "w uint8": ({"w": np.zeros((3, 20, 40), np.uint8)}, TypeError, 161002, "w: dtype uint8"),
    "w int16": ({"w": np.zeros((3, 20, 40), np.int16)}, TypeError, 161002, "w: dtype int16"),
    "group_list int32": ({"group_list": np.array([3, 3, 3], np.int32)}, TypeError, 161002, "group_list: dtype int32"),
    "group_list float": ({"group_list": np.ones(3)}, TypeError, 161002, "group_list: dtype float64"),
    "scale float64": (filled("scale", 1, float), TypeError, 161002, "scale: dtype float64, needed one of float32"),
    "scale float16": (filled("scale", 1, np.float16), TypeError, 161002, "scale: dtype float16"),
    "scale int64": ({"scale": np.ones((3, 1, 40), np.int64)}, TypeError, 161002, "scale: dtype int64"),
    "bias float16": ({"bias": np.ones((3, 40), np.float16)}, TypeError, 161002, "bias: dtype float16"),
    "pertoken float64": (filled("pertoken_scale", 1, float), TypeError, 161002, "pertoken_scale: dtype float64"),
    "logit float16": (filled("logit", 1, np.float16), TypeError, 161002, "logit: dtype float16"),
    "shared float32": ({"shared_input": np.ones((2, 40), F32)}, TypeError, 161002, "needed bfloat16"),
    "row_index float": (filled("row_index", 0, float), TypeError, 161002, "row_index: dtype float64"),
    "dtype 1": ({"dtype": 1}, ValueError, None, "dtype: 1, needed None, 0 or float32"),
    "dtype float16": ({"dtype": np.float16}, ValueError, None, "dtype: .*float16.*, needed None"),
    "dtype bool": ({"dtype": False}, ValueError, None, "dtype: False"),
    "dtype malformed": ({"dtype": "f4,,"}, ValueError, None, "dtype: 'f4,,', needed None"),
    "dtype tuple": ({"dtype": ("f4", -1)}, ValueError, None, "dtype: .'f4', -1., needed None"),
    "dtype text": ({"dtype": "half a float"}, ValueError, None, "dtype: 'half a float'"),
    "group_list_type 2": ({"group_list_type": 2}, ValueError, 161002, "group_list_type: 2, needed 0"),
    "group_list_type None": ({"group_list_type": None}, ValueError, None, "group_list_type: None"),
    "group_list_type bool": ({"group_list_type": True}, TypeError, None, "group_list_type: True"),
    "x rank": ({"x": np.zeros((9, 20, 1), np.int8)}, ValueError, 161002, "x: shape .*needed 2 dimensions"),
    "w rank 4": ({"w": np.zeros((3, 20, 40, 1), np.int8)}, ValueError, 161002, "w: shape"),
    "w rank 2": ({"w": np.zeros((20, 40), np.int8)}, ValueError, 161002, "w: shape"),
    "w k": ({"w": np.zeros((3, 21, 40), np.int8)}, ValueError, 161002, r"w: shape .* = \(any, 20, 40\)"),
    "w n": ({"w": np.zeros((3, 20, 41), np.int8)}, ValueError, 161002, "w: shape"),
    "w tiles k1": ({"w": np.zeros((3, 2, 3, 16, 32), np.int8)}, ValueError, 161002, "k1 = 2 for k = 20"),
    "w tiles n1": ({"w": np.zeros((3, 3, 2, 16, 32), np.int8)}, ValueError, 161002, "n1 = 2 for n = 40"),
    "w tiles rows": ({"w": np.zeros((3, 2, 2, 32, 16), np.int8)}, ValueError, 161002, "w: tiles"),
    "w tiles columns": ({"w": np.zeros((3, 2, 2, 16, 16), np.int8)}, ValueError, 161002, "w: tiles"),
    "w NZ rank": ({"w": npu_format_cast(np.zeros((20, 40), np.int8), 29)}, ValueError, 161002, "w: "),
    "w NZ k": ({"w": npu_format_cast(np.zeros((3, 21, 40), np.int8), 29)}, ValueError, 161002, "w: shape"),
    "w NZ n": ({"w": npu_format_cast(np.zeros((3, 20, 39), np.int8), 29)}, ValueError, 161002, "w: shape"),
    "w NZ c0": ({"w": npu_format_cast(np.zeros((3, 20, 40), np.int8), 29, c0=16)}, ValueError, 161002, "w: tiles"),
    "scale rank": ({"scale": np.ones(40, F32)}, ValueError, 161002, "scale: shape"),
    "scale experts": ({"scale": np.ones((2, 40), F32)}, ValueError, 161002, r"scale: shape .* = \(3, 40\)"),
    "bias shape": ({"bias": np.ones((3, 1), F32)}, ValueError, 161002, "bias: shape"),
    "bias rank": ({"bias": np.ones(40, F32)}, ValueError, 161002, "bias: shape"),
    "offset": ({"offset": np.ones((3, 1, 40), F32)}, ValueError, 161002, "offset: given, needed none"),
    "group_list length": ({"group_list": np.array([3, 3])}, ValueError, 161002, r"group_list: shape \(2,\)"),
    "group_list rank": ({"group_list": np.array([[3, 3, 3]])}, ValueError, 161002, "group_list: shape"),
    "pertoken length": ({"pertoken_scale": np.ones(8, F32)}, ValueError, 161002, r"pertoken_scale: shape \(8,\)"),
    "pertoken (m, 2)": ({"pertoken_scale": np.ones((9, 2), F32)}, ValueError, 161002, "pertoken_scale: shape"),
    "pertoken (1, m)": ({"pertoken_scale": np.ones((1, 9), F32)}, ValueError, 161002, "pertoken_scale: shape"),
    "logit length": ({"logit": np.ones(10, F32)}, ValueError, 161002, "logit: shape"),
    "logit column": ({"logit": np.ones((9, 1), F32)}, ValueError, 161002, "logit: shape"),
    "row_index length": ({"row_index": np.zeros(8, int)}, ValueError, 161002, "row_index: shape"),
    "row_index rank": ({"row_index": np.zeros((9, 1), int)}, ValueError, 161002, "row_index: shape"),
    "shared columns": ({"shared_input": np.ones((2, 41), bfloat16)}, ValueError, 161002, "shared_input: shape"),
    "shared rows": ({"shared_input": np.ones((5, 40), bfloat16)}, ValueError, 161002, "5 rows, needed at most the 4"),
    "shared rank": ({"shared_input": np.ones(40, bfloat16)}, ValueError, 161002, "shared_input: shape"),
    "shared empty": ({"shared_input": np.ones((0, 40), bfloat16)}, ValueError, 161002, "shared_input: shape"),
    "shared offset": ({"shared_input_offset": 3}, ValueError, 161002, "shared_input_offset: 3, needed 0 to 2"),
    "shared offset -1": ({"shared_input_offset": -1}, ValueError, 161002, "shared_input_offset: -1"),
    "offset alone": ({"shared_input": None, "shared_input_offset": 5}, ValueError, 161002, "5, needed 0 to 4"),
    "offset float": ({"shared_input_offset": 1.0}, TypeError, None, "shared_input_offset: float"),
    "weight huge": ({"shared_input_weight": 10**400}, ValueError, None, "shared_input_weight: an int beyond the range"),
    "weight text": ({"shared_input_weight": "1"}, TypeError, None, "shared_input_weight: str"),
    "output_bs above m": ({"output_bs": 10}, ValueError, 161002, "output_bs: 10, needed 0 to the 9 rows"),
    "output_bs -1": ({"output_bs": -1}, ValueError, 161002, "output_bs: -1"),
    "no rows": ({"x": np.zeros((0, 20), np.int8)}, ValueError, 161002, "x: shape .*no empty dimension"),
    "no k": ({"x": np.zeros((9, 0), np.int8)}, ValueError, 161002, "x: shape .*no empty dimension"),
    "no columns": ({"scale": np.zeros((3, 0), F32)}, ValueError, 161002, "scale: shape .*no empty dimension"),
    "no experts": ({"scale": np.zeros((0, 40), F32)}, ValueError, 161002, "scale: shape .*no empty dimension"),
    "tuning -1": ({"tuning_config": [-1]}, ValueError, 161002, "tuning_config: -1 as its first"),
    "tuning above m": ({"tuning_config": [10]}, ValueError, 161002, "tuning_config: 10 as its first"),
    "tuning float": ({"tuning_config": [1.5]}, TypeError, None, "tuning_config: float"),
    "tuning int": ({"tuning_config": 3}, TypeError, None, "tuning_config: int"),
    "tuning text": ({"tuning_config": "3"}, TypeError, None, "tuning_config: str"),
    "x_dtype": ({"x_dtype": 1}, ValueError, None, "x_dtype: 1, needed None"),
    "w_dtype": ({"w_dtype": 1}, ValueError, None, "w_dtype: 1, needed None"),
    "scale_dtype": ({"scale_dtype": 1}, ValueError, None, "scale_dtype: 1, needed None"),
    "pertoken_scale_dtype": ({"pertoken_scale_dtype": 1}, ValueError, None, "pertoken_scale_dtype: 1, needed None"),
    "counts above m": ({"group_list": np.array([5, 5, 0])}, ValueError, 161002, "group_list: 5 at position 1"),
    "count huge": ({"group_list": np.array([2**62, 2**62, 2**62])}, ValueError, 161002, "at position 0"),
    "count negative": ({"group_list": np.array([3, -1, 3])}, ValueError, 161002, "group_list: -1 at position 1"),
    "counts are ends": ({"group_list": np.array([3, 6, 9])}, ValueError, 161002, "looks like cumulative ends"),
    "ends decrease": (ends(5, 4, 9), ValueError, 161002, "group_list: 4 at position 1, needed a cumulative row end"),
    "ends negative": (ends(-1, 4, 9), ValueError, 161002, "group_list: -1 at position 0"),
    "ends above m": (ends(3, 6, 10), ValueError, 161002, "group_list: 10 at position 2"),
    "ends are counts": (ends(4, 3, 2), ValueError, 161002, "looks like counts"),
    "row_index above": (filled("row_index", 4), ValueError, 161002, "row_index: 4 at position 0, needed a row of"),
    "row_index -1": (filled("row_index", -1), ValueError, 161002, "row_index: -1 at position 0"),
    "row_index huge": (filled("row_index", 2**40), ValueError, 161002, "row_index: 1099511627776 at position 0"),
    "row_index int32": (filled("row_index", -(2**31), np.int32), ValueError, 161002, "row_index: -2147483648"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    replaced, exception, status, message = REFUSED[name]
    out, check = guarded((4, 40), F32)
    arguments, _ = example(np.random.default_rng(17))
    with pytest.raises(exception, match=message) as caught:
        combine(**(arguments | replaced), out=out)
    assert str(caught.value).startswith("npu_grouped_matmul_finalize_routing: ")
    assert getattr(caught.value, "status", None) == status
    assert is_untouched(out)
    check()


REFUSED4 = {
    "bias missing": ({"bias": None}, ValueError, 161001, "bias: missing, needed with an int4 weight"),
    "pertoken missing": ({"pertoken_scale": None}, ValueError, 161001, "pertoken_scale: missing, needed with an int4"),
    "scale float32": ({"scale": np.ones((3, 40), F32)}, TypeError, 161002, "scale: dtype float32, needed int64"),
    "scale uint64": ({"scale": np.ones((3, 1, 40), np.uint64)}, TypeError, 161002, "scale: dtype uint64"),
    "scale rank": ({"scale": np.ones((3, 40), np.int64)}, ValueError, 161002, "scale: shape"),
    "scale blocks": ({"scale": np.ones((3, 2, 40), np.int64)}, ValueError, 161002, r"scale: shape .* = \(3, 1, 40\)"),
    "bias bfloat16": ({"bias": np.ones((3, 40), bfloat16)}, TypeError, 161002, "bias: dtype bfloat16"),
    "offset rank": ({"offset": np.ones((3, 40), F32)}, ValueError, 161002, "offset: shape"),
    "offset dtype": ({"offset": np.ones((3, 1, 40), float)}, TypeError, 161002, "offset: dtype float64"),
    "row_index int32": ({"row_index": np.zeros(9, np.int32)}, TypeError, 161002, "row_index: dtype int32"),
    "w columns": ({"w": np.zeros((3, 20, 6), np.int32)}, ValueError, 161002, r"w: shape .* = \(any, 20, 5\)"),
    "w tiles": ({"w": np.zeros((3, 2, 2, 16, 8), np.int32)}, ValueError, 161002, "n1 = 1 for n = 40"),
    "w tile rows": ({"w": np.zeros((3, 1, 2, 8, 8), np.int32)}, ValueError, 161002, "w: tiles"),
    "no tile columns": ({"w": np.zeros((3, 1, 2, 16, 0), np.int32)}, ValueError, 161002, "w: tiles"),
}


@pytest.mark.parametrize("name", REFUSED4)
def test_int4_refused(name):
    replaced, exception, status, message = REFUSED4[name]
    out, check = guarded((4, 40), F32)
    arguments, _ = example(np.random.default_rng(18), int4=True)
    with pytest.raises(exception, match=message) as caught:
        combine(**(arguments | replaced), out=out)
    assert getattr(caught.value, "status", None) == status
    assert is_untouched(out)
    check()


def test_bad_out():
    arguments, _ = example(np.random.default_rng(19))
    memory = np.zeros((4, 80), F32)
    for out, exception in [
        (np.zeros((4, 41), F32), ValueError),
        (np.zeros((4, 40), np.float64), ValueError),
        (memory[:, ::2], ValueError),
        (read_only(np.zeros((4, 40), F32)), ValueError),
        ([0.0], TypeError),
    ]:
        with pytest.raises(exception, match="npu_grouped_matmul_finalize_routing: out: "):
            combine(**arguments, out=out)
    memory = np.zeros((4, 40), F32)
    for name, overlapping in [
        ("scale", memory[:3]),
        ("logit", memory[0, :9]),
        ("x", memory.view(np.int8).reshape(-1)[:180].reshape(9, 20)),
        ("w", np.broadcast_to(memory.view(np.int8)[:3, None, :40], (3, 20, 40))),
    ]:
        with pytest.raises(ValueError, match=f"out: the array for the result overlaps {name}"):
            combine(**(arguments | {name: overlapping}), out=memory)


SEED = {"m": 16, "k": 2048, "n": 7168, "e": 1, "batch": 2, "shared": 1}


@pytest.mark.parametrize("name", ["seed", "atlas-a2"])
def test_limits_accept_the_documented_size(name):
    arguments, w = example(np.random.default_rng(20), **SEED)
    needed = combine(**arguments)
    with limits(name):
        assert_same_bits(combine(**(arguments | {"w": npu_format_cast(w, 29)})), needed)


@pytest.mark.parametrize(
    ("name", "sizes", "changes", "exception", "message"),
    [
        ("seed", {"k": 1024, "n": 7168}, {}, ValueError, "k = 1024, needed 2048"),
        ("seed", {"k": 2048, "n": 2048}, {}, ValueError, "n = 2048, needed 7168"),
        ("seed", {}, {"row_index": np.zeros(16, np.int32)}, TypeError, "row_index: dtype int32"),
        ("seed", {}, {"logit": strided(np.ones(16, F32))}, ValueError, "logit: strided"),
        ("seed", {}, {"bias": np.ones((1, 7168), F32)}, TypeError, "bias: dtype float32, needed bfloat16"),
        ("atlas-a2", {"k": 24, "n": 256}, {}, ValueError, "k = 24, needed a multiple of 16"),
        ("atlas-a2", {"k": 16, "n": 224}, {}, ValueError, "n = 224, needed a multiple of 32 from 256"),
        ("atlas-a2", {"k": 16, "n": 272}, {}, ValueError, "n = 272"),
        ("atlas-a2", {"k": 16, "n": 256, "shared": 0}, {"logit": None}, ValueError, "logit: missing"),
        ("atlas-a2", {"k": 128, "n": 128, "int4": True}, {}, ValueError, "k = 128, needed a multiple of 64"),
        ("atlas-a2", {"k": 200, "n": 128, "int4": True}, {}, ValueError, "k = 200"),
        ("atlas-a2", {"k": 192, "n": 64, "int4": True}, {}, ValueError, "n = 64, needed a multiple of 8 above 64"),
    ],
)
def test_limits_refuse(name, sizes, changes, exception, message):
    arguments, _ = example(np.random.default_rng(21), **(SEED | sizes))
    arguments |= changes
    combine(**arguments)
    with limits(name), pytest.raises(exception, match=message):
        combine(**arguments)


def test_int4_within_limits():
    arguments, _ = example(np.random.default_rng(22), k=192, n=72, int4=True)
    needed = combine(**arguments)
    with limits("atlas-a2"):
        assert_same_bits(combine(**arguments), needed)
        with pytest.raises(ValueError, match="n = 72, needed a multiple of 64 above 64"):
            combine(**(arguments | {"w": npu_format_cast(arguments["w"], 29)}))


def test_seed_limits_know_a_call_without_shared_rows_and_logit():
    arguments, _ = example(np.random.default_rng(23), **(SEED | {"shared": 0}))
    arguments["logit"] = None
    with limits("seed"):
        combine(**arguments)
