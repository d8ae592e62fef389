"""Which server of a set gets the next request? Without a clock or waiting of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Final

from vivace.errors import BadInput
from vivace.run.breaker import Attempt, Breaker, BreakerState, Tolerance
from vivace.run.limit import ConcurrencyLimit, Outcome, Permit
from vivace.run.work import Work

MOST_EJECTED: Final = 0.5
"""The share of a set that may be ejected at once for failing in part."""
_NOBODYS: Final = Work()
"""Who waits, waits in the set's queue, not in that of a server's limit."""
_SMOOTHING: Final = 0.1
"""Of the mean of latencies: what the newest counts."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of a set. `name` is its URL or address."""

    name: str
    weight: float = 1.0
    """Twice the weight, twice the requests."""
    bound: int = 64
    """Most requests at once."""


@dataclass(slots=True)
class Member:
    """A server of the set and what became of its requests."""

    server: Endpoint
    breaker: Breaker
    passed: float
    """Requests begun by weight: of servers equally busy, the one with the least is next."""
    limit: ConcurrencyLimit | None = None
    """Learned, below the bound."""
    draining: bool = False
    rests_until: float = 0.0
    """It said that it has too much to do."""
    in_use: int = 0
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    dropped: int = 0
    ejections: int = 0
    seconds: float = 0.0
    """Mean time to the first sign of life, the newest counting most."""
    waited: int = 0
    wait_seconds: float = 0.0
    failure: str = ""
    """The last one, in words."""

    @property
    def room(self) -> bool:
        """Whether one more request may be sent to it."""
        return self.in_use < self.server.bound and (self.limit is None or self.limit.free)


@dataclass(slots=True)
class ServerGrant:
    """One request's place at a server, from `choose` to `end`."""

    member: Member
    attempt: Attempt
    began: float
    permit: Permit | None = None
    alive: bool = False
    """The server has begun to answer."""
    failure: str | None = None
    retry_after: float | None = None
    """Seconds that the server asks to be left alone for."""
    busy: bool = False
    """It said that it has too much to do."""

    @property
    def outcome(self) -> Outcome:
        """What the request says of how much the server can do at once."""
        if self.busy:
            return Outcome.DROPPED
        return Outcome.DONE if self.alive and self.failure is None else Outcome.IGNORED


class Balance:
    """Least outstanding requests by weight; of equals, weighted round robin.

    Exact, not the better of two drawn at random (Mitzenmacher 2001): a set has a handful of
    servers and one process sees all of its own requests. Round robin by weight is stride
    scheduling (Waldspurger and Weihl 1995). A slow server needs no further penalty: its requests
    stay outstanding.

    A server that fails several times in a row is ejected whatever the others do; one that fails
    only in part, only while at most `MOST_EJECTED` of the set are out. `now` is of any monotonic
    clock. `learned` makes the limit of a server, within its bound.

    Raises:
        BadInput: no server, two of one name, a weight or a bound out of range.
    """

    def __init__(
        self,
        servers: Sequence[Endpoint],
        *,
        tolerance: Tolerance,
        draw: random.Random,
        learned: Callable[[Endpoint], ConcurrencyLimit] | None = None,
    ) -> None:
        self._tolerance = tolerance
        self._learned = learned
        self._draw = draw
        self.members: dict[str, Member] = {}
        for server in servers:
            if server.name in self.members:
                raise BadInput(f"the server {server.name} is named twice", fix="Name it once")
            self.put(server)
        if not self.members:
            raise BadInput("a set of servers is empty", fix="Name one")

    def put(self, server: Endpoint) -> None:
        """Add a server, or change the weight and the bound of one; one on its way out stays."""
        if not (isfinite(server.weight) and server.weight > 0):
            raise BadInput(f"{server.name}: {server.weight} is no weight", fix="Give one over 0")
        if server.bound < 1:
            raise BadInput(f"{server.name}: no request at once", fix="Allow at least 1")
        found = self.members.get(server.name)
        if found is None:
            breaker = Breaker(self._tolerance, self._draw)
            limit = None if self._learned is None else self._learned(server)
            self.members[server.name] = Member(server, breaker, self._least_passed(), limit)
            return
        if found.draining:
            found.passed = max(found.passed, self._least_passed())
        found.server, found.draining = server, False
        if found.limit is not None:
            found.limit.bound(1, server.bound)

    def remove(self, name: str) -> None:
        """Send nothing more to the server; it is forgotten with its last request.

        Raises:
            BadInput: there is none of that name, or no other.
        """
        staying = [member for member in self.members.values() if not member.draining]
        if name not in self.members:
            raise BadInput(f"the set has no server {name}", fix="See its statistics")
        if [member.server.name for member in staying] == [name]:
            raise BadInput(f"{name} is the last server of its set", fix="Add another one before")
        self.members[name].draining = True
        self._forget(self.members[name])

    def choose(
        self, now: float, avoid: Collection[str] = (), *, urgent: bool = False
    ) -> ServerGrant | None:
        """Take a place at the best server; None where none has room.

        Args:
            avoid: names that are grant only where no other can be asked. One that can but is full
                is waited for: a server that fails at once always has room.
            urgent: somebody waits for it; a learned limit may then give way.
        """
        awake = self._awake(now)
        wanted = [m for m in awake if m.server.name not in avoid] or awake
        fit = [m for m in wanted if m.room]
        if not fit and urgent:
            ordered = sorted(wanted, key=lambda m: m.in_use / m.server.weight)
            fit = list(islice(filter(_urged, ordered), 1))
        if not fit:
            return None
        best = min(fit, key=lambda m: (m.in_use / m.server.weight, m.passed))
        best.passed += 1 / best.server.weight
        best.in_use += 1
        best.started += 1
        grant = ServerGrant(best, best.breaker.begin(), now)
        if best.limit is not None:
            entered = best.limit.enter(_NOBODYS, lambda _: False)
            assert isinstance(entered, Permit)  # there is room
            grant.permit = entered
        return grant

    def has_room(self, now: float) -> bool:
        """Whether a request that avoids nothing would find a place."""
        return any(m.room for m in self._awake(now))

    def all_out(self, now: float) -> bool:
        """Whether every server is ejected, and none may be tried."""
        return not self._usable(now)

    def another(self, now: float, avoid: Collection[str]) -> bool:
        """Whether a server that is not to be avoided can be asked, now or when it has room."""
        return any(member.server.name not in avoid for member in self._usable(now))

    def next_change(self, now: float) -> float | None:
        """When time alone next lets a server be asked; None where it does not."""
        times = [
            time
            for member in self.members.values()
            if not member.draining
            for time in (member.breaker.until, member.rests_until)
            if time > now
        ]
        return min(times, default=None)

    def alive(self, grant: ServerGrant, now: float) -> None:
        """The server has begun to answer."""
        if grant.alive:
            return
        grant.alive = True
        self._closing(grant, now)
        grant.member.breaker.alive(grant.attempt)
        seconds = now - grant.began
        mean = grant.member.seconds
        grant.member.seconds = mean + _SMOOTHING * (seconds - mean) if mean else seconds

    def rest(self, grant: ServerGrant, now: float, seconds: float) -> None:
        """The server has too much to do: leave it alone so long, while there are others."""
        grant.busy = True
        until = now + min(seconds, self._tolerance.longest)
        grant.member.rests_until = max(grant.member.rests_until, until)

    def end(self, grant: ServerGrant, now: float) -> None:
        """Give the place back. Once."""
        member = grant.member
        member.in_use -= 1
        if grant.permit is not None:
            grant.permit.release(grant.outcome)
        if grant.failure is not None:
            member.failed += 1
            member.failure = grant.failure
            opened = member.breaker.failed(
                grant.attempt, now, spare=self._spare(now), told=grant.retry_after
            )
            member.ejections += opened
        elif grant.alive:
            member.succeeded += 1
            member.breaker.succeeded(grant.attempt, now)
        else:
            member.dropped += 1
            member.breaker.dropped(grant.attempt)
        self._forget(member)

    def _spare(self, now: float) -> bool:
        """Whether one more server may be out."""
        staying = [member for member in self.members.values() if not member.draining]
        out = sum(member.breaker.state(now) is not BreakerState.CLOSED for member in staying)
        return out + 1 <= MOST_EJECTED * len(staying)

    def _usable(self, now: float) -> list[Member]:
        return [m for m in self.members.values() if not m.draining and m.breaker.admits(now)]

    def _awake(self, now: float) -> list[Member]:
        """Those that can be asked and do not rest; where all rest, all."""
        usable = self._usable(now)
        return [m for m in usable if m.rests_until <= now] or usable

    def _closing(self, grant: ServerGrant, now: float) -> None:
        """A server that comes back shall not be given all that it missed."""
        if grant.attempt.trial:
            member = grant.member
            member.passed = max(member.passed, self._least_passed(now))

    def _least_passed(self, now: float | None = None) -> float:
        return min(
            (
                member.passed
                for member in self.members.values()
                if not member.draining
                and (now is None or member.breaker.state(now) is BreakerState.CLOSED)
            ),
            default=0.0,
        )

    def _forget(self, member: Member) -> None:
        if member.draining and not member.in_use:
            self.members.pop(member.server.name, None)


def _urged(member: Member) -> bool:
    """Whether the limit of a server with connections left gave way."""
    if member.limit is None or member.in_use >= member.server.bound:
        return False
    return member.limit.urge()
