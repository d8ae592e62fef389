"""What every tier does, over real servers and a real file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from vivace.cache.tiers.connection import TierUnreachable
from vivace.cache.tiers.loading import load
from vivace.cache.tiers.postgres import PostgresTier
from vivace.cache.tiers.redis import RedisTier
from vivace.cache.tiers.sqlite import SqliteTier
from vivace.errors import BadSettings
from vivace.protocols import CacheTier
from vivace.settings.tree import Cache


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


async def test_a_damaged_cache_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    tier = SqliteTier(path, max_bytes=1 << 20)
    await tier.set(b"k", b"v")
    await tier.close()
    content = bytearray(path.read_bytes())
    content[100:] = os.urandom(len(content) - 100)
    path.write_bytes(bytes(content))
    tier = SqliteTier(path, max_bytes=1 << 20)
    assert await tier.get(b"k") is None
    await tier.set(b"k", b"w")
    assert await tier.get(b"k") == (b"w", None)
    assert tier.replaced == 1
    assert path.with_name("cache.db.damaged").read_bytes() == bytes(content)
    await tier.close()


def database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


FOREIGN: Mapping[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("my notes\n" * 1000),
    "a begun header": lambda path: path.write_bytes(b"SQLite format 3"),
    "a folder": lambda path: path.mkdir(),
    "an empty database": lambda path: database(path, "PRAGMA user_version = 1"),
    "a database": lambda path: database(path, "CREATE TABLE mine (a)"),
    "a database like ours": lambda path: database(
        path, "CREATE TABLE cached (a)", "CREATE TABLE total (a)", "CREATE TABLE mine (a)"
    ),
    "another program's": lambda path: database(path, "PRAGMA application_id = 7"),
    "a damaged database": lambda path: path.write_bytes(b"SQLite format 3\0" + os.urandom(5000)),
}


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
async def test_a_file_that_is_no_cache_of_ours_is_refused_and_left(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "mine.db"
    make(path)
    before = path.is_dir() or path.read_bytes()
    with pytest.raises(BadSettings, match="no cache of Vivace's"):
        load(Cache(sql=str(path)), tmp_path)
    tier = SqliteTier(path, max_bytes=1 << 20)
    with pytest.raises(TierUnreachable, match="no cache of Vivace's"):
        await tier.set(b"k", b"v")
    await tier.close()
    assert (path.is_dir() or path.read_bytes()) == before
    assert os.listdir(tmp_path) == [path.name]


async def test_a_cache_of_version_0_1_is_used(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    tier = SqliteTier(path, max_bytes=1 << 20)
    await tier.set(b"k", b"v")
    await tier.close()
    database(path, "PRAGMA application_id = 0")
    assert path.read_bytes()[68:72] == bytes(4)
    tier = SqliteTier(path, max_bytes=1 << 20)
    assert await tier.get(b"k") == (b"v", None)
    await tier.close()
    assert path.read_bytes()[68:72] != bytes(4)


async def test_the_file_and_its_folder_are_the_users_own(tmp_path: Path) -> None:
    tier = SqliteTier(tmp_path / "new" / "cache.db", max_bytes=1 << 20)
    await tier.set(b"k", b"v")
    paths = [tmp_path / "new", *(tmp_path / "new").iterdir()]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in paths} == {
        "new": "0o700",
        "cache.db": "0o600",
        "cache.db-wal": "0o600",
        "cache.db-shm": "0o600",
    }
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
