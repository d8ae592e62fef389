"""Threads over one queue: what pools, process pools and micro-batchers have in common.

A thread that finds nothing to do sleeps on a lock of its own and is woken by whoever brings work,
the one that slept last first: its caches are warm, and those that have slept longest may rest.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeAlias

from vivace.errors import Closed
from vivace.run import work
from vivace.run.fair_queue import FairQueue, W
from vivace.run.threads import Cores, Holding
from vivace.run.work import Priority
from vivace.trace import Histogram

Mates: TypeAlias = Callable[[W, Iterator[W]], Sequence[W]]
"""Which of those that wait with its priority a worker takes together with an entry."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a crew has and did. An entry counts in one of queued to expired, always."""

    threads: int
    """The most there may be."""
    queued: Mapping[Priority, int]
    running: int
    done: int
    failed: int
    cancelled: int
    """Nobody wanted the result any more: not begun, or begun and dropped."""
    expired: int
    """Not begun: the deadline had passed."""
    batches: int
    """Picks: what ran together is one."""
    waited: Mapping[Priority, Histogram]
    """Seconds between arrival and beginning, of what began."""


class Worker(ABC, Generic[W]):
    """What one thread of a crew does its work with."""

    patience: float | None = None
    """Seconds without work after which it rests; None is never."""

    @abstractmethod
    def run(self, batch: list[W]) -> None:
        """Do it, and set `error` of what failed."""

    def rest(self) -> None:
        """There was no work for long: give back what costs."""

    def end(self) -> None:
        """The thread ends."""


class Turn(Enum):
    AGAIN = auto()
    SLEEP = auto()
    LEAVE = auto()


AGAIN, SLEEP, LEAVE = Turn  # an enumeration's own attributes are slow to look up


class Seat(Generic[W]):
    """A thread's place in the crew."""

    def __init__(self, worker: Worker[W]) -> None:
        self.worker = worker
        self.wake = threading.Lock()
        """Held while nobody has called."""
        self.wake.acquire()
        self.given: list[W] = []
        """What it is woken for, if it need not look for it."""
        self.batch: list[W] = []
        """What it does now, or has done and not yet delivered."""
        self.until: float | None = None
        """When it has to look again though nobody calls."""
        self.thread: threading.Thread | None = None


class Crew(Generic[W]):
    """At most `size` threads, each started when first needed.

    Args:
        worker: called on the thread that needs it.
        deliver: hands entries to their owners, with a result or an `error`; from any thread.
        mates: None where every entry is done alone.
        window: how many entries `mates` is shown.
        most: entries that may wait; None is no bound.
        cores: shared with other crews: a thread that is awake holds one.
        clock: monotonic seconds; deadlines are on it.
    """

    def __init__(
        self,
        name: str,
        size: int,
        worker: Callable[[], Worker[W]],
        deliver: Callable[[Sequence[W]], None],
        *,
        mates: Mates[W] | None = None,
        window: int = 0,
        most: int | None = None,
        cores: Cores | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._worker = worker
        self._deliver = deliver
        self._mates = mates
        self._window = window
        self._clock = clock
        self._cores = cores
        self._lock = threading.Lock()
        # Everything below is guarded by the lock.
        self._size = max(1, size)
        self._queue: FairQueue[W] = FairQueue(most)
        self._seats: list[Seat[W]] = []
        self._idle: list[Seat[W]] = []
        self._threads: set[threading.Thread] = set()
        self.closed = False
        self._running = self._done = self._failed = self._batches = 0
        self._cancelled = self._expired = 0
        self._waited = tuple(Histogram() for _ in Priority)
        self._at_once = [0] * len(Priority)
        """Entries that did not wait at all."""

    @property
    def size(self) -> int:
        return self._size

    def submit(self, entries: Sequence[W]) -> None:
        """Let them wait for their turn.

        Raises:
            Closed: the crew is closed.
            Overloaded: there is no room for all of them; none of them waits.
        """
        with self._lock:
            if self.closed:
                raise Closed(self.name)
            if self._idle and len(entries) == 1 and (seat := self._hand(entries[0])):
                called: Sequence[Seat[W]] = (seat,)
            else:
                called = self._enqueue(entries)
        self._wake(called)

    def withdraw(self, entries: Sequence[W]) -> list[W]:
        """Take back what has not begun; returns what that was. It is not delivered."""
        with self._lock:
            found = [entry for entry in entries if self._queue.remove(entry)]
            self._cancelled += len(found)
        return found

    def resize(self, size: int) -> None:
        """At most so many threads, at least 1. Those that are too many end after what they do."""
        with self._lock:
            self._size = max(1, size)
            self._hire(len(self._queue))
            called = self._call(max(len(self._queue), len(self._seats) - self._size))
        self._wake(called)

    def bound(self, priority: Priority, workers: int | None) -> None:
        """At most so many threads do work of this priority or less urgent; None is no bound."""
        with self._lock:
            self._queue.bound(priority, workers)
            called = self._call(len(self._queue))
        self._wake(called)

    def statistics(self) -> Statistics:
        with self._lock:
            return Statistics(
                threads=self._size,
                queued=self._queue.waiting(),
                running=self._running,
                done=self._done,
                failed=self._failed,
                cancelled=self._cancelled,
                expired=self._expired,
                batches=self._batches,
                waited={priority: self._histogram(priority) for priority in Priority},
            )

    def close(self) -> None:
        """Fail what waits with `Closed`, and wait for what runs. Idempotent."""
        with self._lock:
            self.closed = True
            pending = self._queue.clear()
            self._cancelled += len(pending)
            threads = list(self._threads)
            called = self._call(len(self._idle))
        self._wake(called)
        for entry in pending:
            entry.error = Closed(self.name)
        if pending:
            self._deliver(pending)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    # -- with the lock held -------------------------------------------------------------------

    def _hand(self, entry: W) -> Seat[W] | None:
        """Give it to a thread that sleeps, if it need not wait at all.

        Halves what a hop costs: the thread has nothing to look for.
        """
        deadline, priority = entry.work.deadline, entry.work.priority
        if self._cores is not None and not self._cores.free:
            return None  # a thread that has a core may come to it sooner
        if not self._queue.begin(priority):
            return None
        if deadline is not None and deadline <= self._clock():
            self._queue.finished(priority)
            return None
        self._at_once[priority] += 1
        self._batches += 1
        self._running += 1
        seat = self._idle.pop()
        seat.given = [entry]
        return seat

    def _histogram(self, priority: Priority) -> Histogram:
        histogram, at_once = self._waited[priority].copy(), self._at_once[priority]
        histogram.merge(Histogram(Counter({0: at_once} if at_once else {}), at_once))
        return histogram

    def _enqueue(self, entries: Sequence[W]) -> Sequence[Seat[W]]:
        """Let them wait, and say whom to wake."""
        now = self._clock()
        self._hire(len(self._queue) + len(entries))
        for number, entry in enumerate(entries):
            try:
                self._queue.put(entry, now)
            except BaseException:
                for waiting in entries[:number]:
                    self._queue.remove(waiting)
                raise
        return self._call(len(entries))

    def _hire(self, wanted: int) -> None:
        """Start threads for what waits and will wait, as far as none is idle for it."""
        while len(self._seats) < self._size and wanted > len(self._idle):
            seat = Seat(self._worker())
            try:
                self._start(seat)
            except RuntimeError:  # the system has no thread left
                if not self._seats:
                    raise
                return
            self._seats.append(seat)
            wanted -= 1

    def _start(self, seat: Seat[W]) -> None:
        name = f"{self.name}-{len(self._seats)}"
        thread = seat.thread = threading.Thread(
            target=self._work, args=(seat,), name=name, daemon=True
        )
        thread.start()
        self._threads.add(thread)

    def _call(self, most: int) -> list[Seat[W]]:
        """Whom to wake once the lock is free."""
        return [self._idle.pop() for _ in range(min(most, len(self._idle)))]

    def _take(self, now: float) -> list[W]:
        """What one worker does next, together."""
        head = self._queue.pick()
        if head is None:
            return []
        batch = [head]
        if self._mates is not None:
            batch += self._mates(head, self._queue.alike(head, self._window))
            for mate in batch[1:]:
                self._queue.remove(mate)
        waited = self._waited[head.work.priority]
        for entry in batch:
            waited.add(now - entry.arrived)
        self._batches += 1
        self._running += len(batch)
        return batch

    def _finish(self, batch: Sequence[W]) -> None:
        self._queue.finished(batch[0].work.priority)
        self._running -= len(batch)
        for entry in batch:
            if entry.unwanted:
                self._cancelled += 1
            elif entry.error is not None:
                self._failed += 1
            else:
                self._done += 1

    def _wake(self, seats: Sequence[Seat[W]]) -> None:
        """Without the lock, so that they need not wait for it."""
        cores = self._cores
        for seat in seats:
            if cores is None:
                seat.wake.release()
            else:
                cores.grant(seat.wake)

    # -- on a thread of the crew --------------------------------------------------------------

    def _work(self, seat: Seat[W]) -> None:
        core = Holding(self._cores)
        core.take()
        try:
            while (turn := self.turn(seat)) is not LEAVE:
                if turn is SLEEP:
                    core.give()
                    if self._sleep(seat):
                        core.granted()
                    else:
                        core.take()
                else:
                    core.give_way()
        except BaseException as error:
            for entry in seat.batch:
                entry.error = entry.error or error
            raise
        finally:
            core.give()
            seat.worker.end()
            self._left(seat)

    def turn(self, seat: Seat[W]) -> Turn:
        """Deliver what the last turn did, and do what is next.

        The lock is taken once, and before the delivery: the thread it wakes then finds this one
        ready for more. All in a frame of its own: who sleeps keeps nothing alive.
        """
        if seat.given:
            seat.batch, seat.given = seat.given, []
            if not seat.batch[0].unwanted:  # while it woke up
                seat.worker.run(seat.batch)
        done, seat.batch = seat.batch, []
        with self._lock:
            if done:
                self._finish(done)
            turn, late = self._next(seat)
            # Who was called may find that others have taken what it was called for; and what was
            # barred may be so no longer. So that nobody sleeps while there is work for them:
            more = turn is not SLEEP and self._idle and self._queue.ready()
            called = self._call(1) if more else ()
        if called:
            self._wake(called)
        if done:
            self._deliver(done)
        if late:
            for entry in late:
                entry.error = work.too_late(self.name)
            self._deliver(late)
        if seat.batch:
            seat.worker.run(seat.batch)
        return turn

    def _next(self, seat: Seat[W]) -> tuple[Turn, Sequence[W]]:
        """What the thread does, and what has become too late. The lock is held."""
        if self.closed or len(self._seats) > self._size:
            self._seats.remove(seat)
            return LEAVE, ()
        if not self._queue:
            seat.until = None
            self._idle.append(seat)
            return SLEEP, ()
        now = self._clock()
        late = self._queue.expire(now)
        self._expired += len(late)
        seat.batch = self._take(now)
        if late or seat.batch:
            return AGAIN, late
        seat.until = self._queue.next_deadline()
        self._idle.append(seat)
        return SLEEP, ()

    def _left(self, seat: Seat[W]) -> None:
        """The thread ends: it was one too many, the crew is closed, or its worker raised."""
        undone, seat.batch = seat.batch, []
        with self._lock:
            if undone:
                self._finish(undone)
            if seat in self._seats:
                self._seats.remove(seat)
            if seat.thread is not None:
                self._threads.discard(seat.thread)
            if not self.closed:
                self._hire(len(self._queue))
        if undone:
            self._deliver(undone)

    def _sleep(self, seat: Seat[W]) -> bool:
        """Until somebody calls (True), it is time to look again, or to rest."""
        patience = seat.worker.patience
        if patience is None and seat.until is None:
            return seat.wake.acquire()
        pause = -1.0 if patience is None else patience
        if seat.until is not None:
            until = max(0.0, seat.until - self._clock())
            pause = until if patience is None else min(until, patience)
        if seat.wake.acquire(timeout=pause):
            return True
        with self._lock:
            called = seat not in self._idle
            with suppress(ValueError):
                self._idle.remove(seat)
        if called:
            return seat.wake.acquire()  # it is on its way
        if pause == patience:
            seat.worker.rest()
        return False
