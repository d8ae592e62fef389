"""Closing under the feet of a thread whose caller has gone."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vivace.store import connections as module
from vivace.store.connections import Connection, Connections

COUNT = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT max(i) FROM n"
)


def begun(
    connections: Connections, rows: int, *, writes: bool
) -> tuple[threading.Thread, list[object]]:
    """A thread in the middle of a statement, and where its result will be."""
    found: list[object] = []
    running = threading.Event()

    def work() -> None:
        connection: Connection = connections.writer() if writes else connections.reader()
        with connection.busy:
            running.set()
            try:
                found.append(connection.execute(COUNT, [rows]).fetchone()[0])
            except sqlite3.Error as error:
                found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert running.wait(10)
    return thread, found


@pytest.mark.parametrize("writes", [False, True])
def test_closing_waits_for_a_running_statement(tmp_path: Path, writes: bool) -> None:
    connections = Connections(tmp_path / "x.db")
    thread, found = begun(connections, 500_000, writes=writes)
    connections.close()
    thread.join()
    assert found == [500_000]


def test_closing_interrupts_a_long_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    connections = Connections(tmp_path / "x.db")
    thread, found = begun(connections, 1_000_000_000, writes=False)
    connections.close()
    thread.join()
    assert found == ["interrupted"]


@pytest.mark.parametrize("writes", [False, True])
def test_closing_waits_for_a_connection_that_is_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    connections = Connections(tmp_path / "x.db")
    opening, plain = threading.Event(), Connection.execute

    def slowly(self: Connection, *statement: str) -> sqlite3.Cursor:
        opening.set()
        time.sleep(0.02)
        return plain(self, *statement)

    monkeypatch.setattr(Connection, "execute", slowly)
    with ThreadPoolExecutor(1) as threads:
        opened = threads.submit(connections.writer if writes else connections.reader)
        assert opening.wait(10)
        connections.close()
        assert opened.result(10).reads is not writes


def test_a_connection_ends_with_its_thread(tmp_path: Path) -> None:
    """Threads come and go with the load: an open collection must not keep a file for each."""
    connections = Connections(tmp_path / "x.db")
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(connections.reader).result(10)
    here = connections.reader()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        ended.execute("SELECT 1")
    assert here.execute("SELECT 1").fetchone() == (1,)
    connections.close()
