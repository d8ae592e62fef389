"""L2: a Redis-compatible server or a cluster of them (Redis, Valkey), by redis-py.

Keys are `vivace:1:{HEX}`; the braces put a key and its lease into one slot of a cluster. Reads
and writes have connections of their own, so that a read never waits behind megabytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from vivace.cache.failures import Moved, TierFailure, TierRefused, TierUnreachable
from vivace.cache.lease import Claimed
from vivace.cache.tiers.lane import CONNECT_SECONDS
from vivace.cache.tiers.slots import Servers

Commands: TypeAlias = Sequence[tuple[Any, ...]]
"""One operation: its commands go out together and come back as one list."""

PREFIX: Final = b"vivace:1:"
CHANNEL: Final = PREFIX + b"versions"
WRITE_SECONDS: Final = 1.0
"""Nobody waits for a write but its queue."""
_CLEAR_SECONDS: Final = 30.0
_ALIVE_SECONDS: Final = 1.0
"""A channel that is silent for so long is pinged."""

_UNSHARED: Final = b"unshared"
_UNSHARED_MS: Final = 1000
"""All that wait look again within a fraction of it."""
# the value with its life, or the number of a `Claimed`
_CLAIM: Final = (
    b"local v = redis.call('GET', KEYS[1]) "
    b"if v then return {v, redis.call('PTTL', KEYS[1])} end "
    b"local held = redis.call('GET', KEYS[2]) "
    b"if not held then redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2]) return 1 end "
    b"if held == '" + _UNSHARED + b"' then return 2 end return 0"
)
_RENEW: Final = (
    b"if redis.call('GET', KEYS[1]) == ARGV[1] "
    b"then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
)
_RELEASE: Final = (
    b"if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end "
    b"if ARGV[2] == '1' then redis.call('SET', KEYS[1], '" + _UNSHARED + b"', 'PX', ARGV[3]) "
    b"return 1 end return redis.call('DEL', KEYS[1])"
)


class _Pipeline:
    """A session of a lane: every batch is one pipeline on the one connection."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def execute(self, ops: Sequence[Commands]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for commands in ops:
            for command in commands:
                pipeline.execute_command(*command)
        try:
            flat = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise _translated(error) from None
        results: list[Any] = []
        at = 0
        for commands in ops:
            part = flat[at : at + len(commands)]
            at += len(commands)
            failed = next((one for one in part if isinstance(one, Exception)), None)
            reason = None if failed is None else _translated(failed)
            if isinstance(reason, TierUnreachable):
                raise reason
            results.append(reason or part)
        return results

    async def close(self) -> None:
        with suppress(RedisError, OSError):
            await self._client.aclose()


class RedisTier:
    """A `CacheTier` that can also lead (`vivace.cache.lease`) and tell (`invalidation`).

    Args:
        url: redis://, rediss:// or unix://; with `+cluster` behind the scheme's name a cluster.
            What redis-py reads from an address it reads here, too, e.g. `?ssl_ca_certs=FILE`.
        seconds: of one read; five times as many, and its connection is given up.
        readers: connections for reading, to each server.

    Raises:
        ValueError: the address is none.
    """

    name = "redis"

    def __init__(self, url: str, *, seconds: float, readers: int = 2) -> None:
        scheme, _, rest = url.partition("://")
        self._cluster = scheme.endswith("+cluster")
        self._url = f"{scheme.removesuffix('+cluster')}://{rest}"
        self._seconds = seconds
        first = self._client(None, CONNECT_SECONDS).connection_pool.connection_kwargs
        if self._cluster and first.get("db"):
            raise ValueError("a cluster has no numbered databases")
        home = (str(first.get("host", "localhost")), int(first.get("port", 6379)))
        self._servers: Servers[Commands] = Servers(
            home,
            self._opened,
            clustered=self._cluster,
            readers=readers,
            reading=5 * seconds,
            writing=WRITE_SECONDS,
        )

    async def get(self, key: bytes) -> tuple[bytes, float | None] | None:
        name = _name(key)
        value, left = await self._servers.read(name, [("GET", name), ("PTTL", name)])
        return _living(value, left)

    async def set(self, key: bytes, value: bytes, *, ttl: float | None = None) -> None:
        name = _name(key)
        life = () if ttl is None else ("PX", max(1, int(ttl * 1000)))
        await self._servers.write(name, [("SET", name, value, *life)])

    async def delete(self, key: bytes) -> None:
        name = _name(key)
        await self._servers.write(name, [("UNLINK", name)])

    async def clear(self) -> None:
        """As `CacheTier.clear`, server by server; takes as long as looking at every key does."""
        async with asyncio.timeout(_CLEAR_SECONDS):
            for server in await self._servers.all():
                cursor = b"0"
                while True:
                    scan = ("SCAN", cursor, "MATCH", PREFIX + b"{*", "COUNT", 1000)
                    ((at, names),) = await self._servers.on(server, [scan])
                    cursor = str(at).encode() if isinstance(at, int) else at
                    if names:
                        await self._servers.on(server, [("UNLINK", name) for name in names])
                    if cursor == b"0":
                        break

    async def claim(
        self, key: bytes, token: bytes, seconds: float
    ) -> Claimed | tuple[bytes, float | None]:
        """The value where there is one by now; else whether the asker is the one to make it."""
        name, life = _name(key), int(seconds * 1000)
        (found,) = await self._servers.read(
            name, [("EVAL", _CLAIM, 2, name, _lease(key), token, life)]
        )
        if isinstance(found, list):
            return _living(*found) or Claimed.THEIRS
        return Claimed(found)

    async def renew(self, key: bytes, token: bytes, seconds: float) -> bool:
        """Whether the lease is still the asker's, for so long from now on."""
        name = _lease(key)
        life = int(seconds * 1000)
        (held,) = await self._servers.write(name, [("EVAL", _RENEW, 1, name, token, life)])
        return bool(held)

    async def release(self, key: bytes, token: bytes, *, unshared: bool = False) -> None:
        name = _lease(key)
        end = ("EVAL", _RELEASE, 1, name, token, int(unshared), _UNSHARED_MS)
        await self._servers.write(name, [end])

    async def publish(self, message: bytes) -> None:
        """To every `listen` of every process; a cluster passes it to all of its servers."""
        await self._servers.anywhere([("PUBLISH", CHANNEL, message)])

    async def listen(self) -> AsyncIterator[bytes | None]:
        """What is published, from now on; None first, when the channel stands.

        Raises:
            TierUnreachable: the connection ended, was never made, or answers no ping.
        """
        client = self._client(self._servers.some(), None)
        channel = client.pubsub()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await cast(Awaitable[None], channel.subscribe(CHANNEL))
            asked = False
            while True:
                found = await channel.get_message(timeout=_ALIVE_SECONDS)
                if found is None:
                    if asked:
                        raise TierUnreachable(
                            "the version channel is silent", fix="Check the network"
                        )
                    async with asyncio.timeout(CONNECT_SECONDS):
                        await cast(Awaitable[None], channel.ping())
                    asked = True
                    continue
                asked = False
                if found["type"] == "subscribe":
                    yield None
                elif found["type"] == "message":
                    yield found["data"]
        except (RedisError, OSError, TimeoutError) as error:
            raise _translated(error) from None
        finally:
            with suppress(RedisError, OSError):
                await channel.aclose()  # type: ignore[no-untyped-call]
                await client.aclose()

    async def close(self) -> None:
        await self._servers.close()

    def _client(self, server: tuple[str, int] | None, timeout: float | None) -> Redis:
        client: Redis = Redis.from_url(
            self._url,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=timeout,
            protocol=2,
            decode_responses=False,
        )
        if server is not None and self._cluster:
            client.connection_pool.connection_kwargs.update(host=server[0], port=server[1])
        return client

    async def _opened(self, server: tuple[str, int]) -> _Pipeline:
        client = self._client(server, CONNECT_SECONDS)
        try:
            await cast(Awaitable[Any], client.ping())
        except BaseException as error:
            with suppress(RedisError, OSError):
                await client.aclose()
            if isinstance(error, RedisError | OSError | UnicodeError):
                raise _translated(error) from None
            raise
        return _Pipeline(client)


def _name(key: bytes) -> bytes:
    return PREFIX + b"{" + key.hex().encode() + b"}"


def _lease(key: bytes) -> bytes:
    return _name(key) + b":lease"


def _living(value: bytes | None, left: int) -> tuple[bytes, float | None] | None:
    """-1 is for ever; -2, it went between the two commands."""
    if value is None or left == -2:
        return None
    return value, None if left == -1 else left / 1000


def _translated(error: Exception) -> TierFailure:
    """Without the driver's own text where that could show an address or a password."""
    if isinstance(error, TierFailure):
        return error
    if isinstance(error, MovedError):
        return Moved((error.host, error.port))
    if isinstance(error, AuthenticationError | NoPermissionError):
        return TierUnreachable(
            "cache.redis: the server refuses the password or its user",
            fix="Put the right one into `cache.redis`: redis://USER:PASSWORD@HOST",
        )
    if isinstance(error, ResponseError) and not isinstance(error, ReadOnlyError):
        return TierRefused(
            f"cache.redis: the server refused: {type(error).__name__}",
            fix="OutOfMemoryError: give it a maxmemory-policy that evicts, e.g. allkeys-lru",
        )
    return TierUnreachable(
        f"cache.redis: {type(error).__name__}",
        fix="Check that the server runs and can be reached; it is asked again by itself",
    )
