"""Single flight: one caller computes, whatever becomes of the leader."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.cache.turns import until
from vivace.cache.single_flight import Revalidation, SingleFlight
from vivace.errors import DeadlineExceeded
from vivace.run.work import Priority, current, work_context


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


async def test_a_hundred_concurrent_callers_compute_once() -> None:
    flights, work = SingleFlight(), Work()
    tasks = await started(flights, work, 100)
    assert len(flights) == 1
    work.go.set()
    assert await asyncio.gather(*tasks) == [1] * 100
    assert (work.runs, len(flights)) == (1, 0)


async def test_a_cancelled_leader_is_replaced_by_a_follower() -> None:
    flights, work = SingleFlight(), Work()
    leader, *others = await started(flights, work, 10)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    await until(lambda: work.runs == 2)
    work.go.set()
    assert await asyncio.gather(*others) == [2] * 9
    assert work.runs == 2


async def test_a_cancelled_follower_affects_no_other_caller() -> None:
    flights, work = SingleFlight(), Work()
    leader, follower, other = await started(flights, work, 3)
    follower.cancel()
    work.go.set()
    assert await leader == await other == 1
    assert follower.cancelled() or follower.done()


async def test_a_failing_leader_fails_its_followers_and_no_later_caller() -> None:
    flights, work = SingleFlight(), Work()
    tasks = await started(flights, work, 5)
    work.error = RuntimeError("broken")
    work.go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(each) for each in outcomes] == ["broken"] * 5
    work.error = None
    assert await flights.run("k", work) == 2


async def test_a_value_that_is_not_shared_is_computed_by_every_follower() -> None:
    flights, work = SingleFlight(), Work()
    tasks = await started(flights, work, 4, shared=lambda run: run != 1)
    work.go.set()
    assert sorted(await asyncio.gather(*tasks)) == [1, 2, 3, 4]


async def test_the_leaders_deadline_is_not_that_of_its_followers() -> None:
    flights, work = SingleFlight(), Work()
    tasks = await started(flights, work, 3, own=(DeadlineExceeded,))
    work.error = DeadlineExceeded("late", fix="Wait")
    work.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert work.runs == 3  # each for itself, and each with its own error


async def test_a_follower_out_of_patience_computes_alone() -> None:
    flights, work = SingleFlight(), Work()
    (leader,) = await started(flights, work, 1)
    hasty = asyncio.create_task(flights.run("k", work, patience=0.0))
    await until(lambda: work.runs == 2)
    work.go.set()
    assert (await leader, await hasty) == (1, 2)


def test_threads_with_event_loops_of_their_own_share_one_computation() -> None:
    flights = SingleFlight()
    ready, go = threading.Event(), threading.Event()
    runs: list[int] = []
    found: list[int] = []

    async def compute() -> int:
        runs.append(1)
        ready.set()
        await asyncio.to_thread(go.wait)
        return len(runs)

    def loop() -> None:
        found.append(asyncio.run(flights.run("k", compute)))

    first = threading.Thread(target=loop)
    first.start()
    ready.wait()
    others = [threading.Thread(target=loop) for _ in range(4)]
    for thread in others:
        thread.start()
    while flights.waiting("k") < 4:
        threading.Event().wait(0.001)
    go.set()
    for thread in (first, *others):
        thread.join()
    assert found == [1] * 5
    assert runs == [1]


async def test_a_stale_value_is_recomputed_once_at_a_time() -> None:
    revalidation, go, runs = Revalidation(), asyncio.Event(), []

    async def compute() -> None:
        runs.append(1)
        await go.wait()

    for key in (b"a", b"a", b"b"):
        revalidation.begin(key, compute, lambda: None)
    await asyncio.sleep(0)
    assert len(runs) == 2
    go.set()
    await revalidation.settle()
    revalidation.begin(b"a", compute, lambda: None)
    await revalidation.settle()
    assert len(runs) == 3


async def test_recomputing_runs_in_the_background_without_the_requests_deadline() -> None:
    revalidation, seen = Revalidation(), []

    async def compute() -> None:
        seen.append((current().priority, current().deadline))

    with work_context(Priority.INTERACTIVE, seconds=1.0):
        revalidation.begin(b"a", compute, lambda: None)
    await revalidation.settle()
    assert seen == [(Priority.BACKGROUND, None)]


async def test_failed_is_called_on_errors_and_not_on_closing() -> None:
    revalidation, failed = Revalidation(), []

    async def fail() -> None:
        raise RuntimeError("broken")

    revalidation.begin(b"a", fail, lambda: failed.append(1))
    await revalidation.settle()
    assert failed == [1]
    revalidation.begin(b"b", asyncio.Event().wait, lambda: failed.append(1))
    await asyncio.sleep(0)
    await revalidation.close()
    await revalidation.close()
    assert failed == [1]
