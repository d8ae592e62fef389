"""Which tiers do the settings name?"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from vivace.cache.tiers.resilient import ResilientTier
from vivace.errors import BadSettings, MissingExtra
from vivace.protocols import CacheTier
from vivace.settings.tree import Cache
from vivace.trace import Trace

_REDIS: Final = ("redis", "rediss", "unix")
OF_TIMEOUT: Final = 0.8
"""Share of `cache.tier_ms`; the rest is for an event loop that is late at the end of a timeout."""
_POSTGRES: Final = ("postgresql", "postgres")


def load(settings: Cache, home: Path, trace: Trace | None = None) -> list[ResilientTier]:
    """The tiers that the settings name, the nearest first; none is connected yet.

    They raise nothing, delay a request by at most `cache.tier_ms`, and connect by themselves. The
    caller closes them.

    Raises:
        BadSettings: an invalid address, which is not shown: it may hold a password.
        MissingExtra: the driver for such a server is not installed.
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
    if scheme.endswith("+cluster"):
        raise BadSettings(
            "cache.redis names a Redis Cluster, which is not spoken to directly",
            fix="Set it to the redis:// or rediss:// address of a proxy before the cluster, or of "
            "a single server",
        )
    if not found or not rest or scheme not in _REDIS:
        raise BadSettings(
            "cache.redis is not the address of a Redis server (not shown: it may hold a password)",
            fix="Write redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, or "
            "unix://PATH",
        )
    if _unverified(rest):
        raise BadSettings(
            "cache.redis switches off the check of the server's certificate (not shown)",
            fix="Leave out ssl_cert_reqs and ssl_check_hostname; of an authority of your own, name "
            "the certificate: ssl_ca_certs=FILE",
        )
    try:
        # imported only when needed: it takes 0.2 s
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
            fix="Check the port, the database and the options after the `?`",
        ) from None


def _unverified(address: str) -> bool:
    """Whether options of the address would take any server for the right one."""
    options = dict(parse_qsl(address.partition("?")[2], keep_blank_values=True))
    return options.get("ssl_cert_reqs", "required").lower() != "required" or options.get(
        "ssl_check_hostname", "true"
    ).lower() not in ("true", "1", "yes", "y")


def _sql(address: str, home: Path, max_bytes: int, seconds: float) -> CacheTier:
    scheme, found, _ = address.partition("://")
    if not found:
        from vivace.cache.tiers.sqlite import NOT_OURS, NOT_OURS_FIX, SqliteTier, is_ours

        path = home / "cache.db" if address == "sqlite" else Path(address).expanduser()
        try:
            ours = is_ours(path)
        except OSError:
            ours = True  # the tier says so when it is used
        if not ours:
            raise BadSettings(NOT_OURS, fix=NOT_OURS_FIX)
        return SqliteTier(path, max_bytes=max_bytes)
    if scheme not in _POSTGRES or not _has_host(address):
        raise BadSettings(
            "cache.sql is neither `sqlite` nor a path nor the address of a PostgreSQL server "
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
    """Whether there is a host, or a `?host=`, and the port is a number."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) or "host=" in parts.query
