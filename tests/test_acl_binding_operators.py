"""Every operator through the two phases: bit by bit what the facade returns, in every mode and without a finding."""

import numpy as np
import pytest
from cases.aclnn_calls import CALLS, Nz, Out, Tiles

import acl_binding as acl
import moe_native as mn
from moe_native.testing import assert_same_bits, bfloat16

LAYOUTS = ["aclnnNpuFormatCast", "aclnnTransMatmulWeight"]
NO_KERNEL = {
    "aclnnConvertWeightToINT4Pack",
    "aclnnMoeInitRouting",
    "aclnnMoeInitRoutingQuant",
    "aclnnMoeInitRoutingQuantV2",
    "aclnnPermute",
}


def plain(device, array):
    return device.tensor(array)


def strided(device, array):
    """The same values with a stride of two and an offset, in storage of one dimension."""
    dense = np.ascontiguousarray(array)
    storage = np.zeros(2 * dense.size + 3, dense.dtype)
    storage[3::2] = dense.reshape(-1)
    strides = [2 * stride // dense.itemsize for stride in dense.strides]
    return device.tensor(storage, shape=dense.shape, strides=strides, offset=3)


def on_device(device, value, place):
    match value:
        case Out(shape, dtype):
            return device.zeros(shape, dtype)
        case Nz(array):
            return device.tensor(array, format="NZ")
        case Tiles(storage, shape):
            return device.tensor(storage, format="NZ", shape=shape)
        case np.ndarray() if value.ndim > 0:
            return place(device, value)
    return value


def arguments_of(device, name, values, place=plain):
    """Tensors for the parameters that are tensors; the tensors that are written."""
    parameters = acl.operators()[name].parameters
    arguments = [
        on_device(device, value, place) if parameter.is_tensor else value
        for parameter, value in zip(parameters, values, strict=True)
    ]
    return arguments, [a for a, v in zip(arguments, values, strict=True) if isinstance(v, Out)]


def expected_of(values, results):
    return [r for r, v in zip(results, values[-len(results) :], strict=True) if isinstance(v, Out)]


def test_no_operator_is_left_out():
    assert set(CALLS) | set(LAYOUTS) | NO_KERNEL == set(acl.operators())


@pytest.mark.parametrize("acl_mode", ["compat", "real", "strict"])
@pytest.mark.parametrize("place", [plain, strided])
@pytest.mark.parametrize("name", CALLS)
def test_bits_of_the_facade(acl_device, name, place, acl_mode):
    values, results = CALLS[name](np.random.default_rng(0))
    with acl_device.stream() as stream:
        arguments, outputs = arguments_of(acl_device, name, values, place)
        call = acl_device.prepare(name, *arguments)
        call.run(stream)
        stream.synchronize()
        for output, result in zip(outputs, expected_of(values, results), strict=True):
            if result is not None:
                assert_same_bits(output.numpy(), result)


@pytest.mark.parametrize("name", CALLS)
def test_arguments_by_name(acl_device, name):
    """Names without a suffix, and null for what is left out."""
    values, results = CALLS[name](np.random.default_rng(1))
    arguments, outputs = arguments_of(acl_device, name, values)
    parameters = acl.operators()[name].parameters
    by_name = {
        parameter.short_name: argument
        for parameter, argument in zip(parameters, arguments, strict=True)
        if not (argument is None and parameter.is_optional)
    }
    call = acl_device.prepare(name, **by_name)
    assert call.workspace_size >= 0
    call.run()
    acl_device.synchronize()
    for output, result in zip(outputs, expected_of(values, results), strict=True):
        if result is not None:
            assert_same_bits(output.numpy(), result)


@pytest.mark.parametrize("name", CALLS)
def test_padded_workspace(acl_library, acl_device, name):
    """An operator may ask for a workspace at any time."""
    values, results = CALLS[name](np.random.default_rng(2))
    arguments, outputs = arguments_of(acl_device, name, values)
    with acl_library.cpu.using(workspace=True), acl_device.stream() as stream:
        call = acl_device.prepare(name, *arguments)
        assert call.workspace_size >= 512
        call.run(stream, workspace=acl_device.workspace(call.workspace_size))
        stream.synchronize()
    for output, result in zip(outputs, expected_of(values, results), strict=True):
        if result is not None:
            assert_same_bits(output.numpy(), result)


@pytest.mark.parametrize("name", NO_KERNEL)
def test_no_kernel(acl_device, expect_finding, name):
    expect_finding("argument")
    values = {
        "const aclTensor*": acl_device.zeros((2, 3), "float32"),
        "aclTensor*": acl_device.zeros((2, 3), "float32"),
        "const aclIntArray*": [1, 0],
        "int64_t": 1,
        "bool": False,
        "double": 0.5,
    }
    with pytest.raises(acl.AclInnerError, match="no kernel in this library") as caught:
        acl_device.prepare(name, *(values[parameter.type] for parameter in acl.operators()[name].parameters))
    assert caught.value.code == 561003
    assert caught.value.name == "ACLNN_ERR_INNER_FIND_KERNEL_ERROR"
    assert caught.value.call == name + "GetWorkspaceSize"


@pytest.mark.parametrize("dtype", [np.int8, np.float16, bfloat16, np.float32, np.int32], ids=str)
def test_format_cast_there_and_back(acl_device, dtype):
    plain = np.random.default_rng(0).integers(0, 100, (2, 35, 41)).astype(dtype)
    tiles = mn.npu_format_cast(plain, 29, c0=32 // np.dtype(dtype).itemsize).storage
    source, target = acl_device.tensor(plain), acl_device.empty(plain.shape, dtype, format="NZ")
    acl_device.prepare("aclnnNpuFormatCast", source, target).run()
    acl_device.synchronize()
    assert_same_bits(target.storage(), tiles)
    assert_same_bits(target.numpy(), plain)
    assert_same_bits(acl_device.tensor(plain, format="NZ").storage(), tiles)
    back = acl_device.empty(plain.shape, dtype)
    acl_device.prepare("aclnnNpuFormatCast", target, back).run()
    acl_device.synchronize()
    assert_same_bits(back.numpy(), plain)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, bfloat16], ids=str)
def test_trans_matmul_weight_and_the_operator_behind_it(acl_device, dtype):
    plain = np.random.default_rng(0).integers(0, 100, (3, 35, 41)).astype(dtype)
    tiles = mn.npu_format_cast(plain, 29).storage
    memory = np.zeros(tiles.size, dtype)
    memory[: plain.size] = plain.reshape(-1)
    with acl_device.stream() as stream:
        weight = acl_device.tensor(memory, shape=plain.shape)
        acl_device.prepare("aclnnTransMatmulWeight", weight).run(stream)
        stream.synchronize()
        assert weight.storage_shape == tiles.shape
        assert_same_bits(weight.storage(), tiles)
        assert_same_bits(weight.numpy(), plain)
        back = acl_device.empty(plain.shape, dtype)
        acl_device.prepare("aclnnNpuFormatCast", weight, back).run(stream)
        stream.synchronize()
    assert_same_bits(back.numpy(), plain)


def test_ffn_with_packed_int4(acl_device):
    """Two int4 a byte give what the same numbers as int8 give."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 32)).astype(bfloat16)
    packed = [rng.integers(-(2**31), 2**31, shape, dtype=np.int32) for shape in [(32, 6), (48, 4)]]
    wide = []
    for w in packed:
        nibbles = (w[..., None] >> np.arange(0, 32, 4)) & 15
        wide.append((((nibbles + 8) & 15) - 8).reshape(len(w), -1).astype(np.int8))
    scales = [rng.normal(size=n).astype(bfloat16) for n in (48, 32, 48, 32)]
    names = ["antiquant_scale1", "antiquant_scale2", "antiquant_offset1", "antiquant_offset2"]
    result = mn.npu_ffn(x, *wide, "relu", inner_precise=0, **dict(zip(names, scales, strict=True)))
    weights = [acl_device.tensor(w, dtype="int4") for w in packed]
    assert weights[0].shape == (32, 48)
    for weight, w in zip(weights, packed, strict=True):
        assert_same_bits(weight.numpy(), w)
    y = acl_device.empty((7, 32), bfloat16)
    optional = {name: acl_device.tensor(scale) for name, scale in zip(names, scales, strict=True)}
    call = acl_device.prepare(
        "aclnnFFNV3", acl_device.tensor(x), *weights, **optional, activation="relu", inner_precise=0,
        tokens_index_flag=False, y=y,
    )  # fmt: skip
    call.run()
    acl_device.synchronize()
    assert_same_bits(y.numpy(), result)
