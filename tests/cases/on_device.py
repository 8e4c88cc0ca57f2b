"""A pytest plugin that runs any test of the facade on the CPU device, and counts what came of the tests of each file.

A test passes there when the results are the same bits and the exceptions the same texts. Calls that the aclnn interface
has no form for end in an AclError, which nothing in these tests expects: they count as refused.
"""

import json
import os
from collections import Counter, defaultdict

import pytest

import moe_native
from acl_binding import AclError
from moe_native import acl

_outcomes = defaultdict(Counter)
_findings = Counter()


@pytest.fixture(autouse=True)
def device(request, monkeypatch):
    """Compute on the device, and count its calls."""
    compute = acl.AclBackend._run_form
    counts = _outcomes[request.path.name]

    def counted(self, form):
        counts["calls"] += 1
        return compute(self, form)

    monkeypatch.setattr(acl.AclBackend, "_run_form", counted)
    with moe_native.use_backend("acl", home=moe_native.ascend_home()):
        yield


def _refusals(error):
    """Whether an exception is an AclError, or a group of them, as hypothesis raises."""
    errors = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
    return all(isinstance(one, AclError) for one in errors)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        if call.excinfo is not None and _refusals(call.excinfo.value):
            report.outcome, report.longrepr = "skipped", (str(item.path), 0, str(call.excinfo.value))
            report.refused = True
        _outcomes[item.path.name]["refused" if hasattr(report, "refused") else report.outcome] += 1
    return report


def pytest_sessionfinish():
    library = acl.acl_binding.open(moe_native.ascend_home())
    with open(os.environ["OUTCOMES"], "w") as file:
        json.dump({"files": _outcomes, "findings": library.cpu.count_findings()}, file)
