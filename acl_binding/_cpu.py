"""Control of the CPU device, which is a toolkit that tells what a program did wrong."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from acl_binding._cdef import ffi

if TYPE_CHECKING:
    from acl_binding._library import Library

_MODES = ("compat", "real", "strict")
_OPTIONS = ("deferred", "workspace", "backtrace", "poison", "protect")


def _index(kind: str, names: tuple[str, ...], name: str) -> int:
    if name not in names:
        raise ValueError(f"{kind}: {name!r}, needed one of {', '.join(map(repr, names))}")
    return names.index(name)


class CpuDevice:
    """What a CPU device has and a card has not: modes, options, findings. :attr:`Library.cpu` is one, or None.

    Examples
    --------
    >>> import acl_binding as acl
    >>> cpu = acl.open().cpu
    >>> with cpu.using(mode="strict", workspace=True):
    ...     cpu.mode
    'strict'
    >>> "double-destroy" in cpu.rules
    True
    """

    def __init__(self, library: "Library") -> None:
        self._library = library
        self._rules: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """``"compat"``, ``"real"`` or ``"strict"``; for the whole process."""
        return _MODES[self._library.c.moe_aclnn_get_mode()]

    def option(self, name: str) -> bool:
        """Whether ``"deferred"``, ``"workspace"``, ``"backtrace"``, ``"poison"`` or ``"protect"`` is on."""
        return bool(self._library.c.moe_aclnn_get_option(_index("option", _OPTIONS, name)))

    @contextmanager
    def using(self, *, mode: str | None = None, **options: bool) -> Iterator[None]:
        """Set the mode and options, and in the end set them back."""
        if mode is not None:
            _index("mode", _MODES, mode)
        before = self.mode, {name: self.option(name) for name in options}
        try:
            self._set(mode or before[0], options)
            yield
        finally:
            self._set(*before)

    def _set(self, mode: str, options: dict[str, bool]) -> None:
        self._library.invoke("moe_aclnn_set_mode", _index("mode", _MODES, mode))
        for name, value in options.items():
            self._library.invoke("moe_aclnn_set_option", _index("option", _OPTIONS, name), int(value))

    @property
    def rules(self) -> tuple[str, ...]:
        """The names of the rules whose breach is a finding."""
        if not self._rules:
            names: list[str] = []
            while (name := self._library.c.moe_aclnn_rule(len(names))) != ffi.NULL:
                names.append(ffi.string(name).decode())
            self._rules = tuple(names)
        return self._rules

    def count_findings(self) -> dict[str, int]:
        """Return how often each rule was broken in this process, without those that were not."""
        count = self._library.c.moe_aclnn_count_findings
        return {rule: found for rule in self.rules if (found := count(rule.encode()))}

    def write_findings(self, path: str | os.PathLike[str] | None) -> None:
        """Append findings to a file from now on, a line of JSON each; None closes it."""
        self._library.invoke("moe_aclnn_set_findings_file", ffi.NULL if path is None else os.fsencode(path))
