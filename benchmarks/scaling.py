"""Cost per token from one token to many, with one thread and with all, and of the first call."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

import moe_native
from moe_native.benchmarks import items
from moe_native.benchmarks.limits import Prober
from moe_native.benchmarks.measure import measure


@dataclass(frozen=True)
class Point:
    """A regime at a number of tokens. Times are of a whole call, in seconds."""

    regime: str
    tokens: int
    first_call: float
    one_thread: float
    all_threads: float
    floor: float
    #: Gain of the threads, as a fraction of what the limits gain from them.
    efficiency: float
    void: str

    @property
    def per_token(self) -> float:
        """Seconds of a token with all threads."""
        return self.all_threads / self.tokens


def at(spec: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """The spec of an item with so many tokens."""
    item = dict(spec)
    if spec["kind"] == "gmm":
        item |= {"tokens": tokens, "shared_rows": 1}
    elif spec["kind"] == "ffn" and "counts" not in spec:
        item["rows"] = tokens
    elif spec["kind"] != "ffn":
        item["tokens"] = tokens
    if "counts" in spec:
        share = np.cumsum(spec["counts"]) / np.sum(spec["counts"])
        item["counts"] = np.diff(np.rint(share * tokens).astype(int), prepend=0).tolist()
    return item


def run(path: Path, wanted: Sequence[str], prober: Prober, repeats: int, tick: Callable[[str], None]) -> list[Point]:
    """Measure the regimes of a file whose names contain one of the texts, or all."""
    file = tomllib.loads(path.read_text())
    specs = [spec for spec in file["item"] if not wanted or any(part in spec["name"] for part in wanted)]
    return [_point(spec, tokens, prober, repeats, tick) for spec in specs for tokens in file["tokens"]]


def _point(spec: Mapping[str, Any], tokens: int, prober: Prober, repeats: int, tick: Callable[[str], None]) -> Point:
    tick(f"{spec['name']}, {tokens}")
    work = items.prepare(at(spec, tokens))
    ours = work.contenders[0]
    del work.contenders[1:]
    threads = moe_native.get_num_threads()
    seen: dict[int, tuple[float, float, str]] = {}
    first = 0.0
    try:
        for count in (threads, 1):
            moe_native.set_num_threads(count)
            ours.seconds.clear()
            work.floors.clear()
            with threadpool_limits(count):
                measure(work, prober, repeats)
            seen[count] = ours.median, work.floor_seconds, work.void
            first = first or ours.first_seconds
    finally:
        moe_native.set_num_threads(threads)
    (all_time, floor, void), (one_time, one_floor, one_void) = seen[threads], seen[1]
    return Point(
        regime=spec["name"],
        tokens=tokens,
        first_call=first,
        one_thread=one_time,
        all_threads=all_time,
        floor=floor,
        efficiency=(one_time / all_time) / (one_floor / floor),
        void=void or one_void,
    )


def records(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The points as plain data."""
    return [{**asdict(point), "per_token": point.per_token} for point in points]


TITLES = ("regime", "tokens", "ns a token", "1 thread", "all threads", "x floor", "efficiency", "first call", "")


def cells(point: Point) -> list[str]:
    """A point's line."""
    return [
        point.regime,
        str(point.tokens),
        f"{point.per_token * 1e9:.0f}",
        f"{point.one_thread * 1e3:.3f} ms",
        f"{point.all_threads * 1e3:.3f} ms",
        f"{point.all_threads / point.floor:.2f}",
        f"{point.efficiency:.2f}",
        f"{point.first_call * 1e3:.3f} ms",
        "void" if point.void else "",
    ]


def print_table(points: Sequence[Point]) -> None:
    """Print the points."""
    console = Console() if Console().is_terminal else Console(width=150)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in TITLES:
        table.add_column(title, justify="left" if title == "regime" else "right", no_wrap=True)
    for point in points:
        table.add_row(*cells(point))
    console.print(table)


def markdown(points: Sequence[Point]) -> str:
    """The points as a Markdown table."""
    lines = ["| " + " | ".join(TITLES) + " |", "|" + "---|" * len(TITLES)]
    return "\n".join([*lines, *("| " + " | ".join(cells(point)) + " |" for point in points)]) + "\n"


def picture(path: Path, points: Sequence[Point]) -> None:
    """Draw the cost per token over the tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for regime in dict.fromkeys(point.regime for point in points):
        line = [point for point in points if point.regime == regime]
        axes.plot([point.tokens for point in line], [point.per_token * 1e9 for point in line], "o-", label=regime)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="ns per token")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    figure.savefig(path, dpi=150)
