"""What every tier does, over real servers and a real file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from vivace.cache.tiers.postgres import PostgresTier
from vivace.cache.tiers.redis import RedisTier
from vivace.cache.tiers.sqlite import SqliteTier
from vivace.protocols import CacheTier


@pytest_asyncio.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.integration),
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.integration),
    ]
)
async def tier(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CacheTier]:
    made: CacheTier
    if request.param == "redis":
        made = RedisTier(request.getfixturevalue("valkey").url, seconds=1.0)
    elif request.param == "sqlite":
        made = SqliteTier(tmp_path / "a" / "cache.db", max_bytes=1 << 20)
    else:
        url = request.getfixturevalue("postgres").url
        made = PostgresTier(url, max_bytes=1 << 20, seconds=1.0)
    yield made
    await made.close()


async def test_a_value_has_the_time_to_live_that_is_left(tier: CacheTier) -> None:
    assert await tier.get(b"k") is None
    value = os.urandom(4096)
    await tier.set(b"k", value, ttl=60)
    found = await tier.get(b"k")
    assert found is not None
    assert found[0] == value
    assert found[1] is not None
    assert 50 < found[1] <= 60
    await tier.set(b"k", b"", ttl=None)
    assert await tier.get(b"k") == (b"", None)


async def test_deleted_and_cleared_keys_are_misses(tier: CacheTier) -> None:
    for number in range(50):
        await tier.set(b"k%d" % number, b"v%d" % number)
    await tier.delete(b"k3")
    await tier.delete(b"unknown")
    assert await tier.get(b"k3") is None
    assert await tier.get(b"k4") == (b"v4", None)
    await tier.clear()
    found = await asyncio.gather(*(tier.get(b"k%d" % number) for number in range(50)))
    assert found == [None] * 50


async def test_an_expired_value_is_a_miss(tier: CacheTier) -> None:
    await tier.set(b"k", b"v", ttl=0.02)
    async with asyncio.timeout(10):
        while await tier.get(b"k") is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_concurrent_requests_get_their_own_values(tier: CacheTier) -> None:
    keys = [b"%d" % number for number in range(500)]
    await asyncio.gather(*(tier.set(key, b"v" + key, ttl=60) for key in keys))
    found = await asyncio.gather(*(tier.get(key) for key in keys))
    assert [one and one[0] for one in found] == [b"v" + key for key in keys]


async def test_sqlite_evicts_the_least_recently_used_values(tmp_path: Path) -> None:
    tier = SqliteTier(tmp_path / "cache.db", max_bytes=100_000)
    for number in range(9):
        await tier.set(b"%d" % number, os.urandom(10_000))
    assert await tier.get(b"0") is not None
    for number in range(9, 14):
        await tier.set(b"%d" % number, os.urandom(10_000))
    there = [number for number in range(14) if await tier.get(b"%d" % number)]
    assert 0 in there
    assert 1 not in there
    assert 13 in there
    assert 4 <= len(there) <= 10
    await tier.set(b"huge", bytes(100_001))
    assert await tier.get(b"huge") is None
    await tier.close()


async def test_sqlites_bound_holds_over_processes_and_replacements(tmp_path: Path) -> None:
    one = SqliteTier(tmp_path / "cache.db", max_bytes=50_000)
    other = SqliteTier(tmp_path / "cache.db", max_bytes=50_000)
    for number in range(40):
        await (one if number % 2 else other).set(b"%d" % (number % 20), bytes(5_000 + number))
    sizes = [len(found[0]) for n in range(20) if (found := await one.get(b"%d" % n))]
    assert 25_000 < sum(sizes) <= 50_000
    await one.close()
    await other.close()


async def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(b"no database at all" * 1000)
    tier = SqliteTier(path, max_bytes=1 << 20)
    assert await tier.get(b"k") is None
    await tier.set(b"k", b"v")
    assert await tier.get(b"k") == (b"v", None)
    assert tier.started_anew == 1
    # it may have been no cache at all
    assert (tmp_path / "cache.db.damaged").read_bytes().startswith(b"no database")
    await tier.close()
    # and one that is damaged later, beyond its header
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(bytes(content))
    tier = SqliteTier(path, max_bytes=1 << 20)
    await tier.get(b"k")
    await tier.set(b"k", b"w")
    assert await tier.get(b"k") == (b"w", None)
    await tier.close()


@pytest.mark.integration
async def test_postgres_evicts_the_least_recently_used_values(postgres: object) -> None:
    url = postgres.url  # type: ignore[attr-defined]
    tier = PostgresTier(url, max_bytes=200_000, seconds=1.0)
    for number in range(60):
        await tier.set(b"%d" % number, os.urandom(10_000))
        await tier.get(b"0")
    there = [number for number in range(60) if await tier.get(b"%d" % number)]
    assert 0 in there
    assert 59 in there
    assert 5 <= len(there) <= 21
    await tier.close()
