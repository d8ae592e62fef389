"""Which server of a set gets the next request? Nothing waits here; see `endpoints`."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import isfinite
from types import TracebackType
from typing import Final, Self, TypeAlias

from vivace.errors import BadInput
from vivace.run.breaker import Attempt, Breaker, BreakerState, Tolerance
from vivace.run.limit import ConcurrencyLimit, Outcome, Permit
from vivace.run.work import Work

MOST_EJECTED: Final = 0.5
"""The share of a set that may be ejected at once for failing in part."""
_NO_WORK: Final = Work()
"""Requests wait in the queue of the set, not in that of a server's limit."""
_SMOOTHING: Final = 0.1
"""Weight of the newest latency in their mean."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server of a set. `name` is its URL or address."""

    name: str
    weight: float = 1.0
    """Twice the weight, twice the requests."""
    bound: int = 64
    """Most requests at once."""


LimitFactory: TypeAlias = Callable[[Endpoint, Callable[[], None]], ConcurrencyLimit]
"""Makes the limit of a server, below its bound; gets what the limit calls when it has grown."""


@dataclass(slots=True)
class ServerStatistics:
    """One server, since it joined the set. Times are in seconds."""

    name: str
    state: BreakerState = BreakerState.CLOSED
    weight: float = 1.0
    bound: int = 0
    limit: int = 0
    """Requests at once as learned; the bound where nothing is."""
    draining: bool = False
    in_use: int = 0
    idle: int = 0
    """Connections kept open for the next request, where its client knows."""
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    dropped: int = 0
    """Given up by their user before the server began to answer."""
    ejections: int = 0
    latency: float = 0.0
    """Mean time until the server begins to answer, the newest counting most; 0 before the first."""
    waited: int = 0
    """Requests that had to wait for a place before they came here."""
    wait_seconds: float = 0.0
    """Their waiting times, summed."""
    failure: str = ""
    """The last one, in words."""


@dataclass(slots=True)
class Member:
    """A server of the set and what became of its requests."""

    server: Endpoint
    breaker: Breaker
    counts: ServerStatistics
    pass_value: float
    """Requests begun by weight: of servers equally busy, the one with the least is next."""
    limit: ConcurrencyLimit | None
    draining: bool = False
    rests_until: float = 0.0
    """While it is overloaded, as it said."""

    @property
    def load(self) -> float:
        return self.counts.in_use / self.server.weight

    @property
    def most(self) -> int:
        """Requests at once as learned."""
        return self.server.bound if self.limit is None else self.limit.statistics().limit

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent to it."""
        free = self.limit is None or self.limit.free
        return free and self.counts.in_use < self.server.bound

    def make_room(self) -> bool:
        """Whether its limit admits one more urgent request, above what it has learned."""
        if self.limit is None or self.counts.in_use >= self.server.bound:
            return False
        return self.limit.urge()


@dataclass(slots=True, eq=False)
class Lease:
    """A place at one server, as a context manager. It is given back once, however often it ends.

    A lease that ends without `alive` or `failed` counts as dropped: neither for nor against the
    server.
    """

    _balance: Balance
    member: Member
    attempt: Attempt
    permit: Permit | None
    began: float
    answered: bool = False
    overloaded: bool = False
    ended: bool = False
    failure: str | None = None
    retry_after: float | None = None

    @property
    def server(self) -> str:
        """The server's name."""
        return self.member.server.name

    @property
    def others(self) -> bool:
        """Whether there is another server to ask."""
        return self._balance.another((self.server,))

    @property
    def in_use(self) -> int:
        """Requests at the server now, this one included."""
        return self.member.counts.in_use

    def alive(self) -> None:
        """The server has begun to answer: a success, unless it fails later."""
        if not self.answered:
            self.answered = True
            self._balance.answered(self)

    def count_tokens(self, tokens: int) -> None:
        """So many tokens came together: the server's limit is learned from them."""
        if self.permit is not None:
            self.permit.count_tokens(tokens)

    def failed(self, why: str, *, retry_after: float | None = None) -> None:
        """The server failed. `retry_after`: seconds for which it asks to get no request."""
        self.failure, self.retry_after = why, retry_after

    def busy(self, seconds: float) -> None:
        """The server is healthy but overloaded: prefer the others for so many seconds."""
        self.overloaded = True
        self._balance.rest(self.member, seconds)

    def end(self) -> None:
        """Give the place back. Idempotent."""
        if not self.ended:
            self.ended = True
            self._balance.end(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.end()


class Balance:
    """Least outstanding requests by weight; of equals, weighted round robin.

    Exact, not the better of two drawn at random (Mitzenmacher 2001): a set has a handful of
    servers and one process sees all of its own requests. Round robin by weight is stride
    scheduling (Waldspurger and Weihl 1995). A slow server needs no further penalty: its requests
    stay outstanding.

    A server that fails several times in a row is ejected whatever the others do; one that fails
    only in part, only while at most `MOST_EJECTED` of the set are out.

    Args:
        learned: makes the limit of each server; the limit's own queue is not used.
        changed: called when a place may have come free.
        clock: any monotonic one, in seconds.
        draw: spreads the pauses of ejected servers.

    Raises:
        BadInput: no server, two of one name, a weight or a bound out of range.
    """

    def __init__(
        self,
        servers: Sequence[Endpoint],
        *,
        tolerance: Tolerance,
        learned: LimitFactory | None,
        changed: Callable[[], None],
        clock: Callable[[], float],
        draw: random.Random,
    ) -> None:
        self._tolerance = tolerance
        self._learned = learned
        self._changed = changed
        self._clock = clock
        self._draw = draw
        self._members: dict[str, Member] = {}
        for server in servers:
            if server.name in self._members:
                raise BadInput(f"the server {server.name} is named twice", fix="Name it once")
            self._put(server)
        if not self._members:
            raise BadInput("a set of servers is empty", fix="Name one")

    def put(self, server: Endpoint) -> None:
        """Add a server, or change the weight and the bound of the one with its name.

        Raises:
            BadInput: a weight or a bound out of range.
        """
        self._put(server)
        self._changed()

    def _put(self, server: Endpoint) -> None:
        if not (isfinite(server.weight) and server.weight > 0):
            raise BadInput(f"{server.name}: {server.weight} is no weight", fix="Give one over 0")
        if server.bound < 1:
            raise BadInput(f"{server.name}: no request at once", fix="Allow at least 1")
        found = self._members.get(server.name)
        if found is None:
            self._members[server.name] = Member(
                server,
                Breaker(self._tolerance, self._draw),
                ServerStatistics(server.name),
                self._least_pass(),
                None if self._learned is None else self._learned(server, self._changed),
            )
            return
        if found.draining:
            found.pass_value = max(found.pass_value, self._least_pass())
        found.server, found.draining = server, False
        if found.limit is not None:
            found.limit.bound(1, server.bound)

    def remove(self, name: str) -> None:
        """Send nothing more to the server; it is forgotten with its last request.

        Raises:
            BadInput: there is none of that name, or no other.
        """
        staying = [member.server.name for member in self._staying()]
        if name not in self._members:
            raise BadInput(f"the set has no server {name}", fix="See its statistics")
        if staying == [name]:
            raise BadInput(f"{name} is the last server of its set", fix="Add another one before")
        self._members[name].draining = True
        self._forget(self._members[name])
        self._changed()

    def draining(self, name: str) -> bool:
        """Whether the server was removed and still has requests."""
        return name in self._members and self._members[name].draining

    def set_capacity(self, name: str, at_once: int | None) -> None:
        """Take the number of requests that the server says it takes at once for its limit; None
        lets it be learned. Nothing happens without such a server or limit."""
        member = self._members.get(name)
        if member is None or member.limit is None:
            return
        bound = member.server.bound
        if at_once is None:
            member.limit.bound(1, bound)
        else:
            member.limit.bound(min(at_once, bound), min(at_once, bound))
        self._changed()

    def statistics(self) -> tuple[ServerStatistics, ...]:
        now = self._clock()
        return tuple(
            replace(
                member.counts,
                state=member.breaker.state(now),
                weight=member.server.weight,
                bound=member.server.bound,
                limit=member.server.bound
                if member.limit is None
                else member.limit.statistics().limit,
                draining=member.draining,
            )
            for member in list(self._members.values())
        )

    # -- choosing -------------------------------------------------------------------------------

    def choose(self, avoid: Collection[str] = (), *, urgent: bool = False) -> Lease | None:
        """A place at the best server; None where none has room.

        Args:
            avoid: names of servers that get the request only where no other can. One that can but
                is full is waited for: a server that fails at once always has room.
            urgent: a user waits for it; a learned limit may admit it above what it has learned.
        """
        now = self._clock()
        awake = self._awake(now)
        wanted = [m for m in awake if m.server.name not in avoid] or awake
        fit = [m for m in wanted if m.has_room]
        if not fit and urgent:
            by_load = sorted(wanted, key=lambda m: m.load)
            fit = list(islice((m for m in by_load if m.make_room()), 1))
        if not fit:
            return None
        best = min(fit, key=lambda m: (m.load, m.pass_value))
        best.pass_value += 1 / best.server.weight
        best.counts.in_use += 1
        best.counts.started += 1
        permit = None
        if best.limit is not None:
            entered = best.limit.enter(_NO_WORK, lambda _: False)
            assert isinstance(entered, Permit)  # there is room
            permit = entered
        return Lease(self, best, best.breaker.begin(), permit, now)

    def has_room(self) -> bool:
        """Whether a request that avoids nothing would find a place."""
        return any(m.has_room for m in self._awake(self._clock()))

    def another(self, avoid: Collection[str]) -> bool:
        """Whether a server that is not to be avoided can be asked, now or when it has room."""
        return any(m.server.name not in avoid for m in self._usable(self._clock()))

    def next_change(self, now: float) -> float | None:
        """When time alone next lets a server be asked; None where it does not."""
        times = [
            time
            for member in self._staying()
            for time in (member.breaker.until, member.rests_until)
            if time > now
        ]
        return min(times, default=None)

    def last_failure(self) -> str:
        """In words, of the first server that has one."""
        return next((m.counts.failure for m in self._members.values() if m.counts.failure), "")

    # -- what becomes of a lease ----------------------------------------------------------------

    def answered(self, lease: Lease) -> None:
        """The server has begun to answer. Once."""
        member, now = lease.member, self._clock()
        trial = lease.attempt.trial
        if trial:  # a server that comes back is not given all the requests that it missed
            member.pass_value = max(member.pass_value, self._least_pass(now))
        member.breaker.alive(lease.attempt)
        seconds, mean = now - lease.began, member.counts.latency
        member.counts.latency = mean + _SMOOTHING * (seconds - mean) if mean else seconds
        if trial:
            self._changed()

    def rest(self, member: Member, seconds: float) -> None:
        """Prefer the other servers for so long."""
        until = self._clock() + min(seconds, self._tolerance.longest)
        member.rests_until = max(member.rests_until, until)

    def end(self, lease: Lease) -> None:
        """Give the place back. Once."""
        member, counts, now = lease.member, lease.member.counts, self._clock()
        counts.in_use -= 1
        if lease.permit is not None:
            done = lease.answered and lease.failure is None
            outcome = Outcome.DONE if done else Outcome.IGNORED
            lease.permit.release(Outcome.DROPPED if lease.overloaded else outcome)
        if lease.failure is not None:
            counts.failed += 1
            counts.failure = lease.failure
            counts.ejections += member.breaker.failed(
                lease.attempt, now, spare=self._spare(now), retry_after=lease.retry_after
            )
        elif lease.answered:
            counts.succeeded += 1
            member.breaker.succeeded(lease.attempt, now)
        else:
            counts.dropped += 1
            member.breaker.dropped(lease.attempt)
        self._forget(member)
        self._changed()

    def _staying(self) -> list[Member]:
        return [member for member in self._members.values() if not member.draining]

    def _usable(self, now: float) -> list[Member]:
        return [m for m in self._members.values() if not m.draining and m.breaker.admits(now)]

    def _awake(self, now: float) -> list[Member]:
        """The usable servers that do not rest; where all rest, all of them."""
        usable = self._usable(now)
        return [m for m in usable if m.rests_until <= now] or usable

    def _spare(self, now: float) -> bool:
        """Whether one more server may be out."""
        states = [member.breaker.state(now) for member in self._staying()]
        out = sum(state is not BreakerState.CLOSED for state in states)
        return out + 1 <= MOST_EJECTED * len(states)

    def _least_pass(self, now: float | None = None) -> float:
        """The least pass value; at a time, among the servers that are not ejected then."""
        return min(
            (
                member.pass_value
                for member in self._staying()
                if now is None or member.breaker.state(now) is BreakerState.CLOSED
            ),
            default=0.0,
        )

    def _forget(self, member: Member) -> None:
        if member.draining and not member.counts.in_use:
            self._members.pop(member.server.name, None)
