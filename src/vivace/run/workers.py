"""Threads over one fair queue: the base of thread pools, process pools and micro-batchers.

A thread that finds nothing to do sleeps on a lock of its own. The caller that brings work wakes the
thread that fell asleep last: its caches are warm, and the others may sleep long enough to rest.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeAlias

from vivace.errors import Closed
from vivace.run import work
from vivace.run.fair_queue import FairQueue, W
from vivace.run.threads import CoreHold, Cores
from vivace.run.work import Priority

SelectBatch: TypeAlias = Callable[[W, Iterator[W]], Sequence[W]]
"""Given an item and others that wait with its priority, selects those to run together with it."""


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Every item counts in exactly one of queued to expired."""

    threads: int
    """The most there may be."""
    queued: Mapping[Priority, int]
    running: int
    done: int
    failed: int
    cancelled: int
    """Nobody wanted the result any more: the item did not begin, or its result was dropped."""
    expired: int
    """The deadline passed before the item began."""
    batches: int
    """Items that ran together count once."""


class NextStep(Enum):
    AGAIN = auto()
    SLEEP = auto()
    LEAVE = auto()


AGAIN, SLEEP, LEAVE = NextStep  # an enumeration's own attributes are slow to look up


class WorkerSlot(ABC, Generic[W]):
    """One thread's place among the workers, and what the thread does."""

    patience: float | None = None
    """Seconds without work after which it rests; None is never."""

    def __init__(self) -> None:
        self.wake = threading.Lock()
        """Released to wake the thread."""
        self.wake.acquire()
        self.assigned: list[W] = []
        """What the thread was woken for, where it need not look for work."""
        self.batch: list[W] = []
        """What it runs now, or has run and not yet delivered."""
        self.until: float | None = None
        """When it has to look for work again though nobody woke it."""
        self.thread: threading.Thread | None = None

    @abstractmethod
    def run(self, batch: list[W]) -> None:
        """Run the items and set the `error` of each that fails."""

    def rest(self) -> None:
        """Release what is expensive to keep: there was no work for `patience` seconds."""

    def end(self) -> None:
        """The thread ends."""


class Workers(Generic[W]):
    """At most `size` threads, each started when first needed.

    Args:
        slot: makes the slot of a thread.
        deliver: hands items to their owners, with a result or an `error`; called on any thread.
        select_batch: None where every item runs alone.
        window: how many items `select_batch` is given.
        cores: shared with other workers: a thread that is awake holds one.
        clock: monotonic seconds; deadlines are on it.
    """

    def __init__(
        self,
        name: str,
        size: int,
        slot: Callable[[], WorkerSlot[W]],
        deliver: Callable[[Sequence[W]], None],
        *,
        select_batch: SelectBatch[W] | None = None,
        window: int = 0,
        cores: Cores | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._slot = slot
        self._deliver = deliver
        self._select_batch = select_batch
        self._window = window
        self._clock = clock
        self._cores = cores
        self._lock = threading.Lock()
        # Everything below is guarded by the lock.
        self.size = max(1, size)
        self.queue: FairQueue[W] = FairQueue()
        self.slots: list[WorkerSlot[W]] = []
        self._idle: list[WorkerSlot[W]] = []
        self._threads: set[threading.Thread] = set()
        self.closed = False
        self._running = self._done = self._failed = self._batches = 0
        self._cancelled = self._expired = 0

    def enqueue(self, items: Sequence[W]) -> None:
        """Queue the items.

        Raises:
            Closed: the workers are closed.
        """
        with self._lock:
            if self.closed:
                raise Closed(self.name)
            if self._idle and len(items) == 1 and (slot := self._assign(items[0])):
                woken: Sequence[WorkerSlot[W]] = (slot,)
            else:
                woken = self._put(items)
        self._wake(woken)

    def withdraw(self, items: Sequence[W]) -> list[W]:
        """Take back the items that have not begun, and return them. They are not delivered."""
        with self._lock:
            found = [item for item in items if self.queue.remove(item)]
            self._cancelled += len(found)
        return found

    def resize(self, size: int) -> None:
        """At most so many threads, at least 1. A surplus thread ends after its batch."""
        with self._lock:
            self.size = max(1, size)
            self._hire(len(self.queue))
            woken = self._pop_idle(max(len(self.queue), len(self.slots) - self.size))
        self._wake(woken)

    def bound(self, priority: Priority, workers: int | None) -> None:
        """At most so many threads do work of this priority or less urgent; None is no bound."""
        with self._lock:
            self.queue.bound(priority, workers)
            woken = self._pop_idle(len(self.queue))
        self._wake(woken)

    def statistics(self) -> WorkerStatistics:
        with self._lock:
            return WorkerStatistics(
                threads=self.size,
                queued=self.queue.waiting(),
                running=self._running,
                done=self._done,
                failed=self._failed,
                cancelled=self._cancelled,
                expired=self._expired,
                batches=self._batches,
            )

    def close(self) -> None:
        """Fail what waits with `Closed`, and wait for what runs. Idempotent."""
        with self._lock:
            self.closed = True
            pending = self.queue.clear()
            self._cancelled += len(pending)
            threads = list(self._threads)
            woken = self._pop_idle(len(self._idle))
        self._wake(woken)
        for item in pending:
            item.error = Closed(self.name)
        if pending:
            self._deliver(pending)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    # -- with the lock held -------------------------------------------------------------------

    def _assign(self, item: W) -> WorkerSlot[W] | None:
        """Give the item to a sleeping thread, if it need not wait at all.

        This halves the cost of a hop: the thread has no work to look for.
        """
        deadline, priority = item.work.deadline, item.work.priority
        if self._cores is not None and not self._cores.free:
            return None  # a thread that has a core may come to it sooner
        if not self.queue.begin(priority):
            return None
        if deadline is not None and deadline <= self._clock():
            self.queue.finished(priority)
            return None
        self._batches += 1
        self._running += 1
        slot = self._idle.pop()
        slot.assigned = [item]
        return slot

    def _put(self, items: Sequence[W]) -> Sequence[WorkerSlot[W]]:
        """Queue the items; returns the threads to wake."""
        now = self._clock()
        self._hire(len(self.queue) + len(items))
        for item in items:
            self.queue.put(item, now)
        return self._pop_idle(len(items))

    def _hire(self, wanted: int) -> None:
        """Start threads for so many items, as far as no thread is idle for them."""
        while len(self.slots) < self.size and wanted > len(self._idle):
            slot = self._slot()
            try:
                self.start(slot)
            except RuntimeError:  # the system has no thread left
                if not self.slots:
                    raise
                return
            self.slots.append(slot)
            wanted -= 1

    def start(self, slot: WorkerSlot[W]) -> None:
        """Start the thread of a slot."""
        name = f"{self.name}-{len(self.slots)}"
        thread = slot.thread = threading.Thread(
            target=self.serve, args=(slot,), name=name, daemon=True
        )
        thread.start()
        self._threads.add(thread)

    def _pop_idle(self, most: int) -> list[WorkerSlot[W]]:
        """The threads to wake once the lock is free."""
        return [self._idle.pop() for _ in range(min(most, len(self._idle)))]

    def _take(self) -> list[W]:
        """What one worker runs next, together."""
        head = self.queue.pick()
        if head is None:
            return []
        batch = [head]
        if self._select_batch is not None:
            batch += self._select_batch(head, self.queue.alike(head, self._window))
            for item in batch[1:]:
                self.queue.remove(item)
        self._batches += 1
        self._running += len(batch)
        return batch

    def _finish(self, batch: Sequence[W]) -> None:
        self.queue.finished(batch[0].work.priority)
        self._running -= len(batch)
        for item in batch:
            if item.unwanted:
                self._cancelled += 1
            elif item.error is not None:
                self._failed += 1
            else:
                self._done += 1

    def _wake(self, slots: Sequence[WorkerSlot[W]]) -> None:
        """Without the lock, so that the woken threads need not wait for it."""
        cores = self._cores
        for slot in slots:
            if cores is None:
                slot.wake.release()
            else:
                cores.grant(slot.wake)

    # -- on a worker's thread -----------------------------------------------------------------

    def serve(self, slot: WorkerSlot[W]) -> None:
        """The whole life of a thread."""
        core = CoreHold(self._cores)
        core.take()
        try:
            while (step := self.turn(slot)) is not LEAVE:
                if step is SLEEP:
                    core.give()
                    if self._sleep(slot):
                        core.granted()
                    else:
                        core.take()
                else:
                    core.yield_if_due()
        except BaseException as error:
            for item in slot.batch:
                item.error = item.error or error
            raise
        finally:
            core.give()
            slot.end()
            self.ended(slot)

    def turn(self, slot: WorkerSlot[W]) -> NextStep:
        """Deliver what the last turn ran, and run what is next.

        The lock is taken once, and before the delivery: a caller that the delivery wakes finds this
        thread ready for more. All of it is in one frame: a thread that sleeps keeps nothing alive.
        """
        if slot.assigned:
            slot.batch, slot.assigned = slot.assigned, []
            if not slot.batch[0].unwanted:  # it may have been cancelled meanwhile
                slot.run(slot.batch)
        done, slot.batch = slot.batch, []
        with self._lock:
            if done:
                self._finish(done)
            step, late = self._next(slot)
            # Another thread may have taken what a thread was woken for; and a bound that barred
            # some work may have room again. So that nobody sleeps while there is work:
            more = step is not SLEEP and self._idle and self.queue.ready()
            woken = self._pop_idle(1) if more else ()
        if woken:
            self._wake(woken)
        if done:
            self._deliver(done)
        if late:
            for item in late:
                item.error = work.too_late(self.name)
            self._deliver(late)
        if slot.batch:
            slot.run(slot.batch)
        return step

    def _next(self, slot: WorkerSlot[W]) -> tuple[NextStep, Sequence[W]]:
        """What the thread does next, and the items that have expired. The lock is held."""
        if self.closed or len(self.slots) > self.size:
            self.slots.remove(slot)
            return LEAVE, ()
        if not self.queue:
            slot.until = None
            self._idle.append(slot)
            return SLEEP, ()
        now = self._clock()
        late = self.queue.expire(now)
        self._expired += len(late)
        slot.batch = self._take()
        if late or slot.batch:
            return AGAIN, late
        slot.until = self.queue.next_deadline()
        self._idle.append(slot)
        return SLEEP, ()

    def ended(self, slot: WorkerSlot[W]) -> None:
        """The thread ends: it was surplus, the workers are closed, or its worker raised."""
        undone, slot.batch = slot.batch, []
        with self._lock:
            if undone:
                self._finish(undone)
            if slot in self.slots:
                self.slots.remove(slot)
            if slot.thread is not None:
                self._threads.discard(slot.thread)
            if not self.closed:
                self._hire(len(self.queue))
        if undone:
            self._deliver(undone)

    def _sleep(self, slot: WorkerSlot[W]) -> bool:
        """Sleep until the thread is woken (True), has to look for work again, or rests."""
        patience = slot.patience
        if patience is None and slot.until is None:
            return slot.wake.acquire()
        pause = -1.0 if patience is None else patience
        if slot.until is not None:
            until = max(0.0, slot.until - self._clock())
            pause = until if patience is None else min(until, patience)
        if slot.wake.acquire(timeout=pause):
            return True
        if not self.rise(slot):
            return slot.wake.acquire()  # its release is on its way
        if pause == patience:
            slot.rest()
        return False

    def rise(self, slot: WorkerSlot[W]) -> bool:
        """Leave the sleeping threads by itself; False where a caller is waking it right now."""
        with self._lock, suppress(ValueError):
            self._idle.remove(slot)
            return True
        return False
