"""What belongs to a device and has to be given back to it."""

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any


class Resources:
    """Handles and memory by number, each with the C function that ends it.

    The garbage collector runs anywhere, also within a call and on threads without a device: what it finds is only
    noted, and given back by the next call that makes something.
    """

    def __init__(self, invoke: Callable[..., None]) -> None:
        self._invoke = invoke
        self._numbers = itertools.count()
        self._live: dict[int, tuple[str, Any]] = {}
        self._garbage: deque[int] = deque()

    def add(self, end: str, handle: Any) -> int:
        number = next(self._numbers)
        self._live[number] = end, handle
        return number

    def forget(self, number: int) -> None:
        """For what has ended otherwise."""
        self._live.pop(number, None)

    def release(self, number: int) -> None:
        """Give it back; what was given back already, or ended with its device, is left alone."""
        if (entry := self._live.pop(number, None)) is not None:
            self._invoke(*entry)

    def discard(self, number: int) -> None:
        """Give it back later. What finalisers call."""
        self._garbage.append(number)

    def collect(self) -> None:
        while self._garbage:
            self.release(self._garbage.popleft())

    def release_all(self) -> None:
        """Give everything back, the newest first, also when some of it fails."""
        self._garbage.clear()
        first: Exception | None = None
        while self._live:
            try:
                self._invoke(*self._live.popitem()[1])
            except Exception as error:
                first = first or error
        if first is not None:
            raise first
