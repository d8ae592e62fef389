"""With `cache.secret`, a writer of a tier who does not know it can make no value that is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cache.tiers.process import Process
from tests.support.services import Valkey
from vivace.cache import values
from vivace.cache.tiers.redis import RedisTier
from vivace.cache.tiers.sqlite import SqliteTier
from vivace.cache.values import Seal
from vivace.engine import Engine
from vivace.errors import BadSettings
from vivace.protocols import CacheTier

SECRET = "a secret of 16 characters or more"
MakeTier: TypeAlias = Callable[[], CacheTier]


async def computed() -> bytes:
    return b"computed"


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.integration)])
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> MakeTier:
    """Connects to the same tier again and again."""
    if request.param == "sqlite":
        return lambda: SqliteTier(tmp_path / "cache.db", max_bytes=1 << 20)
    server: Valkey = request.getfixturevalue("valkey")
    return lambda: RedisTier(server.url, seconds=1.0)


async def served(tier: MakeTier, key: bytes, *, secret: str = SECRET) -> tuple[bytes, int]:
    """What a process has for the key, and how many values of the tier it has refused."""
    process = Process([tier()], capacity=0, secret=secret, lease=0.5)
    if process.tiers.invalidation is not None:
        await process.listening()  # in that moment it forgets what it is computing
    value = await process.values.get_or_compute(key, computed, ttl=60.0)
    await process.drained()
    refused = process.tiers.tiers[0].trace.counters().get(f"cache.{tier().name}.unreadable", 0)
    await process.close()
    return value, refused


async def write(tier: MakeTier, key: bytes, data: bytes) -> None:
    raw = tier()
    await raw.set(key, data)
    await raw.close()


async def read(tier: MakeTier, key: bytes) -> bytes:
    raw = tier()
    found = await raw.get(key)
    await raw.close()
    assert found is not None
    return found[0]


@given(st.binary(max_size=40), st.binary(max_size=20), st.binary(max_size=20))
def test_a_seal_opens_only_what_it_closed(data: bytes, key: bytes, other: bytes) -> None:
    seal = Seal(SECRET)
    closed = seal.close(key, data)
    assert seal.open(key, closed) == data
    assert Seal(SECRET).open(key, closed) == data
    assert Seal(SECRET + ".").open(key, closed) is None
    assert seal.open(key, data) is None
    assert other == key or seal.open(other, closed) is None
    for at in range(len(closed)):
        assert seal.open(key, closed[:at]) is None
        assert seal.open(key, closed[:at] + bytes([closed[at] ^ 1]) + closed[at + 1 :]) is None
    # where the key ends and the value begins is part of it
    assert key == b"" or seal.open(key[:-1], key[-1:] + closed) is None


async def test_a_value_of_the_same_secret_is_used(tier: MakeTier) -> None:
    assert await served(tier, b"k") == (b"computed", 0)
    await write(tier, b"k", Seal(SECRET).close(b"k", values.pack(b"shared", expires=None)))
    assert await served(tier, b"k") == (b"shared", 0)


@pytest.mark.parametrize("kind", ["no tag", "other secret", "other key", "changed", "empty"])
async def test_a_forged_value_is_a_counted_miss_and_is_replaced(tier: MakeTier, kind: str) -> None:
    packed = values.pack(b"forged", expires=None)
    await served(tier, b"another")
    forged = {
        "no tag": packed,
        "other secret": Seal("another secret of 16 characters").close(b"k", packed),
        "other key": await read(tier, b"another"),
        "changed": packed + (await read(tier, b"another"))[-16:],
        "empty": b"",
    }[kind]
    await write(tier, b"k", forged)
    value, refused = await served(tier, b"k")
    assert value == b"computed"
    assert refused >= 1
    assert await served(tier, b"k") == (b"computed", 0)


async def test_without_a_secret_what_a_writer_of_the_tier_left_is_used(tier: MakeTier) -> None:
    """As docs/security.md says."""
    await write(tier, b"k", values.pack(b"forged", expires=None))
    assert await served(tier, b"k", secret="") == (b"forged", 0)


async def test_a_process_without_the_secret_computes_for_itself(tier: MakeTier) -> None:
    await served(tier, b"k")
    value, refused = await served(tier, b"k", secret="")
    assert value == b"computed"
    assert refused >= 1


def test_a_secret_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(BadSettings, match=r"cache\.secret has fewer than 16") as refused:
        Engine(cache__secret="hunter2")
    assert "hunter2" not in str(refused.value)


async def test_the_vectors_of_an_engine_are_sealed(tmp_path: Path) -> None:
    (tmp_path / "leave.md").write_text("The notice period is six weeks.")

    async def searched(secret: str) -> dict[str, int]:
        async with Engine(home=str(tmp_path), cache__sql="sqlite", cache__secret=secret) as engine:
            docs = await engine.open()
            await docs.ingest(tmp_path / "leave.md")
            await docs.search("notice period")
            return dict(engine.resources.caching.trace.counters())

    await searched(SECRET)
    again = await searched(SECRET)
    assert again["cache.sqlite.hits"] == 1
    assert "cache.unsealed" not in again
    assert (await searched("another secret of 16 characters"))["cache.unsealed"] >= 1
