"""What the items share: inputs, errors, our two contenders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_native.benchmarks.limits import cache_bytes, filled
from moe_native.benchmarks.measure import Contender

Array = NDArray[Any]

#: Tokens, or rows, whose results are compared with the oracle, at most.
SAMPLE = 24
#: Columns of a grouped product that are compared.
SAMPLED_COLUMNS = 96
#: Standard deviation of the log popularity of an expert: the busiest of 256 gets about five times the mean.
SKEW = 0.6
#: Tokens of a block whose float32 values stay in the cache.
BLOCK = 64
#: Input sets together are so many times as large as the largest cache, but there are no more than MOST_SETS, and what
#: the contenders keep of them takes no more than MEMORY of the machine's memory.
CACHES = 3
MOST_SETS = 16
MEMORY = 0.5


def sets_for(size: int, copies: int = 3) -> int:
    """How many input sets of this size leave nothing of the first in a cache when it is its turn again.

    Args:
        size: Bytes of a set.
        copies: How many times that much all contenders together keep of a set, prepared in their own ways.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = min(MOST_SETS, int(MEMORY * memory) // (copies * size))
    return max(1, min(-(-CACHES * cache_bytes() // size), most))


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


def sample(count: int) -> NDArray[np.int64]:
    """Tokens, or rows, out of so many whose results are compared with the oracle."""
    return np.sort(np.random.default_rng(0).choice(count, min(count, SAMPLE), replace=False))


def error_of(seen: Array, exact: Array) -> float:
    """Largest difference, as a fraction of the largest exact magnitude."""
    seen64, exact64 = np.asarray(seen, np.float64), np.asarray(exact, np.float64)
    if seen64.shape != exact64.shape:
        raise ValueError(f"result of shape {seen64.shape}, needed {exact64.shape}")
    scale = float(np.abs(exact64).max(initial=0)) or 1.0
    return float(np.abs(seen64 - exact64).max(initial=0)) / scale


def quantised_error(codes: Array, scale: Array, exact_codes: Array, exact_scale: Array) -> float:
    """The error of rows of int8 with a scale each.

    A code may be one off where the quotient is a tie as far as float32 can tell.
    """
    return error_of(codes * scale[:, None].astype(np.float64), exact_codes * exact_scale[:, None])


def blocks(tokens: int, size: int = BLOCK) -> Iterator[slice]:
    """Parts of so many tokens, in turn."""
    return (slice(begin, begin + size) for begin in range(0, tokens, size))


def sigmoid(h: Array, slope: float = 1.0) -> Array:
    """1 / (1 + exp(-slope * h)) of float32 by NumPy, with few passes over memory."""
    f = h * np.float32(-slope)
    with np.errstate(over="ignore"):
        np.exp(f, out=f)
    f += 1
    return np.reciprocal(f, out=f)


def quantise(rows: Array, codes: Array) -> Array:
    """Fill int8 `codes` from rows of float32 by NumPy, which changes them, and return the scales."""
    scale: Array = np.maximum(rows.max(axis=1), -rows.min(axis=1)) / np.float32(127)
    rows /= scale[:, None]
    np.rint(rows, out=codes, casting="unsafe")
    return scale


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
