"""The pytest plugin that comes with the package, in test runs of its own."""

import os
import re
import subprocess
import sys

import pytest

SETUP = """
import numpy as np
import pytest
import acl_binding as acl
from acl_binding._cdef import ffi

def swiglu(device, out=(2, 2)):
    call = device.prepare("aclnnSwiGlu", device.zeros((2, 4), "float32"), -1, device.empty(out, "float32"))
    call.run()
    device.synchronize()

def destroy_twice(device):
    handle = device.zeros((2,), "int8").make_handle()
    for _ in range(2):
        device.invoke("aclDestroyTensor", handle)
"""


@pytest.fixture
def run(acl_library, tmp_path):
    """Run tests in a process of their own and return their outcomes by name, and what pytest prints."""

    def run(tests, mode=None, home=acl_library.home, ini=""):
        (tmp_path / "test_client.py").write_text(SETUP + tests)
        (tmp_path / "pytest.ini").write_text(f"[pytest]\n{ini}")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MOE_ACLNN", "ASCEND", "PYTEST"))}
        environment |= {"ASCEND_HOME_PATH": str(home)} if home else {}
        environment |= {"MOE_ACLNN_MODE": mode} if mode else {}
        command = [sys.executable, "-P", "-m", "pytest", "-rA", "-p", "no:cacheprovider", "test_client.py"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        lines = [line.split(" ", 1) for line in done.stdout.splitlines() if " test_client.py::" in line]
        outcomes = {}
        for outcome, rest in lines:
            if outcome in ("PASSED", "FAILED", "ERROR"):
                name = rest.partition("::")[2].partition(" ")[0]
                outcomes.setdefault(name, []).append(outcome)
        return {name: sorted(seen) for name, seen in outcomes.items()}, done.stdout

    return run


def test_what_passes_and_what_fails(run):
    outcomes, text = run(
        """
def test_clean(acl_device):
    swiglu(acl_device)

def test_undeclared(acl_device):
    destroy_twice(acl_device)

def test_declared(acl_device, expect_finding):
    expect_finding("double-destroy")
    destroy_twice(acl_device)

def test_declared_and_did_not_come(acl_device, expect_finding):
    expect_finding("double-destroy", "overrun")
    destroy_twice(acl_device)

def test_another_one(acl_device, expect_finding):
    expect_finding("double-destroy")
    destroy_twice(acl_device)
    acl_device.empty((3,), "int8").numpy()

def test_refused_and_not_declared(acl_device):
    with pytest.raises(acl.AclInnerError):
        swiglu(acl_device, out=(3, 3))

def test_refused_and_declared(acl_device, expect_finding):
    expect_finding("argument")
    with pytest.raises(acl.AclInnerError):
        swiglu(acl_device, out=(3, 3))

def test_no_rule(acl_device, expect_finding):
    with pytest.raises(ValueError, match="'double' is no rule, needed one of workspace-null"):
        expect_finding("double")

def test_fails_anyway(acl_device):
    destroy_twice(acl_device)
    assert 1 == 2

def test_nothing_remains_of_the_others(acl_device):
    swiglu(acl_device)

def test_list(acl_device, acl_findings):
    acl_findings.expect("double-destroy")
    destroy_twice(acl_device)
    (finding,) = acl_findings.all()
    assert finding["api"] == "aclDestroyTensor"

@pytest.fixture
def leaving(acl_findings, acl_library):
    yield
    with acl_library.device() as device:
        destroy_twice(device)

def test_after_the_test(leaving):
    pass
"""
    )
    assert outcomes == {
        "test_clean": ["PASSED"],
        "test_undeclared": ["FAILED"],
        "test_declared": ["PASSED"],
        "test_declared_and_did_not_come": ["FAILED"],
        "test_another_one": ["FAILED"],
        "test_refused_and_not_declared": ["FAILED"],
        "test_refused_and_declared": ["PASSED"],
        "test_no_rule": ["PASSED"],
        "test_fails_anyway": ["ERROR", "FAILED"],
        "test_nothing_remains_of_the_others": ["PASSED"],
        "test_list": ["PASSED"],
        "test_after_the_test": ["ERROR", "PASSED"],
    }
    assert re.search(r"mistake: aclDestroyTensor: tensor: .*needed a live tensor \[double-destroy\]", text)
    assert "expected, and not found: overrun" in text
    assert "[uninitialised]" in text
    assert "assert 1 == 2" in text


MODES = """
def test_mode(acl_device):
    assert acl_device.library.cpu.mode == "{mode}"
"""


def test_modes(run):
    """Strict, unless the environment or a test says something else."""
    assert run(MODES.format(mode="strict"))[0] == {"test_mode": ["PASSED"]}
    assert run(MODES.format(mode="real"), mode="real")[0] == {"test_mode": ["PASSED"]}
    override = MODES.format(mode="compat") + "\n@pytest.fixture\ndef acl_mode():\n    return 'compat'\n"
    assert run(override)[0] == {"test_mode": ["PASSED"]}


def test_toolkit_of_the_settings(run, acl_library):
    """The setting acl_home wins over the environment."""
    tests = "def test_home(acl_device):\n    swiglu(acl_device)\n"
    assert run(tests, home="/nowhere")[0] == {"test_home": ["ERROR"]}
    assert run(tests, home=None)[0] == {"test_home": ["ERROR"]}
    assert run(tests, home="/nowhere", ini=f"acl_home = {acl_library.home}\n")[0] == {"test_home": ["PASSED"]}


def test_on_a_card(run, tmp_path):
    """Nothing is found there, and tests that make mistakes on purpose do not run."""
    outcomes, text = run(
        """
class Card:
    cpu = None

@pytest.fixture
def acl_library():
    return Card

def test_clean(acl_findings):
    assert acl_findings.all() == []

def test_mistake(expect_finding):
    expect_finding("double-destroy")
    assert False
"""
    )
    assert outcomes == {"test_clean": ["PASSED"]}
    assert "mistakes are made on the CPU device only" in text


def test_runs_that_do_not_use_it(run):
    """No toolkit is needed then."""
    assert run("def test_nothing():\n    pass\n", home=None)[0] == {"test_nothing": ["PASSED"]}
