"""Single calls for their callers, batches for the function.

A batch is made of a backlog only and never waited for: a worker that is free takes what is there.
Measured with 64 callers on two cores, two single-threaded workers that pick at most 8 texts of
nearest length answer 931 a second, one two-threaded worker with big batches 639.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from vivace.errors import Closed, VivaceError

T = TypeVar("T")
R = TypeVar("R")

WINDOW = 256
"""Queued items among which a batch's mates are looked for: picking stays cheap however long the
queue."""
FEED = 1024
"""Most items of one call in the queue: four windows, so that no worker ever waits for the feed."""
LOWER_EVERY = 8
"""Every eighth pick goes to a lower priority, so that ingest never starves under steady queries."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """`queued` counts items whose caller has gone until a worker passes over them."""

    queued: int
    running: int
    batches: int
    items: int
    failed: int
    cancelled: int


class _Call(Generic[T, R]):
    """One `run_many`. Only its event loop's thread touches it, but for reading `future.done()`."""

    def __init__(self, items: Sequence[T], sizes: Sequence[int], priority: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.priority = priority
        self.results: list[Any] = [None] * len(items)
        self.left = len(items)
        # Longest first: neighbours in the queue are of even length, and the last batch is short.
        order = sorted(range(len(items)), key=sizes.__getitem__, reverse=True)
        self.feed: Iterator[_Entry[T, R]] = (
            _Entry(self, index, items[index], sizes[index]) for index in order
        )

    def accept(self, index: int, result: R | None, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
            return
        self.results[index] = result
        self.left -= 1
        if not self.left:
            self.future.set_result(None)


@dataclass(slots=True, eq=False)
class _Entry(Generic[T, R]):
    call: _Call[T, R]
    index: int
    item: T
    size: int
    number: int = 0
    """Order of arrival."""
    result: R | None = None
    error: BaseException | None = None

    @property
    def unwanted(self) -> bool:
        """Nobody waits for it: cancelled, or another item of its call has failed."""
        return self.call.future.done()


class MicroBatcher(Generic[T, R]):
    """Turns a synchronous batch function into an asynchronous call of one item.

    `function` gets 1 to `cap` items of one priority and gives as many results in their order; it
    runs on `workers` threads at once and should release the GIL. `size` says which items are
    alike; `budget` bounds a batch's number of items times its largest size, so that one batch
    never holds a worker for long. Usable from any number of event loops.
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
    ) -> None:
        self._function = function
        self._cap = cap
        self._size = size
        self._budget = budget
        self._name = name
        # Everything below is guarded by this lock.
        self._wake = threading.Condition()
        self._queues: dict[int, deque[_Entry[T, R]]] = {}
        self._closed = False
        self._arrivals = self._picks = 0
        self._running = self._batches = self._items = self._failed = self._cancelled = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, item: T, *, priority: int = 0) -> R:
        """The function's result for one item. The lowest priority number runs first.

        Raises:
            Closed: the batcher is closed, or was before the item's turn came.
            Exception: whatever the function raised for this item alone.
        """
        return (await self.run_many([item], priority=priority))[0]

    async def run_many(self, items: Sequence[T], *, priority: int = 0) -> list[R]:
        """The results in the order of the items. The first failing item fails the call.

        Raises:
            Closed: the batcher is closed, or was before every item's turn came.
            Exception: whatever the function raised for an item alone.
        """
        if not items:
            return []
        call: _Call[T, R] = _Call(items, [self._size(item) for item in items], priority)
        self._put(call, FEED)
        await call.future
        return call.results

    def statistics(self) -> Statistics:
        with self._wake:
            return Statistics(
                queued=sum(map(len, self._queues.values())),
                running=self._running,
                batches=self._batches,
                items=self._items,
                failed=self._failed,
                cancelled=self._cancelled,
            )

    def close(self) -> None:
        """Stop the threads after their running batch; fail what is queued. Idempotent, blocks."""
        with self._wake:
            self._closed = True
            pending = [entry for queue in self._queues.values() for entry in queue]
            self._queues.clear()
            self._wake.notify_all()
        for entry in pending:
            entry.error = Closed(self._name)
        self._deliver(pending)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _put(self, call: _Call[T, R], count: int) -> None:
        """Queue up to `count` more of the call's items; called on its event loop."""
        more = list(islice(call.feed, count))
        if not more:
            return
        with self._wake:
            if self._closed:
                raise Closed(self._name)
            for entry in more:
                entry.number = self._arrivals
                self._arrivals += 1
            self._queues.setdefault(call.priority, deque()).extend(more)
            self._wake.notify(len(more))

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """One batch, in a frame of its own so that an idle worker holds no texts."""
        with self._wake:
            while not (batch := self._pick()):
                if self._closed:
                    return False
                self._wake.wait()
            self._running += len(batch)
            self._batches += 1
        self._run(batch)
        with self._wake:
            self._running -= len(batch)
            self._items += len(batch)
            self._failed += sum(entry.error is not None for entry in batch)
        self._deliver(batch)
        return True

    def _pick(self) -> list[_Entry[T, R]]:
        """The next batch, or nothing. The lock is held."""
        while queues := {p: queue for p, queue in sorted(self._queues.items()) if queue}:
            first, *lower = queues
            if lower and (self._picks + 1) % LOWER_EVERY == 0:
                first = min(lower, key=lambda priority: queues[priority][0].number)
            batch = self._take(queues[first])
            if batch:
                self._picks += 1
                return batch
        return []

    def _take(self, queue: deque[_Entry[T, R]]) -> list[_Entry[T, R]]:
        """The oldest wanted entry and those in the window nearest to it in size."""
        window: list[_Entry[T, R]] = []
        while queue and len(window) < WINDOW:
            entry = queue.popleft()
            if entry.unwanted:
                self._cancelled += 1
            else:
                window.append(entry)
        if not window:
            return []
        head = window[0]
        # Stable: of two equally near ones the older is taken.
        near = heapq.nsmallest(self._cap, window, key=lambda entry: abs(entry.size - head.size))
        mates = (entry for entry in near if entry is not head)
        batch = [head, *self._within_budget(head, mates)]
        taken = set(map(id, batch))
        queue.extendleft(entry for entry in reversed(window) if id(entry) not in taken)
        return batch

    def _within_budget(
        self, head: _Entry[T, R], mates: Iterable[_Entry[T, R]]
    ) -> Iterator[_Entry[T, R]]:
        largest = head.size
        for count, entry in enumerate(islice(mates, self._cap - 1), start=2):
            largest = max(largest, entry.size)
            if self._budget is not None and count * largest > self._budget:
                return
            yield entry

    def _run(self, batch: list[_Entry[T, R]]) -> None:
        """Fill in each entry's result or error; an item that fails, fails alone."""
        try:
            self._apply(batch)
        except BaseException as error:
            if len(batch) == 1:
                batch[0].error = _bearable(error, self._name)
                return
            for entry in batch:
                if not entry.unwanted:
                    self._run([entry])

    def _apply(self, batch: list[_Entry[T, R]]) -> None:
        results = self._function([entry.item for entry in batch])
        if len(results) != len(batch):
            raise VivaceError(
                f"{self._name}: the batch function gave {len(results)} results for "
                f"{len(batch)} items",
                fix="It must give one result an item, in their order",
            )
        for entry, result in zip(batch, results, strict=True):
            entry.result = result

    def _deliver(self, entries: Sequence[_Entry[T, R]]) -> None:
        """Hand results to their event loops: one wake-up a loop."""
        loops: dict[asyncio.AbstractEventLoop, list[_Entry[T, R]]] = {}
        for entry in entries:
            loops.setdefault(entry.call.loop, []).append(entry)
        for loop, group in loops.items():
            try:
                loop.call_soon_threadsafe(self._accept, group)
            except RuntimeError:
                if not loop.is_closed():
                    raise
                # The loop has closed: nobody is left to be told.

    def _accept(self, entries: Sequence[_Entry[T, R]]) -> None:
        """On the event loop: take in the results, and queue as many more of the same calls."""
        calls: dict[_Call[T, R], int] = {}
        for entry in entries:
            call = entry.call
            call.accept(entry.index, entry.result, entry.error)
            calls[call] = calls.get(call, 0) + 1
        for call, count in calls.items():
            if not call.future.done():
                try:
                    self._put(call, count)
                except Closed as error:
                    call.future.set_exception(error)


def _bearable(error: BaseException, name: str) -> Exception:
    """What a future can carry: a panic of a native library is not an Exception, and would kill the
    worker; a StopIteration is refused by asyncio."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return VivaceError(f"{name}: the batch function raised {type(error).__name__}: {error}")
