"""The benchmark on shapes that take no time: what it computes and what it writes, never how long anything takes."""

import json
import math
import os

import numpy as np
import pytest
from typer.testing import CliRunner

import moe_native
from moe_native.benchmarks import common
from moe_native.cli import app

TINY = """
[[item]]
name = "gmm"
kind = "gmm"
counts = [5, 0, 2]
tokens = 4
shared_rows = 2
k = 33
n = 40
target = 1.5

[[item]]
name = "gmm-int4"
kind = "gmm"
dtype = "int4"
counts = [5, 0, 2]
tokens = 4
shared_rows = 2
k = 33
n = 40

[[item]]
name = "moe-f16"
kind = "ffn"
dtype = "float16"
counts = [3, 0, 2]
k1 = 20
n1 = 24
n2 = 7
activation = "silu"
target = 1.5

[[item]]
name = "dense-bf16"
kind = "ffn"
dtype = "bfloat16"
rows = 3
k1 = 20
n1 = 24
n2 = 7
activation = "relu"

[[item]]
name = "moe-f32"
kind = "ffn"
dtype = "float32"
counts = [3, 2]
k1 = 20
n1 = 24
n2 = 7
activation = "fastgelu"

[[item]]
name = "routing"
kind = "init_routing"
tokens = 6
hidden = 50
experts = 8
top_k = 2
quantised = false
target = 1.3
target_fresh = 3.0

[[item]]
name = "routing-q8"
kind = "init_routing"
tokens = 6
hidden = 50
experts = 8
top_k = 2
quantised = true
target_microseconds = 10.0

[[item]]
name = "permute"
kind = "permute"
tokens = 6
hidden = 50
experts = 8
top_k = 2
target = 1.3

[[item]]
name = "finalize"
kind = "finalize"
tokens = 6
hidden = 50
experts = 8
top_k = 2
target = 1.25

[[item]]
name = "swiglu-quant"
kind = "swiglu_quant"
dtype = "int8"
counts = [5, 0, 2]
k = 33
n = 40

[[item]]
name = "swiglu-quant-int4"
kind = "swiglu_quant"
dtype = "int4"
counts = [5, 0, 2]
k = 33
n = 40

[[item]]
name = "gating-groups"
kind = "gating"
tokens = 6
experts = 12
top_k = 3
groups = 4
kept_groups = 2
scores = "sigmoid"
factor = 2.5

[[item]]
name = "gating-softmax-groups"
kind = "gating"
tokens = 6
experts = 12
top_k = 3
groups = 4
kept_groups = 2
scores = "softmax"
factor = 16.0

[[item]]
name = "gating-softmax"
kind = "gating_softmax"
tokens = 6
experts = 12
top_k = 3

[[item]]
name = "unpermute"
kind = "unpermute"
tokens = 10
hidden = 50
experts = 8
top_k = 2

[[item]]
name = "swiglu"
kind = "swiglu"
tokens = 70
columns = 50

[[item]]
name = "quant"
kind = "dynamic_quant"
tokens = 70
hidden = 50
smooth = false

[[item]]
name = "quant-smooth"
kind = "dynamic_quant"
tokens = 70
hidden = 50
smooth = true

[[item]]
name = "cast"
kind = "format_cast"
dtype = "int8"
experts = 2
k = 48
n = 64
to = "NZ"

[[item]]
name = "cast-back"
kind = "format_cast"
dtype = "bfloat16"
experts = 2
k = 48
n = 64
to = "ND"

[[item]]
name = "pack"
kind = "pack"
dtype = "int8"
experts = 2
k = 48
n = 64

[[item]]
name = "pack-bf16"
kind = "pack"
dtype = "bfloat16"
experts = 2
k = 48
n = 64
"""

#: Largest error, as a fraction of the largest exact value, that the dtype of a result allows over 33 terms.
BOUNDS = {
    "moe-f16": 2**-10,
    "dense-bf16": 2**-7,
    # The operators round the products of both halves of a row to float16.
    "gmm-int4": 2**-9,
    "swiglu-quant-int4": 2**-6,
    "gating-softmax": 2**-8,
    "routing": 0.0,
    "permute": 0.0,
    "unpermute": 2**-8,
    "finalize": 2**-7,
    "swiglu": 2**-8,
    "cast": 0.0,
    "cast-back": 0.0,
    "pack-bf16": 2**-8,
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    file = tmp_path_factory.mktemp("shapes") / "tiny.toml"
    file.write_text(TINY)
    return file


def run(*arguments):
    options = ["--probe-mib", "2", "--repeat", "2", "--peers", "numpy"]
    return CliRunner().invoke(app, ["bench", *options, *map(str, arguments)])


def table_of(markdown):
    """The cells of the last table of a page, by title."""
    lines = [line.strip("|").split("|") for line in markdown.split("\n\n")[2].splitlines() if line.startswith("|")]
    titles = [title.strip() for title in lines[0]]
    return [dict(zip(titles, map(str.strip, line), strict=True)) for line in lines[2:]]


def test_every_kind_of_item(shapes, tmp_path):
    file, page, picture = tmp_path / "out.json", tmp_path / "out.md", tmp_path / "out.png"
    result = run("--shapes", shapes, "--json", file, "--markdown", page, "--png", picture)
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    seen = json.loads(file.read_text())
    assert set(seen["limits"]) == {"int8", "float32", "bfloat16", "read", "write", "copy"}
    assert all(0 < low <= high for low, high in seen["limits"].values())
    assert [item["name"] for item in seen["items"]] == [
        line.split('"')[1] for line in TINY.splitlines() if line.startswith("name")
    ]
    for item in seen["items"]:
        names = [contender["name"] for contender in item["contenders"]]
        assert names[:2] == ["moe_native, out=", "moe_native"]
        assert any(name.startswith("numpy") for name in names)
        for contender in item["contenders"]:
            assert len(contender["seconds"]) == 2
            assert contender["median_seconds"] > 0
            assert contender["error"] <= BOUNDS.get(item["name"], 1e-5), (item["name"], contender["name"])
            assert contender["times_best_peer"] > 0
        for word in (item["name"], "moe_native, out="):
            assert word in result.stdout
        if item["name"] == "routing-q8":
            assert item["floor_seconds"] is None
            assert item["contenders"][1]["target_seconds"] == pytest.approx(1e-5)
        else:
            assert item["floor_seconds"] > 0
            assert item["floor_decided_by"] in seen["limits"]
            assert all(contender["times_floor"] > 0 for contender in item["contenders"])
    written = table_of(page.read_text())
    assert [line["contender"] for line in written] == [c["name"] for item in seen["items"] for c in item["contenders"]]
    assert [line["item"] for line in written if line["item"]] == [item["name"] for item in seen["items"]]


SCALING = """
tokens = [1, 40]

[[item]]
name = "gmm"
kind = "gmm"
counts = [3, 1]
k = 32
n = 32

[[item]]
name = "moe"
kind = "ffn"
dtype = "float16"
counts = [3, 1]
k1 = 8
n1 = 8
n2 = 8
activation = "silu"

[[item]]
name = "dense"
kind = "ffn"
dtype = "float32"
k1 = 8
n1 = 8
n2 = 8
activation = "silu"

[[item]]
name = "combine"
kind = "finalize"
hidden = 16
experts = 4
top_k = 2
"""


def test_scaling(tmp_path):
    shapes, file, page, picture = (tmp_path / name for name in ("in.toml", "out.json", "out.md", "out.png"))
    shapes.write_text(SCALING)
    threads = moe_native.get_num_threads()
    options = "--json", file, "--markdown", page, "--png", picture
    result = run("--scaling", "--shapes", shapes, *options)
    assert result.exit_code == 0, result.output
    assert moe_native.get_num_threads() == threads
    points = json.loads(file.read_text())["points"]
    regimes = ["gmm", "moe", "dense", "combine"]
    assert [(p["regime"], p["tokens"]) for p in points] == [(name, n) for name in regimes for n in (1, 40)]
    for point in points:
        for key in ("first_call", "one_thread", "all_threads", "floor", "efficiency"):
            assert point[key] > 0, key
        assert point["per_token"] == point["all_threads"] / point["tokens"]
    assert [line["regime"] for line in table_of(page.read_text())] == [point["regime"] for point in points]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_scaling_keeps_every_row():
    from moe_native.benchmarks.scaling import at

    spec = {"name": "x", "kind": "gmm", "counts": [118, 96, 84, 75, 66, 57, 46, 34]}
    for tokens in (1, 2, 7, 1000, 65536):
        seen = at(spec, tokens)
        assert sum(seen["counts"]) == seen["tokens"] == tokens
        assert min(seen["counts"]) >= 0


@pytest.mark.parametrize("name", ["table", "off-table", "models", "helpers", "scaling"])
def test_shapes_of_the_package(name):
    """Every file names each item once and holds what its kind needs."""
    from moe_native.benchmarks.items import SHAPES, load

    needed = {
        "gmm": {"counts", "k", "n"},
        "ffn": {"dtype", "k1", "n1", "n2", "activation"},
        "swiglu_quant": {"dtype", "counts", "k", "n"},
        "gating": {"tokens", "experts", "top_k", "groups", "kept_groups", "scores", "factor"},
        "gating_softmax": {"tokens", "experts", "top_k"},
        "init_routing": {"hidden", "experts", "top_k", "quantised"},
        "permute": {"tokens", "hidden", "experts", "top_k"},
        "unpermute": {"tokens", "hidden", "experts", "top_k"},
        "finalize": {"hidden", "experts", "top_k"},
        "swiglu": {"tokens", "columns"},
        "dynamic_quant": {"tokens", "hidden", "smooth"},
        "format_cast": {"dtype", "experts", "k", "n", "to"},
        "pack": {"dtype", "experts", "k", "n"},
    }
    specs = load(SHAPES / f"{name}.toml")
    assert len({spec["name"] for spec in specs}) == len(specs) > 0
    for spec in specs:
        assert needed[spec["kind"]] <= set(spec), spec["name"]
        if spec["kind"] == "gmm" and "tokens" in spec:
            assert spec["tokens"] <= sum(spec["counts"]), f"{spec['name']}: an output row for each row of x at most"


def test_items_are_chosen_by_name(shapes):
    result = run("--shapes", shapes, "--item", "permute", "--item", "q8")
    assert result.exit_code == 0
    lines = [line.split()[0] for line in result.stdout.splitlines() if "moe_native, out=" in line]
    assert lines == ["routing-q8", "permute", "unpermute"]


@pytest.mark.parametrize(
    "arguments", [["--shapes", "none"], ["--item", "no such item"], ["--repeat", "0"], ["--peers", "cuda"]]
)
def test_bad_options(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Invalid value" in result.stderr


def test_floor_and_targets():
    from moe_native.benchmarks.measure import Contender, Work

    ours = Contender("ours", lambda i: None, lambda r: 0.0, ours=True, target_ratio=1.1, seconds=[2.1, 2.2, 4.4])
    peer = Contender("peer", lambda i: None, lambda r: 0.0, seconds=[4.2, 4.4, 8.8])
    work = Work("item", "", [ours, peer], operations={"bfloat16": 12.0}, read_bytes=4, written_bytes=1)
    # Float32 arithmetic is an upper limit of bfloat16 arithmetic too.
    assert work.limits == ["bfloat16", "float32", "read", "write"]
    assert work.floor({"bfloat16": 2.0, "float32": 3.0, "read": 2.0, "write": 2.0}) == (4.0, "float32")
    assert work.floor({"bfloat16": 12.0, "float32": 3.0, "read": 1.0, "write": 2.0}) == (4.0, "read")
    work.floors = [2.0, 2.0, 4.0]
    assert work.ratio(ours) == pytest.approx(1.1)
    assert work.best_peer is peer
    assert work.void
    work.floors = [2.0, 2.0, 2.0]
    assert not work.void
    assert work.met(ours)
    ours.seconds = [2.3, 2.3, 2.3]
    assert not work.met(ours)
    assert work.met(peer) is None
    assert not math.isnan(work.floor_seconds)


def test_input_sets_outgrow_the_cache_and_not_the_memory(monkeypatch):
    monkeypatch.setattr(common, "cache_bytes", lambda: 1 << 20)
    assert common.sets_for(1 << 20) == 3
    assert common.sets_for((1 << 20) - 1) == 4
    assert common.sets_for(1 << 30) == 1
    assert common.sets_for(1) == common.MOST_SETS
    monkeypatch.setattr(common, "cache_bytes", lambda: 1 << 40)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert common.sets_for(memory // 100, copies=10) == 5
    assert common.sets_for(memory // 100, copies=20) == 2
    assert common.sets_for(memory, copies=20) == 1


def test_error_is_seen():
    from moe_native.benchmarks.common import error_of

    assert error_of(np.float32([1, 2]), np.array([1.0, 2.5])) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="shape"):
        error_of(np.zeros(2), np.zeros(3))
