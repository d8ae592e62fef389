from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vivace.errors import Closed, DeadlineExceeded
from vivace.run.pools import ThreadPool
from vivace.run.work import Priority, work_context


class Gate:
    """Holds a thread until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.open.wait(30)
        return "through"


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(1, "test-pool")
    yield pool
    pool.close()


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, 30)


def waiting(pool: ThreadPool) -> int:
    return sum(pool.statistics().queued.values())


async def test_a_call_runs_on_a_named_thread(pool: ThreadPool) -> None:
    def name(a: int, b: str) -> tuple[int, str, str]:
        return a, b, threading.current_thread().name

    first, second, thread = await pool.run(name, 1, "x")
    assert (first, second) == (1, "x")
    assert thread.startswith("test-pool")
    found = pool.statistics()
    assert (found.threads, found.running, found.done, found.failed) == (1, 0, 1, 0)
    assert set(found.queued.values()) == {0}


async def test_an_error_reaches_its_caller(pool: ThreadPool) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await pool.run(int, "x")
    assert pool.statistics().failed == 1


async def test_a_stop_iteration_does_not_hang_its_caller(pool: ThreadPool) -> None:
    empty: Iterator[int] = iter([])
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pool.run(lambda: next(empty))


async def test_a_cancelled_call_never_starts(pool: ThreadPool) -> None:
    gate, ran = Gate(), threading.Event()
    try:
        first = asyncio.create_task(pool.run(gate))
        await entered(gate)
        second = asyncio.create_task(pool.run(ran.set))
        await asyncio.sleep(0)
        assert (waiting(pool), pool.statistics().running) == (1, 1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert (waiting(pool), pool.statistics().cancelled) == (0, 1)
    finally:
        gate.open.set()
    assert await first == "through"
    assert not ran.is_set()


async def test_close_fails_what_is_queued_and_waits_for_what_runs(pool: ThreadPool) -> None:
    gate = Gate()
    try:
        running = asyncio.create_task(pool.run(gate))
        await entered(gate)
        queued = asyncio.create_task(pool.run(int, "1"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(pool.close))
        while not pool.closed:  # noqa: ASYNC110 - close() has no event; this yields, never sleeps
            await asyncio.sleep(0)
    finally:
        gate.open.set()
    await closing
    assert await running == "through"
    with pytest.raises(Closed, match="test-pool is closed"):
        await queued
    with pytest.raises(Closed):
        await pool.run(int, "1")
    pool.close()


async def test_calls_run_by_priority_and_then_by_turns_of_users(pool: ThreadPool) -> None:
    gate, order = Gate(), list[str]()
    try:
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(pool.run(gate))]
        await entered(gate)
        for priority, user in [
            (Priority.BACKGROUND, "a"),
            (Priority.INTERACTIVE, "a"),
            (Priority.INTERACTIVE, "a"),
            (Priority.INTERACTIVE, "b"),
        ]:
            with work_context(priority, user=user):
                tasks.append(asyncio.create_task(pool.run(order.append, f"{user}{priority}")))
        await asyncio.sleep(0)
    finally:
        gate.open.set()
    await asyncio.gather(*tasks)
    assert order == ["a0", "b0", "a0", "a3"]


async def test_an_expired_call_never_begins(pool: ThreadPool) -> None:
    with work_context(seconds=-1), pytest.raises(DeadlineExceeded, match="test-pool: the deadline"):
        await pool.run(int, "1")
    statistics = pool.statistics()
    assert (statistics.expired, statistics.done) == (1, 0)


async def test_threads_are_added_for_waiting_calls_and_end_when_there_are_too_many(
    pool: ThreadPool,
) -> None:
    gates = [Gate() for _ in range(3)]
    try:
        tasks = [asyncio.create_task(pool.run(gate)) for gate in gates]
        await entered(gates[0])
        pool.resize(3)
        for gate in gates:
            await entered(gate)
        pool.resize(1)
        assert pool.statistics().threads == 1
    finally:
        for gate in gates:
            gate.open.set()
    assert await asyncio.gather(*tasks) == ["through"] * 3
    assert await pool.run(int, "1") == 1
    assert len(pool.slots) == 1


def test_two_event_loops_take_turns(pool: ThreadPool) -> None:
    for number in range(3):
        assert asyncio.run(pool.run(int, str(number))) == number


async def test_a_result_for_a_cancelled_call_is_dropped(pool: ThreadPool) -> None:
    gate = Gate()
    task = asyncio.create_task(pool.run(gate))
    await entered(gate)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open.set()
    assert await pool.run(int, "1") == 1
    statistics = pool.statistics()
    assert (statistics.cancelled, statistics.done) == (1, 1)
