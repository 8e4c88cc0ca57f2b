"""The oracle of npu_moe_compute_expert_tokens against numbers worked out by hand."""

import numpy as np
import pytest
from cases.gating import TOKENS
from numpy.testing import assert_array_equal

from moe_native.oracle.gating import moe_compute_expert_tokens


@pytest.mark.parametrize(("ids", "num_expert", "needed"), TOKENS)
def test_worked_number(ids, num_expert, needed):
    seen = moe_compute_expert_tokens(np.array(ids, np.int32), num_expert)
    assert_array_equal(seen, np.array(needed, np.int32), strict=True)


def test_it_is_the_running_sum_of_the_counts():
    ids = np.sort(np.random.default_rng(1).integers(0, 32, 302, np.int32))  # 31 experts and the rows that are finished
    assert_array_equal(moe_compute_expert_tokens(ids, 31), np.cumsum(np.bincount(ids, minlength=32)[:31]))
