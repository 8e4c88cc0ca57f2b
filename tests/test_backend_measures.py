"""How far results may be apart: the measures, and what each result of each operator is held to."""

import json

import numpy as np
import pytest
from cases.calls import CALLS

import moe_native
from moe_native.testing import bfloat16
from moe_native.verification.calls import call_whole
from moe_native.verification.cases import OPERATORS, cases
from moe_native.verification.measures import Outcome, compare, measure

F16, F32 = np.float16, np.float32


def test_numbers_of_a_measure():
    needed = np.array([[1, 2], [0, -4]], F32)
    seen = np.array([[1, 2.5], [0, -3]], F32)
    result = measure("y", seen, needed, precision=1e-4)
    assert (result.mismatches, result.size, result.shape, result.dtype) == (2, 4, (2, 2), "float32")
    assert result.max_absolute == 1
    assert result.max_relative == pytest.approx(0.25, abs=1e-9)
    assert result.mean_relative == pytest.approx((0.5 / 2.5 + 0.25) / 4)
    assert result.rmse == pytest.approx(np.sqrt((0.25 + 1) / 4))
    assert not result.ok
    assert result.problem == "2 of 4 elements miss 'precision 0.0001', first at [0, 1]: 2.5, needed 2.0"


@pytest.mark.parametrize("dtype", [F32, F16, bfloat16, np.int8, np.int32, np.int64, np.bool_], ids=str)
def test_equal_is_right(dtype):
    values = np.array([[0, 1, 1], [0, 0, 1]]).astype(dtype)
    for array in (values, values[:, ::-1], values[:0], values[0, 1]):
        result = measure("y", array, array.copy())
        assert result.ok
        assert result.mismatches == result.max_absolute == result.rmse == 0


def test_bits():
    """Without a precision equal numbers of other bits are a mismatch; with one they are not."""
    zeros, negative = np.zeros(3, F32), -np.zeros(3, F32)
    assert not measure("y", negative, zeros).ok
    assert measure("y", negative, zeros, precision=1e-4).ok
    assert measure("y", negative, zeros, precision=1e-4).mismatches == 3


def test_few_may_be_off():
    """A share of p of the elements, in one of the two errors."""
    needed = np.ones(2000, F32)
    for wrong, ok in [(0, True), (2, True), (3, False)]:
        seen = needed.copy()
        seen[:wrong] = 2
        assert measure("y", seen, needed, precision=1e-3).ok is ok


def test_small_numbers_are_held_to_the_absolute_error_and_large_ones_to_the_relative_one():
    small, large = np.full(10, 1e-6, F32), np.full(10, 1e6, F32)
    assert measure("y", small * 2, small, precision=1e-4).ok
    assert measure("y", large + 50, large, precision=1e-4).ok
    assert not measure("y", large + 500, large, precision=1e-4).ok


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_has_to_be_the_same(value):
    """One such element is wrong, among however many."""
    needed = np.ones(100_000, F32)
    seen = needed.copy()
    seen[7] = value
    assert not measure("y", seen, needed, precision=1e-2).ok
    assert not measure("y", needed, seen, precision=1e-2).ok
    assert measure("y", seen, seen, precision=1e-2).ok
    assert measure("y", seen, seen, precision=1e-2).mismatches == 0
    assert "first at [7]" in measure("y", seen, needed, precision=1e-2).problem


def test_steps_of_integers():
    needed = np.array([0, 5, -128, 127], np.int8)
    assert measure("y", needed + np.array([1, -1, 1, -1], np.int8), needed, step=1).ok
    assert measure("y", needed + np.array([1, -1, 1, -1], np.int8), needed, step=1).mismatches == 4
    off = measure("y", needed + np.array([2, 0, 0, 0], np.int8), needed, step=1)
    assert off.problem == "1 of 4 elements miss 'within 1', first at [0]: 2, needed 0"


@pytest.mark.parametrize("seen", [np.zeros(3, F16), np.zeros((3, 1), F32), np.zeros(4, F32)], ids=str)
def test_another_dtype_or_shape_is_wrong(seen):
    result = measure("y", seen, np.zeros(3, F32), precision=1)
    assert not result.ok
    assert "needed float32 (3,)" in result.problem
    json.dumps(result.record(), allow_nan=False)


def test_outcome():
    good = measure("y", np.ones(2, F32), np.ones(2, F32))
    bad = measure("scale", np.zeros(2, F32), np.ones(2, F32))
    assert Outcome("npu_swiglu", "a", (good,)).ok
    assert not Outcome("npu_swiglu", "a", (good, bad)).ok
    assert Outcome("npu_swiglu", "a", (good, bad)).problem.startswith("scale: 2 of 2 elements")
    assert Outcome("npu_swiglu", "a", (), "AclError: no").problem == "AclError: no"
    assert json.loads(json.dumps(Outcome("npu_swiglu", "a", (bad,)).record(), allow_nan=False))["ok"] is False


EXACT, CODES = "equal bits", "within 1"
RULES = {
    "npu_moe_gating_top_k_softmax": {"y": "precision 0.001", "expert_idx": EXACT, "row_idx": EXACT},
    "npu_moe_gating_top_k_softmax_v2": {"y": "precision 0.001", "expert_idx": EXACT, "softmax": "precision 0.0001"},
    "npu_moe_gating_top_k": {"y": "precision 0.0001", "expert_idx": EXACT, "norm_out": "precision 0.0001"},
    "npu_moe_compute_expert_tokens": {"the result": EXACT},
    "npu_moe_init_routing_v2": {
        "expanded_x": CODES,
        "expanded_row_idx": EXACT,
        "expert_token_cumsum_or_count": EXACT,
        "expanded_scale": "precision 0.0001",
    },
    "npu_moe_token_permute_with_routing_map": dict.fromkeys(
        ("permuted_tokens", "permuted_probs", "sorted_indices"), EXACT
    ),
    "npu_moe_token_unpermute_with_routing_map": {
        "unpermuted": "precision 0.001",
        "out_index": EXACT,
        "permuted_token_id": EXACT,
        "permute_probs": EXACT,
    },
    "npu_moe_finalize_routing": {"the result": "precision 0.001"},
    "npu_grouped_matmul_finalize_routing": {"the result": "precision 0.001"},
    "npu_grouped_matmul_swiglu_quant": {
        "output": CODES,
        "output_scale": "precision 0.0001",
        "output_offset": "precision 0.0001",
    },
    "npu_ffn": {"the result": "precision 0.001"},
    "npu_dynamic_quant": {"y": CODES, "scale": "precision 0.0001"},
    "npu_swiglu": {"the result": "precision 0.001"},
    "npu_format_cast": {"the result": EXACT},
}


@pytest.mark.parametrize("operator", CALLS)
def test_rules(operator):
    arguments = CALLS[operator](np.random.default_rng(0))
    results = call_whole(operator, arguments)
    measures = compare(operator, arguments, results, list(results.values()))
    assert {m.name: m.rule for m in measures} == RULES[operator]
    assert all(m.ok for m in measures)
    assert {m.rule for m in compare(operator, arguments, results, list(results.values()), exact=True)} == {EXACT}


def test_rules_of_other_dtypes():
    def rule(op, dtype, arguments={}):  # noqa: B006
        result = np.ones(2, dtype)
        return compare(op, arguments, {"unpermuted" if "unpermute" in op else "expanded_x": result}, [result])[0].rule

    assert rule("npu_moe_token_unpermute_with_routing_map", F32) == "precision 1e-05"
    assert rule("npu_moe_token_unpermute_with_routing_map", bfloat16) == "precision 0.0078"
    assert rule("npu_swiglu", F32) == "precision 0.0001"
    assert rule("npu_moe_init_routing_v2", F16, {"quant_mode": -1}) == EXACT
    assert rule("npu_moe_init_routing_v2", np.int8, {"quant_mode": -1}) == EXACT


def test_number_of_results():
    with pytest.raises(ValueError, match="npu_swiglu: 2 results, needed 1: y"):
        compare("npu_swiglu", {}, {"y": np.ones(2)}, [np.ones(2)] * 2)


def test_every_operator_has_cases():
    assert set(OPERATORS) == {name for name in vars(moe_native) if name.startswith("npu_")}
    assert {case.op for case in cases()} == set(OPERATORS)
    assert {case.op for case in cases("npu_ffn")} == {"npu_ffn"}


def test_cases_differ_and_are_the_same_in_every_run():
    everything = list(cases())
    assert len({(case.op, case.label) for case in everything}) == len(everything)
    for case in everything[::50]:
        first, second = case.arguments(), case.arguments()
        for name, value in first.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, second[name])
