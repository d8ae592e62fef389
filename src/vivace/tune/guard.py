"""Is recall still what was promised? Some live questions are answered again exactly, in background.

`RecallGuard` is the bookkeeping: no searching, no threads, no clock of its own. `RecallWatch` feeds
it from a thread behind the answers.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from vivace.protocols import CandidateSource
from vivace.run.background import BackgroundExecutor
from vivace.run.work import Priority, work_context
from vivace.trace import Trace
from vivace.tune import metrics
from vivace.tune.measure import recalls
from vivace.tune.metrics import Recall
from vivace.types import Bitmap, Matches, Objective, Vectors

logger = logging.getLogger("vivace.tune")

WINDOW: Final = 300
"""The newest answers, on which the estimate rests."""
_LEAST: Final = 20
"""Answers after a start or a change before the guard gives a verdict."""
_ALARM: Final = 10_000.0
"""The least average number of answers before an index that meets the floor is suspected."""
_BETS: Final = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Shares of the capital that are bet on the floor being missed: small bets detect a small
shortfall, large bets detect a large one soon."""
_SAVED_UP: Final = 60.0
"""Seconds of process CPU whose share may be saved up; more would be spent in a burst."""
_EAGER: Final = 1.25
"""Factor by which the guard asks for more than its share, which still limits it, so that it does
not fall behind."""
_NEWEST: Final = 0.02
"""Weight of the newest figure in the running costs."""
MOST_WAITING: Final = 16
"""Questions that wait to be answered again; each keeps the snapshot it was asked in alive."""
FAILED: Final = "recall.failed"
LOST: Final = "recall.lost"


@dataclass(frozen=True, slots=True)
class RecallTicket:
    """A reservation to answer a live question again; hand it to `observe` or to `dropped`."""

    state: int
    reserved: float


class RecallGuard:
    """Recall on live questions within a share of the process's CPU. Any thread may call.

    The verdict is an e-detector: bets against "recall is at or above the floor" whose expected
    gain is zero as long as that is true, started again at every answer and summed (Shin, Ramdas and
    Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", 2023; the
    bets of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
    2024). However often it is evaluated, it suspects an index that meets the floor no sooner than
    after 10,000 answers on average, whatever the distribution. A question counts once within the
    window, because a repeated question carries no new evidence.
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
        """Args:
        cost: assumed CPU seconds of an exact answer until the first is measured.
        cpu: returns the CPU seconds of the process so far.
        """
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
        self._capital = np.zeros(len(_BETS))

    @property
    def state(self) -> int:
        """Grows with every `restart`; a ticket is valid only in the state that issued it."""
        return self._state

    @property
    def spent(self) -> float:
        """CPU seconds of all answers observed."""
        return self._spent

    def wants(self) -> RecallTicket | None:
        """A ticket if this live question should be answered again; call it once per question."""
        with self._lock:
            now = self._cpu()
            used, self._last = max(0.0, now - self._last), now
            self._each = used if self._each is None else self._each + _NEWEST * (used - self._each)
            most = max(self._share * _SAVED_UP, 2 * self._cost)
            self._credit = min(most, self._credit + self._share * used)
            if self._credit < self._cost:
                return None
            # at random, so that it is not always the question after an expensive one
            chance = _EAGER * self._share * self._each / self._cost
            if self._credit < most and self._random.random() >= chance:
                return None
            self._credit -= self._cost
            return RecallTicket(self._state, self._cost)

    def dropped(self, ticket: RecallTicket) -> None:
        """The question was not answered again."""
        with self._lock:
            self._credit += ticket.reserved

    def observe(
        self, ticket: RecallTicket, found: Matches, exact: Matches, cpu_seconds: float
    ) -> bool:
        """Record a question's answer (1, k) and the exact one; return whether the floor is missed.

        After such a verdict the evidence starts again from nothing. An answer from before the last
        `restart` only charges its CPU time.
        """
        with self._lock:
            self._credit += ticket.reserved - cpu_seconds
            self._spent += cpu_seconds
            self._cost += (cpu_seconds - self._cost) * (_NEWEST if self._answers else 1.0)
            if ticket.state != self._state or not (exact.ids >= 0).any():
                return False
            return self._record(float(recalls(found, exact)[0]), exact.ids.tobytes())

    def restart(self) -> None:
        """Discard the evidence: the plan, its effort or the searched rows have changed."""
        with self._lock:
            self._state += 1
            self._answers.clear()
            self._asked.clear()
            self._capital[:] = 0

    def estimate(self) -> Recall:
        """Recall over the window; repetitions of a question count as one observation."""
        with self._lock:
            answers = list(self._answers)
        values = np.array([recall for recall, _ in answers])
        return metrics.mean_recall(values, [question for _, question in answers])

    def _record(self, recall: float, question: bytes) -> bool:
        if len(self._answers) == self._answers.maxlen:
            oldest = self._answers[0][1]
            self._asked[oldest] -= 1
            if not self._asked[oldest]:
                del self._asked[oldest]
        repeated = question in self._asked
        self._answers.append((recall, question))
        self._asked[question] += 1
        if repeated:
            return False
        bets = np.array(_BETS) / (1 - self._floor)
        self._capital = (self._capital + 1) * (1 + bets * (self._floor - recall))
        if len(self._answers) < _LEAST or self._capital.mean() < _ALARM:
            return False
        self._capital[:] = 0
        return True


def raised(effort: int, efforts: tuple[int, int], seen: Recall, floor: float) -> int:
    """The effort after a verdict: doubled, or multiplied by how many times more is missed than
    allowed, 16 at most.

    Within the family's `efforts` (least, greatest); the greatest for 0, whose size is unknown.
    """
    greatest = efforts[1]
    if not effort:
        return greatest
    lacking = (1 - seen.mean) / max(1 - floor, 1e-3)
    return min(greatest, round(effort * min(16.0, max(2.0, lacking))))


@dataclass(frozen=True, slots=True)
class FloorMissed:
    """The recall that missed the floor, and how wide the searches were."""

    seen: Recall
    floor: float
    width: int
    """Neighbours that the searches asked the index for."""


OnFloorMissed: TypeAlias = Callable[[FloorMissed], None]


@dataclass(frozen=True, slots=True)
class _WaitingAnswer:
    guard: RecallGuard
    ticket: RecallTicket
    vector: Vectors
    found: Matches
    allow: Bitmap | None
    source: CandidateSource


class RecallWatch:
    """Called with every dense answer; feeds a `RecallGuard` from a thread of its own.

    On the answer's path it costs one random number. The thread has the lowest priority, so the
    exact answers use only idle CPU, and of that the guard's share.

    Args:
        make_guard: makes the guard of a floor.
        objective: gives the floor and the k to watch.
        missed: called on the thread when the guard reports that the floor is missed; exceptions are
            counted.
    """

    def __init__(
        self,
        make_guard: Callable[[float], RecallGuard],
        objective: Objective,
        trace: Trace,
        missed: OnFloorMissed,
    ) -> None:
        self._make_guard = make_guard
        self._objective = objective
        self._guard = make_guard(objective.recall)
        self._trace = trace
        self._missed = missed
        self._waiting: deque[_WaitingAnswer] = deque()
        self._changed = threading.Condition()
        self._executor = BackgroundExecutor("vivace-recall", threads=1)
        self._busy = self._closed = False
        self._paid = 0.0
        """CPU seconds of the thread that were charged to the guard."""

    def __call__(
        self, vector: Vectors, found: Matches, allow: Bitmap | None, source: CandidateSource
    ) -> None:
        """Record what `source.dense` found for one question (1, dim). Never blocks or raises."""
        guard = self._guard
        if not source.approximate or (ticket := guard.wants()) is None:
            return
        with self._changed:
            if self._closed or len(self._waiting) >= MOST_WAITING:
                guard.dropped(ticket)
                self._trace.count(LOST)
                return
            self._waiting.append(_WaitingAnswer(guard, ticket, vector, found, allow, source))
            if not self._busy:
                self._busy = True
                self._executor.submit(self._run)

    def estimate(self) -> Recall:
        """Recall of the newest questions that were answered again."""
        return self._guard.estimate()

    def restart(self, objective: Objective) -> None:
        """Start gathering evidence again: the rows, the plan or the objective have changed."""
        same, self._objective = objective == self._objective, objective
        if same:
            self._guard.restart()
        else:
            self._guard = self._make_guard(objective.recall)
        self._set_gauges()

    def drain(self) -> None:
        """Wait until every recorded question has been answered again."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._busy))

    def close(self) -> None:
        """Drop the waiting questions and stop the thread. Idempotent."""
        with self._changed:
            self._closed = True
            while self._waiting:
                left = self._waiting.popleft()
                left.guard.dropped(left.ticket)
            self._changed.wait_for(lambda: not self._busy)
        self._executor.close(wait=True)

    def _run(self) -> None:
        """Judge everything that waits."""
        while True:
            with self._changed:
                if not self._waiting:
                    self._busy = False
                    self._changed.notify_all()
                    return
                waiting = self._waiting.popleft()
            try:
                with work_context(Priority.BACKGROUND):
                    self._judge(waiting)
            except Exception as error:  # a failing check must not fail answers: counted and logged
                self._trace.count(FAILED)
                logger.warning("a question could not be answered again: %s", error)
            finally:
                del waiting  # or it would keep its snapshot alive until the next one

    def _judge(self, waiting: _WaitingAnswer) -> None:
        found, guard = waiting.found, waiting.guard
        k = min(self._objective.k, found.ids.shape[1])
        try:
            exact = waiting.source.exact(waiting.vector, k, allow=waiting.allow)
        except BaseException:
            guard.dropped(waiting.ticket)
            raise
        top = Matches(found.ids[:, :k], found.scores[:, :k])
        # everything this thread has done since counts, gauges and decisions included
        before, self._paid = self._paid, time.thread_time()
        missed = guard.observe(waiting.ticket, top, exact, self._paid - before)
        self._trace.count("recall.samples")
        self._trace.observe("recall", self._paid - before)
        self._set_gauges()
        if missed:
            floor = self._objective.recall
            self._missed(FloorMissed(guard.estimate(), floor, found.ids.shape[1]))

    def _set_gauges(self) -> None:
        seen = self._guard.estimate()
        self._trace.gauge("recall.mean", seen.mean)
        self._trace.gauge("recall.low", seen.low)
        self._trace.gauge("recall.high", seen.high)
        self._trace.gauge("recall.queries", seen.queries)
