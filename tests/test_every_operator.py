"""What holds for every public operator alike: strides, read-only inputs, out=, threads, and any nonsense at all."""

import numpy as np
import pytest
from cases.calls import CALLS, call

import moe_native
from moe_native import set_num_threads
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched, read_only, strided


def test_no_operator_is_left_out():
    assert set(CALLS) == {name for name in vars(moe_native) if name.startswith("npu_")}


@pytest.fixture(params=CALLS)
def operator(request):
    return request.param


@pytest.fixture
def arguments(operator):
    return CALLS[operator](np.random.default_rng(0))


def arrays_as(convert, arguments):
    return {n: convert(a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}


def test_inputs_are_neither_modified_nor_required_to_be_writeable(operator, arguments):
    copies = arrays_as(np.copy, arguments)
    needed = call(operator, arguments)
    for name, copy in copies.items():
        if isinstance(copy, np.ndarray):
            assert_same_bits(arguments[name], copy)
    for seen, result in zip(call(operator, arrays_as(read_only, arguments)), needed, strict=True):
        assert_same_bits(seen, result)


def test_strided_inputs(operator, arguments):
    needed = call(operator, arguments)
    for seen, result in zip(call(operator, arrays_as(strided, arguments)), needed, strict=True):
        assert_same_bits(seen, result)


def unaligned(array):
    """Return an equal array at an odd address."""
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    view = np.ndarray(array.shape, array.dtype, memory.data)
    view[...] = array
    return view


def test_unaligned_inputs(operator, arguments):
    needed = call(operator, arguments)
    for seen, result in zip(call(operator, arrays_as(unaligned, arguments)), needed, strict=True):
        assert_same_bits(seen, result)


@pytest.mark.parametrize("threads", [2, 5])
def test_thread_counts(operator, arguments, threads):
    try:
        set_num_threads(1)
        needed = call(operator, arguments)
        set_num_threads(threads)
        for seen, result in zip(call(operator, arguments), needed, strict=True):
            assert_same_bits(seen, result)
    finally:
        set_num_threads(0)


def test_out_is_written_whole_and_nothing_around_it(operator, arguments):
    needed = call(operator, arguments)
    guards = [guarded(result.shape, result.dtype) for result in needed]
    outs = tuple(array for array, _ in guards)
    results = call(operator, arguments, out=outs if len(outs) > 1 else outs[0])
    for (array, check), seen, result in zip(guards, results, needed, strict=True):
        check()
        assert np.shares_memory(seen, array) or array.size == 0
        assert_same_bits(array, result)


def test_out_may_be_partial(operator, arguments):
    needed = call(operator, arguments)
    if len(needed) == 1:
        return
    for i, result in enumerate(needed):
        out = tuple(np.empty_like(result) if j == i else None for j in range(len(needed)))
        for seen, other in zip(call(operator, arguments, out=out), needed, strict=True):
            assert_same_bits(seen, other)


def test_out_that_does_not_fit_is_refused_untouched(operator, arguments):
    needed = call(operator, arguments)
    for i, result in enumerate(needed):
        for shape, dtype in [((*result.shape, 2), result.dtype), (result.shape, np.complex64)]:
            array, check = guarded(shape, dtype)
            outs = tuple(array if j == i else None for j in range(len(needed)))
            with pytest.raises(ValueError, match="out"):
                call(operator, arguments, out=outs if len(outs) > 1 else array)
            check()
            assert is_untouched(array)


def test_out_that_overlaps_an_input_is_refused(operator, arguments):
    needed = call(operator, arguments)
    for i, result in enumerate(needed):
        if result.size == 0:
            continue
        for name, value in arguments.items():
            if not isinstance(value, np.ndarray):
                continue
            memory = np.zeros(value.nbytes + result.nbytes, np.uint8)
            view = np.ndarray(value.shape, value.dtype, memory.data)
            view[...] = value
            offset = max(0, value.nbytes - result.dtype.itemsize) // result.dtype.itemsize * result.dtype.itemsize
            array = np.ndarray(result.shape, result.dtype, memory.data, offset=offset)
            outs = tuple(array if j == i else None for j in range(len(needed)))
            with pytest.raises(ValueError, match="overlap"):
                call(operator, arguments | {name: view}, out=outs if len(outs) > 1 else array)
            np.testing.assert_array_equal(view, value)


def nonsense(rng, value):
    """Something else in place of an argument: often of the right type, so that deeper checks are reached."""
    if isinstance(value, np.ndarray) and rng.random() < 0.9:
        kind = rng.integers(6)
        if kind == 0:
            return rng.permutation(value.reshape(-1))[: rng.integers(value.size + 1)]
        if kind == 1:
            shape = tuple(rng.integers(0, 9, rng.integers(0, 5)))
            return np.resize(value, shape) if value.size else np.zeros(shape, value.dtype)
        if kind == 2:
            dtype = rng.choice([bool, np.int8, np.int32, np.int64, np.uint8, np.float16, np.float32, np.float64])
            with np.errstate(all="ignore"):
                return value.astype(dtype if rng.random() < 0.8 else bfloat16)
        if kind == 3:
            return np.moveaxis(value, 0, -1) if value.ndim else value
        changed = value.copy()
        extremes = [0, 1, -1, 7, 127, -128, 2**15, 2**31 - 1, -(2**31), 2**40, -(2**62), 2**63 - 1]
        if kind == 4 and value.dtype.kind in "iu":
            info = np.iinfo(value.dtype)
            fitting = [e for e in extremes if info.min <= e <= info.max]
            changed.reshape(-1)[rng.integers(0, max(1, value.size), 3)[: value.size]] = rng.choice(fitting)
        elif value.dtype.kind not in "iub":
            changed.reshape(-1)[rng.integers(0, max(1, value.size), 3)[: value.size]] = rng.choice(
                np.array([np.nan, np.inf, -np.inf, 0.0, 3e4, -6e-8]).astype(value.dtype)
            )
        return changed
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.8:
        return int(rng.choice([-(2**63), -2, -1, 0, 1, 2, 3, 5, 7, 29, 1000, 2**31, 2**62, 2**63 - 1]))
    if isinstance(value, list) and rng.random() < 0.8:
        return [int(rng.choice([-1, 0, 1, 2, 5, 6, 33, 2**62])) for _ in range(rng.integers(0, 4))]
    if isinstance(value, bool) and rng.random() < 0.8:
        return not value
    return rng.choice(np.array([None, 0, 1.5, "gelu", "", True, np.nan, object()], object))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
def test_nonsense_is_computed_or_refused(operator):
    """Any arguments at all: a result, or TypeError or ValueError with the guarded outputs as they were."""
    outcomes = {"computed": 0, "refused": 0}
    for seed in range(400):
        rng = np.random.default_rng(seed)
        arguments = CALLS[operator](rng)
        valid = call(operator, arguments)
        for name in rng.choice(list(arguments), min(len(arguments), rng.integers(1, 4)), replace=False):
            arguments[name] = nonsense(rng, arguments[name])
        guards = [guarded(result.shape, result.dtype) for result in valid]
        outs = tuple(array for array, _ in guards) if rng.random() < 0.5 else (None,) * len(valid)
        try:
            call(operator, arguments, out=outs if len(outs) > 1 else outs[0])
            outcomes["computed"] += 1
        except (TypeError, ValueError) as error:
            outcomes["refused"] += 1
            assert str(error).startswith((operator, "NzArray")), (seed, str(error))  # noqa: PT017
            for array, _ in guards:
                assert is_untouched(array), (seed, arguments)
        for _, check in guards:
            check()
    assert min(outcomes.values()) > 10, outcomes
