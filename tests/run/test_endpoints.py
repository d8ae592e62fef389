"""Who gets the next request, and who waits."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.run.simulated import SimulatedLoop
from vivace.errors import BadInput, Closed, DeadlineExceeded, Overloaded
from vivace.run import work
from vivace.run.balance import Endpoint, Lease
from vivace.run.breaker import BreakerState, Tolerance
from vivace.run.endpoints import AllEjected, Endpoints
from vivace.run.fair_queue import LOWER_EVERY
from vivace.run.limit import ConcurrencyLimit
from vivace.run.work import Priority


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    loop = SimulatedLoop()
    yield loop
    loop.settle()
    assert not asyncio.all_tasks(loop)
    loop.close()


def servers(loop: SimulatedLoop, *several: Endpoint, **more: Any) -> Endpoints:
    more = {"tolerance": Tolerance(in_row=2), "draw": random.Random(0), **more}
    return Endpoints("set", several, clock=loop.time, **more)


def take(loop: SimulatedLoop, endpoints: Endpoints, *avoid: str) -> Lease:
    return loop.run_until_complete(endpoints.lease(avoid=avoid))


def fail(loop: SimulatedLoop, endpoints: Endpoints, name: str, times: int = 2) -> None:
    others = [server.name for server in endpoints.statistics().servers if server.name != name]
    for _ in range(times):
        with take(loop, endpoints, *others) as lease:
            assert lease.server == name
            lease.failed("it broke")


def state(endpoints: Endpoints, name: str) -> BreakerState:
    return next(s.state for s in endpoints.statistics().servers if s.name == name)


@pytest.mark.parametrize("at_once", [1, 12])
def test_weights(loop: SimulatedLoop, at_once: int) -> None:
    """By turns where one request runs at a time, by what is outstanding where many do."""
    endpoints = servers(loop, Endpoint("a", 3), Endpoint("b", 2), Endpoint("c", 1))
    draw, held, seen = random.Random(1), list[Lease](), Counter[str]()
    for _ in range(600):
        if len(held) == at_once:
            held.pop(draw.randrange(at_once)).end()
        held.append(take(loop, endpoints))
        seen[held[-1].server] += 1
    for lease in held:
        lease.end()
    for name, wanted in (("a", 300), ("b", 200), ("c", 100)):
        assert abs(seen[name] - wanted) <= (2 if at_once == 1 else 30)


def test_a_slow_server_gets_less_by_itself(loop: SimulatedLoop) -> None:
    """One takes a second, one three; four requests at once."""
    endpoints = servers(loop, Endpoint("fast"), Endpoint("slow"))
    seen = Counter[str]()

    async def user(until: float) -> None:
        while loop.time() < until:
            with await endpoints.lease() as lease:
                seen[lease.server] += 1
                await asyncio.sleep(1 if lease.server == "fast" else 3)
                lease.alive()

    users = [loop.create_task(user(loop.time() + 300)) for _ in range(4)]
    loop.advance(310)
    assert all(one.done() for one in users)
    assert 2 < seen["fast"] / seen["slow"] < 4


def test_a_failing_server_is_left_alone_and_tried_again(loop: SimulatedLoop) -> None:
    endpoints = servers(loop, Endpoint("good"), Endpoint("bad"))
    fail(loop, endpoints, "bad")
    assert state(endpoints, "bad") is BreakerState.OPEN
    for _ in range(20):
        with take(loop, endpoints) as lease:
            assert lease.server == "good"
            lease.alive()
    loop.advance(1)
    trial = take(loop, endpoints)
    assert trial.server == "bad"
    held = [take(loop, endpoints) for _ in range(5)]
    assert {lease.server for lease in held} == {"good"}, "one trial at a time"
    trial.alive()
    assert state(endpoints, "bad") is BreakerState.CLOSED
    assert take_all(loop, endpoints, 3)["bad"] == 3, "the idle one is next"
    for lease in (trial, *held):
        lease.end()
    counts = take_all(loop, endpoints, 40)
    assert abs(counts["good"] - counts["bad"]) <= 6, "it is not given what it missed"


def take_all(loop: SimulatedLoop, endpoints: Endpoints, times: int) -> Counter[str]:
    """Where so many requests go that succeed one after another."""
    seen = Counter[str]()
    for _ in range(times):
        with take(loop, endpoints) as lease:
            lease.alive()
            seen[lease.server] += 1
    return seen


def test_all_ejected_is_an_error_at_once(loop: SimulatedLoop) -> None:
    endpoints = servers(loop, Endpoint("a", bound=1))
    with pytest.raises(BadInput, match="last server"):
        endpoints.balance.remove("a")
    first = take(loop, endpoints)
    waiting = loop.create_task(endpoints.lease())
    loop.settle()
    first.failed("it broke")
    first.end()
    loop.settle()
    second = waiting.result()
    waiting = loop.create_task(endpoints.lease())
    loop.settle()
    second.failed("it broke again")
    second.end()
    loop.settle()
    for error in (waiting.exception(), refused(loop, endpoints)):
        assert isinstance(error, AllEjected)
        assert 0 < error.retry_after <= 1
        assert "it broke again" in str(error)
    loop.advance(1)
    trial = take(loop, endpoints)
    assert isinstance(refused(loop, endpoints), AllEjected), "nobody waits behind a trial"
    trial.alive()
    trial.end()
    assert take_all(loop, endpoints, 1) == {"a": 1}
    assert endpoints.statistics().refused == 3


def refused(loop: SimulatedLoop, endpoints: Endpoints) -> BaseException:
    with pytest.raises(Overloaded) as raised:
        take(loop, endpoints)
    return raised.value


def test_failing_in_part_ejects_only_while_others_are_left(loop: SimulatedLoop) -> None:
    """Every second request fails everywhere: half of the servers may be out, not all."""
    several = [Endpoint(name) for name in "abcd"]
    endpoints = servers(loop, *several, tolerance=Tolerance(in_row=100))
    for turn in range(400):
        with take(loop, endpoints) as lease:
            lease.alive()
            if turn // 4 % 2:
                lease.failed("now and then")
    states = Counter(server.state for server in endpoints.statistics().servers)
    assert states == {BreakerState.CLOSED: 2, BreakerState.OPEN: 2}


def test_a_busy_server_rests_while_there_are_others(loop: SimulatedLoop) -> None:
    endpoints = servers(loop, Endpoint("a", bound=1), Endpoint("b", bound=1))
    with take(loop, endpoints, "b") as lease:
        lease.alive()
        lease.busy(2.0)
    assert take_all(loop, endpoints, 5) == {"b": 5}
    assert state(endpoints, "a") is BreakerState.CLOSED
    one = take(loop, endpoints)
    waiting = loop.create_task(endpoints.lease())
    loop.advance(1)
    assert not waiting.done()
    loop.advance(1.5)
    assert waiting.result().server == "a", "the rest is over and nothing else happened"
    waiting.result().busy(5)
    waiting.result().end()
    one.busy(5)
    one.end()
    assert take_all(loop, endpoints, 2).total() == 2, "where all rest, all are asked"


def test_time_alone_brings_a_server_back_to_those_who_wait(loop: SimulatedLoop) -> None:
    endpoints = servers(loop, Endpoint("a", bound=1), Endpoint("b", bound=1))
    fail(loop, endpoints, "b")
    one = take(loop, endpoints)
    waiting = loop.create_task(endpoints.lease())
    loop.advance(1.5)
    assert waiting.result().server == "b"
    one.end()
    waiting.result().end()


def test_the_urgent_go_first_and_nobody_starves(loop: SimulatedLoop) -> None:
    endpoints = servers(loop, Endpoint("a", bound=1))
    order: list[Priority] = []

    async def one(priority: Priority) -> None:
        with work.work_context(priority), await endpoints.lease() as lease:
            order.append(priority)
            await asyncio.sleep(1)
            lease.alive()

    tasks = [loop.create_task(one(Priority.BACKGROUND)) for _ in range(3)]
    loop.settle()
    tasks += [loop.create_task(one(Priority.INTERACTIVE)) for _ in range(20)]
    loop.advance(25)
    assert all(task.done() for task in tasks)
    assert order[0] is order[LOWER_EVERY] is order[2 * LOWER_EVERY] is Priority.BACKGROUND
    assert Counter(order) == {Priority.BACKGROUND: 3, Priority.INTERACTIVE: 20}
    seen = endpoints.statistics().servers[0]
    assert (seen.waited, seen.started, seen.in_use) == (22, 23, 0)
    assert seen.wait_seconds == pytest.approx(sum(range(1, 23)), rel=0.05)


def test_a_deadline_ends_the_wait(loop: SimulatedLoop) -> None:
    endpoints = servers(loop, Endpoint("a", bound=1))
    one = take(loop, endpoints)

    async def hurried() -> Lease:
        # `work_context` reads the real clock; here the deadline is on the simulated one
        with work.working_on(work.Work(deadline=loop.time() + 2)):
            return await endpoints.lease()

    waiting = loop.create_task(hurried())
    loop.advance(1)
    assert endpoints.statistics().waiting == 1
    loop.advance(1.5)
    assert isinstance(waiting.exception(), DeadlineExceeded)
    assert endpoints.statistics().waiting == 0
    one.end()
    one.end()
    assert take_all(loop, endpoints, 1) == {"a": 1}


def test_the_queue_is_bounded(loop: SimulatedLoop) -> None:
    endpoints = servers(loop, Endpoint("a", bound=1), most_waiting=1)
    one = take(loop, endpoints)
    waiting = loop.create_task(endpoints.lease())
    loop.settle()
    error = refused(loop, endpoints)
    assert isinstance(error, Overloaded)
    assert not isinstance(error, AllEjected)
    one.end()
    loop.settle()
    waiting.result().end()


def test_given_and_cancelled_in_the_same_moment(loop: SimulatedLoop) -> None:
    endpoints = servers(loop, Endpoint("a", bound=1))
    one = take(loop, endpoints)
    cancelled = loop.create_task(endpoints.lease())
    next_one = loop.create_task(endpoints.lease())
    loop.settle()
    one.end()  # which gives the place to the first
    cancelled.cancel()
    loop.settle()
    assert cancelled.cancelled()
    assert next_one.result().server == "a"
    next_one.result().end()
    assert endpoints.statistics().servers[0].in_use == 0


def test_closing_refuses_those_who_wait(loop: SimulatedLoop) -> None:
    endpoints = servers(loop, Endpoint("a", bound=1))
    one = take(loop, endpoints)
    waiting = loop.create_task(endpoints.lease())
    loop.settle()
    endpoints.close()
    endpoints.close()
    loop.settle()
    assert isinstance(waiting.exception(), Closed)
    with pytest.raises(Closed):
        take(loop, endpoints)
    one.end()


def test_servers_come_and_go_while_requests_run(loop: SimulatedLoop) -> None:
    endpoints = servers(loop, Endpoint("a", bound=1))
    one = take(loop, endpoints)
    tasks = [loop.create_task(endpoints.lease()) for _ in range(4)]
    loop.settle()
    endpoints.balance.put(Endpoint("b", bound=2))
    loop.settle()
    assert [task.done() for task in tasks] == [True, True, False, False]
    endpoints.balance.put(Endpoint("a", bound=2))
    loop.settle()
    assert tasks[2].result().server == "a"
    endpoints.balance.remove("a")
    with pytest.raises(BadInput, match="last server"):
        endpoints.balance.remove("b")
    drained = loop.create_task(endpoints.drained("a"))
    one.end()
    loop.settle()
    assert not drained.done()
    assert not tasks[3].done(), "nothing more goes to a server on its way out"
    tasks[2].result().end()
    loop.settle()
    assert drained.done()
    assert [server.name for server in endpoints.statistics().servers] == ["b"]
    tasks[0].result().end()
    loop.settle()
    assert tasks[3].result().server == "b"
    endpoints.balance.put(Endpoint("a"))
    endpoints.balance.put(Endpoint("b", bound=1))  # two are running: none is lost
    assert take(loop, endpoints).server == "a"
    endpoints.balance.remove("a")
    back = loop.create_task(endpoints.drained("a"))
    loop.settle()
    endpoints.balance.put(Endpoint("a"))
    loop.settle()
    assert back.done(), "it came back"


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [Endpoint("a"), Endpoint("a")],
        [Endpoint("a", weight=0)],
        [Endpoint("a", weight=float("nan"))],
        [Endpoint("a", bound=0)],
    ],
)
def test_what_is_no_set(loop: SimulatedLoop, bad: list[Endpoint]) -> None:
    with pytest.raises(BadInput):
        servers(loop, *bad)


def test_a_server_has_a_limit_of_its_own(loop: SimulatedLoop) -> None:
    """Below its bound; what is held counts, and a limit that grows lets in who waits."""
    limits: dict[str, ConcurrencyLimit] = {}

    def learned(server: Endpoint, grown: Callable[[], None]) -> ConcurrencyLimit:
        most = {"a": 1, "b": 2}[server.name]
        limits[server.name] = ConcurrencyLimit(
            server.name, highest=most, grown=grown, clock=loop.time
        )
        return limits[server.name]

    endpoints = servers(loop, Endpoint("a"), Endpoint("b"), learned=learned)
    held = [take(loop, endpoints) for _ in range(3)]
    assert Counter(lease.server for lease in held) == {"a": 1, "b": 2}
    assert [server.limit for server in endpoints.statistics().servers] == [1, 2]
    waiting = [loop.create_task(endpoints.lease()) for _ in range(3)]
    loop.settle()
    assert not any(task.done() for task in waiting)
    held[0].alive()
    held[0].end()
    loop.settle()
    assert [task.done() for task in waiting] == [True, False, False]
    endpoints.balance.set_capacity("b", 3)
    loop.settle()
    assert waiting[1].result().server == "b"
    endpoints.balance.set_capacity("b", None)
    endpoints.balance.set_capacity("nowhere", 3)
    loop.settle()
    assert not waiting[2].done()  # what was told is where learning begins
    endpoints.balance.set_capacity("b", 4)
    loop.settle()
    assert waiting[2].result().server == "b"
    for lease in [*held[1:], *(task.result() for task in waiting)]:
        lease.end()
    assert [limit.statistics().in_flight for limit in limits.values()] == [0, 0]
