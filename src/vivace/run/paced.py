"""How many streams at once give the most throughput? Learned from their first and further tokens.

A window of `Vegas` is full when enough calls have ended. An answer of a model takes seconds, so a
batch would be over before anything is known; but its tokens tell after some milliseconds how fast a
stream is among so many. By Little's law (1961), n streams that each take ttft + gaps * gap give
n * (1 + gaps) / (ttft + gaps * gap) tokens a second. Not answers: while none has ended their length
is guessed, and what was learned by then has to compare with what is learned later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vivace.run.vegas import LADDER, SHIFT, WEIGHT, Rung, Vegas

HELD: Final = 6
LOOK: Final = 3
"""Gaps of each stream in a window of the limit held, and of another one that is looked at."""
STEP: Final = 6
"""A look at more streams is one at a sixth more: fewer would drown in noise."""
GAIN: Final = 0.3
"""With a few streams more, the throughput has to grow by this share of what they are of all, or no
more are let in. Streams cannot be taken back: a step too far costs as long as they last."""
BEST: Final = 0.95
"""The least limit with this share of the best throughput is held."""
KNEE: Final = 0.9
"""Of what twice the streams should give: with less, the best limit may lie between two known."""
FIRST_ROUNDS: Final = 2
LAST_ROUNDS: Final = 3
SLOWER: Final = 1.4
AGAIN: Final = 0.5
"""Times that all streams have been replaced between two looks at another limit."""
NEARLY: Final = 0.6
"""Share of the time of a mean stream at which one is taken to end soon, though not before the look
is over: where one is replaced meanwhile, the gaps of a moment with fewer streams are counted."""
HALVED: Final = 0.6
"""What is left of the throughput of a changed service where the limit falls by two steps."""
LONG: Final = 100
"""Tokens that an answer is taken to have before one has ended."""
DROPS: Final = 3
"""Calls in a row that an overloaded service sent away before the limit falls."""


class Paced(Vegas):
    """`Vegas` over streams: told of every beginning, token and end. Not thread-safe.

    Only what happens while the limit binds teaches. An answer in one piece is a stream of one
    token, so that calls without tokens can be told here, too.
    """

    def __init__(
        self, *, lowest: int, highest: int, start: int, clock: Callable[[], float]
    ) -> None:
        self._tokens = 0.0
        """Gaps of an answer, of late."""
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
        return None if self._latency is None else self.limit / max(self._latency, 1e-6)

    def began(self) -> None:
        self._begun += 1
        self.in_flight += 1

    def first(self, seconds: float) -> None:
        """A stream's first token came, so long after it began."""
        if self.in_flight == self.limit:
            self._first_seconds += seconds
            self._first_count += 1
            self._newcomers -= 1
            self._look()

    def more(self, seconds: float, tokens: int, age: float) -> None:
        """Further tokens of a stream of this age, so long after those before."""
        if self.in_flight != self.limit:
            return
        if self._due(age - seconds, age):
            for limit in [n for n in self._known if n > self._base]:
                del self._known[limit]  # of another time
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
        weight = 1 / 16 if self._ended_once else 1.0
        self._ended_once = True
        self._tokens += weight * (gaps - self._tokens)

    def ended(self, seconds: float | None, *, done: bool = True) -> None:
        self.in_flight -= 1
        if seconds is None:
            return
        before = seconds if self._latency is None else self._latency
        self._latency = before + (seconds - before) / 16
        self._drops = 0 if done else self._drops + 1
        if self._drops >= DROPS:
            self._drops = 0
            self._fall()

    def urge(self) -> bool:
        """Make room for one more whom somebody waits for, where it is not known to be too many.

        In a line he would wait for as long as others' answers take; among them he only shares. So
        up to the bound, as long as nothing between it and the limit held has given less throughput:
        fifty streams at a server of which nothing is known yet waited up to 24 s for four of them.
        """
        wanted = max(self.limit, self.in_flight) + 1
        if wanted > self.highest:
            return False
        held = self._known.get(self._base)
        if held is not None and any(
            self._base < n <= wanted and rung.throughput < BEST * held.throughput
            for n, rung in self._known.items()
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
        held = self.limit == self._base and self.limit in self._known and not self._shifted
        enough = (HELD if held else LOOK) * max(self.limit, 4)
        if self._newcomers > 0 or self._first_count + self._gap_count < enough:
            return
        throughput = self._throughput()
        if throughput is not None:
            self._windows += 1
            self._learn(throughput)
            if self._shifted:  # before one more window has told, nothing is moved
                self._open()
                return
            self._choose()
            self._take(self._next())

    def _throughput(self) -> float | None:
        """Tokens a second with so many at once, from this window; None where it cannot tell."""
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
            # before the first end: as if answers were long, their gaps are what tells
            gaps = self._tokens if self._ended_once else LONG
            seconds += gaps * self._gap_seconds / self._gap_count
        return self.limit * (1 + gaps) / seconds if seconds > 0 else None

    def _learn(self, throughput: float) -> None:
        rung = self._known.get(self.limit)
        if rung is None or abs(throughput - rung.throughput) <= SHIFT * rung.throughput:
            self._shifted = 0
            super()._learn(throughput)
            return
        # part of this window may be of before the change: it is not mixed with what is known
        self._shifted += 1
        if self._shifted >= 2:
            self._changed(rung.throughput, throughput)

    def _changed(self, before: float, throughput: float) -> None:
        """The service is another one: what was known of it is forgotten."""
        self._shifted = 0
        self._known = {self.limit: Rung(throughput, self._windows)}
        self._firsts = {n: s for n, s in self._firsts.items() if n == self.limit}
        self._rounds = FIRST_ROUNDS
        self._falling = throughput < before
        if throughput < HALVED * before:
            self._base = self._below(self._below(self.limit))

    def _fall(self) -> None:
        self._firsts.clear()
        super()._fall()

    def _choose(self) -> None:
        """The least known limit that is good enough becomes the one held."""
        if self._base not in self._known:
            return
        allowed = {n: r.throughput for n, r in self._known.items() if self._allows(n)}
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
        above = min(next((n for n in LADDER if n > base), base), self.highest)
        below = self._below(base)
        if below not in known and self._falling:
            return self._probe(below)
        self._falling = False
        if more not in known:
            return self._probe(more)
        grown = known[more].throughput / known[base].throughput - 1
        if above not in known and grown > GAIN * (more / base - 1):
            return self._probe(above)
        # to look at a lower limit, streams have to end and others to wait: not without a reason
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
        """Whether to look at a few more streams again, now that one of this age is at work.

        One too many slows all others for as long as it takes until any has ended. Begun a little
        before that, it costs next to nothing.
        """
        base, known, more = self._base, self._known, self._more
        if self._latency is None or not before < NEARLY * self._latency <= age:
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

    def _allows(self, limit: int) -> bool:
        return self.lowest <= limit <= self.highest

    def _below(self, limit: int) -> int:
        return max(next((n for n in reversed(LADDER) if n < limit), limit), self.lowest)
