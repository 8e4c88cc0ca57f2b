"""Streams and events."""

import itertools
import math
import threading
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from acl_binding._cdef import ffi
from acl_binding._resources import Resource, need
from acl_binding._tensor import Buffer
from acl_binding.errors import AclError

if TYPE_CHECKING:
    from acl_binding._device import Device

_TIMEOUT: int = ffi.integer_const("ACL_ERROR_RT_STREAM_SYNC_TIMEOUT")
_COMPLETE: int = ffi.integer_const("ACL_STREAM_STATUS_COMPLETE")
_RECORDED: int = ffi.integer_const("ACL_EVENT_RECORDED_STATUS_COMPLETE")
# A program that never waits would keep all memory that it ever used: from so many launches on the stream is asked.
_LAUNCHES_KEPT = 1024


class Stream:
    """A queue of work that runs in order. :meth:`Device.stream` makes one.

    It keeps the memory that its work uses until it is known to be done. Leaving its ``with`` statement waits for the
    work, raises what it failed with, and destroys the stream.
    """

    def __init__(self, device: "Device", *, default: bool = False) -> None:
        self.device = device
        self.handle = ffi.NULL
        self._resource: Resource | None = None
        self._positions = itertools.count(1)
        self._kept: deque[tuple[int, list[Buffer]]] = deque()
        self._scratch: Buffer | None = None
        self._lock = threading.Lock()
        if not default:
            place = ffi.new("aclrtStream *")
            device.invoke("aclrtCreateStream", place)
            self.handle = place[0]
            self._resource = device.resources.add("aclrtDestroyStream", self.handle)

    # --- Memory in use ------------------------------------------------------------------------------------------------

    def keep(self, buffers: Iterable[Buffer]) -> None:
        """Keep memory until the work that is queued now is done."""
        with self._lock:
            self._kept.append((next(self._positions), list(buffers)))
            crowded = len(self._kept) > _LAUNCHES_KEPT
        if crowded:
            self.query()

    def mark(self) -> int:
        """Return a number that stands for everything queued until now."""
        with self._lock:
            return self._kept[-1][0] if self._kept else 0

    def passed(self, mark: int) -> None:
        """Give up the memory of work that is done."""
        with self._lock:
            while self._kept and self._kept[0][0] <= mark:
                self._kept.popleft()

    def scratch(self, nbytes: int) -> Buffer:
        """Return memory that the launches of this stream, which run in order, use one after the other."""
        with self._lock:
            if self._scratch is None or self._scratch.nbytes < nbytes:
                self._scratch = Buffer(self.device, nbytes)
            return self._scratch

    # --- Waiting ------------------------------------------------------------------------------------------------------

    def synchronize(self, timeout: float | None = None) -> None:
        """Wait until everything queued before is done, and raise what it failed with.

        Parameters
        ----------
        timeout : float, optional
            Seconds after which 507046 is raised; no more than 2**31 milliseconds are waited for.
        """
        if timeout is not None and not (math.isfinite(timeout) and timeout >= 0):
            raise ValueError(f"timeout: {timeout}, needed seconds, or None to wait for as long as it takes")
        mark = self.mark()
        try:
            if timeout is None:
                self.device.invoke("aclrtSynchronizeStream", self.handle)
            else:
                milliseconds = round(min(timeout * 1000, 2**31 - 1))
                self.device.invoke("aclrtSynchronizeStreamWithTimeout", self.handle, milliseconds)
        except AclError as error:
            if error.code != _TIMEOUT:
                self.passed(mark)
            raise
        self.passed(mark)

    def query(self) -> bool:
        """Whether everything queued is done."""
        mark = self.mark()
        status = ffi.new("aclrtStreamStatus *")
        self.device.invoke("aclrtStreamQuery", self.handle, status)
        done = bool(status[0] == _COMPLETE)
        if done:
            self.passed(mark)
        return done

    def wait(self, event: "Event") -> None:
        """Let later work of this stream wait for an event of another one."""
        need(Event, "event", event)
        self.device.invoke("aclrtStreamWaitEvent", self.handle, event.handle)

    # --- End ----------------------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Wait for the work and destroy the stream; later calls do nothing. The default stream stays."""
        if self._resource is not None:
            self._resource.release()
            self._resource = None
            self.passed(self.mark())
            self._scratch = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self._resource is not None:
                self.synchronize()
        finally:
            self.destroy()


class Event:
    """A mark in a stream. :meth:`Device.event` makes one."""

    def __init__(self, device: "Device") -> None:
        self.device = device
        place = ffi.new("aclrtEvent *")
        device.invoke("aclrtCreateEvent", place)
        self.handle = place[0]
        self._resource = device.resources.add("aclrtDestroyEvent", self.handle)
        self._recorded: tuple[Stream, int] | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Mark what the stream holds now; without one, the default stream."""
        stream = self.device.default_stream if stream is None else stream
        need(Stream, "stream", stream)
        mark = stream.mark()
        self.device.invoke("aclrtRecordEvent", self.handle, stream.handle)
        self._recorded = stream, mark

    def synchronize(self) -> None:
        """Wait until the marked work is done."""
        recorded = self._recorded
        self.device.invoke("aclrtSynchronizeEvent", self.handle)
        if recorded is not None:
            recorded[0].passed(recorded[1])

    def query(self) -> bool:
        """Whether the marked work is done."""
        recorded = self._recorded
        status = ffi.new("aclrtEventRecordedStatus *")
        self.device.invoke("aclrtQueryEventStatus", self.handle, status)
        done = bool(status[0] == _RECORDED)
        if done and recorded is not None:
            recorded[0].passed(recorded[1])
        return done

    def elapsed(self, end: "Event") -> float:
        """Return the milliseconds from this event to another one."""
        need(Event, "end", end)
        result: Any = ffi.new("float *")
        self.device.invoke("aclrtEventElapsedTime", result, self.handle, end.handle)
        return float(result[0])

    def destroy(self) -> None:
        """Destroy the event; later calls do nothing."""
        self._resource.release()
