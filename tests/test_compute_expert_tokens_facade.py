"""npu_moe_compute_expert_tokens: results, all exact, and every refusal."""

import numpy as np
import pytest
from cases.gating import TOKENS
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native import npu_moe_compute_expert_tokens
from moe_native.oracle.gating import moe_compute_expert_tokens
from moe_native.testing import assert_same_bits, guarded, is_untouched, read_only, strided


@pytest.mark.parametrize(("ids", "num_expert", "needed"), TOKENS)
def test_worked_number(ids, num_expert, needed):
    seen = npu_moe_compute_expert_tokens(np.array(ids, np.int32), num_expert)
    assert_same_bits(seen, np.array(needed, np.int32))


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.integers(-3, 12), max_size=70),
    num_expert=st.sampled_from([1, 2, 7, 12, 13, 40]),
    ascending=st.booleans(),
)
def test_equals_oracle(ids, num_expert, ascending):
    ids = np.array(sorted(ids) if ascending else ids, np.int32)
    assert_same_bits(npu_moe_compute_expert_tokens(ids, num_expert), moe_compute_expert_tokens(ids, num_expert))


@pytest.mark.parametrize(
    ("rows", "num_expert"), [(302, 31), (12000, 256), (12001, 257), (65536, 8), (2**20, 2048), (2**24, 3)]
)
def test_equals_searchsorted(rows, num_expert):
    ids = np.sort(np.random.default_rng(rows).integers(0, num_expert + 1, rows, np.int32))
    seen = npu_moe_compute_expert_tokens(ids, num_expert)
    assert_same_bits(seen, np.searchsorted(ids, np.arange(num_expert), side="right").astype(np.int32))


def test_strided_and_read_only_ids():
    ids = np.sort(np.random.default_rng(1).integers(0, 9, 100, np.int32))
    needed = npu_moe_compute_expert_tokens(ids, 9)
    assert_same_bits(npu_moe_compute_expert_tokens(strided(ids), 9), needed)
    assert_same_bits(npu_moe_compute_expert_tokens(read_only(ids[::-1])[::-1], np.int64(9)), needed)


def test_out_is_written_and_nothing_around_it():
    out, check = guarded((3,), np.int32)
    assert npu_moe_compute_expert_tokens(np.array([0, 2], np.int32), 3, out=out) is out
    check()
    assert_same_bits(out, np.array([1, 1, 2], np.int32))


IDS = np.array([0, 1, 1], np.int32)
REFUSED = {
    # name: (arguments to replace, exception, status of the core or None, message)
    "ids missing": (
        {"sorted_expert_for_source_row": None},
        TypeError,
        161001,
        "sorted_expert_for_source_row: missing",
    ),
    "ids a list": ({"sorted_expert_for_source_row": [0]}, TypeError, None, "sorted_expert_for_source_row: list"),
    "ids int64": (
        {"sorted_expert_for_source_row": IDS.astype(np.int64)},
        TypeError,
        161002,
        "sorted_expert_for_source_row: dtype int64, needed int32",
    ),
    "ids float": ({"sorted_expert_for_source_row": IDS.astype(np.float32)}, TypeError, 161002, "dtype float32"),
    "ids of 2 dimensions": (
        {"sorted_expert_for_source_row": IDS.reshape(1, 3)},
        ValueError,
        561002,
        r"sorted_expert_for_source_row: shape \(1, 3\), needed 1 dimension",
    ),
    "ids of 0 dimensions": ({"sorted_expert_for_source_row": IDS[0:1].reshape(())}, ValueError, 561002, "1 dimension"),
    "too many ids": (
        {"sorted_expert_for_source_row": np.broadcast_to(np.int32(0), 2**24 + 1)},
        ValueError,
        561002,
        "16777217 rows, needed at most 16777216",
    ),
    "no experts": ({"num_expert": 0}, ValueError, 561002, "num_expert: 0, needed 1 to 2048"),
    "negative": ({"num_expert": -1}, ValueError, 561002, "num_expert: -1, needed 1 to 2048"),
    "too many": ({"num_expert": 2049}, ValueError, 561002, "num_expert: 2049, needed 1 to 2048"),
    "num_expert float": ({"num_expert": 3.0}, TypeError, None, "num_expert: float, needed an int"),
    "num_expert None": ({"num_expert": None}, TypeError, None, "num_expert: NoneType, needed an int"),
    "num_expert bool": ({"num_expert": True}, TypeError, None, "num_expert: True, needed an int"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    replaced, exception, status, message = REFUSED[case]
    out, check = guarded((3,), np.int32)
    with pytest.raises(exception, match=message) as caught:
        npu_moe_compute_expert_tokens(**({"sorted_expert_for_source_row": IDS, "num_expert": 3} | replaced), out=out)
    assert str(caught.value).startswith("npu_moe_compute_expert_tokens: ")
    assert getattr(caught.value, "status", None) == status
    assert is_untouched(out)
    check()


def test_bad_out():
    ids = np.zeros(3, np.int32)
    for bad in [
        np.zeros(4, np.int32),
        np.zeros(3, np.int64),
        np.zeros(6, np.int32)[::2],
        np.zeros((3, 1), np.int32),
        ids,
    ]:
        before = bad.copy()
        with pytest.raises(ValueError, match="npu_moe_compute_expert_tokens: out: "):
            npu_moe_compute_expert_tokens(ids, 3, out=bad)
        assert_same_bits(bad, before)
