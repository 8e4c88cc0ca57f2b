"""What the machine can do at most, measured beside the operators."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moe_native import _core

#: Numbers of moe_probe_kind.
KINDS = {"int8": 0, "float32": 1, "bfloat16": 2, "read": 3, "write": 4, "copy": 5}
MEMORY = ("read", "write", "copy")
#: A probe of arithmetic takes about so long.
SECONDS = 0.008
#: The buffer that probes of memory pass over is so many times as large as the largest cache.
CACHES = 5


def cache_bytes() -> int:
    """Size of the largest cache of the first core, or 32 MiB where the system does not say."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}.get(text[-1], 1))
    return max(sizes, default=32 << 20)


def filled(size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Bytes that are random with a period that is prime: zeros are written faster than anything else."""
    words = np.random.default_rng(seed).integers(1, 2**63, 1_000_003, dtype=np.uint64)
    return np.resize(words, -(-size // 8)).view(np.uint8)[:size]


@dataclass
class Prober:
    """Measures rates, in operations or bytes per second, with the threads and kernels that operators use now."""

    memory_bytes: int = field(default_factory=lambda: CACHES * cache_bytes())
    _rounds: dict[tuple[str, int, str], int] = field(default_factory=dict)

    @cached_property
    def _memory(self) -> NDArray[np.uint8]:
        return filled(self.memory_bytes)

    def rate(self, kind: str) -> float:
        """One measurement of one limit."""
        memory = self._memory if kind in MEMORY else None
        rounds = 1 if kind in MEMORY else self._calibrated(kind)
        start = time.perf_counter()
        amount: int = _core.probe(KINDS[kind], memory, rounds)
        return amount / (time.perf_counter() - start)

    def _calibrated(self, kind: str) -> int:
        key = kind, _core.get_num_threads(), _core.get_isa_limit()
        if key not in self._rounds:
            rounds, seconds = 256, 0.0
            while seconds < SECONDS:
                rounds *= 2
                seconds = min(self._seconds(kind, rounds) for _ in range(3))
            self._rounds[key] = rounds
        return self._rounds[key]

    @staticmethod
    def _seconds(kind: str, rounds: int) -> float:
        start = time.perf_counter()
        _core.probe(KINDS[kind], None, rounds)
        return time.perf_counter() - start
