"""The console script: the layer it runs, its table and JSON, its exit status."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import moe_native
from moe_native.cli import app, report
from moe_native.cli.layer import Layer, Size

SMALL = ["--tokens", "64", "--experts", "32", "--hidden", "96"]
STEPS = [
    "npu_format_cast",
    "npu_moe_gating_top_k",
    "npu_moe_init_routing_v2",
    "npu_grouped_matmul_swiglu_quant",
    "npu_grouped_matmul_finalize_routing",
]


def run(*arguments):
    return CliRunner().invoke(app, [*SMALL, *arguments])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_json(dtype):
    result = run("--dtype", dtype, "--json")
    assert result.exit_code == 0, result.output
    seen = json.loads(result.stdout)
    assert seen["ok"]
    assert (seen["tokens"], seen["experts"], seen["active_experts"], seen["hidden"]) == (64, 32, 4, 96)
    assert seen["dtype"] == dtype
    assert [step["step"] for step in seen["steps"]] == STEPS
    for step in seen["steps"]:
        assert step["ok"]
        assert step["seconds"] > 0
        assert step["unit"] in ("GB/s", "GOP/s")
        assert 0 <= step["worst_of_bound"] <= 1


def test_table():
    result = run()
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "64 tokens in bfloat16, hidden 96" in lines[0]
    for name in STEPS:
        (line,) = [line for line in lines if name in line]
        assert " ok " in line
        assert "GB/s" in line or "GOP/s" in line
    assert "Every step agrees with its definition" in lines[-1]


def test_table_of_a_narrow_terminal(monkeypatch):
    """Nothing is cut off at 80 columns."""
    monkeypatch.setattr(report, "Console", functools.partial(Console, force_terminal=True, no_color=True, width=80))
    output = run().stdout
    for name in STEPS:
        assert re.search(rf"^ *{name} +[0-9.]+ ms +[0-9.]+ G(B|OP)/s +\S*ok", output, flags=re.MULTILINE), output
    assert "…" not in output
    assert "64 x 32, top 8" in output


def test_progress_goes_to_standard_error():
    assert "Checking every step" in run().stderr


def test_threads():
    try:
        result = run("--threads", "1", "--json")
        assert json.loads(result.stdout)["threads"] == 1
    finally:
        moe_native.set_num_threads(0)


@pytest.mark.parametrize(
    "arguments", [["--experts", "36"], ["--experts", "8"], ["--hidden", "0"], ["--dtype", "int8"], ["--threads", "0"]]
)
def test_bad_options(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "Invalid value" in result.stderr


def test_odd_sizes():
    """Sizes that the NZ layout pads, and an expert that may have no rows."""
    result = CliRunner().invoke(app, ["--tokens", "5", "--experts", "16", "--hidden", "45", "--json"])
    assert result.exit_code == 0, result.output


def test_a_sample_of_a_large_batch_is_checked():
    result = CliRunner().invoke(app, ["--tokens", "600", "--experts", "16", "--hidden", "32", "--json"])
    assert result.exit_code == 0
    steps = {step["step"]: step for step in json.loads(result.stdout)["steps"]}
    assert steps["npu_grouped_matmul_finalize_routing"]["checked_rows"] == 512


@pytest.mark.parametrize("name", ["npu_grouped_matmul_swiglu_quant", "npu_grouped_matmul_finalize_routing"])
def test_one_flipped_weight_fails(monkeypatch, name):
    """The operator gets one wrong weight, after the cast was checked to be right: the run ends with status 1."""
    operator = getattr(moe_native, name)

    def with_a_flipped_weight(x, w, group_list, *rest, **options):
        ends = group_list if name.endswith("quant") else np.cumsum(group_list)
        expert = int(np.flatnonzero(ends)[0])
        k = int(np.abs(x[: ends[expert]].astype(int)).max(axis=0).argmax())  # The weight that counts most.
        spoilt = moe_native.NzArray(w.storage.copy(), w.shape)
        spoilt.storage[w.locate(expert, k, 0).multi_index] ^= -128
        return operator(x, spoilt, group_list, *rest, **options)

    monkeypatch.setattr(moe_native, name, with_a_flipped_weight)
    result = run()
    assert result.exit_code == 1
    assert f"{name}: " in result.stdout
    assert "WRONG" in result.stdout
    assert "A step is wrong" in result.stdout
    seen = json.loads(run("--json").stdout)
    assert [step["step"] for step in seen["steps"] if not step["ok"]] == [name]
    assert not seen["ok"]


def test_wrong_operator_of_any_step_fails(monkeypatch):
    """A result that is off by one in one place ends with status 1, whichever step it is."""
    for name in STEPS:
        operator = getattr(moe_native, name)

        def spoilt(*arguments, operator=operator, name=name, **options):
            result = operator(*arguments, **options)
            array = options["out"] if name == "npu_format_cast" else result
            array = array[0] if isinstance(array, tuple) else array
            array[(0,) * array.ndim] += np.asarray(1, array.dtype)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(moe_native, name, spoilt)
            result = run("--json")
        assert result.exit_code == 1, name
        wrong = [step["step"] for step in json.loads(result.stdout)["steps"] if not step["ok"]]
        assert wrong[0] == name  # Later steps may be wrong because of it.


def test_histogram_is_skewed():
    size = Size(hidden=32, intermediate=32)
    step = {step.name: step for step in Layer(size, np.float32).run()}["npu_moe_init_routing_v2"]
    assert size.active_experts == 32
    rows = int(step.shape[0].split("-> ")[1].split()[0])
    assert 256 < rows < 1024


def test_directories():
    files = {
        "include-dir": "moe_native/moe_native.h",
        "cmake-dir": "moe_native-config.cmake",
        "ascend-home": "include/acl/acl.h",
    }
    for command, file in files.items():
        result = CliRunner().invoke(app, [command])
        assert result.exit_code == 0
        assert (Path(result.stdout.strip()) / file).is_file()


def test_installed_commands():
    """The console script and the module are the same program."""
    script = Path(sys.executable).parent / "moe-native"
    for command in ([script], [sys.executable, "-P", "-m", "moe_native"]):
        done = subprocess.run([*command, "include-dir"], capture_output=True, text=True, check=True)
        assert (Path(done.stdout.strip()) / "moe_native").is_dir()
