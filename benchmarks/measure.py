"""The method: contenders in turn, the limits around them, medians of paired ratios."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_native.benchmarks.limits import Prober

#: Threads count as asleep once they took less than a quarter of so long a pause.
PAUSE = 0.01
#: Seconds after which they are taken as they are.
LONGEST_WAIT = 1.0
#: Calls are repeated within a sample until it takes so long.
SAMPLE_SECONDS = 0.002
#: A run is void where the limit that decides the floor differs more than this between its 10th and 90th percentile.
LARGEST_SPREAD = 0.2
#: Or where other processes take more than this share of the processor.
LARGEST_SHARE = 0.05


class ProcessorUse:
    """The processor time that goes elsewhere: to other processes, or to other machines on the same host."""

    def __init__(self) -> None:
        self._start = self._times()

    @staticmethod
    def _times() -> tuple[float, float, float]:
        own = time.process_time()
        try:
            with open("/proc/stat", encoding="ascii") as file:
                user, nice, system, idle, wait, irq, soft, steal = map(int, file.readline().split()[1:9])
        except OSError:  # not Linux
            return own, own, time.perf_counter()
        ticks = os.sysconf("SC_CLK_TCK")
        busy = user + nice + system + irq + soft + steal
        return own, busy / ticks, (busy + idle + wait) / ticks

    def of_others(self) -> float:
        """Their share since this object was made."""
        own, busy, all_ = (b - a for a, b in zip(self._start, self._times(), strict=True))
        return max(0.0, busy - own) / all_ if all_ > 0 else 0.0


@dataclass
class Contender:
    """Something that does the work of an item. `call` takes the number of the input set."""

    name: str
    call: Callable[[int], Any]
    #: The error of a result of the first input set, as a fraction of the largest exact value.
    error: Callable[[Any], float]
    ours: bool = False
    #: Most times the floor that the project allows itself.
    target_ratio: float | None = None
    #: Most seconds of a call, where a floor has no meaning.
    target_seconds: float | None = None
    seconds: list[float] = field(default_factory=list)
    seen_error: float = float("nan")
    #: Of the first call, which meets cold caches and makes its scratch memory.
    first_seconds: float = float("nan")

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


@dataclass
class Work:
    """An item that is ready to run: its inputs live in the contenders."""

    name: str
    shape: str
    contenders: list[Contender]
    #: Input sets that the calls go round, so that none of them is still in a cache.
    sets: int = 1
    #: Operations by the limit that bounds them: int8, float32 or bfloat16.
    operations: dict[str, float] = field(default_factory=dict)
    read_bytes: float = 0
    written_bytes: float = 0
    #: Seconds that the floor would take, one per repeat.
    floors: list[float] = field(default_factory=list)
    decider: str = ""
    #: Share of the processor that other processes took meanwhile.
    others: float = 0.0

    @property
    def has_floor(self) -> bool:
        return all(c.target_seconds is None for c in self.contenders)

    @property
    def limits(self) -> list[str]:
        """The limits that its floor depends on."""
        if not self.has_floor:
            return []
        kinds = list(self.operations)
        # Float32 arithmetic can stand in for bfloat16, and is the faster one on some processors.
        if "bfloat16" in kinds:
            kinds.append("float32")
        return [*kinds, "read", "write"]

    def floor(self, rates: dict[str, float]) -> tuple[float, str]:
        """Least seconds that the limits allow, and the limit that decides."""
        times = {"read": self.read_bytes / rates["read"], "write": self.written_bytes / rates["write"]}
        for kind, amount in self.operations.items():
            best = max((kind, "float32") if kind == "bfloat16" else (kind,), key=lambda k: rates[k])
            times[best] = amount / rates[best]
        decider = max(times, key=lambda k: times[k])
        return times[decider], decider

    @property
    def floor_seconds(self) -> float:
        return float(np.median(self.floors)) if self.floors else float("nan")

    @property
    def spread(self) -> float:
        """How much the floor differs between its 10th and 90th percentile."""
        if not self.floors:
            return 0.0
        low, high = np.percentile(self.floors, (10, 90))
        return float((high - low) / self.floor_seconds)

    @property
    def void(self) -> str:
        """Why the times say nothing; empty if they do."""
        if self.others > LARGEST_SHARE:
            return f"other processes took {self.others:.0%} of the processor"
        if self.spread > LARGEST_SPREAD:
            return f"the limit by {self.decider} changed by {self.spread:.0%} in between"
        return ""

    def ratio(self, contender: Contender) -> float:
        """Median over the repeats of time over floor."""
        return paired(contender.seconds, self.floors) if self.floors else float("nan")

    def met(self, contender: Contender) -> bool | None:
        """Whether a target is met; None where there is none."""
        if contender.target_seconds is not None:
            return contender.median <= contender.target_seconds
        if contender.target_ratio is None:
            return None
        return self.ratio(contender) <= contender.target_ratio * (1 + self.spread / 2)

    @property
    def best_peer(self) -> Contender | None:
        return min((c for c in self.contenders if not c.ours), key=lambda c: c.median, default=None)


def paired(a: Sequence[float], b: Sequence[float]) -> float:
    """Median of the ratios of what was measured together."""
    ratios: NDArray[np.float64] = np.divide(a, b)
    return float(np.median(ratios))


def settle() -> None:
    """Wait until the threads of the last contender sleep, which what is measured next must not meet.

    Idle ones spin first: those of OpenMP for about 10 ms, those of OpenBLAS for more than 100 ms.
    """
    deadline = time.perf_counter() + LONGEST_WAIT
    # Some runtimes can be told to spin for ever.
    while time.perf_counter() < deadline:
        before = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - before < PAUSE / 4:
            return


def measure(work: Work, prober: Prober, repeats: int) -> None:
    """Run all contenders of an item `repeats` times, and fill in what was seen."""
    calls = {}
    for contender in work.contenders:
        settle()
        start = time.perf_counter()
        result = contender.call(0)
        contender.first_seconds = time.perf_counter() - start
        contender.seen_error = contender.error(result)
        del result
        settle()
        start = time.perf_counter()
        contender.call(0)
        seconds = time.perf_counter() - start
        calls[contender.name] = max(1, int(SAMPLE_SECONDS / seconds))
    deciders = []
    turns = count()
    processor = ProcessorUse()
    settle()
    before = {kind: prober.rate(kind) for kind in work.limits}
    for repeat in range(repeats):
        for turn in range(len(work.contenders)):
            contender = work.contenders[(turn + repeat) % len(work.contenders)]
            number = calls[contender.name]
            settle()
            start = time.perf_counter()
            for _ in range(number):
                # Never the input set of the last call, where there is another one.
                contender.call(next(turns) % work.sets)
            contender.seconds.append((time.perf_counter() - start) / number)
        if work.has_floor:
            settle()
            after = {kind: prober.rate(kind) for kind in work.limits}
            floor, decider = work.floor({kind: (before[kind] + after[kind]) / 2 for kind in before})
            work.floors.append(floor)
            deciders.append(decider)
            before = after
    work.others = processor.of_others()
    work.decider = max(set(deciders), key=deciders.count) if deciders else ""
