"""Where operators are computed: ``use_backend``."""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol

from moe_native import _core
from moe_native.forms import FORMS
from moe_native.types import Array

BackendName = Literal["cpu", "acl"]
_NAMES: tuple[BackendName, ...] = ("cpu", "acl")


class Backend(Protocol):
    """What computes operators."""

    @property
    def name(self) -> BackendName: ...

    @property
    def is_cpu(self) -> bool:
        """Whether its results are the same bits as those of the core."""

    def compute(self, op: str, arguments: dict[str, Any], outputs: dict[str, Array]) -> None:
        """Write the results of a call, whose arguments are checked, into `outputs`, or raise and leave them alone."""


class _Cpu:
    """The core, which needs nobody to compute for it."""

    name: BackendName = "cpu"
    is_cpu = True

    def compute(self, op: str, arguments: dict[str, Any], outputs: dict[str, Array]) -> None:
        raise AssertionError("the core computes by itself")


class Recorder(Protocol):
    """What is told of every call."""

    def add(self, op: str, arguments: dict[str, Any], outputs: dict[str, Array]) -> None: ...


_CPU = _Cpu()
_INSIDE = _Cpu()
"""Marks a context that is inside of an operator: nothing is computed elsewhere or recorded."""

_lock = threading.RLock()
_open: dict[tuple[str | None, int], Backend] = {}
_of_environment: Backend | None = None
"""None until the environment variable was read."""
_standing: list[tuple["weakref.ref[_Choice]", Backend]] = []
"""Choices for the process, the last of which holds. One that still lives may become that of a block."""
_blocks: "weakref.WeakSet[_Block]" = weakref.WeakSet()
"""Blocks under way, and those whose tasks are: a task keeps the choice that it was made under."""
_recorders: tuple[Recorder, ...] = ()
_chosen: ContextVar["_Block | None"] = ContextVar("moe_native.backend", default=None)


class _Block:
    """A choice for the calls of a thread or task, and the one outside of it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.outer = _chosen.get()


def open_backend(name: str, home: str | os.PathLike[str] | None, device: int) -> Backend:
    """Return the backend of that name, of which there is one for each home and device."""
    if name not in _NAMES:
        raise ValueError(f"use_backend: name: {name!r}, needed one of {', '.join(map(repr, _NAMES))}")
    if name == "cpu":
        if home is not None:
            raise ValueError(f"use_backend: home: {os.fspath(home)!r}, needed None: the CPU needs no toolkit")
        return _CPU
    from moe_native.acl import AclBackend

    key = None if home is None else os.path.realpath(home), device
    with _lock:
        if key not in _open:
            _open[key] = AclBackend(home, device)
        return _open[key]


def _process_default() -> Backend:
    global _of_environment
    with _lock:
        if _standing:
            return _standing[-1][1]
        if _of_environment is None:
            name = os.environ.get("MOE_NATIVE_BACKEND") or "cpu"
            if name not in _NAMES:
                raise RuntimeError(f"MOE_NATIVE_BACKEND: {name!r}, needed one of {', '.join(map(repr, _NAMES))}")
            _of_environment = open_backend(name, None, 0)
            _watch()
        return _of_environment


def _current() -> Backend:
    block = _chosen.get()
    return _process_default() if block is None else block.backend


def _dispatch(op: str) -> tuple[Any, Any]:
    """What computes a call of an operator and what records it, for :mod:`moe_native._core`."""
    backend = _current() if op in FORMS else _INSIDE
    if backend is _INSIDE:
        return None, None
    return None if backend is _CPU else backend.compute, _record if _recorders else None


def _record(op: str, arguments: dict[str, Any], outputs: dict[str, Array]) -> None:
    for recorder in _recorders:
        recorder.add(op, arguments, outputs)


def _watch() -> None:
    """Look at calls only while there may be something to do with them."""
    default = _standing[-1][1] if _standing else _of_environment
    idle = default is _CPU and not _blocks and not _recorders
    _core.set_dispatcher(None if idle else _dispatch)


def add_recorder(recorder: Recorder) -> None:
    """Tell a recorder of every call of the process from now on."""
    global _recorders
    with _lock:
        _recorders = (*_recorders, recorder)
        _watch()


def remove_recorder(recorder: Recorder) -> None:
    """Tell it no more."""
    global _recorders
    with _lock:
        _recorders = tuple(other for other in _recorders if other is not recorder)
        _watch()


@contextmanager
def inside() -> Iterator[None]:
    """Let operators of a block be computed by the core and not be recorded: parts of a call that is under way."""
    token = _chosen.set(_Block(_INSIDE))
    try:
        yield
    finally:
        _chosen.reset(token)


class _Choice(AbstractContextManager[None]):
    """A choice for the process, in force already; entering makes it that of a block instead."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        with _lock:
            # Below one that nobody can enter any more none matters.
            gone = [i for i, (choice, _) in enumerate(_standing) if choice() is None]
            del _standing[: max(gone, default=0)]
            _standing.append((weakref.ref(self), backend))
            _watch()

    def __enter__(self) -> None:
        block = _Block(self._backend)
        with _lock:
            _standing[:] = [entry for entry in _standing if entry[0]() is not self]
            _blocks.add(block)
            _chosen.set(block)
            _watch()

    def __exit__(self, *exception: object) -> None:
        block = _chosen.get()
        if block is None:
            raise RuntimeError("use_backend: a block ends in another thread or task than it began in")
        _chosen.set(block.outer)
        del block
        with _lock:
            _watch()


def use_backend(
    name: BackendName, home: str | os.PathLike[str] | None = None, device: int = 0
) -> AbstractContextManager[None]:
    """Choose what computes the operators of this package: the CPU, or a device through the aclnn interface.

    As a context manager it holds for the calls of its block, in this thread (or task) only. Called by itself it holds
    for the whole process from then on, blocks and threads inside of one excepted. The environment variable
    ``MOE_NATIVE_BACKEND`` sets what the process begins with.

    With ``"acl"`` arguments are checked as always, with the same exceptions; they are brought into the form that the
    interface has for them (weights to FRACTAL_NZ, a missing `logit` to ones, columns (m, 1) to (m,)), copied to the
    device, computed there, and the results copied back. Nothing falls back to the CPU.

    Parameters
    ----------
    name : {"cpu", "acl"}
        ``"acl"`` needs the package ``acl_binding``, and a toolkit.
    home : path, optional
        The toolkit, such as :func:`ascend_home` for the CPU device; by default the one that ``acl_binding.open``
        finds.
    device : int
        Number of the device.

    Returns
    -------
    context manager

    Raises
    ------
    ValueError
        A name that is neither, or a toolkit for the CPU.
    acl_binding.AclError
        No toolkit or device. And from operators: what the interface cannot express, what the library lacks, and
        whatever it refuses.

    Notes
    -----
    ``with use_backend(...)`` is a call, and then the beginning of a block: between the two, calls of threads that are
    in no block of their own would be computed there. Programs with such threads put them into blocks, or choose once.

    Examples
    --------
    >>> import numpy as np, moe_native
    >>> x = np.array([[1, -2, 3, 0.5]], np.float32)
    >>> with moe_native.use_backend("acl", home=moe_native.ascend_home()):
    ...     moe_native.npu_swiglu(x)
    array([[ 2.1931758 , -0.11920292]], dtype=float32)
    """
    return _Choice(open_backend(name, home, device))


def get_backend() -> BackendName:
    """Return what would compute an operator called here and now: ``"cpu"`` or ``"acl"``.

    Examples
    --------
    >>> import moe_native
    >>> with moe_native.use_backend("cpu"):
    ...     moe_native.get_backend()
    'cpu'
    """
    return _current().name


_watch()
