"""L2: a Redis-compatible server (Redis, Valkey, or a proxy before a cluster), by redis-py.

Keys are `vivace:1:{HEX}`; the braces keep a key and its lease in one slot of a cluster. Reads and
writes have connections of their own, so that a read never waits behind megabytes.
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

from vivace.cache.lease import Claim
from vivace.cache.tiers.connection import (
    CONNECT_SECONDS,
    PipelinedConnection,
    TierFailure,
    TierRefused,
    TierUnreachable,
)

Commands: TypeAlias = Sequence[tuple[Any, ...]]
"""One operation: its commands are sent together and answered as one list."""

PREFIX: Final = b"vivace:1:"
CHANNEL: Final = PREFIX + b"versions"
_BATCH: Final = 128
_WRITE_SECONDS: Final = 1.0
"""Only the queue waits for a write."""
_CLEAR_SECONDS: Final = 30.0
_ALIVE_SECONDS: Final = 1.0
"""Silence of a channel after which it is pinged."""

_UNSHARED: Final = b"unshared"
_UNSHARED_MS: Final = 1000
"""All followers look again within a fraction of it."""
# the value with its time to live, or the number of a `Claim`
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


class RedisTier:
    """A `CacheTier` that also coordinates processes (`vivace.cache.lease`, `invalidation`).

    Args:
        url: redis://, rediss:// or unix://, with the options redis-py knows, e.g.
            `?ssl_ca_certs=FILE`.
        seconds: of one read; its connection is given up after five times as many.
        readers: connections for reading.

    Raises:
        ValueError: the address is not valid.
    """

    name = "redis"

    def __init__(self, url: str, *, seconds: float, readers: int = 2) -> None:
        self._url = url
        self._client(None)  # an address that is not valid raises here
        self._clustered: TierUnreachable | None = None
        """Set for good when the server answers as a part of a cluster."""
        self._readers: list[PipelinedConnection[Commands]] = [
            PipelinedConnection(self._connect, batch=_BATCH, stall=5 * seconds)
            for _ in range(readers)
        ]
        self._writer: PipelinedConnection[Commands] = PipelinedConnection(
            self._connect, batch=_BATCH, stall=_WRITE_SECONDS
        )

    async def get(self, key: bytes) -> tuple[bytes, float | None] | None:
        name = _name(key)
        value, left = await self._read([("GET", name), ("PTTL", name)])
        return _living(value, left)

    async def set(self, key: bytes, value: bytes, *, ttl: float | None = None) -> None:
        life = () if ttl is None else ("PX", max(1, int(ttl * 1000)))
        await self._writer.call([("SET", _name(key), value, *life)])

    async def delete(self, key: bytes) -> None:
        await self._writer.call([("UNLINK", _name(key))])

    async def clear(self) -> None:
        """As `CacheTier.clear`; takes as long as a scan of all keys."""
        cursor: Any = b"0"
        async with asyncio.timeout(_CLEAR_SECONDS):
            while True:
                scan = ("SCAN", cursor, "MATCH", PREFIX + b"{*", "COUNT", 1000)
                ((cursor, names),) = await self._writer.call([scan])
                if names:
                    await self._writer.call([("UNLINK", name) for name in names])
                if int(cursor) == 0:
                    return

    async def claim(
        self, key: bytes, token: bytes, seconds: float
    ) -> Claim | tuple[bytes, float | None]:
        """The value if there is one by now, else who is to compute it."""
        name, life = _name(key), int(seconds * 1000)
        (found,) = await self._read([("EVAL", _CLAIM, 2, name, _lease(key), token, life)])
        if isinstance(found, list):
            return _living(*found) or Claim.THEIRS
        return Claim(found)

    async def renew(self, key: bytes, token: bytes, seconds: float) -> bool:
        """Whether the lease is still held, now for so many more seconds."""
        life = int(seconds * 1000)
        (held,) = await self._writer.call([("EVAL", _RENEW, 1, _lease(key), token, life)])
        return bool(held)

    async def release(self, key: bytes, token: bytes, *, unshared: bool = False) -> None:
        end = ("EVAL", _RELEASE, 1, _lease(key), token, int(unshared), _UNSHARED_MS)
        await self._writer.call([end])

    async def publish(self, message: bytes) -> None:
        """To every `listen` of every process."""
        await self._writer.call([("PUBLISH", CHANNEL, message)])

    async def listen(self) -> AsyncIterator[bytes | None]:
        """The messages published from now on; None first, when the subscription stands.

        Raises:
            TierUnreachable: the connection failed, ended, or answers no ping.
        """
        client = self._client(None)
        channel = client.pubsub()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await cast(Awaitable[None], channel.subscribe(CHANNEL))
            pinged = False
            while True:
                found = await channel.get_message(timeout=_ALIVE_SECONDS)
                if found is None:
                    if pinged:
                        raise TierUnreachable(
                            "the invalidation channel is silent", fix="Check the network"
                        )
                    async with asyncio.timeout(CONNECT_SECONDS):
                        await cast(Awaitable[None], channel.ping())
                    pinged = True
                    continue
                pinged = False
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
        for connection in (*self._readers, self._writer):
            await connection.close()

    async def _read(self, commands: Commands) -> Any:
        return await min(self._readers, key=lambda one: one.load).call(commands)

    def _client(self, timeout: float | None) -> Redis:
        client: Redis = Redis.from_url(
            self._url,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=timeout,
            protocol=2,
            decode_responses=False,
        )
        return client

    async def _connect(self) -> _Pipeline:
        if self._clustered is not None:
            raise TierUnreachable(self._clustered.what, fix=self._clustered.fix)
        client = self._client(CONNECT_SECONDS)
        try:
            await cast(Awaitable[Any], client.ping())
        except BaseException as error:
            with suppress(RedisError, OSError):
                await client.aclose()
            if isinstance(error, RedisError | OSError | UnicodeError):
                raise _translated(error) from None
            raise
        return _Pipeline(client, self)

    def translated(self, error: Exception) -> TierFailure:
        """As `_translated`; remembers that the server is a part of a cluster."""
        reason = _translated(error)
        if isinstance(error, MovedError) and isinstance(reason, TierUnreachable):
            self._clustered = reason
        return reason


class _Pipeline:
    """A `Session`: every batch is one pipeline on one connection."""

    def __init__(self, client: Redis, tier: RedisTier) -> None:
        self._client = client
        self._tier = tier

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
            reason = None if failed is None else self._tier.translated(failed)
            if isinstance(reason, TierUnreachable):
                raise reason
            results.append(reason or part)
        return results

    async def close(self) -> None:
        with suppress(RedisError, OSError):
            await self._client.aclose()


def _name(key: bytes) -> bytes:
    return PREFIX + b"{" + key.hex().encode() + b"}"


def _lease(key: bytes) -> bytes:
    return _name(key) + b":lease"


def _living(value: bytes | None, left: int) -> tuple[bytes, float | None] | None:
    """By Redis's PTTL: -1 is forever; -2: the key was deleted between the two commands."""
    if value is None or left == -2:
        return None
    return value, None if left == -1 else left / 1000


def _translated(error: Exception) -> TierFailure:
    """Without the driver's own text where that could show an address or a password."""
    if isinstance(error, TierFailure):
        return error
    if isinstance(error, MovedError):
        return TierUnreachable(
            "cache.redis: the server is part of a Redis Cluster (it answered MOVED)",
            fix="Set `cache.redis` to the address of a proxy before the cluster or of one server",
        )
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
        fix="Check that the server runs and can be reached; it is tried again by itself",
    )
