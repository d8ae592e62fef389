"""A circuit breaker (Nygard, "Release It!", 2007): may this server be asked?

Closed: yes. Open: no. Half-open: by one trial at a time. It opens after some failures in a row, and
after a share of failures where other servers can take the requests. The caller brings the clock.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    """The pause is over; a trial may begin, or runs."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a server may fail before it is ejected, and for how long. Times are in seconds."""

    in_row: int = 5
    """Failures without a success between them that eject a server, whatever the others do."""
    share: float = 0.5
    """Share of failures in the window that ejects a server, where others are left."""
    window: float = 30.0
    least: int = 10
    """Outcomes in the window before their share counts."""
    most: int = 100
    """Outcomes that the window keeps."""
    first: float = 1.0
    """The first pause; it doubles with each trial that fails."""
    longest: float = 30.0
    """The longest pause."""


@dataclass(slots=True)
class Attempt:
    """One request to the server."""

    trial: bool
    generation: int


class Breaker:
    """The breaker of one server. `now` is a time of any monotonic clock, always the same one."""

    def __init__(self, tolerance: Tolerance, draw: random.Random) -> None:
        self._tolerance = tolerance
        self._draw = draw
        self._open = False
        self._trial = False
        self._in_row = 0
        self._pauses = 0
        """Since the last whole success."""
        self._generation = 0
        """Times it opened. A request begun before the last time says nothing about now."""
        self._window: deque[tuple[float, bool]] = deque(maxlen=tolerance.most)
        self.until = 0.0
        """When the pause ends, while it is open."""

    def state(self, now: float) -> BreakerState:
        if not self._open:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if now >= self.until else BreakerState.OPEN

    def admits(self, now: float) -> bool:
        return not self._open or (now >= self.until and not self._trial)

    def begin(self) -> Attempt:
        """A request that `admits` has allowed goes to the server."""
        self._trial = trial = self._open
        return Attempt(trial, self._generation)

    def alive(self, attempt: Attempt) -> None:
        """The server has begun to answer. A trial closes the breaker here.

        The rest of its answer may take minutes, for which no other request should wait. But the
        next failure opens the breaker again, unless a whole success came before.
        """
        if attempt.trial and attempt.generation == self._generation:
            attempt.trial = self._trial = self._open = False
            self._in_row = self._tolerance.in_row - 1
            self._window.clear()

    def succeeded(self, attempt: Attempt, now: float) -> None:
        self.alive(attempt)
        if attempt.generation == self._generation:
            self._in_row = self._pauses = 0
            self._window.append((now, False))

    def failed(
        self, attempt: Attempt, now: float, *, spare: bool, retry_after: float | None = None
    ) -> bool:
        """The request failed. Returns whether that opened the breaker.

        Args:
            spare: enough other servers are left to eject one that fails only in part.
            retry_after: seconds for which the server asks to get no request.
        """
        if attempt.generation != self._generation:
            return False
        self._in_row += 1
        self._window.append((now, True))
        if attempt.trial or self._in_row >= self._tolerance.in_row or (spare and self._bad(now)):
            self._pause(now, retry_after)
            return True
        return False

    def dropped(self, attempt: Attempt) -> None:
        """The request was given up before the server answered or failed."""
        if attempt.trial and attempt.generation == self._generation:
            self._trial = False

    def _bad(self, now: float) -> bool:
        while self._window and self._window[0][0] < now - self._tolerance.window:
            self._window.popleft()
        count = len(self._window)
        failures = sum(failed for _, failed in self._window)
        return count >= self._tolerance.least and failures >= self._tolerance.share * count

    def _pause(self, now: float, retry_after: float | None) -> None:
        """Exponential, half of it drawn, so that the trials of many clients do not coincide.

        Full jitter could end a pause at once, which would lose a request to a dead server.
        """
        bound = min(self._tolerance.longest, self._tolerance.first * 2 ** min(self._pauses, 30))
        pause = self._draw.uniform(bound / 2, bound)
        self.until = now + max(pause, min(retry_after or 0.0, self._tolerance.longest))
        self._pauses += 1
        self._generation += 1
        self._open, self._trial = True, False
        self._in_row = 0
        self._window.clear()
