"""npu_format_cast and NzArray: every byte against the oracle, and every refusal."""

import copy
import pickle

import numpy as np
import pytest
from cases.format_cast import PLACES, SHAPES, WEIGHT, pack_int4
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_native import NzArray, limits, npu_format_cast, set_num_threads
from moe_native.oracle import format as oracle
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only, strided

DTYPES = [
    np.dtype(t)
    for t in (
        np.int8,
        np.uint8,
        np.float16,
        bfloat16,
        np.int16,
        np.uint16,
        np.float32,
        np.int32,
        np.uint32,
        np.float64,
        np.int64,
        np.uint64,
    )
]


def random(seed, shape, dtype):
    """Every bit pattern, NaN payloads included."""
    dtype = np.dtype(dtype)
    memory = np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.itemsize)
    return np.frombuffer(memory, dtype).reshape(shape)


def transposed(array):
    return read_only(np.ascontiguousarray(np.swapaxes(array, -1, -2)).swapaxes(-1, -2))


def misaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = np.ndarray(array.shape, array.dtype, memory.data, offset=1)
    view[...] = array
    return read_only(view)


LAYOUTS = {"contiguous": read_only, "transposed": transposed, "strided": strided, "misaligned": misaligned}


@pytest.mark.parametrize(("logical", "stored", "flat", "value"), PLACES)
def test_worked_places(logical, stored, flat, value):
    nz = npu_format_cast(WEIGHT, 29)
    assert nz.storage.shape == (2, 2, 2, 16, 32)
    assert nz.locate(*logical) == (flat, stored)
    assert nz.locate(*(np.int64(i) for i in logical)) == (flat, stored)
    assert nz.locate(*(i - size for i, size in zip(logical, nz.shape, strict=True))) == (flat, stored)
    assert nz.storage[stored] == nz.storage.ravel()[flat] == value


@pytest.mark.parametrize(("shape", "c0", "stored"), [case for case in SHAPES if case[0][0] < 8 or len(case[0]) == 2])
def test_worked_shapes(shape, c0, stored):
    nz = npu_format_cast(np.zeros(shape, np.int8), 29, c0=c0)
    assert nz.storage.shape == stored
    assert nz.c0 == c0
    assert nz.nbytes == np.prod(stored)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lead=st.sampled_from([(), (1,), (2,), (3,), (2, 2), (0,), (1, 2, 1, 2)]),
    k=st.sampled_from([0, 1, 15, 16, 17, 31, 70]),
    n=st.sampled_from([0, 1, 7, 15, 16, 31, 32, 33, 64, 65, 130]),
    dtype=st.sampled_from(DTYPES),
    c0=st.sampled_from([None, 2, 4, 8, 16, 32, 64]),
    layout=st.sampled_from(list(LAYOUTS)),
)
def test_equals_oracle(seed, lead, k, n, dtype, c0, layout):
    array = random(seed, (*lead, k, n), dtype)
    nz = npu_format_cast(LAYOUTS[layout](array), 29, c0=c0)
    bits = array.view(f"u{dtype.itemsize}")  # bits: the oracle assigns floats, which may quieten a NaN
    assert_same_bits(nz.storage.view(bits.dtype), oracle.format_cast(bits, 29, c0=c0))
    assert (nz.shape, nz.dtype, nz.ndim, nz.format) == (array.shape, dtype, array.ndim, 29)
    assert nz.c0 == (c0 or oracle.default_c0(dtype.itemsize))
    assert nz.storage.__array_interface__["data"][0] % 64 == 0 or nz.storage.size == 0
    assert_same_bits(nz.to_nd(), array)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32, np.int64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_enough_for_many_threads_and_streaming(dtype, layout):
    array = random(1, (3, 1003, 3011 // np.dtype(dtype).itemsize), dtype)
    needed = oracle.format_cast(array.view(f"u{array.itemsize}"), 29)
    for threads in (1, 2, 5):
        set_num_threads(threads)
        try:
            nz = npu_format_cast(LAYOUTS[layout](array), 29)
            assert_same_bits(nz.storage.view(needed.dtype), needed)
            assert_same_bits(nz.to_nd(), array)
        finally:
            set_num_threads(0)


@pytest.mark.parametrize("dtype", [np.int8, np.float32], ids=str)
def test_results_at_any_address(dtype):
    """Streaming stores start at a cache line wherever the result does."""
    array = random(2, (2, 1000, 4099), dtype)
    bits = f"u{array.itemsize}"
    needed = oracle.format_cast(array.view(bits), 29)
    for offset in (0, 1, 5, 16):
        for shape, make in [
            (needed.shape, lambda out: npu_format_cast(array, 29, out=out)),
            (array.shape, lambda out: npu_format_cast(NzArray(needed.view(array.dtype), array.shape), 2, out=out)),
        ]:
            memory = np.full(int(np.prod(shape)) * array.itemsize + 192, 0xA7, np.uint8)
            begin = -memory.__array_interface__["data"][0] % 64 + offset * array.itemsize
            out = np.ndarray(shape, dtype, memory.data, offset=begin)
            make(out)
            assert_same_bits(out.view(bits), needed if shape == needed.shape else array.view(bits))
            assert (memory[:begin] == 0xA7).all()
            assert (memory[begin + out.nbytes :] == 0xA7).all()


def test_padding_is_never_read():
    storage = oracle.format_cast(np.full((2, 20, 40), 127, np.int8), 29)
    garbage = np.where(storage == 127, oracle.format_cast(WEIGHT, 29), np.int8(127))
    before = garbage.copy()
    nz = NzArray(read_only(garbage), (2, 20, 40))
    assert_same_bits(nz.to_nd(), WEIGHT)
    assert_same_bits(nz.storage, before)


def test_the_same_object_comes_back():
    nz = npu_format_cast(WEIGHT, 29)
    assert npu_format_cast(nz, 29) is nz
    assert npu_format_cast(nz, 29, c0=32) is nz
    assert npu_format_cast(nz, 29, "int8") is nz
    assert npu_format_cast(WEIGHT, 2) is WEIGHT
    assert_same_bits(npu_format_cast(nz, 2), WEIGHT)
    assert_same_bits(nz.numpy(), WEIGHT)


def test_another_tile_width():
    nz = npu_format_cast(npu_format_cast(WEIGHT, 29), 29, c0=16)
    assert_same_bits(nz.storage, oracle.format_cast(WEIGHT, 29, c0=16))
    out = np.empty((2, 5, 2, 16, 8), np.int8)
    assert npu_format_cast(nz, 29, c0=8, out=out).storage is out
    assert_same_bits(out, oracle.format_cast(WEIGHT, 29, c0=8))


class TorchDtype:
    def __str__(self):
        return "torch.int32"


@pytest.mark.parametrize(
    ("dtype", "customize", "c0"),
    [
        (np.float32, None, 16),
        (np.int32, None, 16),
        (np.float32, 3, 8),
        (np.int32, 3, 8),
        (np.float32, np.int32, 8),
        (np.float32, "float32", 8),
        (np.float32, TorchDtype(), 8),
        (np.float32, 1, 16),
        (np.float32, np.float16, 16),
        (np.float16, None, 16),
        (np.float16, 2, 32),
        (np.float16, bfloat16, 16),
        (np.int8, 0, 8),
        (np.int8, 27, 16),
        (np.uint8, np.int64(4), 32),
        (np.float64, None, 4),
    ],
)
def test_customize_dtype(dtype, customize, c0):
    array = random(3, (17, 70), dtype)
    nz = npu_format_cast(array, 29, customize)
    assert nz.c0 == c0
    assert npu_format_cast(array, 29, customize_dtype=customize, c0=c0).c0 == c0
    assert_same_bits(nz.to_nd(), array)


def test_packed_int4():
    nibbles = np.random.default_rng(4).integers(-8, 8, (2, 20, 136), np.int8)
    packed = pack_int4(nibbles)
    needed = pack_int4(oracle.format_cast(nibbles, 29, c0=64))
    words = npu_format_cast(packed, 29, c0=8)
    assert_same_bits(words.storage, needed)
    # As on a device: two int4 a byte, cast as int8, read as int32.
    pairs = npu_format_cast(packed.view(np.int8), 29)
    assert pairs.shape == (2, 20, 68)
    again = pairs.view(np.int32)
    assert (again.shape, again.c0) == ((2, 20, 17), 8)
    assert again.storage.base is not None
    assert_same_bits(again.storage, needed)
    assert_same_bits(again.to_nd(), packed)
    assert_same_bits(npu_format_cast(packed, 29).to_nd(), packed)


def test_view_needs_whole_elements():
    with pytest.raises(ValueError, match="dtype: int32, needed one that divides a row of 41 bytes"):
        npu_format_cast(np.zeros((20, 41), np.int8), 29).view(np.int32)


def test_out():
    out, check = guarded((2, 2, 2, 16, 32), np.int8)
    nz = npu_format_cast(WEIGHT, 29, out=out)
    check()
    assert nz.storage is out
    assert_same_bits(out, oracle.format_cast(WEIGHT, 29))
    plain, check = guarded((2, 20, 40), np.int8)
    assert npu_format_cast(nz, 2, out=plain) is plain
    check()
    assert_same_bits(plain, WEIGHT)
    plain[...] = 0
    assert nz.to_nd(plain) is plain
    assert_same_bits(plain, WEIGHT)


def test_bad_out():
    nz = npu_format_cast(WEIGHT, 29)
    wide = np.zeros((2, 2, 2, 16, 64), np.int8)
    memory = np.zeros(4096, np.int8)
    inside = memory[:1600].reshape(2, 20, 40)
    for call, out, exception in [
        (lambda out: npu_format_cast(WEIGHT, 29, out=out), np.zeros((2, 2, 2, 32, 16), np.int8), ValueError),
        (lambda out: npu_format_cast(WEIGHT, 29, out=out), np.zeros((2, 2, 2, 16, 32), np.uint8), ValueError),
        (lambda out: npu_format_cast(WEIGHT, 29, out=out), wide[..., ::2], ValueError),
        (lambda out: npu_format_cast(WEIGHT, 29, out=out), read_only(np.zeros_like(nz.storage)), ValueError),
        (lambda out: npu_format_cast(WEIGHT, 29, out=out), [0], TypeError),
        (lambda out: npu_format_cast(inside, 29, out=out), memory.reshape(2, 2, 2, 16, 32), ValueError),
        (lambda out: npu_format_cast(nz, 2, out=out), np.zeros((2, 40, 20), np.int8), ValueError),
        (lambda out: npu_format_cast(nz, 2, out=out), nz.storage.reshape(-1)[:1600].reshape(2, 20, 40), ValueError),
        (lambda out: npu_format_cast(nz, 29, out=out), np.zeros_like(nz.storage), ValueError),
        (lambda out: npu_format_cast(WEIGHT, 2, out=out), np.zeros_like(WEIGHT), ValueError),
    ]:
        before = np.array(out)
        with pytest.raises(exception, match="npu_format_cast: out: "):
            call(out)
        np.testing.assert_array_equal(np.array(out), before)


REFUSED = {
    "no array": ((None, 29), {}, TypeError, None, "input: NoneType, needed an array"),
    "a list": (([[1]], 29), {}, TypeError, None, "input: list"),
    "bool": ((np.zeros((3, 3), bool), 29), {}, TypeError, 161002, "input: dtype bool, needed one of int8"),
    "complex": ((np.zeros((3, 3), complex), 29), {}, TypeError, None, "input: dtype complex128"),
    "text": ((np.zeros((3, 3), "U1"), 29), {}, TypeError, None, "input: dtype <U1"),
    "empty text": ((np.zeros((3, 3), "S0"), 29), {}, TypeError, None, "input: dtype"),
    "objects": ((np.zeros((3, 3), object), 29), {}, TypeError, None, "input: dtype object"),
    "big-endian": ((np.zeros((3, 3), ">f4"), 29), {}, TypeError, None, "input: dtype >f4"),
    "a number": ((np.array(1.0, np.float32), 29), {}, ValueError, 161002, r"input: shape \(\), needed 2 to 6"),
    "a vector": ((np.zeros(3, np.int8), 29), {}, ValueError, 161002, r"input: shape \(3,\), needed 2 to 6 dimensions"),
    "rank 7": ((np.zeros((1,) * 7, np.int8), 29), {}, ValueError, 161002, "needed 2 to 6 dimensions"),
    "rank 9": ((np.zeros((1,) * 9, np.int8), 29), {}, ValueError, None, "9 dimensions"),
    "format 3": ((WEIGHT, 3), {}, ValueError, None, r"acl_format: 3, needed 29 \(FRACTAL_NZ\) or 2 \(ND\)"),
    "format -1": ((WEIGHT, -1), {}, ValueError, None, "acl_format: -1"),
    "format None": ((WEIGHT, None), {}, TypeError, None, "acl_format: None, needed an int"),
    "format True": ((WEIGHT, True), {}, TypeError, None, "acl_format: True"),
    "format float": ((WEIGHT, 29.0), {}, TypeError, None, "acl_format: 29.0"),
    "c0 0": ((WEIGHT, 29), {"c0": 0}, ValueError, None, "c0: 0, needed 2, 4, 8, 16, 32 or 64"),
    "c0 24": ((WEIGHT, 29), {"c0": 24}, ValueError, None, "c0: 24"),
    "c0 128": ((WEIGHT, 29), {"c0": 128}, ValueError, None, "c0: 128"),
    "c0 float": ((WEIGHT, 29), {"c0": 8.0}, TypeError, None, "c0: float, needed an int"),
    "dtype 5": (
        (WEIGHT, 29, 5),
        {},
        ValueError,
        None,
        r"customize_dtype: 5, needed one of float32 \(0\), float16 \(1\)",
    ),
    "dtype int64": ((WEIGHT, 29, np.int64), {}, ValueError, None, "customize_dtype: .*int64.*, needed one of float32"),
    "dtype None-like": ((WEIGHT, 29, object()), {}, TypeError, None, "customize_dtype: "),
    "dtype torch": ((WEIGHT, 29, "torch.quint4x2"), {}, TypeError, None, "customize_dtype: 'torch.quint4x2'"),
    "dtype True": ((WEIGHT, 29, True), {}, TypeError, None, "customize_dtype: True"),
    "dtype and c0": ((WEIGHT, 29, 3), {"c0": 16}, ValueError, None, "c0: 16, needed 8 as customize_dtype int32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    arguments, keywords, exception, status, message = REFUSED[name]
    out, check = guarded((2, 2, 2, 16, 32), np.int8)
    with pytest.raises(exception, match=message) as caught:
        npu_format_cast(*arguments, **keywords, out=out)
    assert str(caught.value).startswith("npu_format_cast: ")
    assert getattr(caught.value, "status", None) == status
    assert is_untouched(out)
    check()


BAD_STORAGE = {
    "k": (np.zeros((2, 2, 2, 16, 32), np.int8), (2, 33, 40), ValueError, r"needed \(2, 2, 3, 16, 32\) for shape"),
    "n": (np.zeros((2, 2, 2, 16, 32), np.int8), (2, 20, 65), ValueError, r"needed \(2, 3, 2, 16, 32\)"),
    "experts": (np.zeros((2, 2, 2, 16, 32), np.int8), (3, 20, 40), ValueError, r"needed \(3, 2, 2, 16, 32\)"),
    "k0": (np.zeros((2, 2, 2, 32, 32), np.int8), (2, 20, 40), ValueError, r"needed \(2, 2, 2, 16, 32\)"),
    "c0": (np.zeros((2, 2, 2, 16, 30), np.int8), (2, 20, 40), ValueError, "tiles of 30 columns"),
    "c0 of 0": (np.zeros((2, 2, 2, 16, 0), np.int8), (2, 20, 40), ValueError, "tiles of 0 columns"),
    "rank": (np.zeros((2, 2, 16, 32), np.int8), (2, 20, 40), ValueError, "needed 5 dimensions"),
    "vector": (np.zeros((2, 2, 2, 16, 32), np.int8), (20,), ValueError, "needed 2 to 6 dimensions"),
    "many": (np.zeros((1,) * 8, np.int8), (1,) * 7, ValueError, "needed 2 to 6 dimensions"),
    "too many": (np.zeros((1,) * 8, np.int8), (1,) * 9, ValueError, "9 dimensions"),
    "negative": (np.zeros((2, 2, 2, 16, 32), np.int8), (2, -20, 40), ValueError, "dimension 1 of the shape is -20"),
    "huge": (np.zeros((2, 2, 2, 16, 32), np.int8), (2, 2**62, 40), ValueError, "too large for 64-bit sizes"),
    "no array": ([1], (1, 1), TypeError, "storage: list, needed an array"),
    "bool": (np.zeros((1, 1, 16, 32), bool), (1, 1), TypeError, "dtype bool"),
    "complex": (np.zeros((1, 1, 16, 4), complex), (1, 1), TypeError, "dtype complex128"),
    "float shape": (np.zeros((1, 1, 16, 32), np.int8), (1.0, 1), TypeError, "float"),
}


@pytest.mark.parametrize("name", BAD_STORAGE)
def test_storage_that_does_not_belong_to_the_shape(name):
    storage, shape, exception, message = BAD_STORAGE[name]
    with pytest.raises(exception, match=message):
        NzArray(storage, shape)


def test_storage_from_elsewhere():
    storage = oracle.format_cast(WEIGHT, 29)
    nz = NzArray(storage, [2, np.int64(20), 40])
    assert nz.storage is storage
    assert nz.shape == (2, 20, 40)
    assert_same_bits(nz.to_nd(), WEIGHT)
    for view in (strided(storage), misaligned(storage.view(np.int16)).view(np.int16)):
        width = 40 // view.itemsize
        copied = NzArray(view, (2, 20, width))
        assert copied.storage.flags.carray
        assert_same_bits(copied.storage, np.ascontiguousarray(view))


def test_index_errors():
    nz = npu_format_cast(WEIGHT, 29)
    for index, message in [
        ((2, 0, 0), "2 in dimension 0, needed -2 to 1"),
        ((0, 20, 0), "20 in dimension 1, needed -20 to 19"),
        ((0, 0, -41), "-41 in dimension 2"),
        ((0, 0), "2 numbers, needed 3"),
        ((0, 0, 0, 0), "4 numbers, needed 3"),
        ((0, 0, 2**70), "in dimension 2"),
    ]:
        with pytest.raises(IndexError, match=message):
            nz.locate(*index)
    with pytest.raises(TypeError):
        nz.locate(0, 0, 0.5)
    with pytest.raises(IndexError, match="needed 0 to -1"):
        npu_format_cast(np.zeros((0, 3), np.int8), 29).locate(0, 0)


def test_as_an_array():
    nz = npu_format_cast(WEIGHT, 29)
    assert_same_bits(np.asarray(nz), WEIGHT)
    assert_same_bits(np.array(nz, np.float32), WEIGHT.astype(np.float32))
    with pytest.raises(ValueError, match="copy: False"):
        np.array(nz, copy=False)
    assert repr(nz) == "NzArray(shape=(2, 20, 40), dtype=int8, c0=32)"
    for twin in (copy.deepcopy(nz), pickle.loads(pickle.dumps(nz))):
        assert (twin.shape, twin.c0) == (nz.shape, nz.c0)
        assert twin.storage is not nz.storage
        assert_same_bits(twin.storage, nz.storage)


def test_other_operators_refuse_it():
    from moe_native import npu_moe_finalize_routing

    with pytest.raises(TypeError, match="expanded_permuted_rows: NzArray, needed an array"):
        npu_moe_finalize_routing(npu_format_cast(np.zeros((4, 3), np.float32), 29), None, None, None, None, WEIGHT)


class Lender:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_arrays_of_others():
    assert_same_bits(npu_format_cast(Lender(WEIGHT.copy()), 29).to_nd(), WEIGHT)
    assert_same_bits(npu_format_cast(Lender(WEIGHT.copy()), 2), WEIGHT)


def test_limits():
    for dtype in DTYPES:
        array = np.zeros((16, 32), dtype)
        with limits("atlas-a2"):
            if dtype.itemsize < 8 and dtype not in (np.int16, np.uint16):
                npu_format_cast(array, 29)
            else:
                with pytest.raises(TypeError, match=f"input: dtype {dtype}"):
                    npu_format_cast(array, 29)
