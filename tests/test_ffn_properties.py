"""npu_ffn: what must hold whatever the numbers are."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from cases.ffn import SCENARIOS, example, interval

import moe_native
from moe_native import bf16_mode, npu_ffn, set_num_threads
from moe_native.testing import assert_same_bits, bfloat16, instruction_sets

# Large enough that every thread gets a share, and experts of 1 to many rows.
TOKENS = [300, 1, 0, 2, 3, 4, 64, 26]
SIZES = {"rows": sum(TOKENS), "k1": 130, "k2": 300, "n2": 70, "experts": len(TOKENS)}


@pytest.fixture(params=[*SCENARIOS, "bf16 dot", "bf16 exact"])
def layer(request):
    with bf16_mode(request.param.split()[1] if request.param in ("bf16 dot", "bf16 exact") else "fast"):
        yield example(np.random.default_rng(0), request.param, "gelu", **SIZES) | {"expert_tokens": TOKENS}


def of_experts(arguments, select):
    """Every argument that leads with the experts, selected."""
    return {
        n: a[select] if isinstance(a, np.ndarray) and n != "x" else a
        for n, a in arguments.items()
        if n != "expert_tokens"
    }


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_any_number_of_threads(layer, threads):
    set_num_threads(1)
    needed = npu_ffn(**layer)
    set_num_threads(threads)
    try:
        for _ in range(2):
            assert_same_bits(npu_ffn(**layer), needed)
    finally:
        set_num_threads(0)


def test_split_batch(layer):
    """A row alone, streamed past the weights, has the bits it has among many that share packed weights."""
    whole = npu_ffn(**layer)
    for begin, end in [(0, 1), (1, 4), (4, 300)]:
        part = layer | {"x": layer["x"][begin:end], "expert_tokens": [end - begin] + [0] * 7}
        assert_same_bits(npu_ffn(**part), whole[begin:end])


def test_relabelled_experts(layer):
    whole = npu_ffn(**layer)
    order = np.random.default_rng(1).permutation(len(TOKENS))
    ends = np.cumsum(TOKENS)
    rows = np.concatenate([np.arange(ends[e] - TOKENS[e], ends[e]) for e in order])
    moved = of_experts(layer, order) | {"x": layer["x"][rows], "expert_tokens": [TOKENS[e] for e in order]}
    assert_same_bits(npu_ffn(**moved), whole[rows])


def test_permuted_rows_of_an_expert(layer):
    whole = npu_ffn(**layer)
    order = np.arange(SIZES["rows"])
    order[:300] = np.random.default_rng(2).permutation(300)
    assert_same_bits(npu_ffn(**layer | {"x": layer["x"][order]}), whole[order])


def test_experts_that_share_their_weights_are_one(layer):
    same = of_experts(layer, np.zeros(len(TOKENS), int))
    alone = {
        n: (a[:1] if n in ("scale", "offset") else a[0]) if isinstance(a, np.ndarray) and n != "x" else a
        for n, a in same.items()
    }
    assert_same_bits(npu_ffn(**same, expert_tokens=TOKENS), npu_ffn(**alone))


def test_repeated_calls(layer):
    needed = npu_ffn(**layer)
    for _ in range(3):
        assert_same_bits(npu_ffn(**layer), needed)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_instruction_sets(scenario):
    """Same bits: int8 on all sets, floats on all with FMA. Without FMA the derived bounds hold too."""
    layer = example(np.random.default_rng(3), scenario, "fastgelu", **SIZES) | {"expert_tokens": TOKENS}
    with bf16_mode("exact"):
        results = on_every_instruction_set(layer)
    fused = [r for name, r in results.items() if name != "baseline" or scenario.startswith("int8")]
    for result in fused:
        assert_same_bits(result, fused[0])
    low, high = interval(layer, results["baseline"].dtype)
    assert ((low <= results["baseline"].astype(float)) & (results["baseline"].astype(float) <= high)).all()


def on_every_instruction_set(layer):
    results = {}
    for isa in instruction_sets():
        with moe_native.isa_limit(isa):
            results[isa] = npu_ffn(**layer)
    return results


@pytest.mark.parametrize("mode", ["fast", "exact", "dot"])
def test_bf16_modes(mode):
    """Every mode is within the bounds; the exact one is what sets without a dot instruction compute."""
    layer = example(np.random.default_rng(4), "bf16", "silu", **SIZES) | {"expert_tokens": TOKENS}
    with bf16_mode(mode):
        results = on_every_instruction_set(layer)
    low, high = interval(layer, bfloat16)
    for result in results.values():
        assert ((low <= result.astype(float)) & (result.astype(float) <= high)).all()
    if mode == "dot" and "avx512bf16" in results:
        assert (results["avx512bf16"] != results["avx2"]).any()


def test_bf16_mode_by_call_and_by_block():
    layer = example(np.random.default_rng(5), "bf16", "silu", **SIZES) | {"expert_tokens": TOKENS}
    bf16_mode("exact")
    exact = npu_ffn(**layer)
    with bf16_mode("dot"):
        dot = npu_ffn(**layer)
        with bf16_mode("exact"):
            assert_same_bits(npu_ffn(**layer), exact)
        assert_same_bits(npu_ffn(**layer), dot)
    assert_same_bits(npu_ffn(**layer), exact)
    bf16_mode("fast")
    with pytest.raises(ValueError, match="mode: 'quick', needed one of 'fast', 'exact', 'dot'"):
        bf16_mode("quick")


def test_bf16_mode_of_the_environment():
    code = (
        "import numpy as np, moe_native as m; x = np.ones((1, 2), np.float32); m.npu_ffn(x, x.T @ x, x.T @ x, 'relu')"
    )
    for mode, needed in (
        ("exact", None),
        ("", None),
        ("quick", 'MOE_NATIVE_BF16: unknown mode "quick", needed "fast"'),
    ):
        seen = subprocess.run(
            [sys.executable, "-P", "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"MOE_NATIVE_BF16": mode},
        )
        assert (seen.returncode == 0) == (needed is None), seen.stderr
        assert needed is None or needed in seen.stderr


def test_no_float32_copy_of_float16_weights():
    """64 MB of float16 weights are multiplied within a quarter of what a float32 copy would take."""
    code = """
        import resource
        import numpy as np
        from moe_native import npu_ffn

        x = np.ones((40, 2048), np.float16)
        weight1, weight2 = np.ones((2048, 8192), np.float16), np.ones((8192, 2048), np.float16)
        npu_ffn(x[:, :16], weight1[:16, :16].copy(), weight2[:16].copy(), "relu")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        npu_ffn(x, weight1, weight2, "relu")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 16 * 1024, f"{grown} KiB"
    """
    seen = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert seen.returncode == 0, seen.stderr
