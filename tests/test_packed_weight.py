"""Packed weights: the same bits as the weights they were made of, and files that are what they say or are refused."""

import copy
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest
from cases.ffn import example as ffn_example
from cases.grouped_matmul import bits_as_int64, pack_int4

from moe_native import (
    NzArray,
    PackedWeight,
    bf16_mode,
    isa_limit,
    load_packed,
    npu_ffn,
    npu_format_cast,
    npu_grouped_matmul_finalize_routing,
    npu_grouped_matmul_swiglu_quant,
    pack,
    set_num_threads,
)
from moe_native.testing import assert_same_bits, guarded, instruction_sets, read_only, strided

HEADER = 128
# (k, n): around steps of k, panels of 32 columns and tiles of 16 rows.
FLOATS = [np.float32, np.float16, ml_dtypes.bfloat16]
SIZES = [(1, 2), (2, 34), (3, 30), (4, 32), (15, 64), (16, 66), (17, 128), (33, 62), (64, 256), (300, 500), (1040, 96)]


def weights(int4, e, k, n, seed=0):
    values = np.random.default_rng(seed).integers(-8 if int4 else -128, 8 if int4 else 128, (e, k, n), dtype=np.int8)
    return pack_int4(np.pad(values, ((0, 0), (0, 0), (0, -n % 8)))) if int4 else values


def random_groups(m, e, rng):
    return rng.multinomial(m, np.full(e, 1 / e)).astype(np.int64)


def finalize_arguments(int4, m, k, n, e, seed=1, groups=None):
    rng = np.random.default_rng(seed)
    scale = rng.normal(size=(e, n)).astype(np.float32)
    return {
        "x": rng.integers(-128, 128, (m, k), dtype=np.int8),
        "group_list": random_groups(m, e, rng) if groups is None else np.array(groups),
        "scale": bits_as_int64(scale[:, None]) if int4 else scale,
        "bias": rng.normal(size=(e, n)).astype(np.float32),
        "pertoken_scale": rng.normal(size=m).astype(np.float32),
        "logit": rng.normal(size=m).astype(np.float32),
        "row_index": rng.integers(0, m, m),
    }


def swiglu_arguments(int4, m, k, n, e, blocks=1, seed=2, groups=None):
    rng = np.random.default_rng(seed)
    scale = rng.normal(size=(e, blocks, n)).astype(np.float32)
    return {
        "x": rng.integers(-128, 128, (m, k), dtype=np.int8),
        "group_list": np.cumsum(random_groups(m, e, rng) if groups is None else groups),
        "weight_scale": bits_as_int64(scale) if int4 else scale[:, 0],
        "x_scale": rng.uniform(0.5, 1.0, m).astype(np.float32),
        "bias": rng.normal(size=(e, n)).astype(np.float32) if int4 else None,
    }


def assert_same_results(w, packed, int4, m, k, n, e, groups=None):
    finalize = finalize_arguments(int4, m, k, n, e, groups=groups)
    assert_same_bits(
        npu_grouped_matmul_finalize_routing(w=packed, **finalize), npu_grouped_matmul_finalize_routing(w=w, **finalize)
    )
    swiglu = swiglu_arguments(int4, m, k, n, e, groups=groups)
    for seen, needed in zip(
        npu_grouped_matmul_swiglu_quant(weight=packed, **swiglu),
        npu_grouped_matmul_swiglu_quant(weight=w, **swiglu),
        strict=True,
    ):
        assert_same_bits(seen, needed)


@pytest.mark.parametrize("int4", [False, True])
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_same_bits_as_the_weight(int4, k, n):
    w = weights(int4, 3, k, n)
    packed = pack(w, n=n)
    assert packed.shape == (3, k, n)
    assert packed.dtype == (ml_dtypes.int4 if int4 else np.int8)
    assert packed.is_current
    for m in (1, 3, 6, 100):
        assert_same_results(w, packed, int4, m, k, n, 3)


@pytest.mark.parametrize("made_for", instruction_sets())
@pytest.mark.parametrize("int4", [False, True])
@pytest.mark.parametrize("k", [83, 84])
def test_same_bits_on_every_instruction_set(made_for, int4, k):
    """A weight packed for one instruction set is used by all others, whatever the rows of its experts."""
    n, e = 300, 3
    w = weights(int4, e, k, n)
    with isa_limit(made_for):
        packed = pack(w, n=n)
        assert packed.is_current
    for used_on in instruction_sets():
        with isa_limit(used_on):
            for groups in ([1, 2, 1], [3, 4, 0], [13, 5, 22], [12, 24, 25]):
                assert_same_results(w, packed, int4, sum(groups), k, n, e, groups)
            again = pack(packed)
            assert again.is_current
            assert_same_bits(again.array, pack(w, n=n).array)


@pytest.mark.parametrize("used_on", instruction_sets())
@pytest.mark.parametrize("groups", [[1, 2], [4, 5]])
def test_scale_blocks_of_any_length(used_on, groups):
    """Blocks of k that are no multiple of what kernels take at once."""
    for k, blocks in [(256, 2), (300, 2), (45, 3), (6, 6)]:
        w = weights(True, 2, k, 64)
        swiglu = swiglu_arguments(True, sum(groups), k, 64, 2, blocks, groups=groups)
        with isa_limit("baseline"):
            needed = npu_grouped_matmul_swiglu_quant(weight=w, **swiglu)
        with isa_limit(used_on):
            for weight in (w, npu_format_cast(w, 29), pack(w)):
                for seen, value in zip(npu_grouped_matmul_swiglu_quant(weight=weight, **swiglu), needed, strict=True):
                    assert_same_bits(seen, value)


@pytest.mark.parametrize("int4", [False, True])
def test_every_form_packs_to_the_same_bytes(int4):
    k, n = 37, 90
    w = weights(int4, 2, k, n)
    needed = pack(w, n=n).array
    nz = npu_format_cast(w, 29)
    storage = nz.storage.copy()
    tail = storage.view(np.int8)
    tail[tail == 0] = 77  # padding may hold anything; zeros of the weight are put back
    dirty = NzArray(tail.view(storage.dtype), nz.shape)
    restored = npu_format_cast(w, 29).storage
    padding = npu_format_cast(np.ones_like(w), 29).storage == 0
    dirty.storage[...] = np.where(padding, dirty.storage, restored)
    forms = [nz, dirty, strided(w), read_only(w), np.asfortranarray(w), pack(w, n=n)]
    for form in forms:
        assert_same_bits(pack(form, n=n).array, needed)
    assert_same_bits(pack(nz.storage, k=k, n=n).array, needed)
    assert pack(nz.storage).shape == (2, 48, 128 if int4 else 96)


def normal(dtype, *shape):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def ffn_arguments(dtype, tokens, k, n1, n2, activation="silu"):
    scenario = {np.float32: "f32", np.float16: "f16", ml_dtypes.bfloat16: "bf16"}[dtype]
    experts = len(tokens) if len(tokens) > 1 else 0
    sizes = {"rows": sum(tokens), "k1": k, "k2": n1, "n2": n2, "experts": experts}
    arguments = ffn_example(np.random.default_rng(1), scenario, activation, **sizes)
    return arguments | ({"expert_tokens": tokens} if experts else {})


def assert_same_ffn(packed1, packed2, arguments):
    needed = npu_ffn(**arguments)
    for weights in ({"weight1": packed1, "weight2": packed2}, {"weight1": packed1}, {"weight2": packed2}):
        assert_same_bits(npu_ffn(**arguments | weights), needed)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_ffn_gives_the_same_bits(dtype, k, n):
    for tokens in ([1], [7], [3, 0, 30, 9]):
        arguments = ffn_arguments(dtype, tokens, k, n, k)
        packed1, packed2 = pack(arguments["weight1"]), pack(arguments["weight2"])
        assert packed1.shape == (len(tokens), k, n)
        assert packed1.dtype == dtype
        assert packed1.is_current
        assert_same_ffn(packed1, packed2, arguments)


@pytest.mark.parametrize("made_for", instruction_sets())
@pytest.mark.parametrize("dtype", FLOATS)
def test_ffn_gives_the_same_bits_on_every_instruction_set(made_for, dtype):
    """Blocks of rows and columns and more, in both orders of bfloat16."""
    cases = [ffn_arguments(dtype, tokens, 203, 600, 90) for tokens in ([1], [5], [270, 2, 14])]
    if dtype != ml_dtypes.bfloat16:
        cases += [ffn_arguments(dtype, [rows], 30, n1, 40, "swiglu") for rows in (2, 40) for n1 in (64, 75)]
    modes = ("exact", "dot") if dtype == ml_dtypes.bfloat16 else ("fast",)
    for mode in modes:
        with isa_limit(made_for), bf16_mode(mode):
            packed = [(pack(case["weight1"]), pack(case["weight2"])) for case in cases]
            assert packed[0][0].is_current
        for used_on in instruction_sets():
            for used_mode in modes:
                with isa_limit(used_on), bf16_mode(used_mode):
                    for case, pair in zip(cases, packed, strict=True):
                        assert_same_ffn(*pair, case)
                        again = pack(pair[0])
                        assert again.is_current
                        assert_same_bits(again.array, pack(case["weight1"]).array)


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_as_they_come(dtype):
    w = normal(dtype, 2, 37, 90)
    needed = pack(w)
    for form in (strided(w), read_only(w), np.asfortranarray(w), needed):
        assert_same_bits(pack(form).array, needed.array)
    assert_same_bits(pack(w, k=37, n=90).array, needed.array)
    assert_same_bits(pack(w[0]).array, pack(w[:1]).array)
    arguments = ffn_arguments(dtype, [5, 3], 37, 90, 16)
    memory = np.empty(needed.nbytes + 1, np.uint8)[1:]
    memory[:] = pack(arguments["weight1"]).array
    assert_same_ffn(PackedWeight(read_only(memory)), pack(arguments["weight2"]), arguments)
    assert pack(np.zeros((0, 5, 7), dtype)).shape == (0, 5, 7)
    assert repr(needed) == f"PackedWeight(shape=(2, 37, 90), dtype={np.dtype(dtype)})"


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_saved_and_loaded(dtype, tmp_path):
    arguments = ffn_arguments(dtype, [4, 40], 70, 100, 30)
    with isa_limit("baseline"):
        pack(arguments["weight1"]).save(tmp_path / "weight")
    loaded = load_packed(tmp_path / "weight")
    assert loaded.is_current
    assert_same_bits(loaded.array, pack(arguments["weight1"]).array)
    assert_same_ffn(loaded, pack(arguments["weight2"]), arguments)


@pytest.mark.parametrize("threads", [1, 3])
def test_floats_with_any_number_of_threads(threads):
    arguments = ffn_arguments(np.float32, [50, 1, 5], 300, 700, 90)
    set_num_threads(2)
    needed = npu_ffn(**arguments)
    packed = [pack(arguments[name]) for name in ("weight1", "weight2")]
    set_num_threads(threads)
    try:
        again = [pack(arguments[name]) for name in ("weight1", "weight2")]
        for a, b in zip(again, packed, strict=True):
            assert_same_bits(a.array, b.array)
        assert_same_bits(npu_ffn(**arguments | {"weight1": again[0], "weight2": again[1]}), needed)
    finally:
        set_num_threads(0)


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads(threads):
    w = weights(False, 5, 700, 1000)
    set_num_threads(2)
    needed = pack(w).array
    set_num_threads(threads)
    try:
        assert_same_bits(pack(w).array, needed)
        assert_same_results(w, pack(w), False, 50, 700, 1000, 5)
    finally:
        set_num_threads(0)


def test_no_experts():
    packed = pack(np.zeros((0, 5, 7), np.int8))
    assert packed.shape == (0, 5, 7)
    assert packed.nbytes == HEADER


def test_out():
    w = weights(False, 2, 40, 70)
    needed = pack(w)
    array, check = guarded(needed.array.shape, np.uint8)
    packed = pack(w, out=array)
    check()
    assert packed.array is array
    assert_same_bits(array, needed.array)
    for bad in (np.empty(needed.nbytes - 1, np.uint8), np.empty(needed.nbytes, np.int8), np.empty(9, np.uint8)):
        with pytest.raises(ValueError, match="out"):
            pack(w, out=bad)
    with pytest.raises(ValueError, match="overlaps w"):
        pack(packed, out=packed.array)


def test_it_starts_with_a_cache_line_and_needs_not():
    w = weights(False, 2, 40, 70)
    packed = pack(w)
    assert packed.array.__array_interface__["data"][0] % 64 == 0
    memory = np.empty(packed.nbytes + 1, np.uint8)[1:]
    memory[:] = packed.array
    assert_same_results(w, PackedWeight(read_only(memory)), False, 7, 40, 70, 2)


def test_copies():
    packed = pack(weights(False, 2, 40, 70))
    for twin in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert twin.array is not packed.array
        assert_same_bits(twin.array, packed.array)
    assert repr(packed) == "PackedWeight(shape=(2, 40, 70), dtype=int8)"


# --- Files -----------------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path):
    for int4 in (False, True):
        w = weights(int4, 3, 100, 200)
        packed = pack(w)
        path = tmp_path / "weight.packed"
        packed.save(path)
        assert_same_bits(np.load(path), packed.array)
        for loaded in (load_packed(path), load_packed(str(path)), PackedWeight(np.load(path, mmap_mode="r"))):
            assert_same_bits(loaded.array, packed.array)
            assert_same_results(w, loaded, int4, 5, 100, 200, 3)
        assert load_packed(path).array.__array_interface__["data"][0] % 64 == 0


def test_loading_packs_again_for_this_instruction_set(tmp_path):
    w = weights(False, 2, 50, 60)
    path = tmp_path / "weight"
    with isa_limit("baseline"):
        pack(w).save(path)
        assert load_packed(path).is_current
    loaded = load_packed(path)
    assert loaded.is_current
    assert_same_bits(loaded.array, pack(w).array)
    foreign = PackedWeight(np.load(path))
    assert not foreign.is_current
    assert_same_results(w, foreign, False, 5, 50, 60, 2)


def header_with(packed, offset, code, *values):
    """The bytes of a packed weight with another entry of the header, and the sum of the header as it belongs to it."""
    array = packed.array.copy()
    array[offset : offset + struct.calcsize(code)] = np.frombuffer(struct.pack("=" + code, *values), np.uint8)
    array[HEADER - 8 : HEADER] = np.frombuffer(struct.pack("=Q", header_sum(array[: HEADER - 8])), np.uint8)
    return array


def header_sum(data):
    """The sum of the format: four lanes of words, each mixed in by a product and a shift."""
    factor, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    lanes = [1, 2, 3, 4]
    padded = np.concatenate([data, np.zeros(-len(data) % 32, np.uint8)]).view(np.uint64)
    for i, word in enumerate(padded.tolist()):
        lane = (lanes[i % 4] ^ word) * factor & mask
        lanes[i % 4] = lane ^ lane >> 29
    total = len(data)
    for lane in lanes:
        total = (total ^ lane) * factor & mask
    return total


OFFSETS = {
    "order": 8,
    "version": 12,
    "size": 16,
    "dtype": 20,
    "e": 24,
    "k": 32,
    "n": 40,
    "layout": 48,
    "bytes": 56,
    "reserved": 104,
}


def test_the_sum_of_the_header():
    packed = pack(weights(False, 2, 40, 70))
    assert_same_bits(header_with(packed, OFFSETS["k"], "q", 40), packed.array)


BAD_HEADERS = {
    "other byte order": ("order", "I", 0x04030201, "written in the other byte order"),
    "no byte order": ("order", "I", 7, "damaged header"),
    "newer": ("version", "I", 3, "version 3 of the format, needed 2"),
    "older": ("version", "I", 1, "version 1 of the format"),
    "longer header": ("size", "I", 256, "damaged header"),
    "dtype": ("dtype", "i", 3, "dtype 3 in its header, needed int8, int4, float32, float16 or bfloat16"),
    "floats": ("dtype", "i", 0, "packed float32 in layout [0-9], needed 6 to 8"),
    "no dtype": ("dtype", "i", 12345, "dtype 12345"),
    "more experts": ("e", "q", 3, "it is cut off"),
    "fewer experts": ("e", "q", 1, "there is more than the header says"),
    "negative experts": ("e", "q", -1, "is -1, needed >= 0"),
    "many experts": ("e", "q", 2**62, "too large for 64-bit sizes"),
    "k": ("k", "q", 400, "it is cut off"),
    "no k": ("k", "q", 0, "k = 0 in its header"),
    "no n": ("n", "q", 0, "n = 0 in its header"),
    "largest k": ("k", "q", 2**63 - 1, "too large for 64-bit sizes"),
    "large k": ("k", "q", 2**57 - 3, "too large for 64-bit sizes"),
    "n": ("n", "q", 700, "it is cut off"),
    "largest n": ("n", "q", 2**63 - 1, "too large for 64-bit sizes"),
    "no layout": ("layout", "q", 0, "layout 0, needed 1 to"),
    "new layout": ("layout", "q", 99, "layout 99, needed 1 to"),
    "layout beyond 32 bits": ("layout", "q", 2**32 + 1, "layout 4294967297"),
    "negative layout": ("layout", "q", -(2**63), "layout -9223372036854775808, needed 1 to 5"),
    "bytes": ("bytes", "Q", 2**64 - 1, "needed"),
    "reserved": ("reserved", "Q", 1, "more in it than this version knows"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_contradict_themselves(name):
    entry, code, value, message = BAD_HEADERS[name]
    packed = pack(weights(False, 2, 40, 70))
    bad = header_with(packed, OFFSETS[entry], code, value)
    with pytest.raises(ValueError, match=message):
        PackedWeight(bad)
    # One that becomes bad later is refused by the operators.
    packed.array[:] = bad
    with pytest.raises(ValueError, match=message):
        npu_grouped_matmul_finalize_routing(w=packed, **finalize_arguments(False, 3, 40, 70, 2))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", [-1, 0, 1, 5, 9, 10, 2**32 + 8])
def test_layouts_that_floats_have_not(dtype, layout):
    packed = pack(normal(dtype, 2, 40, 70))
    if layout == 9 and packed.dtype.itemsize == 2:  # pairs
        layout = 11
    bad = header_with(packed, OFFSETS["layout"], "q", layout)
    highest = 8 if packed.dtype.itemsize == 4 else 9
    with pytest.raises(ValueError, match=f"packed {packed.dtype} in layout {layout}, needed 6 to {highest}"):
        PackedWeight(bad)


def test_any_changed_byte_is_noticed():
    packed = pack(weights(False, 1, 33, 40))
    for position in range(packed.nbytes):
        for flip in (1, 128):
            changed = packed.array.copy()
            changed[position] ^= flip
            with pytest.raises(ValueError, match="packed weight"):
                PackedWeight(changed)


def test_any_length_but_the_right_one_is_refused():
    packed = pack(weights(False, 1, 33, 40))
    for size in range(packed.nbytes):
        with pytest.raises(ValueError, match="packed weight"):
            PackedWeight(packed.array[:size])
    with pytest.raises(ValueError, match="there is more than the header says"):
        PackedWeight(np.append(packed.array, np.uint8(0)))


def test_files_that_are_none(tmp_path):
    path = tmp_path / "weight"
    pack(weights(False, 1, 33, 40)).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    bad = [b"", b"\x93NUMPY", b"PK\x03\x04" + bytes(100), pickle.dumps([1]), rng.bytes(5000), bytes(5000), whole * 2]
    bad += [whole[:size] for size in (1, 10, 64, 127, 128, 200, 255, 256, 1000, len(whole) - 1)]
    bad += [whole[:9] + b"\xff" + whole[10:], whole.replace(b"|u1", b"<f8"), whole.replace(b"(", b"[", 1)]
    bad += [whole.replace(b"'shape': (", b"'shape': (-"), whole.replace(b"False", b"()[0]")]
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="load_packed: .*weight"):
            load_packed(path)
    for array in (np.zeros(500, np.uint8), np.zeros((5, 100), np.uint8), np.zeros(500), np.array([None])):
        np.save(tmp_path / "array.npy", array)
        with pytest.raises(ValueError, match="load_packed: "):
            load_packed(tmp_path / "array.npy")
    with pytest.raises(FileNotFoundError):
        load_packed(tmp_path / "missing")


# --- What is refused -------------------------------------------------------------------------------------------------


def test_arguments_of_pack():
    w = weights(False, 2, 40, 70)
    for bad, exception, message in [
        (None, TypeError, "w: NoneType"),
        ([1], TypeError, "w: list"),
        (w.astype(np.float64), TypeError, "w: dtype float64"),
        (w[0], ValueError, "needed"),
        (w[0, 0].astype(np.float32), ValueError, r"shape \(70,\), needed \(k, n\) or \(experts, k, n\) of float32"),
        (w[:, :0].astype(np.float32), ValueError, "k = 0"),
        (w[:, :, :0].astype(np.float16), ValueError, "n = 0"),
        (npu_format_cast(w.astype(np.float32), 29), ValueError, "storage format 29, needed 2"),
        (w[:, :0], ValueError, "k = 0"),
        (w[:, :, :0], ValueError, "n = 0"),
        (np.zeros((2, 3, 3, 15, 32), np.int8), ValueError, "tiles"),
        (npu_format_cast(w[0], 29), ValueError, "needed"),
    ]:
        with pytest.raises(exception, match=message):
            pack(bad)
    for size, exception in [(0, ValueError), (-1, ValueError), (71, ValueError), (2**70, ValueError), (1.0, TypeError)]:
        with pytest.raises(exception, match="n: "):
            pack(w, n=size)
    with pytest.raises(ValueError, match=r"needed \(experts, k, n\)"):
        pack(w, k=39)
    with pytest.raises(ValueError, match="k: 39, needed the 40 of w"):
        pack(w.astype(np.float32), k=39)


def test_arguments_of_the_object():
    packed = pack(weights(False, 2, 40, 70))
    for bad, exception, message in [
        (None, TypeError, "NoneType"),
        (packed.array.tobytes(), TypeError, "bytes"),
        (packed.array.view(np.int8), TypeError, "dtype int8"),
        (packed.array[None], ValueError, "needed .bytes,."),
    ]:
        with pytest.raises(exception, match=message):
            PackedWeight(bad)
    assert_same_bits(PackedWeight(strided(packed.array)).array, packed.array)


def test_a_weight_of_another_shape_or_type():
    packed = pack(weights(False, 2, 40, 70))
    for k, n, e in [(41, 70, 2), (40, 71, 2), (40, 70, 3)]:
        with pytest.raises(ValueError, match="needed"):
            npu_grouped_matmul_finalize_routing(w=packed, **finalize_arguments(False, 3, k, n, e))
    with pytest.raises(TypeError, match="scale"):
        npu_grouped_matmul_finalize_routing(w=packed, **finalize_arguments(True, 3, 40, 70, 2))
    with pytest.raises(TypeError, match="scale"):
        npu_grouped_matmul_finalize_routing(w=pack(weights(True, 2, 40, 72)), **finalize_arguments(False, 3, 40, 72, 2))


def test_packed_floats_of_another_shape_or_type():
    arguments = ffn_arguments(np.float32, [3, 4], 40, 70, 40)
    packed1, packed2 = pack(arguments["weight1"]), pack(arguments["weight2"])
    for change, exception, message in [
        ({"weight1": packed2}, ValueError, "weight1: 70 rows, needed one per column of x = 40"),
        ({"weight2": packed1}, ValueError, "weight2: 40 rows, needed the columns of weight1 = 70"),
        ({"expert_tokens": [7]}, ValueError, "weight1: 2 experts, needed the 1 of expert_tokens"),
        ({"expert_tokens": None}, ValueError, "weight1: packed, of 2 experts, needed one without expert_tokens"),
        ({"x": arguments["x"].astype(np.float16)}, TypeError, "weight1: dtype float32, needed one of float16"),
        ({"weight1": pack(normal(np.float16, 2, 40, 70))}, TypeError, "weight2: dtype float32, needed float16"),
        (
            {"weight1": pack(weights(False, 2, 40, 70))},
            TypeError,
            "packed int8, needed a weight that is not packed, or",
        ),
        ({"x": packed1}, TypeError, "PackedWeight, needed an array"),
    ]:
        with pytest.raises(exception, match=message):
            npu_ffn(**arguments | {"weight1": packed1, "weight2": packed2} | change)
    with pytest.raises(TypeError, match="w: dtype float32"):
        npu_grouped_matmul_finalize_routing(w=packed1, **finalize_arguments(False, 3, 40, 70, 2))
    out = packed2.array[: 7 * 40 * 4].view(np.float32).reshape(7, 40)
    with pytest.raises(ValueError, match="overlaps weight2"):
        npu_ffn(**arguments | {"weight1": packed1, "weight2": packed2, "out": out})


def test_other_operators_refuse_it():
    packed = pack(weights(False, 2, 40, 70))
    with pytest.raises(TypeError, match="PackedWeight, needed an array"):
        npu_format_cast(packed, 2)
    with pytest.raises(TypeError, match="PackedWeight, needed an array"):
        npu_grouped_matmul_finalize_routing(w=packed, **(finalize_arguments(False, 3, 40, 70, 2) | {"x": packed}))


def test_out_that_overlaps_it():
    arguments = finalize_arguments(False, 3, 40, 70, 2)
    packed = pack(weights(False, 2, 40, 70))
    out = packed.array[: 3 * 70 * 4].view(np.float32).reshape(3, 70)
    with pytest.raises(ValueError, match="overlaps w"):
        npu_grouped_matmul_finalize_routing(w=packed, out=out, **arguments)
