"""Arrays to the device and back: data types, layouts, views, and what does not fit."""

import math

import ml_dtypes
import numpy as np
import pytest

import acl_binding as acl
from acl_binding._cdef import ffi
from acl_binding._layout import ACL_DTYPES, FORMATS, from_nz, numpy_dtype, to_nz
from moe_native.testing import assert_same_bits, bfloat16


def described(device, tensor):
    """What the library says of the tensor: dtype, format, offset, shape, strides, storage shape."""
    handle = tensor.make_handle()
    numbers = []
    for name, ctype in [
        ("aclGetDataType", "aclDataType *"),
        ("aclGetFormat", "aclFormat *"),
        ("aclGetViewOffset", "int64_t *"),
    ]:
        place = ffi.new(ctype)
        device.invoke(name, handle, place)
        numbers.append(int(place[0]))
    for name in ("aclGetViewShape", "aclGetViewStrides", "aclGetStorageShape"):
        values, count = ffi.new("int64_t **"), ffi.new("uint64_t *")
        device.invoke(name, handle, values, count)
        numbers.append(tuple(values[0][0 : count[0]]))
    device.invoke("aclDestroyTensor", handle)
    return tuple(numbers)


@pytest.mark.parametrize("name", ACL_DTYPES)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 5), (7,), (1, 1, 1, 1, 2, 1, 1, 2)], ids=str)
def test_every_data_type_there_and_back(acl_device, name, shape):
    bits = np.random.default_rng(0).integers(0, 256, (*shape, numpy_dtype(name).itemsize), dtype=np.uint8)
    if name == "bool":
        bits &= 1
    array = bits.view(numpy_dtype(name)).reshape(shape)
    tensor = acl_device.tensor(array)
    assert_same_bits(tensor.numpy(), array)
    assert tensor.nbytes == array.nbytes
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    assert described(acl_device, tensor) == (ACL_DTYPES[name], 2, 0, shape, strides, shape)
    other = acl_device.zeros(shape, name)
    assert not other.numpy().view(np.uint8).any() if shape else True
    other.copy_from(array)
    assert_same_bits(other.numpy(), array)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.T,
        lambda a: a[::-1, ::2],
        lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: a.tolist(),
        lambda a: np.asfortranarray(a),
        lambda a: np.lib.stride_tricks.as_strided(a, writeable=False),
    ],
)
def test_arrays_of_any_layout(acl_device, change):
    array = change(np.arange(24.0).reshape(4, 6))
    assert_same_bits(acl_device.tensor(array).numpy(), np.ascontiguousarray(array, np.float64))


def test_conversion(acl_device):
    tensor = acl_device.tensor([1.5, 2.5], dtype="bfloat16")
    assert tensor.dtype == bfloat16
    assert_same_bits(tensor.numpy(), np.array([1.5, 2.5], bfloat16))


def test_memory_is_aligned(acl_device):
    for size in (1, 31, 33, 100):
        assert int(ffi.cast("uintptr_t", acl_device.zeros((size,), "int8").buffer.address)) % 32 == 0


def test_views(acl_device):
    array = np.arange(40, dtype=np.int32).reshape(5, 8)
    transposed = acl_device.tensor(array, shape=(8, 5), strides=(1, 8))
    assert_same_bits(transposed.numpy(), np.ascontiguousarray(array.T))
    assert_same_bits(transposed.storage(), array)
    column = acl_device.tensor(array, shape=(5,), strides=(8,), offset=3)
    assert_same_bits(column.numpy(), np.ascontiguousarray(array[:, 3]))
    assert described(acl_device, column) == (3, 2, 3, (5,), (8,), (5, 8))
    flat = acl_device.tensor(array, storage_shape=(40,), format="NCL")
    assert described(acl_device, flat) == (3, FORMATS["NCL"], 0, (5, 8), (8, 1), (40,))
    assert_same_bits(flat.numpy(), array)
    nothing = acl_device.tensor(array, shape=(0, 5), strides=(9, 9), offset=7)
    assert nothing.numpy().shape == (0, 5)
    assert acl_device.tensor(array, shape=(3, 4), strides=(0, 1)).numpy().tolist() == [[0, 1, 2, 3]] * 3


def test_empty_views(acl_device):
    view = acl_device.empty((3, 2), "float32", strides=(5, 2), offset=4)
    assert view.storage_shape == (4 + 2 * 5 + 2 + 1,)
    assert acl_device.empty((2, 3), "int8", offset=2).storage_shape == (8,)
    assert acl_device.zeros((2, 3), "int8", storage_shape=(9,)).storage().shape == (9,)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, bfloat16, np.float32], ids=str)
@pytest.mark.parametrize("shape", [(16, 32), (17, 33), (3, 20, 40), (2, 2, 1, 1)], ids=str)
def test_nz(acl_device, shape, dtype):
    array = np.random.default_rng(0).integers(-9, 9, shape).astype(dtype)
    tensor = acl_device.tensor(array, format="NZ")
    c0 = 32 // np.dtype(dtype).itemsize
    stored = (*shape[:-2], -(-shape[-1] // c0), -(-shape[-2] // 16), 16, c0)
    assert described(acl_device, tensor)[1] == 29
    assert described(acl_device, tensor)[5] == tensor.storage_shape == stored
    assert_same_bits(tensor.numpy(), array)
    tiles = tensor.storage()
    for index in [(0, 0), (shape[-2] - 1, shape[-1] - 1), (shape[-2] // 2, shape[-1] // 2)]:
        k, n = index
        assert tiles[..., n // c0, k // 16, k % 16, n % c0].tolist() == array[..., k, n].tolist()
    again = acl_device.tensor(tiles, format="FRACTAL_NZ", shape=shape)
    assert_same_bits(again.numpy(), array)
    assert again.is_like(tensor)
    assert_same_bits(from_nz(to_nz(array), shape), array)


def test_int4(acl_device):
    packed = np.arange(12, dtype=np.int32).reshape(3, 4)
    tensor = acl_device.tensor(packed, dtype="int4")
    assert described(acl_device, tensor) == (29, 2, 0, (3, 32), (32, 1), (3, 32))
    assert tensor.nbytes == packed.nbytes
    assert_same_bits(tensor.numpy(), packed)
    tensor.copy_from(packed + 1)
    assert_same_bits(tensor.numpy(), packed + 1)
    assert repr(tensor) == "Tensor(int4 (3, 32))"
    assert acl_device.empty((3, 32), "int4").nbytes == 48
    assert acl_device.empty((16, 64), "int4", format="NZ").storage_shape == (1, 1, 16, 64)
    tiles = np.arange(16 * 8, dtype=np.int32).reshape(1, 1, 16, 8)
    nz = acl_device.tensor(tiles, dtype="int4", format="NZ", shape=(16, 64))
    assert described(acl_device, nz)[3:] == ((16, 64), (64, 1), (1, 1, 16, 64))
    assert nz.storage().size == tiles.size


REFUSED = {
    "dtype": (lambda d: d.tensor(np.array(["a"])), TypeError, "dtype: <U1 has no counterpart"),
    "object": (lambda d: d.tensor(np.array([None])), TypeError, "has no counterpart"),
    "ml_dtypes int4": (lambda d: d.tensor(np.zeros(2, ml_dtypes.int4)), TypeError, "int4 has no counterpart"),
    "format": (lambda d: d.tensor([1], format="N"), ValueError, "format: 'N', needed one of ND, NCHW"),
    "nz of a row": (lambda d: d.tensor([1, 2], format="NZ"), ValueError, "needed at least 2 dimensions"),
    "nz of int4": (
        lambda d: d.tensor(np.zeros((2, 2), np.int32), dtype="int4", format="NZ"),
        ValueError,
        "needed its tiles and shape=",
    ),
    "int4 of nothing": (lambda d: d.tensor(np.int32(1), dtype="int4"), ValueError, "needed at least 1 dimension"),
    "storage": (lambda d: d.tensor([1, 2], storage_shape=(3,)), ValueError, "needed as many elements"),
    "beyond": (lambda d: d.tensor([1, 2], shape=(3,)), ValueError, "ends at element 3, needed at most the 2"),
    "stride": (lambda d: d.tensor([1, 2], shape=(2,), strides=(2,)), ValueError, "ends at element 3"),
    "offset": (lambda d: d.tensor([1, 2], shape=(2,), offset=1), ValueError, "ends at element 3"),
    "negative": (
        lambda d: d.tensor([1, 2], shape=(2,), strides=(-1,)),
        ValueError,
        "strides: -1, needed a number of 0",
    ),
    "strides": (lambda d: d.tensor([1, 2], strides=(1, 1)), ValueError, "needed one for each dimension"),
    "strides of nothing": (
        lambda d: d.empty((2, 3), "int8", strides=(1,)),
        ValueError,
        "needed one for each dimension",
    ),
    "shape": (lambda d: d.empty((-1,), "int8"), ValueError, "shape: -1, needed a number of 0 or more"),
    "shape of floats": (lambda d: d.empty((2.7, 3), "int8"), TypeError, "shape: 2.7, needed an int"),
    "shape of digits": (lambda d: d.tensor([1], shape="1"), TypeError, "shape: '1', needed an int"),
    "no shape": (lambda d: d.empty(3, "int8"), TypeError, "shape: 3, needed a sequence of int"),
    "offset of halves": (lambda d: d.empty((3,), "int8", offset=0.5), TypeError, "offset: 0.5, needed an int"),
    "format of halves": (lambda d: d.empty((3,), "int8", format=2.5), TypeError, "format: 2.5, needed an int"),
    "too long": (lambda d: d.empty((0, 2**63), "int8"), ValueError, "shape: 9223372036854775808, needed .* below 2"),
    "too large": (lambda d: d.empty((2**40, 2**40), "int8"), ValueError, "nbytes: .*, needed .* below 2"),
    "text in nz": (lambda d: d.tensor(np.zeros((2, 2), "U20"), format="NZ"), TypeError, "has no counterpart"),
    "int4 in floats": (lambda d: d.tensor(np.ones((2, 4)), dtype="int4"), TypeError, "array: float64, needed integers"),
    "rows of halves": (lambda d: d.zeros((3, 3), "int4").numpy(), ValueError, r"shape: \(3, 3\) int4 in uint8"),
    "tiles": (
        lambda d: d.tensor(np.zeros((1, 1, 16, 32), np.int8), format="NZ", shape=(64, 64)),
        ValueError,
        "ends at element 4096, needed at most the 512",
    ),
    "workspace": (lambda d: d.workspace(-1), ValueError, "nbytes: -1, needed a number of 0 or more"),
    "read": (
        lambda d: d.zeros((4,), "int8").buffer.read(np.zeros((2, 4), np.int8)[:, ::2]),
        ValueError,
        "needed a C-contiguous one",
    ),
    "copy": (lambda d: d.zeros((2,), "int8").copy_from([1]), ValueError, "array: int64 .1,., needed int8 .2,."),
    "buffer": (lambda d: d.workspace(3).write(np.zeros(4, np.int8)), ValueError, "4 bytes, needed at most the 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit(acl_device, case):
    make, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        make(acl_device)


def test_reading_what_was_never_written(acl_device, expect_finding):
    expect_finding("uninitialised")
    acl_device.empty((3,), "float32").numpy()


def test_workspace_as_bytes(acl_device):
    memory = acl_device.workspace(6)
    memory.write(np.arange(3, dtype=np.int16))
    seen = np.empty(2, np.int16)
    memory.read(seen)
    assert seen.tolist() == [0, 1]
    nothing = acl_device.workspace(0)
    assert nothing.address == ffi.NULL


def test_device(acl_library, acl_device):
    free, total = acl_device.memory()
    assert 0 < free <= total
    assert repr(acl_device) == "Device(0, open)"
    assert repr(acl_library).startswith("Library(")
    assert acl_library.version == (1, 13, 0)
    assert acl_library.device_count >= 1
    with pytest.raises(RuntimeError, match=r"device 0 was opened before; Library\.device makes another one"):
        acl_device.open()
    with acl_library.device() as other:
        pass
    with pytest.raises(RuntimeError, match="device 0 is closed"):
        other.zeros((2,), "int8")
    other.close()
    with pytest.raises(RuntimeError, match="device 0 was opened before"):
        other.open()
    assert isinstance(acl.open(acl_library.home), acl.Library)
