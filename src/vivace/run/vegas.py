"""How much work at once gives the most throughput? Learned from the work itself.

Vegas (Brakmo & Peterson, "TCP Vegas", 1995) compares the throughput it gets with the one it should
get if nothing queued, and widens its window only while they agree. Netflix's concurrency-limits
takes the expected one from the least latency ever seen, which holds for servers whose latency does
not depend on their load. That of a batching server grows with every call it takes, long before
anything queues; so here the expected throughput is measured too, at the neighbouring limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final

LADDER: Final = tuple(sorted({n << e for n in (2, 3) for e in range(14)} | {1}))
"""The limits that are compared: 1, 2, 3, 4, 6, 8, 12, 16, ..."""
ENOUGH: Final = 0.9
"""The least limit with this share of the best throughput is taken: what a wider one adds is
latency."""
SATURATED: Final = 0.8
"""Share of a window's time for which the limit has to bind, or the window says nothing about it."""
LEAST: Final = 24
"""Ends of work in a window; twice the limit where that is more."""
WEIGHT: Final = 0.4
"""Of a new window against those before at the same limit."""
WORTH: Final = 0.5
"""Where a smaller share of a window's calls was done in time, the limit falls."""
FIRST_PROBE: Final = 4
LAST_PROBE: Final = 32
"""Windows between two looks at a neighbour; doubled while they change nothing."""
SHIFT: Final = 0.35
"""Two windows in a row that differ by this share from what was known: the service has changed."""
RECENT: Final = 1 / 16
"""Weight of a call in the mean latency."""


@dataclass(slots=True)
class Rung:
    throughput: float
    seen: int
    """Number of the window in which it was measured last."""


class Vegas:
    """The pure part: told of every beginning and end, it says how many may run. Not thread-safe.

    It takes windows of some calls, each with one limit, and keeps the throughput by limit. Only
    windows in which the limit was binding teach; at low load it stays as it is. Where the least
    latency seen and the throughput say that more are needed (Little's law: their product), the
    limit is not under that.

    `lowest` and `highest` are hard bounds; move them with `bound`.
    """

    def __init__(
        self, *, lowest: int, highest: int, start: int, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self.in_flight = 0
        self.lowest, self.highest = lowest, highest
        self._base = start
        """The limit held between the looks at its neighbours."""
        self._known: dict[int, Rung] = {}
        self._windows = self._probed = self._shifted = 0
        self._interval = FIRST_PROBE
        self._latency: float | None = None
        self._least: float | None = None
        self._at = clock()
        self.limit = start
        self.bound(lowest, highest)

    @property
    def latency(self) -> float | None:
        """Seconds a call takes of late; None before the first has ended."""
        return self._latency

    @property
    def rate(self) -> float | None:
        """Calls that end in a second while the limit binds; None before the first has ended."""
        if self._latency is None:
            return None
        by_latency = self.limit / max(self._latency, 1e-6)
        known = self._known.get(self.limit) or self._known.get(self._base)
        return by_latency if known is None else min(by_latency, max(known.throughput, 1e-6))

    def bound(self, lowest: int, highest: int) -> None:
        """Move the bounds; the limit is between them at once."""
        self.lowest, self.highest = lowest, highest
        self._base = min(max(self._base, lowest), highest)
        self._take(min(max(self.limit, lowest), highest))

    def began(self) -> None:
        self._advance()
        self.in_flight += 1

    def ended(self, seconds: float | None, *, done: bool = True) -> None:
        """A call is over.

        Args:
            seconds: it took; None where it says nothing about the service.
            done: False where it was for nothing: it came too late, or the service was overloaded.
        """
        self._advance()
        self.in_flight -= 1
        if seconds is None:
            return
        before = seconds if self._latency is None else self._latency
        self._latency = before + RECENT * (seconds - before)
        if self._settling:
            self._settling -= 1
            if not self._settling:
                self._open()
            return
        self._ended += 1
        self._done += done
        self._seconds += seconds
        if self._ended >= max(LEAST, 2 * self.limit):
            self._close()

    # -- windows --------------------------------------------------------------------------------

    def _advance(self) -> None:
        now = self._clock()
        if self.in_flight >= self.limit:
            self._full += now - self._at
        self._at = now

    def _take(self, limit: int) -> None:
        """Go on with this limit. What was begun under another one settles first."""
        self._settling = self.in_flight if limit != self.limit else 0
        self.limit = limit
        self._open()

    def _open(self) -> None:
        self._opened = self._at
        self._full = self._seconds = 0.0
        self._ended = self._done = 0

    def _close(self) -> None:
        took = self._at - self._opened
        latency = self._seconds / self._ended
        self._least = latency if self._least is None else min(self._least, latency)
        if self._done < WORTH * self._ended:
            self._fall()
        elif took <= 0 or self._full < SATURATED * took:
            self._take(self._base)
        else:
            self._windows += 1
            self._learn(self._done / took)
            self._choose()
            self._take(self._next())

    def _fall(self) -> None:
        """Most was for nothing: the service is past its knee, or slower than anybody waits. What
        was known of it is of another time."""
        self._base = max(self.lowest, _below(min(self.limit, self._base)))
        self._known.clear()
        self._least = None
        self._interval = FIRST_PROBE
        self._take(self._base)

    def _learn(self, throughput: float) -> None:
        rung = self._known.get(self.limit)
        if rung is None:
            self._known[self.limit] = Rung(throughput, self._windows)
            return
        differs = abs(throughput - rung.throughput) > SHIFT * rung.throughput
        self._shifted = self._shifted + 1 if differs else 0
        if self._shifted >= 2:
            self._shifted = 0
            self._known = {self.limit: Rung(throughput, self._windows)}
            self._least = None
            self._interval = FIRST_PROBE
            return
        rung.throughput += WEIGHT * (throughput - rung.throughput)
        rung.seen = self._windows

    def _choose(self) -> None:
        """The least known limit that is good enough becomes the one held."""
        best = max(rung.throughput for rung in self._known.values())
        least = self.lowest
        if self._least is not None:
            least = max(least, min(ceil(0.9 * best * self._least), self._base))
        good = [
            limit
            for limit, rung in self._known.items()
            if rung.throughput >= ENOUGH * best and least <= limit <= self.highest
        ]
        chosen = min(good, default=self._base)
        if chosen != self._base:
            self._base = chosen
            self._interval = FIRST_PROBE

    def _next(self) -> int:
        """The limit of the next window: the one held, or a neighbour that should be looked at."""
        above = next((n for n in LADDER if n > self._base), self._base)
        near = {min(above, self.highest), max(_below(self._base), self.lowest)} - {self._base}
        if self._base not in self._known:
            return self._base
        unknown = sorted(near - self._known.keys(), reverse=True)
        if unknown:
            self._probed = self._windows
            return unknown[0]
        if near and self._windows - self._probed >= self._interval:
            self._probed = self._windows
            self._interval = min(2 * self._interval, LAST_PROBE)
            return min(near, key=lambda limit: self._known[limit].seen)
        return self._base


def _below(limit: int) -> int:
    return next((n for n in reversed(LADDER) if n < limit), limit)
