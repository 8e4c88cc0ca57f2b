"""Calls in a file: everything comes back, on any backend, and files of something else are told apart."""

import json
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from cases.calls import CALLS, call
from typer.testing import CliRunner

import moe_native
from moe_native import record, replay, use_backend
from moe_native.cli import app
from moe_native.recording import load_calls
from moe_native.testing import assert_same_bits, bfloat16, guarded, strided

HOME = moe_native.ascend_home()
F32 = np.float32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calls.npz"


def swiglu(scale=1):
    return moe_native.npu_swiglu(scale * np.array([[1, -2, 3, 0.5]], F32))


@pytest.mark.parametrize("operator", CALLS)
def test_round_trip(operator, path):
    arguments = CALLS[operator](np.random.default_rng(0))
    given = {n: strided(a) if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
    with record(path) as recording:
        needed = call(operator, given)
    assert len(recording) == 1
    (seen,) = load_calls(path)
    assert seen.op == operator
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            assert_same_bits(seen.arguments[name], value)
            assert seen.arguments[name].dtype == value.dtype
        elif value is not None and not isinstance(value, list):
            assert seen.arguments[name] == value
            assert type(seen.arguments[name]) is type(value)
    for array, result in zip(seen.results.values(), needed, strict=False):
        assert_same_bits(array, result)
    (outcome,) = replay(path, exact=True)
    assert outcome.ok, outcome.problem
    assert {measure.name for measure in outcome.measures} == set(seen.results)


def test_every_form_of_argument(path):
    """Weights in tiles and packed, lists, tuples, no array, numbers of NumPy, bfloat16, outputs of the caller."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (2, 64, 256), np.int8)
    matmul = {
        "x": rng.integers(-128, 128, (8, 64), np.int8),
        "group_list": np.array([3, 5]),
        "scale": rng.normal(size=(2, 256)).astype(bfloat16),
        "row_index": np.arange(8) % 4,
        "output_bs": np.int64(4),
        "tuning_config": (np.int32(4), 1),
        "shared_input_weight": np.float32(0.1),
    }
    tokens = rng.normal(size=(6, 16)).astype(bfloat16)
    out, _ = guarded((6, 8), bfloat16)
    with record(path):
        needed = [
            moe_native.npu_grouped_matmul_finalize_routing(w=weight, **matmul),
            moe_native.npu_grouped_matmul_finalize_routing(w=moe_native.npu_format_cast(weight, 29), **matmul),
            moe_native.npu_grouped_matmul_finalize_routing(w=moe_native.pack(weight), **matmul),
            moe_native.npu_swiglu(tokens, out=out),
            moe_native.npu_ffn(tokens, np.ones((16, 8), bfloat16), np.ones((8, 16), bfloat16), "silu"),
        ]
        moe_native.npu_moe_init_routing_v2(tokens, np.zeros((6, 2), np.int32), expert_num=3, active_expert_range=(1, 3))
        moe_native._npu_moe_token_unpermute_with_routing_map(tokens, np.zeros(6, np.int32), (3, 16))
    recorded = load_calls(path)
    assert [one.op for one in recorded[:3]] == [
        "npu_grouped_matmul_finalize_routing",
        "npu_format_cast",
        "npu_grouped_matmul_finalize_routing",
    ]
    products = [one.results["the result"] for one in recorded if "the result" in one.results]
    for seen, result in zip(products, needed, strict=True):
        assert_same_bits(seen, result)
    assert isinstance(recorded[2].arguments["w"], moe_native.NzArray)
    assert isinstance(recorded[3].arguments["w"], moe_native.PackedWeight)
    assert recorded[-2].arguments["active_expert_range"] == [1, 3]
    outcomes = list(replay(path, exact=True))
    assert len(outcomes) == 8
    assert all(outcome.ok for outcome in outcomes)
    assert len(list(replay(path, ["npu_ffn"]))) == 1


class Number:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.mark.parametrize("kind", [Number, np.int16, np.array])
def test_what_is_an_int(path, kind):
    """Whatever has an index is one, on the CPU, on a device and in a file."""
    x, ids = np.ones((2, 8), F32), np.array([[0, 2], [1, 0]], np.int32)
    index = np.arange(4, dtype=np.int32)

    def compute():
        routed = moe_native.npu_moe_init_routing_v2(
            x, ids, expert_num=kind(3), active_expert_range=[kind(0), kind(3)], expert_tokens_num_flag=True
        )
        routing_map = np.ones((2, 2), np.int8)
        back = moe_native.npu_moe_token_unpermute_with_routing_map(
            np.ones((4, 8), F32), index, (kind(2), kind(8)), routing_map=routing_map
        )
        return [moe_native.npu_swiglu(x, kind(-1)), *routed[:3], back]

    needed = compute()
    with use_backend("acl", HOME), record(path):
        seen = compute()
    for array, result in zip(seen, needed, strict=True):
        assert_same_bits(array, result)
    assert [outcome.problem for outcome in replay(path, exact=True)] == [""] * 3


def test_arrays_are_those_of_the_call(path):
    """What a program does with its arrays later is not in the file."""
    x = np.ones((2, 4), F32)
    with record(path):
        y = moe_native.npu_swiglu(x)
        x[...], y[...] = 7, 7
    (seen,) = load_calls(path)
    assert_same_bits(seen.arguments["input"], np.ones((2, 4), F32))
    assert_same_bits(seen.results["the result"], moe_native.npu_swiglu(np.ones((2, 4), F32)))


def test_from_one_backend_to_the_other(path):
    with use_backend("acl", HOME), record(path):
        for operator in ("npu_swiglu", "npu_moe_finalize_routing", "npu_moe_gating_top_k"):
            call(operator, CALLS[operator](np.random.default_rng(0)))
    assert len(list(replay(path))) == 3
    assert all(outcome.ok for outcome in replay(path, exact=True))
    with record(path):
        call("npu_moe_init_routing_v2", CALLS["npu_moe_init_routing_v2"](np.random.default_rng(0)))
        moe_native.npu_ffn(*[np.ones((2, 2), F32)] * 3, "relu")
    with use_backend("acl", HOME):
        first, second = replay(path, exact=True)
    assert first.ok
    assert not second.ok
    assert "AclInvalidArgumentError: aclnnFFNV3" in second.problem


def test_parts_of_calls_are_no_calls(path):
    """A weight that the backend casts on the way is not recorded."""
    with record(path), use_backend("acl", HOME):
        moe_native.npu_grouped_matmul_swiglu_quant(
            np.ones((2, 64), np.int8),
            np.ones((1, 64, 256), np.int8),
            np.array([2]),
            np.ones((1, 256), F32),
            np.ones(2, F32),
        )
    assert [one.op for one in load_calls(path)] == ["npu_grouped_matmul_swiglu_quant"]


def test_calls_of_all_threads(path):
    with record(path) as recording:
        threads = [threading.Thread(target=lambda: [swiglu() for _ in range(20)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(recording) == 160
    swiglu()
    assert len(load_calls(path)) == 160
    assert all(outcome.ok for outcome in replay(path, exact=True))


def test_equal_arrays_are_kept_once(path):
    weight = np.random.default_rng(0).integers(-128, 128, (4, 256, 256), np.int8)
    with record(path):
        for i in range(5):
            moe_native.npu_format_cast(weight + np.int8(0), 29)
            moe_native.npu_swiglu(np.zeros((2, 4 + 2 * i), F32))
        moe_native.npu_swiglu(np.zeros((2, 4), bfloat16))
        moe_native.npu_swiglu(np.zeros((2, 4), np.float16))
    assert path.stat().st_size < 3 * weight.nbytes
    assert all(outcome.ok for outcome in replay(path, exact=True))
    recorded = load_calls(path)
    assert [one.arguments["input"].dtype for one in recorded[-2:]] == [bfloat16, np.float16]
    assert [one.results["the result"].shape for one in recorded[1::2]] == [(2, 2 + i) for i in range(5)] + [(2, 2)]


def test_recordings_may_overlap(path, tmp_path):
    with record(path):
        swiglu()
        with record(tmp_path / "inner.npz"):
            swiglu()
        swiglu()
    assert len(load_calls(path)) == 3
    assert len(load_calls(tmp_path / "inner.npz")) == 1


def test_failed_calls_are_left_out_and_the_others_written(path):
    def program():
        swiglu()
        moe_native.npu_swiglu(np.ones((2, 3), F32))

    with pytest.raises(ValueError, match="even"), record(path):
        program()
    assert len(load_calls(path)) == 1


def test_no_calls(path):
    with record(path):
        pass
    assert load_calls(path) == []
    assert list(replay(path)) == []


def test_path_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError), record(tmp_path / "nowhere" / "calls.npz"):
        pytest.fail("the block began")


# What differs


def rewrite(path, change):
    """Change the index of a file."""
    with np.load(path) as archive:
        arrays = dict(archive)
    index = json.loads(str(arrays["index"]))
    change(index, arrays)
    arrays["index"] = np.array(json.dumps(index))
    np.savez(path, **arrays)


def test_another_result(path):
    with record(path):
        swiglu()

    def change(index, arrays):
        arrays[index["calls"][0]["results"]["the result"]["name"]][0, 1] = 7

    rewrite(path, change)
    (outcome,) = replay(path)
    assert not outcome.ok
    assert outcome.problem.startswith("the result: 1 of 2 elements miss 'precision 0.0001', first at [0, 1]")


def test_last_bit_counts_when_it_shall(path):
    with record(path):
        swiglu()

    def change(index, arrays):
        result = arrays[index["calls"][0]["results"]["the result"]["name"]]
        result[0, 0] = np.nextafter(result[0, 0], F32(9))

    rewrite(path, change)
    assert next(replay(path)).ok
    assert not next(replay(path, exact=True)).ok


def test_call_that_raises_now(path):
    with record(path):
        swiglu()
        swiglu()
    rewrite(path, lambda index, arrays: index["calls"][0]["arguments"].update(dim=5))
    first, second = replay(path)
    assert not first.ok
    assert first.problem.startswith("ValueError: npu_swiglu: dim: 5")
    assert second.ok


# Files of something else


@pytest.fixture
def written(path):
    with record(path):
        swiglu()
    return path


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(replay(tmp_path / "calls.npz"))


def test_other_files(path):
    needed = f"{path}: .*, needed a file that moe_native.record wrote"
    for content in (b"", b"anything", b"PK\x03\x04 no zip", b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=needed):
            list(replay(path))
    with open(path, "wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=needed):
        list(replay(path))
    np.savez(path, index=np.ones(3))
    with pytest.raises(ValueError, match="no index"):
        list(replay(path))
    np.savez(path, x=np.ones(3))
    with pytest.raises(ValueError, match="no index"):
        list(replay(path))
    for other in ({}, {"format": "other"}, [], 3):
        np.savez(path, index=np.array(json.dumps(other)))
        with pytest.raises(ValueError, match="an index of something else"):
            list(replay(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("index", "text")
    with pytest.raises(ValueError, match=needed):
        list(replay(path))


def test_pickles_are_not_read(path):
    np.savez(path, index=np.array([{"format": "moe_native calls"}], object))
    with pytest.raises(ValueError, match=r"no whole \.npz"):
        list(replay(path))


def test_later_version(written):
    rewrite(written, lambda index, arrays: index.update(version=2))
    with pytest.raises(ValueError, match="version 2 of the format, needed 1"):
        list(replay(written))


def test_damage(written):
    whole = written.read_bytes()
    for size in range(0, len(whole), 97):
        written.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="needed a file that"):
            list(replay(written))
    refused = 0
    for place in range(0, len(whole), 31):
        written.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert all(outcome.ok for outcome in replay(written, exact=True))  # a byte that nobody reads
        except ValueError as error:
            assert "needed a file that" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 10


def test_damage_of_the_directory(written):
    """Of the fields of a zip file that make Python raise what is neither a ValueError nor a BadZipFile."""
    whole = written.read_bytes()
    entry = whole.rindex(b"PK\x01\x02")
    for offset, value in ((6, 0x80), (8, 0x01), (8, 0x20), (8, 0x40), (10, 0x08), (10, 0x03)):
        content = bytearray(whole)
        content[entry + offset] = value
        written.write_bytes(content)
        with pytest.raises(ValueError, match=r"no whole \.npz .*, needed a file that moe_native.record wrote"):
            list(replay(written))


DAMAGED = {
    "no arguments": lambda index, arrays: index["calls"][0].pop("arguments"),
    "another operator": lambda index, arrays: index["calls"][0].update(op="set_num_threads"),
    "an unknown operator": lambda index, arrays: index["calls"][0].update(op="npu_nothing"),
    "no calls": lambda index, arrays: index.pop("calls"),
    "calls of another kind": lambda index, arrays: index.update(calls=[1]),
    "an array that is not there": lambda index, arrays: arrays.pop("array_0"),
    "another dtype": lambda index, arrays: arrays.update(array_0=np.ones(3, np.int8)),
    "a result that is none": lambda index, arrays: index["calls"][0]["results"].update({"the result": 1}),
    "a kind of argument": lambda index, arrays: index["calls"][0]["arguments"].update(input={"kind": "other"}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_index(written, name):
    rewrite(written, DAMAGED[name])
    with pytest.raises(ValueError, match=r"a damaged index \(.*\), needed a file that moe_native.record wrote"):
        list(replay(written))


# The commands

PROGRAM = """
import sys
import numpy as np
import moe_native
print(sys.argv[1:], __name__)
for _ in range(3):
    moe_native.npu_swiglu(np.ones((2, 4), np.float16))
sys.exit(len(sys.argv) - 1)
"""


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_record_and_replay_commands(tmp_path, path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    before = sys.argv, sys.path[:]
    result = run("record", path, program, "--option", "x", "-m")
    assert (sys.argv, sys.path) == before
    assert result.stdout == "['--option', 'x', '-m'] __main__\n"
    assert result.exit_code == 3  # the program's own
    assert f"3 calls in {path}" in result.stderr
    result = run("replay", path, "--exact")
    assert result.exit_code == 0, result.output
    assert "Every result is right." in result.stdout
    result = run("replay", path, "--home", HOME, "--json", tmp_path / "seen.json")
    assert result.exit_code == 0, result.output
    assert "computed by acl" in result.stdout
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert (seen["backend"], seen["ok"], len(seen["calls"])) == ("acl", True, 3)


def test_record_a_module(tmp_path, path):
    (tmp_path / "some_module.py").write_text(PROGRAM)
    command = [sys.executable, "-P", "-m", "moe_native", "record", str(path), "-m", "some_module"]
    seen = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert seen.returncode == 0, seen.stderr
    assert seen.stdout == "[] __main__\n"
    assert len(load_calls(path)) == 3
    assert run("record", path, "-m").exit_code == 2


def test_record_into_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    result = run("record", tmp_path / "nowhere" / "calls.npz", tmp_path / "program.py")
    assert isinstance(result.exception, FileNotFoundError)
    assert not result.stdout


def test_replay_command_tells_what_is_wrong(written, tmp_path):
    rewrite(written, lambda index, arrays: arrays["array_1"].fill(1))
    result = run("replay", written)
    assert result.exit_code == 1
    assert "npu_swiglu call 0: the result: 2 of 2 elements miss" in result.stdout
    assert "1 of 1 calls are wrong" in result.stdout
    assert run("replay", written, "--op", "npu_ffn").exit_code == 0
    result = run("replay", tmp_path / "nothing.npz")
    assert result.exit_code == 2
    assert "FileNotFoundError" in result.stderr
    result = run("replay", written, "--home", tmp_path)
    assert result.exit_code == 2
    assert "is not a toolkit" in result.stderr
