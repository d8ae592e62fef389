"""Outages of a cache tier's server, and their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from tests.support.services import Postgres, Valkey
from tests.support.wires import CERTIFICATE, Proxy
from vivace.settings.tree import Cache


@dataclass(frozen=True, slots=True)
class Outage:
    """`address` is for `cache.redis` or `cache.sql`."""

    address: str
    strike: Callable[[], None]
    mend: Callable[[], None]
    refuses: bool = False
    """The server stays up and can be read; it refuses writes."""

    def settings(self, tier_ms: float) -> Cache:
        if self.address.startswith("redis"):
            return Cache(redis=self.address, tier_ms=tier_ms)
        return Cache(sql=self.address, tier_ms=tier_ms)


@contextmanager
def redis_kill(server: Valkey) -> Iterator[Outage]:
    yield Outage(server.url, server.kill, server.start)


@contextmanager
def redis_hang(server: Valkey) -> Iterator[Outage]:
    yield Outage(server.url, server.hang, server.resume)


@contextmanager
def redis_full(server: Valkey) -> Iterator[Outage]:
    """The memory is full, and nothing may be evicted for a new value."""

    def strike() -> None:
        server.ask("CONFIG", "SET", "maxmemory", 1)

    def mend() -> None:
        server.ask("CONFIG", "SET", "maxmemory", 0)

    yield Outage(server.url, strike, mend, refuses=True)


@contextmanager
def redis_password(server: Valkey) -> Iterator[Outage]:
    """The password is changed, and every open connection is closed."""

    def change(secret: str) -> None:
        server.ask("CONFIG", "SET", "requirepass", secret)
        server.password = secret

    def strike() -> None:
        change("another")
        server.ask("CLIENT", "KILL", "TYPE", "normal")

    change("right")
    try:
        yield Outage(server.url, strike, lambda: change("right"))
    finally:
        change("")


@contextmanager
def redis_cut(server: Valkey) -> Iterator[Outage]:
    with Proxy(server.port) as wire:
        yield Outage(f"redis://127.0.0.1:{wire.port}", wire.cut, wire.mend)


@contextmanager
def redis_silence(server: Valkey) -> Iterator[Outage]:
    """Connections stay open and nothing passes, as behind a firewall that dropped their state."""
    with Proxy(server.port) as wire:
        yield Outage(f"redis://127.0.0.1:{wire.port}", wire.silence, wire.mend)


@contextmanager
def redis_tls_cut(server: Valkey) -> Iterator[Outage]:
    with Proxy(server.port, tls=True) as wire:
        address = f"rediss://127.0.0.1:{wire.port}?ssl_ca_certs={CERTIFICATE}"
        yield Outage(address, wire.cut, wire.mend)


@contextmanager
def postgres_kill(server: Postgres) -> Iterator[Outage]:
    yield Outage(server.url, server.kill, server.start)


@contextmanager
def postgres_hang(server: Postgres) -> Iterator[Outage]:
    yield Outage(server.url, server.hang, server.resume)


@contextmanager
def postgres_password(server: Postgres) -> Iterator[Outage]:
    """The password is changed, and every open connection is closed."""
    right = server.password

    def change(secret: str) -> None:
        server.ask(f"ALTER ROLE vivace PASSWORD '{secret}'")
        server.password = secret

    def strike() -> None:
        change("another")
        _close_all(server)

    yield Outage(server.url, strike, lambda: change(right))


@contextmanager
def postgres_cut(server: Postgres) -> Iterator[Outage]:
    with Proxy(server.port) as wire:
        yield Outage(server.url_by(wire.port), wire.cut, wire.mend)


@contextmanager
def postgres_full(server: Postgres) -> Iterator[Outage]:
    """It refuses writes, as with a disk so full that the owner has made it read-only."""

    def turn(value: str) -> None:
        server.ask(f"ALTER DATABASE postgres SET default_transaction_read_only = {value}")
        _close_all(server)

    yield Outage(server.url, lambda: turn("on"), lambda: turn("off"), refuses=True)


def _close_all(server: Postgres) -> None:
    server.ask(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE usename = 'vivace' AND pid <> pg_backend_pid()"
    )


OUTAGES: Final[dict[str, Callable[[Any], AbstractContextManager[Outage]]]] = {
    made.__name__: made
    for made in (
        redis_kill,
        redis_hang,
        redis_full,
        redis_password,
        redis_cut,
        redis_silence,
        redis_tls_cut,
        postgres_kill,
        postgres_hang,
        postgres_password,
        postgres_cut,
        postgres_full,
    )
}
"""By name; each takes a running server of the kind that its name begins with."""


@contextmanager
def outage_of(name: str, server: Valkey | Postgres | None = None) -> Iterator[Outage]:
    """An outage of the server, which is as before in the end; or of one of its own."""
    with ExitStack() as stack:
        running = server
        if running is None:
            running = Valkey() if name.startswith("redis") else Postgres()
            stack.enter_context(running)
        yield stack.enter_context(OUTAGES[name](running))
