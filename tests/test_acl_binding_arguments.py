"""What prepare makes of Python values, and what it refuses before a C function is called."""

import re

import numpy as np
import pytest

import acl_binding as acl
from acl_binding._call import bind
from acl_binding._signatures import parse

OPERATORS = acl.operators()


def test_the_table_is_what_the_declarations_say():
    assert len(OPERATORS) == 30
    finalize = OPERATORS["aclnnMoeFinalizeRoutingV2"]
    assert [p.python_name for p in finalize.parameters] == [
        "expanded_x",
        "expanded_row_idx",
        "x1_optional",
        "x2_optional",
        "bias_optional",
        "scales_optional",
        "expert_idx_optional",
        "drop_pad_mode",
        "out",
    ]
    assert {p.type for operator in OPERATORS.values() for p in operator.parameters} == {
        "const aclTensor*",
        "aclTensor*",
        "const aclIntArray*",
        "int64_t",
        "bool",
        "float",
        "double",
        "const char*",
    }
    # Floating-point arguments travel in registers of their own: their width is part of the interface.
    types = {p.name: p.type for operator in OPERATORS.values() for p in operator.parameters}
    assert (types["sharedInputWeight"], types["routedScalingFactor"], types["eps"]) == ("float", "double", "double")


def test_outputs_follow_inputs():
    """The indices of the address setters count tensors of a signature whose outputs are its last tensors."""
    for operator in OPERATORS.values():
        written = [p.is_output for p in operator.parameters if p.is_tensor]
        assert written == sorted(written), operator
        assert any(written) or operator.name == "aclnnTransMatmulWeight"


def test_declarations_that_are_none():
    with pytest.raises(ValueError, match="no parameter with a name"):
        parse("aclnnX", "int64_t, uint64_t *workspaceSize, aclOpExecutor **executor")
    with pytest.raises(ValueError, match="the last parameters are not workspaceSize and executor"):
        parse("aclnnX", "const aclTensor *x")


@pytest.fixture
def no_calls(acl_device, monkeypatch):
    """From here on every C function is one too many."""

    class Forbidden:
        def __getattr__(self, name):
            raise AssertionError(f"{name} was called")

    tensors = [acl_device.zeros((2, 4), "float32") for _ in range(3)]

    def forbid():
        monkeypatch.setattr(acl_device.library, "c", Forbidden())
        monkeypatch.setattr(acl_device.library, "phases", Forbidden())

    forbid()
    yield acl_device, *tensors
    monkeypatch.undo()


WRONG = {
    "an array": ("aclnnSwiGlu", lambda x: [np.ones((2, 4)), -1, x], "x is a ndarray, needed a Tensor or None"),
    "a float": ("aclnnSwiGlu", lambda x: [x, 1.0, x], "dim is a float, needed an int"),
    "a bool": ("aclnnSwiGlu", lambda x: [x, True, x], "dim is a bool, needed an int"),
    "a str": ("aclnnSwiGlu", lambda x: [x, "1", x], "dim is a str, needed an int"),
    "no int": ("aclnnSwiGlu", lambda x: [x, None, x], "dim is None, needed an int"),
    "no bool": (
        "aclnnMoeTokenPermuteWithRoutingMap",
        lambda x: [x, x, None, 2, 0, x, None, x],
        "drop_and_pad is an int, needed a bool",
    ),
    "no list": (
        "aclnnPermute",
        lambda x: [x, 3, x],
        "dims is an int, needed a sequence of int or None",
    ),
    "a list of floats": ("aclnnPermute", lambda x: [x, [0, 1.0], x], "dims is a list, needed a sequence of int"),
    "a matrix": ("aclnnPermute", lambda x: [x, np.ones((2, 2), int), x], "dims is a ndarray, needed a sequence of int"),
    "a string": ("aclnnPermute", lambda x: [x, "01", x], "dims is a str, needed a sequence of int"),
    "no float": (
        "aclnnMoeInitRoutingQuant",
        lambda x: [x, x, x, 1, "0.5", 0.0, x, x, x],
        "scale is a str, needed a float",
    ),
    "no activation": (
        "aclnnFFN",
        lambda x: [x, x, x, *[None] * 11, None, 0, x],
        "activation is None, needed a str",
    ),
    "too few": ("aclnnSwiGlu", lambda x: [x], "dim, out missing"),
    "too many": ("aclnnSwiGlu", lambda x: [x, -1, x, x], "4 arguments, needed 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_kinds_and_counts(no_calls, case):
    device, x, *_ = no_calls
    name, arguments, message = WRONG[case]
    with pytest.raises(TypeError, match=re.escape(message)) as caught:
        device.prepare(name, *arguments(x))
    # With the whole signature.
    assert str(caught.value).startswith(f"{name}: ")
    assert str(caught.value).endswith(f"in {OPERATORS[name]}")


def test_wrong_names(no_calls):
    device, x, *_ = no_calls
    with pytest.raises(TypeError, match=r"there is no parameter axis, in aclnnSwiGlu\(const aclTensor\* x"):
        device.prepare("aclnnSwiGlu", x, axis=1, out=x)
    with pytest.raises(TypeError, match="x is given twice"):
        device.prepare("aclnnSwiGlu", x, -1, x=x, out=x)
    with pytest.raises(TypeError, match="scale is given twice"):
        bind(OPERATORS["aclnnMoeInitRoutingV3"], [], {"scale": 1, "scale_optional": 1})


def test_numbers_that_do_not_fit(no_calls):
    device, x, *_ = no_calls
    with pytest.raises(ValueError, match="dim is 9223372036854775808, needed a number of 64 bits"):
        device.prepare("aclnnSwiGlu", x, 2**63, x)
    with pytest.raises(ValueError, match=r"activation is 're\\x00lu', needed no null in it"):
        device.prepare("aclnnFFN", x, x, x, *[None] * 11, "re\0lu", 0, x)
    with pytest.raises(ValueError, match="dims is -9223372036854775809"):
        device.prepare("aclnnPermute", x, [-(2**63) - 1], x)


def test_an_operator_that_nobody_declares(no_calls):
    device, *_ = no_calls
    with pytest.raises(acl.AclMissingError, match="aclnnSwiglu is no operator .*, aclnnSwiGlu"):
        device.prepare("aclnnSwiglu")


def test_tensors_of_another_device(acl_library, acl_device):
    x = acl_device.zeros((2, 4), "float32")
    with acl_library.device(0) as other, pytest.raises(ValueError, match="x is a tensor of another device"):
        other.prepare("aclnnSwiGlu", x, -1, x)


def test_streams_of_another_device(acl_library, acl_device):
    x = acl_device.zeros((2, 4), "float32")
    call = acl_device.prepare("aclnnSwiGlu", x, -1, acl_device.empty((2, 2), "float32"))
    with acl_library.device(0) as other, pytest.raises(ValueError, match="stream is of another device"):
        call.run(other.default_stream)


def test_workspaces_of_another_device(acl_library, acl_device):
    x, out = acl_device.zeros((2, 4), "float32"), acl_device.empty((2, 2), "float32")
    call = acl_device.prepare("aclnnSwiGlu", x, -1, out)
    with acl_library.device(0) as other, pytest.raises(ValueError, match="workspace is of another device"):
        call.run(workspace=other.workspace(512))


def test_handles_of_another_kind(acl_device):
    """To C they are all the same."""
    stream, event = acl_device.default_stream, acl_device.event()
    x, out = acl_device.zeros((2, 4), "float32"), acl_device.empty((2, 2), "float32")
    call = acl_device.prepare("aclnnSwiGlu", x, -1, out).repeatable()
    for wrong, message in (
        (lambda: call.run(event), "aclnnSwiGlu: stream: Event, needed Stream"),
        (lambda: call.run(workspace=np.zeros(3)), "aclnnSwiGlu: workspace: ndarray, needed Buffer"),
        (lambda: call.set_input("x", np.zeros((2, 4))), "aclnnSwiGlu: x: ndarray, needed Tensor"),
        (lambda: stream.wait(stream), "event: Stream, needed Event"),
        (lambda: event.record(event), "stream: Event, needed Stream"),
        (lambda: event.elapsed(stream), "end: Stream, needed Event"),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()
    with pytest.raises(LookupError, match="None is no input, needed one of x"):
        call.set_input(None, x)
    call.destroy()


def test_refused_runs_leave_the_call_as_it_was(acl_device):
    x, out = acl_device.tensor(np.ones((2, 4), np.float32)), acl_device.empty((2, 2), "float32")
    call = acl_device.prepare("aclnnSwiGlu", x, -1, out)
    with pytest.raises(TypeError, match="workspace: ndarray"):
        call.run(workspace=np.zeros(3))
    call.run()
    acl_device.synchronize()
    assert (out.numpy() > 0).all()


def test_a_tensor_in_two_places_is_one(acl_device, expect_finding):
    """As one handle in C would be; an operator that wrote where it reads would be told of it."""
    rng = np.random.default_rng(0)
    x, zeros = rng.normal(size=(3, 4)).astype(np.float32), np.zeros((6, 4), np.float32)
    place = acl_device.tensor(x)
    arguments = [acl_device.tensor(zeros), acl_device.tensor(np.arange(6, dtype=np.int32)), place, place]
    ones, out = acl_device.tensor(np.ones((3, 2), np.float32)), acl_device.empty((3, 4), "float32")
    call = acl_device.prepare("aclnnMoeFinalizeRoutingV2", *arguments, None, ones, None, 0, out)
    assert call._handles["x1"] == call._handles["x2"] != call._handles["out"]
    call.run()
    acl_device.synchronize()
    np.testing.assert_array_equal(out.numpy(), x + x)
    with pytest.raises(acl.AclInvalidArgumentError, match="out: the memory of x1, needed memory of its own"):
        acl_device.prepare("aclnnMoeFinalizeRoutingV2", *arguments, None, ones, None, 0, place).run()
    expect_finding("aliasing")


@pytest.mark.parametrize("dim", [np.int8(1), np.int64(-1), np.uint16(1)])
def test_numpy_numbers(acl_device, dim):
    x, out = acl_device.tensor(np.ones((2, 4), np.float32)), acl_device.empty((2, 2), "float32")
    acl_device.prepare("aclnnSwiGlu", x, dim, out).run()
    acl_device.synchronize()
    assert (out.numpy() == out.numpy()[0, 0]).all()


@pytest.mark.parametrize("flag", [np.True_, True])
@pytest.mark.parametrize("shape", [(5, 33), [5, 33], np.array([5, 33]), range(5, 34, 28)])
def test_sequences_and_bools(acl_device, shape, flag):
    from cases.aclnn_calls import CALLS
    from test_acl_binding_operators import arguments_of

    values, (result, *_) = CALLS["aclnnMoeTokenUnpermuteWithRoutingMap"](np.random.default_rng(0))
    arguments, (out, *_) = arguments_of(acl_device, "aclnnMoeTokenUnpermuteWithRoutingMap", values)
    arguments[4:6] = [np.logical_not(flag), shape]
    acl_device.prepare("aclnnMoeTokenUnpermuteWithRoutingMap", *arguments).run()
    acl_device.synchronize()
    np.testing.assert_array_equal(out.numpy(), result)


@pytest.mark.parametrize("scale", [2, 2.0, np.float32(2), np.int64(2)])
def test_floats_from_what_is_a_number(acl_device, scale):
    x = acl_device.tensor(np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16))
    y, ids, norm = (acl_device.empty((2, n), dtype) for n, dtype in [(2, "float32"), (2, "int32"), (16, "float32")])
    acl_device.prepare("aclnnMoeGatingTopK", x, None, 2, 1, 1, 0, 0, 0, True, scale, 0, y, ids, norm).run()
    acl_device.synchronize()
    np.testing.assert_allclose(y.numpy().sum(axis=1), 2 * norm.numpy()[:, -2:].sum(axis=1), rtol=1e-6)


def test_signatures_are_shown():
    assert str(OPERATORS["aclnnSwiGlu"]) == "aclnnSwiGlu(const aclTensor* x, int64_t dim, const aclTensor* out)"
