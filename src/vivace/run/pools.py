"""A pool of threads for synchronous work that is asked for on an event loop.

Work below `INLINE_SECONDS` is not worth the way there and back: it stays on the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar, TypeVarTuple

from vivace.run import work
from vivace.run.crew import Crew, Statistics, Worker
from vivace.run.fair_queue import Waiter
from vivace.run.threads import Cores
from vivace.run.work import Priority

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

INLINE_SECONDS: Final = 100e-6
"""What takes less stays on the event loop: a hop takes as long by itself (decision 14)."""


class _Call(Waiter):
    __slots__ = ("arguments", "function", "future", "outbox", "result")

    def __init__(
        self, outbox: _Outbox, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        super().__init__(work.current())
        self.outbox = outbox
        self.future: asyncio.Future[Any] = outbox.loop.create_future()
        self.function = function
        self.arguments = arguments
        self.result: Any = None

    @property
    def unwanted(self) -> bool:
        return self.future.done()


class _Outbox:
    """What one event loop is to be told. However much it is, it is woken once."""

    __slots__ = ("_calls", "_woken", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[_Call] = deque()
        self._woken = False

    def put(self, call: _Call) -> None:
        """From any thread."""
        self._calls.append(call)
        if not self._woken:  # if it was, the loop has yet to look
            self._woken = True
            with suppress(RuntimeError):  # the loop has been closed, and with it whoever asked
                self.loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._woken = False  # before it looks: what comes now may not be seen
        while self._calls:
            call = self._calls.popleft()
            if call.future.done():  # its caller has gone
                continue
            if call.error is None:
                call.future.set_result(call.result)
            else:
                call.future.set_exception(call.error)


class Pool:
    """At most `threads` calls at once. The others wait in a `FairQueue`, by the
    priority, deadline and user of `work.current()`.

    The result goes straight to the caller's event loop. The standard library's executor chains a
    future of its own to the loop's, at twice the cost a call: a fifth of a whole search.

    Args:
        most: calls that may wait; None is no bound.
        cores: shared with others, so that together they never oversubscribe the machine.
        clock: monotonic seconds, on which deadlines are.
    """

    def __init__(
        self,
        threads: int,
        name: str,
        *,
        most: int | None = None,
        cores: Cores | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._crew: Crew[_Call] = Crew(
            name, threads, _Caller, _deliver, most=most, cores=cores, clock=clock
        )
        self._outbox: _Outbox | None = None
        """Of the event loop that asked last; there is seldom a second one."""

    async def run(self, function: Callable[[*Ts], R], *args: *Ts) -> R:
        """`function(*args)` on a thread of the pool: one hop there and back.

        A cancelled call never begins; one that has begun runs to its end, for nobody.

        Raises:
            Closed: the pool was closed before the call began.
            DeadlineExceeded: its deadline passed before it began.
            Overloaded: as many calls wait as may.
        """
        outbox, loop = self._outbox, asyncio.get_running_loop()
        if outbox is None or outbox.loop is not loop:
            outbox = self._outbox = _Outbox(loop)
        call = _Call(outbox, function, args)
        self._crew.submit((call,))
        try:
            result: R = await call.future
        except asyncio.CancelledError:
            self._crew.withdraw((call,))
            raise
        return result

    def resize(self, threads: int) -> None:
        """At most so many calls at once, at least 1; no call is lost or done twice."""
        self._crew.resize(threads)

    def bound(self, priority: Priority, threads: int | None) -> None:
        """At most so many threads do work of this priority or less urgent; None is no bound."""
        self._crew.bound(priority, threads)

    def statistics(self) -> Statistics:
        return self._crew.statistics()

    def close(self) -> None:
        """Fail what is queued with `Closed`, wait for what is running. Idempotent."""
        self._crew.close()


class _Caller(Worker[_Call]):
    def run(self, batch: list[_Call]) -> None:
        call = batch[0]
        try:
            call.result = call.function(*call.arguments)
        except StopIteration as error:
            # an asyncio future refuses a StopIteration, and its caller would wait for ever
            call.error = RuntimeError(f"{call.function!r} raised StopIteration")
            call.error.__cause__ = error
        except BaseException as error:  # handed to the caller, whole
            call.error = error


def _deliver(calls: Sequence[_Call]) -> None:
    for call in calls:
        call.outbox.put(call)
