"""Any order of events: no place is lost or doubled, none goes to a server that is out."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.run.simulated import SimulatedLoop
from vivace.errors import BadInput, DeadlineExceeded
from vivace.run import work
from vivace.run.balance import Endpoint, Lease, ServerStatistics
from vivace.run.breaker import BreakerState, Tolerance
from vivace.run.endpoints import AllEjected, Endpoints
from vivace.run.limit import ConcurrencyLimit
from vivace.run.work import Priority, Work

NAMES = ("a", "b", "c", "d")
PICK = st.integers(0, 1_000)


@dataclass(eq=False)
class Held:
    """A lease, and how often its server had been ejected when it was given."""

    lease: Lease
    ejections: int


class Servers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = SimulatedLoop()
        self.limits: dict[str, ConcurrencyLimit] = {}

        def learned(server: Endpoint, grown: Callable[[], None]) -> ConcurrencyLimit:
            limit = ConcurrencyLimit(
                server.name, highest=server.bound, grown=grown, clock=self.loop.time
            )
            self.limits[server.name] = limit
            return limit

        self.endpoints = Endpoints(
            "set",
            [Endpoint("a", 1, 2), Endpoint("b", 2, 1)],
            tolerance=Tolerance(in_row=2, least=4),
            learned=learned,
            clock=self.loop.time,
            draw=random.Random(0),
        )
        self.tasks: list[asyncio.Task[Lease]] = []
        self.held: list[Held] = []
        self.avoided: dict[asyncio.Task[Lease], set[str]] = {}
        self.rests_until: dict[str, float] = {}

    def _limited(self) -> int:
        return sum(limit.statistics().in_flight for limit in self.limits.values())

    # -- what happens -----------------------------------------------------------------------

    @rule(
        priority=st.sampled_from(Priority),
        seconds=st.none() | st.floats(0, 5),
        avoid=st.sets(st.sampled_from(NAMES), max_size=2),
    )
    def arrive(self, priority: Priority, seconds: float | None, avoid: set[str]) -> None:
        deadline = None if seconds is None else self.loop.now + seconds

        async def one() -> Lease:
            with work.working_on(Work(priority, deadline)):
                return await self.endpoints.lease(avoid=avoid)

        self.tasks.append(self.loop.create_task(one()))
        self.avoided[self.tasks[-1]] = avoid
        self.settle()

    @rule(count=st.integers(2, 6))
    def crowd(self, count: int) -> None:
        for _ in range(count):
            self.arrive(Priority.INTERACTIVE, None, set())

    @precondition(lambda self: self.held)
    @rule(
        at=PICK,
        how=st.sampled_from(("succeed", "fail", "break off", "give up", "refuse")),
        cancel=st.booleans(),
    )
    def end(self, at: int, how: str, cancel: bool) -> None:
        lease = self.held.pop(at % len(self.held)).lease
        if how in ("succeed", "break off", "refuse"):
            lease.alive()
            self.settle()  # who waited for it has a place from this moment, whatever comes then
        if how in ("fail", "break off"):
            lease.failed("it broke", retry_after=at % 3 or None)
        if how == "refuse":
            lease.busy(at % 4)
            until = self.loop.now + at % 4
            self.rests_until[lease.server] = max(self.rests_until.get(lease.server, 0.0), until)
        lease.end()
        lease.end()
        if cancel:  # whoever was given the place in this moment
            for task in self.tasks[: 1 + at % 3]:
                task.cancel()
        self.settle()

    @precondition(lambda self: self.held)
    @rule(at=PICK)
    def begin_to_answer(self, at: int) -> None:
        self.held[at % len(self.held)].lease.alive()
        self.settle()

    @precondition(lambda self: self.tasks)
    @rule(at=PICK)
    def leave(self, at: int) -> None:
        self.tasks[at % len(self.tasks)].cancel()
        self.settle()

    @rule(seconds=st.floats(0, 8))
    def wait(self, seconds: float) -> None:
        self.loop.advance(seconds)
        self.settle()

    @rule(name=st.sampled_from(NAMES), weight=st.floats(0.1, 10), bound=st.integers(1, 4))
    def put(self, name: str, weight: float, bound: int) -> None:
        self.endpoints.balance.put(Endpoint(name, weight, bound))
        self.settle()

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        seen = self.servers()
        staying = [server.name for server in seen.values() if not server.draining]
        try:
            self.endpoints.balance.remove(name)
        except BadInput:
            assert name not in seen or staying == [name]
        self.settle()

    # -- what must hold ---------------------------------------------------------------------

    def servers(self) -> dict[str, ServerStatistics]:
        return {server.name: server for server in self.endpoints.statistics().servers}

    def settle(self) -> None:
        self.loop.settle()
        seen = self.servers()
        for name in self.rests_until.keys() - seen.keys():  # a later server of that name is new
            del self.rests_until[name]
        ready = [s for s in seen.values() if s.state is BreakerState.CLOSED and not s.draining]
        waiting = []
        for task in self.tasks:
            if not task.done():
                waiting.append(task)
            elif task.cancelled():
                pass
            elif (error := task.exception()) is None:
                lease = task.result()
                server = seen[lease.server]
                assert server.in_use <= server.bound
                assert not server.draining
                assert server.state is not BreakerState.OPEN
                self.held.append(Held(lease, server.ejections))
            elif isinstance(error, AllEjected):
                assert not ready
                assert 0 < error.retry_after <= 30
            else:
                assert isinstance(error, DeadlineExceeded)
        self.tasks = waiting

    @invariant()
    def every_place_is_held_by_one(self) -> None:
        held = Counter(held.lease.server for held in self.held)
        assert held == +Counter({s.name: s.in_use for s in self.servers().values()})
        assert self._limited() == len(self.held)
        assert self.endpoints.statistics().waiting == len(self.tasks)

    def trials(self, server: ServerStatistics) -> int:
        """Requests that the server got since it was ejected."""
        return sum(
            held.lease.server == server.name and held.ejections == server.ejections
            for held in self.held
        )

    @invariant()
    def an_ejected_server_gets_one_trial_at_a_time(self) -> None:
        for server in self.servers().values():
            if server.state is not BreakerState.CLOSED:
                assert self.trials(server) <= (server.state is BreakerState.HALF_OPEN)

    @invariant()
    def nobody_waits_where_a_server_has_room(self) -> None:
        usable = [
            server
            for server in self.servers().values()
            if not server.draining
            and (
                server.state is BreakerState.CLOSED
                or (server.state is BreakerState.HALF_OPEN and not self.trials(server))
            )
        ]
        assert usable or not self.tasks
        now = self.loop.now
        awake = [one for one in usable if self.rests_until.get(one.name, 0.0) <= now] or usable
        for task in self.tasks:
            avoid = self.avoided[task]
            wanted = [one for one in awake if one.name not in avoid] or awake
            assert not any(one.in_use < min(one.limit, one.bound) for one in wanted)

    @invariant()
    def counts_add_up(self) -> None:
        for server in self.servers().values():
            ended = server.succeeded + server.failed + server.dropped
            assert server.started == ended + server.in_use

    def teardown(self) -> None:
        """All that wait come to an end once servers answer again."""
        for _ in range(1_000):
            if not (self.tasks or self.held):
                break
            if self.held:
                self.end(0, "succeed", False)
            else:
                self.wait(1.0)
        assert not self.tasks
        assert self._limited() == 0
        assert all(s.in_use == 0 and not s.draining for s in self.servers().values())
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()


TestServers = Servers.TestCase
TestServers.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
