"""npu_swiglu: results against the oracle within a derived bound, what must hold for any input, every refusal."""

import numpy as np
import pytest
from cases.quant import PAIRS, SWIGLU, SWIGLU_BFLOAT16, SWIGLU_FLOAT16
from hypothesis import given, settings
from hypothesis import strategies as st

import moe_native
from moe_native import npu_format_cast, npu_swiglu, set_num_threads
from moe_native.oracle import quant as oracle
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only, round_to, strided

FLOATS = [np.dtype(np.float32), np.dtype(np.float16), bfloat16]

# Half a unit in the last place of a normal result, and of a subnormal one; the product was rounded to float32 already.
ROUNDING = {FLOATS[0]: (0.0, 0.0), FLOATS[1]: (2.0**-11, 2.0**-25), bfloat16: (2.0**-8, 2.0**-134)}


def bound(x, dim):
    """How far a result may be from the oracle's.

    In units of 2^-24, relative: exp 2 (one unit in the last place), sum 1, quotient 1, product 1. Within that unit of
    the largest float32 exp may overflow or not, which makes the quotient 0 or about 88.72 * exp(-88.72). Underflow of
    the quotient and of the product cost half the smallest subnormal each. Then comes one rounding to the dtype.
    """
    with np.errstate(all="ignore"):
        a, b = np.split(x.astype(np.float64), 2, axis=dim)
        exact = np.abs(oracle.swiglu(x, dim))
        lost = np.where((a > -88.73) & (a < -88.72), 88.73 * np.exp(-88.72), 0.0)
        before = 5 * 2.0**-24 * (1 + 2.0**-20) * exact + (lost + 2.0**-150) * np.abs(b) + 2.0**-150
        relative, absolute = ROUNDING[x.dtype]
        return before + relative * (exact + before) + absolute


def assert_near(seen, x, dim):
    needed = oracle.swiglu(x, dim)
    assert seen.dtype == x.dtype
    assert seen.shape == needed.shape
    # Overflow to inf happens from half a step above the largest number on: there both neighbours are right.
    largest = float(np.finfo(np.float32).max if x.dtype != np.float16 else 65504)
    seen = seen.astype(np.float64)
    finite = np.isfinite(needed)
    np.testing.assert_array_equal(np.isnan(seen), np.isnan(needed))
    np.testing.assert_array_equal(seen[~finite], needed[~finite])
    overflowed = finite & np.isinf(seen)
    assert (np.abs(needed[overflowed]) > largest * (1 - 2.0**-9)).all()
    close = finite & ~overflowed
    assert (np.abs(seen[close] - needed[close]) <= bound(x, dim)[close]).all()


@pytest.mark.parametrize("dim", SWIGLU)
def test_worked_number(dim):
    x = np.array(PAIRS, np.float32)
    for same in (dim, dim - 2 if dim >= 0 else dim + 2):
        seen = npu_swiglu(x, same)
        np.testing.assert_allclose(seen, SWIGLU[dim], rtol=2 * 5 * 2.0**-24, atol=0)
        np.testing.assert_array_equal(np.signbit(seen), np.signbit(SWIGLU[dim]))


@pytest.mark.parametrize(("dtype", "needed"), [(bfloat16, SWIGLU_BFLOAT16), (np.float16, SWIGLU_FLOAT16)])
def test_worked_number_rounded_once(dtype, needed):
    assert_same_bits(npu_swiglu(np.array(PAIRS, dtype)), np.array(needed).astype(dtype))


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FLOATS),
    shape=st.lists(st.sampled_from([1, 2, 3, 4, 6, 17]), min_size=0, max_size=4),
    half=st.sampled_from([1, 2, 7, 8, 15, 16, 17, 33, 1023, 1024, 1025]),
    dim=st.integers(0, 4),
    negative=st.booleans(),
    special=st.booleans(),
    views=st.booleans(),
)
def test_near_oracle(seed, dtype, shape, half, dim, negative, special, views):
    rng = np.random.default_rng(seed)
    dim = min(dim, len(shape))
    shape = [min(s, 3) for s in shape]
    shape.insert(dim, 2 * half)
    if special:  # every bit pattern: subnormal and huge numbers, inf and NaN
        x = np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    else:
        x = round_to(rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3), dtype)
    dim = dim - len(shape) if negative else dim
    assert_near(npu_swiglu(strided(x) if views else x, dim), x, dim)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_whole_range_of_exp(dtype):
    a = np.concatenate([np.linspace(-110, 110, 4001), [-200, -88, 88, 200, -1e4, 1e4]])
    a = round_to(a, dtype)
    for gate in (1, -3, 0.5):
        x = np.concatenate([a, np.full_like(a, gate)])
        assert_near(npu_swiglu(x), x, -1)
    y = npu_swiglu(np.array([-200, -1e4, 1, 1], dtype))
    np.testing.assert_array_equal(y, [0, 0])
    assert np.signbit(y).all()


def test_special_values():
    inf, nan = np.inf, np.nan
    a = [inf, inf, -inf, nan, 1, 0, 0, -200, 3e38]
    b = [2, 0, 1, 1, nan, inf, -1, 7, 3e38]
    y = npu_swiglu(np.array(a + b, np.float32))
    np.testing.assert_array_equal(y, [inf, nan, nan, nan, nan, nan, 0, 0, inf])
    np.testing.assert_array_equal(np.signbit(y[6:8]), [True, True])


def test_bits_do_not_depend_on_the_position():
    rng = np.random.default_rng(2)
    for dtype in FLOATS:
        a, b = round_to(rng.normal(size=(2, 77)) * 4, dtype)
        needed = npu_swiglu(np.concatenate([a, b]))
        for i in range(77):
            assert_same_bits(npu_swiglu(np.stack([a[i], b[i]])), needed[i : i + 1])


def test_any_dimension_gives_the_same_bits():
    x = np.random.default_rng(3).normal(size=(8, 6, 10)).astype(np.float16)
    needed = npu_swiglu(x, 2)
    for dim in range(3):
        assert_same_bits(np.moveaxis(npu_swiglu(np.moveaxis(x, 2, dim), dim), dim, 2), needed)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_any_number_of_threads(dim, threads):
    x = np.random.default_rng(4).normal(size=(258, 1030)).astype(bfloat16)
    set_num_threads(1)
    needed = npu_swiglu(x, dim)
    set_num_threads(threads)
    try:
        for _ in range(3):
            assert_same_bits(npu_swiglu(x, dim), needed)
    finally:
        set_num_threads(0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_instruction_set(dtype):
    x = round_to(np.random.default_rng(5).normal(size=(30, 1030)) * 5, dtype)
    needed = npu_swiglu(x)
    moe_native.isa_limit("baseline")
    try:
        assert_same_bits(npu_swiglu(x), needed)
    finally:
        moe_native.isa_limit(None)


def test_split_batch():
    x = np.random.default_rng(6).normal(size=(50, 66)).astype(np.float32)
    whole = npu_swiglu(x)
    for begin, end in [(0, 1), (1, 20), (20, 50)]:
        assert_same_bits(npu_swiglu(x[begin:end]), whole[begin:end])


def test_both_spellings_of_the_input():
    x = np.array(PAIRS, np.float32)
    assert_same_bits(npu_swiglu(input=x), npu_swiglu(x))
    assert_same_bits(npu_swiglu(self=x, dim=0), npu_swiglu(x, 0))
    with pytest.raises(TypeError, match="npu_swiglu: self: given as input too, needed one"):
        npu_swiglu(x, input=x)


def test_out():
    x = np.array(PAIRS, np.float16)
    out, check = guarded((2, 2), np.float16)
    assert npu_swiglu(x, out=out) is out
    check()
    assert_same_bits(out, npu_swiglu(x))


def test_bad_out():
    x = np.array(PAIRS, np.float32)
    memory = np.zeros((2, 4), np.float32)
    for out, exception in [
        (np.zeros((2, 4), np.float32), ValueError),
        (np.zeros((2, 2), np.float64), ValueError),
        (memory[:, ::2], ValueError),
        (read_only(np.zeros((2, 2), np.float32)), ValueError),
        ([0.0], TypeError),
        (x.reshape(-1)[:4].reshape(2, 2), ValueError),
    ]:
        before = np.array(out)
        with pytest.raises(exception, match="npu_swiglu: out: "):
            npu_swiglu(x, out=out)
        np.testing.assert_array_equal(np.array(out), before)


F32 = np.float32
REFUSED = {
    "missing": ((None,), TypeError, 161001, "input: missing"),
    "a list": ((PAIRS,), TypeError, None, "input: list, needed an array"),
    "NZ": ((npu_format_cast(np.zeros((2, 4), F32), 29),), TypeError, None, "input: NzArray"),
    "int32": ((np.ones((2, 4), np.int32),), TypeError, 161002, "input: dtype int32, needed one of float16"),
    "float64": ((np.ones((2, 4)),), TypeError, 161002, "input: dtype float64"),
    "bool": ((np.ones((2, 4), bool),), TypeError, 161002, "input: dtype bool"),
    "rank 0": ((np.array(1, F32),), ValueError, 561002, r"input: shape \(\), needed 1 to 8 dimensions"),
    "rank 9": ((np.ones((2,) * 9, F32),), ValueError, None, "9 dimensions"),
    "dim 2": ((np.ones((2, 4), F32), 2), ValueError, 561002, "dim: 2, needed -2 to 1"),
    "dim -3": ((np.ones((2, 4), F32), -3), ValueError, 561002, "dim: -3, needed -2 to 1"),
    "dim huge": ((np.ones((2, 4), F32), -(2**63)), ValueError, 561002, "dim: -9223372036854775808"),
    "dim float": ((np.ones((2, 4), F32), 1.0), TypeError, None, "dim: float, needed an int"),
    "dim bool": ((np.ones((2, 4), F32), True), TypeError, None, "dim: True, needed an int"),
    "dim None": ((np.ones((2, 4), F32), None), TypeError, None, "dim: NoneType, needed an int"),
    "odd": (
        (np.ones((2, 3), F32),),
        ValueError,
        561002,
        r"input: shape \(2, 3\), needed an even number in dimension 1",
    ),
    "odd dim 0": ((np.ones((3, 2), F32), 0), ValueError, 561002, "needed an even number in dimension 0"),
    "empty": ((np.ones((0, 4), F32),), ValueError, 561002, r"input: shape \(0, 4\), needed no empty dimension"),
    "empty dim": ((np.ones((4, 0), F32),), ValueError, 561002, "needed no empty dimension"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    arguments, exception, status, message = REFUSED[name]
    out, check = guarded((2, 2), F32)
    with pytest.raises(exception, match=message) as caught:
        npu_swiglu(*arguments, out=out)
    assert str(caught.value).startswith("npu_swiglu: ")
    assert getattr(caught.value, "status", None) == status
    assert is_untouched(out)
    check()
