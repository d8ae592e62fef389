"""One set of servers of a kind: who gets the next request, who is left alone, who has to wait.

Used for whatever is asked over a network: model servers, remote embedders, caches, other Vivaces.
What a request is does not matter here; whoever makes one holds a `Lease` while it runs and says
what became of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias

from vivace.errors import Closed, Overloaded, VivaceError
from vivace.run import work
from vivace.run.balance import Balance, Endpoint, Member, ServerGrant
from vivace.run.breaker import BreakerState, Tolerance
from vivace.run.fair_queue import FairQueue, Waiter
from vivace.run.limit import Limit

_TICK: Final = 0.001
"""Seconds: a timer may be early by the resolution of the loop's clock."""
MOST_WAITING: Final = 1000
"""Requests that wait for a place; with more, the next is refused."""
FIRST_STREAMS: Final = 4
"""Streams at once before anything is known of a server; its first tokens let in more."""
LimitFactory: TypeAlias = Callable[[Endpoint, Callable[[], None]], Limit]
"""Makes the limit of a server, below its bound; gets what the limit calls when it has grown."""


def call_limit(server: Endpoint, grown: Callable[[], None]) -> Limit:
    """For calls that are answered in one piece; begins at the bound, which is a small one."""
    return Limit(server.name, highest=server.bound, start=server.bound, grown=grown)


def stream_limit(server: Endpoint, grown: Callable[[], None]) -> Limit:
    """For streams, whose holders report their tokens by `Lease.count_tokens`."""
    return Limit(server.name, highest=server.bound, start=FIRST_STREAMS, paced=True, grown=grown)


class AllEjected(Overloaded):
    """No server of the set can be asked before a pause is over. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """One server, since it joined the set. Times are in seconds."""

    name: str
    state: BreakerState
    weight: float
    bound: int
    limit: int
    """Requests at once by what was learned; the bound where nothing is."""
    draining: bool
    in_use: int
    idle: int
    """Connections kept open for the next request, where its adapter knows."""
    started: int
    succeeded: int
    failed: int
    dropped: int
    """Given up by their user before the server had said anything."""
    ejections: int
    latency: float
    """Mean time to the first sign of life, the newest counting most; 0 before there was one."""
    waited: int
    """Requests that had to wait for a place before they came here."""
    wait_seconds: float
    """What they waited, in all."""
    failure: str
    """The last one, in words."""


@dataclass(frozen=True, slots=True)
class EndpointsStatistics:
    """A set of servers."""

    name: str
    servers: tuple[ServerStatistics, ...]
    waiting: int
    refused: int
    """Requests that found every server ejected, or the queue full."""


class Lease:
    """A place at one server, as a context manager; it is given back once, however often it ends.

    Without a word it counts as given up: neither for nor against the server.
    """

    __slots__ = ("_ended", "_endpoints", "_held", "server")

    def __init__(self, endpoints: Endpoints, grant: ServerGrant) -> None:
        self.server = grant.member.server.name
        self._endpoints = endpoints
        self._held = grant
        self._ended = False

    @property
    def others(self) -> bool:
        """Whether there is another server to ask."""
        return self._endpoints.another((self.server,))

    @property
    def in_use(self) -> int:
        """Requests at the server now, this one among them."""
        return self._held.member.in_use

    def alive(self) -> None:
        """The server has begun to answer: a success, unless it fails later."""
        self._endpoints._alive(self._held)

    def count_tokens(self, tokens: int) -> None:
        """So many tokens came together: what the server's limit is learned from."""
        if self._held.permit is not None:
            self._held.permit.came(tokens)

    def failed(self, why: str, *, retry_after: float | None = None) -> None:
        """The server is to blame. `retry_after`: seconds that it asks to be left alone for."""
        self._held.failure, self._held.retry_after = why, retry_after

    def busy(self, seconds: float) -> None:
        """The server is well but has too much to do; others go first for so long."""
        self._endpoints._busy(self._held, seconds)

    def end(self) -> None:
        """Give the place back. Idempotent."""
        if not self._ended:
            self._ended = True
            self._endpoints._end(self._held)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.end()


class _Waiting(Waiter):
    """A request in the queue."""

    __slots__ = ("avoid", "lease")

    def __init__(
        self, urgency: work.Work, avoid: Collection[str], lease: asyncio.Future[Lease]
    ) -> None:
        super().__init__(urgency)
        self.avoid = avoid
        self.lease = lease


class Endpoints:
    """A set of servers, used on one event loop.

    Everything but `statistics`, which any thread may call, belongs on that loop: another thread
    goes through `loop.call_soon_threadsafe`. Requests that find no place wait by the priority of
    `work.current()`, see `FairQueue`; at the deadline of their work they leave.

    Args:
        name: of the set, for its errors.
        learned: makes the limit of each server; the limit's own queue is not used.
        clock: seconds, as `time.monotonic`.
        draw: spreads the pauses of ejected servers.

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
        self._queue: FairQueue[_Waiting] = FairQueue()
        self._refused = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False
        self._emptied: dict[str, asyncio.Event] = {}
        self._balance = Balance(
            servers,
            tolerance=self._tolerance,
            draw=draw or random.Random(),
            learned=None if learned is None else lambda server: learned(server, self._grant),
        )

    async def lease(self, *, avoid: Collection[str] = ()) -> Lease:
        """A place at the best server.

        Args:
            avoid: names of servers that are asked only where no other can be.

        Raises:
            AllEjected: every server is ejected; says at once when to come again.
            Overloaded: too many wait already.
            DeadlineExceeded: the work's deadline passed in the queue.
            Closed: the set is closed.
        """
        if self._closed:
            raise Closed(self.name)
        if self._balance.all_out(now := self._clock()):
            raise self._all_ejected(now)
        return await self._place(avoid)

    def another(self, avoid: Collection[str]) -> bool:
        """Whether there is a server to ask besides those to be avoided."""
        return self._balance.another(self._clock(), avoid)

    def put(self, server: Endpoint) -> None:
        """Add a server, or change the weight and the bound of the one with its name.

        Raises:
            BadInput: a weight or a bound out of range.
        """
        self._balance.put(server)
        self._emptied.pop(server.name, asyncio.Event()).set()
        self._grant()

    def remove(self, name: str) -> None:
        """Send nothing more to the server; what runs there runs on, which `drained` waits for.

        Raises:
            BadInput: there is none of that name, or no other.
        """
        self._balance.remove(name)
        self._grant()

    def set_capacity(self, name: str, at_once: int | None) -> None:
        """The server says how many requests it takes at once: its limit is that, not learned; None
        where it does not say any more. Nothing happens without such a server or limit."""
        member = self._balance.members.get(name)
        if member is None or member.limit is None:
            return
        bound = member.server.bound
        if at_once is None:
            member.limit.bound(1, bound)
        else:
            member.limit.bound(min(at_once, bound), min(at_once, bound))
        self._grant()

    async def drained(self, name: str) -> None:
        """Wait until a removed server has no request left; returns if it comes back meanwhile."""
        while (member := self._balance.members.get(name)) is not None and member.draining:
            await self._emptied.setdefault(name, asyncio.Event()).wait()

    def close(self) -> None:
        """Refuse whoever waits or comes; what runs runs on. Idempotent."""
        self._closed = True
        self._refuse(lambda: Closed(self.name))
        self._set_alarm(self._clock())

    def statistics(self) -> EndpointsStatistics:
        """Now; from another thread, the numbers may be some microseconds apart."""
        now = self._clock()
        members = list(self._balance.members.values())
        servers = tuple(_statistics(member, now) for member in members)
        return EndpointsStatistics(self.name, servers, len(self._queue), self._refused)

    # -- the queue --------------------------------------------------------------------------

    async def _place(self, avoid: Collection[str]) -> Lease:
        now = self._clock()
        urgency = work.current()
        if urgency.late(now):
            raise work.too_late(self.name)
        if not self._queue:
            grant = self._balance.choose(now, avoid, urgent=_urgent(urgency))
            if grant is not None:
                return Lease(self, grant)
        if len(self._queue) >= self._most_waiting:
            self._refused += 1
            raise Overloaded(f"{self.name}: {len(self._queue)} requests wait", retry_after=1.0)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(urgency, avoid, loop.create_future())
        self._queue.put(waiting, now)
        self._grant()
        left = None if urgency.deadline is None else urgency.deadline - now
        try:
            async with asyncio.timeout(left):
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
        """Give places while there are some and anyone waits."""
        now = self._clock()
        while self._queue and self._grant_one(now):
            pass
        if self._balance.all_out(now):
            self._refuse(lambda: self._all_ejected(now))
        self._set_alarm(now)

    def _grant_one(self, now: float) -> bool:
        """Give one place, or take leave of those who cannot take theirs; False where none is left.

        Whoever avoids the servers that have room lets the next one go first.
        """
        for waiting in self._queue.in_turn():
            if waiting.lease.done():  # cancelled; its task has yet to hear of it
                self._queue.remove(waiting)
                return True
            if waiting.work.late(now):
                self._queue.remove(waiting)
                waiting.lease.set_exception(work.too_late(self.name))
                return True
            urgent = _urgent(waiting.work)
            grant = self._balance.choose(now, waiting.avoid, urgent=urgent)
            if grant is not None:
                grant.member.waited += 1
                grant.member.wait_seconds += now - waiting.arrived
                self._queue.take(waiting)
                waiting.lease.set_result(Lease(self, grant))
                return True
            if not self._balance.has_room(now):
                return False
        return False

    def _refuse(self, why: Callable[[], VivaceError]) -> None:
        for waiting in self._queue.clear():
            if not waiting.lease.done():
                waiting.lease.set_exception(why())

    def _set_alarm(self, now: float) -> None:
        """Look again when time alone brings a server back, while anyone waits."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._queue and (change := self._balance.next_change(now)) is not None:
            loop = next(self._queue.in_turn()).lease.get_loop()
            self._alarm = loop.call_later(max(change - now, _TICK), self._grant)

    def _all_ejected(self, now: float) -> AllEjected:
        self._refused += 1
        change = self._balance.next_change(now)
        last = next((m.failure for m in self._balance.members.values() if m.failure), "")
        return AllEjected(
            f"{self.name}: every server is left alone for a while after failures; one was: {last}",
            retry_after=self._tolerance.first if change is None else change - now,
        )

    # -- of leases --------------------------------------------------------------------------

    def _alive(self, grant: ServerGrant) -> None:
        closing = grant.attempt.trial
        self._balance.alive(grant, self._clock())
        if closing:
            self._grant()

    def _busy(self, grant: ServerGrant, seconds: float) -> None:
        self._balance.rest(grant, self._clock(), seconds)

    def _end(self, grant: ServerGrant) -> None:
        self._balance.end(grant, self._clock())
        member = grant.member
        if member.draining and not member.in_use:
            self._emptied.pop(member.server.name, asyncio.Event()).set()
        self._grant()


def _urgent(urgency: work.Work) -> bool:
    return urgency.priority is work.Priority.INTERACTIVE


def _statistics(member: Member, now: float) -> ServerStatistics:
    return ServerStatistics(
        name=member.server.name,
        state=member.breaker.state(now),
        weight=member.server.weight,
        bound=member.server.bound,
        limit=member.server.bound if member.limit is None else member.limit.statistics().limit,
        draining=member.draining,
        in_use=member.in_use,
        idle=0,
        started=member.started,
        succeeded=member.succeeded,
        failed=member.failed,
        dropped=member.dropped,
        ejections=member.ejections,
        latency=member.seconds,
        waited=member.waited,
        wait_seconds=member.wait_seconds,
        failure=member.failure,
    )
