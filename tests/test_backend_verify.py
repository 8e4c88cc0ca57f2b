"""``moe-native verify``: the CPU device agrees with the core, and whatever is wrong is told."""

import json
import os
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import acl_binding
import moe_native
from moe_native import acl, backend
from moe_native.cli import app
from moe_native.verification.cases import OPERATORS, cases
from moe_native.verification.run import verify

HOME = str(moe_native.ascend_home())


def run(*arguments):
    return CliRunner().invoke(app, ["verify", *arguments])


@pytest.fixture
def strict():
    cpu = acl_binding.open(HOME).cpu
    with cpu.using(mode="strict"):
        yield cpu


@pytest.fixture
def calls(monkeypatch):
    """Counts calls of the device."""
    compute, names = acl.AclBackend._run_form, []

    def counted(self, form):
        names.append(form.name)
        return compute(self, form)

    monkeypatch.setattr(acl.AclBackend, "_run_form", counted)
    return names


def test_everything(strict, calls, tmp_path):
    """Every case is computed on the device, to the same bits, and strict finds no mistake in how."""
    before = strict.count_findings()
    path = tmp_path / "verify.json"
    result = run("--home", HOME, "--json", str(path))
    assert result.exit_code == 0, result.output
    assert strict.count_findings() == before
    for name in OPERATORS:
        (line,) = [line for line in result.stdout.splitlines() if re.search(rf"\b{name}\b", line)]
        assert line.split()[3:] == ["0", "0", "0", "0", "0", "ok"]
    assert "the same bits needed" in result.stdout
    assert "Every result is right." in result.stdout
    seen = json.loads(path.read_text())
    assert seen["ok"]
    assert seen["exact"]
    assert seen["soc"] == "Ascend910B1"
    assert [(entry["op"], entry["case"]) for entry in seen["calls"]] == [(case.op, case.label) for case in cases()]
    assert all(entry["results"] for entry in seen["calls"])
    assert len(calls) == len(seen["calls"])


def test_one_operator(calls):
    result = run("--home", HOME, "--op", "npu_swiglu", "--op", "npu_moe_compute_expert_tokens")
    assert result.exit_code == 0
    assert set(calls) == {"aclnnSwiGlu", "aclnnMoeComputeExpertTokens"}


def test_home_of_the_environment(monkeypatch):
    monkeypatch.setattr(backend, "_open", {})
    monkeypatch.setenv("ASCEND_HOME_PATH", HOME)
    assert run("--op", "npu_swiglu").exit_code == 0


def test_no_toolkit(monkeypatch):
    monkeypatch.setattr(backend, "_open", {})
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    result = run()
    assert result.exit_code == 2
    assert "no toolkit: neither home= nor ASCEND_HOME_PATH" in result.stderr
    assert not result.stdout


def test_wrong_home(tmp_path):
    result = run("--home", str(tmp_path))
    assert result.exit_code == 2
    assert f"{tmp_path} is not a toolkit" in result.stderr


def test_wrong_device():
    result = run("--home", HOME, "--device", "99")
    assert result.exit_code == 2
    assert "aclrtSetDevice" in result.stderr


def test_unknown_operator():
    result = run("--home", HOME, "--op", "npu_nothing")
    assert result.exit_code == 2
    assert "npu_nothing is no operator" in re.sub(r"[│\s]+", " ", result.stderr)


def spoil(monkeypatch, change):
    """Let the device compute something else."""
    compute = acl.AclBackend._run_form

    def wrong(self, form):
        return {key: change(array) for key, array in compute(self, form).items()}

    monkeypatch.setattr(acl.AclBackend, "_run_form", wrong)


def last_bit(array):
    """Change one bit of the last element."""
    array = array.copy()
    if array.size:
        array.reshape(-1)[-1:].view(np.uint8)[0] ^= 1
    return array


@pytest.mark.parametrize("operator", OPERATORS)
def test_one_bit_is_enough(operator, monkeypatch, tmp_path):
    """Of what is not undefined: most cases of every operator see it."""
    spoil(monkeypatch, last_bit)
    path = tmp_path / "verify.json"
    result = run("--home", HOME, "--op", operator, "--json", str(path))
    assert result.exit_code == 1
    assert "WRONG" in result.stdout
    assert re.search(rf"{operator} .*: .*: \d+ of \d+ elements miss 'equal bits', first at", result.stdout)
    seen = json.loads(path.read_text())
    assert not seen["ok"]
    wrong = [entry for entry in seen["calls"] if not entry["ok"]]
    assert len(wrong) >= 0.5 * len(seen["calls"])


def test_card_may_differ_a_little(monkeypatch):
    """Rounding of another order passes on a card, and a wrong number does not."""
    device = backend.open_backend("acl", HOME, 0)
    monkeypatch.setattr(device, "is_cpu", False)
    with monkeypatch.context() as patch:
        spoil(patch, lambda a: a if a.dtype.kind in "iub" else (a.astype(np.float64) * (1 + 2e-5)).astype(a.dtype))
        result = run("--home", HOME, "--op", "npu_moe_finalize_routing", "--op", "npu_ffn")
        assert result.exit_code == 0, result.output
        assert "the precision of a card needed" in result.stdout
        assert run("--home", HOME, "--op", "npu_moe_token_permute_with_routing_map").exit_code == 1
    with monkeypatch.context() as patch:
        spoil(patch, lambda a: a - (a > 0).astype(np.int8) if a.dtype == np.int8 else a)
        assert run("--home", HOME, "--op", "npu_dynamic_quant").exit_code == 0
    spoil(monkeypatch, lambda a: (a.astype(np.float32) * 1.1).astype(a.dtype) if a.dtype == ml_dtypes.bfloat16 else a)
    assert run("--home", HOME, "--op", "npu_ffn").exit_code == 1


def test_undefined_parts_are_left_out(monkeypatch):
    """What a card leaves there is nobody's business: the facade has zeros in both."""
    allocate = acl_binding.Device.zeros

    def garbage(self, shape, dtype, **layout):
        tensor = allocate(self, shape, dtype, **layout)
        stored = np.full(tensor.nbytes, 0x5A, np.uint8)
        if tensor.nbytes:
            tensor.buffer.write(stored)
        return tensor

    monkeypatch.setattr(acl_binding.Device, "zeros", garbage)
    result = run("--home", HOME)
    assert result.exit_code == 0, result.output


def test_device_that_refuses(monkeypatch):
    def refuse(self, form):
        raise acl_binding.AclInnerError(form.name, 561003, "no kernel")

    monkeypatch.setattr(acl.AclBackend, "_run_form", refuse)
    result = run("--home", HOME, "--op", "npu_swiglu")
    assert result.exit_code == 1
    assert "AclInnerError: aclnnSwiGlu returned 561003" in result.stdout


def test_file_that_cannot_be_written(tmp_path):
    """Before the work, not after it."""
    result = run("--home", HOME, "--json", str(tmp_path / "nowhere" / "verify.json"))
    assert result.exit_code == 2
    assert "No such file or directory" in result.stderr
    assert not result.stdout


def test_library_that_lacks_an_operator(monkeypatch):
    def lacking(self, operator):
        raise acl_binding.AclMissingError(operator.name, f"{operator.name} is in no library, needed {operator.needs}")

    monkeypatch.setattr(acl_binding.Library, "phases", lacking)
    result = run("--home", HOME, "--op", "npu_swiglu")
    assert result.exit_code == 1
    assert "AclMissingError: aclnnSwiGlu is in no library, needed CANN 8.1.RC1" in result.stdout


WRONG = """
#include <dlfcn.h>
#include <stdint.h>

static void *real(const char *name) { return dlsym(dlopen(DEVICE, RTLD_NOW), name); }

int32_t aclnnSwiGluGetWorkspaceSize(const void *x, int64_t dim, const void *out, uint64_t *size, void **executor) {
    int32_t (*phase)(const void *, int64_t, const void *, uint64_t *, void **) = real("aclnnSwiGluGetWorkspaceSize");
    return phase(x, dim, out, size, executor);
}

/* Says that it has computed, and has not. */
int32_t aclnnSwiGlu(void *workspace, uint64_t size, void *executor, void *stream) {
    int32_t (*destroy)(const void *) = real("aclDestroyAclOpExecutor");
    return destroy(executor);
}
"""


def test_wrong_library(tmp_path):
    """A toolkit whose library for one operator computes nothing: only that operator is wrong."""
    libraries = tmp_path / "lib64"
    libraries.mkdir()
    for path in (moe_native.ascend_home() / "lib64").iterdir():
        if path.name != "libopapi_transformer.so":
            (libraries / path.name).symlink_to(path)
    (tmp_path / "wrong.c").write_text(WRONG)
    device = libraries / "libascend_cpu.so"
    target = libraries / "libopapi_transformer.so"
    compiler = os.environ.get("CC", "cc")
    options = ["-shared", "-fPIC", f'-DDEVICE="{device}"', "-o", target, tmp_path / "wrong.c", "-ldl"]
    subprocess.run([compiler, *options], check=True)
    command = [sys.executable, "-P", "-m", "moe_native", "verify", "--home", str(tmp_path)]
    seen = subprocess.run([*command, "--op", "npu_swiglu"], capture_output=True, text=True)
    assert seen.returncode == 1, seen.stderr
    assert "9 of 9 calls are wrong" in seen.stdout
    assert "first at [0, 0]: 0.0, needed" in seen.stdout
    seen = subprocess.run([*command, "--op", "npu_moe_compute_expert_tokens"], capture_output=True, text=True)
    assert seen.returncode == 0, seen.stdout


def test_outcomes_in_python():
    outcomes = list(verify(HOME, "npu_swiglu"))
    assert all(outcome.ok for outcome in outcomes)
    assert [outcome.label for outcome in outcomes] == [case.label for case in cases("npu_swiglu")]
    assert moe_native.get_backend() == "cpu"
