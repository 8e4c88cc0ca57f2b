"""Work items from shape files: inputs, ours and NumPy's way to do the work, the error against the oracle."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import moe_native
from moe_native.benchmarks import peers
from moe_native.benchmarks.limits import cache_bytes, filled
from moe_native.benchmarks.measure import Contender, Work
from moe_native.oracle import ffn, finalize, grouped_matmul, init_routing, permute

Array = NDArray[Any]


class Peer(StrEnum):
    """How far to go for contenders: each includes those before it."""

    numpy = "numpy"
    torch = "torch"
    torch_compile = "torch-compile"


#: Tokens, or rows, whose results are compared with the oracle.
SAMPLE = 24
#: Columns of a grouped product that are compared.
SAMPLED_COLUMNS = 96
#: Standard deviation of the log popularity of an expert: the busiest of 256 gets about five times the mean.
SKEW = 0.6
#: Input sets together are so many times as large as the largest cache, but there are no more than MOST_SETS.
CACHES = 3
MOST_SETS = 16
SHAPES = Path(__file__).parent / "shapes"


def load(path: Path) -> list[dict[str, Any]]:
    """The items of a shape file."""
    items: list[dict[str, Any]] = tomllib.loads(path.read_text())["item"]
    return items


def prepare(spec: Mapping[str, Any], peer: Peer = Peer.numpy) -> Work:
    """Make an item's inputs, ours and the contenders."""
    makers = {
        "gmm": prepare_gmm,
        "ffn": prepare_ffn,
        "init_routing": prepare_init_routing,
        "permute": prepare_permute,
        "finalize": prepare_finalize,
    }
    return makers[spec["kind"]](spec, peer)


def sets_for(size: int) -> int:
    """How many input sets of this size leave nothing of the first in a cache when it is its turn again."""
    return min(max(1, -(-CACHES * cache_bytes() // size)), MOST_SETS)


def int8(shape: tuple[int, ...], seed: int) -> Array:
    return filled(int(np.prod(shape)), seed).view(np.int8).reshape(shape)


def floats(shape: tuple[int, ...], dtype: Any, seed: int, scale: float = 1.0) -> Array:
    """Normal numbers with a period that is prime, which is much faster than drawing all."""
    block = np.random.default_rng(seed).standard_normal(1_000_003, dtype=np.float32) * np.float32(scale)
    return np.resize(block.astype(dtype), shape)


def choose_experts(tokens: int, experts: int, top_k: int, seed: int = 0) -> NDArray[np.int32]:
    """`top_k` different experts per token, some far more popular than others."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, SKEW, experts) + rng.gumbel(size=(tokens, experts))
    return np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k].astype(np.int32)


def error_of(seen: Array, exact: Array) -> float:
    """Largest difference, as a fraction of the largest exact magnitude."""
    seen64, exact64 = np.asarray(seen, np.float64), np.asarray(exact, np.float64)
    if seen64.shape != exact64.shape:
        raise ValueError(f"result of shape {seen64.shape}, needed {exact64.shape}")
    scale = float(np.abs(exact64).max(initial=0)) or 1.0
    return float(np.abs(seen64 - exact64).max(initial=0)) / scale


def targets(spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The targets of a call with `out=`, and of one without."""
    microseconds = spec.get("target_microseconds")
    yield {"target_ratio": spec.get("target")} if microseconds is None else {}
    yield {
        "target_ratio": spec.get("target_fresh"),
        "target_seconds": None if microseconds is None else microseconds * 1e-6,
    }


def ours(
    spec: Mapping[str, Any], call: Callable[[int, Any], Any], out: Any, error: Callable[[Any], float]
) -> list[Contender]:
    """The operator with a result that is reused, and with a fresh one."""
    reused, fresh = targets(spec)
    return [
        Contender("moe_native, out=", lambda i: call(i, out), error, ours=True, **reused),
        Contender("moe_native", lambda i: call(i, None), error, ours=True, **fresh),
    ]


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


def prepare_init_routing(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Rows of bfloat16 tokens sorted by expert, plain or quantised to int8."""
    tokens, hidden, experts, top_k = spec["tokens"], spec["hidden"], spec["experts"], spec["top_k"]
    quantised = spec["quantised"]
    expert_idx = choose_experts(tokens, experts, top_k)
    x = floats((tokens, hidden), ml_dtypes.bfloat16, 1)
    arguments: dict[str, Any] = {
        "expert_num": experts,
        "expert_tokens_num_type": 1,
        "expert_tokens_num_flag": True,
        "quant_mode": 1 if quantised else -1,
        "row_idx_type": 1,
    }

    def call(i: int, out: Any) -> Any:
        return moe_native.npu_moe_init_routing_v2(x, expert_idx, out=out, **arguments)

    chosen = np.sort(np.random.default_rng(0).choice(tokens, min(tokens, SAMPLE), replace=False))
    order = np.argsort(expert_idx, axis=None, kind="stable")
    places = np.flatnonzero(np.isin(order // top_k, chosen))
    exact, _, _, exact_scale = init_routing.moe_init_routing_v2(x[chosen], expert_idx[chosen], **arguments)

    def error(result: Any) -> float:
        rows, index, counts, scale = result
        if not (index == order).all() or not (counts == np.bincount(expert_idx.ravel(), minlength=experts)).all():
            return float("inf")
        if not quantised:
            return error_of(rows[places], exact)
        # A code may be one off where the quotient is a tie as far as float32 can tell.
        return error_of(rows[places] * scale[places, None].astype(np.float64), exact * exact_scale[:, None])

    contenders = ours(spec, call, call(0, None), error)
    bits = x.view(np.uint16)
    item = 1 if quantised else 2

    def by_numpy(out: Array | None) -> Any:
        flat = expert_idx.ravel()
        sorted_places = np.argsort(flat, kind="stable").astype(np.int32)
        counts = np.bincount(flat, minlength=experts)
        source = sorted_places // top_k
        if not quantised:
            taken = np.take(bits, source, axis=0, out=out, mode="clip").view(x.dtype)
            return taken, sorted_places, counts, None
        wide = x.astype(np.float32)
        scale = np.abs(wide).max(axis=1) / np.float32(127)
        wide /= scale[:, None]
        codes = np.rint(wide, out=wide).astype(np.int8)
        return np.take(codes, source, axis=0, out=out, mode="clip"), sorted_places, counts, scale[source]

    reused = np.empty((tokens * top_k, hidden), np.int8 if quantised else np.uint16)
    contenders += [
        Contender("numpy, out=", lambda i: by_numpy(reused), error),
        Contender("numpy", lambda i: by_numpy(None), error),
    ]
    if peer != Peer.numpy:
        contenders += peers.init_routing(x, expert_idx, experts, quantised, error)
    return Work(
        spec["name"],
        f"x ({tokens}, {hidden}) bfloat16, top {top_k} of {experts}",
        contenders,
        read_bytes=x.nbytes,
        written_bytes=tokens * top_k * hidden * item,
    )


def prepare_permute(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Rows of bfloat16 tokens in the order of the experts, from a map."""
    tokens, hidden, experts, top_k = spec["tokens"], spec["hidden"], spec["experts"], spec["top_k"]
    routing_map = np.zeros((tokens, experts), np.int8)
    np.put_along_axis(routing_map, choose_experts(tokens, experts, top_k), 1, axis=1)
    x = floats((tokens, hidden), ml_dtypes.bfloat16, 1)
    probs = np.random.default_rng(1).uniform(0, 1, (tokens, experts)).astype(np.float32)

    def call(i: int, out: Any) -> Any:
        return moe_native.npu_moe_token_permute_with_routing_map(
            x, routing_map, probs=probs, num_out_tokens=tokens * top_k, out=out
        )

    columns = np.arange(min(hidden, SAMPLED_COLUMNS))
    exact, exact_probs, exact_index = permute.moe_token_permute_with_routing_map(
        x[:, columns], routing_map, probs=probs, num_out_tokens=tokens * top_k
    )

    def error(result: Any) -> float:
        rows, row_probs, index = result
        if not (index == exact_index).all() or not (row_probs == exact_probs).all():
            return float("inf")
        return error_of(rows[:, columns], exact)

    bits = x.view(np.uint16)

    def by_numpy(out: Array | None) -> Any:
        expert_ids, token_ids = np.nonzero(routing_map.T)
        taken = np.take(bits, token_ids, axis=0, out=out, mode="clip").view(x.dtype)
        index = np.argsort(token_ids, kind="stable").astype(np.int32)
        return taken, probs[token_ids, expert_ids], index

    reused = np.empty((tokens * top_k, hidden), np.uint16)
    contenders = ours(spec, call, call(0, None), error)
    contenders += [
        Contender("numpy, out=", lambda i: by_numpy(reused), error),
        Contender("numpy", lambda i: by_numpy(None), error),
    ]
    if peer != Peer.numpy:
        contenders += peers.permute(x, routing_map, probs, error)
    return Work(
        spec["name"],
        f"x ({tokens}, {hidden}) bfloat16, map ({tokens}, {experts}), {top_k} per row",
        contenders,
        read_bytes=x.nbytes + routing_map.nbytes,
        written_bytes=tokens * top_k * hidden * 2,
    )


def prepare_finalize(spec: Mapping[str, Any], peer: Peer) -> Work:
    """The weighted sum of every token's rows, with bias and two residuals."""
    tokens, hidden, experts, top_k = spec["tokens"], spec["hidden"], spec["experts"], spec["top_k"]
    bf16 = np.dtype(ml_dtypes.bfloat16)
    expert_idx = choose_experts(tokens, experts, top_k)
    rows = floats((tokens * top_k, hidden), bf16, 1)
    skips = floats((tokens, hidden), bf16, 2), floats((tokens, hidden), bf16, 3)
    bias = floats((experts, hidden), bf16, 4)
    scales = np.random.default_rng(1).uniform(0, 1, (tokens, top_k)).astype(np.float32)
    # Where the sort by expert has put every (token, choice); the index is column-major.
    place = np.empty(tokens * top_k, np.int32)
    place[np.argsort(expert_idx, axis=None, kind="stable")] = np.arange(tokens * top_k, dtype=np.int32)
    index = np.ascontiguousarray(place.reshape(tokens, top_k).T).ravel()

    def call(i: int, out: Any) -> Any:
        return moe_native.npu_moe_finalize_routing(rows, *skips, bias, scales, index, expert_idx, out=out)

    chosen = np.sort(np.random.default_rng(0).choice(tokens, min(tokens, SAMPLE), replace=False))
    source = index.reshape(top_k, tokens)[:, chosen]
    exact = finalize.moe_finalize_routing(
        rows[source.ravel()],
        skips[0][chosen],
        skips[1][chosen],
        bias,
        scales[chosen],
        np.arange(source.size),
        expert_idx[chosen],
    )

    def error(result: Any) -> float:
        return error_of(result[chosen], exact)

    block = 64  # tokens, whose float32 sums stay in the cache

    def by_numpy(i: int) -> Array:
        y = np.empty((tokens, hidden), bf16)
        bias32 = bias.astype(np.float32)
        of_token = index.reshape(top_k, tokens)
        for begin in range(0, tokens, block):
            part = slice(begin, begin + block)
            total = skips[0][part].astype(np.float32)
            total += skips[1][part]
            for j in range(top_k):
                term = rows[of_token[j, part]].astype(np.float32)
                term += bias32[expert_idx[part, j]]
                term *= scales[part, j, None]
                total += term
            y[part] = total
        return y

    contenders = ours(spec, call, np.empty((tokens, hidden), bf16), error)
    contenders.append(Contender("numpy, blocks of tokens", by_numpy, error))
    if peer != Peer.numpy:
        arrays = {"rows": rows, "skip1": skips[0], "skip2": skips[1], "bias": bias}
        arrays |= {"scales": scales, "index": index, "experts": expert_idx}
        contenders += peers.finalize(arrays, peer == Peer.torch_compile, error)
    return Work(
        spec["name"],
        f"rows ({tokens * top_k}, {hidden}) bfloat16, bias, two skips, scales",
        contenders,
        read_bytes=rows.nbytes + skips[0].nbytes + skips[1].nbytes + bias.nbytes + scales.nbytes + index.nbytes,
        written_bytes=tokens * hidden * 2,
    )
