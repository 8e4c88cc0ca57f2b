"""isa_limit, show_config, explain: what they say is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import moe_native
from moe_native import _core
from moe_native.cli import app

ROOT = Path(__file__).parents[1]
ROWS = np.ones((2, 3), np.float32)
INDEX = np.array([1, 0], np.int32)
CALL = ROWS, None, None, None, None, INDEX


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )


def test_limit_stays_or_ends_with_its_block():
    best = moe_native.get_isa_limit()
    try:
        moe_native.isa_limit("baseline")
        assert moe_native.get_isa_limit() == "baseline"
        with moe_native.isa_limit(None):
            assert moe_native.get_isa_limit() == moe_native.show_config("dict")["processor_isa"]
        assert moe_native.get_isa_limit() == "baseline"
        with pytest.raises(ZeroDivisionError), moe_native.isa_limit(None):
            raise ZeroDivisionError
        assert moe_native.get_isa_limit() == "baseline"
    finally:
        moe_native.isa_limit(best)


def test_limit_that_does_not_exist():
    before = moe_native.get_isa_limit()
    with pytest.raises(RuntimeError, match='isa: unknown instruction set "mmx", needed "baseline"'):
        moe_native.isa_limit("mmx")
    assert moe_native.get_isa_limit() == before


def test_config():
    config = moe_native.show_config("dict")
    assert config["version"] == moe_native.__version__
    assert config["threads"] == moe_native.get_num_threads()
    assert config["isa_limit"] == moe_native.get_isa_limit()
    assert config["openmp"] >= 201511
    assert Path(config["openmp_library"]).exists()
    assert "gomp" in config["openmp_library"] or "omp" in config["openmp_library"]
    assert set(config["kernels"]) == {family for family, *_ in _core.kernels()}
    with pytest.raises(ValueError, match="mode: 'dicts', needed 'stdout' or 'dict'"):
        moe_native.show_config("dicts")


def test_config_is_printed(capsys):
    moe_native.show_config()
    printed = capsys.readouterr().out
    assert CliRunner().invoke(app, ["info"]).stdout == printed
    config = moe_native.show_config("dict")
    for key, value in [*config.items(), *config["kernels"].items()]:
        if key != "kernels":
            assert re.search(rf"^ *{key} +{re.escape(str(value))}$", printed, re.MULTILINE), key


def test_origin_of_the_limit():
    code = "import moe_native; print(moe_native.show_config('dict')['isa_origin'])"
    environment = {"MOE_NATIVE_ISA": ""}
    assert run(code, **environment).stdout == "processor\n"
    environment = {"MOE_NATIVE_ISA": "baseline"}
    assert run(code, **environment).stdout == "MOE_NATIVE_ISA\n"
    limited = code.replace("; ", "; moe_native.isa_limit('baseline'); ", 1)
    assert run(limited, **environment).stdout == "moe_set_isa_limit\n"
    assert run(limited.replace("'baseline'", "None"), **environment).stdout == "processor\n"


def test_states_of_kernels():
    """Every state follows from the order of the rows, the limit and the processor."""
    order = ["baseline", "avx2", "avx512", "avx512vnni", "avx512bf16"]
    config = moe_native.show_config("dict")
    if config["processor_isa"] not in order:
        order = ["baseline", "neon", "dotprod", "i8mm"]
    best = order.index(config["processor_isa"])
    for limit in order[: best + 1]:
        with moe_native.isa_limit(limit):
            rows = _core.kernels()
            chosen = moe_native.show_config("dict")["kernels"]
        for family in chosen:
            usable = [row for row in rows if row[0] == family and order.index(row[2]) <= order.index(limit)]
            assert usable[-1][1] == chosen[family]
            for row in (row for row in rows if row[0] == family):
                isa = order.index(row[2])
                needed = 3 if isa > best else 2 if isa > order.index(limit) else 0 if row is usable[-1] else 1
                assert row[3] == needed, (limit, row)


def test_explanation():
    moe_native.set_num_threads(2)
    try:
        x = np.ones((5, 24), np.float32)
        w1, w2 = np.ones((24, 40), np.float32), np.ones((40, 8), np.float32)
        out = np.zeros((5, 8), np.float32)
        with moe_native.isa_limit("baseline"):
            seen = moe_native.explain(moe_native.npu_ffn, x, w1, w2, "relu", out=out)
    finally:
        moe_native.set_num_threads(0)
    assert (out == 24 * 40).all()
    assert (seen.op, seen.threads) == ("npu_ffn", 2)
    assert sum(seen.pieces.values()) <= seen.workspace
    assert min(seen.pieces.values()) > 0
    product = next(kernel for kernel in seen.kernels if kernel.family == "fgemm")
    assert (product.name, product.isa) == ("baseline", "baseline")
    assert min(product.tile) > 0
    assert product.refused["ref"] == "baseline is preferred"
    for name, reason in product.refused.items():
        if not name.startswith("ref"):
            assert reason in ("above the limit baseline of moe_set_isa_limit", f"the processor lacks {name}")
    text = str(seen)
    for part in ("npu_ffn: 2 threads at most", f"workspace of {seen.workspace} bytes", *seen.pieces, *product.refused):
        assert part in text


def test_explanation_by_name_and_nothing_left_behind():
    by_name = moe_native.explain("npu_moe_finalize_routing", *CALL)
    assert by_name == moe_native.explain(moe_native.npu_moe_finalize_routing, *CALL)
    assert by_name.kernels
    # Only what the call itself uses is seen.
    moe_native.npu_ffn(np.ones((1, 8), np.float32), np.ones((8, 8), np.float32), np.ones((8, 8), np.float32), "relu")
    assert not [row for row in _core.kernels() if row[0] == "fgemm" and row[4]]


def test_explanation_is_of_the_cpu(tmp_path):
    needed = moe_native.explain("npu_moe_finalize_routing", *CALL)
    with moe_native.use_backend("acl", moe_native.ascend_home()), moe_native.record(tmp_path / "calls.npz") as calls:
        assert moe_native.explain("npu_moe_finalize_routing", *CALL) == needed
    assert len(calls) == 0


def test_explanation_of_a_call_that_fails():
    with pytest.raises(ValueError, match="7 at position 0"):
        moe_native.explain("npu_moe_finalize_routing", ROWS, None, None, None, None, np.array([7, 0], np.int32))
    assert moe_native.explain("npu_moe_finalize_routing", *CALL).threads >= 1


@pytest.mark.parametrize("op", ["explain", "npu_nothing", "os", print, None, "__version__"])
def test_explanation_of_something_else(op):
    with pytest.raises(ValueError, match="op: .*, needed an operator of moe_native or its name"):
        moe_native.explain(op)


def test_every_list_of_kernels_is_registered():
    registry = (ROOT / "src/kernels/registry.cc").read_text()
    lists = {
        name
        for file in (ROOT / "src/kernels").glob("*/*_list.h")
        for name in re.findall(r"KernelRow<\w+> (\w+)\[\]", file.read_text())
    }
    assert lists
    assert lists == set(re.findall(r"family<(\w+)>", registry))
