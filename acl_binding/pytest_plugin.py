"""Fixtures for tests that use the CPU device: a test fails on everything the device finds.

They come with the package, without an import. ``acl_device`` is device 0; tests that use it, or ``acl_findings``, fail
when the device finds a mistake that was not declared with ``expect_finding("rule")``, and when a declared one does not
come. ``acl_library`` and ``acl_mode`` are there to be overridden.
"""

import json
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

import acl_binding


class Findings:
    """What the device finds while a test runs, and what the test says that it will."""

    def __init__(self, path: Path, rules: tuple[str, ...]) -> None:
        self._path = path
        self._rules = rules
        self._expected: set[str] = set()
        self._missed: set[str] = set()
        self._told = 0

    def all(self) -> list[dict[str, Any]]:
        """Return the findings so far, with the fields ``rule``, ``severity``, ``api``, ``argument``, ``seen``, ..."""
        return [json.loads(line) for line in self._path.read_text().splitlines()]

    def expect(self, *rules: str) -> None:
        """Declare that each of the rules will be broken, once or more, in the test."""
        for rule in rules:
            if rule not in self._rules:
                raise ValueError(f"{rule!r} is no rule, needed one of {', '.join(self._rules)}")
            self._expected.add(rule)

    def check(self) -> None:
        """Fail on findings that were not declared, and on declared ones that did not come; once for each."""
        findings = self.all()
        unexpected = [finding for finding in findings[self._told :] if finding["rule"] not in self._expected]
        self._told = len(findings)
        lines = [
            f"{found['severity']}: {found['api']}: {found['argument']}: {found['seen']}, needed {found['needed']} "
            f"[{found['rule']}]"
            for found in unexpected
        ]
        missed = self._expected - {finding["rule"] for finding in findings} - self._missed
        self._missed |= missed
        lines += [f"expected, and not found: {rule}" for rule in sorted(missed)]
        if lines:
            pytest.fail("findings of the device:\n" + "\n".join(lines), pytrace=False)


class _NoFindings(Findings):
    """A card tells nothing: mistakes go unseen, and tests that make some on purpose do not run."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull), ())

    def expect(self, *rules: str) -> None:
        pytest.skip("mistakes are made on the CPU device only")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("acl_home", "directory of the toolkit for acl_library (default: that of the environment)", default="")


@pytest.fixture(scope="session")
def acl_library(pytestconfig: pytest.Config) -> acl_binding.Library:
    """The toolkit: that of the setting ``acl_home``, or that of the environment."""
    return acl_binding.open(pytestconfig.getini("acl_home") or None)


@pytest.fixture
def acl_mode() -> str:
    """The mode that tests run in: that of the environment, or strict."""
    return os.environ.get("MOE_ACLNN_MODE") or "strict"


@pytest.fixture
def acl_findings(
    acl_library: acl_binding.Library, acl_mode: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Findings]:
    """What the device finds during the test, which fails on anything that it did not declare."""
    if acl_library.cpu is None:
        yield _NoFindings()
        return
    path = tmp_path_factory.mktemp("acl") / "findings.jsonl"
    path.touch()
    findings = Findings(path, acl_library.cpu.rules)
    acl_library.cpu.write_findings(path)
    try:
        with acl_library.cpu.using(mode=acl_mode):
            yield findings
    finally:
        acl_library.cpu.write_findings(os.environ.get("MOE_ACLNN_FINDINGS") or None)
    # Of the fixtures that ended before this one.
    findings.check()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    result = yield
    findings = pyfuncitem.funcargs.get("acl_findings")
    if isinstance(findings, Findings):
        findings.check()
    return result


@pytest.fixture
def expect_finding(acl_findings: Findings) -> Callable[..., None]:
    """Function that declares rules which the test breaks on purpose."""
    return acl_findings.expect


@pytest.fixture
def acl_device(acl_library: acl_binding.Library, acl_findings: Findings) -> Iterator[acl_binding.Device]:
    """Device 0, for one test, which fails on findings."""
    with acl_library.device(0) as device:
        yield device
