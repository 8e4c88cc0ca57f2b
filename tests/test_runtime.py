"""Threads, limits, instruction sets, forked children, and what is accepted as an array."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import moe_native
from moe_native import get_num_threads, limits, npu_moe_finalize_routing, set_num_threads
from moe_native.testing import assert_same_bits, bfloat16

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
INDEX = np.array([3, 1, 0, 2], np.int32)


def combine(rows=ROWS, index=INDEX):
    return npu_moe_finalize_routing(rows, None, None, None, None, index)


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )


def test_thread_count():
    try:
        set_num_threads(3)
        assert get_num_threads() == 3
    finally:
        set_num_threads(0)
    with pytest.raises(ValueError, match="threads: -1, needed >= 0"):
        set_num_threads(-1)
    for wrong in (True, 1.5, "2"):
        with pytest.raises(TypeError):
            set_num_threads(wrong)


def test_no_more_threads_than_a_machine_has():
    try:
        set_num_threads(10**30)
        assert get_num_threads() == 1024
        assert_same_bits(combine(), ROWS[INDEX])
    finally:
        set_num_threads(0)


def test_openmp_limits_apply():
    try:
        set_num_threads(4)
        with threadpool_limits(1, user_api="openmp"):
            assert get_num_threads() == 1
        assert get_num_threads() == 4
    finally:
        set_num_threads(0)


def test_environment_sets_threads():
    seen = run("import moe_native; print(moe_native.get_num_threads())", OMP_NUM_THREADS="5")
    assert seen.stdout.strip() == "5", seen.stderr


def test_forked_child_and_its_threads_compute():
    seen = run(
        """
import os, threading
import numpy as np, moe_native
moe_native.set_num_threads(4)
rows = np.ones((4000, 600), np.float32)
index = np.arange(4000, dtype=np.int32)
call = lambda: moe_native.npu_moe_finalize_routing(rows, None, None, None, None, index)
needed = call()
child = os.fork()
if child == 0:
    good = (call() == needed).all()
    results = []
    threads = [threading.Thread(target=lambda: results.append((call() == needed).all())) for _ in range(3)]
    [t.start() for t in threads], [t.join() for t in threads]
    os._exit(0 if good and all(results) and len(results) == 3 else 1)
assert os.waitpid(child, 0)[1] == 0
print("done")
"""
    )
    assert seen.stdout.strip() == "done", seen.stderr


def test_concurrent_calls():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 200)).astype(np.float32)
    index = rng.permutation(3000).astype(np.int32)
    needed = combine(rows, index)
    results = []
    threads = [threading.Thread(target=lambda: results.append(combine(rows[::1], index))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for result in results:
        assert_same_bits(result, needed)


def test_limits_name():
    with pytest.raises(ValueError, match="limits: name: 'a2', needed one of"), limits("a2"):
        pass


def test_limits_are_restored_and_belong_to_the_thread():
    rows = ROWS.reshape(2, 2, 3)

    def padded():
        return npu_moe_finalize_routing(rows, None, None, None, None, INDEX, None, 3)

    with limits("seed"):
        with limits("none"):
            padded()
        with pytest.raises(ValueError, match="drop_pad_mode"):
            padded()
        other = []
        thread = threading.Thread(target=lambda: other.append(padded()))
        thread.start()
        thread.join()
        assert len(other) == 1
    padded()


def test_limits_from_the_environment():
    code = """
import numpy as np, moe_native
rows, index = np.ones((1, 2, 3), np.float32), np.zeros(2, np.int32)
try:
    moe_native.npu_moe_finalize_routing(rows, None, None, None, None, index, None, 3)
    print("accepted")
except (ValueError, RuntimeError) as error:
    print(type(error).__name__, error)
"""
    assert run(code).stdout == "accepted\n"
    assert "drop_pad_mode: 3" in run(code, MOE_NATIVE_LIMITS="seed").stdout
    assert 'RuntimeError npu_moe_finalize_routing: MOE_NATIVE_LIMITS: unknown limits "no"' in (
        run(code, MOE_NATIVE_LIMITS="no").stdout
    )


def test_instruction_set_from_the_environment():
    code = """
import numpy as np, moe_native
try:
    moe_native.npu_moe_finalize_routing(np.ones((1, 3), np.float32), None, None, None, None, np.zeros(1, np.int32))
    print(moe_native.get_isa_limit())
except RuntimeError as error:
    print(error)
"""
    assert run(code, MOE_NATIVE_ISA="baseline").stdout == "baseline\n"
    assert run(code).stdout == moe_native.get_isa_limit() + "\n"
    assert 'unknown instruction set "mmx"' in run(code, MOE_NATIVE_ISA="mmx").stdout


def test_every_instruction_set_gives_the_same_bits():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(40, 1031)).astype(bfloat16)
    index = rng.permutation(40).astype(np.int32)
    needed = combine(rows, index)
    tried = 0
    try:
        for name in ("baseline", "avx2", "avx512", "avx512vnni", "avx512bf16", "neon", "dotprod", "i8mm"):
            try:
                moe_native.isa_limit(name)
            except RuntimeError:  # not of this processor, or of another architecture
                continue
            tried += 1
            assert_same_bits(combine(rows, index), needed)
    finally:
        moe_native.isa_limit(None)
    assert tried >= 1


class ArrayInterface:
    def __init__(self, array):
        self.array = array
        self.__array_interface__ = array.__array_interface__


class DLPack:
    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("wrapper", [ArrayInterface, DLPack])
def test_array_protocols(wrapper):
    result = combine(wrapper(ROWS), wrapper(INDEX))
    assert type(result) is np.ndarray
    assert_same_bits(result, combine())


class FakeTorch:
    """The parts of torch that are used, so that its absence does not leave the path unproven."""

    int16 = "int16"
    bfloat16 = "bfloat16"

    class Tensor:
        def __init__(self, array, dtype):
            self.array, self.dtype = array, dtype

        def detach(self):
            return self

        def view(self, dtype):
            assert dtype == FakeTorch.int16
            return FakeTorch.Tensor(self.array.view(np.int16), dtype)

        def numpy(self):
            if self.dtype == FakeTorch.bfloat16:
                raise TypeError("Got unsupported ScalarType BFloat16")
            return self.array


def test_torch_tensors(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", FakeTorch)
    rows = ROWS.astype(bfloat16)
    result = combine(FakeTorch.Tensor(rows, FakeTorch.bfloat16), FakeTorch.Tensor(INDEX, "int32"))
    assert_same_bits(result, combine(rows))
    assert_same_bits(combine(FakeTorch.Tensor(ROWS, "float32")), combine())


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), bfloat16, np.dtype(np.float32)], ids=str)
def test_foreign_byte_order_is_refused(dtype):
    foreign = ROWS.astype(dtype).view(dtype.newbyteorder(">"))
    with pytest.raises(TypeError, match="expanded_permuted_rows: dtype >.*, which no operator"):
        combine(foreign)


@pytest.mark.parametrize("wrong", [[1.0], (1.0,), "rows", 1.0, object()])
def test_no_sequences_and_scalars(wrong):
    with pytest.raises(TypeError, match=f"rows: {type(wrong).__name__}, needed an array"):
        combine(wrong)


def test_openmp_regions_ask_for_the_team_size():
    """libgomp hangs in a forked child if a region does not: team_size() knows about forks."""
    root = Path(__file__).parents[1] / "src"
    regions = [line for file in root.rglob("*.[ch]*") for line in file.read_text().splitlines() if "pragma omp" in line]
    assert regions
    for line in regions:
        assert "num_threads(team_size(" in line, line


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", moe_native.__version__)
