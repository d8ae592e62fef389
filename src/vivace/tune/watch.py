"""Watching the recall of live questions: some are answered again exactly, behind their answers."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from vivace.protocols import CandidateSource
from vivace.run.background import lower_priority
from vivace.run.work import Priority, work_context
from vivace.trace import Trace
from vivace.tune.guard import RecallGuard, Ticket
from vivace.tune.intervals import Recall
from vivace.types import Bitmap, Matches, Objective, Vectors

logger = logging.getLogger("vivace.tune")
_MOST_WAITING: Final = 16
"""Questions; each keeps the state it was asked in alive."""
FAILED: Final = "recall.failed"
LOST: Final = "recall.lost"


@dataclass(frozen=True, slots=True)
class Missed:
    """The floor was missed: by how much, and how wide was searched."""

    seen: Recall
    floor: float
    width: int
    """How many neighbours the questions asked the index for."""


OnMissed: TypeAlias = Callable[[Missed], None]


@dataclass(frozen=True, slots=True)
class _Question:
    guard: RecallGuard
    ticket: Ticket
    vector: Vectors
    found: Matches
    allow: Bitmap | None
    source: CandidateSource


class RecallWatch:
    """Called with every dense answer; feeds a `RecallGuard` from a thread of its own.

    On the answer's path it costs a random number. The thread gives way to every other, so the
    exact answers take what is left of the machine, and of that the guard's share.

    Args:
        guarding: makes the guard of a floor.
        objective: whose floor and k are watched.
        missed: called on that thread when the guard says that the floor is missed. What it raises
            is counted.
    """

    def __init__(
        self,
        guarding: Callable[[float], RecallGuard],
        objective: Objective,
        trace: Trace,
        missed: OnMissed,
    ) -> None:
        self._guarding = guarding
        self._objective = objective
        self._guard = guarding(objective.recall)
        self._trace = trace
        self._missed = missed
        self._waiting: deque[_Question] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = self._closed = False
        self._paid = 0.0
        """CPU seconds of the thread that the guards know of."""

    def __call__(
        self, vector: Vectors, found: Matches, allow: Bitmap | None, source: CandidateSource
    ) -> None:
        """Take in what `source.dense` found for one question (1, dim). Never waits or raises."""
        guard = self._guard
        if not source.approximate or (ticket := guard.wants()) is None:
            return
        with self._changed:
            if self._closed or len(self._waiting) >= _MOST_WAITING:
                guard.dropped(ticket)
                self._trace.count(LOST)
                return
            self._waiting.append(_Question(guard, ticket, vector, found, allow, source))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vivace-recall", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def estimate(self) -> Recall:
        """Recall of the newest questions that were answered again."""
        return self._guard.estimate()

    def restart(self, objective: Objective) -> None:
        """What is searched, or how, or what for, has changed: gather evidence anew."""
        same, self._objective = objective == self._objective, objective
        if same:
            self._guard.restart()
        else:
            self._guard = self._guarding(objective.recall)
        self._tell()

    def drain(self) -> None:
        """Wait until every question that was taken in has been answered again."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._busy))

    def close(self) -> None:
        """Leave what waits and stop. Idempotent."""
        with self._changed:
            self._closed = True
            while self._waiting:
                left = self._waiting.popleft()
                left.guard.dropped(left.ticket)
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        lower_priority()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                question, self._busy = self._waiting.popleft(), True
            try:
                with work_context(Priority.BACKGROUND):
                    self._judge(question)
            except Exception as error:  # a guard must not end what it guards; counted and told
                self._trace.count(FAILED)
                logger.warning("a question could not be answered again: %s", error)
            finally:
                del question  # or it would keep its state alive until the next one
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _judge(self, question: _Question) -> None:
        found, guard = question.found, question.guard
        k = min(self._objective.k, found.ids.shape[1])
        try:
            exact = question.source.exact(question.vector, k, allow=question.allow)
        except BaseException:
            guard.dropped(question.ticket)
            raise
        top = Matches(found.ids[:, :k], found.scores[:, :k])
        # all that this thread has done since: what is told and decided is paid for as well
        before, self._paid = self._paid, time.thread_time()
        missed = guard.observe(question.ticket, top, exact, self._paid - before)
        self._trace.count("recall.samples")
        self._trace.observe("recall", self._paid - before)
        self._tell()
        if missed:
            floor = self._objective.recall
            self._missed(Missed(guard.estimate(), floor, found.ids.shape[1]))

    def _tell(self) -> None:
        """As gauges."""
        seen = self._guard.estimate()
        self._trace.gauge("recall.mean", seen.mean)
        self._trace.gauge("recall.low", seen.low)
        self._trace.gauge("recall.high", seen.high)
        self._trace.gauge("recall.queries", seen.queries)
