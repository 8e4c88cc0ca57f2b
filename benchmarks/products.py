"""Items that are matrix products: grouped ones of int8 rows, and feed-forward blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import moe_native
from moe_native.benchmarks import peers
from moe_native.benchmarks.common import (
    SAMPLE,
    SAMPLED_COLUMNS,
    Array,
    error_of,
    floats,
    int8,
    ours,
    quantise,
    quantised_error,
    sets_for,
    sigmoid,
)
from moe_native.benchmarks.measure import Contender, Work
from moe_native.benchmarks.peers import Peer
from moe_native.oracle import ffn, grouped_matmul

#: Activations of the form h * sigmoid(slope * h).
SLOPES = {"silu": 1.0, "fastgelu": 1.702}


@dataclass(frozen=True)
class Weights:
    """Weights (e, k, n) of int8, or of int4 in words of eight, in as many sets as it takes."""

    #: In FRACTAL_NZ.
    stored: list[moe_native.NzArray]
    #: The same numbers as plain int8.
    plain: list[Array]
    #: Of the columns, (e, n), so that products are about as large as the scales of the rows.
    scale: Array
    #: What int4 needs besides.
    biases: Sequence[Array | None]
    #: Of an expert.
    nbytes: int

    @property
    def int4(self) -> bool:
        return self.stored[0].dtype == np.int32

    @property
    def scale_bits(self) -> Array:
        """The scale as the operators take it for int4."""
        return self.scale.view(np.uint32).astype(np.int64)

    def operations(self, rows: int) -> dict[str, float]:
        """What a product with so many rows takes: for int4 two, of the high and of the low halves of a row."""
        _, k, n = self.plain[0].shape
        return {"int8": (4.0 if self.int4 else 2.0) * rows * k * n}


def integer_weights(dtype: str, e: int, k: int, n: int, rng: np.random.Generator) -> Weights:
    """Weights of int8 or int4."""
    int4 = dtype == "int4"
    columns = n // 2 if int4 else n  # bytes of a row
    # In bytes of int8: plain, stored and packed ones, float32 for NumPy, two forms for the other peers.
    sets = range(sets_for(e * k * columns, 9 * n // columns))
    plain = given = [int8((e, k, columns), 3 + s) for s in sets]
    scale = rng.uniform(0.5, 1.5, (e, n)).astype(np.float32) / np.float32((4.6 if int4 else 74) * np.sqrt(k))
    biases: Sequence[Array | None] = [None] * len(sets)
    if int4:
        given = [w.view(np.int32) for w in given]
        plain = [np.stack([grouped_matmul.unpack_int4(expert) for expert in w]) for w in given]
        biases = [8 * w.sum(axis=1, dtype=np.float32) * scale for w in plain]
    stored = [moe_native.npu_format_cast(w, 29) for w in given]
    return Weights(stored, plain, scale, biases, k * columns)


def prepare_gmm(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Grouped matmul of int8 rows by int8 or int4 weights with dequantisation, weights per row, combine."""
    counts, k, n, tokens = np.array(spec["counts"]), spec["k"], spec["n"], spec["tokens"]
    m, e, shared_rows = int(counts.sum()), len(counts), spec["shared_rows"]
    rng = np.random.default_rng(1)
    x = int8((m, k), 2)
    weights = integer_weights(spec.get("dtype", "int8"), e, k, n, rng)
    scale = weights.scale
    given_scale = weights.scale_bits[:, None] if weights.int4 else scale
    row_scale = rng.uniform(0.01, 0.02, m).astype(np.float32)
    logit = rng.uniform(0.1, 1, m).astype(np.float32)
    shared = floats((shared_rows, n), ml_dtypes.bfloat16, 4)
    # An expert meets a token once, where it has no more rows than there are tokens.
    ends = np.cumsum(counts)
    row_index = rng.permutation(tokens)[np.arange(m) % tokens]
    for part in np.split(row_index, ends[:-1]):
        part.sort()
    arguments = {"pertoken_scale": row_scale, "logit": logit, "row_index": row_index, "output_bs": tokens}

    def call(i: int, out: Any, held: Sequence[moe_native.NzArray | moe_native.PackedWeight] = weights.stored) -> Array:
        return moe_native.npu_grouped_matmul_finalize_routing(
            x, held[i], counts, scale=given_scale, bias=weights.biases[i], shared_input=shared, out=out, **arguments
        )

    chosen = np.sort(rng.choice(tokens, min(tokens, SAMPLE), replace=False))
    columns = np.sort(rng.choice(n, min(n, SAMPLED_COLUMNS), replace=False))
    rows = np.flatnonzero(np.isin(row_index, chosen))
    bias = weights.biases[0]
    exact = grouped_matmul.grouped_matmul_finalize_routing(
        x[rows],
        weights.plain[0][:, :, columns],
        np.diff(np.searchsorted(rows, ends), prepend=0),
        scale=given_scale[..., columns],
        bias=None if bias is None else bias[:, columns],
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
    packed = [moe_native.pack(w) for w in weights.stored]
    contenders.append(Contender("moe_native, packed, out=", lambda i: call(i, out, packed), error, ours=True))
    prepared = [w.astype(np.float32) for w in weights.plain]
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
        contenders += peers.gmm(x, weights.plain, ends, scale, factor, shared, row_index, tokens, error)
    return Work(
        spec["name"],
        f"m {m}, k {k}, n {n}, e {e}" + (", int4" if weights.int4 else ""),
        contenders,
        sets=len(weights.stored),
        operations=weights.operations(m),
        read_bytes=x.nbytes + int((counts > 0).sum()) * weights.nbytes + shared.nbytes,
        written_bytes=4 * tokens * n,
    )


def sample_of_experts(ends: Array) -> tuple[Array, list[int], list[int]]:
    """Rows of the largest, the middle and the smallest expert, these experts, and how many rows there are of each.

    Of few experts, because the oracle widens whole weights.
    """
    counts = np.diff(ends, prepend=0)
    busy = [int(g) for g in np.argsort(counts, kind="stable") if counts[g] > 0]
    experts = sorted({busy[0], busy[len(busy) // 2], busy[-1]})
    rows = [np.unique(np.linspace(ends[g] - counts[g], ends[g] - 1, 4).astype(int)) for g in experts]
    return np.concatenate(rows), experts, [len(part) for part in rows]


def prepare_swiglu_quant(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Grouped matmul of int8 rows by int8 or int4 weights, SwiGLU, quantisation to int8."""
    counts, k, n = np.array(spec["counts"]), spec["k"], spec["n"]
    m, e, ends = int(counts.sum()), len(counts), np.cumsum(counts)
    rng = np.random.default_rng(1)
    x = int8((m, k), 2)
    weights = integer_weights(spec["dtype"], e, k, n, rng)
    scale = weights.scale
    given_scale = weights.scale_bits if weights.int4 else scale
    x_scale = rng.uniform(0.01, 0.02, m).astype(np.float32)

    def call(i: int, out: Any, held: Sequence[moe_native.NzArray | moe_native.PackedWeight] = weights.stored) -> Any:
        return moe_native.npu_grouped_matmul_swiglu_quant(
            x, held[i], ends, given_scale, x_scale, bias=weights.biases[i], out=out
        )

    rows, experts, sampled = sample_of_experts(ends)
    bias = weights.biases[0]
    exact, exact_scale, _ = grouped_matmul.grouped_matmul_swiglu_quant(
        x[rows],
        weights.plain[0][experts],
        np.cumsum(sampled),
        given_scale[experts],
        x_scale[rows],
        bias=None if bias is None else bias[experts],
    )

    def error(result: Any) -> float:
        codes, row_scale, *_ = result
        return quantised_error(codes[rows], row_scale[rows], exact, exact_scale)

    out = call(0, None)
    contenders = ours(spec, call, out, error)
    packed = [moe_native.pack(w) for w in weights.stored]
    contenders.append(Contender("moe_native, packed, out=", lambda i: call(i, out, packed), error, ours=True))
    prepared = [w.astype(np.float32) for w in weights.plain]

    def by_numpy(i: int) -> Any:
        codes, row_scale = np.empty((m, n // 2), np.int8), np.empty(m, np.float32)
        rows32 = x.astype(np.float32)
        begin = 0
        for g, end in enumerate(ends):
            c = rows32[begin:end] @ prepared[i][g]
            c *= scale[g]
            c *= x_scale[begin:end, None]
            gate, up = np.split(c, 2, axis=1)
            up *= gate
            up *= sigmoid(gate)
            row_scale[begin:end] = quantise(up, codes[begin:end])
            begin = end
        return codes, row_scale

    contenders.append(Contender("numpy, float32 weights", by_numpy, error))
    if peer != Peer.numpy:
        contenders += peers.swiglu_quant(x, weights.plain, ends, scale, x_scale, error)
    return Work(
        spec["name"],
        f"m {m}, k {k}, n {n}, e {e}, {spec['dtype']}",
        contenders,
        sets=len(weights.stored),
        operations=weights.operations(m),
        read_bytes=x.nbytes + int((counts > 0).sum()) * weights.nbytes,
        written_bytes=out[0].nbytes + out[1].nbytes,
    )


def prepare_ffn(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Feed-forward block in a floating dtype, with or without experts."""
    dtype = np.dtype(ml_dtypes.bfloat16 if spec["dtype"] == "bfloat16" else spec["dtype"])
    k1, n1, n2, activation = spec["k1"], spec["n1"], spec["n2"], spec["activation"]
    counts = np.array(spec["counts"]) if "counts" in spec else None
    m = spec["rows"] if counts is None else int(counts.sum())
    e = 1 if counts is None else len(counts)
    # As given, packed, as float32 for NumPy, two forms for the other peers.
    sets = sets_for(e * (k1 * n1 + n1 * n2) * dtype.itemsize, 4 + 4 // dtype.itemsize)
    lead = () if counts is None else (e,)
    x = floats((m, k1), dtype, 1)
    w1 = [floats((*lead, k1, n1), dtype, 2 + s, k1**-0.5) for s in range(sets)]
    w2 = [floats((*lead, n1, n2), dtype, 100 + s, n1**-0.5) for s in range(sets)]
    tokens = None if counts is None else counts.astype(np.int64)

    stored = list(zip(w1, w2, strict=True))

    def call(i: int, out: Any, held: Sequence[tuple[Any, Any]] = stored) -> Array:
        return moe_native.npu_ffn(x, *held[i], activation, expert_tokens=tokens, out=out)

    ends = np.array([m]) if counts is None else np.cumsum(counts)
    rows, experts, sampled = sample_of_experts(ends)
    if counts is None:
        exact = ffn.ffn(x[rows], w1[0], w2[0], activation)
    else:
        exact = ffn.ffn(x[rows], w1[0][experts], w2[0][experts], activation, sampled)

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
            h *= h > 0 if activation == "relu" else sigmoid(h, SLOPES[activation])
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
