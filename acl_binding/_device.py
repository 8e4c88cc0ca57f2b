"""Devices: their context, memory, streams, and operators."""

import math
import operator
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from acl_binding._call import Call
from acl_binding._cdef import ffi
from acl_binding._layout import NZ, Shape, format_number, int4_shape, numpy_dtype, nz_storage_shape, size, sizes, to_nz
from acl_binding._resources import Resources
from acl_binding._stream import Event, Stream
from acl_binding._tensor import Buffer, Tensor

if TYPE_CHECKING:
    from acl_binding._library import Library


def _extent(shape: Sequence[int], strides: Sequence[int] | None) -> int:
    """Return the elements from the first to the last of a tensor; without strides it is dense."""
    if 0 in shape or strides is None:
        return math.prod(shape)
    return 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))


class Device:
    """A device while it is open. :meth:`Library.device` makes one.

    It may be used from any thread: every call selects the device's context on the thread that makes it; such threads
    have to be done before the device is closed. Leaving the ``with`` statement waits for all streams, raises what their
    work failed with, and gives everything back that was made on the device, whatever order it was made in and whoever
    still refers to it.

    Examples
    --------
    >>> import numpy as np
    >>> import acl_binding as acl
    >>> with acl.open().device(0) as device, device.stream() as stream:
    ...     x = device.tensor(np.array([[0.0, 1.0, 2.0, 3.0]], np.float32))
    ...     out = device.empty((1, 2), "float32")
    ...     device.prepare("aclnnSwiGlu", x, -1, out).run(stream)
    ...     stream.synchronize()
    ...     out.numpy().round(4)
    array([[0.    , 2.1932]], dtype=float32)
    """

    def __init__(self, library: "Library", number: int) -> None:
        self.library = library
        try:
            self.number = operator.index(number)
        except TypeError:
            raise TypeError(f"device: {number!r}, needed an int") from None
        if not -(2**31) <= self.number < 2**31:
            raise ValueError(f"device: {number}, needed 0 or more, below 2**31")
        self.resources = Resources(self.invoke, self._is_open)
        self._context: Any = None
        self._closed = False
        self._closer: int | None = None
        self._closing = threading.Lock()

    # --- Start and end ------------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Select the device; a ``with`` statement does it as well."""
        # What was made on a closed device refers to memory that is somebody else's by now.
        if self._context is not None or self._closed:
            raise RuntimeError(f"device {self.number} was opened before; Library.device makes another one")
        self.library.initialise()
        self.library.invoke("aclrtSetDevice", self.number)
        place = ffi.new("aclrtContext *")
        self.library.invoke("aclrtGetCurrentContext", place)
        self._context = place[0]
        self.default_stream = Stream(self, default=True)
        self.library.add_device(self)
        return self

    def close(self) -> None:
        """Wait for all streams and give everything back; later calls do nothing."""
        with self._closing:
            if self._context is None or self._closer is not None:
                return
            # From here on other threads are refused: what they queued now would lose its memory.
            self._closer = threading.get_ident()
        failure: Exception | None = None
        for step in (self.synchronize, self.resources.release_all, self._reset):
            try:
                step()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _reset(self) -> None:
        self._context = None
        self._closed = True
        self.library.remove_device(self)
        self.library.invoke("aclrtResetDevice", self.number)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            # What failed first is what the caller has to see.
            with suppress(Exception):
                self.close()

    def invoke(self, name: str, *arguments: Any) -> None:
        """Call a C function on this device, and raise its status unless it is 0."""
        self._select()
        self.library.invoke(name, *arguments)

    def check(self, name: str, function: Any, *arguments: Any) -> None:
        """Call a function of an operator on this device, and raise its status unless it is 0."""
        self._select()
        self.library.check(name, function(*arguments))

    def made(self, name: str, *arguments: Any) -> Any:
        """Call a C function on this device, and return what it makes; raise when it is null."""
        self._select()
        return self.library.made(name, getattr(self.library.c, name)(*arguments))

    def _is_open(self) -> bool:
        """Whether this thread may use the device."""
        return self._context is not None and self._closer in (None, threading.get_ident())

    def _select(self) -> None:
        if not self._is_open():
            raise RuntimeError(f"device {self.number} is closed")
        self.library.invoke("aclrtSetCurrentContext", self._context)

    # --- Streams ------------------------------------------------------------------------------------------------------

    def stream(self) -> Stream:
        """Make a stream, to be used in a ``with`` statement or destroyed."""
        return Stream(self)

    def event(self) -> Event:
        """Make an event.

        Examples
        --------
        >>> import acl_binding as acl
        >>> with acl.open().device() as device, device.stream() as first, device.stream() as second:
        ...     event = device.event()
        ...     event.record(first)
        ...     second.wait(event)
        ...     event.synchronize()
        ...     event.query()
        True
        """
        return Event(self)

    def synchronize(self) -> None:
        """Wait for the work of all streams, and raise what it failed with."""
        self.invoke("aclrtSynchronizeDevice")

    # --- Memory -------------------------------------------------------------------------------------------------------

    def memory(self) -> tuple[int, int]:
        """Return the free and the total bytes of the device."""
        free, total = ffi.new("size_t *"), ffi.new("size_t *")
        self.invoke("aclrtGetMemInfo", ffi.integer_const("ACL_HBM_MEM"), free, total)
        return int(free[0]), int(total[0])

    def workspace(self, nbytes: int) -> Buffer:
        """Allocate memory for the ``workspace=`` of :meth:`Call.run`."""
        return Buffer(self, nbytes)

    def tensor(
        self,
        array: npt.ArrayLike,
        *,
        dtype: npt.DTypeLike | None = None,
        shape: Sequence[int] | None = None,
        format: str | int = "ND",
        storage_shape: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        offset: int = 0,
    ) -> Tensor:
        """Copy an array to the device.

        Parameters
        ----------
        array : array_like
            The values, of any data type that the interface has, in any memory layout.
        dtype : optional
            A data type to convert to, or ``"int4"`` for integers that int4 are packed in, the first in the lowest bits.
        shape : sequence of int, optional
            What operators see, when `array` is the storage and not the tensor itself: with `strides`, `offset`, or with
            a format whose tiles `array` holds already.
        format : str or int, optional
            ``"NZ"`` lays a matrix, or a batch of matrices, out as FRACTAL_NZ, unless `shape` says that it is.
        storage_shape : sequence of int, optional
            How operators are told that the memory is laid out, e.g. as one dimension; the memory is the same.
        strides : sequence of int, optional
            Strides of `shape` in elements.
        offset : int, optional
            Elements of the storage before the first of the tensor.

        Returns
        -------
        Tensor

        Raises
        ------
        TypeError
            If the data type has no counterpart.
        ValueError
            If the tensor would reach beyond the array.

        Examples
        --------
        >>> import numpy as np
        >>> import acl_binding as acl
        >>> with acl.open().device() as device:
        ...     w = device.tensor(np.ones((2, 64, 128), np.int8), format="NZ")
        ...     w.shape, w.storage_shape
        ((2, 64, 128), (2, 4, 4, 16, 32))
        """
        int4 = isinstance(dtype, str) and dtype == "int4"
        given = np.asarray(array)
        if int4 and given.dtype.kind not in "iu":
            raise TypeError(f"array: {given.dtype}, needed integers that int4 are packed in")
        values = np.array(given, numpy_dtype(given.dtype if dtype is None or int4 else dtype), order="C", copy=None)
        number = format_number(format)
        seen = values.shape if shape is None else sizes("shape", shape)
        if number == NZ and shape is None:
            if int4:
                raise ValueError("format: FRACTAL_NZ of packed int4, needed its tiles and shape=")
            values = to_nz(values)
        storage = values.shape
        if int4:
            storage = int4_shape(storage, values.itemsize)
            seen = storage if shape is None else seen
        if storage_shape is not None:
            told = sizes("storage_shape", storage_shape)
            if math.prod(told) != math.prod(storage):
                raise ValueError(f"storage_shape: {told} for {storage}, needed as many elements")
            storage = told
        tensor = self._new(values.dtype, seen, number, storage, strides, offset, int4)
        tensor.buffer.write(values)
        return tensor

    def empty(
        self,
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        *,
        format: str | int = "ND",
        storage_shape: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        offset: int = 0,
    ) -> Tensor:
        """Make a tensor whose contents are undefined, for an operator to write.

        Parameters
        ----------
        shape : sequence of int
            The shape that operators see.
        dtype
            A data type of NumPy or ml_dtypes or its name, such as ``"bfloat16"``, or ``"int4"``.
        format, storage_shape, strides, offset : optional
            As in :meth:`tensor`. The storage shape of FRACTAL_NZ follows from the shape.

        Returns
        -------
        Tensor

        Examples
        --------
        >>> import acl_binding as acl
        >>> with acl.open().device() as device:
        ...     device.empty((2, 3), "bfloat16")
        Tensor(bfloat16 (2, 3))
        """
        int4 = isinstance(dtype, str) and dtype == "int4"
        stored = numpy_dtype("uint8" if int4 else dtype)
        number = format_number(format)
        shape = sizes("shape", shape)
        if storage_shape is None and number == NZ:
            storage_shape = nz_storage_shape(shape, 0.5 if int4 else stored.itemsize)
        return self._new(stored, shape, number, storage_shape, strides, offset, int4)

    def zeros(self, shape: Sequence[int], dtype: npt.DTypeLike, **layout: Any) -> Tensor:
        """Make a tensor of zeros; the arguments are those of :meth:`empty`.

        Examples
        --------
        >>> import acl_binding as acl
        >>> with acl.open().device() as device:
        ...     device.zeros((2,), "int8").numpy()
        array([0, 0], dtype=int8)
        """
        tensor = self.empty(shape, dtype, **layout)
        if tensor.nbytes > 0:
            self.invoke("aclrtMemset", tensor.buffer.address, tensor.nbytes, 0, tensor.nbytes)
        return tensor

    def _new(
        self,
        dtype: np.dtype[Any],
        shape: Shape,
        format: int,
        storage_shape: Sequence[int] | None,
        strides: Sequence[int] | None,
        offset: int,
        int4: bool,
    ) -> Tensor:
        steps = None if strides is None else sizes("strides", strides)
        if steps is not None and len(steps) != len(shape):
            raise ValueError(f"strides: {steps} for the shape {shape}, needed one for each dimension")
        offset = size("offset", offset)
        # Of FRACTAL_NZ strides say nothing; its tiles hold the whole shape.
        end = offset + _extent(shape, None if format == NZ else steps)
        if storage_shape is not None:
            stored = sizes("storage_shape", storage_shape)
        else:
            stored = shape if steps is None and offset == 0 else (end,)
        if end > math.prod(stored):
            raise ValueError(
                f"shape: {shape} with strides {steps} and offset {offset} ends at element {end}, needed at most the "
                f"{math.prod(stored)} that are stored"
            )
        return Tensor(self, dtype, shape, format=format, storage_shape=stored, strides=steps, offset=offset, int4=int4)

    # --- Operators ----------------------------------------------------------------------------------------------------

    def prepare(self, api_name: str, *args: Any, **kwargs: Any) -> Call:
        """Call the first phase of an operator.

        Parameters
        ----------
        api_name : str
            The C name of the operator, e.g. ``"aclnnMoeFinalizeRoutingV2"``.
        *args, **kwargs
            Its arguments in the order of the C function, or by name: the names of the C function in snake case, whose
            suffix ``_optional`` may be left out. :func:`operators` lists them. Tensors are of this device or None;
            arrays of integers are sequences; optional tensors need not be given.

        Returns
        -------
        Call
            With the size of the workspace, to be run.

        Raises
        ------
        TypeError
            If arguments are missing, too many, or of the wrong kind; no C function has been called then.
        AclMissingError
            If the toolkit does not have the operator.
        AclError
            What the operator refuses.

        Examples
        --------
        >>> import numpy as np
        >>> import acl_binding as acl
        >>> with acl.open().device() as device:
        ...     x, out = device.tensor(np.ones((1, 4), np.float32)), device.empty((1, 2), "float32")
        ...     device.prepare("aclnnSwiGlu", x, dim=-1, out=out).workspace_size
        0
        """
        return Call(self, api_name, args, kwargs)

    def __repr__(self) -> str:
        return f"Device({self.number}, {'closed' if self._context is None else 'open'})"
