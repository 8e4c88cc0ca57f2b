"""The oracle of npu_moe_init_routing_v2 against hand-worked results and its literal definition."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native.oracle.init_routing import moe_init_routing_v2

INT32_MAX = np.iinfo(np.int32).max
X = np.array([[1, 2, -3, 4], [0.5, -0.25, 0.125, 1], [-8, 6, 7, 5]], np.float32)
IDX = np.array([[2, 5], [0, 2], [3, 2]], np.int32)
ROUTED = {"expert_num": 6, "active_expert_range": [1, 4], "active_num": 0, "expert_tokens_num_flag": True}


def f32(*values):
    return np.array(values, np.float32)


def identical(actual, expected, dtype=None):
    """Same shape, same dtype, same bits."""
    expected = np.asarray(expected, dtype or actual.dtype)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes(), (actual, expected)


# The worked example


def test_plain_rows():
    x, _, _, scale = moe_init_routing_v2(X, IDX, **ROUTED)
    identical(x, np.stack([X[0], X[1], X[2], X[2], 0 * X[0], 0 * X[0]]) + 0.0)
    identical(scale, np.zeros(6, np.float32))


@pytest.mark.parametrize("kind, expected", [(0, [0, -1, -1, 1, 3, 2]), (1, [0, 3, 5, 4, 1, 2])])
def test_row_idx(kind, expected):
    identical(moe_init_routing_v2(X, IDX, row_idx_type=kind, **ROUTED)[1], expected, np.int32)


@pytest.mark.parametrize(
    "kind, expected",
    [(0, [0, 3, 4]), (1, [0, 3, 1]), (2, [[2, 3], [3, 1], [0, 0], [0, 0], [0, 0], [0, 0]])],
)
def test_expert_tokens(kind, expected):
    identical(moe_init_routing_v2(X, IDX, expert_tokens_num_type=kind, **ROUTED)[2], expected, np.int64)
    off = ROUTED | {"expert_tokens_num_flag": False}
    identical(
        moe_init_routing_v2(X, IDX, expert_tokens_num_type=kind, **off)[2], np.zeros_like(expected), np.int64
    )


def test_scale_travels_with_its_row():
    identical(
        moe_init_routing_v2(X, IDX, scale=f32(10, 20, 30), **ROUTED)[3], f32(10, 20, 30, 30, 0, 0), np.float32
    )


def test_dynamic_quant_without_scale():
    q, _, _, scale = moe_init_routing_v2(X, IDX, quant_mode=1, **ROUTED)
    identical(
        q[:4],
        [[32, 64, -95, 127], [64, -32, 16, 127], [-127, 95, 111, 79], [-127, 95, 111, 79]],
        np.int8,
    )
    identical(scale[:4], f32(4, 1, 8, 8) / np.float32(127))
    identical(scale[:4], f32(0.031496063, 0.007874016, 0.062992126, 0.062992126))


@pytest.mark.parametrize(
    "rows, last, last_scale",
    [
        ([[1, 1, 1, 1], [1, 0.5, 2, 1], [0.25, 1, 1, -2]], [-25, 76, 89, -127], 0.078740157),
        ([[1, 0.5, 2, 1]], [-73, 27, 127, 45], 0.110236220),
    ],
    ids=["one row per expert", "one row for all"],
)
def test_dynamic_quant_with_scale(rows, last, last_scale):
    q, _, _, scale = moe_init_routing_v2(X, IDX, quant_mode=1, scale=f32(*rows), **ROUTED)
    identical(q[:4], [[21, 21, -127, 85], [64, -16, 32, 127], [-73, 27, 127, 45], last], np.int8)
    identical(scale[:4], f32(0.047244094, 0.007874016, 0.110236220, last_scale))


def test_static_quant():
    q, _, _, scale = moe_init_routing_v2(X, IDX, quant_mode=0, scale=f32(2.5), offset=f32(1), **ROUTED)
    last = [-19, 16, 18, 14]
    identical(q, [[4, 6, -6, 11], [2, 0, 1, 4], last, last, [0] * 4, [0] * 4], np.int8)
    identical(scale, np.zeros(6, np.float32))


def test_active_num_cuts_rows_but_not_indices_or_counts():
    arguments = ROUTED | {"active_num": 2, "expert_tokens_num_type": 1}
    x, row_idx, tokens, scale = moe_init_routing_v2(X, IDX, scale=f32(10, 20, 30), **arguments)
    identical(x, X[:2])
    identical(row_idx, [0, -1, -1, 1, 3, 2])
    identical(tokens, [0, 3, 1])
    identical(scale, f32(10, 20))


def test_nothing_in_range():
    idx = np.array([[5, 6], [0, 7]], np.int32)
    arguments = {"expert_num": 8, "active_expert_range": [2, 4], "expert_tokens_num_flag": True}
    x, row_idx, tokens, scale = moe_init_routing_v2(
        X[:2], idx, expert_tokens_num_type=1, quant_mode=1, **arguments
    )
    identical(x, np.zeros((4, 4)), np.int8)
    identical(row_idx, [-1] * 4)
    identical(tokens, [0, 0])
    identical(scale, np.zeros(4), np.float32)
    _, row_idx, tokens, _ = moe_init_routing_v2(
        X[:2], idx, expert_tokens_num_type=2, row_idx_type=1, **arguments
    )
    identical(row_idx, [0, 1, 3, 2])
    identical(tokens, np.zeros((8, 2)), np.int64)


# Drop and pad

DROP_IDX = np.array([[0, 2], [2, 1], [2, 0]], np.int32)
DROP = {
    "expert_num": 3,
    "expert_capacity": 2,
    "drop_pad_mode": 1,
    "expert_tokens_num_type": 1,
    "expert_tokens_num_flag": True,
}


def test_drop_pad_plain():
    x, row_idx, tokens, scale = moe_init_routing_v2(X, DROP_IDX, scale=f32(10, 20, 30), **DROP)
    identical(x, np.stack([[X[0], X[2]], [X[1], np.zeros(4)], [X[0], X[1]]]), np.float32)
    identical(row_idx, [0, 4, 5, 2, -1, 1])
    identical(tokens, [2, 1, 3])
    identical(scale, f32(10, 30, 20, 0, 10, 20))


def test_drop_pad_dynamic_quant():
    rows = f32([1] * 4, [2] * 4, [1, 0.5, 2, 1])
    q, _, _, scale = moe_init_routing_v2(X, DROP_IDX, scale=rows, quant_mode=1, **DROP)
    identical(
        q,
        [
            [[32, 64, -95, 127], [-127, 95, 111, 79]],
            [[64, -32, 16, 127], [0, 0, 0, 0]],
            [[21, 21, -127, 85], [64, -16, 32, 127]],
        ],
        np.int8,
    )
    identical(scale, f32(0.031496063, 0.062992126, 0.015748031, 0, 0.047244094, 0.007874016))


def test_drop_pad_static_quant_pads_with_zero_not_with_the_offset():
    q = moe_init_routing_v2(X, DROP_IDX, quant_mode=0, scale=f32(2.5), offset=f32(1), **DROP)[0]
    identical(
        q,
        [
            [[4, 6, -6, 11], [-19, 16, 18, 14]],
            [[2, 0, 1, 4], [0, 0, 0, 0]],
            [[4, 6, -6, 11], [2, 0, 1, 4]],
        ],
        np.int8,
    )


def test_drop_pad_stock_example():
    idx = np.array([[1, 2], [0, 1], [0, 2]], np.int32)
    _, row_idx, tokens, _ = moe_init_routing_v2(X, idx, **DROP)
    identical(row_idx, [2, 4, 0, 3, 1, 5])
    identical(tokens, [2, 2, 2])


def test_drop_pad_negative_id_is_dropped():
    _, row_idx, tokens, _ = moe_init_routing_v2(X, np.array([[-1], [0], [3]], np.int32), **DROP)
    identical(row_idx, [-1, 0, -1])
    identical(tokens, [1, 0, 0])


# The stock dropless example, special rows and the scatter tail


def test_stock_example():
    idx = np.array([[1, 2, 0, 3], [0, 2, 1, 3], [0, 1, 3, 2]], np.int32)
    arguments = {
        "expert_num": 4,
        "active_expert_range": [0, 4],
        "row_idx_type": 1,
        "expert_tokens_num_type": 1,
    }
    x, row_idx, tokens, _ = moe_init_routing_v2(X, idx, expert_tokens_num_flag=True, **arguments)
    identical(row_idx, [2, 4, 8, 0, 6, 9, 1, 5, 11, 3, 7, 10])
    identical(tokens, [3, 3, 3, 3])
    identical(x, np.tile(X, (4, 1)))


def quantise_one_row(row, **arguments):
    row = np.asarray(row, np.float32)[None]
    q, _, _, scale = moe_init_routing_v2(row, np.zeros((1, 1), np.int32), expert_num=1, **arguments)
    return q[0], scale[0]


@pytest.mark.parametrize(
    "row, smooth, codes, scale",
    [
        ([127, 0.5, 1.5, -2.5], None, [127, 0, 2, -2], 1),
        ([0, -0.0, 0], None, [0, 0, 0], 0),
        ([1, np.nan, 2], None, [0, 0, 0], np.nan),
        ([1, np.nan, np.inf], None, [0, 0, 0], np.nan),
        ([1, -np.inf, 2], None, [0, 0, 0], np.inf),
        ([3e38, 1], [[10, 1]], [0, 0], np.inf),
        ([np.inf, 1], [[0, 1]], [0, 0], np.nan),
        ([8e-44, 1e-45], None, [0, 0], 0),  # the scale underflows
        ([2e-43, -2e-43, 1.4e-45], None, [127, -128, 1], 1.4e-45),  # 143 units of the smallest subnormal
    ],
)
def test_dynamic_special_rows(row, smooth, codes, scale):
    q, actual = quantise_one_row(row, quant_mode=1, scale=None if smooth is None else f32(*smooth))
    identical(q, codes, np.int8)
    np.testing.assert_array_equal(actual, np.float32(scale))


def test_static_ties_and_clamps():
    row = [1, -3, 1e6, -1e6, np.inf, -np.inf, np.nan]
    q, _ = quantise_one_row(row, quant_mode=0, scale=f32(2.5), offset=f32(1))
    identical(q, [4, -6, 127, -128, 127, -128, 0], np.int8)


def test_scatter_tail_puts_ids_below_the_range_last_and_lets_them_tie_with_int32_max():
    ids = np.array([[-7, 9, 3], [INT32_MAX, 0, 8], [9, 4, -1], [INT32_MAX, 2, 4]], np.int32)
    x = np.arange(4, dtype=np.float32)[:, None]
    row_idx = moe_init_routing_v2(x, ids, expert_num=6, active_expert_range=[2, 5], row_idx_type=1)[1]
    identical(row_idx, [10, 2, 7, 11, 5, 1, 6, 0, 3, 4, 8, 9])


# Empty inputs


@pytest.mark.parametrize("tokens, top_k", [(0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("quant_mode", [-1, 0, 1])
@pytest.mark.parametrize("num_type, shape", [(0, (3,)), (1, (3,)), (2, (6, 2))])
def test_nothing_to_route(tokens, top_k, quant_mode, num_type, shape):
    x, row_idx, count, scale = moe_init_routing_v2(
        np.ones((tokens, 4), np.float32),
        np.zeros((tokens, top_k), np.int32),
        scale=np.ones(0, np.float32),
        quant_mode=quant_mode,
        expert_tokens_num_type=num_type,
        **ROUTED,
    )
    identical(x, np.zeros((0, 4)), np.float32 if quant_mode == -1 else np.int8)
    identical(row_idx, np.zeros(0), np.int32)
    identical(count, np.zeros(shape), np.int64)
    identical(scale, np.zeros(0), np.float32)


def test_no_columns():
    q, row_idx, count, scale = moe_init_routing_v2(
        np.ones((3, 0), np.float32), IDX, quant_mode=1, expert_tokens_num_type=1, **ROUTED
    )
    assert q.shape == (6, 0)
    identical(row_idx, [0, -1, -1, 1, 3, 2])
    identical(count, [0, 3, 1])
    identical(scale, np.zeros(6), np.float32)


# Copies and a literal reading


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16, np.int8])
def test_plain_rows_are_copied_bit_by_bit(dtype):
    raw = np.random.default_rng(0).integers(0, 256, 5 * 16, np.uint8)
    x = raw.view(dtype).reshape(5, -1)
    if dtype == np.float32:
        x.view(np.uint32)[0, :2] = 0x7F800001, 0xFFC12345  # a signalling NaN, a NaN with a payload
    idx = np.array([[0], [0], [1], [0], [1]], np.int32)
    actual = moe_init_routing_v2(x, idx, expert_num=2)[0]
    assert actual.dtype == dtype
    assert actual.tobytes() == b"".join(x[t].tobytes() for t in (0, 1, 3, 2, 4))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_literal_reading(data):
    """Lists, sorted() and dictionaries instead of argsort, bincount and index arrays."""
    tokens, top_k = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    experts = data.draw(st.integers(1, 5))
    drop_pad = data.draw(st.booleans())
    start = 0 if drop_pad else data.draw(st.integers(0, experts - 1))
    end = experts if drop_pad else data.draw(st.integers(start + 1, experts))
    capacity = data.draw(st.integers(1, tokens))
    active_num = data.draw(st.integers(-1, tokens * top_k + 2))
    scatter = not drop_pad and data.draw(st.booleans())
    num_type = 1 if drop_pad else data.draw(st.integers(0, 2))
    some_id = st.one_of(st.integers(-2, experts + 2), st.just(INT32_MAX))
    ids = data.draw(st.lists(some_id, min_size=tokens * top_k, max_size=tokens * top_k))

    x, row_idx, count, scale = moe_init_routing_v2(
        np.arange(1, tokens + 1, dtype=np.float32)[:, None],
        np.array(ids, np.int32).reshape(tokens, top_k),
        scale=-np.arange(1, tokens + 1, dtype=np.float32),
        expert_num=experts,
        active_expert_range=[start, end],
        expert_capacity=capacity,
        active_num=active_num,
        drop_pad_mode=int(drop_pad),
        row_idx_type=int(scatter),
        expert_tokens_num_type=num_type,
        expert_tokens_num_flag=True,
    )

    flats = range(tokens * top_k)
    queues = {e: [f for f in flats if ids[f] == e] for e in range(start, end)}
    routed = [f for queue in queues.values() for f in queue]
    if drop_pad:
        rows = [q[c] if c < len(q) else None for q in queues.values() for c in range(capacity)]
    else:
        rows = (routed + [None] * len(ids))[
            : len(ids) if active_num in (-1, 0) else min(active_num, len(ids))
        ]
    assert x.reshape(-1).tolist() == [0 if f is None else f // top_k + 1 for f in rows]
    assert scale.tolist() == [0 if f is None else -(f // top_k + 1) for f in rows]

    if scatter:
        above = sorted((f for f in flats if ids[f] >= end and ids[f] != INT32_MAX), key=lambda f: (ids[f], f))
        last = [f for f in flats if ids[f] < start or ids[f] == INT32_MAX]
        assert row_idx.tolist() == routed + above + last
    else:
        landing = rows if drop_pad else routed
        assert row_idx.tolist() == [landing.index(f) if f in landing else -1 for f in flats]

    sizes = [len(queue) for queue in queues.values()]
    if num_type == 0:
        assert count.tolist() == [sum(sizes[: i + 1]) for i in range(len(sizes))]
    elif num_type == 1:
        assert count.tolist() == sizes
    else:
        pairs = [[e, len(queue)] for e, queue in queues.items() if queue]
        assert count.tolist() == pairs + [[0, 0]] * (experts - len(pairs))
