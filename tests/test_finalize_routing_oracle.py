"""The oracle of npu_moe_finalize_routing against numbers worked out by hand."""

import numpy as np
import pytest
from cases.finalize_routing import CASES, int32

from moe_native.oracle.finalize import moe_finalize_routing


@pytest.mark.parametrize("case", CASES)
def test_worked_number(case):
    arguments, needed = CASES[case]
    np.testing.assert_array_equal(moe_finalize_routing(*arguments), needed)


def test_document_example():
    rows = np.tile(np.arange(12) + 0.1, 2).reshape(6, 4)
    skip = (np.arange(12) + 0.2).reshape(3, 4)
    bias = np.array([[0.2, 0.4, 0.2, 0.4]] * 2)
    scales = np.array([[1.3, 1.6], [1.2, 1.8], [1.2, 2.3]])
    expert = np.array([[0, 1]] * 3, np.int32)
    seen = moe_finalize_routing(rows, skip, skip, bias, scales, int32(2, 1, 4, 3, 0, 5), expert)
    needed = [[11.67, 17.15, 21.47, 26.95], [14.1, 19.7, 24.1, 29.7], [40.65, 46.85, 51.65, 57.85]]
    np.testing.assert_allclose(seen, needed, rtol=1e-14)
