"""Real servers, started once for all tests of a worker; each test has its own database of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.services import Cluster, Postgres, Valkey


@pytest.fixture(scope="session")
def _valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
def valkey(_valkey: Valkey) -> Valkey:
    """A Redis-compatible server that answers and is empty."""
    if not _valkey.running:
        _valkey.start()
    _valkey.ask("FLUSHALL")
    return _valkey


@pytest.fixture(scope="session")
def _postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def postgres(_postgres: Postgres) -> Postgres:
    """A PostgreSQL server that answers and has no table of ours."""
    if not _postgres.running:
        _postgres.start()
    _postgres.ask("DROP TABLE IF EXISTS vivace_cache")
    return _postgres


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """Three Redis-compatible servers that answer, are empty and share the slots."""
    for server in _cluster.servers:
        server.ask("FLUSHALL")
    return _cluster
