"""What happened, and how long did it take? Counters and latency histograms, always on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp, log

_BASE_SECONDS = 1e-6
_GROWTH = log(1.15)
"""A bucket is 15 % wider than the one before it, so a quantile is off by at most 7 %."""
_FIRST_BOUND, _LAST_BOUND, _BOUNDS_EVERY = 33, 133, 5
"""Buckets whose upper bounds `cumulative` reports; five buckets are a factor of two."""


@dataclass(slots=True)
class Histogram:
    """Latencies in log-spaced buckets; memory does not grow with the number of observations."""

    buckets: Counter[int] = field(default_factory=Counter)
    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        ratio = seconds / _BASE_SECONDS
        self.buckets[int(log(ratio) / _GROWTH) if ratio > 1 else 0] += 1
        self.count += 1
        self.seconds += seconds

    def merge(self, other: Histogram) -> None:
        """Add the other's observations."""
        self.buckets.update(other.buckets)
        self.count += other.count
        self.seconds += other.seconds

    def copy(self) -> Histogram:
        return Histogram(self.buckets.copy(), self.count, self.seconds)

    def cumulative(self) -> list[tuple[float, int]]:
        """(upper bound in seconds, observations at or under it), from 0.1 ms to 2 minutes.

        Each bound doubles the one before and is a bucket's, so the counts are exact.
        """
        found = sorted(self.buckets.items())
        at = total = 0
        rows = []
        for bound in range(_FIRST_BOUND, _LAST_BOUND + 1, _BOUNDS_EVERY):
            while at < len(found) and found[at][0] < bound:
                total += found[at][1]
                at += 1
            rows.append((_BASE_SECONDS * exp(bound * _GROWTH), total))
        return rows

    def quantile(self, q: float) -> float:
        """Seconds at or under which the share q of observations lies (0 where there are none)."""
        left = q * self.count
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return _BASE_SECONDS * exp((bucket + 0.5) * _GROWTH)
        return 0.0


class TimingSpan:
    """The context manager of `Trace.span`; a generator function would take twice the time."""

    __slots__ = ("_name", "_start", "_trace")

    def __init__(self, trace: Trace, name: str) -> None:
        self._trace = trace
        self._name = name
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._trace.observe(self._name, time.perf_counter() - self._start)


class Trace:
    """Counters, gauges and histograms by name. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: Counter[str] = Counter()
        self._gauges: dict[str, float] = {}
        self._histograms: dict[str, Histogram] = {}

    def gauge(self, name: str, value: float) -> None:
        """Set the current value of a gauge."""
        with self._lock:
            self._gauges[name] = value

    def gauges(self) -> dict[str, float]:
        """The current value of each gauge."""
        with self._lock:
            return dict(self._gauges)

    def count(self, name: str, n: int = 1) -> None:
        with self._lock:
            self._counters[name] += n

    def observe(self, name: str, seconds: float) -> None:
        self.observe_all(((name, seconds),))

    def observe_all(self, observations: Iterable[tuple[str, float]]) -> None:
        """Observe several (name, seconds) under one lock."""
        with self._lock:
            for name, seconds in observations:
                histogram = self._histograms.get(name)
                if histogram is None:
                    histogram = self._histograms[name] = Histogram()
                histogram.add(seconds)

    def span(self, name: str) -> TimingSpan:
        """Time a block under `name`, whether it succeeds or not."""
        return TimingSpan(self, name)

    def counters(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counters)

    def histograms(self) -> dict[str, Histogram]:
        """Copies, by span name."""
        with self._lock:
            return {name: histogram.copy() for name, histogram in self._histograms.items()}

    def quantiles(self, *qs: float) -> dict[str, dict[str, float]]:
        """Milliseconds at each quantile, and the count, by span name."""
        with self._lock:
            return {
                name: {"count": h.count, **{f"p{q * 100:g}_ms": h.quantile(q) * 1e3 for q in qs}}
                for name, h in self._histograms.items()
            }
