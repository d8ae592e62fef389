"""Work that must not slow down questions: threads of lowered priority, and how much ingest at once.

A passage's forward pass takes 20 to 45 ms of a core and nothing inside the process can interrupt
it. The kernel can: a thread with nice value 19 has 15 parts of the processor where a plain one has
1,024, and one of the class SCHED_IDLE is taken off its core as soon as a plain one wakes. An
unprivileged process cannot take a nice value back, so such work has threads of its own. It uses
them only while questions arrive: a thread of lowered priority also yields to every other program
of the machine. `docs/decisions/0017` has the measurements.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Final, Generic, TypeVar, TypeVarTuple

from vivace.run import work
from vivace.run.microbatch import MicroBatcher
from vivace.run.threads import Cores
from vivace.run.work import Priority
from vivace.run.workers import WorkerStatistics

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

NICE: Final = 19
"""Nice value of a thread of lowered priority: the least share of the processor there is."""
LOWERED: Final = Priority.INGEST
"""Work of this priority or less urgent runs on threads of lowered priority."""
IDLE_SECONDS: Final = 2.0
"""Seconds without a question after which the foreground is idle."""
PIECE: Final = 32
"""Passages after which the batcher looks again whether questions arrive: a second of two cores."""
SWITCH_SECONDS: Final = 0.00002
"""Switch interval inside `short_switch_interval`."""

_this_thread = threading.local()


class ShortSwitchInterval:
    """While any thread is in the block, the interpreter switches threads at once, not every 5 ms.

    A search returns from native code some dozens of times, and beside a thread that never waits
    each return may cost it a whole switch interval. The interval belongs to the interpreter, so it
    is changed only while there is such work, and then restored.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(SWITCH_SECONDS, self._before))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                sys.setswitchinterval(self._before)


short_switch_interval: Final = ShortSwitchInterval()


def lower_priority() -> bool:
    """Give every plain thread of the machine precedence over this one, until it ends.

    Returns False, and changes nothing, where threads have no nice values (not Linux), or the system
    refuses.
    """
    if getattr(_this_thread, "lowered", False):
        return True
    if sys.platform != "linux":
        return False
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, NICE)
    except OSError:
        return False
    with suppress(OSError):  # it only shortens how long a plain thread waits when it wakes
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    _this_thread.lowered = True
    return True


class BackgroundExecutor:
    """Runs functions at normal priority while the foreground is idle, else at lowered priority.

    The threads of lowered priority are started when first needed and then reused: none can be
    raised again, and each may hold a database connection of its own.

    Args:
        name: of the threads of lowered priority.
        threads: of lowered priority, at most.
        foreground_idle: whether no question was asked lately; called when a function begins.
    """

    def __init__(
        self,
        name: str = "vivace-background",
        *,
        threads: int = 8,
        foreground_idle: Callable[[], bool] = lambda: True,
    ) -> None:
        self.foreground_idle = foreground_idle
        self._lowered = ThreadPoolExecutor(threads, name, initializer=lower_priority)

    def submit(self, function: Callable[[*Ts], R], *args: *Ts) -> Future[R]:
        """Run `function(*args)` at lowered priority, whether the foreground is idle or not."""
        return self._lowered.submit(function, *args)

    async def run(self, function: Callable[[*Ts], R], *args: *Ts) -> R:
        """`function(*args)` on another thread, in a copy of the caller's context."""
        if self.foreground_idle():
            return await asyncio.to_thread(function, *args)
        return await asyncio.wrap_future(self.submit(copy_context().run, function, *args))

    def call(self, function: Callable[[*Ts], R], *args: *Ts) -> R:
        """`function(*args)`, on the calling thread itself while the foreground is idle; blocks."""
        if self.foreground_idle():
            return function(*args)
        return self.submit(function, *args).result()

    def close(self, *, wait: bool = False) -> None:
        """End the threads after what was submitted. Idempotent.

        Args:
            wait: block until they have ended.
        """
        self._lowered.shutdown(wait=wait)


class BackgroundBatcher(Generic[T, R]):
    """Two micro-batchers over one function: ingest and background work have threads of their own.

    The arguments are `MicroBatcher`'s. While questions arrive, ingest and background work run at
    lowered priority, so no question waits for a passage's forward pass to end. They have one thread
    fewer than the questions, even when no question needs it: a passage evicts a question's data
    from the processor's caches, and taking it off its core costs time. `clock` is in monotonic
    seconds.

    Only plain threads hold `cores`: one of lowered priority would keep its core from the question
    to which the kernel gives precedence.
    """

    def __init__(
        self,
        function: Callable[[list[T]], Sequence[R]],
        *,
        workers: int,
        cap: int,
        size: Callable[[T], int] = lambda _: 0,
        budget: int | None = None,
        name: str = "vivace-batch",
        cores: Cores | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def lowered(items: list[T]) -> Sequence[R]:
            lower_priority()
            return function(items)

        self.plain: MicroBatcher[T, R] = MicroBatcher(
            function, workers=workers, cap=cap, size=size, budget=budget, name=name, cores=cores
        )
        self.lowered: MicroBatcher[T, R] = MicroBatcher(
            lowered,
            workers=_beside(workers),
            cap=cap,
            size=size,
            budget=budget,
            name=f"{name}-background",
        )
        self._clock = clock
        self._asked = clock() - IDLE_SECONDS

    async def run_many(self, items: Sequence[T]) -> list[R]:
        """The results in the order of the items, on threads for the priority of `work.current()`.

        Raises:
            Closed: the batcher is closed, or was before every item's turn came.
            Exception: whatever the function raised for an item alone.
        """
        if work.current().priority < LOWERED:
            self._asked = self._clock()
            return await self.plain.run_many(items)
        results: list[R] = []
        for at in range(0, len(items), PIECE):
            busy = self._clock() - self._asked < IDLE_SECONDS
            batcher = self.lowered if busy else self.plain
            results += await batcher.run_many(items[at : at + PIECE])
        return results

    def statistics(self) -> tuple[WorkerStatistics, WorkerStatistics]:
        """Of the plain threads, and of those of lowered priority."""
        return self.plain.statistics(), self.lowered.statistics()

    def resize(self, workers: int) -> None:
        """At most so many plain threads, at least 1."""
        self.plain.resize(workers)
        self.lowered.resize(_beside(workers))

    def bound(self, priority: Priority, workers: int | None) -> None:
        """At most so many threads of each kind do work of this priority or less urgent."""
        self.plain.bound(priority, workers)
        self.lowered.bound(priority, workers)

    def close(self) -> None:
        """Stop the threads after their running batch; fail what is queued. Idempotent, blocks."""
        self.plain.close()
        self.lowered.close()


def _beside(workers: int) -> int:
    """Threads of lowered priority beside so many plain ones."""
    return max(1, workers - 1)


class IngestThrottle:
    """How many chunks ingest processes at once: fewer while questions take longer than they need.

    Additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the Increase and
    Decrease Algorithms for Congestion Avoidance", 1989), one step a period in which questions were
    asked. The baseline of a question's latency is the least median of a period; it rises by one
    part in a hundred a period, so that a collection whose searches slow down as it grows is not
    mistaken for a busy one. Thread-safe.

    Args:
        most: chunks at once while the foreground is idle.
        least: chunks at once however slow questions become.
        clock: monotonic seconds.
    """

    PERIOD: Final = 0.5
    """Seconds."""
    SLOWER: Final = 1.3
    """Multiple of the baseline that questions may take."""
    FORGET: Final = 1.01

    def __init__(
        self, most: int, *, least: int = 32, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._least = min(least, most)
        self._clock = clock
        # Everything below is guarded by the lock.
        self._lock = threading.Lock()
        self._size = most
        self._baseline: float | None = None
        self._period: list[float] = []
        self._began = self._last = clock() - IDLE_SECONDS

    def observe(self, seconds: float) -> None:
        """Record the latency of an answered question."""
        with self._lock:
            now = self._clock()
            if now - self._last >= IDLE_SECONDS:
                self._reset(now)
            elif now - self._began >= self.PERIOD and self._period:
                self._step(now)
            self._last = now
            self._period.append(seconds)

    def foreground_idle(self) -> bool:
        """Whether no question was asked for `IDLE_SECONDS`."""
        with self._lock:
            return self._clock() - self._last >= IDLE_SECONDS

    def size(self) -> int:
        """Chunks to process at once now: from `least` to `most`."""
        with self._lock:
            now = self._clock()
            if now - self._last >= IDLE_SECONDS:
                self._reset(now)
            return self._size

    def _reset(self, now: float) -> None:
        self._size = self._most
        self._period.clear()
        self._began = now

    def _step(self, now: float) -> None:
        median = statistics.median(self._period)
        slow = self._baseline is not None and median > self.SLOWER * self._baseline
        if slow:
            self._size = max(self._least, self._size // 2)
        else:
            self._size = min(self._most, self._size + max(1, self._most // 8))
        known = median if self._baseline is None else self._baseline * self.FORGET
        self._baseline = min(known, median)
        self._period.clear()
        self._began = now
