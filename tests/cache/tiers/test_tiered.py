"""Read-through, back-fill, deletes and the version channel over a real server and a real file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.cache.tiers.standin import Plain
from tests.support.services import Valkey
from tests.support.wires import Proxy
from vivace.cache import codec
from vivace.cache.guarded import ResilientTier
from vivace.cache.invalidation import Invalidation
from vivace.cache.tiered import Tiered, invalidation
from vivace.cache.tiers import load
from vivace.cache.tiers.redis import RedisTier
from vivace.cache.tiers.sqlite import SqliteTier
from vivace.protocols import CacheTier
from vivace.settings.tree import Cache


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110 - another process would tell nobody either
            await asyncio.sleep(0.005)


def cached(
    tiers: list[CacheTier], channel: Invalidation | None = None, lease: float = 0.0
) -> tuple[Tiered[bytes], Plain]:
    memory = Plain()
    return (
        Tiered(
            memory,
            tiers,
            encode=bytes,
            decode=bytes,
            seconds=1.0,
            lease=lease,
            channel=channel,
        ),
        memory,
    )


async def never() -> bytes:
    raise AssertionError("computed what a tier has")


async def close(*tiers: CacheTier) -> None:
    for tier in tiers:
        await tier.close()


async def test_a_process_finds_what_another_computed_with_the_life_left(
    valkey: Valkey, tmp_path: Path
) -> None:
    settings = Cache(redis=valkey.url, sql="sqlite", tier_ms=1000)
    first, second = load(settings, tmp_path), load(settings, tmp_path)
    one, _ = cached(first)

    async def compute() -> bytes:
        return b"computed"

    assert await one.get_or_compute(b"k", compute, ttl=60.0) == b"computed"
    for tier in first:
        assert isinstance(tier, ResilientTier)
        await tier.queue.drained()
    other, memory = cached(second)
    assert await other.get_or_compute(b"k", never, ttl=3600.0) == b"computed"
    life = memory.lives[b"k"]
    assert life is not None
    assert 50 < life <= 60
    await close(*first, *second)


async def test_what_only_l3_has_is_filled_back(valkey: Valkey, tmp_path: Path) -> None:
    tiers = load(Cache(redis=valkey.url, sql="sqlite", tier_ms=1000), tmp_path)
    near, far = tiers
    assert isinstance(near, ResilientTier)
    assert isinstance(far, ResilientTier)
    cache, _ = cached(tiers)
    await cache.set(b"k", b"value", ttl=60.0)
    await near.queue.drained()
    await far.queue.drained()
    valkey.ask("FLUSHALL")
    again, _ = cached(tiers)
    assert await again.get(b"k") == b"value"
    await near.queue.drained()
    found = await near.get(b"k")
    assert found is not None
    assert found[1] is not None
    assert 50 < found[1] <= 60
    await close(*tiers)


async def test_damaged_foreign_and_undecodable_values_are_misses(tmp_path: Path) -> None:
    raw = SqliteTier(tmp_path / "cache.db", max_bytes=1 << 20)
    good = codec.pack(b"stored", schema=1, expires=None)
    await raw.set(b"cut", good[:-1])
    await raw.set(b"foreign", codec.pack(b"stored", schema=2, expires=None))
    await raw.set(b"odd", codec.pack(b"\xff", schema=1, expires=None))
    await raw.set(b"good", good)
    tier = ResilientTier(raw, seconds=1.0)
    cache: Tiered[str] = Tiered(
        Text(), [tier], encode=str.encode, decode=lambda data: data.decode(), seconds=1.0
    )

    async def compute() -> str:
        return "computed"

    for key in (b"cut", b"foreign", b"odd"):
        assert await cache.get_or_compute(key, compute, ttl=None) == "computed"
    assert await cache.get_or_compute(b"good", compute, ttl=None) == "stored"
    assert tier.trace.counters()["cache.sqlite.unreadable"] == 3
    await close(tier)


class Text:
    """A memory that keeps nothing."""

    def get(self, key: bytes) -> None:
        return None

    def set(
        self, key: bytes, value: str, *, ttl: float | None = None, cost: float = 1, kind: str = ""
    ) -> None: ...

    def delete(self, key: bytes) -> bool:
        return False

    def clear(self, kind: str | None = None) -> int:
        return 0

    async def get_or_compute(self, key: bytes, compute, **_: object) -> str:  # type: ignore[no-untyped-def]
        found: str = await compute()
        return found


async def test_a_delete_reaches_the_memories_of_other_processes(valkey: Valkey) -> None:
    tiers = [
        ResilientTier(RedisTier(valkey.url, seconds=1.0), seconds=1.0),
        ResilientTier(RedisTier(valkey.url, seconds=1.0), seconds=1.0),
    ]
    channels = [invalidation([tier]) for tier in tiers]
    (one, _), (other, memory) = (cached([t], c) for t, c in zip(tiers, channels))
    await one.set(b"k", b"old")
    await one.set(b"l", b"stays")
    await tiers[0].queue.drained()
    assert channels[1] is not None
    other._begin()
    await channels[1].connected.wait()
    assert await other.get(b"k") == b"old"
    assert await other.get(b"l") == b"stays"
    await one.delete(b"k")
    await until(lambda: b"k" not in memory.values)
    assert memory.values == {b"l": b"stays"}
    assert await other.get(b"k") is None
    await one.clear()
    await until(lambda: not memory.values)
    assert await other.get(b"l") is None
    for channel in channels:
        assert channel is not None
        await channel.close()
    await close(*tiers)


async def test_who_was_cut_off_forgets_everything_when_it_hears_again(valkey: Valkey) -> None:
    with Proxy(valkey.port) as wire:
        tier = ResilientTier(RedisTier(f"redis://127.0.0.1:{wire.port}", seconds=1.0), seconds=1.0)
        channel = invalidation([tier])
        assert channel is not None
        cache, memory = cached([tier], channel)
        cache._begin()
        await channel.connected.wait()
        await cache.set(b"k", b"perhaps deleted meanwhile")
        wire.cut()
        await until(lambda: not channel.connected.is_set())
        assert b"k" in memory.values
        wire.mend()
        await channel.connected.wait()
        assert memory.values == {}
        await channel.close()
        await close(tier)


async def test_what_is_deleted_while_the_tier_is_away_never_comes_back(valkey: Valkey) -> None:
    with Proxy(valkey.port) as wire:
        tier = ResilientTier(RedisTier(f"redis://127.0.0.1:{wire.port}", seconds=0.1), seconds=0.1)
        other = ResilientTier(RedisTier(valkey.url, seconds=1.0), seconds=1.0)
        listening, talking = invalidation([other]), invalidation([tier])
        assert listening is not None
        cache, _ = cached([tier], talking)
        far, far_memory = cached([other], listening)
        await cache.set(b"k", b"old")
        await tier.queue.drained()
        far._begin()
        await listening.connected.wait()
        assert await far.get(b"k") == b"old"
        wire.cut()
        await cache.delete(b"k")
        assert await cache.get(b"k") is None
        wire.mend()
        await tier.queue.drained()
        assert await cache.get(b"k") is None
        # who could not be told then is told to forget everything, later
        await until(lambda: not far_memory.values)
        assert await far.get(b"k") is None
        for channel in (listening, talking):
            assert channel is not None
            await channel.close()
        await close(tier, other)


async def test_what_is_deleted_while_it_is_computed_is_not_kept(valkey: Valkey) -> None:
    tier = ResilientTier(RedisTier(valkey.url, seconds=1.0), seconds=1.0)
    cache, memory = cached([tier], lease=2.0)
    started, deleted = asyncio.Event(), asyncio.Event()

    async def compute() -> bytes:
        started.set()
        await deleted.wait()
        return b"of the state before"

    asking = asyncio.create_task(cache.get_or_compute(b"k", compute, ttl=60.0))
    await started.wait()
    await cache.delete(b"k")
    deleted.set()
    assert await asking == b"of the state before"
    assert memory.values == {}
    await tier.queue.drained()
    assert await tier.get(b"k") is None
    await close(tier)


class Slow(SqliteTier):
    """One that takes its time."""

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


async def test_many_are_asked_for_in_the_time_of_one(tmp_path: Path) -> None:
    slow = Slow(tmp_path / "c.db", max_bytes=1 << 20)
    tier = ResilientTier(slow, seconds=1.0)
    cache, memory = cached([tier])
    for n in range(0, 50, 2):
        await cache.set(b"%d" % n, b"value %d" % n)
    await tier.queue.drained()
    memory.values.clear()
    keys = [b"%d" % (n % 50) for n in range(100)]
    started = asyncio.get_running_loop().time()
    found = await cache.get_many(keys)
    took = asyncio.get_running_loop().time() - started
    assert found == [b"value " + key if int(key) % 2 == 0 else None for key in keys]
    assert slow.asked == 50
    assert took < 10 * Slow.seconds  # one after another it were 50 times
    assert memory.values.keys() == {b"%d" % n for n in range(0, 50, 2)}
    await close(tier)


async def test_many_of_a_tier_that_hangs_wait_no_longer_than_one(tmp_path: Path) -> None:
    class Hung(Slow):
        seconds = 60.0

    tier = ResilientTier(Hung(tmp_path / "c.db", max_bytes=1 << 20), seconds=0.1)
    cache, _ = cached([tier])
    async with asyncio.timeout(5):
        assert await cache.get_many([b"%d" % n for n in range(200)]) == [None] * 200
    await close(tier)


async def test_the_others_are_told_again_when_a_slow_tier_has_forgotten(
    valkey: Valkey, tmp_path: Path
) -> None:
    slow = ResilientTier(Slow(tmp_path / "c.db", max_bytes=1 << 20), seconds=1.0)
    near = [ResilientTier(RedisTier(valkey.url, seconds=1.0), seconds=1.0) for _ in range(2)]
    channels = [invalidation([each]) for each in near]
    one, _ = cached([near[0], slow], channels[0])
    other, memory = cached([near[1], slow], channels[1])
    other._begin()
    assert channels[1] is not None
    await channels[1].connected.wait()
    await one.set(b"k", b"old")
    for tier in (near[0], slow):
        await tier.queue.drained()
    assert await other.get(b"k") == b"old"
    slow.tier.__dict__["seconds"] = 1.0
    await one.clear(seconds=0.05)
    # as if it had looked in the moment before the slow tier forgot
    await until(lambda: not memory.values)
    memory.set(b"k", b"old")
    assert slow.queue.clearing
    await until(lambda: not memory.values)
    assert not slow.queue.clearing
    for channel in channels:
        assert channel is not None
        await channel.close()
    await close(*near, slow)


async def test_who_clears_may_wait_until_it_is_done(tmp_path: Path) -> None:
    tier = ResilientTier(Slow(tmp_path / "c.db", max_bytes=1 << 20), seconds=0.5)
    cache, _ = cached([tier])
    await cache.set(b"k", b"v")
    await tier.queue.drained()
    await cache.clear(seconds=10.0)
    assert not tier.queue.clearing
    assert await tier.tier.get(b"k") is None
    await close(tier)
