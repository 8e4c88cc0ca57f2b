"""The console script `moe-native`."""

from __future__ import annotations

import json
import resource
import sys
import time
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import ml_dtypes
import numpy as np
import typer

import moe_native
from moe_native.cli import device, report
from moe_native.cli.layer import Layer, Size, Step

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class HiddenDtype(StrEnum):
    """Data types of the hidden states."""

    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(ml_dtypes.bfloat16 if self is HiddenDtype.bfloat16 else self.value)


@app.callback(invoke_without_command=True)
def layer(
    context: typer.Context,
    tokens: Annotated[int, typer.Option(help="Tokens in the batch.")] = Size.tokens,
    experts: Annotated[int, typer.Option(help="Experts of the router; an eighth of them is held here.")] = Size.experts,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = Size.hidden,
    dtype: Annotated[HiddenDtype, typer.Option(help="Data type of the hidden states.")] = HiddenDtype.bfloat16,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; the default is one per core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Run a Mixture-of-Experts layer on random data and check every step against its definition.

    The layer is one rank of DeepSeek-V3 with int8 weights: router, routing, and both matmuls of its experts.
    The exit status is 1 when a step is wrong. Progress goes to standard error, the result to standard output.
    """
    if context.invoked_subcommand is not None:
        return
    began = time.perf_counter()
    try:
        size = Size(tokens=tokens, hidden=hidden, experts=experts)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if threads is not None:
        moe_native.set_num_threads(threads)
    steps = _run_and_check(size, dtype.dtype)
    ok = all(step.verdict.ok for step in steps)
    summary = {
        "version": moe_native.__version__,
        "tokens": size.tokens,
        "hidden": size.hidden,
        "intermediate": size.intermediate,
        "experts": size.experts,
        "active_experts": size.active_experts,
        "top_k": size.top_k,
        "dtype": dtype.value,
        "threads": moe_native.get_num_threads(),
        "weight_bytes": size.weight_bytes,
        "seconds": time.perf_counter() - began,
        # ru_maxrss is in KiB, on macOS in bytes.
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "ok": ok,
    }
    (report.print_json if as_json else report.print_table)(summary, steps)
    raise typer.Exit(0 if ok else 1)


def _run_and_check(size: Size, dtype: np.dtype[Any]) -> list[Step]:
    with report.progress() as progress:
        task = progress.add_task("Generating weights", total=2 * size.active_experts)
        layer = Layer(size, dtype, tick=partial(progress.advance, task))
        task = progress.add_task("Running the layer", total=Layer.STEPS)
        steps = []
        for step in layer.run():
            steps.append(step)
            progress.advance(task)
        task = progress.add_task("Checking every step", total=2 * size.active_experts)
        for step in steps:
            step.verdict = step.check(partial(progress.advance, task))
    return steps


def _installed(*parts: str) -> str:
    """Path beside the extension module, which an editable install keeps apart from the sources."""
    path = Path(moe_native._core.__file__).parent.joinpath(*parts)
    if not path.is_dir():
        raise SystemExit(f"{path} is not there: this installation was made without the development files")
    return str(path)


@app.command()
def include_dir() -> None:
    """Print the directory of the C headers."""
    print(_installed("include"))


@app.command()
def cmake_dir() -> None:
    """Print the directory of the CMake package, to be given as moe_native_DIR."""
    print(_installed("lib", "cmake", "moe_native"))


@app.command()
def ascend_home() -> None:
    """Print the directory to be given as ASCEND_HOME_PATH to programs that use the aclnn interface."""
    try:
        print(moe_native.ascend_home())
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None


@app.command()
def info() -> None:
    """Print version, build, instruction sets, threads and kernels of this installation."""
    moe_native.show_config()


@app.command()
def bench(
    item: Annotated[list[str] | None, typer.Option(help="Items whose names contain this; may be repeated.")] = None,
    shapes: Annotated[
        str, typer.Option(help="table, off-table, models, helpers, or the path of a TOML file.")
    ] = "table",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; the default is one per core.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Repeats, of which medians are taken.")] = 15,
    isa: Annotated[str | None, typer.Option(help="Highest instruction set of ours and of the limits.")] = None,
    peers: Annotated[
        str | None,
        typer.Option(
            help="numpy, torch (with oneDNN), torch-compile; each with those before. Default: what is installed."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the table to this file.")] = None,
    png_file: Annotated[Path | None, typer.Option("--png", help="Draw the roofline into this file.")] = None,
    scaling: Annotated[
        bool, typer.Option(help="Instead: cost per token from 1 token to many, with one thread and with all.")
    ] = False,
    probe_mib: Annotated[
        int | None, typer.Option(min=1, help="Buffer of the memory limits; the default is 5 times the largest cache.")
    ] = None,
) -> None:
    """Measure operators against peers and against the limits of this machine.

    Needs the packages of the extra `bench`.
    """
    from moe_native.benchmarks import items, report, run
    from moe_native.benchmarks import peers as all_peers
    from moe_native.benchmarks.limits import Prober

    shapes = "scaling" if scaling and shapes == "table" else shapes
    path = Path(shapes) if shapes.endswith(".toml") else items.SHAPES / f"{shapes}.toml"
    if not path.is_file():
        raise typer.BadParameter(f"no shapes {shapes}")
    if not any(wanted in spec["name"] for spec in items.load(path) for wanted in item or [""]):
        raise typer.BadParameter(f"no item of {shapes} has a name with {item}")
    try:
        peer = all_peers.Peer(peers or ("torch" if all_peers.available() else "numpy"))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if isa is not None:
        moe_native.isa_limit(isa)
    if threads is not None:
        moe_native.set_num_threads(threads)
    prober = Prober() if probe_mib is None else Prober(probe_mib << 20)
    with report.progress() as tick:
        seen: run.Result = (
            run.scaling(path, item or [], prober, repeat, tick)
            if scaling
            else run.table(path, item or [], prober, repeat, tick, peer)
        )
    seen.show()
    if json_file is not None:
        json_file.write_text(json.dumps(seen.record(), indent=1) + "\n")
    if markdown_file is not None:
        markdown_file.write_text(seen.markdown())
    if png_file is not None:
        seen.picture(png_file)


app.command()(device.verify)
app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(device.record)
app.command()(device.replay)


def main() -> None:
    """Run the console script."""
    app(prog_name="moe-native")
