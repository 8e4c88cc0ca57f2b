"""Items that are matrix products: grouped ones of int8 rows, and feed-forward blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

import moe_native
from moe_native.benchmarks import peers
from moe_native.benchmarks.common import SAMPLE, SAMPLED_COLUMNS, Array, error_of, floats, int8, ours, sets_for
from moe_native.benchmarks.measure import Contender, Work
from moe_native.benchmarks.peers import Peer
from moe_native.oracle import ffn, grouped_matmul


def prepare_gmm(spec: Mapping[str, Any], peer: Peer) -> Work:
    """int8 grouped matmul with dequantisation, weights per row, combine."""
    counts, k, n, tokens = np.array(spec["counts"]), spec["k"], spec["n"], spec["tokens"]
    m, e, shared_rows = int(counts.sum()), len(counts), spec["shared_rows"]
    sets = sets_for(e * k * n)
    rng = np.random.default_rng(1)
    x = int8((m, k), 2)
    weights = [int8((e, k, n), 3 + s) for s in range(sets)]
    stored = [moe_native.npu_format_cast(w, 29) for w in weights]
    scale = rng.uniform(0.5, 1.5, (e, n)).astype(np.float32) / np.float32(74 * np.sqrt(k))
    row_scale = rng.uniform(0.01, 0.02, m).astype(np.float32)
    logit = rng.uniform(0.1, 1, m).astype(np.float32)
    shared = floats((shared_rows, n), ml_dtypes.bfloat16, 4)
    # An expert meets a token once, where it has no more rows than there are tokens.
    ends = np.cumsum(counts)
    row_index = rng.permutation(tokens)[np.arange(m) % tokens]
    for part in np.split(row_index, ends[:-1]):
        part.sort()
    arguments = {"pertoken_scale": row_scale, "logit": logit, "row_index": row_index, "output_bs": tokens}

    def call(i: int, out: Any, held: Sequence[moe_native.NzArray | moe_native.PackedWeight] = stored) -> Array:
        return moe_native.npu_grouped_matmul_finalize_routing(
            x, held[i], counts, scale=scale, shared_input=shared, out=out, **arguments
        )

    chosen = np.sort(rng.choice(tokens, min(tokens, SAMPLE), replace=False))
    columns = np.sort(rng.choice(n, min(n, SAMPLED_COLUMNS), replace=False))
    rows = np.flatnonzero(np.isin(row_index, chosen))
    exact = grouped_matmul.grouped_matmul_finalize_routing(
        x[rows],
        weights[0][:, :, columns],
        np.diff(np.searchsorted(rows, ends), prepend=0),
        scale=scale[:, columns],
        pertoken_scale=row_scale[rows],
        logit=logit[rows],
        row_index=np.searchsorted(chosen, row_index[rows]),
        output_bs=len(chosen),
    )
    exact[chosen < shared_rows] += shared[chosen[chosen < shared_rows]][:, columns]

    def error(result: Array) -> float:
        return error_of(result[np.ix_(chosen, columns)], exact)

    out = np.empty((tokens, n), np.float32)
    contenders = ours(spec, call, out, error)
    stored_packed = [moe_native.pack(w) for w in stored]
    contenders.append(Contender("moe_native, packed, out=", lambda i: call(i, out, stored_packed), error, ours=True))
    prepared = [w.astype(np.float32) for w in weights]
    factor = row_scale * logit

    def by_numpy(i: int) -> Array:
        y = np.zeros((tokens, n), np.float32)
        y[:shared_rows] = shared
        begin = 0
        rows32 = x.astype(np.float32)
        for g, end in enumerate(ends):
            part = rows32[begin:end] @ prepared[i][g]
            part *= scale[g]
            part *= factor[begin:end, None]
            if counts[g] <= tokens:
                y[row_index[begin:end]] += part
            else:
                np.add.at(y, row_index[begin:end], part)
            begin = end
        return y

    contenders.append(Contender("numpy, float32 weights", by_numpy, error))
    if peer != Peer.numpy:
        contenders += peers.gmm(x, weights, ends, scale, factor, shared, row_index, tokens, error)
    return Work(
        spec["name"],
        f"m {m}, k {k}, n {n}, e {e}",
        contenders,
        sets=sets,
        operations={"int8": 2.0 * m * k * n},
        read_bytes=x.nbytes + int((counts > 0).sum()) * k * n + shared.nbytes,
        written_bytes=4 * tokens * n,
    )


def prepare_ffn(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Feed-forward block in a floating dtype, with or without experts."""
    dtype = np.dtype(ml_dtypes.bfloat16 if spec["dtype"] == "bfloat16" else spec["dtype"])
    k1, n1, n2, activation = spec["k1"], spec["n1"], spec["n2"], spec["activation"]
    counts = np.array(spec["counts"]) if "counts" in spec else None
    m = spec["rows"] if counts is None else int(counts.sum())
    e = 1 if counts is None else len(counts)
    sets = sets_for(e * (k1 * n1 + n1 * n2) * dtype.itemsize)
    lead = () if counts is None else (e,)
    x = floats((m, k1), dtype, 1)
    w1 = [floats((*lead, k1, n1), dtype, 2 + s, k1**-0.5) for s in range(sets)]
    w2 = [floats((*lead, n1, n2), dtype, 100 + s, n1**-0.5) for s in range(sets)]
    tokens = None if counts is None else counts.astype(np.int64)

    stored = list(zip(w1, w2, strict=True))

    def call(i: int, out: Any, held: Sequence[tuple[Any, Any]] = stored) -> Array:
        return moe_native.npu_ffn(x, *held[i], activation, expert_tokens=tokens, out=out)

    # Rows of the largest, the middle and the smallest expert: the oracle widens whole weights.
    ends = np.array([m]) if counts is None else np.cumsum(counts)
    rows_of = np.diff(ends, prepend=0)
    busy = [int(g) for g in np.argsort(rows_of, kind="stable") if rows_of[g] > 0]
    experts = sorted({busy[0], busy[len(busy) // 2], busy[-1]})
    rows = np.concatenate(
        [np.unique(np.linspace(ends[g - 1] if g else 0, ends[g] - 1, 4).astype(int)) for g in experts]
    )
    if counts is None:
        exact = ffn.ffn(x[rows], w1[0], w2[0], activation)
    else:
        exact = ffn.ffn(
            x[rows],
            w1[0][experts],
            w2[0][experts],
            activation,
            [np.isin(rows, np.arange(ends[g] - counts[g], ends[g])).sum() for g in experts],
        )

    def error(result: Array) -> float:
        return error_of(result[rows], exact)

    out = np.empty((m, n2), dtype)
    contenders = ours(spec, call, out, error)
    packed = [(moe_native.pack(a), moe_native.pack(b)) for a, b in stored]
    contenders.append(Contender("moe_native, packed, out=", lambda i: call(i, out, packed), error, ours=True))
    same = dtype == np.float32
    p1 = [w.reshape(e, k1, n1).astype(np.float32, copy=not same) for w in w1]
    p2 = [w.reshape(e, n1, n2).astype(np.float32, copy=not same) for w in w2]

    def by_numpy(i: int) -> Array:
        y = np.empty((m, n2), np.float32)
        rows32 = x.astype(np.float32, copy=False)
        begin = 0
        for g, end in enumerate(ends):
            h = rows32[begin:end] @ p1[i][g]
            h *= numpy_factor(activation, h)
            np.matmul(h, p2[i][g], out=y[begin:end])
            begin = end
        return y.astype(dtype, copy=False)

    contenders.append(Contender("numpy, float32 weights", by_numpy, error))
    if peer != Peer.numpy:
        contenders += peers.ffn(x, w1, w2, ends, activation, error)
    kind = {"float16": "float32"}.get(spec["dtype"], spec["dtype"])
    active = 1 if counts is None else int((counts > 0).sum())
    return Work(
        spec["name"],
        f"x ({m}, {k1}), w1 ({k1}, {n1}), w2 ({n1}, {n2})" + (f", e {e}" if counts is not None else ""),
        contenders,
        sets=sets,
        operations={kind: 2.0 * m * (k1 * n1 + n1 * n2)},
        read_bytes=x.nbytes + active * (k1 * n1 + n1 * n2) * dtype.itemsize,
        written_bytes=m * n2 * dtype.itemsize,
    )


def numpy_factor(activation: str, h: Array) -> Array:
    """What NumPy multiplies `h` by: activations of the form h * f(h), with few passes over memory."""
    if activation == "relu":
        return h > 0
    f = h * np.float32(-1.702 if activation == "fastgelu" else -1)
    with np.errstate(over="ignore"):
        np.exp(f, out=f)
    f += 1
    return np.reciprocal(f, out=f)
