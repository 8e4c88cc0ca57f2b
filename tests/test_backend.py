"""Where operators are computed: choosing it, threads, what a device is given, and what it cannot be given."""

import asyncio
import contextvars
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases.calls import CALLS, call

import acl_binding
import moe_native
from acl_binding import AclError, AclInvalidArgumentError, AclMissingError
from moe_native import acl, backend, get_backend, use_backend
from moe_native.testing import assert_same_bits, bfloat16, guarded, is_untouched
from moe_native.verification.calls import call_whole
from moe_native.verification.cases import cases

HOME = moe_native.ascend_home()
F16, F32 = np.float16, np.float32


@pytest.fixture(autouse=True)
def strict():
    """Every mistake is an error, and every finding is one that a test expects."""
    cpu = acl_binding.open(HOME).cpu
    with cpu.using(mode="strict"):
        yield cpu


@pytest.fixture
def quiet(strict):
    """No finding comes of what the test does."""
    before = strict.count_findings()
    yield
    assert strict.count_findings() == before


@pytest.fixture
def process_default(monkeypatch):
    """Lets a test choose for the process."""
    monkeypatch.setattr(backend, "_standing", [])
    yield
    monkeypatch.undo()
    backend._watch()


class Fake:
    """A backend that keeps what it is given and computes nothing."""

    name = "acl"
    is_cpu = False

    def __init__(self):
        self.calls = []

    def compute(self, op, arguments, outputs):
        self.calls.append((op, arguments, outputs))


@pytest.fixture
def fake(monkeypatch):
    device = Fake()
    monkeypatch.setattr(backend, "open_backend", lambda name, home, number: device)
    return device


def swiglu():
    return moe_native.npu_swiglu(np.array([[1, -2, 3, 0.5]], F32))


def elsewhere(function):
    """What a function returns in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


# Choosing


def test_block():
    assert get_backend() == "cpu"
    with use_backend("acl", HOME):
        assert get_backend() == "acl"
        with use_backend("cpu"):
            assert get_backend() == "cpu"
        assert get_backend() == "acl"
    assert get_backend() == "cpu"


def test_block_ends_with_an_exception():
    with pytest.raises(ZeroDivisionError), use_backend("acl", HOME):
        1 / 0  # noqa: B018
    assert get_backend() == "cpu"


def test_block_may_be_entered_again():
    choice = use_backend("cpu")
    with choice, choice:
        pass
    with choice:
        pass
    assert get_backend() == "cpu"


def test_block_holds_for_its_thread_only():
    with use_backend("acl", HOME):
        assert elsewhere(get_backend) == "cpu"
        context = contextvars.copy_context()
        assert elsewhere(lambda: context.run(get_backend)) == "acl"


def test_blocks_of_threads_and_tasks_do_not_meet():
    barrier = threading.Barrier(4)

    def of_thread(name):
        with use_backend(name, HOME if name == "acl" else None):
            barrier.wait()
            seen = get_backend(), swiglu()
            barrier.wait()
        return seen[0] == name, seen[1]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(of_thread, ["acl", "cpu", "acl", "cpu"]))
    for right, result in results:
        assert right
        assert_same_bits(result, swiglu())

    async def of_task(name):
        with use_backend(name, HOME if name == "acl" else None):
            await asyncio.sleep(0)
            return get_backend()

    async def both():
        return await asyncio.gather(of_task("acl"), of_task("cpu"))

    assert asyncio.run(both()) == ["acl", "cpu"]


def test_one_choice_in_many_threads(fake):
    choice, barrier = use_backend("acl"), threading.Barrier(4)

    def of_thread(first):
        with choice:
            barrier.wait()
            inside = get_backend()
        if first:
            barrier.wait()
            return inside, get_backend()
        with choice:
            barrier.wait()
        return inside, get_backend()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(of_thread, [True, True, False, False])) == [("acl", "cpu")] * 4
    swiglu()
    assert not fake.calls


def test_task_keeps_the_choice_that_it_was_made_under(fake):
    """Also when the block has ended before it runs."""
    swiglu()

    async def compute():
        swiglu()
        return get_backend()

    async def leave():
        with use_backend("acl"):
            task = asyncio.create_task(compute())
        swiglu()
        return await task, get_backend()

    assert asyncio.run(leave()) == ("acl", "cpu")
    assert len(fake.calls) == 1
    swiglu()
    assert len(fake.calls) == 1


def test_block_that_ends_elsewhere():
    choice = use_backend("cpu")
    with choice:

        def leave():
            choice.__exit__(None, None, None)

        with pytest.raises(RuntimeError, match="ends in another thread or task than it began in"):
            elsewhere(leave)
    assert get_backend() == "cpu"


@pytest.mark.usefixtures("process_default")
def test_call_holds_for_the_process():
    use_backend("acl", HOME)
    assert get_backend() == "acl"
    assert elsewhere(get_backend) == "acl"
    with use_backend("cpu"):
        assert get_backend() == "cpu"
        assert elsewhere(get_backend) == "acl"
    assert get_backend() == "acl"
    use_backend("cpu")
    assert elsewhere(get_backend) == "cpu"


def test_blocks_that_begin_at_once_leave_nothing_behind():
    """Whatever the order in which two threads call and enter."""
    for names in (("acl", "cpu"), ("cpu", "acl"), ("acl", "acl")):
        for first in (0, 1):
            choices = [use_backend(name, HOME if name == "acl" else None) for name in names]
            with choices[first]:
                assert get_backend() == names[first]
                with choices[1 - first]:
                    assert get_backend() == names[1 - first]
                assert get_backend() == names[first]
            assert get_backend() == "cpu"
            assert backend._standing == []


@pytest.mark.usefixtures("process_default")
def test_calls_do_not_pile_up():
    kept = use_backend("cpu")
    for _ in range(100):
        use_backend("acl", HOME)
        use_backend("cpu")
    assert len(backend._standing) < 4
    with kept:
        assert get_backend() == "cpu"
    assert get_backend() == "cpu"


def test_device_is_really_asked(fake):
    with use_backend("acl"):
        out, _ = guarded((1, 2), F32)
        moe_native.npu_swiglu(np.array([[1, -2, 3, 0.5]], F32), out=out)
    assert [name for name, _, _ in fake.calls] == ["npu_swiglu"]
    swiglu()
    assert len(fake.calls) == 1


def test_pack_stays_here(fake):
    with use_backend("acl"):
        moe_native.pack(np.ones((2, 20, 40), np.int8))
    assert not fake.calls


def test_wrong_choices():
    with pytest.raises(ValueError, match="name: 'npu', needed one of 'cpu', 'acl'"):
        use_backend("npu")
    with pytest.raises(ValueError, match=r"home: '/nowhere', needed None"):
        use_backend("cpu", "/nowhere")
    with pytest.raises(AclMissingError, match="/nowhere is not a toolkit"):
        use_backend("acl", "/nowhere")
    with pytest.raises(AclError, match="aclrtSetDevice"):
        use_backend("acl", HOME, device=99)
    with pytest.raises(TypeError, match="device: '0', needed an int"):
        use_backend("acl", HOME, device="0")
    with pytest.raises(ValueError, match="device: 4294967296, needed 0 or more"):
        use_backend("acl", HOME, device=2**32)
    assert get_backend() == "cpu"


def test_no_toolkit(monkeypatch):
    monkeypatch.setattr(backend, "_open", {})
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AclMissingError, match="no toolkit"):
        use_backend("acl")


PRINT = "import numpy, moe_native; moe_native.npu_swiglu(numpy.ones((2, 2), 'f')); print(moe_native.get_backend())"


def with_environment(**variables):
    environment = {n: v for n, v in os.environ.items() if not n.startswith("ASCEND")} | variables
    return subprocess.run([sys.executable, "-P", "-c", PRINT], env=environment, capture_output=True, text=True)


def test_environment_variable():
    assert with_environment(MOE_NATIVE_BACKEND="").stdout == "cpu\n"
    assert with_environment(MOE_NATIVE_BACKEND="cpu").stdout == "cpu\n"
    assert with_environment(MOE_NATIVE_BACKEND="acl", ASCEND_HOME_PATH=str(HOME)).stdout == "acl\n"
    assert "AclMissingError: no toolkit" in with_environment(MOE_NATIVE_BACKEND="acl").stderr
    wrong = with_environment(MOE_NATIVE_BACKEND="gpu").stderr
    assert "RuntimeError: MOE_NATIVE_BACKEND: 'gpu', needed one of 'cpu', 'acl'" in wrong


def test_import_needs_no_binding():
    """The CPU alone does without cffi."""
    code = "import sys, moe_native; assert not {'cffi', 'acl_binding', '_cffi_backend'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


# Calls


@pytest.mark.parametrize("operator", CALLS)
def test_checks_come_first_and_write_nothing(operator, fake):
    """What a device would compute has been checked whole, its data too, and nothing is written until it has."""
    arguments = CALLS[operator](np.random.default_rng(0))
    needed = call(operator, arguments)
    guards = [guarded(result.shape, result.dtype) for result in needed]
    outs = tuple(array for array, _ in guards)
    with use_backend("acl"):
        call(operator, arguments, out=outs if len(outs) > 1 else outs[0])
    ((name, _, outputs),) = fake.calls
    assert name == operator
    assert {id(array) for array in outs} <= {id(array) for array in outputs.values()}
    for array, check in guards:
        check()
        assert is_untouched(array) or array.size == 0


BAD_DATA = {
    "npu_moe_token_permute_with_routing_map": {"routing_map": np.eye(6, 5, dtype=np.int8)},
    "npu_moe_token_unpermute_with_routing_map": {"routing_map": np.eye(6, 5, dtype=np.int8)},
    "npu_moe_finalize_routing": {"expanded_src_to_dst_row": np.full(12, 12, np.int32)},
    "npu_grouped_matmul_finalize_routing": {"row_index": np.full(12, 6)},
    "npu_grouped_matmul_swiglu_quant": {"group_list": np.array([5, 4, 12])},
    "npu_ffn": {"expert_tokens": [5, 0, 6]},
    "npu_dynamic_quant": {"group_index": np.array([5, 4, 12], np.int32)},
}


@pytest.mark.parametrize("operator", BAD_DATA)
def test_bad_data_is_the_same_error(operator, fake):
    arguments = CALLS[operator](np.random.default_rng(0)) | BAD_DATA[operator]
    with pytest.raises(ValueError) as here:  # noqa: PT011
        call(operator, arguments)
    with use_backend("acl"), pytest.raises(ValueError) as there:  # noqa: PT011
        call(operator, arguments)
    assert str(there.value) == str(here.value)
    assert there.value.status == here.value.status
    assert not fake.calls


def test_out_is_untouched_when_the_device_fails(monkeypatch):
    def fail(*arguments):
        raise acl_binding.AclRuntimeError("aclrtSynchronizeStream", 507015, "the kernel went wrong")

    out, check = guarded((2, 2), F32)
    with use_backend("acl", HOME):
        with monkeypatch.context() as patch:
            patch.setattr(acl_binding.Stream, "synchronize", fail)
            with pytest.raises(acl_binding.AclRuntimeError, match="the kernel went wrong"):
                moe_native.npu_swiglu(np.ones((2, 4), F32), out=out)
        assert is_untouched(out)
        moe_native.npu_swiglu(np.ones((2, 4), F32), out=out)
    check()
    assert_same_bits(out, moe_native.npu_swiglu(np.ones((2, 4), F32)))


@pytest.mark.usefixtures("quiet")
def test_many_threads_on_one_device():
    x = np.random.default_rng(0).normal(size=(32, 17, 64)).astype(F16)

    def compute(i):
        with use_backend("acl", HOME):
            return [moe_native.npu_swiglu(x[i]) for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        for i, results in enumerate(pool.map(compute, range(len(x)))):
            for result in results:
                assert_same_bits(result, moe_native.npu_swiglu(x[i]))


@pytest.mark.usefixtures("quiet")
def test_deferred_and_poisoned_device(strict):
    """Results are waited for, and nothing depends on what memory held before."""
    with strict.using(deferred=True, poison=True, workspace=True), use_backend("acl", HOME):
        assert_same_bits(swiglu(), np.array([[2.1931758, -0.11920292]], F32))
        row = next(cases("npu_ffn"))
        seen = call_whole(row.op, row.arguments())
    assert_same_bits(seen["the result"], call_whole(row.op, row.arguments())["the result"])


# Forms


def matmul_arguments(rng, **changes):
    """Arguments of npu_grouped_matmul_finalize_routing in the sizes of a card."""
    return {
        "x": rng.integers(-128, 128, (8, 64), np.int8),
        "w": rng.integers(-128, 128, (2, 64, 256), np.int8),
        "group_list": np.array([3, 5]),
        "scale": rng.normal(size=(2, 256)).astype(F32),
        "row_index": np.arange(8) % 4,
        "output_bs": 4,
        **changes,
    }


def adapted():
    rng = np.random.default_rng(0)
    matmul = matmul_arguments(rng)
    tiles = moe_native.npu_format_cast(matmul["w"], 29)
    words = rng.integers(-(2**31), 2**31, (2, 192, 32), np.int32)
    int4 = {
        "x": rng.integers(-128, 128, (8, 192), np.int8),
        "w": words,
        "scale": rng.random((2, 1, 256), F32).view(np.uint32).astype(np.int64),
        "bias": rng.normal(size=(2, 256)).astype(F32),
        "pertoken_scale": np.ones(8, F32),
    }
    swiglu = {
        "x": matmul["x"],
        "weight": matmul["w"],
        "group_list": np.array([3, 7]),
        "weight_scale": matmul["scale"],
        "x_scale": np.linspace(0.5, 1, 8, dtype=F32),
    }
    finalize, operator = "npu_moe_finalize_routing", "npu_grouped_matmul_finalize_routing"
    rows = rng.normal(size=(12, 32)).astype(F32)
    index = rng.permutation(12).astype(np.int32)
    return {
        "plain weight, no logit": (operator, matmul),
        "tiles": (operator, matmul | {"w": tiles}),
        "raw tiles": (operator, matmul | {"w": tiles.storage}),
        "scale of a row as a column": (operator, matmul | {"pertoken_scale": np.linspace(0, 1, 8, dtype=F32)[:, None]}),
        "strided": (operator, matmul | {"x": np.repeat(matmul["x"], 2, axis=1)[:, ::2], "w": np.flip(matmul["w"], 1)}),
        "all rows": (operator, matmul | {"output_bs": 0, "row_index": np.arange(8, dtype=np.int32)}),
        "tuning": (operator, matmul | {"tuning_config": (4, 7)}),
        "int4": (operator, matmul | int4),
        "int4 tiles": (operator, matmul | int4 | {"w": moe_native.npu_format_cast(words, 29)}),
        "int4 narrow tiles": (operator, matmul | int4 | {"w": moe_native.npu_format_cast(words, 29, c0=8)}),
        "int4 raw tiles": (operator, matmul | int4 | {"w": moe_native.npu_format_cast(words, 29, c0=8).storage}),
        "counts": ("npu_grouped_matmul_swiglu_quant", swiglu | {"group_list": np.array([3, 4]), "group_list_type": 1}),
        "short list of ends": ("npu_grouped_matmul_swiglu_quant", swiglu | {"group_list": np.array([6], np.int32)}),
        "column": ("npu_grouped_matmul_swiglu_quant", swiglu | {"x_scale": swiglu["x_scale"][:, None]}),
        "k without scales": (
            finalize,
            {
                "expanded_permuted_rows": rows,
                "skip1": None,
                "skip2": None,
                "bias": None,
                "scales": None,
                "expanded_src_to_dst_row": index,
                "k": 3,
            },
        ),
        "narrow scales": (
            finalize,
            {
                "expanded_permuted_rows": rows,
                "skip1": None,
                "skip2": None,
                "bias": None,
                "scales": rng.normal(size=(4, 3)).astype(F16),
                "expanded_src_to_dst_row": index,
            },
        ),
        "half scales": (
            finalize,
            {
                "expanded_permuted_rows": rows.astype(bfloat16),
                "skip1": None,
                "skip2": None,
                "bias": None,
                "scales": rng.normal(size=(4, 3)).astype(F16),
                "expanded_src_to_dst_row": index,
            },
        ),
        "no experts": (
            "npu_ffn",
            {
                "x": rows.astype(F16),
                "weight1": rng.normal(size=(32, 16)).astype(F16),
                "weight2": rng.normal(size=(16, 32)).astype(F16),
                "activation": "silu",
                "expert_tokens": [],
            },
        ),
        "all probabilities not asked for": ("npu_moe_gating_top_k_softmax_v2", {"x": rows, "k": 3}),
        "nothing permuted": (
            "npu_moe_token_permute_with_routing_map",
            {
                "tokens": rows,
                "routing_map": np.zeros((12, 5), bool),
                "num_out_tokens": 5,
            },
        ),
    }


ADAPTED = adapted()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", ADAPTED)
def test_adapted(name):
    operator, arguments = ADAPTED[name]
    needed = call_whole(operator, arguments)
    with use_backend("acl", HOME):
        seen = call_whole(operator, arguments)
    assert list(seen) == list(needed)
    for result in needed:
        assert_same_bits(seen[result], needed[result])


REFUSED = {
    "packed": (
        "npu_grouped_matmul_finalize_routing",
        lambda rng: matmul_arguments(rng) | {"w": moe_native.pack(matmul_arguments(rng)["w"])},
        "aclnnGroupedMatmulFinalizeRoutingWeightNzV2: npu_grouped_matmul_finalize_routing: w: a PackedWeight, needed",
    ),
    "packed of swiglu": (
        "npu_grouped_matmul_swiglu_quant",
        lambda rng: {
            "x": np.ones((8, 64), np.int8),
            "weight": moe_native.pack(np.ones((2, 64, 256), np.int8)),
            "group_list": np.array([3, 7]),
            "weight_scale": np.ones((2, 256), F32),
            "x_scale": np.ones(8, F32),
        },
        "aclnnGroupedMatmulSwigluQuantWeightNZ: npu_grouped_matmul_swiglu_quant: weight: a PackedWeight, needed",
    ),
    "packed of ffn": (
        "npu_ffn",
        lambda rng: {
            "x": np.ones((3, 20), F32),
            "weight1": np.ones((20, 30), F32),
            "weight2": moe_native.pack(np.ones((30, 20), F32)),
            "activation": "relu",
        },
        "aclnnFFNV3: npu_ffn: weight2: a PackedWeight, needed an array: its layout",
    ),
    "wide tiles": (
        "npu_format_cast",
        lambda rng: {"input": np.ones((20, 40), F32), "acl_format": 29},
        "aclnnNpuFormatCast: npu_format_cast: c0: tiles of 16 columns, needed 8",
    ),
    "from wide tiles": (
        "npu_format_cast",
        lambda rng: {"input": moe_native.npu_format_cast(np.ones((20, 40), F32), 29), "acl_format": 2},
        "aclnnNpuFormatCast: npu_format_cast: input: tiles of 16 columns, needed 8",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_interface_cannot_express(name, monkeypatch):
    operator, make, message = REFUSED[name]
    arguments = make(np.random.default_rng(0))
    call(operator, arguments)
    with use_backend("acl", HOME):
        monkeypatch.setattr(acl.AclBackend, "_run_form", lambda *args: pytest.fail("the device was asked"))
        with pytest.raises(AclInvalidArgumentError) as caught:
            call(operator, arguments)
    assert isinstance(caught.value, acl.AclInexpressibleError)
    assert str(caught.value).startswith(message)
    assert re.search(r" \[(argument|nz-not-ready)\]$", str(caught.value))
    assert (caught.value.code, caught.value.name) == (161002, "ACLNN_ERR_PARAM_INVALID")


REFUSED_BY_LIBRARY = {
    "float32 FFN": ("npu_ffn", {"x": np.ones((2, 4), F32), "weight1": np.ones((4, 4), F32),
                    "weight2": np.ones((4, 4), F32), "activation": "relu"}, 161002, "x: dtype float32, needed one of"),
    "no rows": ("npu_moe_gating_top_k_softmax", {"x": np.ones((0, 4), F32), "k": 1}, 561002, "needed no empty dimen"),
    "no experts chosen": ("npu_moe_gating_top_k_softmax", {"x": np.ones((2, 4), F32), "k": 0}, 561002, "k: 0, needed"),
    "k that a card lacks": ("npu_grouped_matmul_finalize_routing", matmul_arguments(
        np.random.default_rng(0), x=np.ones((8, 20), np.int8), w=np.ones((2, 20, 256), np.int8)),
        161002, "k = 20, needed a multiple of 16"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_BY_LIBRARY)
def test_what_the_library_refuses(name, strict):
    """A size of the CPU that no card takes: the library's error, with its rule, and no result from elsewhere."""
    operator, arguments, code, message = REFUSED_BY_LIBRARY[name]
    call(operator, arguments)
    before = strict.count_findings().get("argument", 0)
    with use_backend("acl", HOME), pytest.raises(AclError, match=message) as caught:
        call(operator, arguments)
    assert caught.value.code == code
    assert caught.value.call.startswith("aclnn")
    assert "[argument]" in caught.value.message
    assert strict.count_findings()["argument"] == before + 1


# Libraries that lack something


def hide(monkeypatch, *names):
    """Let the library be one without some entry points; returns the list of those that are used."""
    phases, used = acl_binding.Library.phases, []

    def visible(self, operator):
        if operator.name in names:
            raise AclMissingError(operator.name, f"{operator.name} is in no library, needed {operator.needs}")
        used.append(operator.name)
        return phases(self, operator)

    monkeypatch.setattr(acl_binding.Library, "phases", visible)
    return used


def older():
    rng = np.random.default_rng(0)
    gmm, ffn = "npu_grouped_matmul_finalize_routing", "npu_ffn"
    base = "aclnnGroupedMatmulFinalizeRouting"
    matmul, int4 = matmul_arguments(rng), ADAPTED["int4"][1]
    halves = {
        "x": rng.normal(size=(6, 16)).astype(F16),
        "weight1": rng.normal(size=(2, 16, 32)).astype(F16),
        "weight2": rng.normal(size=(2, 32, 16)).astype(F16),
        "activation": "gelu",
    }
    routing = {"x": halves["x"], "expert_idx": rng.integers(0, 8, (6, 2), np.int32), "expert_num": 8}
    counted = {"expert_tokens_num_flag": True, "expert_tokens_num_type": 1}
    padded = {"drop_pad_mode": 1, "expert_capacity": 3, "active_num": -1}
    rows = rng.normal(size=(12, 16)).astype(F32)
    tokens = {
        "expanded_permuted_rows": rows,
        "skip1": rows[:6],
        "skip2": None,
        "bias": rows[:4],
        "scales": rows[:6, :2],
        "expanded_src_to_dst_row": rng.permutation(12).astype(np.int32),
        "export_for_source_row": rng.integers(0, 4, (6, 2), np.int32),
    }
    v3, init = "aclnnMoeInitRoutingV3", "npu_moe_init_routing_v2"
    return {
        "init": (init, routing, [v3], "aclnnMoeInitRoutingV2"),
        "init, ends": (init, routing | {"expert_tokens_num_flag": True}, [v3], "aclnnMoeInitRoutingV2"),
        "init, counts, few": (init, routing | counted | {"active_num": 5}, [v3], "aclnnMoeInitRoutingV2"),
        "init, padded": (init, routing | padded | {"expert_tokens_num_type": 1}, [v3], "aclnnMoeInitRoutingV2"),
        "init, padded, counts": (init, routing | counted | padded, [v3], "aclnnMoeInitRoutingV2"),
        "finalize": ("npu_moe_finalize_routing", tokens, ["aclnnMoeFinalizeRoutingV2"], "aclnnMoeFinalizeRouting"),
        "matmul": (gmm, matmul, [f"{base}WeightNzV2"], f"{base}WeightNz"),
        "int4, second": (gmm, int4, [f"{base}V3"], f"{base}V2"),
        "int4, first": (gmm, int4, [f"{base}V3", f"{base}V2"], base),
        "ffn, second": (ffn, halves | {"expert_tokens_index": [2, 6]}, ["aclnnFFNV3"], "aclnnFFNV2"),
        "ffn, first": (ffn, halves | {"expert_tokens": [2, 4]}, ["aclnnFFNV3", "aclnnFFNV2"], "aclnnFFN"),
        "quant": ("npu_dynamic_quant", {"input": halves["x"]}, ["aclnnDynamicQuant"], "aclnnDynamicQuantV2"),
    }  # fmt: skip


OLDER = older()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", OLDER)
def test_older_entry_points(name, monkeypatch):
    operator, arguments, hidden, needed_entry = OLDER[name]
    needed = call_whole(operator, arguments)
    used = hide(monkeypatch, *hidden)
    with use_backend("acl", HOME):
        seen = call_whole(operator, arguments)
    assert set(used) == {needed_entry}
    for result in needed:
        assert_same_bits(seen[result], needed[result])


LACKING = {
    "range": {"active_expert_range": [1, 4]},
    "scatter": {"row_idx_type": 1},
    "pairs": {"expert_tokens_num_type": 2, "expert_tokens_num_flag": True},
    "quantised": {"quant_mode": 1},
    "scale": {"scale": np.ones(6, F32)},
    "codes": {"x": np.ones((6, 16), np.int8)},
    "an id beyond": {"expert_idx": np.full((6, 2), 8, np.int32)},
    "an id below": {"expert_idx": np.full((6, 2), -1, np.int32)},
}


@pytest.mark.parametrize("name", LACKING)
def test_older_entry_points_do_not_stand_in_for_what_they_lack(name, monkeypatch):
    arguments = OLDER["init"][1] | LACKING[name]
    call("npu_moe_init_routing_v2", arguments)
    used = hide(monkeypatch, "aclnnMoeInitRoutingV3")
    with use_backend("acl", HOME), pytest.raises(AclMissingError, match="aclnnMoeInitRoutingV3 is in no library"):
        call("npu_moe_init_routing_v2", arguments)
    assert not used


def test_entry_points_with_other_parameters_are_not_called(tmp_path):
    """A toolkit whose header declares something else: as if it lacked the entry point."""
    (tmp_path / "lib64").symlink_to(HOME / "lib64")
    headers = tmp_path / "include" / "aclnnop"
    headers.mkdir(parents=True)
    for name in ("aclnn_ffn_v3.h", "aclnn_swi_glu.h"):
        text = (HOME / "include" / "aclnnop" / name).read_text()
        changed = text.replace("int64_t innerPrecise", "double innerPrecise").replace("int64_t dim", "const char* dim")
        assert changed != text
        (headers / name).write_text(changed)
    operator, arguments, _, _ = OLDER["ffn, first"]
    needed = call(operator, arguments)
    with use_backend("acl", tmp_path):
        with pytest.raises(AclMissingError, match="aclnnSwiGlu: .*signature different .*const char"):
            swiglu()
        assert_same_bits(call(operator, arguments)[0], needed[0])


def test_missing_entry_point_is_the_newest_one(monkeypatch):
    hide(monkeypatch, "aclnnFFNV3", "aclnnFFNV2", "aclnnFFN")
    operator, arguments, _, _ = OLDER["ffn, first"]
    with use_backend("acl", HOME), pytest.raises(AclMissingError, match="aclnnFFNV3 is in no library"):
        call(operator, arguments)
