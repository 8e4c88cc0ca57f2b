"""What the library runs on and what a call uses: ``show_config`` and ``explain``."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, overload

import moe_native
from moe_native import _core
from moe_native.backend import inside


class _State(IntEnum):
    """Numbers of moe_kernel_state."""

    CHOSEN = 0
    SURPASSED = 1
    ABOVE_LIMIT = 2
    UNSUPPORTED = 3
    REFERENCE = 4


@dataclass(frozen=True)
class Kernel:
    """A kernel that a call has used, and why it was not another one of its family."""

    family: str
    name: str
    isa: str
    """Lowest instruction set that has it."""
    tile: tuple[int, int] | None
    """Rows and columns of a product that are accumulated in registers at once."""
    refused: dict[str, str]
    """Why each of the other kernels of the family was not used."""


@dataclass(frozen=True)
class Explanation:
    """What a call has used; as text, a report."""

    op: str
    threads: int
    """The largest team of the call."""
    workspace: int
    """Bytes of scratch memory, with the alignment of its pieces."""
    pieces: dict[str, int]
    """Pieces of the scratch memory by name, in bytes."""
    kernels: tuple[Kernel, ...]

    def __str__(self) -> str:
        lines = [f"{self.op}: {_counted(self.threads, 'thread')} at most, workspace of {self.workspace} bytes"]
        width = max(map(len, self.pieces), default=0)
        lines += [f"  {name:<{width}}  {size:>12}" for name, size in self.pieces.items()]
        for kernel in self.kernels:
            tile = "" if kernel.tile is None else f", tiles of {kernel.tile[0]} x {kernel.tile[1]}"
            lines.append(f"{kernel.family}: {kernel.name}{tile}")
            lines += [f"  not {name}: {reason}" for name, reason in kernel.refused.items()]
        return "\n".join(lines)


def explain(op: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> Explanation:
    """Make a call of an operator, and return what it used: kernels, tiles, scratch memory, threads.

    What is used depends on the data as well (experts without rows use nothing), so the call is really made; its
    result is dropped, unless ``out=`` keeps it. It is made on the CPU, whatever :func:`use_backend` says.

    Parameters
    ----------
    op : callable or str
        An operator of this package, or its name.
    *args, **kwargs
        Its arguments.

    Returns
    -------
    Explanation

    Raises
    ------
    ValueError
        If `op` is not an operator of this package; and whatever the operator raises.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> rows, index = np.ones((2, 3), np.float32), np.array([1, 0], np.int32)
    >>> with moe_native.isa_limit("baseline"):
    ...     seen = moe_native.explain("npu_moe_finalize_routing", rows, None, None, None, None, index)
    >>> seen.op, seen.kernels[0].name
    ('npu_moe_finalize_routing', 'baseline')
    >>> print(moe_native.explain("npu_moe_finalize_routing", rows, None, None, None, None, index))  # doctest: +ELLIPSIS
    npu_moe_finalize_routing: ... at most, workspace of ... bytes
    ...
    """
    name = op if isinstance(op, str) else getattr(op, "__name__", "")
    function = getattr(moe_native, name, None)
    if not name.lstrip("_").startswith("npu_") or function is None or not (isinstance(op, str) or op is function):
        raise ValueError(f"explain: op: {op!r}, needed an operator of moe_native or its name")
    with inside():
        plans = _core.watched(lambda: function(*args, **kwargs))
    kernels = _kernels()
    if not plans:
        return Explanation(name, 1, 0, {}, kernels)
    pieces: dict[str, int] = {}
    for _, _, _, booked in plans:
        for piece, size in booked:
            pieces[piece] = pieces.get(piece, 0) + size
    threads = max(plan[1] for plan in plans)
    return Explanation(name, threads, max(plan[2] for plan in plans), pieces, kernels)


def _kernels() -> tuple[Kernel, ...]:
    """The kernels that were used, out of those of their families."""
    limit, origin = _core.get_isa_limit(), _core.config()["isa_origin"]
    rows = _core.kernels()
    found = []
    for family, name, isa, _, used, tile_rows, tile_columns in rows:
        if not used:
            continue
        reasons = {
            _State.CHOSEN: "chosen elsewhere in the call",
            _State.SURPASSED: f"{name} is preferred",
            _State.REFERENCE: "a reference for tests",
            _State.ABOVE_LIMIT: f"above the limit {limit} of {origin}",
        }
        refused = {
            other: reasons.get(state) or f"the processor lacks {other_isa}"
            for other_family, other, other_isa, state, *_ in rows
            if other_family == family and other != name
        }
        found.append(Kernel(family, name, isa, (tile_rows, tile_columns) if tile_rows else None, refused))
    return tuple(found)


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dict"]) -> dict[str, Any]: ...
def show_config(mode: Literal["stdout", "dict"] = "stdout") -> dict[str, Any] | None:
    """Show what the library is, what it runs on and which kernels it uses.

    Version, compiler and its options, instruction sets and what limits them, OpenMP runtime and threads, and the
    kernel of every family.

    Parameters
    ----------
    mode : {"stdout", "dict"}
        Whether to print it, or to return it as a dict of str, int and dict.

    Returns
    -------
    dict or None

    Raises
    ------
    ValueError
        If `mode` is neither.

    Examples
    --------
    >>> import moe_native
    >>> sorted(moe_native.show_config("dict")["kernels"])[:2]
    ['combine', 'copy']
    >>> with moe_native.isa_limit("baseline"):
    ...     config = moe_native.show_config("dict")
    >>> config["isa_limit"], config["isa_origin"], set(config["kernels"].values())
    ('baseline', 'moe_set_isa_limit', {'baseline'})
    """
    if mode not in ("stdout", "dict"):
        raise ValueError(f"show_config: mode: {mode!r}, needed 'stdout' or 'dict'")
    config: dict[str, Any] = _core.config()
    config["kernels"] = {family: name for family, name, _, state, *_ in _core.kernels() if state == _State.CHOSEN}
    if mode == "dict":
        return config
    width = max(map(len, [*config, *config["kernels"]]))
    for key, value in config.items():
        if key != "kernels":
            print(f"{key:<{width}}  {value}")
    print("kernels")
    for family, kernel in config["kernels"].items():
        print(f"  {family:<{width - 2}}  {kernel}")
    return None


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
