"""How a run of the layer is shown: progress bars, one table, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from moe_native.cli.layer import Step

#: Characters that the table needs, and gets where there is no terminal to ask.
WIDTH = 140


def progress() -> Progress:
    """Progress bars on standard error."""
    columns = TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True))


def print_json(summary: Mapping[str, Any], steps: Sequence[Step]) -> None:
    """Print the summary and the steps as one JSON object."""
    records = [
        {
            "step": step.name,
            "shape": ", ".join(step.shape),
            "seconds": step.seconds,
            "rate": step.rate,
            "unit": step.unit,
            "ok": step.verdict.ok,
            "checked_rows": step.verdict.rows,
            "worst_of_bound": step.verdict.worst,
            "ties": step.verdict.ties,
            "problem": step.verdict.problem,
        }
        for step in steps
    ]
    print(json.dumps({**summary, "steps": records}, indent=2))


def print_table(summary: Mapping[str, Any], steps: Sequence[Step]) -> None:
    """Print the table of the steps, what is wrong with them, and the summary."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(
        f"{summary['tokens']} tokens in {summary['dtype']}, hidden {summary['hidden']}, intermediate "
        f"{summary['intermediate']}, top {summary['top_k']} of {summary['experts']} experts, "
        f"{summary['active_experts']} of them here; {_counted(summary['threads'], 'thread')}",
        highlight=False,
    )
    # On a narrow terminal the shape goes below the name, and what the check found below each other.
    narrow = console.width < WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("step", "shape", "time", "rate", "check"):
        if not (narrow and title == "shape"):
            table.add_column(title, justify="right" if title in ("time", "rate") else "left", no_wrap=True)
    for step in steps:
        names = ["\n  ".join([step.name, *step.shape])] if narrow else [step.name, ", ".join(step.shape)]
        rate = f"{step.rate:.1f}" if step.rate >= 1 else f"{step.rate:.2g}"
        result = ("\n" if narrow else ", ").join(_result(step))
        table.add_row(*names, f"{step.seconds * 1e3:.2f} ms", f"{rate} {step.unit}", result)
    console.print(table)
    for step in steps:
        if not step.verdict.ok:
            console.print(f"[bold red]{step.name}[/]: {escape(step.verdict.problem)}", highlight=False, soft_wrap=True)
    outcome = "Every step agrees with its definition" if summary["ok"] else "[bold red]A step is wrong[/]"
    console.print(f"{outcome}; {summary['seconds']:.1f} s, {summary['peak_bytes'] / 1e9:.1f} GB.", highlight=False)


def _result(step: Step) -> list[str]:
    verdict = step.verdict
    if not verdict.ok:
        return ["[bold red]WRONG[/]"]
    parts = [f"[green]ok[/] {_counted(verdict.rows, 'row')}"]
    if verdict.worst:
        parts.append(f"{verdict.worst:.2f} of bound")
    if verdict.ties:
        parts.append(_counted(verdict.ties, "tie"))
    return parts


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
