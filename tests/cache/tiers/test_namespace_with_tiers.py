"""Read-through, back-fill, deletes and invalidation over a real server and a real file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cache.tiers.process import Process
from tests.support.services import Valkey
from tests.support.wires import Proxy
from vivace.cache import values
from vivace.cache.namespace import CacheNamespace
from vivace.cache.tiers.loading import load
from vivace.cache.tiers.redis import RedisTier
from vivace.cache.tiers.resilient import ResilientTier
from vivace.cache.tiers.sqlite import SqliteTier
from vivace.settings.tree import Cache

server = pytest.mark.integration


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110 - another process would send no event either
            await asyncio.sleep(0.005)


def redis(url: str) -> RedisTier:
    return RedisTier(url, seconds=1.0)


async def never() -> bytes:
    raise AssertionError("computed what a tier has")


@server
async def test_a_process_finds_what_another_computed_for_the_time_it_has_left(
    valkey: Valkey, tmp_path: Path
) -> None:
    settings = Cache(redis=valkey.url, sql="sqlite", tier_ms=1000)
    one, other = (Process(load(settings, tmp_path)) for _ in range(2))
    for process in (one, other):
        await process.listening()

    async def compute() -> bytes:
        return b"computed"

    assert await one.values.get_or_compute(b"k", compute, ttl=60.0) == b"computed"
    await one.drained()
    assert await other.values.get_or_compute(b"k", never, ttl=3600.0) == b"computed"
    other.now += 50
    assert other.held(b"k") == b"computed"
    other.now += 10
    assert other.held(b"k") is None
    await one.close()
    await other.close()


@server
async def test_a_value_that_only_l3_has_is_copied_to_l2(valkey: Valkey, tmp_path: Path) -> None:
    one, other = (
        Process(load(Cache(redis=valkey.url, sql="sqlite", tier_ms=1000), tmp_path))
        for _ in range(2)
    )
    await other.listening()
    await one.values.set(b"k", b"value", ttl=60.0)
    await one.drained()
    valkey.ask("FLUSHALL")
    assert await other.values.get(b"k") == b"value"
    await other.drained()
    found = await other.tiers.tiers[0].get(b"k")
    assert found is not None
    assert found[1] is not None
    assert 50 < found[1] <= 60
    await one.close()
    await other.close()


async def test_damaged_foreign_and_undecodable_values_are_misses(tmp_path: Path) -> None:
    raw = SqliteTier(tmp_path / "cache.db", max_bytes=1 << 20)
    good = values.pack(b"stored", expires=None)
    await raw.set(b"cut", good[:-1])
    await raw.set(b"foreign", values.pack(b"stored", schema=2, expires=None))
    await raw.set(b"odd", values.pack(b"\xff", expires=None))
    await raw.set(b"good", good)
    process = Process([raw], capacity=0)
    texts: CacheNamespace[str] = process.memory.namespace(
        "text", encode=str.encode, decode=lambda data: data.decode()
    )

    async def compute() -> str:
        return "computed"

    for key in (b"cut", b"foreign", b"odd"):
        assert await texts.get_or_compute(key, compute, ttl=None) == "computed"
    assert await texts.get_or_compute(b"good", compute, ttl=None) == "stored"
    (tier,) = process.tiers.tiers
    assert tier.trace.counters()["cache.sqlite.unreadable"] == 3
    await process.close()


async def test_a_namespace_without_a_codec_stays_in_its_process(tmp_path: Path) -> None:
    process = Process([SqliteTier(tmp_path / "cache.db", max_bytes=1 << 20)])
    local: CacheNamespace[bytes] = process.memory.namespace("local")
    await local.set(b"k", b"value")
    await process.drained()
    assert await local.get(b"k") == b"value"
    assert await process.tiers.tiers[0].get(b"k") is None
    await process.close()


@server
async def test_a_delete_reaches_the_memories_of_other_processes(valkey: Valkey) -> None:
    one, other = (Process([redis(valkey.url)]) for _ in range(2))
    await one.values.set(b"k", b"old")
    await one.values.set(b"l", b"stays")
    await one.drained()
    await other.listening()
    assert await other.values.get(b"k") == b"old"
    assert await other.values.get(b"l") == b"stays"
    await one.values.delete(b"k")
    await until(lambda: other.held(b"k") is None)
    assert other.held(b"l") == b"stays"
    assert await other.values.get(b"k") is None
    cleared: list[int] = []
    other.memory.on_clear(lambda: cleared.append(1))
    await one.memory.clear()
    await until(lambda: other.held(b"l") is None)
    assert await other.values.get(b"l") is None
    assert cleared
    await one.close()
    await other.close()


@server
async def test_a_process_that_was_cut_off_forgets_everything_when_it_is_connected_again(
    valkey: Valkey,
) -> None:
    with Proxy(valkey.port) as wire:
        process = Process([redis(f"redis://127.0.0.1:{wire.port}")])
        await process.listening()
        await process.values.set(b"k", b"perhaps deleted meanwhile")
        wire.cut()
        await until(lambda: not process.invalidation.connected.is_set())
        assert process.held(b"k") is not None
        wire.mend()
        await process.invalidation.connected.wait()
        assert process.held(b"k") is None
        await process.close()


@server
async def test_a_value_deleted_while_the_tier_is_away_never_comes_back(valkey: Valkey) -> None:
    with Proxy(valkey.port) as wire:
        near = Process([RedisTier(f"redis://127.0.0.1:{wire.port}", seconds=0.1)], seconds=0.1)
        far = Process([redis(valkey.url)])
        await near.values.set(b"k", b"old")
        await near.drained()
        await far.listening()
        assert await far.values.get(b"k") == b"old"
        wire.cut()
        await near.values.delete(b"k")
        assert await near.values.get(b"k") is None
        wire.mend()
        await near.drained()
        assert await near.values.get(b"k") is None
        # a process that could not be told then is told to forget everything, later
        await until(lambda: far.held(b"k") is None)
        assert await far.values.get(b"k") is None
        await near.close()
        await far.close()


@server
async def test_a_value_deleted_while_it_is_computed_is_not_kept(valkey: Valkey) -> None:
    process = Process([redis(valkey.url)], lease=2.0)
    await process.listening()
    started, deleted = asyncio.Event(), asyncio.Event()

    async def compute() -> bytes:
        started.set()
        await deleted.wait()
        return b"of the state before"

    asking = asyncio.create_task(process.values.get_or_compute(b"k", compute, ttl=60.0))
    await started.wait()
    await process.values.delete(b"k")
    deleted.set()
    assert await asking == b"of the state before"
    assert process.held(b"k") is None
    await process.drained()
    assert await process.tiers.tiers[0].get(b"k") is None
    await process.close()


class Slow(SqliteTier):
    """Every read and every clear takes its time."""

    name = "slow"
    seconds = 0.2
    asked = 0

    async def get(self, key: bytes) -> tuple[bytes, float | None] | None:
        self.asked += 1
        await asyncio.sleep(self.seconds)
        return await super().get(key)

    async def clear(self) -> None:
        await asyncio.sleep(self.seconds)
        await super().clear()


async def test_many_keys_are_read_in_the_time_of_one(tmp_path: Path) -> None:
    slow = Slow(tmp_path / "c.db", max_bytes=1 << 20)
    process = Process([slow])
    for n in range(0, 50, 2):
        await process.values.set(b"%d" % n, b"value %d" % n)
    await process.drained()
    process.memory.store.clear()
    keys = [b"%d" % (n % 50) for n in range(100)]
    started = asyncio.get_running_loop().time()
    found = await process.values.get_many(keys)
    took = asyncio.get_running_loop().time() - started
    assert found == [b"value " + key if int(key) % 2 == 0 else None for key in keys]
    assert slow.asked == 50
    assert took < 10 * Slow.seconds  # one after another would take 50 times as long
    assert [n for n in range(50) if process.held(b"%d" % n) is not None] == list(range(0, 50, 2))
    await process.close()


async def test_many_keys_of_a_tier_that_hangs_wait_no_longer_than_one(tmp_path: Path) -> None:
    class Hung(Slow):
        seconds = 60.0

    process = Process([Hung(tmp_path / "c.db", max_bytes=1 << 20)], seconds=0.1)
    async with asyncio.timeout(5):
        assert await process.values.get_many([b"%d" % n for n in range(200)]) == [None] * 200
    await process.close()


@server
async def test_the_others_are_told_again_when_a_slow_tier_has_been_cleared(
    valkey: Valkey, tmp_path: Path
) -> None:
    slow = Slow(tmp_path / "c.db", max_bytes=1 << 20)
    shared = ResilientTier(slow, seconds=1.0)
    one, other = (Process([redis(valkey.url), shared]) for _ in range(2))
    for process in (one, other):
        await process.listening()
    await one.values.set(b"k", b"old")
    await one.drained()
    assert await other.values.get(b"k") == b"old"
    slow.seconds = 1.0
    await one.memory.clear(seconds=0.05)
    # as if it had read the value in the moment before the slow tier was cleared
    await until(lambda: other.held(b"k") is None)
    other.memory.store.set(b"k", b"old", other.memory.store.counts("bytes"))
    assert shared.queue.clearing
    await until(lambda: other.held(b"k") is None)
    assert not shared.queue.clearing
    await one.close()
    await other.close()


async def test_clearing_may_wait_until_it_is_done(tmp_path: Path) -> None:
    slow = Slow(tmp_path / "c.db", max_bytes=1 << 20)
    process = Process([slow], seconds=0.5)
    await process.values.set(b"k", b"v")
    await process.drained()
    assert (await process.memory.clear(seconds=10.0)).tiers == {"slow": True}
    assert await slow.get(b"k") is None
    await process.close()
