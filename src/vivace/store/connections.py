"""SQLite connections: one reader a thread, one writer; foreign errors become ours here."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vivace.errors import StoreError, StoreUnwritable

_PATIENCE = 5.0
_UNWRITABLE = ("readonly", "read-only", "full", "disk i/o")


def translation(error: sqlite3.Error, where: Path) -> StoreError:
    """SQLite's error as ours: `StoreUnwritable` for a full or read-only disk, else `StoreError`."""
    text = str(error)
    if any(word in text.lower() for word in _UNWRITABLE):
        return StoreUnwritable(
            f"{where}: {text}",
            fix="Free disk space or make the folder writable; what was acknowledged is safe",
        )
    return StoreError(f"{where}: {text}", fix="If it persists, check the disk, restore a backup")


@contextmanager
def translated(where: Path) -> Iterator[None]:
    """Raise SQLite's errors as `translation` gives them."""
    try:
        yield
    except sqlite3.Error as error:
        raise translation(error, where) from error


class Connection(sqlite3.Connection):
    """One that says when it is used: closing it under a thread's feet crashes the process.

    Who runs a statement holds `busy`. It is the thread of a caller that was cancelled, mostly: he
    has gone, and the statement has not.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.busy = threading.RLock()
        self.reads = False


class Connections:
    """Hands every thread its own reading connection; `close` closes them all.

    Closing waits for the statements that run; reads that take longer than `_PATIENCE` are stopped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._opened: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    def reader(self) -> Connection:
        """This thread's connection; it refuses to write.

        Raises:
            StoreError: the store is closed, or the file cannot be opened.
        """
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None or self._closed:
            connection = self._local.connection = self._open("query_only = ON", reads=True)
        return connection

    def writer(self) -> Connection:
        """A new connection that makes commits durable (WAL, synchronous=FULL)."""
        return self._open(
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "wal_autocheckpoint = 4000",
        )

    def close(self) -> None:
        with self._lock:
            self._closed = True
            opened, self._opened = self._opened, []
        for connection in opened:
            if not connection.busy.acquire(timeout=_PATIENCE):
                if connection.reads:
                    connection.interrupt()
                connection.busy.acquire()
            connection.close()
            connection.busy.release()

    def _uri(self) -> str:
        uri = self.path.resolve().as_uri()
        unwritable = not os.access(self.path.parent, os.W_OK)
        if unwritable and not self.path.with_name(self.path.name + "-wal").exists():
            # in a folder that cannot be written SQLite cannot make its shared-memory file; nobody
            # else can write there either, and everything has been moved out of the log
            return uri + "?mode=ro&immutable=1"
        return uri + "?mode=rwc"

    def _open(self, *pragmas: str, reads: bool = False) -> Connection:
        with translated(self.path), self._lock:
            if self._closed:
                raise StoreError(f"{self.path} is closed", fix="Open the collection again")
            connection = sqlite3.connect(
                self._uri(),
                uri=True,
                timeout=10.0,
                isolation_level=None,
                check_same_thread=False,
                factory=Connection,
            )
            connection.reads = reads
            connection.busy.acquire()  # before `close` can see it
            self._opened.append(connection)
        try:
            with translated(self.path):
                for pragma in ("mmap_size = 268435456", "cache_size = -4096", *pragmas):
                    connection.execute(f"PRAGMA {pragma}")
        finally:
            connection.busy.release()
        return connection
