"""May this server be asked? Closed: yes. Open: no. Half-open: by one trial at a time.

A circuit breaker (Nygard, "Release It!", 2007) without a clock or randomness of its own. It opens
after some failures in a row, and after a share of failures where others can do the work instead.
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
    """The pause is over and a trial may begin, or has begun."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a server may do wrong before it is ejected, and for how long. Times are in seconds."""

    in_row: int = 5
    """Failures without a success between them that eject, whatever the others do."""
    share: float = 0.5
    """Of failures among the outcomes of the window that ejects, where others are left."""
    window: float = 30.0
    least: int = 10
    """Outcomes in the window before their share says anything."""
    most: int = 100
    """Outcomes that the window keeps."""
    first: float = 1.0
    """The first pause; it doubles with each trial that fails."""
    longest: float = 30.0


@dataclass(slots=True)
class Attempt:
    """One request, as the breaker knows it."""

    trial: bool
    generation: int


class Breaker:
    """Of one server. `now` is of any monotonic clock, always the same one."""

    def __init__(self, tolerance: Tolerance, draw: random.Random) -> None:
        self._tolerance = tolerance
        self._draw = draw
        self._open = False
        self._trial = False
        self._in_row = 0
        self._pauses = 0
        """In a row: a whole success ends it."""
        self._generation = 0
        """Grows by opening. What a request of an older one comes to says nothing of today."""
        self._window: deque[tuple[float, bool]] = deque(maxlen=tolerance.most)
        self.until = 0.0
        """While it is open: when the pause ends."""

    def state(self, now: float) -> BreakerState:
        if not self._open:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if now >= self.until else BreakerState.OPEN

    def admits(self, now: float) -> bool:
        return not self._open or (now >= self.until and not self._trial)

    def begin(self) -> Attempt:
        """A request goes to the server, which `admits` has allowed."""
        self._trial = trial = self._open
        return Attempt(trial, self._generation)

    def alive(self, one: Attempt) -> None:
        """The server has begun to answer. A trial that comes so far closes the breaker.

        What follows may take minutes, for which nobody shall wait. But the next failure opens it
        again, unless a whole success came before.
        """
        if one.trial and one.generation == self._generation:
            one.trial = self._trial = self._open = False
            self._in_row = self._tolerance.in_row - 1
            self._window.clear()

    def succeeded(self, one: Attempt, now: float) -> None:
        self.alive(one)
        if one.generation == self._generation:
            self._in_row = self._pauses = 0
            self._window.append((now, False))

    def failed(self, one: Attempt, now: float, *, spare: bool, told: float | None = None) -> bool:
        """Whether that opened it.

        Args:
            spare: others are left, so that a server that fails only in part can be done without.
            told: seconds that the server asks to be left alone for.
        """
        if one.generation != self._generation:
            return False
        self._in_row += 1
        self._window.append((now, True))
        if one.trial or self._in_row >= self._tolerance.in_row or (spare and self._bad(now)):
            self._pause(now, told)
            return True
        return False

    def dropped(self, one: Attempt) -> None:
        """The request was given up before it said anything of the server."""
        if one.trial and one.generation == self._generation:
            self._trial = False

    def _bad(self, now: float) -> bool:
        while self._window and self._window[0][0] < now - self._tolerance.window:
            self._window.popleft()
        count = len(self._window)
        failures = sum(failed for _, failed in self._window)
        return count >= self._tolerance.least and failures >= self._tolerance.share * count

    def _pause(self, now: float, told: float | None) -> None:
        """Exponential, of which half is drawn: the trials of many clients shall not coincide.

        Full jitter could end a pause at once; here that would be a request lost to a dead server.
        """
        bound = min(self._tolerance.longest, self._tolerance.first * 2 ** min(self._pauses, 30))
        pause = self._draw.uniform(bound / 2, bound)
        self.until = now + max(pause, min(told or 0.0, self._tolerance.longest))
        self._pauses += 1
        self._generation += 1
        self._open, self._trial = True, False
        self._in_row = 0
        self._window.clear()
