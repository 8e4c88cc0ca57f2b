"""Device memory and tensors in it."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from acl_binding._cdef import ffi
from acl_binding._layout import INT4, ND, NZ, Array, Shape, acl_dtype, from_nz, nz_storage_shape, row_major, size

if TYPE_CHECKING:
    from acl_binding._device import Device

_HUGE_FIRST: int = ffi.integer_const("ACL_MEM_MALLOC_HUGE_FIRST")
_TO_DEVICE: int = ffi.integer_const("ACL_MEMCPY_HOST_TO_DEVICE")
_TO_HOST: int = ffi.integer_const("ACL_MEMCPY_DEVICE_TO_HOST")


class Buffer:
    """Device memory, freed when nobody refers to it any more. :meth:`Device.workspace` makes one.

    Attributes
    ----------
    address
        The device address, a ``void *``; null for 0 bytes.
    nbytes : int
        The size.
    """

    def __init__(self, device: "Device", nbytes: int) -> None:
        self.device = device
        self.nbytes = size("nbytes", nbytes)
        self.address = ffi.NULL
        if nbytes > 0:
            device.resources.collect()
            place = ffi.new("void **")
            device.invoke("aclrtMalloc", place, nbytes, _HUGE_FIRST)
            self.address = place[0]
            self._resource = device.resources.add("aclrtFree", self.address)

    def write(self, array: Array) -> None:
        """Copy an array to the beginning of the buffer."""
        source = self._bytes_of(array)
        if source.size > 0:
            self.device.invoke(
                "aclrtMemcpy", self.address, self.nbytes, ffi.from_buffer(source), source.size, _TO_DEVICE
            )

    def read(self, array: Array) -> None:
        """Copy the beginning of the buffer to an array."""
        if not array.flags.c_contiguous:
            raise ValueError(
                f"array: strides {array.strides} of {array.dtype} {array.shape}, needed a C-contiguous one"
            )
        target = self._bytes_of(array)
        if target.size > 0:
            place = ffi.from_buffer(target, require_writable=True)
            self.device.invoke("aclrtMemcpy", place, target.size, self.address, target.size, _TO_HOST)

    def _bytes_of(self, array: Array) -> npt.NDArray[np.uint8]:
        if array.nbytes > self.nbytes:
            raise ValueError(f"array: {array.nbytes} bytes, needed at most the {self.nbytes} of the buffer")
        return array.reshape(-1).view(np.uint8)


class Tensor:
    """A view of device memory that operators take. :meth:`Device.tensor` and :meth:`Device.empty` make them.

    Attributes
    ----------
    shape : tuple of int
        The shape that operators see, in elements of `acl_dtype`.
    dtype : numpy.dtype
        The data type of the storage; of int4, that of the integers they are packed in.
    acl_dtype, format : int
        Numbers of ``aclDataType`` and ``aclFormat``.
    strides : tuple of int
        Strides in elements.
    offset : int
        Elements of the storage before the first of the view.
    storage_shape : tuple of int
        The shape of the memory, which a format of its own or strides make differ from `shape`.
    buffer : Buffer
        The memory.
    """

    def __init__(
        self,
        device: "Device",
        dtype: np.dtype[Any],
        shape: Shape,
        *,
        format: int = ND,
        storage_shape: Shape | None = None,
        strides: Shape | None = None,
        offset: int = 0,
        int4: bool = False,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.acl_dtype = INT4 if int4 else acl_dtype(dtype)
        self.shape = shape
        self.format = format
        self.storage_shape = shape if storage_shape is None else storage_shape
        self.strides = row_major(shape) if strides is None else strides
        self.offset = offset
        elements = math.prod(self.storage_shape)
        self.buffer = Buffer(device, (elements + 1) // 2 if int4 else elements * dtype.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the storage."""
        return self.buffer.nbytes

    def make_handle(self) -> Any:
        """Make an ``aclTensor``, which the caller has to destroy."""
        dims = [ffi.new("int64_t[]", numbers) for numbers in (self.shape, self.strides, self.storage_shape)]
        return self.device.made(
            "aclCreateTensor",
            dims[0],
            len(self.shape),
            self.acl_dtype,
            dims[1],
            self.offset,
            self.format,
            dims[2],
            len(self.storage_shape),
            self.buffer.address,
        )

    def become_nz(self) -> None:
        """Take over the layout that ``aclnnTransMatmulWeight`` gives the memory."""
        self.format = NZ
        self.storage_shape = nz_storage_shape(self.shape, self.dtype.itemsize)

    def is_like(self, other: "Tensor") -> bool:
        """Whether operators see no difference but the memory."""

        def seen(tensor: Tensor) -> tuple[Any, ...]:
            return (
                tensor.device,
                tensor.acl_dtype,
                tensor.format,
                tensor.shape,
                tensor.strides,
                tensor.offset,
                tensor.storage_shape,
            )

        return seen(self) == seen(other)

    def storage(self) -> Array:
        """Copy the memory to the host as it is stored, packed int4 in the integers they came in.

        Does not wait for streams.
        """
        if self.acl_dtype == INT4:
            array: Array = np.empty(self.nbytes // self.dtype.itemsize, self.dtype)
        else:
            array = np.empty(self.storage_shape, self.dtype)
        self.buffer.read(array)
        return array

    def numpy(self) -> Array:
        """Copy the tensor to the host, as a new array of its shape; packed int4 in the integers they came in.

        Does not wait for streams: synchronise the one that computes the tensor first.

        Examples
        --------
        >>> import numpy as np
        >>> import acl_binding as acl
        >>> with acl.open().device() as device:
        ...     device.tensor(np.arange(6), shape=(2,), strides=(3,), offset=1).numpy()
        array([1, 4])
        """
        storage = self.storage()
        if self.acl_dtype == INT4:
            if self.format == NZ:
                return storage
            packed = 2 * self.dtype.itemsize
            if not self.shape or self.shape[-1] % packed or math.prod(self.shape) != math.prod(self.storage_shape):
                raise ValueError(
                    f"shape: {self.shape} int4 in {self.dtype}, needed a whole number of these in every row: storage() "
                    "returns them as they lie there"
                )
            return storage.reshape(*self.shape[:-1], self.shape[-1] // packed)
        if self.format == NZ and len(self.storage_shape) == len(self.shape) + 2:
            return from_nz(storage, self.shape)
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        itemsize = self.dtype.itemsize
        strides = [stride * itemsize for stride in self.strides]
        memory = storage.reshape(-1).view(np.uint8)
        view: Array = np.ndarray(self.shape, self.dtype, memory, self.offset * itemsize, strides)
        return np.ascontiguousarray(view).reshape(self.shape)

    def copy_from(self, array: npt.ArrayLike) -> None:
        """Copy an array of the shape and data type of the storage, or of packed int4 of its size, into the tensor.

        Does not wait for streams, either.
        """
        values = np.array(array, order="C", copy=None)
        fits = values.shape == self.storage_shape if self.acl_dtype != INT4 else values.nbytes == self.nbytes
        if not fits or values.dtype != self.dtype:
            raise ValueError(
                f"array: {values.dtype} {values.shape}, needed {self.dtype} {self.storage_shape}, as the tensor has"
            )
        self.buffer.write(values)

    def __repr__(self) -> str:
        dtype = "int4" if self.acl_dtype == INT4 else self.dtype
        return f"Tensor({dtype} {self.shape}{', FRACTAL_NZ' if self.format == NZ else ''})"
