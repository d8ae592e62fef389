"""Single flight: one computes, whatever becomes of the leader."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.cache.turns import until
from vivace.cache.flight import SingleFlight
from vivace.errors import DeadlineExceeded


class Work:
    """CacheCounts its runs; each waits until it is let go."""

    def __init__(self) -> None:
        self.runs = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.runs += 1
        run = self.runs
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return run


async def started(
    flights: SingleFlight, work: Work, n: int, **how: object
) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(flights.run("k", work, **how)) for _ in range(n)]  # type: ignore[arg-type]
    await until(lambda: bool(work.runs))
    await asyncio.sleep(0)
    return tasks


async def test_a_hundred_at_once_are_one() -> None:
    flights, work = SingleFlight(), Work()
    tasks = await started(flights, work, 100)
    assert len(flights) == 1
    work.go.set()
    assert await asyncio.gather(*tasks) == [1] * 100
    assert (work.runs, len(flights)) == (1, 0)


async def test_a_cancelled_leader_hands_over() -> None:
    flights, work = SingleFlight(), Work()
    leader, *others = await started(flights, work, 10)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    await until(lambda: work.runs == 2)
    work.go.set()
    assert await asyncio.gather(*others) == [2] * 9
    assert work.runs == 2


async def test_a_cancelled_follower_is_missed_by_nobody() -> None:
    flights, work = SingleFlight(), Work()
    leader, follower, other = await started(flights, work, 3)
    follower.cancel()
    work.go.set()
    assert await leader == await other == 1
    assert follower.cancelled() or follower.done()


async def test_a_failing_leader_fails_those_that_wait_and_nobody_else() -> None:
    flights, work = SingleFlight(), Work()
    tasks = await started(flights, work, 5)
    work.error = RuntimeError("broken")
    work.go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(each) for each in outcomes] == ["broken"] * 5
    work.error = None
    assert await flights.run("k", work) == 2


async def test_what_is_the_leaders_own_is_not_shared() -> None:
    flights, work = SingleFlight(), Work()
    tasks = await started(flights, work, 4, shared=lambda run: run != 1)
    work.go.set()
    assert sorted(await asyncio.gather(*tasks)) == [1, 2, 3, 4]


async def test_the_leaders_deadline_is_not_that_of_others() -> None:
    flights, work = SingleFlight(), Work()
    tasks = await started(flights, work, 3, own=(DeadlineExceeded,))
    work.error = DeadlineExceeded("late", fix="Wait")
    work.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert work.runs == 3  # each for himself, and each with his own error


async def test_who_has_waited_long_enough_computes_alone() -> None:
    flights, work = SingleFlight(), Work()
    (leader,) = await started(flights, work, 1)
    hasty = asyncio.create_task(flights.run("k", work, patience=0.0))
    await until(lambda: work.runs == 2)
    work.go.set()
    assert (await leader, await hasty) == (1, 2)


def test_threads_with_loops_of_their_own_share_one() -> None:
    flights = SingleFlight()
    ready, go = threading.Event(), threading.Event()
    runs: list[int] = []
    found: list[int] = []

    async def compute() -> int:
        runs.append(1)
        ready.set()
        await asyncio.to_thread(go.wait)
        return len(runs)

    def call() -> int:
        runs.append(2)
        return 0

    def loop() -> None:
        found.append(asyncio.run(flights.run("k", compute)))

    first = threading.Thread(target=loop)
    first.start()
    ready.wait()
    others = [threading.Thread(target=loop) for _ in range(4)]
    others.append(threading.Thread(target=lambda: found.append(flights.call("k", call))))
    for thread in others:
        thread.start()
    flight = flights._flying["k"]
    while len(flight.waiting) < 5:
        threading.Event().wait(0.001)
    go.set()
    for thread in (first, *others):
        thread.join()
    assert found == [1] * 6
    assert runs == [1]
