"""Statuses as exceptions: every one that the CPU device can return, from one place, with the text of the library."""

import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import acl_binding as acl
from acl_binding._cdef import ffi
from acl_binding.errors import _NAMES, error_of

ROOT = Path(__file__).parents[1]
F32, I32 = np.float32, np.int32


def swiglu(device, columns=4):
    x, out = device.tensor(np.ones((2, columns), F32)), device.empty((2, columns // 2), "float32")
    return device.prepare("aclnnSwiGlu", x, -1, out)


def finalize(device, index=(0, 1), **more):
    """aclnnMoeFinalizeRoutingV2 of two rows."""
    arguments = {
        "expanded_x": device.tensor(np.ones((2, 4), F32)),
        "expanded_row_idx": device.tensor(np.array(index, I32)),
        "drop_pad_mode": 0,
        "out": device.empty((2, 4), "float32"),
    }
    return device.prepare("aclnnMoeFinalizeRoutingV2", **{**arguments, **more})


# --- What provokes each status: a function of the device and a stream ---


def null_destination(device, stream):
    device.invoke("aclrtMemcpy", ffi.NULL, 8, ffi.new("char[8]"), 8, 0)


def second_init(device, stream):
    device.library.invoke("aclInit", ffi.NULL)


def copy_beyond(device, stream):
    buffer = device.workspace(8)
    device.invoke("aclrtMemcpy", buffer.address, 4, ffi.new("char[8]"), 8, 1)


def device_99(device, stream):
    device.library.device(99).open()


def on_new_thread(device, stream, function, *arguments):
    """Without a context."""
    raised = []

    def work():
        try:
            device.library.invoke(function, *arguments)
        except acl.AclError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise raised[0]


def no_context(device, stream):
    on_new_thread(device, stream, "aclrtSynchronizeStream", stream.handle)


def foreign_stream(device, stream):
    lib = device.library
    place = ffi.new("aclrtContext *")
    lib.invoke("aclrtCreateContext", place, 0)
    try:
        lib.invoke("aclrtSynchronizeStream", stream.handle)
    finally:
        lib.invoke("aclrtDestroyContext", place[0])


def stream_gone(device, stream):
    with device.stream() as other:
        pass
    other.synchronize()


def option_never_set(device, stream):
    device.invoke("aclrtCtxGetSysParamOpt", 0, ffi.new("int64_t *"))


def null_argument(device, stream):
    finalize(device, expanded_x=None)


def wrong_dtype(device, stream):
    finalize(device, out=device.empty((2, 4), "int8"))


def host_to_host(device, stream):
    there, here = ffi.new("char[8]"), ffi.new("char[8]")
    device.invoke("aclrtMemcpyAsync", there, 8, here, 8, 0, stream.handle)


def too_much_memory(device, stream):
    device.workspace(1 << 60)


def unwritable_file(device, stream):
    device.library.cpu.write_findings("/")


def kernel_fault(device, stream):
    """In mode real: indices out of range are a fault of the kernel, seen at the synchronisation."""
    with device.library.cpu.using(mode="real"):
        call = finalize(device, index=(0, 7))
    call.run(stream)
    stream.synchronize()


def time_out(device, stream):
    x, out = device.zeros((1 << 9, 1 << 12), "float32"), device.empty((1 << 9, 1 << 11), "float32")
    # Not in strict, which waits for every launch.
    with device.library.cpu.using(mode="compat"):
        call = device.prepare("aclnnSwiGlu", x, -1, out).repeatable()
    with call:
        for _ in range(200):
            call.run(stream)
        stream.synchronize(timeout=0)


def executor_of_another(device, stream):
    call = swiglu(device)
    other = device.library.c.aclnnFFN
    device.check("aclnnFFN", other, ffi.NULL, 0, call._executor, stream.handle)


def wrong_shape(device, stream):
    finalize(device, out=device.empty((3, 4), "float32"))


def no_kernel(device, stream):
    x = device.zeros((2, 3), "float32")
    device.prepare("aclnnPermute", x, [1, 0], x)


def null_executor(device, stream):
    device.invoke("aclSetAclOpExecutorRepeatable", ffi.NULL)


STATUSES = [
    (100000, acl.AclRuntimeError, null_destination, ["null-argument"]),
    (100002, acl.AclRuntimeError, second_init, ["unbalanced"]),
    (107000, acl.AclRuntimeError, copy_beyond, ["memcpy-size"]),
    (107001, acl.AclRuntimeError, device_99, ["argument"]),
    (107002, acl.AclRuntimeError, no_context, ["no-device"]),
    (107003, acl.AclRuntimeError, foreign_stream, ["stream-handle"]),
    (107017, acl.AclRuntimeError, stream_gone, ["stream-handle"]),
    (107021, acl.AclRuntimeError, option_never_set, ["argument"]),
    (161001, acl.AclNullArgumentError, null_argument, ["null-argument"]),
    (161002, acl.AclInvalidArgumentError, wrong_dtype, ["argument"]),
    (207000, acl.AclRuntimeError, host_to_host, ["memcpy-kind"]),
    (207001, acl.AclRuntimeError, too_much_memory, ["argument"]),
    (361001, acl.AclRuntimeError, unwritable_file, ["argument"]),
    (507015, acl.AclRuntimeError, kernel_fault, ["data-range"]),
    (507046, acl.AclRuntimeError, time_out, ["stream-handle"]),
    (561000, acl.AclInnerError, executor_of_another, ["executor-mixed"]),
    (561002, acl.AclInnerError, wrong_shape, ["argument"]),
    (561003, acl.AclInnerError, no_kernel, ["argument"]),
    (561103, acl.AclInnerError, null_executor, ["repeatable"]),
]

# In processes of their own: what happens there leaves no device behind.
ELSEWHERE = {
    100037: (
        """
        lib.initialise()
        lib.invoke("aclFinalize")
        failing = lambda: lib.invoke("aclFinalize")
        """
    ),
    200000: (
        """
        import resource
        device = lib.device().open()
        stream, event = device.stream(), device.event()
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
        failing = lambda: event.record(stream)  # the thread of the stream does not fit
        """
    ),
    507899: (
        """
        import os
        device = lib.device().open()
        child = os.fork()
        if child:
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        failing = device.stream
        """
    ),
}


@pytest.mark.parametrize(
    ("code", "kind", "provoke", "rules"), STATUSES, ids=lambda value: getattr(value, "__name__", "")
)
def test_every_status(acl_device, expect_finding, code, kind, provoke, rules):
    expect_finding(*rules)
    with acl_device.stream() as stream, pytest.raises(acl.AclError) as caught:
        provoke(acl_device, stream)
    error = caught.value
    assert type(error) is kind
    assert error.code == code
    assert error.name.startswith(("ACL_ERROR_", "ACLNN_ERR_"))
    assert error.call.startswith(("acl", "moe_aclnn"))
    # The text is the library's, and names the rule.
    assert f"[{rules[0]}]" in error.message
    assert str(error) == f"{error.call} returned {code} ({error.name}): {error.message}" or code == 107002
    # It was fetched: nobody else gets it.
    assert acl_device.library.c.aclGetRecentErrMsg() == ffi.NULL


@pytest.mark.parametrize("code", ELSEWHERE)
def test_statuses_of_a_process_that_ends(acl_library, code):
    program = f"""
import os, sys
import acl_binding as acl
lib = acl.open({str(acl_library.home)!r})
{re.sub("^        ", "", ELSEWHERE[code], flags=re.MULTILINE)}
try:
    failing()
except acl.AclRuntimeError as error:
    seen = error.code
sys.stdout.write(str(seen))
sys.stdout.flush()
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == str(code)


def test_no_status_is_left_out():
    """The numbers in the sources of the device, but for those that only sort messages, are those above."""
    text = "".join(path.read_text() for path in (ROOT / "src" / "aclnn").rglob("*.cc") if path.stem != "findings")
    returned = {int(code) for code in re.findall(r"\b(?:1[06]|20|36|5[06])\d{4}\b", text)}
    assert returned == {code for code, *_ in STATUSES} | set(ELSEWHERE)


def test_what_exceptions_are():
    assert isinstance(error_of("f", 161002, ""), ValueError)
    assert isinstance(error_of("f", 507015, ""), RuntimeError)
    assert isinstance(error_of("f", 361001, ""), RuntimeError)
    unknown = error_of("f", 123456, "text")
    assert unknown.name == ""
    assert str(unknown) == "f returned 123456 (a status that no header names): text"
    copy = pickle.loads(pickle.dumps(error_of("f", 161001, "text")))
    assert (type(copy), copy.call, copy.code, copy.message) == (acl.AclNullArgumentError, "f", 161001, "text")
    missing = pickle.loads(pickle.dumps(acl.AclMissingError("f", "text")))
    assert (str(missing), missing.code, missing.call) == ("text", None, "f")


def test_names_of_statuses():
    assert _NAMES[107002] == "ACL_ERROR_RT_CONTEXT_NULL"
    assert _NAMES[561119] == "ACLNN_ERR_INNER_STATIC_BLOCK_DIM_INVALID"
    assert len(_NAMES) > 70


def test_a_null_in_place_of_a_handle(acl_device, expect_finding):
    """Functions that return no status leave a text as well."""
    expect_finding("tensor-layout")
    with pytest.raises(acl.AclRuntimeError, match="26 dimensions") as caught:
        acl_device.prepare("aclnnSwiGlu", acl_device.empty((1,) * 26, "int8"), 0, None)
    assert caught.value.code is None
    assert caught.value.name == ""
    assert str(caught.value).startswith("aclCreateTensor returned null: ")


def test_a_failed_phase_1_leaves_nothing_behind(acl_device, expect_finding):
    expect_finding("argument")
    before = len(acl_device.resources._live)
    x = acl_device.zeros((2, 3), "float32")
    for _ in range(5):
        with pytest.raises(acl.AclInnerError):
            acl_device.prepare("aclnnPermute", x, [1, 0], x)
    assert len(acl_device.resources._live) == before + 1


def test_settings_that_there_are_not(acl_library, acl_findings):
    with pytest.raises(ValueError, match="mode: 'lax', needed one of 'compat', 'real', 'strict'"):
        acl_library.cpu.using(mode="lax").__enter__()
    with pytest.raises(ValueError, match="option: 'late', needed one of 'deferred', "):
        acl_library.cpu.using(late=True).__enter__()
    with pytest.raises(ValueError, match="option: 'late'"):
        acl_library.cpu.option("late")
    assert acl_library.cpu.mode == "strict"
