"""One set of servers of a kind: which one gets the next request, and which requests wait.

For whatever is asked over a network: model servers, remote embedders, other Vivaces. A caller holds
a `Lease` while its request runs and reports what became of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from vivace.errors import Closed, Overloaded, VivaceError
from vivace.run import work
from vivace.run.balance import Balance, Endpoint, Lease, LimitFactory, ServerStatistics
from vivace.run.breaker import Tolerance
from vivace.run.fair_queue import FairQueue, Waiter
from vivace.run.limit import ConcurrencyLimit

_TICK: Final = 0.001
"""Seconds: a timer may be early by the resolution of the loop's clock."""
MOST_WAITING: Final = 1000
"""Requests that wait for a place; with more, the next is refused."""
FIRST_STREAMS: Final = 4
"""Streams at once before anything is known of a server; its first tokens let in more."""


def call_limit(server: Endpoint, grown: Callable[[], None]) -> ConcurrencyLimit:
    """For calls that are answered in one piece; begins at the bound, which is a small one."""
    return ConcurrencyLimit(server.name, highest=server.bound, start=server.bound, grown=grown)


def stream_limit(server: Endpoint, grown: Callable[[], None]) -> ConcurrencyLimit:
    """For streams, whose holders report their tokens by `Lease.count_tokens`."""
    return ConcurrencyLimit(
        server.name, highest=server.bound, start=FIRST_STREAMS, paced=True, grown=grown
    )


class AllEjected(Overloaded):
    """No server of the set can be asked before a pause is over. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class EndpointsStatistics:
    """A set of servers."""

    name: str
    servers: tuple[ServerStatistics, ...]
    waiting: int
    refused: int
    """Requests that found every server ejected, or the queue full."""


@runtime_checkable
class AsksServers(Protocol):
    """A client of a set of servers."""

    def server_statistics(self) -> EndpointsStatistics:
        """Of the servers and the connections to them. From any thread."""
        ...


class _WaitingRequest(Waiter):
    __slots__ = ("avoid", "lease")

    def __init__(
        self, urgency: work.Work, avoid: Collection[str], lease: asyncio.Future[Lease]
    ) -> None:
        super().__init__(urgency)
        self.avoid = avoid
        self.lease = lease


class Endpoints:
    """A set of servers, used on one event loop: `balance` chooses among them, requests wait here.

    Everything but `statistics`, which any thread may call, belongs on that loop: another thread
    goes through `loop.call_soon_threadsafe`. Servers come and go by `balance.put` and
    `balance.remove`; what runs at a removed one goes on, which `drained` waits for. Requests that
    find no place wait by the priority of `work.current()`, see `FairQueue`; at the deadline of
    their work they leave.

    Args:
        name: of the set, for its errors.
        learned, draw: see `Balance`.
        clock: seconds, as `time.monotonic`.

    Raises:
        BadInput: see `Balance`.
    """

    def __init__(
        self,
        name: str,
        servers: Sequence[Endpoint],
        *,
        tolerance: Tolerance | None = None,
        learned: LimitFactory | None = None,
        most_waiting: int = MOST_WAITING,
        clock: Callable[[], float] = time.monotonic,
        draw: random.Random | None = None,
    ) -> None:
        self.name = name
        self._tolerance = tolerance or Tolerance()
        self._most_waiting = most_waiting
        self._clock = clock
        self._queue: FairQueue[_WaitingRequest] = FairQueue()
        self._refused = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False
        self._drained: dict[str, asyncio.Event] = {}
        self.balance = Balance(
            servers,
            tolerance=self._tolerance,
            learned=learned,
            changed=self._grant,
            clock=clock,
            draw=draw or random.Random(),
        )

    async def lease(self, *, avoid: Collection[str] = ()) -> Lease:
        """A place at the best server.

        Args:
            avoid: names of servers that get the request only where no other can.

        Raises:
            AllEjected: every server is ejected; says at once when to come again.
            Overloaded: too many requests wait already.
            DeadlineExceeded: the work's deadline passed in the queue.
            Closed: the set is closed.
        """
        if self._closed:
            raise Closed(self.name)
        now, urgency = self._clock(), work.current()
        if not self.balance.another(()):
            raise self._all_ejected(now)
        if urgency.late(now):
            raise work.too_late(self.name)
        if not self._queue:
            lease = self.balance.choose(avoid, urgent=_urgent(urgency))
            if lease is not None:
                return lease
        if len(self._queue) >= self._most_waiting:
            self._refused += 1
            raise Overloaded(f"{self.name}: {len(self._queue)} requests wait", retry_after=1.0)
        loop = asyncio.get_running_loop()
        waiting = _WaitingRequest(urgency, avoid, loop.create_future())
        self._queue.put(waiting, now)
        self._grant()
        return await self._wait(waiting, now)

    async def drained(self, name: str) -> None:
        """Wait until a removed server has no request left; returns if it comes back meanwhile."""
        while self.balance.draining(name):
            await self._drained.setdefault(name, asyncio.Event()).wait()

    def close(self) -> None:
        """Refuse waiting and later requests; running ones go on. Idempotent."""
        self._closed = True
        self._refuse(lambda: Closed(self.name))
        self._set_alarm(self._clock())

    def statistics(self) -> EndpointsStatistics:
        """Now; from another thread, the numbers may be some microseconds apart."""
        servers = self.balance.statistics()
        return EndpointsStatistics(self.name, servers, len(self._queue), self._refused)

    # -- the queue --------------------------------------------------------------------------

    async def _wait(self, waiting: _WaitingRequest, now: float) -> Lease:
        deadline = waiting.work.deadline
        try:
            async with asyncio.timeout(None if deadline is None else deadline - now):
                return await waiting.lease
        except BaseException as error:
            self._queue.remove(waiting)
            self._set_alarm(self._clock())
            lease = waiting.lease
            if lease.done() and not lease.cancelled() and lease.exception() is None:
                lease.result().end()  # given and cancelled in the same moment
            if isinstance(error, TimeoutError):
                raise work.too_late(self.name) from error
            raise

    def _grant(self) -> None:
        """Give places to waiting requests while there are any."""
        for name in [name for name in self._drained if not self.balance.draining(name)]:
            self._drained.pop(name).set()
        now = self._clock()
        while self._queue and self._grant_one(now):
            pass
        if not self.balance.another(()):
            self._refuse(lambda: self._all_ejected(now))
        self._set_alarm(now)

    def _grant_one(self, now: float) -> bool:
        """Give one place, or drop a request that cannot take it; False where no place is left.

        A request that avoids the servers with room lets the next one go first.
        """
        for waiting in self._queue.in_turn():
            if waiting.lease.done():  # cancelled; its task does not know yet
                self._queue.remove(waiting)
                return True
            if waiting.work.late(now):
                self._queue.remove(waiting)
                waiting.lease.set_exception(work.too_late(self.name))
                return True
            lease = self.balance.choose(waiting.avoid, urgent=_urgent(waiting.work))
            if lease is not None:
                lease.member.counts.waited += 1
                lease.member.counts.wait_seconds += now - waiting.arrived
                self._queue.take(waiting)
                waiting.lease.set_result(lease)
                return True
            if not self.balance.has_room():
                return False
        return False

    def _refuse(self, why: Callable[[], VivaceError]) -> None:
        for waiting in self._queue.clear():
            if not waiting.lease.done():
                waiting.lease.set_exception(why())

    def _set_alarm(self, now: float) -> None:
        """While requests wait, grant again when time alone brings a server back."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._queue and (change := self.balance.next_change(now)) is not None:
            loop = next(self._queue.in_turn()).lease.get_loop()
            self._alarm = loop.call_later(max(change - now, _TICK), self._grant)

    def _all_ejected(self, now: float) -> AllEjected:
        self._refused += 1
        change, last = self.balance.next_change(now), self.balance.last_failure()
        return AllEjected(
            f"{self.name}: every server is left alone for a while after failures; one was: {last}",
            retry_after=self._tolerance.first if change is None else change - now,
        )


def _urgent(urgency: work.Work) -> bool:
    return urgency.priority is work.Priority.INTERACTIVE
