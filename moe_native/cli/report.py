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

#: Width of the table where there is no terminal to ask: nothing in it wraps.
PLAIN_WIDTH = 160


def progress() -> Progress:
    """Progress bars on standard error."""
    columns = TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True))


def print_json(summary: Mapping[str, Any], steps: Sequence[Step]) -> None:
    """Print the summary and the steps as one JSON object."""
    records = [
        {
            "step": step.name,
            "shape": step.shape,
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
        console = Console(width=PLAIN_WIDTH)
    console.print(
        f"{summary['tokens']} tokens in {summary['dtype']}, hidden {summary['hidden']}, intermediate "
        f"{summary['intermediate']}, top {summary['top_k']} of {summary['experts']} experts, "
        f"{summary['active_experts']} of them here; {_counted(summary['threads'], 'thread')}",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("step", no_wrap=True)
    table.add_column("shape")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("check")
    for step in steps:
        table.add_row(
            step.name,
            step.shape,
            f"{step.seconds * 1e3:.2f} ms",
            f"{step.rate:.1f} {step.unit}" if step.rate >= 1 else f"{step.rate:.2g} {step.unit}",
            _result(step) if step.verdict.ok else "[bold red]WRONG[/]",
        )
    console.print(table)
    for step in steps:
        if not step.verdict.ok:
            console.print(f"[bold red]{step.name}[/]: {escape(step.verdict.problem)}", highlight=False, soft_wrap=True)
    outcome = "Every step agrees with its definition" if summary["ok"] else "[bold red]A step is wrong[/]"
    console.print(f"{outcome}; {summary['seconds']:.1f} s, {summary['peak_bytes'] / 1e9:.1f} GB.", highlight=False)


def _result(step: Step) -> str:
    verdict = step.verdict
    parts = [_counted(verdict.rows, "row")]
    if verdict.worst:
        parts.append(f"error {verdict.worst:.2f} of bound")
    if verdict.ties:
        parts.append(_counted(verdict.ties, "tie"))
    return "[green]ok[/] " + ", ".join(parts)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
