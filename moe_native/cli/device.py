"""The commands that compare backends: ``verify``, ``record`` and ``replay``."""

from __future__ import annotations

import json
import runpy
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import moe_native
from moe_native.cli import report
from moe_native.recording import compare_again, load_calls
from moe_native.verification.cases import OPERATORS, cases
from moe_native.verification.measures import Measure, Outcome

Home = Annotated[
    Path | None,
    typer.Option(help="Directory of the toolkit, as for ASCEND_HOME_PATH, which is the default."),
]
Ops = Annotated[list[str] | None, typer.Option(help="Only this operator; may be repeated.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")]


@dataclass
class _Total:
    """All calls of an operator."""

    cases: int = 0
    wrong: int = 0
    measures: list[Measure] = field(default_factory=list)

    def add(self, compared: Outcome) -> None:
        self.cases += 1
        self.wrong += not compared.ok
        self.measures += compared.measures

    def cells(self) -> list[str]:
        elements = sum(m.size for m in self.measures)
        mismatches = sum(m.mismatches for m in self.measures)
        worst = [max((getattr(m, name) for m in self.measures), default=0.0) for name in _WORST]
        verdict = f"[bold red]{self.wrong} WRONG[/]" if self.wrong else "[green]ok[/]"
        return [str(self.cases), str(elements), str(mismatches), *[f"{value:.2g}" for value in worst], verdict]


_WORST = ("max_absolute", "max_relative", "mean_relative", "rmse")


def verify(home: Home = None, op: Ops = None, device: int = 0, json_file: Json = None) -> None:
    """Compute every operator by this library and by a device, and compare.

    Progress goes to standard error, a table to standard output. The exit status is 1 when a result is wrong, 2 when
    there is no toolkit or device.
    """
    for name in op or ():
        if name not in OPERATORS:
            raise typer.BadParameter(f"{name} is no operator, needed one of {', '.join(OPERATORS)}")
    names = op or OPERATORS
    _check_writable(json_file)
    from acl_binding import AclError
    from moe_native.acl import AclBackend
    from moe_native.backend import open_backend
    from moe_native.verification.run import verify as run

    try:
        backend = open_backend("acl", home, device)
    except AclError as error:
        _give_up(str(error))
    assert isinstance(backend, AclBackend)
    compared = []
    with report.progress() as progress:
        for name in names:
            task = progress.add_task(name.removeprefix("npu_"), total=sum(1 for _ in cases(name)))
            for outcome in run(home, name, device):
                compared.append(outcome)
                progress.advance(task)
    library = backend.library
    about = {
        "version": moe_native.__version__,
        "home": str(library.home),
        "soc": library.soc,
        "cann": library.cann_version,
        "device": device,
        "exact": backend.is_cpu,
    }
    needed = "the same bits" if backend.is_cpu else "the precision of a card"
    _finish(compared, about, f"{library.soc}, device {device} of {library.home}: {needed} needed", json_file)


def replay(
    file: Annotated[Path, typer.Argument(help="What `record` wrote.")],
    home: Annotated[
        Path | None, typer.Option(help="Directory of a toolkit to compute by, in place of MOE_NATIVE_BACKEND.")
    ] = None,
    device: int = 0,
    op: Ops = None,
    exact: Annotated[bool, typer.Option(help="Every bit has to be the same.")] = False,
    json_file: Json = None,
) -> None:
    """Make recorded calls again, and compare their results with the recorded ones.

    The exit status is 1 when a result is wrong, 2 when the file or the toolkit cannot be used.
    """
    _check_writable(json_file)
    compared = []
    try:
        calls = load_calls(file)
        with (
            nullcontext() if home is None else moe_native.use_backend("acl", home, device),
            report.progress() as progress,
        ):
            backend = moe_native.get_backend()
            task = progress.add_task("Replaying", total=sum(1 for call in calls if not op or call.op in op))
            for outcome in compare_again(calls, op, exact):
                compared.append(outcome)
                progress.advance(task)
    except Exception as error:
        _give_up(f"{type(error).__name__}: {error}")
    about = {"version": moe_native.__version__, "file": str(file), "backend": backend, "exact": exact}
    _finish(compared, about, f"{file}, computed by {backend}", json_file)


def record(
    file: Annotated[Path, typer.Argument(help="The .npz to be written.")],
    command: Annotated[list[str], typer.Argument(help="SCRIPT [ARGUMENTS], or -m MODULE [ARGUMENTS].")],
) -> None:
    """Run a Python program, and write its calls of operators with their results into a file."""
    module = command[0] == "-m"
    if module and len(command) < 2:
        raise typer.BadParameter("-m needs a module")
    recording = moe_native.record(file)
    before = sys.argv, sys.path[:]
    sys.argv = command[1:] if module else command
    sys.path.insert(0, str(Path.cwd() if module else Path(command[0]).resolve().parent))
    try:
        with recording:
            if module:
                runpy.run_module(command[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(command[0], run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
        print(f"{len(recording)} calls in {file}", file=sys.stderr)


def _check_writable(json_file: Path | None) -> None:
    """A file that cannot be written is better known before the work."""
    if json_file is not None:
        try:
            json_file.open("a").close()
        except OSError as error:
            _give_up(str(error))


def _give_up(message: str) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(2)


def _finish(compared: list[Outcome], about: dict[str, Any], title: str, json_file: Path | None) -> None:
    """Print the table, write the file, and end the program."""
    totals: dict[str, _Total] = {}
    for one in compared:
        totals.setdefault(one.op, _Total()).add(one)
    wrong = [one for one in compared if not one.ok]
    console = Console()
    if not console.is_terminal:
        console = Console(width=report.WIDTH)
    console.print(escape(title), highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in (
        "operator",
        "cases",
        "elements",
        "bits differ",
        "max abs",
        "max rel",
        "mean rel",
        "RMSE",
        "verdict",
    ):
        table.add_column(heading, justify="left" if heading in ("operator", "verdict") else "right", no_wrap=True)
    for name, total in totals.items():
        table.add_row(name, *total.cells())
    console.print(table)
    for one in wrong:
        console.print(
            f"[bold red]{one.op}[/] {escape(one.label)}: {escape(one.problem)}", highlight=False, soft_wrap=True
        )
    outcome = "Every result is right" if not wrong else f"[bold red]{len(wrong)} of {len(compared)} calls are wrong[/]"
    console.print(f"{outcome}.", highlight=False)
    if json_file is not None:
        content = {**about, "ok": not wrong, "calls": [one.record() for one in compared]}
        json_file.write_text(json.dumps(content, indent=1) + "\n")
    raise typer.Exit(1 if wrong else 0)
