"""The oracle of npu_moe_init_routing_v2 against hand-worked results and its literal definition."""

import ml_dtypes
import numpy as np
import pytest
from cases.init_routing import CASES, INT32_MAX
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native.oracle.init_routing import moe_init_routing_v2
from moe_native.testing import assert_same_bits


@pytest.mark.parametrize("case", CASES)
def test_worked_numbers(case):
    arguments, needed = CASES[case]
    for seen, result in zip(moe_init_routing_v2(**arguments), needed, strict=True):
        if result is not None:
            assert_same_bits(seen, result)


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
        rows = (routed + [None] * len(ids))[: len(ids) if active_num in (-1, 0) else min(active_num, len(ids))]
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
