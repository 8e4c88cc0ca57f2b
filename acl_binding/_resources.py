"""What belongs to a device and has to be given back to it."""

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any


def need(kind: type, name: str, value: Any) -> None:
    """Raise a TypeError for what is not of a class: behind handles of different kinds there is the same C type."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: {type(value).__name__}, needed {kind.__name__}")


class Resources:
    """Handles and memory of a device, each with the C function that ends it."""

    def __init__(self, invoke: Callable[..., None], is_open: Callable[[], bool]) -> None:
        self._invoke = invoke
        self._is_open = is_open
        self._numbers = itertools.count()
        self._live: dict[int, tuple[str, Any]] = {}
        self._garbage: deque[int] = deque()

    def add(self, end: str, handle: Any) -> "Resource":
        """Take over a handle that the function `end` gives back."""
        number = next(self._numbers)
        self._live[number] = end, handle
        return Resource(self, number)

    def collect(self) -> None:
        """Give back what nobody refers to any more."""
        while self._garbage:
            self.release(self._garbage.popleft())

    def release_all(self) -> None:
        """Give everything back, the newest first, also when some of it fails."""
        first: Exception | None = None
        while self._live:
            try:
                self._invoke(*self._live.popitem()[1])
            except Exception as error:
                first = first or error
        if first is not None:
            raise first

    def release(self, number: int) -> None:
        """Give a handle back, unless another thread is closing the device, and with it this."""
        if self._is_open() and (entry := self._live.pop(number, None)) is not None:
            self._invoke(*entry)

    def forget(self, number: int) -> None:
        self._live.pop(number, None)

    def discard(self, number: int) -> None:
        self._garbage.append(number)


class Resource:
    """One handle. It is given back by :meth:`release`, with its device, or some time after it was forgotten.

    The garbage collector runs anywhere, within a call as well as on threads without a device: it only takes a note.
    """

    def __init__(self, owner: Resources, number: int) -> None:
        self._owner = owner
        self._number: int | None = number

    def release(self) -> None:
        """Give the handle back, unless it was, or its device is closed."""
        if (number := self._number) is not None:
            self._number = None
            self._owner.release(number)

    def forget(self) -> None:
        """For a handle that something else has ended."""
        if (number := self._number) is not None:
            self._number = None
            self._owner.forget(number)

    def __del__(self) -> None:
        if (number := self._number) is not None:
            self._owner.discard(number)
