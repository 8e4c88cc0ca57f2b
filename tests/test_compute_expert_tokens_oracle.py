"""The definition of the cumulative expert counts against numbers worked out by hand."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from moe_native.oracle.gating import moe_compute_expert_tokens


@pytest.mark.parametrize(
    ("ids", "num_expert", "expected"),
    [
        ([0, 0, 0, 1, 1, 2], 3, [3, 5, 6]),
        ([0, 0, 1, 1, 2, 2], 3, [2, 4, 6]),
        ([0, 0, 2, 2, 2, 5], 6, [2, 2, 5, 5, 5, 6]),
        ([1, 1, 3, 3], 3, [0, 2, 2]),
        ([], 4, [0, 0, 0, 0]),
        ([-5, -1, 0, 7], 2, [3, 3]),
        ([2, 0, 1], 3, [2, 3, 3]),  # not sorted: what plain bisection makes of it
    ],
)
def test_worked_examples(ids, num_expert, expected):
    got = moe_compute_expert_tokens(np.array(ids, np.int32), num_expert)
    assert_array_equal(got, np.array(expected, np.int32), strict=True)


def test_it_is_the_running_sum_of_the_counts():
    rng = np.random.default_rng(20240611)
    ids = np.sort(rng.integers(0, 32, 302, np.int32))  # 31 experts and the rows that are finished
    expected = np.cumsum(np.bincount(ids, minlength=32)[:31])
    assert_array_equal(moe_compute_expert_tokens(ids, 31), expected)
