from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from vivace.errors import Closed
from vivace.run.pools import Pool, PoolStatistics


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
def pool() -> Iterator[Pool]:
    pool = Pool(1, "test-pool")
    yield pool
    pool.close()


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, 30)


async def test_a_call_runs_on_a_named_thread(pool: Pool) -> None:
    def name(a: int, b: str) -> tuple[int, str, str]:
        return a, b, threading.current_thread().name

    first, second, thread = await pool.run(name, 1, "x")
    assert (first, second) == (1, "x")
    assert thread.startswith("test-pool")
    assert pool.statistics() == PoolStatistics(threads=1, queued=0, running=0, done=1, failed=0)


async def test_an_error_reaches_its_caller(pool: Pool) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await pool.run(int, "x")
    assert pool.statistics().failed == 1


async def test_a_stray_stop_iteration_does_not_hang(pool: Pool) -> None:
    empty: Iterator[int] = iter([])
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pool.run(lambda: next(empty))


async def test_a_cancelled_call_never_starts(pool: Pool) -> None:
    gate, ran = Gate(), threading.Event()
    try:
        first = asyncio.create_task(pool.run(gate))
        await entered(gate)
        second = asyncio.create_task(pool.run(ran.set))
        await asyncio.sleep(0)
        assert (pool.statistics().queued, pool.statistics().running) == (1, 1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert pool.statistics().queued == 0
    finally:
        gate.open.set()
    assert await first == "through"
    assert not ran.is_set()


async def test_close_fails_what_is_queued_and_waits_for_what_runs(pool: Pool) -> None:
    gate = Gate()
    try:
        running = asyncio.create_task(pool.run(gate))
        await entered(gate)
        queued = asyncio.create_task(pool.run(int, "1"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(pool.close))
        while not pool._closed:  # noqa: ASYNC110 - close() has no event; this yields, never sleeps
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
