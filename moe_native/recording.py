"""Calls of operators in a file, to be made again on another machine: ``record`` and ``replay``."""

import hashlib
import json
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import moe_native
from moe_native import backend
from moe_native.layout import NzArray
from moe_native.packed import PackedWeight
from moe_native.types import Array
from moe_native.verification.calls import call_whole
from moe_native.verification.measures import Outcome, compare

_FORMAT = "moe_native calls"
_VERSION = 1
_INDEX = "index"
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Call:
    """A call of an operator as it was recorded."""

    op: str
    arguments: dict[str, Any]
    """By name: arrays, NzArray, PackedWeight, numbers, strings, lists of int, None."""
    results: dict[str, Array]
    """By name, in the order in which the operator returns them."""


class Recording(AbstractContextManager["Recording"]):
    """A file that calls are written into at the end of a ``with`` block. :func:`record` makes one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._lock = threading.Lock()
        self._index: list[dict[str, Any]] = []
        self._arrays: dict[str, Array] = {}
        self._names: dict[bytes, str] = {}

    def __enter__(self) -> "Recording":
        with open(self._path, "ab"):  # a path that cannot be written is better known now
            pass
        backend.add_recorder(self)
        return self

    def __exit__(self, *exception: object) -> None:
        backend.remove_recorder(self)
        index = {
            "format": _FORMAT,
            "version": _VERSION,
            "library": moe_native.__version__,
            "calls": self._index,
        }
        with open(self._path, "wb") as file:
            np.savez(file, **{_INDEX: np.array(json.dumps(index))}, **self._arrays)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._index)

    def add(self, op: str, arguments: dict[str, Any], outputs: dict[str, Array]) -> None:
        """Keep a call."""
        with self._lock:
            self._index.append(
                {
                    "op": op,
                    "arguments": {name: self._pack(value) for name, value in arguments.items()},
                    "results": {name: self._pack(value) for name, value in outputs.items()},
                }
            )

    def _pack(self, value: Any) -> Any:
        """An argument as JSON, with its numbers among the arrays."""
        if isinstance(value, NzArray):
            return {"kind": "nz", "shape": value.shape, "storage": self._pack(value.storage)}
        if isinstance(value, PackedWeight):
            return {"kind": "packed", "bytes": self._pack(value.array)}
        if isinstance(value, np.ndarray):
            array = np.array(value.view(np.uint16) if value.dtype == _BFLOAT16 else value, order="C")
            # A weight is kept once, however many calls it takes part in.
            content = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
            content.update(array.reshape(-1).view(np.uint8).data)
            name = self._names.setdefault(content.digest(), f"array_{len(self._arrays)}")
            self._arrays.setdefault(name, array)
            return {"kind": "array", "name": name, "dtype": value.dtype.name}
        if isinstance(value, (list, tuple)):
            return [int(number) for number in value]
        return value.item() if isinstance(value, np.generic) else value


def record(path: str | os.PathLike[str]) -> Recording:
    """Write the calls of operators that a ``with`` block makes, in any thread, into a file.

    Arguments and results are copied when a call is made, equal arrays once, and kept in memory until the block ends;
    only then is the file written, also when the block ends with an exception. Calls that raise are left out.

    Parameters
    ----------
    path : path
        The file, an .npz that NumPy reads without pickles; bfloat16 is in it as uint16.

    Returns
    -------
    context manager

    Raises
    ------
    OSError
        At the beginning of the block: a file that cannot be written.

    Examples
    --------
    >>> import numpy as np, moe_native, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "calls.npz")
    ...     with moe_native.record(path):
    ...         y = moe_native.npu_swiglu(np.ones((2, 8), np.float32))
    ...     [(outcome.op, outcome.ok) for outcome in moe_native.replay(path)]
    [('npu_swiglu', True)]
    """
    return Recording(path)


def load_calls(path: str | os.PathLike[str]) -> list[Call]:
    """Return the calls of a file; what it raises is in the documentation of :func:`replay`."""
    path = os.fspath(path)

    def refuse(seen: str) -> ValueError:
        return ValueError(f"replay: {path}: {seen}, needed a file that moe_native.record wrote")

    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (
            *(ValueError, OSError, EOFError, KeyError, AttributeError, TypeError),
            *(zipfile.BadZipFile, RuntimeError, MemoryError, zlib.error),  # NotImplementedError is a RuntimeError
        ) as error:
            raise refuse(f"no whole .npz ({error})") from error
    try:
        index = json.loads(str(arrays.pop(_INDEX)))
    except (KeyError, ValueError) as error:
        raise refuse("no index") from error
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        raise refuse("an index of something else")
    if index.get("version") != _VERSION:
        raise ValueError(f"replay: {path}: version {index.get('version')} of the format, needed {_VERSION}")
    try:
        return [
            Call(
                _operator(call["op"]),
                {name: _unpack(value, arrays) for name, value in call["arguments"].items()},
                {name: _result(_unpack(value, arrays)) for name, value in call["results"].items()},
            )
            for call in index["calls"]
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise refuse(f"a damaged index ({error})") from error


def _operator(name: str) -> str:
    if not name.startswith("npu_") or not hasattr(moe_native, name):
        raise ValueError(f"{name} is no operator")
    return name


def _result(value: Any) -> Array:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"a result is {type(value).__name__}, not an array")
    return value


def _unpack(value: Any, arrays: dict[str, Array]) -> Any:
    if not isinstance(value, dict):
        return value
    if value["kind"] == "nz":
        return NzArray(_unpack(value["storage"], arrays), tuple(value["shape"]))
    if value["kind"] == "packed":
        return PackedWeight(_unpack(value["bytes"], arrays))
    array = arrays[value["name"]]
    if value["dtype"] == _BFLOAT16.name:
        return array.view(_BFLOAT16)
    if array.dtype.name != value["dtype"]:
        raise ValueError(f"{value['name']} is {array.dtype}, not {value['dtype']}")
    return array


def replay(path: str | os.PathLike[str], ops: Sequence[str] | None = None, *, exact: bool = False) -> Iterator[Outcome]:
    """Make the calls of a file again, and compare their results with those that were recorded.

    They are computed by the backend that is in use (see :func:`use_backend`). Results have to be as near as the tests
    of the operators ask of a card: indices and copies the same, codes of a quantisation within one, floating numbers
    within a precision of their dtype.

    Parameters
    ----------
    path : path
        A file that :func:`record` wrote.
    ops : sequence of str, optional
        Operators to be called; by default all.
    exact : bool
        Whether every result has to be the same bits, as on a processor with the same instruction set.

    Returns
    -------
    iterator of Outcome
        One for every call, which is made when its outcome is asked for. `op`; `measures`, which tell for every result
        how far it is from the recorded one; `error`, what the call raised, which it had not before; `problem`, the
        first thing that is wrong; `ok`.

    Raises
    ------
    OSError
        A file that cannot be read.
    ValueError
        A file that no :func:`record` wrote, or that was cut off or changed, or comes from a later version.

    Examples
    --------
    >>> import numpy as np, moe_native, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "calls.npz")
    ...     with moe_native.record(path):
    ...         y = moe_native.npu_swiglu(np.ones((2, 8), np.float32))
    ...     with moe_native.use_backend("acl", home=moe_native.ascend_home()):
    ...         (outcome,) = moe_native.replay(path, exact=True)
    >>> outcome.op, outcome.ok, outcome.measures[0].mismatches
    ('npu_swiglu', True, 0)
    """
    return compare_again(load_calls(path), ops, exact)


def compare_again(calls: list[Call], ops: Sequence[str] | None, exact: bool) -> Iterator[Outcome]:
    """Make calls again, one whenever the next outcome is asked for."""
    for number, call in enumerate(calls):
        if ops is not None and call.op not in ops:
            continue
        label = f"call {number}"
        try:
            seen = list(call_whole(call.op, call.arguments).values())
        except Exception as error:  # it had results once: whatever this is, it differs from them
            yield Outcome(call.op, label, (), f"{type(error).__name__}: {error}")
            continue
        yield Outcome(call.op, label, compare(call.op, call.arguments, call.results, seen, exact))
