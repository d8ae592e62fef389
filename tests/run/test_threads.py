from __future__ import annotations

import asyncio
import threading

import pytest

from vivace.run import host
from vivace.run.microbatch import MicroBatcher
from vivace.run.pools import ThreadPool
from vivace.run.threads import CoreHold, Cores, divide


def test_each_kind_gets_a_thread_per_core_unless_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "cores", lambda: 3)
    automatic, fixed = divide(0, 0), divide(1, 0)
    assert (automatic.embed, automatic.search) == (3, 3)
    assert automatic.cores is not None
    assert (fixed.embed, fixed.search, fixed.cores) == (1, 3, None)


def test_the_thread_that_waited_longest_gets_the_core() -> None:
    cores, order = Cores(1), list[int]()

    def work(number: int) -> None:
        cores.acquire()
        order.append(number)
        cores.release()

    cores.acquire()
    assert not cores.free
    started = []
    for number in range(4):
        thread = threading.Thread(target=work, args=(number,))
        thread.start()
        started.append(thread)
        while cores.waiting <= number:
            thread.join(0.001)
    cores.release()
    for thread in started:
        thread.join(30)
    assert order == [0, 1, 2, 3]
    assert cores.free


def test_a_thread_yields_its_core_only_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores = Cores(1)
    holding = CoreHold(cores)
    holding.take()

    def pass_through() -> None:
        cores.acquire()
        cores.release()

    other = threading.Thread(target=pass_through)
    other.start()
    while not cores.waiting:
        other.join(0.001)
    monkeypatch.setattr("vivace.run.threads.time.monotonic", lambda: 0.0)
    holding.yield_if_due()
    assert cores.waiting
    monkeypatch.setattr("vivace.run.threads.time.monotonic", lambda: 1e9)
    holding.yield_if_due()
    other.join(30)
    assert not cores.waiting
    holding.give()
    assert cores.free


class Running:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = self.total = 0

    def __call__(self, items: list[int]) -> list[int]:
        with self._lock:
            self.now += 1
            self.total += len(items)
            self.most = max(self.most, self.now)
        sum(range(2_000))
        with self._lock:
            self.now -= 1
        return items


async def test_workers_that_share_cores_never_run_more_at_once() -> None:
    cores, running = Cores(2), Running()
    pool = ThreadPool(4, "search", cores=cores)
    batcher: MicroBatcher[int, int] = MicroBatcher(running, workers=4, cap=4, cores=cores)
    try:

        async def client(number: int) -> None:
            for _ in range(20):
                assert await pool.run(running, [number]) == [number]
                assert await batcher.run(number) == number

        await asyncio.gather(*(client(number) for number in range(16)))
    finally:
        pool.close()
        batcher.close()
    assert running.total == 2 * 16 * 20
    assert running.most <= 2
    assert cores.free == 2
