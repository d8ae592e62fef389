"""Is recall still what it was promised to be? The bookkeeping of answering live questions again.

No searching and no clock of its own: whoever searches asks `wants`, answers the question again
exactly at low priority, and tells `observe` what both found.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vivace.tune import intervals
from vivace.tune.intervals import Recall
from vivace.tune.measure import recalls
from vivace.types import Matches

WINDOW = 300
"""Answers the estimate rests on, the newest."""
_LEAST = 20
"""Answers after a start or a change before anything is said of the floor."""
_ALARM = 10_000.0
"""Answers that pass on average, or more, before an index which keeps the floor is suspected."""
_BETS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Shares of what is held that are put on the floor being missed: small ones find out a small
lack, great ones a great lack soon."""
_SAVED_UP = 60.0
"""Seconds of process CPU whose share may be saved up for later; more would be a burst."""
_EAGER = 1.25
"""Wants so much more than its share allows, which is kept all the same, lest it falls behind."""
_NEWEST = 0.02
"""Weight of the newest figure in the running costs."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A live question to be answered again. Give it back to `observe` or to `dropped`."""

    state: int
    reserved: float


class RecallGuard:
    """Recall on live questions within a share of the process's CPU. Any thread may call.

    The verdict is an e-detector: bets against "recall is at or above the floor" whose expected
    gain is none as long as that is true, begun anew at every answer and added up (Shin, Ramdas and
    Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", 2023; the
    bets of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
    2024). However often one looks, a floor that is kept is suspected no sooner than after 10,000
    answers on average, whatever the distribution. A question counts once within the window: one
    that is asked again and again tells nothing new.
    """

    def __init__(
        self,
        floor: float,
        *,
        share: float = 0.02,
        window: int = WINDOW,
        cost: float = 0.01,
        cpu: Callable[[], float] = time.process_time,
        seed: int = 0,
    ) -> None:
        """`cost`: CPU seconds an exact answer is taken to need before the first was measured;
        `cpu`: CPU seconds of the process so far."""
        self._floor = min(floor, 0.999)
        self._share = share
        self._cost = cost
        self._cpu = cpu
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._credit = 0.0
        self._spent = 0.0
        self._last = cpu()
        self._each: float | None = None
        self._state = 0
        self._answers: deque[tuple[float, bytes]] = deque(maxlen=window)
        self._asked: Counter[bytes] = Counter()
        self._held = np.zeros(len(_BETS))

    @property
    def floor(self) -> float:
        return self._floor

    @property
    def state(self) -> int:
        """Grows with every `restart`; a ticket is good for the one it was given in."""
        return self._state

    @property
    def spent(self) -> float:
        """CPU seconds of all answers observed."""
        return self._spent

    def wants(self) -> Ticket | None:
        """Whether this live question is to be answered again; call it once for each."""
        with self._lock:
            now = self._cpu()
            used, self._last = max(0.0, now - self._last), now
            self._each = used if self._each is None else self._each + _NEWEST * (used - self._each)
            most = max(self._share * _SAVED_UP, 2 * self._cost)
            self._credit = min(most, self._credit + self._share * used)
            if self._credit < self._cost:
                return None
            # by chance, so that it is not always the question after a dear one
            chance = _EAGER * self._share * self._each / self._cost
            if self._credit < most and self._random.random() >= chance:
                return None
            self._credit -= self._cost
            return Ticket(self._state, self._cost)

    def dropped(self, ticket: Ticket) -> None:
        """The question was not answered again."""
        with self._lock:
            self._credit += ticket.reserved

    def observe(self, ticket: Ticket, found: Matches, exact: Matches, cpu_seconds: float) -> bool:
        """Take in one question's answer (1, k) and the exact one; whether the floor is missed.

        Once it said so it begins to gather evidence anew. An answer from before the last
        `restart` only pays.
        """
        with self._lock:
            self._credit += ticket.reserved - cpu_seconds
            self._spent += cpu_seconds
            self._cost += (cpu_seconds - self._cost) * (_NEWEST if self._answers else 1.0)
            if ticket.state != self._state or not (exact.ids >= 0).any():
                return False
            return self._taken(float(recalls(found, exact)[0]), exact.ids.tobytes())

    def restart(self) -> None:
        """The plan, its effort or what is searched has changed: what was seen says nothing now."""
        with self._lock:
            self._state += 1
            self._answers.clear()
            self._asked.clear()
            self._held[:] = 0

    def estimate(self) -> Recall:
        """Recall over the window, questions asked again counted as one observation."""
        with self._lock:
            answers = list(self._answers)
        values = np.array([recall for recall, _ in answers])
        return intervals.recall(values, [question for _, question in answers])

    def _taken(self, recall: float, question: bytes) -> bool:
        if len(self._answers) == self._answers.maxlen:
            oldest = self._answers[0][1]
            self._asked[oldest] -= 1
            if not self._asked[oldest]:
                del self._asked[oldest]
        again = question in self._asked
        self._answers.append((recall, question))
        self._asked[question] += 1
        if again:
            return False
        bets = np.array(_BETS) / (1 - self._floor)
        self._held = (self._held + 1) * (1 + bets * (self._floor - recall))
        if len(self._answers) < _LEAST or self._held.mean() < _ALARM:
            return False
        self._held[:] = 0
        return True


def raised(effort: int, efforts: tuple[int, int], seen: Recall, floor: float) -> int:
    """The effort after a verdict: twice, or as many times as more is missed than may be, up to 16.

    Within the family's `efforts`; the greatest for 0, whose size is unknown.
    """
    greatest = efforts[1]
    if not effort:
        return greatest
    lacking = (1 - seen.mean) / max(1 - floor, 1e-3)
    return min(greatest, round(effort * min(16.0, max(2.0, lacking))))
