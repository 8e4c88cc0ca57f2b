"""Who keeps what for how long: threads, streams, executors that repeat, cleanup in any order, the end of a process."""

import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import acl_binding as acl

F32 = np.float32


def ends(values, experts=4):
    """What aclnnMoeComputeExpertTokens computes."""
    return [sum(value <= expert for value in values) for expert in range(experts)]


def prepared(device, values, experts=4):
    ids, out = device.tensor(np.array(values, np.int32)), device.empty((experts,), "int32")
    return device.prepare("aclnnMoeComputeExpertTokens", ids, experts, out), out


def in_thread(function):
    """Run a function on a thread of its own and return its result."""
    results = []

    def work():
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


# --- Threads ---


def test_phases_on_two_threads(acl_device):
    with acl_device.stream() as stream:
        call, out = in_thread(lambda: prepared(acl_device, [0, 1, 1, 3]))
        in_thread(lambda: call.run(stream))
        in_thread(stream.synchronize)
        assert in_thread(out.numpy).tolist() == ends([0, 1, 1, 3])


def test_many_threads_at_once(acl_device):
    """Each with a stream of its own; calls of a thread do not disturb those of another."""
    results = {}

    def work(number):
        rng = np.random.default_rng(number)
        with acl_device.stream() as stream:
            for _ in range(20):
                values = sorted(rng.integers(0, 4, 50).tolist())
                call, out = prepared(acl_device, values)
                call.run(stream)
                stream.synchronize()
                results[number] = out.numpy().tolist() == ends(values)
                if not results[number]:
                    return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)


def test_others_run_while_a_thread_waits(acl_library, acl_device):
    """Blocking calls release the GIL, which nobody would give up otherwise."""
    x, out = acl_device.zeros((1 << 9, 1 << 12), "float32"), acl_device.empty((1 << 9, 1 << 11), "float32")
    with acl_library.cpu.using(mode="compat"):  # strict waits for every launch
        call = acl_device.prepare("aclnnSwiGlu", x, -1, out).repeatable()
    begin, ran = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (begin.wait(), ran.set()))
    interval = sys.getswitchinterval()
    with acl_device.stream() as stream:
        try:
            sys.setswitchinterval(1000)
            thread.start()
            for _ in range(200):
                call.run(stream)
            begin.set()
            stream.synchronize()
            assert ran.is_set()
        finally:
            sys.setswitchinterval(interval)
            thread.join()
    call.destroy()


def test_what_a_thread_without_a_device_lets_go(acl_device):
    """The garbage collector may run on any thread: what it finds is given back by another call."""
    tensors = [acl_device.zeros((100,), "int8") for _ in range(10)]
    before = len(acl_device.resources._live)
    in_thread(tensors.clear)
    assert len(acl_device.resources._live) == before
    kept = acl_device.zeros((1,), "int8")
    assert len(acl_device.resources._live) == before - 9
    assert kept.numpy().tolist() == [0]


# --- Executors ---


def test_a_call_runs_once(acl_device):
    call, out = prepared(acl_device, [0, 2])
    assert repr(call) == "Call(aclnnMoeComputeExpertTokens, prepared)"
    call.run()
    assert repr(call) == "Call(aclnnMoeComputeExpertTokens, spent)"
    for again in (call.run, call.repeatable, lambda: call.set_output(0, out)):
        with pytest.raises(RuntimeError, match="the executor is gone; one that runs several times"):
            again()
    call.destroy()
    acl_device.synchronize()
    assert out.numpy().tolist() == [1, 1, 2, 2]


def test_destroyed_before_it_ran(acl_device):
    with prepared(acl_device, [0])[0] as call:
        pass
    call.destroy()
    with pytest.raises(RuntimeError, match="the executor is gone"):
        call.run()


def test_forgotten_before_it_ran(acl_device):
    """A call that nobody keeps is no leak."""
    prepared(acl_device, [0])
    gc.collect()


def test_repeatable_with_other_addresses(acl_device):
    first, second = [0, 0, 1, 2], [1, 1, 2, 2]
    with acl_device.stream() as stream:
        call, out = prepared(acl_device, first)
        with call.repeatable():
            call.run(stream)
            call.run(stream)
            stream.synchronize()
            assert out.numpy().tolist() == ends(first)
            other, other_out = acl_device.tensor(np.array(second, np.int32)), acl_device.empty((4,), "int32")
            call.set_input("sorted_experts", other)
            call.set_output("out", other_out)
            in_thread(lambda: call.run(stream))
            stream.synchronize()
            assert other_out.numpy().tolist() == ends(second)
            assert out.numpy().tolist() == ends(first)
            call.set_input(0, acl_device.tensor(np.array(first, np.int32)))
            call.run(stream)
            stream.synchronize()
            assert other_out.numpy().tolist() == ends(first)
    # The tensors are what they were: another call takes them.
    again = acl_device.prepare("aclnnMoeComputeExpertTokens", other, 4, out)
    again.run()
    acl_device.synchronize()
    assert out.numpy().tolist() == ends(second)


def test_repeatable_operators_composed_by_hand(acl_device):
    """The kind of executor that looks at the tensors, not at the indices."""
    x, y = (np.random.default_rng(i).normal(size=(2, 8)).astype(F32) for i in range(2))
    out = acl_device.empty((2, 4), "float32")
    results = []
    for values in (x, y):
        acl_device.prepare("aclnnSwiGlu", acl_device.tensor(values), -1, out).run()
        acl_device.synchronize()
        results.append(out.numpy())
    with acl_device.prepare("aclnnSwiGlu", acl_device.tensor(x), -1, out).repeatable() as call:
        for values, result in zip((x, y, x), (*results, results[0]), strict=True):
            call.set_input("x", acl_device.tensor(values))
            call.run()
            acl_device.synchronize()
            np.testing.assert_array_equal(out.numpy(), result)


def test_tensors_that_cannot_take_the_place(acl_device):
    call, _ = prepared(acl_device, [0, 1])
    with pytest.raises(ValueError, match=r"sorted_experts is Tensor\(int32 \(3,\)\), needed one like Tensor"):
        call.set_input("sorted_experts", acl_device.zeros((3,), "int32"))
    with pytest.raises(ValueError, match="needed one like"):
        call.set_input("sorted_experts", acl_device.zeros((2,), "int64"))
    with pytest.raises(LookupError, match="'out' is no input, needed one of sorted_experts"):
        call.set_input("out", acl_device.zeros((4,), "int32"))
    with pytest.raises(LookupError, match="1 is no output, needed one of out"):
        call.set_output(1, acl_device.zeros((4,), "int32"))
    x = acl_device.zeros((2, 4), "float16")
    quant = acl_device.prepare(
        "aclnnDynamicQuant", x, None, acl_device.empty((2, 4), "int8"), acl_device.empty((2,), "float32")
    )
    with pytest.raises(ValueError, match="smooth_scales was None in phase 1"):
        quant.set_input("smooth_scales", acl_device.zeros((4,), "float16"))


# --- Workspaces ---


def test_a_workspace_that_is_too_small(acl_library, acl_device, expect_finding):
    expect_finding("workspace-size")
    with acl_library.cpu.using(workspace=True):
        call, _ = prepared(acl_device, [0])
    with pytest.raises(acl.AclInvalidArgumentError, match="workspaceSize: 1 bytes, needed the 512 that phase 1 said"):
        call.run(workspace=acl_device.workspace(1))


def test_a_workspace_that_is_a_tensor(acl_library, acl_device):
    with acl_library.cpu.using(workspace=True):
        call, out = prepared(acl_device, [0, 3])
    call.run(workspace=acl_device.empty((1024,), "uint8"))
    acl_device.synchronize()
    assert out.numpy().tolist() == ends([0, 3])


def test_launches_of_a_stream_share_a_workspace(acl_library, acl_device):
    with acl_library.cpu.using(workspace=True), acl_device.stream() as stream:
        outs = []
        for size in (1, 2000, 3):
            call, out = prepared(acl_device, [0] * size)
            call.run(stream)
            outs.append(out)
        stream.synchronize()
        assert [out.numpy()[0] for out in outs] == [1, 2000, 3]


# --- Streams and events ---


def test_two_streams_with_an_event(acl_device):
    x = np.random.default_rng(0).normal(size=(1, 8)).astype(F32)
    half, quarter = acl_device.empty((1, 4), "float32"), acl_device.empty((1, 2), "float32")
    with acl_device.stream() as first, acl_device.stream() as second:
        begin, ready = acl_device.event(), acl_device.event()
        begin.record(first)
        acl_device.prepare("aclnnSwiGlu", acl_device.tensor(x), -1, half).run(first)
        ready.record(first)
        second.wait(ready)
        acl_device.prepare("aclnnSwiGlu", half, -1, quarter).run(second)
        second.synchronize()
        assert ready.query()
        assert begin.elapsed(ready) >= 0
        ready.synchronize()
        ready.destroy()
        ready.destroy()
        silu = half.numpy()[0]
        np.testing.assert_allclose(quarter.numpy()[0], silu[:2] / (1 + np.exp(-silu[:2])) * silu[2:], rtol=1e-6)


def test_two_streams_without_an_event(acl_device, expect_finding):
    """The device tells, and refuses the launch."""
    expect_finding("unordered-streams")
    half, quarter = acl_device.empty((1, 4), "float32"), acl_device.empty((1, 2), "float32")
    with acl_device.stream() as first, acl_device.stream() as second:
        acl_device.prepare("aclnnSwiGlu", acl_device.zeros((1, 8), "float32"), -1, half).run(first)
        call = acl_device.prepare("aclnnSwiGlu", half, -1, quarter)
        with pytest.raises(acl.AclInvalidArgumentError, match="nothing orders before this"):
            call.run(second)


def test_reading_without_waiting(acl_device, expect_finding):
    expect_finding("unsynchronised")
    with acl_device.stream() as stream:
        call, out = prepared(acl_device, [0, 1])
        call.run(stream)
        with pytest.raises(acl.AclRuntimeError, match="aclrtSynchronizeStream first"):
            out.numpy()


@pytest.fixture
def deferred(acl_library, acl_findings):
    """Work runs only when somebody waits for it."""
    with acl_library.cpu.using(deferred=True), acl_library.device() as device:
        yield device


@pytest.mark.parametrize("wait", ["synchronize", "event", "query", "device", "leave"])
def test_memory_stays_until_the_stream_has_passed(deferred, wait):
    """Nobody but the stream refers to the input, the workspace and the call."""
    out = deferred.empty((4,), "int32")
    with deferred.stream() as stream:
        for values in ([0, 1, 1], [2, 2, 3]):
            ids = deferred.tensor(np.array(values, np.int32))
            deferred.prepare("aclnnMoeComputeExpertTokens", ids, 4, out).run(stream)
            del ids
            gc.collect()
            # New memory may not be that of the input.
            noise = deferred.tensor(np.full(3, 77, np.int32))
        if wait == "synchronize":
            stream.synchronize()
        elif wait == "event":
            event = deferred.event()
            event.record(stream)
            event.synchronize()
            assert event.query()
        elif wait == "query":
            while not stream.query():
                pass
        elif wait == "device":
            deferred.synchronize()
        if wait not in ("leave", "device"):
            assert not stream._kept
    assert not stream._kept
    assert out.numpy().tolist() == [0, 0, 2, 3]
    assert noise.numpy().tolist() == [77, 77, 77]


def test_a_program_that_never_waits(acl_device):
    """What a stream keeps is bounded while its work gets done."""
    with acl_device.stream() as stream:
        call, out = prepared(acl_device, [0, 1])
        with call.repeatable():
            for _ in range(3000):
                call.run(stream)
            assert len(stream._kept) <= 1025
            stream.synchronize()
        assert not stream._kept
        assert out.numpy().tolist() == ends([0, 1])


def test_timeout(acl_device):
    with acl_device.stream() as stream:
        stream.synchronize(timeout=10)
        stream.synchronize(timeout=1e9)
        for timeout in (-1, float("inf"), float("nan")):
            with pytest.raises(ValueError, match=f"timeout: {timeout}, needed seconds, or None"):
                stream.synchronize(timeout)


# --- Cleanup ---


def test_everything_is_given_back_with_the_device(acl_library, acl_findings):
    with acl_library.device() as device:
        stream, event = device.stream(), device.event()
        call, out = prepared(device, [1, 2])
        call.repeatable().run(stream)
        unused, _ = prepared(device, [1])
    # In an order that the device would not have liked.
    del event
    out.buffer.device.close()
    for late in (unused, call):
        late.destroy()
    stream.destroy()
    del out
    gc.collect()
    with pytest.raises(RuntimeError, match="device 0 is closed"):
        stream.synchronize()


def fail_inside_with(device, prepare):
    with device, device.stream() as stream:
        prepare(device).run(stream)
        raise KeyError("mine")


def test_other_threads_are_refused_while_a_device_is_closed(acl_library, acl_findings):
    """What they queued after it has waited for all streams would lose its memory."""
    seen = []

    def refuse(device):
        with pytest.raises(RuntimeError, match="device 0 is closed"):
            prepared(device, [0, 1])
        stream.destroy()
        call.destroy()
        device.close()
        seen.append(repr(device))

    device = acl_library.device(0).open()
    stream, (call, _) = device.stream(), prepared(device, [0, 1])
    release_all = device.resources.release_all
    device.resources.release_all = lambda: (in_thread(lambda: refuse(device)), release_all())
    device.close()
    assert seen == ["Device(0, open)"]
    assert repr(device) == "Device(0, closed)"


def test_exceptions_inside_with(acl_library, acl_findings):
    """They come out as they are, and everything is given back."""
    device = acl_library.device()
    with pytest.raises(KeyError, match="mine"):
        fail_inside_with(device, lambda device: prepared(device, [1, 2])[0])
    assert repr(device) == "Device(0, closed)"


def faulty(device):
    """A launch whose work fails."""
    with device.library.cpu.using(mode="real"):
        call = device.prepare(
            "aclnnMoeFinalizeRoutingV2",
            device.zeros((2, 4), "float32"),
            device.tensor(np.array([0, 9], np.int32)),
            drop_pad_mode=0,
            out=device.empty((2, 4), "float32"),
        )
    return call


def test_leaving_a_stream_raises_what_its_work_failed_with(acl_device, expect_finding):
    expect_finding("data-range")
    with pytest.raises(acl.AclRuntimeError, match="507015"), acl_device.stream() as stream:
        faulty(acl_device).run(stream)


def test_leaving_a_device_raises_what_its_work_failed_with(acl_library, expect_finding):
    expect_finding("data-range")
    with pytest.raises(acl.AclRuntimeError, match="507015") as caught, acl_library.device() as device:
        faulty(device).run()
    assert caught.value.call == "aclrtSynchronizeDevice"
    assert repr(device) == "Device(0, closed)"


def test_an_exception_wins_over_what_the_work_failed_with(acl_library, expect_finding):
    expect_finding("data-range")
    with pytest.raises(KeyError, match="mine"):
        fail_inside_with(acl_library.device(), faulty)


def test_two_at_once(acl_library, acl_findings):
    """The same device twice, and closed in either order."""
    first, second = acl_library.device().open(), acl_library.device().open()
    x = second.tensor([1, 2])
    first.close()
    assert x.numpy().tolist() == [1, 2]
    second.close()


# --- The end of the process ---

PROGRAMS = {
    "nothing closed": "device = lib.device().open(); keep = everything(device)",
    "in a global": "device = lib.device().open(); keep = [everything(device) for _ in range(3)]; sys.keep = keep",
    "in a cycle": "device = lib.device().open(); keep = [everything(device)]; keep.append(keep)",
    "work in flight": "device = lib.device().open(); keep = everything(device); [run() for _ in range(50)]",
    "closed, and still referred to": "with lib.device() as device: keep = everything(device)",
    "closed first": "device = lib.device().open(); keep = everything(device); device.close(); del device",
    "exception": "device = lib.device().open(); keep = everything(device); raise SystemExit(0)",
    "exception inside with": """
with lib.device() as device, device.stream() as stream:
    keep = everything(device)
    sys.exit(0)""",
    "thread": """
device = lib.device().open()
def work():
    global keep
    keep = everything(device)
thread = threading.Thread(target=work)
thread.start()""",
    "libraries twice": """
other = acl.open(lib.home)
devices = [lib.device().open(), other.device().open()]
keep = everything(devices[1])""",
    "no device": "lib.initialise()",
    "nothing at all": "",
    "fork": """
device = lib.device().open()
keep = everything(device)
if os.fork() == 0:
    sys.exit(0)
os.wait()""",
}

FRAME = """
import os, sys, threading, time
import numpy as np
import acl_binding as acl
lib = acl.open({home!r})

def everything(device):
    global run
    stream, event = device.stream(), device.event()
    ids, out = device.tensor(np.zeros(1000, np.int32)), device.empty((4,), "int32")
    call = device.prepare("aclnnMoeComputeExpertTokens", ids, 4, out).repeatable()
    run = lambda: call.run(stream)
    run()
    event.record(stream)
    unused = device.prepare("aclnnMoeComputeExpertTokens", ids, 4, out)
    return [stream, event, ids, out, call, unused]

{program}
"""


def run_program(home, program, findings):
    return subprocess.run(
        [sys.executable, "-P", "-c", FRAME.format(home=str(home), program=program)],
        env={
            **os.environ,
            "MOE_ACLNN_FINDINGS": str(findings),
            "MOE_ACLNN_MODE": "compat",
            "MOE_ACLNN_WORKSPACE": "padded",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def told(path):
    """The findings of a process that has ended; the file may be made for the first one only."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("program", PROGRAMS)
def test_end_of_the_process(acl_library, tmp_path, program):
    """It ends with 0, silently, and the device finds nothing left when it is finalised."""
    path = tmp_path / "findings.jsonl"
    done = run_program(acl_library.home, PROGRAMS[program], path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert told(path) == []


def test_a_leak_would_be_told(acl_library, tmp_path):
    """What goes past the binding, and stays, is found when the process ends."""
    program = "device = lib.device().open(); lib.c.aclCreateIntArray(acl._cdef.ffi.NULL, 0)"
    path = tmp_path / "findings.jsonl"
    assert run_program(acl_library.home, program, path).returncode == 0
    (finding,) = told(path)
    assert (finding["api"], finding["rule"]) == ("aclFinalize", "unbalanced")


def test_end_of_the_process_under_a_thread(acl_library, tmp_path):
    """A daemon thread loses its device in the middle of a call, which is no reason to crash or to hang."""
    program = """
device = lib.device().open()
started = threading.Event()
def work():
    while True:
        try:
            everything(device)
        except (RuntimeError, acl.AclError):
            return
        started.set()
threading.Thread(target=work, daemon=True).start()
started.wait()"""
    done = run_program(acl_library.home, program, tmp_path / "findings.jsonl")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("mode", ["compat", "strict"])
def test_example(acl_library, tmp_path, mode):
    """The program of the documentation: right results, no findings, nothing left."""
    findings = tmp_path / "findings.jsonl"
    settings = {"MOE_ACLNN_FINDINGS": findings, "MOE_ACLNN_MODE": mode, "ASCEND_HOME_PATH": acl_library.home}
    example = Path(__file__).parents[1] / "examples" / "acl_layer.py"
    subprocess.run(
        [sys.executable, "-P", str(example)],
        env={**os.environ, "MOE_ACLNN_POISON": "1", **{name: str(value) for name, value in settings.items()}},
        check=True,
    )
    assert told(findings) == []
