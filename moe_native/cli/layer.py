"""One rank of a Mixture-of-Experts layer with random weights: what `moe-native` runs.

A router chooses experts for every token; this rank holds the experts of its *active range* and computes their
share: gating -> routing (sorted by expert, int8 per token) -> matmul, SwiGLU, int8 -> matmul and weighted
sum.

The weights exist once, in the NZ layout that the operators take. The check of a matmul generates what it needs
from the seed again, one expert at a time: a fault in the operators' copy cannot be in the check's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

import moe_native
from moe_native.cli import checks

T = TypeVar("T")
Tick = Callable[[], None]

#: A step runs this often, or until it has taken this many seconds; its time is the median.
REPEATS, ENOUGH_SECONDS = 5, 1.0
#: Tokens whose rows the checks compare; a larger batch is sampled.
CHECKED_TOKENS = 512
#: Rows of k per weight matrix on which the check of a format cast compares all columns.
CHECKED_WEIGHT_ROWS = 64
#: The bias of a group's r-th most popular expert is minus this times log(r): the histogram is skewed.
SKEW = 0.08
EPS = 1e-20


@dataclass(frozen=True)
class Size:
    """Sizes of the layer; the defaults are those of DeepSeek-V3 with 256 experts spread over 8 ranks."""

    tokens: int = 512
    hidden: int = 7168
    intermediate: int = 2048
    experts: int = 256
    top_k: int = 8
    groups: int = 8
    groups_kept: int = 4
    routed_scaling_factor: float = 2.5

    def __post_init__(self) -> None:
        for name in ("tokens", "hidden", "intermediate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, needed at least 1")
        # Group scores need two experts in a group, and the groups that are kept need top_k of them.
        least = self.groups * max(2, -(-self.top_k // self.groups_kept))
        if self.experts % self.groups or not least <= self.experts <= 2048:
            raise ValueError(f"experts is {self.experts}, needed a multiple of {self.groups} from {least} to 2048")

    @property
    def active(self) -> tuple[int, int]:
        """Half-open range of the experts that this rank holds: the second of the equal shares."""
        share = self.experts // self.groups
        return share, 2 * share

    @property
    def active_experts(self) -> int:
        return self.experts // self.groups

    @property
    def weight_bytes(self) -> int:
        return self.active_experts * 3 * self.hidden * self.intermediate


@dataclass
class Step:
    """A step that has run: what it was, median time and work of a call, its check and what that found."""

    name: str
    shape: tuple[str, ...]
    seconds: float
    amount: float
    unit: str
    check: Callable[[Tick], checks.Verdict]
    verdict: checks.Verdict = field(default_factory=checks.Verdict)

    @property
    def rate(self) -> float:
        """Billions of bytes or of operations per second."""
        return self.amount / self.seconds / 1e9


@dataclass(frozen=True)
class RandomWeights:
    """Random int8 weights (k, n) per expert, made again from the seed whenever they are asked for."""

    seed: tuple[int, int]
    k: int
    n: int

    def __call__(self, expert: int) -> NDArray[np.int8]:
        generator = np.random.Generator(np.random.SFC64([*self.seed, expert]))
        words = generator.integers(0, 2**64, -(-self.k * self.n // 8), dtype=np.uint64)
        return words.view(np.int8)[: self.k * self.n].reshape(self.k, self.n)

    def scales(self, experts: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """Scales per expert and column that bring a product with values near 1 back near 1."""
        # Uniform int8 has a standard deviation of 74.
        scale: NDArray[np.float64] = rng.uniform(0.5, 1.5, (experts, self.n)) / (74 * np.sqrt(self.k))
        return scale.astype(np.float32)


class Layer:
    """The layer's inputs, made from `seed`.

    Parameters
    ----------
    size : Size
    dtype : dtype
        Of the hidden states: bfloat16, float16 or float32.
    seed : int
    tick : callable
        Called after each of the ``2 * size.active_experts`` weight matrices.
    """

    STEPS = 5

    def __init__(self, size: Size, dtype: DTypeLike, seed: int = 0, tick: Tick = lambda: None) -> None:
        self.size = size
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((size.tokens, size.hidden), dtype=np.float32).astype(dtype)
        self.logits = rng.standard_normal((size.tokens, size.experts), dtype=np.float32)
        popularity = -SKEW * np.log1p(np.arange(size.active_experts))
        self.bias = np.concatenate([rng.permutation(popularity) for _ in range(size.groups)]).astype(np.float32)
        self.w1 = RandomWeights((seed, 1), size.hidden, 2 * size.intermediate)
        self.w2 = RandomWeights((seed, 2), size.intermediate, size.hidden)
        self.w1_scale = self.w1.scales(size.active_experts, rng)
        self.w2_scale = self.w2.scales(size.active_experts, rng)
        self.cast_seconds, self.cast_verdict = 0.0, checks.Verdict()
        self.w1_nz = self._cast(self.w1, tick)
        self.w2_nz = self._cast(self.w2, tick)

    def _cast(self, weights: RandomWeights, tick: Tick) -> moe_native.NzArray:
        """All experts of this rank in NZ storage, cast and checked one by one to avoid a second full copy."""
        shape = (self.size.active_experts, -(-weights.n // 32), -(-weights.k // 16), 16, 32)
        # Rows of a tile are 32 bytes; none crosses a cache line when the first one starts one.
        memory = np.empty(math.prod(shape) + 64, np.int8)
        storage = memory[-memory.__array_interface__["data"][0] % 64 :][: math.prod(shape)].reshape(shape)
        rows = np.unique(np.linspace(0, weights.k - 1, CHECKED_WEIGHT_ROWS).astype(np.int64))
        for expert, part in enumerate(storage):
            plain = weights(expert)
            start = time.perf_counter()
            moe_native.npu_format_cast(plain, 29, out=part)
            self.cast_seconds += time.perf_counter() - start
            self.cast_verdict.add(checks.format_cast(plain, part, rows))
            tick()
        return moe_native.NzArray(storage, (self.size.active_experts, weights.k, weights.n))

    def run(self) -> Iterator[Step]:
        """Run the layer, each step on the results of the one before."""
        size, e = self.size, self.size.active_experts
        sizes = f"{e} x {size.hidden} x {self.w1.n}", f"{e} x {size.intermediate} x {size.hidden}"
        yield Step(
            name="npu_format_cast",
            shape=sizes,
            seconds=self.cast_seconds,
            amount=2 * (self.w1_nz.nbytes + self.w2_nz.nbytes),
            unit="GB/s",
            check=lambda tick: self.cast_verdict,
        )

        gate: dict[str, Any] = {
            "k": size.top_k,
            "k_group": size.groups_kept,
            "group_count": size.groups,
            "routed_scaling_factor": size.routed_scaling_factor,
            "eps": EPS,
        }
        sigmoid, sum_of_two = 1, 1
        (y, expert_idx, _), seconds = timed(
            lambda: moe_native.npu_moe_gating_top_k(
                self.logits, bias=self.bias, group_select_mode=sum_of_two, norm_type=sigmoid, **gate
            )
        )
        yield Step(
            name="npu_moe_gating_top_k",
            shape=(f"{size.tokens} x {size.experts}, top {size.top_k}",),
            seconds=seconds,
            amount=self.logits.nbytes + y.nbytes + expert_idx.nbytes,
            unit="GB/s",
            check=lambda tick: checks.gating(self.logits, self.bias, y, expert_idx, **gate),
        )

        # The tokens that the checks follow through the layer: all, or a sample.
        tokens = np.arange(size.tokens)
        if size.tokens > CHECKED_TOKENS:
            tokens = np.sort(np.random.default_rng(0).choice(tokens, CHECKED_TOKENS, replace=False))

        count, scatter, dynamic_int8 = 1, 1, 1
        (rows, row_idx, counts, row_scale), seconds = timed(
            lambda: moe_native.npu_moe_init_routing_v2(
                self.x,
                expert_idx,
                expert_num=size.experts,
                expert_tokens_num_type=count,
                expert_tokens_num_flag=True,
                quant_mode=dynamic_int8,
                active_expert_range=size.active,
                row_idx_type=scatter,
            )
        )
        routed = int(counts.sum())
        yield Step(
            name="npu_moe_init_routing_v2",
            shape=(f"{size.tokens} x {size.hidden} -> {routed} of {len(rows)} rows",),
            seconds=seconds,
            amount=self.x.nbytes + expert_idx.nbytes + rows.nbytes + row_idx.nbytes + row_scale.nbytes,
            unit="GB/s",
            check=lambda tick: checks.init_routing(
                self.x, expert_idx, rows, row_idx, counts, row_scale, active=size.active, tokens=tokens
            ),
        )

        # row_idx holds the flat (token, choice) of each sorted row; those of other ranks follow.
        source = row_idx // size.top_k
        checked_rows = np.flatnonzero(np.isin(source[:routed], tokens))
        ends = np.cumsum(counts)
        (act, act_scale, _), seconds = timed(
            lambda: moe_native.npu_grouped_matmul_swiglu_quant(rows, self.w1_nz, ends, self.w1_scale, row_scale)
        )
        yield Step(
            name="npu_grouped_matmul_swiglu_quant",
            shape=(f"{routed} x {size.hidden} @ {sizes[0]}",),
            seconds=seconds,
            amount=2 * routed * size.hidden * self.w1.n,
            unit="GOP/s",
            check=lambda tick: checks.swiglu_quant(
                rows, self.w1, ends, self.w1_scale, row_scale, act, act_scale, rows=checked_rows, tick=tick
            ),
        )

        logit = y.reshape(-1)[row_idx]
        row_index = source.astype(np.int64)
        out, seconds = timed(
            lambda: moe_native.npu_grouped_matmul_finalize_routing(
                act,
                self.w2_nz,
                counts,
                scale=self.w2_scale,
                pertoken_scale=act_scale,
                logit=logit,
                row_index=row_index,
                output_bs=size.tokens,
            )
        )
        yield Step(
            name="npu_grouped_matmul_finalize_routing",
            shape=(f"{routed} x {size.intermediate} @ {sizes[1]}",),
            seconds=seconds,
            amount=2 * routed * size.intermediate * size.hidden,
            unit="GOP/s",
            check=lambda tick: checks.finalize_routing(
                act,
                self.w2,
                counts,
                self.w2_scale,
                act_scale,
                logit,
                row_index,
                out,
                tokens=tokens,
                tick=tick,
            ),
        )


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """Result of the last call, and the median time of the calls."""
    times: list[float] = []
    while True:
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
        if len(times) == REPEATS or sum(times) > ENOUGH_SECONDS:
            return result, float(np.median(times))
