"""Real servers, started once for all tests of a worker; every test finds them running and empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.services import Postgres, Valkey


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
    """A PostgreSQL server that answers and has no table of the cache."""
    if not _postgres.running:
        _postgres.start()
    _postgres.ask("DROP TABLE IF EXISTS vivace_cache")
    return _postgres
