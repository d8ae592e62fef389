"""Real servers, killed, hung, full, cut in mid-load: no request fails, the counters are true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cache.tiers.process import Process
from tests.support.outages import OUTAGES, Outage, outage_of
from vivace.cache.namespace import CacheNamespace
from vivace.cache.tiers.loading import load
from vivace.trace import Trace

KEYS = 200
pytestmark = pytest.mark.integration


class Load:
    """Callers that never stop asking; every answer is looked at."""

    def __init__(self, cache: CacheNamespace[bytes]) -> None:
        self.cache = cache
        self.asked = self.computed = 0
        self.wrong: list[object] = []
        self.started = 0

    @asynccontextmanager
    async def running(self, callers: int) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._caller()) for _ in range(callers)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not done():  # noqa: ASYNC110 - the counters know of no events
                await asyncio.sleep(0.01)

    async def more(self, asked: int) -> None:
        aim = self.asked + asked
        await self.until(lambda: self.asked >= aim)

    async def _caller(self) -> None:
        while True:
            self.started += 1
            key = b"%d" % (self.started % KEYS)

            async def compute(key: bytes = key) -> bytes:
                self.computed += 1
                return b"value of " + key * 100

            try:
                value = await self.cache.get_or_compute(key, compute, ttl=60.0)
                if value != b"value of " + key * 100:
                    self.wrong.append(value)
            except Exception as error:
                self.wrong.append(error)
            self.asked += 1
            await asyncio.sleep(0.001)


@pytest.fixture(params=sorted(OUTAGES))
def outage(request: pytest.FixtureRequest) -> Iterator[Outage]:
    kind = request.param.partition("_")[0].replace("redis", "valkey")
    with outage_of(request.param, request.getfixturevalue(kind)) as made:
        yield made


async def test_no_request_fails_and_the_tier_comes_back(outage: Outage, tmp_path: Path) -> None:
    trace = Trace()
    # the machine of the tests may be busy; what a request waits is measured by the benchmark
    (tier,) = load(outage.settings(tier_ms=100.0), tmp_path, trace)

    def counted(what: str) -> int:
        return trace.counters().get(f"cache.{tier.name}.{what}", 0)

    process = Process([tier], seconds=tier.seconds, capacity=0)
    cache = process.values
    load_ = Load(cache)
    async with load_.running(8):
        await load_.until(lambda: counted("hits") > KEYS)
        # connecting for the first time may take longer than a request waits
        before = trace.counters()

        def since(what: str) -> int:
            return counted(what) - before.get(f"cache.{tier.name}.{what}", 0)

        await asyncio.to_thread(outage.strike)
        if outage.refuses:
            await cache.set(b"new", b"value")
            await load_.until(lambda: counted("write_refused") > 0)
            hits = counted("hits")
            await load_.until(lambda: counted("hits") > hits + KEYS)
        else:
            await load_.until(lambda: since("opened") > 0)
            # what was computed meanwhile waits to be written, and is found there
            await load_.until(lambda: since("skipped") + since("queued") > 2 * KEYS)
            assert since("skipped") > 0
            assert since("recovered") == 0
            assert since("errors") + since("timeouts") >= 5
        await asyncio.to_thread(outage.mend)
        await load_.until(lambda: tier.well)
        hits = counted("hits")
        await load_.until(lambda: counted("hits") > hits + KEYS)
        # nobody has to ask for it: what is there by now is found by every key
        await load_.more(2 * KEYS)
        computed = load_.computed
        await load_.more(2 * KEYS)
        assert load_.computed - computed <= KEYS // 10
    assert load_.wrong == []
    assert counted("opened") == counted("recovered")
    reads = ("hits", "misses", "queued", "skipped", "errors", "timeouts", "refused")
    # a caller that was stopped in the middle of a read is in none of them, nor is one that came to
    # a key again while another one waited for a server that hangs
    asked = load_.started - process.memory.statistics().total.shared
    assert 0 <= asked - sum(counted(what) for what in reads) <= 8
    assert load_.computed >= asked - counted("hits") - counted("queued") - 8
    await process.close()
