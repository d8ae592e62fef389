"""Single calls for their callers, batches for the function.

A batch is made of a backlog only and never waited for: a worker that is free takes what is there.
Measured with 64 callers on two cores, two single-threaded workers that pick at most 8 texts of
nearest length answer 931 a second, one two-threaded worker with big batches 639.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from vivace.errors import VivaceError
from vivace.run import work
from vivace.run.crew import Crew, Statistics, Worker
from vivace.run.fair_queue import Waiter
from vivace.run.threads import Cores
from vivace.run.work import Priority

T = TypeVar("T")
R = TypeVar("R")

WINDOW = 256
"""Queued items among which a batch's mates are looked for: picking stays cheap however long the
queue."""
FEED = 1024
"""Most items of one call in the queue: four windows, so that no worker ever waits for the feed."""


class _Call(Generic[T, R]):
    """One `run_many`. Only its event loop's thread touches it, but for reading `future.done()`."""

    def __init__(self, items: Sequence[T], sizes: Sequence[int]) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.results: list[Any] = [None] * len(items)
        self.left = len(items)
        self.out: dict[int, _Item[T, R]] = {}
        """By index: queued or running."""
        now = work.current()
        # Longest first: neighbours in the queue are of even length, and the last batch is short.
        order = sorted(range(len(items)), key=sizes.__getitem__, reverse=True)
        self._feed = (_Item(now, self, index, items[index], sizes[index]) for index in order)

    def more(self, count: int) -> list[_Item[T, R]]:
        """The next items to be queued."""
        items = list(islice(self._feed, count))
        self.out.update((item.index, item) for item in items)
        return items

    def accept(self, item: _Item[T, R]) -> None:
        self.out.pop(item.index, None)
        if self.future.done():
            return
        if item.error is not None:
            self.future.set_exception(item.error)
            return
        self.results[item.index] = item.result
        self.left -= 1
        if not self.left:
            self.future.set_result(None)


class _Item(Waiter, Generic[T, R]):
    __slots__ = ("call", "index", "item", "result", "size")

    def __init__(self, work: work.Work, call: _Call[T, R], index: int, item: T, size: int) -> None:
        super().__init__(work)
        self.call = call
        self.index = index
        self.item = item
        self.size = size
        self.result: R | None = None

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

    Items wait in a `FairQueue`, by the priority, deadline and user of `work.current()`. `cores` are
    shared with others; deadlines are on `clock`.
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
        self._size = size
        self._cap = cap
        self._budget = budget
        self._crew: Crew[_Item[T, R]] = Crew(
            name,
            workers,
            lambda: _Batches(function, name),
            self._deliver,
            mates=self._mates,
            window=WINDOW,
            cores=cores,
            clock=clock,
        )

    async def run(self, item: T) -> R:
        """The function's result for one item.

        Raises:
            Closed: the batcher is closed, or was before the item's turn came.
            DeadlineExceeded: its deadline passed before its turn came.
            Exception: whatever the function raised for this item alone.
        """
        return (await self.run_many([item]))[0]

    async def run_many(self, items: Sequence[T]) -> list[R]:
        """The results in the order of the items. The first failing item fails the call.

        A cancelled or failed call takes back what of it still waits.

        Raises:
            Closed: the batcher is closed, or was before every item's turn came.
            DeadlineExceeded: the deadline passed before every item's turn came.
            Exception: whatever the function raised for an item alone.
        """
        if not items:
            return []
        call: _Call[T, R] = _Call(items, [self._size(item) for item in items])
        self._crew.submit(call.more(FEED))
        try:
            await call.future
        except BaseException:
            self._crew.withdraw(list(call.out.values()))
            raise
        return call.results

    def resize(self, workers: int) -> None:
        """At most so many batches at once, at least 1; no item is lost or done twice."""
        self._crew.resize(workers)

    def bound(self, priority: Priority, workers: int | None) -> None:
        """At most so many workers do work of this priority or less urgent; None is no bound.

        So that long work that nobody waits for never occupies all of them. What runs goes on.
        """
        self._crew.bound(priority, workers)

    def statistics(self) -> Statistics:
        return self._crew.statistics()

    def close(self) -> None:
        """Stop the threads after their running batch; fail what is queued. Idempotent, blocks."""
        self._crew.close()

    def _mates(self, head: _Item[T, R], others: Iterator[_Item[T, R]]) -> list[_Item[T, R]]:
        """Those nearest to it in size."""
        # Stable: of two equally near ones the one whose turn is first is taken.
        near = heapq.nsmallest(self._cap - 1, others, key=lambda item: abs(item.size - head.size))
        return list(self._within_budget(head, near))

    def _within_budget(
        self, head: _Item[T, R], mates: Iterable[_Item[T, R]]
    ) -> Iterator[_Item[T, R]]:
        largest = head.size
        for count, item in enumerate(mates, start=2):
            largest = max(largest, item.size)
            if self._budget is not None and count * largest > self._budget:
                return
            yield item

    def _deliver(self, items: Sequence[_Item[T, R]]) -> None:
        """Hand items to their event loops: one wake-up a loop."""
        loops: dict[asyncio.AbstractEventLoop, list[_Item[T, R]]] = {}
        for item in items:
            loops.setdefault(item.call.loop, []).append(item)
        for loop, group in loops.items():
            try:
                loop.call_soon_threadsafe(self._accept, group)
            except RuntimeError:
                if not loop.is_closed():
                    raise
                # The loop has closed: nobody is left to be told.

    def _accept(self, items: Sequence[_Item[T, R]]) -> None:
        """On the event loop: take in the results, and queue as many more of the same calls."""
        calls: dict[_Call[T, R], int] = {}
        for item in items:
            call = item.call
            call.accept(item)
            calls[call] = calls.get(call, 0) + 1
        for call, count in calls.items():
            if not call.future.done() and (more := call.more(count)):
                try:
                    self._crew.submit(more)
                except VivaceError as error:
                    call.future.set_exception(error)


class _Batches(Worker[_Item[T, R]]):
    """Fills in each item's result or error; an item that fails, fails alone."""

    def __init__(self, function: Callable[[list[T]], Sequence[R]], name: str) -> None:
        self._function = function
        self._name = name

    def run(self, batch: list[_Item[T, R]]) -> None:
        try:
            self._apply(batch)
        except BaseException as error:
            if len(batch) == 1:
                batch[0].error = _bearable(error, self._name)
                return
            for item in batch:
                if not item.unwanted:
                    self.run([item])

    def _apply(self, batch: list[_Item[T, R]]) -> None:
        results = self._function([item.item for item in batch])
        if len(results) != len(batch):
            raise VivaceError(
                f"{self._name}: the batch function gave {len(results)} results for "
                f"{len(batch)} items",
                fix="It must give one result an item, in their order",
            )
        for item, result in zip(batch, results, strict=True):
            item.result = result


def _bearable(error: BaseException, name: str) -> Exception:
    """What a future can carry: a panic of a native library is not an Exception, and would kill the
    worker; a StopIteration is refused by asyncio."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return VivaceError(f"{name}: the batch function raised {type(error).__name__}: {error}")
