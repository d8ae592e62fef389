"""A Redis Cluster is reached through a proxy; an address of one of its servers is an error."""

from __future__ import annotations

import asyncio

import pytest

from vivace.cache.tiers.connection import TierUnreachable
from vivace.cache.tiers.redis import RedisTier
from vivace.cache.tiers.resilient import ResilientTier


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a server of a cluster that has none of the keys."""
    while line := await reader.readline():
        words = [
            (await reader.readexactly(int((await reader.readline())[1:]) + 2))[:-2]
            for _ in range(int(line[1:]))
        ]
        other = words[0].upper() in (b"PING", b"CLIENT", b"SELECT")
        writer.write(b"+OK\r\n" if other else b"-MOVED 3999 127.0.0.1:6381\r\n")
    writer.close()


async def test_a_server_of_a_cluster_is_unreachable_and_says_why() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        tier = ResilientTier(RedisTier(f"redis://127.0.0.1:{port}", seconds=1.0), seconds=1.0)
        for _ in range(10):
            assert await tier.get(b"k") is None  # never an error of a request
        assert "part of a Redis Cluster" in tier.failure
        assert "a proxy before the cluster" in tier.failure
        assert not tier.well
        with pytest.raises(TierUnreachable, match="part of a Redis Cluster"):
            await tier.tier.get(b"k")  # for good, as a proxy never answers MOVED
        await tier.close()
