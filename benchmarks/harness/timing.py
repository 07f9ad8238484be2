"""Interleaved timing: all contenders are sampled throughout the measurement, not one after the other."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Thunk = Callable[[], Any]


@dataclass(frozen=True)
class Effort:
    """How long to measure: each contender gets `budget` seconds, within the limits for the number of samples."""

    budget: float
    min_samples: int
    max_samples: int
    sample_seconds: float = 1e-3
    """A sample repeats short calls until it takes this long, far above the resolution of the clock."""
    slow_call: float = 0.3
    """Calls that take longer, in seconds, get two samples: most of them are peers that are far from every target."""


FULL = Effort(budget=0.2, min_samples=5, max_samples=60)
QUICK = Effort(budget=0.04, min_samples=2, max_samples=15)
GPU = Effort(budget=0.2, min_samples=10, max_samples=100)
BRIEF = Effort(budget=0.02, min_samples=10, max_samples=30)


@dataclass(frozen=True)
class Times:
    """Seconds of one call."""

    median: float
    min: float
    samples: int

    @classmethod
    def of(cls, samples: list[float]) -> Times:
        return cls(statistics.median(samples), min(samples), len(samples))


class Clock(Protocol):
    one_call_a_sample: bool

    def __call__(self, fn: Thunk, number: int) -> float:
        """Seconds of one call of `fn`: the mean of `number` calls whose results are freed immediately."""


class WallClock:
    one_call_a_sample = False

    def __call__(self, fn: Thunk, number: int) -> float:
        # Results are freed inside the loop, because users pay for that time too.
        start = time.perf_counter()
        for _ in range(number):
            fn()
        return (time.perf_counter() - start) / number


class CudaClock:
    """Device time, measured by events, with the L2 cache flushed before every call.

    The flush also keeps the device busy while the host queues the call, so that the time of the host does not count.
    It leaves dirty lines in the cache, which would be written back during the measurement. A read of other memory
    writes them back before.
    """

    one_call_a_sample = True

    def __init__(self, flush_bytes: int = 1 << 30, clean_bytes: int = 1 << 28) -> None:
        self._flush = torch.empty(flush_bytes, dtype=torch.uint8, device="cuda")
        self._clean = torch.zeros(clean_bytes // 4, device="cuda")  # several times the size of the largest L2 cache
        self._start = torch.cuda.Event(enable_timing=True)
        self._stop = torch.cuda.Event(enable_timing=True)

    def __call__(self, fn: Thunk, number: int) -> float:
        total = 0.0
        for _ in range(number):
            self._flush.zero_()
            self._clean.sum()
            self._start.record()
            fn()
            self._stop.record()
            self._stop.synchronize()
            total += self._start.elapsed_time(self._stop) * 1e-3
        return total / number


class HostClock(WallClock):
    """Time until calls on a GPU return to Python. The queue is empty before a call, and may be busy after it."""

    def __call__(self, fn: Thunk, number: int) -> float:
        torch.cuda.synchronize()
        seconds = super().__call__(fn, number)
        torch.cuda.synchronize()
        return seconds


def _warm_up(fn: Thunk, clock: Clock) -> float:
    # The first call may compile, for other shapes or because the number of threads has changed.
    return min(clock(fn, 1) for _ in range(2))


def _samples_wanted(seconds: float, number: int, effort: Effort) -> int:
    if seconds > effort.slow_call:
        return 2
    return int(min(max(effort.budget / (seconds * number), effort.min_samples), effort.max_samples))


def measure(contenders: Mapping[str, Thunk], effort: Effort, clock: Clock | None = None) -> dict[str, Times]:
    """Time all contenders in rounds of random order; slow ones in fewer rounds, evenly distributed."""
    clock = clock or WallClock()
    estimates = {name: _warm_up(fn, clock) for name, fn in contenders.items()}
    numbers = {
        name: 1 if clock.one_call_a_sample else max(1, round(effort.sample_seconds / max(seconds, 1e-9)))
        for name, seconds in estimates.items()
    }
    wanted = {name: _samples_wanted(estimates[name], numbers[name], effort) for name in contenders}
    rounds = max(wanted.values())
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    shuffle = random.Random(0).shuffle

    collecting = gc.isenabled()
    gc.disable()
    try:
        for done in range(rounds):
            shuffle(order)
            for name in order:
                if len(samples[name]) * rounds <= done * wanted[name]:
                    samples[name].append(clock(contenders[name], numbers[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: Times.of(values) for name, values in samples.items()}
