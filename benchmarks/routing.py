"""Items that choose, copy or sum the rows of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import moe_native
from moe_native.benchmarks import peers
from moe_native.benchmarks.common import (
    SAMPLED_COLUMNS,
    Array,
    blocks,
    choose_experts,
    error_of,
    floats,
    ours,
    quantised_error,
    sample,
    sets_for,
    sigmoid,
)
from moe_native.benchmarks.measure import Contender, Work
from moe_native.benchmarks.peers import Peer
from moe_native.oracle import finalize, gating, init_routing, permute


def softmax(x: Array) -> Array:
    """Probabilities of every row in float32, by NumPy."""
    p: Array = x.astype(np.float32)
    p -= p.max(axis=1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    return p


def largest(values: Array, k: int) -> Array:
    """Places of the k largest of every row in descending order, by NumPy."""
    places = np.argpartition(values, -k, axis=1)[:, -k:]
    order = np.argsort(np.take_along_axis(values, places, axis=1), axis=1)[:, ::-1]
    return np.take_along_axis(places, order, axis=1)


def prepare_gating(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Experts from the best groups: by sigmoid and bias as in DeepSeek-V3, or by softmax as in DeepSeek-V2."""
    tokens, experts, top_k = spec["tokens"], spec["experts"], spec["top_k"]
    groups, kept = spec["groups"], spec["kept_groups"]
    factor: float = spec["factor"]
    biased = spec["scores"] == "sigmoid"
    sets = sets_for(tokens * experts * 4)
    x = [floats((tokens, experts), np.float32, 1 + s) for s in range(sets)]
    bias = floats((experts,), np.float32, 100, 0.1) if biased else None
    arguments: dict[str, Any] = {
        "bias": bias,
        "k_group": kept,
        "group_count": groups,
        "group_select_mode": int(biased),
        "norm_type": int(biased),
        "routed_scaling_factor": factor,
    }

    def call(i: int, out: Any) -> Any:
        return moe_native.npu_moe_gating_top_k(x[i], top_k, out=out, **arguments)

    rows = sample(tokens)
    exact, _, scores = gating.moe_gating_top_k(x[0][rows], top_k, out_flag=True, **arguments)

    def weigh(s: Array) -> Array:
        return factor * (s / s.sum(axis=1, keepdims=True) if biased else s)

    def error(result: Any) -> float:
        weights, chosen, *_ = result
        # Of experts that float32 cannot tell apart, any is right.
        known = weigh(np.take_along_axis(scores, chosen[rows], axis=1))
        return max(error_of(weights[rows], exact), error_of(known, exact))

    def by_numpy(i: int) -> Any:
        s = sigmoid(x[i]) if biased else softmax(x[i])
        grouped = (s if bias is None else s + bias).reshape(tokens, groups, -1)
        best = np.partition(grouped, -2, axis=2)[:, :, -2:].sum(axis=2) if biased else grouped.max(axis=2)
        groups_of = np.argpartition(best, -kept, axis=1)[:, -kept:]
        candidates = np.take_along_axis(grouped, groups_of[:, :, None], axis=1)
        group, place = np.divmod(largest(candidates.reshape(tokens, -1), top_k), grouped.shape[2])
        chosen = np.take_along_axis(groups_of, group, axis=1) * grouped.shape[2] + place
        return weigh(np.take_along_axis(s, chosen, axis=1)), chosen.astype(np.int32)

    out = call(0, None)
    contenders = ours(spec, call, out, error)
    contenders.append(Contender("numpy", by_numpy, error))
    if peer != Peer.numpy:
        contenders += peers.gating(x, bias, groups, kept, top_k, factor, error)
    return Work(
        spec["name"],
        f"x ({tokens}, {experts}) float32, top {top_k}, {kept} of {groups} groups, {spec['scores']}",
        contenders,
        sets=sets,
        read_bytes=x[0].nbytes,
        written_bytes=sum(result.nbytes for result in out),
    )


def prepare_gating_softmax(spec: Mapping[str, Any], peer: Peer) -> Work:
    """The likeliest experts by softmax of bfloat16 scores."""
    tokens, experts, top_k = spec["tokens"], spec["experts"], spec["top_k"]
    sets = sets_for(tokens * experts * 2)
    x = [floats((tokens, experts), ml_dtypes.bfloat16, 1 + s) for s in range(sets)]

    def call(i: int, out: Any) -> Any:
        return moe_native.npu_moe_gating_top_k_softmax(x[i], k=top_k, out=out)

    rows = sample(tokens)
    exact, *_ = gating.moe_gating_top_k_softmax(x[0][rows], k=top_k)
    *_, probabilities = gating.moe_gating_top_k_softmax_v2(x[0][rows], output_softmax=True)

    def error(result: Any) -> float:
        weights, chosen, *_ = result
        # Of experts that bfloat16 cannot tell apart, any is right.
        known = np.take_along_axis(probabilities, chosen[rows], axis=1)
        return max(error_of(weights[rows], exact), error_of(known, exact))

    def by_numpy(i: int) -> Any:
        p = softmax(x[i])
        chosen = largest(p, top_k)
        row_idx = np.arange(tokens * top_k, dtype=np.int32).reshape(top_k, tokens).T
        return np.take_along_axis(p, chosen, axis=1).astype(x[i].dtype), chosen.astype(np.int32), row_idx

    out = call(0, None)
    contenders = ours(spec, call, out, error)
    contenders.append(Contender("numpy", by_numpy, error))
    if peer != Peer.numpy:
        contenders += peers.gating_softmax(x, top_k, error)
    return Work(
        spec["name"],
        f"x ({tokens}, {experts}) bfloat16, top {top_k}",
        contenders,
        sets=sets,
        read_bytes=x[0].nbytes,
        written_bytes=sum(result.nbytes for result in out),
    )


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

    chosen = sample(tokens)
    order = np.argsort(expert_idx, axis=None, kind="stable")
    places = np.flatnonzero(np.isin(order // top_k, chosen))
    exact, _, _, exact_scale = init_routing.moe_init_routing_v2(x[chosen], expert_idx[chosen], **arguments)

    def error(result: Any) -> float:
        rows, index, counts, scale = result
        if not (index == order).all() or not (counts == np.bincount(expert_idx.ravel(), minlength=experts)).all():
            return float("inf")
        if not quantised:
            return error_of(rows[places], exact)
        return quantised_error(rows[places], scale[places], exact, exact_scale)

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


def choose_map(tokens: int, experts: int, top_k: int) -> NDArray[np.int8]:
    """A routing map with `top_k` experts per token."""
    routing_map = np.zeros((tokens, experts), np.int8)
    np.put_along_axis(routing_map, choose_experts(tokens, experts, top_k), 1, axis=1)
    return routing_map


def prepare_permute(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Rows of bfloat16 tokens in the order of the experts, from a map."""
    tokens, hidden, experts, top_k = spec["tokens"], spec["hidden"], spec["experts"], spec["top_k"]
    routing_map = choose_map(tokens, experts, top_k)
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


def prepare_unpermute(spec: Mapping[str, Any], peer: Peer) -> Work:
    """The weighted sum of every token's rows, by a map."""
    tokens, hidden, experts, top_k = spec["tokens"], spec["hidden"], spec["experts"], spec["top_k"]
    bf16 = np.dtype(ml_dtypes.bfloat16)
    routing_map = choose_map(tokens, experts, top_k)
    rows = floats((tokens * top_k, hidden), bf16, 1)
    probs = np.random.default_rng(1).uniform(0, 1, (tokens, experts)).astype(bf16)
    index = np.argsort(np.nonzero(routing_map.T)[1], kind="stable").astype(np.int32)
    shape = tokens, hidden

    def call(i: int, out: Any) -> Array:
        return moe_native.npu_moe_token_unpermute_with_routing_map(
            rows, index, shape, probs=probs, routing_map=routing_map, out=out
        )

    chosen = sample(tokens)
    source = index.reshape(tokens, top_k)[chosen]
    exact = permute.moe_token_unpermute_with_routing_map(
        rows[source.ravel()],
        np.arange(source.size),
        (len(chosen), hidden),
        probs=probs[chosen],
        routing_map=routing_map[chosen],
    )

    def error(result: Array) -> float:
        return error_of(result[chosen], exact)

    def by_numpy(y: Array) -> Array:
        weights = probs[routing_map != 0].reshape(tokens, 1, top_k).astype(np.float32)
        of_token = index.reshape(tokens, top_k)
        for part in blocks(tokens, 8):
            y[part] = (weights[part] @ rows[of_token[part]].astype(np.float32))[:, 0]
        return y

    reused = np.empty(shape, bf16)
    contenders = ours(spec, call, np.empty(shape, bf16), error)
    contenders += [
        Contender("numpy, blocks of tokens, out=", lambda i: by_numpy(reused), error),
        Contender("numpy, blocks of tokens", lambda i: by_numpy(np.empty(shape, bf16)), error),
    ]
    if peer != Peer.numpy:
        contenders += peers.unpermute(rows, index, probs, routing_map, error)
    return Work(
        spec["name"],
        f"rows ({tokens * top_k}, {hidden}) and probabilities bfloat16, map ({tokens}, {experts}), {top_k} per row",
        contenders,
        read_bytes=rows.nbytes + index.nbytes + probs.nbytes + routing_map.nbytes,
        written_bytes=reused.nbytes,
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

    chosen = sample(tokens)
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

    def by_numpy(i: int) -> Array:
        y = np.empty((tokens, hidden), bf16)
        bias32 = bias.astype(np.float32)
        of_token = index.reshape(top_k, tokens)
        for part in blocks(tokens):
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
