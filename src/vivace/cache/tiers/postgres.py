"""L3 in PostgreSQL, shared by many machines, through asyncpg.

The table is UNLOGGED: what a crash loses is computed again, and no write waits for the log.
Times are the server's, so that the clocks of the clients need not agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import asyncpg

from vivace.cache.tiers.connection import (
    CONNECT_SECONDS,
    PipelinedConnection,
    TierFailure,
    TierRefused,
    TierUnreachable,
)

_SCHEMA: Final = """
CREATE UNLOGGED TABLE IF NOT EXISTS vivace_cache (
    key bytea PRIMARY KEY, value bytea NOT NULL,
    size integer NOT NULL, expires timestamptz, used timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS vivace_cache_use ON vivace_cache (used, size);
"""
_GET: Final = """
SELECT key, value, extract(epoch FROM expires - clock_timestamp())::float8 AS left
FROM vivace_cache WHERE key = ANY($1)
  AND (expires IS NULL OR expires > clock_timestamp())
"""
_SET: Final = """
INSERT INTO vivace_cache
SELECT key, value, length(value), clock_timestamp() + make_interval(secs => ttl), clock_timestamp()
FROM unnest($1::bytea[], $2::bytea[], $3::float8[]) AS given(key, value, ttl)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, size = excluded.size,
  expires = excluded.expires, used = excluded.used
"""
_TOUCH: Final = "UPDATE vivace_cache SET used = clock_timestamp() WHERE key = ANY($1)"
_EVICT: Final = """
DELETE FROM vivace_cache WHERE key IN (
  SELECT key FROM (
    SELECT key, expires, sum(size) OVER (ORDER BY used DESC, key) AS kept FROM vivace_cache
  ) AS ranked WHERE kept > $1 OR expires <= clock_timestamp())
"""
_LOCK: Final = 0x566976616365
"""`Vivace`: of the advisory locks under which one process at a time makes or empties the table."""
_SWEEP_AT, _EMPTIED_TO = 0.05, 0.9
"""Shares of the bound: written by this process since it last looked; left after an eviction."""
_TOUCHES: Final = 256
_WRITE_SECONDS: Final = 5.0
_SWEEP_SECONDS: Final = 60.0


class _Op(NamedTuple):
    kind: str
    """get, set, delete, clear, touch or sweep."""
    key: bytes = b""
    value: bytes = b""
    ttl: float | None = None
    keys: Sequence[bytes] = ()


class _Session:
    """Neighbours of one kind in a batch are one statement."""

    def __init__(self, connection: asyncpg.Connection, keep: int) -> None:
        self._db = connection
        self._keep = keep

    async def execute(self, ops: Sequence[_Op]) -> list[Any]:
        results: list[Any] = []
        at = 0
        while at < len(ops):
            kind = ops[at].kind
            end = at + 1
            while end < len(ops) and ops[end].kind == kind:
                end += 1
            group = ops[at:end]
            try:
                results += await self._group(kind, group)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                reason = _translated(error)
                if isinstance(reason, TierUnreachable):
                    raise reason from None
                results += [reason] * len(group)
            at = end
        return results

    async def _group(self, kind: str, ops: Sequence[_Op]) -> list[Any]:
        keys = [op.key for op in ops]
        if kind == "get":
            rows = await self._db.fetch(_GET, keys)
            found = {row["key"]: (row["value"], row["left"]) for row in rows}
            return [found.get(key) for key in keys]
        if kind == "set":
            last = {op.key: op for op in ops}.values()  # a statement may meet a key only once
            columns = zip(*((op.key, op.value, op.ttl) for op in last))
            await self._db.execute(_SET, *columns)
        elif kind == "delete":
            await self._db.execute("DELETE FROM vivace_cache WHERE key = ANY($1)", keys)
        elif kind == "touch":
            await self._db.execute(_TOUCH, [key for op in ops for key in op.keys])
        elif kind == "clear":
            await self._db.execute("TRUNCATE vivace_cache")
        else:
            await self._sweep()
        return [None] * len(ops)

    async def _sweep(self) -> None:
        async with self._db.transaction():
            if await self._db.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                total = await self._db.fetchval("SELECT coalesce(sum(size), 0) FROM vivace_cache")
                if total > self._keep:
                    await self._db.execute(_EVICT, int(self._keep * _EMPTIED_TO))

    async def close(self) -> None:
        # a polite goodbye would wait for a server that may be the very one that hangs
        self._db.terminate()


class PostgresTier:
    """A `CacheTier`. The table is made at the first connection.

    Args:
        url: postgresql://, as asyncpg reads it.
        max_bytes: of values; beyond, what was used longest ago goes.
        seconds: of one read; five times as many, and its connection is given up.
        readers: connections for reading; one more writes, and one makes room.
    """

    name = "postgres"

    def __init__(self, url: str, *, max_bytes: int, seconds: float, readers: int = 2) -> None:
        self._url = url
        self._max_bytes = max_bytes
        self._readers = [
            PipelinedConnection(self._opened, batch=64, stall=5 * seconds) for _ in range(readers)
        ]
        self._writer = PipelinedConnection(self._opened, batch=64, stall=_WRITE_SECONDS)
        self._sweeper = PipelinedConnection(self._opened, batch=1, stall=_SWEEP_SECONDS)
        self._touched: set[bytes] = set()
        self._written = 0
        self._asides: set[asyncio.Task[None]] = set()

    async def get(self, key: bytes) -> tuple[bytes, float | None] | None:
        lane = min(self._readers, key=lambda one: one.load)
        found: tuple[bytes, float | None] | None = await lane.call(_Op("get", key))
        if found is not None:
            self._touched.add(key)
            if len(self._touched) >= _TOUCHES:
                keys, self._touched = tuple(self._touched), set()
                self._aside(self._writer, _Op("touch", keys=keys))
        return found

    async def set(self, key: bytes, value: bytes, *, ttl: float | None = None) -> None:
        if len(value) > self._max_bytes:
            return
        await self._writer.call(_Op("set", key, value, ttl))
        self._written += len(value)
        if self._written > _SWEEP_AT * self._max_bytes:
            self._written = 0
            # aside: the value is there, and a large table takes its time
            keys, self._touched = tuple(self._touched), set()
            self._aside(self._writer, _Op("touch", keys=keys))
            self._aside(self._sweeper, _Op("sweep"))

    async def delete(self, key: bytes) -> None:
        await self._writer.call(_Op("delete", key))

    async def clear(self) -> None:
        await self._writer.call(_Op("clear"))

    async def close(self) -> None:
        for task in tuple(self._asides):
            task.cancel()
        for lane in (*self._readers, self._writer, self._sweeper):
            await lane.close()

    def _aside(self, lane: PipelinedConnection[_Op], op: _Op) -> None:
        async def run() -> None:
            with suppress(TierFailure):
                await lane.call(op)

        task = asyncio.create_task(run())
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _opened(self) -> _Session:
        try:
            connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise _translated(error, connecting=True) from None
        try:
            if await connection.fetchval("SELECT to_regclass('vivace_cache')") is None:
                async with connection.transaction():
                    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                    await connection.execute(_SCHEMA)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
                raise _translated(error, connecting=True) from None
            raise
        return _Session(connection, self._max_bytes)


_GONE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # it is shutting down, or has killed the connection
    asyncpg.InterfaceError,
    asyncpg.UndefinedTableError,  # somebody dropped it: connecting makes it again
    OSError,
)


def _translated(error: Exception, *, connecting: bool = False) -> TierFailure:
    """By the error's class alone: the driver's own text may show an address or a user."""
    said = f"cache.sql: {type(error).__name__}"
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return TierUnreachable(
            "cache.sql: the server refuses the password or its user",
            fix="Put the right one into `cache.sql`: postgresql://USER:PASSWORD@HOST/DATABASE",
        )
    if connecting or isinstance(error, _GONE):
        return TierUnreachable(
            said, fix="Check that the server runs and can be reached; it is asked again by itself"
        )
    return TierRefused(said, fix="Look into the log of PostgreSQL, e.g. for a full disk")
