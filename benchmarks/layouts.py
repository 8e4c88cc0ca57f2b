"""Items that bring weights into another order. Their sizes are whole tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

import moe_native
from moe_native.benchmarks import peers
from moe_native.benchmarks.common import SAMPLED_COLUMNS, Array, error_of, floats, int8, ours, sets_for
from moe_native.benchmarks.measure import Contender, Work
from moe_native.benchmarks.peers import Peer
from moe_native.oracle import format as layout


def weights_of(spec: Mapping[str, Any]) -> list[Array]:
    """Weights (e, k, n), in as many sets as it takes."""
    dtype = np.dtype(ml_dtypes.bfloat16 if spec["dtype"] == "bfloat16" else spec["dtype"])
    shape = spec["experts"], spec["k"], spec["n"]
    sets = range(sets_for(int(np.prod(shape)) * dtype.itemsize))
    return [int8(shape, 1 + s) if dtype == np.int8 else floats(shape, dtype, 1 + s) for s in sets]


def bits(array: Array) -> Array:
    """The same memory as integers, which NumPy copies faster than bfloat16."""
    return array.view(f"u{array.itemsize}")


def prepare_format_cast(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Weights to FRACTAL_NZ, or back."""
    weights = weights_of(spec)
    shape, dtype = weights[0].shape, weights[0].dtype
    stored = [moe_native.npu_format_cast(w, 29) for w in weights]
    given: Sequence[Array | moe_native.NzArray]
    # The oracle makes the storage of the last expert, or finds that expert in it.
    if spec["to"] == "NZ":
        given, number = weights, 29
        out = np.empty_like(stored[0].storage)
        n1, k1, k0, c0 = out.shape[1:]
        sources = [bits(w).reshape(-1, k1, k0, n1, c0).transpose(0, 3, 1, 2, 4) for w in weights]
        exact = layout.format_cast(weights[0][-1:], 29)
    else:
        given, number = stored, 2
        out = np.empty(shape, dtype)
        sources = [bits(w.storage).transpose(0, 2, 3, 1, 4) for w in stored]
        exact = layout.format_cast(stored[0].storage[-1:], 2, shape=(1, *shape[1:]))

    def call(i: int, into: Any) -> Array:
        result = moe_native.npu_format_cast(given[i], number, out=into)
        return result.storage if isinstance(result, moe_native.NzArray) else result

    def error(result: Array) -> float:
        return error_of(result[-1:], exact)

    def restore(copy: Array) -> Array:
        return copy.view(dtype).reshape(out.shape)

    reused = np.empty(sources[0].shape, sources[0].dtype)

    def by_numpy(i: int) -> Array:
        np.copyto(reused, sources[i])
        return restore(reused)

    contenders = ours(spec, call, out, error)
    contenders += [
        Contender("numpy, out=", by_numpy, error),
        Contender("numpy", lambda i: restore(sources[i].copy()), error),
    ]
    if peer != Peer.numpy:
        contenders += peers.copies(sources, restore, error)
    return Work(
        spec["name"],
        f"{shape} {dtype} to {spec['to']}",
        contenders,
        sets=len(weights),
        read_bytes=weights[0].nbytes,
        written_bytes=out.nbytes,
    )


def prepare_pack(spec: Mapping[str, Any], peer: Peer) -> Work:
    """Weights packed for the instruction set in use.

    NumPy, the only peer, makes panels of 16 columns with 4 bytes of k side by side, as dot instructions need them.
    """
    weights = weights_of(spec)
    e, k, n = weights[0].shape
    dtype = weights[0].dtype
    out = moe_native.pack(weights[0]).array

    def call(i: int, into: Any) -> moe_native.PackedWeight:
        return moe_native.pack(weights[i], out=into)

    # What a packed weight holds shows in products with the last expert.
    rows = 4
    x = int8((rows, k), 100) if dtype == np.int8 else floats((rows, k), dtype, 100, k**-0.5)
    counts = np.zeros(e, np.int64)
    counts[-1] = rows
    columns = np.sort(np.random.default_rng(1).choice(n, min(n, SAMPLED_COLUMNS), replace=False))
    exact = x.astype(np.float64) @ weights[0][-1][:, columns].astype(np.float64)
    pick = np.zeros((e, n, len(columns)), dtype)
    pick[:, columns, np.arange(len(columns))] = 1

    def error(packed: moe_native.PackedWeight) -> float:
        if dtype == np.int8:
            product = moe_native.npu_grouped_matmul_finalize_routing(
                x, packed, counts, scale=np.ones((e, n), np.float32), row_index=np.arange(rows)
            )
            return error_of(product[:, columns], exact)
        return error_of(moe_native.npu_ffn(x, packed, pick, "relu", expert_tokens=counts), np.maximum(exact, 0))

    depth = 4 // dtype.itemsize

    def by_numpy(i: int, panels: Array) -> Array:
        for to, weight in zip(panels, bits(weights[i]).reshape(e, k // depth, depth, n), strict=True):
            words = weight[:, -1].astype(np.uint32)
            for row in range(depth - 2, -1, -1):
                words <<= 8 * dtype.itemsize
                words |= weight[:, row]
            np.copyto(to, words.reshape(-1, n // 16, 16).transpose(1, 0, 2))
        return panels

    def error_of_panels(panels: Array) -> float:
        last = panels[-1].view(dtype).reshape(n // 16, k // depth, 16, depth)
        return error_of(last.transpose(1, 3, 0, 2).reshape(k, n), weights[0][-1])

    shape = e, n // 16, k // depth, 16
    reused = np.empty(shape, np.uint32)
    contenders = ours(spec, call, out, error)
    contenders += [
        Contender("numpy, out=", lambda i: by_numpy(i, reused), error_of_panels),
        Contender("numpy", lambda i: by_numpy(i, np.empty(shape, np.uint32)), error_of_panels),
    ]
    return Work(
        spec["name"],
        f"{weights[0].shape} {dtype}",
        contenders,
        sets=len(weights),
        read_bytes=weights[0].nbytes,
        written_bytes=out.nbytes,
    )
