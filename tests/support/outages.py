"""What can go wrong with a server of the cache, and how it is put right again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.support.services import Cluster, Postgres, Valkey
from tests.support.wires import CERTIFICATE, Proxy
from vivace.settings.tree import Cache


@dataclass(frozen=True, slots=True)
class Outage:
    """`address` is for `cache.redis` or `cache.sql`."""

    address: str
    strike: Callable[[], None]
    mend: Callable[[], None]
    refuses: bool = False
    """The server stays up and can be read; it takes no writes."""
    partly: bool = False
    """Only some keys are gone."""

    def settings(self, tier_ms: float) -> Cache:
        if self.address.startswith("redis"):
            return Cache(redis=self.address, tier_ms=tier_ms)
        return Cache(sql=self.address, tier_ms=tier_ms)


@contextmanager
def redis_kill() -> Iterator[Outage]:
    with Valkey() as server:
        yield Outage(server.url, server.kill, server.start)


@contextmanager
def redis_hang() -> Iterator[Outage]:
    with Valkey() as server:
        yield Outage(server.url, server.hang, server.go_on)


@contextmanager
def redis_full() -> Iterator[Outage]:
    """Full memory, and nothing may be evicted for a new value."""
    with Valkey() as server:

        def strike() -> None:
            server.ask("CONFIG", "SET", "maxmemory", 1)

        def mend() -> None:
            server.ask("CONFIG", "SET", "maxmemory", 0)

        yield Outage(server.url, strike, mend, refuses=True)


@contextmanager
def redis_password() -> Iterator[Outage]:
    """The password is changed, and every connection of before is closed."""
    with Valkey(password="right") as server:

        def strike() -> None:
            server.ask("CONFIG", "SET", "requirepass", "another")
            server.password = "another"
            server.ask("CLIENT", "KILL", "TYPE", "normal")

        def mend() -> None:
            server.ask("CONFIG", "SET", "requirepass", "right")
            server.password = "right"

        yield Outage(server.url, strike, mend)


@contextmanager
def redis_cut() -> Iterator[Outage]:
    with Valkey() as server, Proxy(server.port) as wire:
        yield Outage(f"redis://127.0.0.1:{wire.port}", wire.cut, wire.mend)


@contextmanager
def redis_silence() -> Iterator[Outage]:
    """Connections stand and nothing passes, as behind a firewall that has forgotten them."""
    with Valkey() as server, Proxy(server.port) as wire:
        yield Outage(f"redis://127.0.0.1:{wire.port}", wire.silence, wire.mend)


@contextmanager
def redis_tls_cut() -> Iterator[Outage]:
    with Valkey(password="right") as server, Proxy(server.port, tls=True) as wire:
        address = f"rediss://:right@127.0.0.1:{wire.port}?ssl_ca_certs={CERTIFICATE}"
        yield Outage(address, wire.cut, wire.mend)


@contextmanager
def cluster_kill() -> Iterator[Outage]:
    """One of three masters is killed; its slots have no replica."""
    with Cluster() as cluster:
        victim = cluster.servers[1]

        def mend() -> None:
            victim.start()
            cluster.await_settled()

        yield Outage(cluster.url, victim.kill, mend, partly=True)


@contextmanager
def cluster_hang() -> Iterator[Outage]:
    with Cluster() as cluster:
        victim = cluster.servers[2]

        def mend() -> None:
            victim.go_on()
            cluster.await_settled()

        yield Outage(cluster.url, victim.hang, mend, partly=True)


@contextmanager
def postgres_kill() -> Iterator[Outage]:
    with Postgres() as server:
        yield Outage(server.url, server.kill, server.start)


@contextmanager
def postgres_hang() -> Iterator[Outage]:
    with Postgres() as server:
        yield Outage(server.url, server.hang, server.go_on)


@contextmanager
def postgres_password() -> Iterator[Outage]:
    """The password is changed, and every connection of before is closed."""
    with Postgres() as server:

        def change(secret: str) -> None:
            server.ask(f"ALTER ROLE vivace PASSWORD '{secret}'")
            server.password = secret

        def strike() -> None:
            change("another")
            server.ask(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE usename = 'vivace' AND pid <> pg_backend_pid()"
            )

        yield Outage(server.url, strike, lambda: change("correct horse"))


@contextmanager
def postgres_cut() -> Iterator[Outage]:
    with Postgres() as server, Proxy(server.port) as wire:
        yield Outage(server.url_by(wire.port), wire.cut, wire.mend)


@contextmanager
def postgres_full() -> Iterator[Outage]:
    """It takes no writes, as with a disk so full that the owner has made it read-only."""
    with Postgres() as server:

        def turn(value: str) -> None:
            server.ask(f"ALTER DATABASE postgres SET default_transaction_read_only = {value}")
            server.ask(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE usename = 'vivace' AND pid <> pg_backend_pid()"
            )

        yield Outage(server.url, lambda: turn("on"), lambda: turn("off"), refuses=True)


OUTAGES: Final = {
    made.__name__: made
    for made in (
        redis_kill,
        redis_hang,
        redis_full,
        redis_password,
        redis_cut,
        redis_silence,
        redis_tls_cut,
        cluster_kill,
        cluster_hang,
        postgres_kill,
        postgres_hang,
        postgres_password,
        postgres_cut,
        postgres_full,
    )
}
