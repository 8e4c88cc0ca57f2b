"""The benchmark on shapes that take no time: what it computes and what it writes, never how long anything takes."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

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
"""

#: Largest error, as a fraction of the largest exact value, that the dtype of a result allows over 33 terms.
BOUNDS = {"moe-f16": 2**-10, "dense-bf16": 2**-7, "finalize": 2**-7, "routing": 0.0, "permute": 0.0}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    file = tmp_path_factory.mktemp("shapes") / "tiny.toml"
    file.write_text(TINY)
    return file


def run(*arguments):
    return CliRunner().invoke(app, ["bench", "--probe-mib", "2", "--repeat", "2", *map(str, arguments)])


def test_every_kind_of_item(shapes, tmp_path):
    file = tmp_path / "out.json"
    result = run("--shapes", shapes, "--json", file)
    assert result.exit_code == 0, result.output
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


def test_items_are_chosen_by_name(shapes):
    result = run("--shapes", shapes, "--item", "permute", "--item", "q8")
    assert result.exit_code == 0
    lines = [line.split()[0] for line in result.stdout.splitlines() if "moe_native, out=" in line]
    assert lines == ["routing-q8", "permute"]


@pytest.mark.parametrize("arguments", [["--shapes", "none"], ["--item", "no such item"], ["--repeat", "0"]])
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


def test_error_is_seen():
    from moe_native.benchmarks.items import error_of

    assert error_of(np.float32([1, 2]), np.array([1.0, 2.5])) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="shape"):
        error_of(np.zeros(2), np.zeros(3))
