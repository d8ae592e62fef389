"""A service with a throughput curve, a stream of arrivals and a clock of its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vivace.errors import VivaceError
from vivace.run.limit import ConcurrencyLimit, Outcome, Permit
from vivace.run.work import Work

Curve = Callable[[int], float]
"""Calls in flight -> calls that end in a second."""


def cores(n: int) -> float:
    """Two cores, 12.5 ms a call."""
    return 80.0 * min(n, 2)


def batching(n: int) -> float:
    """A model that batches: throughput grows with what is in flight, and collapses behind 24."""
    grown = 400 * min(n, 24) / (10 + min(n, 24))
    return grown * min(1.0, 24 / n) ** 2


def slots(n: int) -> float:
    """Input and output: 32 calls of 100 ms go side by side, the others queue."""
    return 10.0 * min(n, 32)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Run:
    """What a simulated service did. `good` are those served by their deadline."""

    good: int = 0
    late: int = 0
    refused: int = 0
    latencies: list[float] = field(default_factory=list)
    limit: int = 0


@dataclass(eq=False)
class _Call:
    left: float
    came: float
    permit: Permit | None = None


class Simulation:
    """Poisson arrivals; the calls in flight share the service's throughput evenly."""

    def __init__(
        self,
        curve: Curve,
        *,
        arrivals: float,
        deadline: float,
        spread: float = 0.5,
        seed: int = 1,
        **limit: Any,
    ) -> None:
        self.clock = Clock()
        self.curve = curve
        self.arrivals = arrivals
        self.limit = ConcurrencyLimit("simulated", clock=self.clock, **limit)
        self._deadline = deadline
        self._spread = spread
        self._draw = random.Random(seed)
        self._active: list[_Call] = []
        self._next = 0.0

    def run(self, seconds: float) -> Run:
        run, end = Run(), self.clock.now + seconds
        while self.clock.now < end:
            each = self.curve(len(self._active)) / len(self._active) if self._active else 0.0
            soonest = min((call.left for call in self._active), default=0.0)
            done_in = soonest / each if each else float("inf")
            step = min(done_in, self._next - self.clock.now)
            self.clock.now += step
            for call in self._active:
                call.left -= step * each
            if done_in <= step:
                self._finish(run)
            else:
                self._arrive(run)
        run.limit = self.limit.statistics().limit
        return run

    def _finish(self, run: Run) -> None:
        for call in [call for call in self._active if call.left <= 1e-9]:
            self._active.remove(call)
            took = self.clock.now - call.came
            in_time = took <= self._deadline
            run.good += in_time
            run.late += not in_time
            run.latencies.append(took)
            assert call.permit is not None
            call.permit.release(Outcome.DONE if in_time else Outcome.DROPPED)

    def _arrive(self, run: Run) -> None:
        self._next = self.clock.now + self._draw.expovariate(self.arrivals)
        size = self._draw.lognormvariate(-(self._spread**2) / 2, self._spread)
        call = _Call(size, self.clock.now)

        def told(result: Permit | Exception) -> bool:
            if isinstance(result, Permit):
                call.permit = result
                self._active.append(call)
            else:
                run.refused += 1
            return True

        try:
            entered = self.limit.enter(Work(deadline=self.clock.now + self._deadline), told)
        except VivaceError:
            run.refused += 1
            return
        if isinstance(entered, Permit):
            told(entered)
