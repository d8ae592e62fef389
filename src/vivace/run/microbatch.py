"""Single calls for their callers, batches for the function.

A batch is made of what has queued up and is never waited for: a free worker takes what is there.
Measured with 64 callers on two cores, two single-threaded workers that pick at most 8 texts of
nearest length answer 931 a second, one two-threaded worker with big batches 639.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from vivace.errors import VivaceError
from vivace.run import work
from vivace.run.fair_queue import Waiter
from vivace.run.threads import Cores
from vivace.run.workers import Workers, WorkerSlot
from vivace.types import Vector, Vectors

T = TypeVar("T")
R = TypeVar("R")

Then: TypeAlias = Callable[[Vector, Vectors | None], R]
"""Continues with a question's vector (dim,) and, where they were wanted, its token vectors."""

WINDOW = 256
"""Queued items among which the rest of a batch is selected: a bound on what selecting costs."""
FEED = 1024
"""Most items of one call in the queue: four windows, so no worker ever waits for more of them."""


@runtime_checkable
class EmbedsThen(Protocol):
    """An `Embedder` over a micro-batcher that continues on the worker's thread: an optimisation.

    With several questions at once it saves each of them the hop to another thread.
    """

    async def embed_then(self, text: str, then: Then[R], *, tokens: bool = False) -> R:
        """What `then` returns for the question's vector, called on the thread that embedded it.

        With `tokens` it gets the question's token vectors too, as `Embedded` has them, else None.

        Raises:
            EmbeddingError: the model failed.
            Exception: whatever `then` raised.
        """
        ...


class _BatchCall(Generic[T, R]):
    """One `run_many`. Other threads than its event loop's only read `future.done()`."""

    def __init__(self, items: Sequence[T], sizes: Sequence[int]) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.results: list[Any] = [None] * len(items)
        self.left = len(items)
        self.out: dict[int, _BatchItem[T, R]] = {}
        """By index: queued or running."""
        now = work.current()
        # Longest first: neighbours in the queue are of even length, and the last batch is short.
        order = sorted(range(len(items)), key=sizes.__getitem__, reverse=True)
        self._feed = (_BatchItem(now, self, index, items[index], sizes[index]) for index in order)

    def more(self, count: int) -> list[_BatchItem[T, R]]:
        """The next items to be queued."""
        items = list(islice(self._feed, count))
        self.out.update((item.index, item) for item in items)
        return items

    def accept(self, item: _BatchItem[T, R]) -> None:
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


class _BatchItem(Waiter, Generic[T, R]):
    __slots__ = ("call", "index", "item", "result", "size")

    def __init__(
        self, work: work.Work, call: _BatchCall[T, R], index: int, item: T, size: int
    ) -> None:
        super().__init__(work)
        self.call = call
        self.index = index
        self.item = item
        self.size = size
        self.result: R | None = None

    @property
    def unwanted(self) -> bool:
        """Whether its call was cancelled, or another item of the call has failed."""
        return self.call.future.done()


class MicroBatcher(Workers[_BatchItem[T, R]], Generic[T, R]):
    """Turns a synchronous batch function into an asynchronous call of one item.

    `function` takes 1 to `cap` items of one priority and returns as many results in their order; it
    runs on `workers` threads at once and should release the GIL. Items of nearest `size` are
    batched together; `budget` bounds a batch's number of items times its largest size, so that one
    batch never holds a worker for long. Usable from any number of event loops.

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
        self._size_of = size
        self._cap = cap
        self._budget = budget
        super().__init__(
            name,
            workers,
            lambda: _BatchSlot(function, name),
            self._deliver,
            select_batch=self._nearest,
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

        A cancelled or failed call takes its waiting items out of the queue.

        Raises:
            Closed: the batcher is closed, or was before every item's turn came.
            DeadlineExceeded: the deadline passed before every item's turn came.
            Exception: whatever the function raised for an item alone.
        """
        if not items:
            return []
        call: _BatchCall[T, R] = _BatchCall(items, [self._size_of(item) for item in items])
        self.enqueue(call.more(FEED))
        try:
            await call.future
        except BaseException:
            self.withdraw(list(call.out.values()))
            raise
        return call.results

    def _nearest(
        self, head: _BatchItem[T, R], others: Iterator[_BatchItem[T, R]]
    ) -> list[_BatchItem[T, R]]:
        """Select the items nearest to the head in size."""
        # Stable: of two equally near ones, the one whose turn comes first.
        near = heapq.nsmallest(self._cap - 1, others, key=lambda item: abs(item.size - head.size))
        return list(self._within_budget(head, near))

    def _within_budget(
        self, head: _BatchItem[T, R], items: Iterable[_BatchItem[T, R]]
    ) -> Iterator[_BatchItem[T, R]]:
        largest = head.size
        for count, item in enumerate(items, start=2):
            largest = max(largest, item.size)
            if self._budget is not None and count * largest > self._budget:
                return
            yield item

    def _deliver(self, items: Sequence[_BatchItem[T, R]]) -> None:
        """Hand items to their event loops: one wake-up a loop."""
        loops: dict[asyncio.AbstractEventLoop, list[_BatchItem[T, R]]] = {}
        for item in items:
            loops.setdefault(item.call.loop, []).append(item)
        for loop, group in loops.items():
            try:
                loop.call_soon_threadsafe(self._accept, group)
            except RuntimeError:
                if not loop.is_closed():
                    raise
                # The loop has closed, and with it the callers.

    def _accept(self, items: Sequence[_BatchItem[T, R]]) -> None:
        """On the event loop: accept the results, and queue as many more items of the same calls."""
        calls: dict[_BatchCall[T, R], int] = {}
        for item in items:
            call = item.call
            call.accept(item)
            calls[call] = calls.get(call, 0) + 1
        for call, count in calls.items():
            if not call.future.done() and (more := call.more(count)):
                try:
                    self.enqueue(more)
                except VivaceError as error:
                    call.future.set_exception(error)


class _BatchSlot(WorkerSlot[_BatchItem[T, R]]):
    """Fills in each item's result or error; an item that fails, fails alone."""

    def __init__(self, function: Callable[[list[T]], Sequence[R]], name: str) -> None:
        super().__init__()
        self._function = function
        self._name = name

    def run(self, batch: list[_BatchItem[T, R]]) -> None:
        try:
            self._apply(batch)
        except BaseException as error:
            if len(batch) == 1:
                batch[0].error = _bearable(error, self._name)
                return
            for item in batch:
                if not item.unwanted:
                    self.run([item])

    def _apply(self, batch: list[_BatchItem[T, R]]) -> None:
        results = self._function([item.item for item in batch])
        if len(results) != len(batch):
            raise VivaceError(
                f"{self._name}: the batch function returned {len(results)} results for "
                f"{len(batch)} items",
                fix="It must return one result an item, in their order",
            )
        for item, result in zip(batch, results, strict=True):
            item.result = result


def _bearable(error: BaseException, name: str) -> Exception:
    """The error as one that a future can carry: a native library's panic is no Exception and would
    end the worker's thread, and asyncio refuses a StopIteration."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return VivaceError(f"{name}: the batch function raised {type(error).__name__}: {error}")
