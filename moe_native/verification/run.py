"""The cases computed twice: by the core and by a device."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moe_native.backend import AclBackend, use_backend
from moe_native.verification.calls import call_whole
from moe_native.verification.cases import Case, cases
from moe_native.verification.measures import Measure, compare


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    case: Case
    measures: tuple[Measure, ...]
    error: str = ""
    """What the device raised in place of results."""

    @property
    def ok(self) -> bool:
        return not self.error and all(measure.ok for measure in self.measures)

    @property
    def problem(self) -> str:
        """The first thing that is wrong, empty if nothing is."""
        return self.error or next((f"{m.name}: {m.problem}" for m in self.measures if not m.ok), "")

    def record(self) -> dict[str, Any]:
        """Return it as plain numbers and strings."""
        return {
            "op": self.case.op,
            "case": self.case.label,
            "ok": self.ok,
            "error": self.error,
            "results": [vars(measure) for measure in self.measures],
        }
