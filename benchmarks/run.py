"""One run: the machine, the items, the files that come out."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import moe_native
from moe_native import _core
from moe_native.benchmarks import items, report
from moe_native.benchmarks.limits import KINDS, Prober
from moe_native.benchmarks.measure import Work, measure

#: Variables that make OpenBLAS slower, or faster, than a user of this machine would find it.
TUNING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "version": moe_native.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": model,
        "isa": _core.get_isa_limit(),
        "threads": moe_native.get_num_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tuned_openblas": [name for name in TUNING if name in os.environ],
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def limits(prober: Prober, repeats: int = 5) -> dict[str, tuple[float, float]]:
    """Lowest and highest rate of every limit over some measurements."""
    seen = {kind: [prober.rate(kind) for _ in range(repeats)] for kind in KINDS}
    return {kind: (min(rates), max(rates)) for kind, rates in seen.items()}


def run(
    specs: Sequence[Mapping[str, Any]],
    *,
    prober: Prober,
    repeats: int,
    threads: int | None = None,
    tick: Callable[[str], None] = lambda name: None,
) -> tuple[dict[str, Any], list[Work]]:
    """Measure the items one after another; `threads` holds for everybody."""
    if threads is not None:
        moe_native.set_num_threads(threads)
    with threadpool_limits(threads):
        summary = {**machine(), "repeats": repeats, "limits": limits(prober)}
        works = []
        for spec in specs:
            tick(spec["name"])
            work = items.prepare(spec)
            measure(work, prober, repeats)
            for contender in work.contenders:
                # Drop the inputs of an item before those of the next are made.
                del contender.call, contender.error
            works.append(work)
        return summary, works


def save_json(path: Path, summary: Mapping[str, Any], works: Iterable[Work]) -> None:
    """Write everything that was seen, every single time included."""
    path.write_text(json.dumps({**summary, "items": [report.record(work) for work in works]}, indent=1) + "\n")
