"""Items that work on every row by itself: activation and quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

import moe_native
from moe_native.benchmarks import peers
from moe_native.benchmarks.common import (
    Array,
    blocks,
    error_of,
    floats,
    ours,
    quantise,
    quantised_error,
    sample,
    sets_for,
    sigmoid,
)
from moe_native.benchmarks.measure import Contender, Work
from moe_native.benchmarks.peers import Peer
from moe_native.oracle import quant

bfloat16 = np.dtype(ml_dtypes.bfloat16)


def prepare_swiglu(spec: Mapping[str, Any], peer: Peer) -> Work:
    """silu of the first half of every bfloat16 row, times the second."""
    tokens, columns = spec["tokens"], spec["columns"]
    sets = sets_for(tokens * columns * bfloat16.itemsize)
    x = [floats((tokens, columns), bfloat16, 1 + s) for s in range(sets)]

    def call(i: int, out: Any) -> Array:
        return moe_native.npu_swiglu(x[i], out=out)

    chosen = sample(tokens)
    exact = quant.swiglu(x[0][chosen])

    def error(result: Array) -> float:
        return error_of(result[chosen], exact)

    def by_numpy(i: int, y: Array) -> Array:
        for part in blocks(tokens):
            gate, up = np.split(x[i][part].astype(np.float32), 2, axis=1)
            up *= gate
            up *= sigmoid(gate)
            y[part] = up
        return y

    shape = tokens, columns // 2
    reused = np.empty(shape, bfloat16)
    contenders = ours(spec, call, np.empty(shape, bfloat16), error)
    contenders += [
        Contender("numpy, blocks of tokens, out=", lambda i: by_numpy(i, reused), error),
        Contender("numpy, blocks of tokens", lambda i: by_numpy(i, np.empty(shape, bfloat16)), error),
    ]
    if peer != Peer.numpy:
        contenders += peers.swiglu(x, error)
    return Work(
        spec["name"],
        f"x ({tokens}, {columns}) bfloat16",
        contenders,
        sets=sets,
        read_bytes=x[0].nbytes,
        written_bytes=reused.nbytes,
    )


def prepare_dynamic_quant(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Rows of bfloat16 quantised to int8, with or without factors of the columns."""
    tokens, hidden = spec["tokens"], spec["hidden"]
    sets = sets_for(tokens * hidden * bfloat16.itemsize)
    x = [floats((tokens, hidden), bfloat16, 1 + s) for s in range(sets)]
    smooth = np.random.default_rng(1).uniform(0.5, 2, hidden).astype(bfloat16) if spec["smooth"] else None

    def call(i: int, out: Any) -> Any:
        return moe_native.npu_dynamic_quant(x[i], smooth_scales=smooth, out=out)

    chosen = sample(tokens)
    exact, exact_scale = quant.dynamic_quant(x[0][chosen], smooth_scales=smooth)

    def error(result: Any) -> float:
        codes, scale = result
        return quantised_error(codes[chosen], scale[chosen], exact, exact_scale)

    def by_numpy(i: int, codes: Array) -> Any:
        scale = np.empty(tokens, np.float32)
        for part in blocks(tokens):
            wide = x[i][part].astype(np.float32)
            if smooth is not None:
                wide *= smooth.astype(np.float32)
            scale[part] = quantise(wide, codes[part])
        return codes, scale

    reused = np.empty((tokens, hidden), np.int8)
    contenders = ours(spec, call, call(0, None), error)
    contenders += [
        Contender("numpy, blocks of tokens, out=", lambda i: by_numpy(i, reused), error),
        Contender("numpy, blocks of tokens", lambda i: by_numpy(i, np.empty((tokens, hidden), np.int8)), error),
    ]
    if peer != Peer.numpy:
        contenders += peers.dynamic_quant(x, smooth, error)
    return Work(
        spec["name"],
        f"x ({tokens}, {hidden}) bfloat16" + (", smooth scales" if smooth is not None else ""),
        contenders,
        sets=sets,
        read_bytes=x[0].nbytes,
        written_bytes=reused.nbytes + 4 * tokens,
    )
