"""The facade's own tests on the CPU device: the same bits and the same exceptions, in strict mode without findings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FACADE = sorted(path.name for path in TESTS.glob("test_*_facade.py") if path != Path(__file__))
FILES = [*FACADE, "test_ffn_refusals.py"]
# Those that take long on any backend; and one that casts a weight of int4 to tiles as the facade has them, and expects
# what the sizes lead to.
LEFT_OUT = "oracle or sequential or large or its_parts or relu_is_exact or length_of_k or test_int4_within_limits"
# At least this share of a file's tests has to be possible on a card: many are about sizes and dtypes that none takes.
POSSIBLE = {
    "test_ffn_facade.py": 0.15,
    "test_grouped_matmul_finalize_routing_facade.py": 0.5,
    "test_grouped_matmul_swiglu_quant_facade.py": 0.4,
    "test_format_cast_facade.py": 0.7,
    "test_dynamic_quant_facade.py": 0.8,
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    path = tmp_path_factory.mktemp("outcomes") / "outcomes.json"
    environment = os.environ | {"PYTHONPATH": str(TESTS), "MOE_ACLNN_MODE": "strict", "OUTCOMES": str(path)}
    environment.pop("MOE_NATIVE_BACKEND", None)
    command = [sys.executable, "-P", "-m", "pytest", "-p", "cases.on_device", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "-k", f"not ({LEFT_OUT})", *FILES], cwd=TESTS, env=environment, capture_output=True, text=True
    )
    assert path.exists(), run.stdout + run.stderr
    return json.loads(path.read_text()) | {"output": run.stdout}


@pytest.mark.parametrize("name", FILES)
def test_same_bits_and_same_exceptions(outcomes, name):
    counts = outcomes["files"][name]
    assert not counts.get("failed"), outcomes["output"]
    assert counts["calls"] > 10 or "refusals" in name
    possible = counts["passed"] / (counts["passed"] + counts.get("refused", 0))
    assert possible >= POSSIBLE.get(name, 0.9), counts


def test_nothing_but_refusals_is_found(outcomes):
    """Strict tells of every mistake; the only ones are arguments that a card does not take."""
    assert set(outcomes["findings"]) <= {"argument", "nz-not-ready"}, outcomes["findings"]
