"""Work that gives way to questions: in the kernel's order, and in how much is done at once.

A forward pass of a passage takes 20 to 45 ms of a core and cannot be interrupted from inside the
process. The kernel can: a thread with nice value 19 has 15 parts of the processor where a plain one
has 1,024; one of the class SCHED_IDLE is taken off the core as soon as any other wakes, where the
former may keep it for some milliseconds. An unprivileged process cannot take a
nice value back, so yielding work has threads of its own. It is on them only while questions come:
a thread that has stepped back gives way to every other program of the machine as well.
`docs/decisions/0017` has the measurement.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Generic, ParamSpec, TypeVar

from vivace.run import work
from vivace.run.microbatch import MicroBatcher
from vivace.run.threads import Cores
from vivace.run.work import Priority
from vivace.run.workers import WorkerStatistics

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

NICE: Final = 19
"""The value of a thread that has stepped back: the lowest share that is not none."""
YIELDS: Final = Priority.INGEST
"""Work of this priority or less urgent steps back."""
IDLE_SECONDS: Final = 2.0
"""Seconds without a question after which nothing gives way any more."""
PIECE: Final = 32
"""Passages after which it is looked again whether questions come: a second of two cores."""
SWITCH_SECONDS: Final = 0.00002
"""Switch interval inside `short_switch_interval`."""

_stepped = threading.local()


class ShortSwitchInterval:
    """While anybody is inside, Python's threads take turns at once, not every five milliseconds.

    A search comes back from native code some dozens of times, and beside a thread that never waits
    each time may cost it a whole turn. The interval is the interpreter's own, so it is changed only
    while there is such work, and then set to what it was.
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
    """Let every plain thread of the machine go before this one, from now to its end.

    Returns False, and changes nothing, where nice values are not a thread's own (not Linux), or the
    system refuses.
    """
    if getattr(_stepped, "back", False):
        return True
    if sys.platform != "linux":
        return False
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, NICE)
    except OSError:
        return False
    with suppress(OSError):  # it only makes who wakes wait less
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    _stepped.back = True
    return True


def stepping_back(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose thread steps back before it begins: for threads that do nothing else."""

    def stepped(*args: P.args, **kwargs: P.kwargs) -> R:
        lower_priority()
        return function(*args, **kwargs)

    return stepped


async def aside(function: Callable[[], T], *, quiet: bool) -> T:
    """`function()` on a thread of its own, which gives way unless it is quiet."""
    thread = ThreadPoolExecutor(1, "vivace-aside", initializer=None if quiet else lower_priority)
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, function)
    finally:
        thread.shutdown(wait=False)


class BackgroundBatcher(Generic[T, R]):
    """Two micro-batchers over one function: ingest and background on threads that give way.

    The arguments are `MicroBatcher`'s. While questions come, none waits for a passage's forward
    pass to end, and passages have every core but one, also when no question wants that one: a
    passage takes its caches and its time to be taken off it. `clock` is in monotonic seconds.

    `cores` are held by the plain threads alone: one that has stepped back would keep its core from
    the question that the kernel lets go before it.
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
        self.plain: MicroBatcher[T, R] = MicroBatcher(
            function, workers=workers, cap=cap, size=size, budget=budget, name=name, cores=cores
        )
        self.yielding: MicroBatcher[T, R] = MicroBatcher(
            stepping_back(function),
            workers=_beside(workers),
            cap=cap,
            size=size,
            budget=budget,
            name=f"{name}-yielding",
        )
        self._clock = clock
        self._asked = clock() - IDLE_SECONDS

    async def run_many(self, items: Sequence[T]) -> list[R]:
        """The results in the order of the items, on the threads that `work.current()` belongs to.

        Raises:
            Closed: the batcher is closed, or was before every item's turn came.
            Exception: whatever the function raised for an item alone.
        """
        if work.current().priority < YIELDS:
            self._asked = self._clock()
            return await self.plain.run_many(items)
        results: list[R] = []
        for at in range(0, len(items), PIECE):
            asked = self._clock() - self._asked < IDLE_SECONDS
            batcher = self.yielding if asked else self.plain
            results += await batcher.run_many(items[at : at + PIECE])
        return results

    def statistics(self) -> tuple[WorkerStatistics, WorkerStatistics]:
        """Of the plain threads, and of those that give way."""
        return self.plain.statistics(), self.yielding.statistics()

    def resize(self, workers: int) -> None:
        """So many plain threads at most, at least 1."""
        self.plain.resize(workers)
        self.yielding.resize(_beside(workers))

    def bound(self, priority: Priority, workers: int | None) -> None:
        """At most so many threads of each kind do work of this priority or less urgent."""
        self.plain.bound(priority, workers)
        self.yielding.bound(priority, workers)

    def close(self) -> None:
        """Stop the threads after their running batch; fail what is queued. Idempotent, blocks."""
        self.plain.close()
        self.yielding.close()


def _beside(workers: int) -> int:
    """Threads that step back, where there are so many plain ones."""
    return max(1, workers - 1)


class IngestThrottle:
    """How much ingest does at once: less while questions take longer than they have to.

    Additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the Increase and
    Decrease Algorithms for Congestion Avoidance", 1989), one step a period in which questions came.
    What a question has to take is the least median of a period, which is forgotten by one part in a
    hundred a period, so that a collection that grows slower is not taken for a busy one. Safe from
    any thread.

    Args:
        most: done at once when nobody asks.
        least: done at once, however slow questions become.
        clock: monotonic seconds.
    """

    PERIOD: Final = 0.5
    """Seconds."""
    SLOWER: Final = 1.3
    """Times the baseline that questions may take."""
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
        """A question was answered and took so long."""
        with self._lock:
            now = self._clock()
            if now - self._last >= IDLE_SECONDS:
                self._rest(now)
            elif now - self._began >= self.PERIOD and self._period:
                self._step(now)
            self._last = now
            self._period.append(seconds)

    @property
    def quiet(self) -> bool:
        """Whether nobody has asked anything for some seconds."""
        with self._lock:
            return self._clock() - self._last >= IDLE_SECONDS

    def size(self) -> int:
        """How much to do at once now: from `least` to `most`."""
        with self._lock:
            now = self._clock()
            if now - self._last >= IDLE_SECONDS:
                self._rest(now)
            return self._size

    def _rest(self, now: float) -> None:
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
