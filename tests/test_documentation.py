"""Every example in the documentation runs, every public function has one, and user code type-checks."""

import doctest
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

import pytest
from mypy import api as mypy

import acl_binding
import moe_native

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
MODULES = sorted(
    module.name
    for package in (moe_native, acl_binding)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if "_core" not in module.name
)
PUBLIC = sorted(n for n, f in vars(moe_native).items() if not n.startswith("_") and inspect.isroutine(f))


@pytest.fixture(autouse=True)
def _cpu_device(monkeypatch):
    """The examples of acl_binding use the device of the environment."""
    monkeypatch.setenv("ASCEND_HOME_PATH", str(moe_native.ascend_home()))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_examples(page):
    failed, _ = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_are_documented(name):
    text = inspect.getdoc(getattr(moe_native, name)) or ""
    for section in ("Examples\n--------\n>>> ",):
        assert section in text, f"{name} has no section {section.splitlines()[0]}"
    if name.startswith("npu_"):
        for section in ("Parameters\n-", "Returns\n-", "Raises\n-", "aclnn"):
            assert section in text, f"{name} says nothing of: {section.splitlines()[0]}"
        assert (ROOT / "docs" / f"{name}.md").exists()
        assert "out" in inspect.signature(getattr(moe_native, name)).parameters


def test_user_code_type_checks(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        """\
import numpy as np
import numpy.typing as npt

import moe_native


def combine(rows: npt.NDArray[np.float32], index: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    with moe_native.limits("atlas-a2"):
        return moe_native.npu_moe_finalize_routing(rows, None, None, None, None, index, drop_pad_mode=2)


moe_native.set_num_threads(2)
threads: int = moe_native.get_num_threads()
"""
    )
    options = ["--strict", "--python-executable", sys.executable, "--cache-dir", str(tmp_path / "cache")]
    report, errors, status = mypy.run([*options, str(program)])
    assert status == 0, report + errors
    program.write_text(program.read_text().replace("drop_pad_mode=2", "drop_pad_mode='row'"))
    report, _, status = mypy.run([*options, str(program)])
    assert status == 1
    assert "drop_pad_mode" in report


def test_code_that_uses_the_binding_type_checks(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        """\
import numpy as np

import acl_binding as acl

with acl.open().device() as device, device.stream() as stream:
    x = device.tensor(np.zeros((2, 4), np.float32), format="NZ")
    call: acl.Call = device.prepare("aclnnSwiGlu", x, -1, device.empty((2, 2), "float32"))
    size: int = call.workspace_size
    call.run(stream, workspace=device.workspace(size))
"""
    )
    options = ["--strict", "--python-executable", sys.executable, "--cache-dir", str(tmp_path / "cache")]
    report, errors, status = mypy.run([*options, str(program)])
    assert status == 0, report + errors
    program.write_text(program.read_text().replace("call.run(stream", "call.run(x"))
    report, _, status = mypy.run([*options, str(program)])
    assert status == 1
    assert "Stream" in report
