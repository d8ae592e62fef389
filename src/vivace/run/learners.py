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
"""The least limit with this share of the best throughput is taken: a wider one adds latency."""
SATURATED: Final = 0.8
"""Share of a window's time for which the limit has to bind, or the window teaches nothing."""
LEAST: Final = 24
"""Calls that end in a window; twice the limit where that is more."""
WEIGHT: Final = 0.4
"""Of a new window against those before at the same limit."""
WORTH: Final = 0.5
"""Where a smaller share of a window's calls was done in time, the limit falls."""
FIRST_PROBE: Final = 4
LAST_PROBE: Final = 32
"""Windows between two probes of a neighbouring limit; doubled while they change nothing."""
SHIFT: Final = 0.35
"""Where two windows in a row differ by this share from what was known, the service has changed."""
RECENT: Final = 1 / 16
"""Weight of a call in the mean latency."""


@dataclass(slots=True)
class LevelThroughput:
    """What is known of one limit."""

    throughput: float
    seen: int
    """Number of the window in which it was measured last."""


class ThroughputLearner:
    """Learns from the beginning and end of every call how many may run. Not thread-safe.

    It divides time into windows of some calls, each with one limit, and keeps the throughput by
    limit. Only windows in which the limit was binding teach; at low load it stays as it is. Where
    the least latency seen and the throughput show that more are needed (Little's law: their
    product), the limit is not below that.

    `lowest` and `highest` are hard bounds; move them by `bound`.
    """

    def __init__(
        self, *, lowest: int, highest: int, start: int, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self.in_flight = 0
        self.lowest, self.highest = lowest, highest
        self._base = start
        """The limit held between the probes of its neighbours."""
        self._known: dict[int, LevelThroughput] = {}
        self._windows = self._probed = self._shifted = 0
        self._interval = FIRST_PROBE
        self.latency: float | None = None
        """Mean seconds of the latest calls; None before the first has ended."""
        self._least: float | None = None
        self._at = clock()
        self.limit = start
        self.bound(lowest, highest)

    @property
    def rate(self) -> float | None:
        """Calls that end in a second while the limit binds; None before the first has ended."""
        if self.latency is None:
            return None
        by_latency = self.limit / max(self.latency, 1e-6)
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
            seconds: its duration; None where it tells nothing about the service.
            done: False where it ran in vain: it was too late, or the service was overloaded.
        """
        self._advance()
        self.in_flight -= 1
        if seconds is None:
            return
        self._observe_latency(seconds)
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

    def _observe_latency(self, seconds: float) -> None:
        before = seconds if self.latency is None else self.latency
        self.latency = before + RECENT * (seconds - before)

    # -- windows --------------------------------------------------------------------------------

    def _advance(self) -> None:
        now = self._clock()
        if self.in_flight >= self.limit:
            self._full += now - self._at
        self._at = now

    def _take(self, limit: int) -> None:
        """Go on with this limit. Calls that began under another one have to end first."""
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
        """Most calls ran in vain: the service is past its knee, or slower than its callers wait.
        What was known no longer holds."""
        self._base = self._below(min(self.limit, self._base))
        self._known.clear()
        self._least = None
        self._interval = FIRST_PROBE
        self._take(self._base)

    def _learn(self, throughput: float) -> None:
        known = self._known.get(self.limit)
        if known is None:
            self._known[self.limit] = LevelThroughput(throughput, self._windows)
            return
        differs = abs(throughput - known.throughput) > SHIFT * known.throughput
        self._shifted = self._shifted + 1 if differs else 0
        if self._shifted >= 2:
            self._shifted = 0
            self._known = {self.limit: LevelThroughput(throughput, self._windows)}
            self._least = None
            self._interval = FIRST_PROBE
            return
        known.throughput += WEIGHT * (throughput - known.throughput)
        known.seen = self._windows

    def _choose(self) -> None:
        """Hold the least known limit that is good enough."""
        best = max(known.throughput for known in self._known.values())
        least = self.lowest
        if self._least is not None:
            least = max(least, min(ceil(0.9 * best * self._least), self._base))
        good = [
            limit
            for limit, known in self._known.items()
            if known.throughput >= ENOUGH * best and least <= limit <= self.highest
        ]
        chosen = min(good, default=self._base)
        if chosen != self._base:
            self._base = chosen
            self._interval = FIRST_PROBE

    def _next(self) -> int:
        """The limit of the next window: the one held, or a neighbour that should be probed."""
        near = {self._above(self._base), self._below(self._base)} - {self._base}
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

    def _above(self, limit: int) -> int:
        """The next limit of the ladder, within the bounds."""
        return min(next((n for n in LADDER if n > limit), limit), self.highest)

    def _below(self, limit: int) -> int:
        return max(next((n for n in reversed(LADDER) if n < limit), limit), self.lowest)


HELD: Final = 6
LOOK: Final = 3
"""Gaps of each stream in a window of the limit held, and of another one that is probed."""
STEP: Final = 6
"""A probe of more streams adds a sixth: the effect of fewer would drown in noise."""
GAIN: Final = 0.3
"""With a few streams more, the throughput has to grow by this share of what they are of all, or no
more are added. Streams cannot be taken back: a step too far costs as long as they last."""
BEST: Final = 0.95
"""The least limit with this share of the best throughput is held."""
KNEE: Final = 0.9
"""Of what twice the streams should give: with less, the best limit may lie between two known."""
FIRST_ROUNDS: Final = 2
LAST_ROUNDS: Final = 3
SLOWER: Final = 1.4
AGAIN: Final = 0.5
"""Times that all streams have been replaced between two probes of another limit."""
NEARLY: Final = 0.6
"""Share of a mean stream's duration at which one is taken to end soon, though not before the probe
is over: if one is replaced meanwhile, gaps of a moment with fewer streams are counted."""
HALVED: Final = 0.6
"""Where less than this share of the throughput is left, the limit falls by two steps."""
LONG: Final = 100
"""Assumed tokens of an answer before one has ended."""
DROPS: Final = 3
"""Calls in a row that an overloaded service refused before the limit falls."""


class StreamLearner(ThroughputLearner):
    """Learns how many streams may run, from their beginnings, tokens and ends. Not thread-safe.

    A window of `ThroughputLearner` is full when enough calls have ended. An answer of a model takes
    seconds, so a batch would be over before anything is known; but its tokens show after some
    milliseconds how fast a stream is among so many. By Little's law (1961), n streams that each
    take ttft + gaps * gap give n * (1 + gaps) / (ttft + gaps * gap) tokens a second. It does not
    count answers: while none has ended their length is guessed, and what was learned until then has
    to compare with what is learned later.

    Only what happens while the limit binds teaches. An answer in one piece is a stream of one
    token, so that calls without tokens can be observed here, too.
    """

    def __init__(
        self, *, lowest: int, highest: int, start: int, clock: Callable[[], float]
    ) -> None:
        self._tokens = 0.0
        """Mean gaps of the latest answers."""
        self._ended_once = False
        self._begun = 0
        self._rounds: float = FIRST_ROUNDS
        self._drops = 0
        self._firsts: dict[int, float] = {}
        """Mean seconds to the first token, by limit."""
        self._falling = False
        self._newcomers = self._unsettled = 0
        super().__init__(lowest=lowest, highest=highest, start=start, clock=clock)

    @property
    def rate(self) -> float | None:
        return None if self.latency is None else self.limit / max(self.latency, 1e-6)

    def began(self) -> None:
        self._begun += 1
        self.in_flight += 1

    def first(self, seconds: float) -> None:
        """A stream's first token arrived, so long after the stream began."""
        if self.in_flight == self.limit:
            self._first_seconds += seconds
            self._first_count += 1
            self._newcomers -= 1
            self._look()

    def more(self, seconds: float, tokens: int, age: float) -> None:
        """Further tokens of a stream of this age arrived, so long after those before."""
        if self.in_flight != self.limit:
            return
        if self._due(age - seconds, age):
            for limit in [n for n in self._known if n > self._base]:
                del self._known[limit]  # outdated
            self._rounds = min(self._rounds * SLOWER, LAST_ROUNDS)
            self._take(self._probe(self._more))
            return
        if self._unsettled > 0:  # this gap began before the limit was what it is
            self._unsettled -= 1
            return
        self._gap_seconds += seconds
        self._gap_count += tokens
        self._look()

    def over(self, gaps: int) -> None:
        """A stream has come to its end after so many further tokens."""
        weight = RECENT if self._ended_once else 1.0
        self._ended_once = True
        self._tokens += weight * (gaps - self._tokens)

    def ended(self, seconds: float | None, *, done: bool = True) -> None:
        self.in_flight -= 1
        if seconds is None:
            return
        self._observe_latency(seconds)
        self._drops = 0 if done else self._drops + 1
        if self._drops >= DROPS:
            self._drops = 0
            self._fall()

    def urge(self) -> bool:
        """Make room for one more interactive stream, unless it is known to be too many.

        In a queue it would wait for as long as others' answers take; among them it only shares. So
        the limit may grow up to the bound, as long as no limit between it and the one held has
        given less throughput: fifty streams at a server of which nothing was known yet waited up to
        24 s for four of them.
        """
        wanted = max(self.limit, self.in_flight) + 1
        if wanted > self.highest:
            return False
        held = self._known.get(self._base)
        if held is not None and any(
            self._base < n <= wanted and known.throughput < BEST * held.throughput
            for n, known in self._known.items()
        ):
            return False
        self._take(wanted)
        return True

    # -- windows --------------------------------------------------------------------------------

    def _take(self, limit: int) -> None:
        if limit != self.limit:
            self._unsettled = limit
            self._newcomers = max(0, limit - self.in_flight)
        self.limit = limit
        self._open()

    def _open(self) -> None:
        self._first_seconds = self._gap_seconds = 0.0
        self._first_count = self._gap_count = 0

    def _look(self) -> None:
        """Learn from the window, when it is full."""
        held = self.limit == self._base and self.limit in self._known and not self._shifted
        enough = (HELD if held else LOOK) * max(self.limit, 4)
        if self._newcomers > 0 or self._first_count + self._gap_count < enough:
            return
        throughput = self._throughput()
        if throughput is not None:
            self._windows += 1
            self._learn(throughput)
            if self._shifted:  # one more window has to confirm the change before the limit moves
                self._open()
                return
            self._choose()
            self._take(self._next())

    def _throughput(self) -> float | None:
        """Tokens a second with so many at once, from this window; None where it is unknown."""
        if self._first_count:
            mean = self._first_seconds / self._first_count
            known = self._firsts.get(self.limit, mean)
            self._firsts[self.limit] = known + WEIGHT * (mean - known)
        if not self._firsts:
            return None
        nearest = min(self._firsts, key=lambda limit: abs(limit - self.limit))
        seconds = self._firsts[nearest]
        gaps = 0.0
        if self._gap_count:
            # before the first end: as if answers were long, since their gaps are what teaches
            gaps = self._tokens if self._ended_once else LONG
            seconds += gaps * self._gap_seconds / self._gap_count
        return self.limit * (1 + gaps) / seconds if seconds > 0 else None

    def _learn(self, throughput: float) -> None:
        known = self._known.get(self.limit)
        if known is None or abs(throughput - known.throughput) <= SHIFT * known.throughput:
            self._shifted = 0
            super()._learn(throughput)
            return
        # part of this window may be from before the change: it is not mixed with what is known
        self._shifted += 1
        if self._shifted >= 2:
            self._changed(known.throughput, throughput)

    def _changed(self, before: float, throughput: float) -> None:
        """The service has changed: what was known of it is forgotten."""
        self._shifted = 0
        self._known = {self.limit: LevelThroughput(throughput, self._windows)}
        self._firsts = {n: s for n, s in self._firsts.items() if n == self.limit}
        self._rounds = FIRST_ROUNDS
        self._falling = throughput < before
        if throughput < HALVED * before:
            self._base = self._below(self._below(self.limit))

    def _fall(self) -> None:
        self._firsts.clear()
        super()._fall()

    def _choose(self) -> None:
        if self._base not in self._known:
            return
        allowed = {
            n: known.throughput
            for n, known in self._known.items()
            if self.lowest <= n <= self.highest
        }
        most = max(allowed.values(), default=0.0)
        chosen = min((n for n, t in allowed.items() if t >= BEST * most), default=self._base)
        if chosen != self._base:
            self._base = chosen
            self._rounds = FIRST_ROUNDS

    def _next(self) -> int:
        base, known = self._base, self._known
        if base not in known:
            return base
        more = self._more
        above, below = self._above(base), self._below(base)
        if below not in known and self._falling:
            return self._probe(below)
        self._falling = False
        if more not in known:
            return self._probe(more)
        grown = known[more].throughput / known[base].throughput - 1
        if above not in known and grown > GAIN * (more / base - 1):
            return self._probe(above)
        # to probe a lower limit, streams have to end and others to wait: not without a reason
        if below not in known:
            return self._probe(below)
        less = (below + base) // 2
        fair = known[below].throughput * base / below
        if less not in known and known[base].throughput < KNEE * fair:
            return self._probe(less)
        return base

    @property
    def _more(self) -> int:
        return min(self._base + max(1, self._base // STEP), self.highest)

    def _due(self, before: float, age: float) -> bool:
        """Whether to probe a few more streams again, now that one has reached this age.

        One too many slows all others down until any has ended. Begun a little before that, it costs
        next to nothing.
        """
        base, known, more = self._base, self._known, self._more
        if self.latency is None or not before < NEARLY * self.latency <= age:
            return False
        if self.limit != base or base not in known or more == base or self._shifted:
            return False
        # where a few more were no better but no worse either, noise may have hidden that they are
        tried = known.get(more)
        worse = tried is not None and tried.throughput < BEST * known[base].throughput
        return self._begun - self._probed >= (self._rounds if worse else AGAIN) * base

    def _probe(self, limit: int) -> int:
        self._probed = self._begun
        return limit
