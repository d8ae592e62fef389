"""L2 and L3 by the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vivace.cache.guarded import ResilientTier
from vivace.errors import BadSettings, MissingExtra
from vivace.protocols import CacheTier
from vivace.settings.tree import Cache
from vivace.trace import Trace

_REDIS: Final = (
    "redis", "rediss", "unix", "redis+cluster", "rediss+cluster",
)  # fmt: skip
OF_TIMEOUT: Final = 0.8
"""Of `cache.tier_ms`: the rest is for an event loop that comes late to the end of a timeout."""
_POSTGRES: Final = ("postgresql", "postgres")


def load(settings: Cache, home: Path, trace: Trace | None = None) -> list[CacheTier]:
    """The tiers that the settings name, the nearest first; none is asked yet.

    They raise nothing, keep nobody longer than `cache.tier_ms`, and connect by themselves. The
    caller closes them.

    Raises:
        BadSettings: an address that cannot be one. It is not shown: it may hold a password.
        MissingExtra: what speaks to such a server is not installed.
    """
    seconds = OF_TIMEOUT * settings.tier_ms / 1000
    tiers: list[CacheTier] = []
    if settings.redis:
        tiers.append(_redis(settings.redis, seconds))
    if settings.sql:
        tiers.append(_sql(settings.sql, home, int(settings.sql_mib * 2**20), seconds))
    return [ResilientTier(tier, seconds=seconds, trace=trace) for tier in tiers]


def _redis(address: str, seconds: float) -> CacheTier:
    scheme, found, rest = address.partition("://")
    if not found or not rest or scheme not in _REDIS:
        raise BadSettings(
            "cache.redis is no address of a Redis server (not shown: it may hold a password)",
            fix="Write redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, "
            "redis+cluster:// for a cluster, or unix://PATH",
        )
    try:
        # not before it is wanted: importing redis takes 0.2 s
        from vivace.cache.tiers.redis import RedisTier
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "redis":
            raise
        raise MissingExtra("redis", "redis") from error
    try:
        return RedisTier(address, seconds=seconds)
    except (ValueError, TypeError) as error:
        raise BadSettings(
            f"cache.redis: {type(error).__name__} in the address (not shown)",
            fix="Check the port, the database and what stands behind the `?`",
        ) from None


def _sql(address: str, home: Path, max_bytes: int, seconds: float) -> CacheTier:
    scheme, found, _ = address.partition("://")
    if not found:
        from vivace.cache.tiers.sqlite import SqliteTier

        path = home / "cache.db" if address == "sqlite" else Path(address).expanduser()
        return SqliteTier(path, max_bytes=max_bytes)
    if scheme not in _POSTGRES or not _has_host(address):
        raise BadSettings(
            "cache.sql is neither `sqlite`, nor a path, nor an address of a PostgreSQL server "
            "(not shown: it may hold a password)",
            fix="Write postgresql://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE",
        )
    try:
        from vivace.cache.tiers.postgres import PostgresTier
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "asyncpg":
            raise
        raise MissingExtra("asyncpg", "postgres") from error
    return PostgresTier(address, max_bytes=max_bytes, seconds=seconds)


def _has_host(address: str) -> bool:
    """A host, or a `?host=` that names one, and a port that is a number."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) or "host=" in parts.query
