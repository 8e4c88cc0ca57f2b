"""How the results are shown: a table on the terminal, JSON, Markdown, a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from moe_native.benchmarks.limits import KINDS, MEMORY
from moe_native.benchmarks.measure import Contender, Work, paired

#: Characters that the table needs, and gets where there is no terminal to ask.
WIDTH = 150


def record(work: Work) -> dict[str, Any]:
    """An item as plain data."""
    peer = work.best_peer
    return {
        "name": work.name,
        "shape": work.shape,
        "input_sets": work.sets,
        "operations": work.operations,
        "read_bytes": work.read_bytes,
        "written_bytes": work.written_bytes,
        "floor_seconds": work.floor_seconds if work.has_floor else None,
        "floor_decided_by": work.decider or None,
        "floor_spread": work.spread,
        "processor_share_of_others": work.others,
        "void": work.void or None,
        "contenders": [
            {
                "name": c.name,
                "ours": c.ours,
                "median_seconds": c.median,
                "first_seconds": c.first_seconds,
                "seconds": c.seconds,
                "times_floor": work.ratio(c) if work.has_floor else None,
                "times_best_peer": paired(c.seconds, peer.seconds) if peer is not None else None,
                "rate": rate(work, c)[0],
                "rate_unit": rate(work, c)[1],
                "error": c.seen_error,
                "target_times_floor": c.target_ratio,
                "target_seconds": c.target_seconds,
                "met": work.met(c),
            }
            for c in work.contenders
        ],
    }


def rate(work: Work, contender: Contender) -> tuple[float, str]:
    """Billions of operations per second, or of bytes where there is no arithmetic to speak of."""
    if work.operations and work.decider not in ("read", "write"):
        return sum(work.operations.values()) / contender.median / 1e9, "GOP/s"
    return (work.read_bytes + work.written_bytes) / contender.median / 1e9, "GB/s"


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    if math.isnan(seconds):
        return ""
    unit, size = next(((u, z) for u, z in (("s", 1.0), ("ms", 1e-3)) if seconds >= z), ("us", 1e-6))
    value = seconds / size
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 0.01))))}f} {unit}"


def rows(work: Work) -> list[list[str]]:
    """The cells of an item's lines: name, contender, time, floor, ratio, of the best peer, rate, error, target."""
    peer = work.best_peer
    lines = []
    for i, c in enumerate(work.contenders):
        target, met = "", work.met(c)
        if met is not None:
            limit = f"{c.target_ratio:.2f}" if c.target_ratio is not None else duration(c.target_seconds or 0)
            target = f"{limit} {'void' if work.void else 'met' if met else 'missed'}"
        amount, unit = rate(work, c)
        lines.append(
            [
                work.name if i == 0 else "",
                c.name,
                duration(c.median),
                f"{duration(work.floor_seconds)} {work.decider}" if i == 0 and work.has_floor else "",
                f"{work.ratio(c):.2f}" if work.has_floor else "",
                f"{paired(c.seconds, peer.seconds):.2f}" if peer is not None else "",
                f"{amount:.1f} {unit}" if work.has_floor else "",
                f"{c.seen_error:.1e}",
                target,
            ]
        )
    return lines


def markdown_summary(summary: Mapping[str, Any]) -> str:
    """The machine and its limits as Markdown."""
    lines = [
        f"{summary['processor']}, instruction set {summary['isa']}, {summary['threads']} threads, {summary['date']}, "
        f"version {summary['version']}, NumPy {summary['numpy']}{summary['torch']}, medians of {summary['repeats']}.",
        "",
        "| limit | lowest | highest |",
        "|---|---|---|",
    ]
    for kind, (low, high) in summary["limits"].items():
        lines.append(f"| {kind} | {low / 1e9:.1f} | {high / 1e9:.1f} {'GB/s' if kind in MEMORY else 'GOP/s'} |")
    return "\n".join(lines) + "\n\n"


def markdown(works: Sequence[Work]) -> str:
    """The table of the items as Markdown."""
    lines = ["| " + " | ".join(TITLES) + " |", "|" + "---|" * len(TITLES)]
    lines += ["| " + " | ".join(cells) + " |" for work in works for cells in rows(work)]
    lines += [f"\n{work.name} is void: {work.void}." for work in works if work.void]
    return "\n".join(lines) + "\n"


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """What is being measured, on standard error."""
    with Console(stderr=True).status("limits") as status:
        yield status.update


def picture(path: Path, summary: Mapping[str, Any], works: Sequence[Work]) -> None:
    """Save the roofline: operations per second over operations per byte, the limits and where the items lie."""
    from matplotlib.figure import Figure

    read = float(np.mean(summary["limits"]["read"]))
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    seen = [work for work in works if work.operations]
    kinds = sorted({kind for work in seen for kind in work.operations})
    intensities = [sum(work.operations.values()) / (work.read_bytes + work.written_bytes) for work in seen]
    x = np.geomspace(min([*intensities, 1]) / 2, max([*intensities, 1]) * 2, 200)
    colors = dict(zip(KINDS, ("tab:blue", "tab:orange", "tab:green"), strict=False))
    for kind in kinds:
        stands_in = ("bfloat16", "float32") if kind == "bfloat16" else (kind,)
        peak = max(float(np.mean(summary["limits"][k])) for k in stands_in)
        axes.plot(x, np.minimum(peak, read * x) / 1e9, color=colors[kind], label=f"limit {kind}, read")
    for work, intensity in zip(seen, intensities, strict=True):
        color = colors[next(iter(work.operations))]
        best = min((c for c in work.contenders if c.ours), key=lambda c: c.median)
        rates = [sum(work.operations.values()) / c.median / 1e9 for c in (best, work.best_peer) if c is not None]
        axes.plot(intensity, rates[0], "o", color=color)
        for peer_rate in rates[1:]:
            axes.plot(intensity, peer_rate, "x", color=color)
        axes.annotate(work.name, (intensity, rates[0]), fontsize=7, xytext=(4, -8), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GOP/s")
    axes.set_title(f"{summary['processor']}, {summary['threads']} threads: ours (o), best peer (x)", fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.2)
    if kinds:
        axes.legend()
    figure.savefig(path, dpi=150)


TITLES = ("item", "contender", "time", "floor", "x floor", "x best peer", "rate", "error", "target")


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the machine and its limits."""
    console = Console(width=WIDTH) if not Console().is_terminal else Console()
    console.print(
        f"{summary['processor']}, {summary['isa']}, {summary['threads']} threads, {summary['repeats']} repeats, "
        f"{summary['date']}",
        highlight=False,
    )
    rates = ", ".join(f"{kind} {low / 1e9:.1f} to {high / 1e9:.1f}" for kind, (low, high) in summary["limits"].items())
    console.print(f"Limits in GOP/s and GB/s: {rates}", highlight=False)
    for name in summary["tuned_openblas"]:
        console.print(f"[yellow]{name} is set: unset it, or NumPy is not what its users get[/]", highlight=False)


def print_table(works: Sequence[Work]) -> None:
    """Print the table of the items."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in TITLES:
        table.add_column(title, justify="left" if title in ("item", "contender") else "right", no_wrap=True)
    for work in works:
        for line in rows(work):
            style = {"met": "green", "missed": "red", "void": "yellow"}.get(line[-1].split()[-1] if line[-1] else "")
            table.add_row(*line, style=style)
    console.print(table)
    for work in works:
        if work.void:
            console.print(f"[yellow]{work.name} is void[/]: {work.void}", highlight=False)
