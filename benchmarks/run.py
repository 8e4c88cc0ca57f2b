"""One run: the machine, the items, the files that come out."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

import moe_native
from moe_native.benchmarks import items, report
from moe_native.benchmarks import scaling as curves
from moe_native.benchmarks.limits import KINDS, Prober
from moe_native.benchmarks.measure import Work, measure
from moe_native.benchmarks.peers import Peer

Tick = Callable[[str], None]

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
        "isa": moe_native.get_isa_limit(),
        "threads": moe_native.get_num_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        "tuned_openblas": [name for name in TUNING if name in os.environ],
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def limits(prober: Prober, repeats: int = 5) -> dict[str, tuple[float, float]]:
    """Lowest and highest rate of every limit over some measurements."""
    seen = {kind: [prober.rate(kind) for _ in range(repeats)] for kind in KINDS}
    return {kind: (min(rates), max(rates)) for kind, rates in seen.items()}


class Result(Protocol):
    """What a run has seen, in all the forms in which it is wanted."""

    def show(self) -> None: ...
    def record(self) -> dict[str, Any]: ...
    def markdown(self) -> str: ...
    def picture(self, path: Path) -> None: ...


@dataclass(frozen=True)
class TableResult:
    """Items with their contenders."""

    summary: dict[str, Any]
    works: list[Work]

    def show(self) -> None:
        report.print_summary(self.summary)
        report.print_table(self.works)

    def record(self) -> dict[str, Any]:
        return {**self.summary, "items": [report.record(work) for work in self.works]}

    def markdown(self) -> str:
        return report.markdown_summary(self.summary) + report.markdown(self.works)

    def picture(self, path: Path) -> None:
        report.picture(path, self.summary, self.works)


@dataclass(frozen=True)
class ScalingResult:
    """Regimes over the number of tokens."""

    summary: dict[str, Any]
    points: list[curves.Point]

    def show(self) -> None:
        report.print_summary(self.summary)
        curves.print_table(self.points)

    def record(self) -> dict[str, Any]:
        return {**self.summary, "points": curves.records(self.points)}

    def markdown(self) -> str:
        return report.markdown_summary(self.summary) + curves.markdown(self.points)

    def picture(self, path: Path) -> None:
        curves.picture(path, self.points)


def table(path: Path, wanted: Sequence[str], prober: Prober, repeats: int, tick: Tick, peer: Peer) -> TableResult:
    """Measure the items of a file whose names contain one of the texts, or all."""
    specs = [spec for spec in items.load(path) if not wanted or any(part in spec["name"] for part in wanted)]
    threads = moe_native.get_num_threads()
    torch_version = ""
    if peer != Peer.numpy:
        import torch

        torch_version = f", PyTorch {torch.__version__}"
        torch.set_num_threads(threads)
    works = []
    with threadpool_limits(threads):
        summary = {**machine(), "torch": torch_version, "repeats": repeats, "limits": limits(prober)}
        for spec in specs:
            tick(spec["name"])
            work = items.prepare(spec, peer)
            measure(work, prober, repeats)
            for contender in work.contenders:
                # Drop the inputs of an item before those of the next are made.
                del contender.call, contender.error
            works.append(work)
    return TableResult(summary, works)


def scaling(path: Path, wanted: Sequence[str], prober: Prober, repeats: int, tick: Tick) -> ScalingResult:
    """Follow the regimes of a file whose names contain one of the texts, or all."""
    summary = {**machine(), "torch": "", "repeats": repeats, "limits": limits(prober)}
    return ScalingResult(summary, curves.run(path, wanted, prober, repeats, tick))
