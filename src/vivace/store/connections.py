"""Access to a collection's files: SQLite connections, and the lock of the one process that writes.

SQLite's errors are translated into ours here.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from vivace.errors import CollectionLocked, StoreError, StoreUnwritable
from vivace.store.privacy import FILE_MODE

LOCK: Final = "write.lock"
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
    """A connection whose user holds `busy`: closing it while a statement runs crashes the process.

    A statement may outlive its caller, if that was cancelled.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.busy = threading.RLock()
        self.reads = False
        self.thread = threading.current_thread()


class Connections:
    """Gives every thread its own reading connection; `close` closes them all.

    A connection whose thread has ended is closed when the next one is opened. Closing waits for
    running statements; reads that take longer than `_PATIENCE` seconds are interrupted.
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
            # SQLite cannot create its shared-memory file in a read-only folder; no other process
            # can write there either, and the log has been emptied
            return uri + "?mode=ro&immutable=1"
        return uri + "?mode=rwc"

    def _open(self, *pragmas: str, reads: bool = False) -> Connection:
        with translated(self.path), self._lock:
            if self._closed:
                raise StoreError(f"{self.path} is closed", fix="Open the collection again")
            self._close_orphans()
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

    def _close_orphans(self) -> None:
        """Close reading connections whose thread has ended: threads come and go with the load."""
        orphans = [c for c in self._opened if c.reads and not c.thread.is_alive()]
        for connection in orphans:
            # another thread may be iterating over rows that the ended one began to read
            if connection.busy.acquire(blocking=False):
                self._opened.remove(connection)
                connection.close()
                connection.busy.release()


class WriteLock:
    """An advisory lock on a collection's folder; the kernel drops it when its process dies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._file: int | None = None

    @property
    def held(self) -> bool:
        return self._file is not None

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises:
            CollectionLocked: another process holds it; names its pid.
            StoreUnwritable: the folder cannot be written.
        """
        if self._file is not None:
            return
        folder = self._path.parent
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise StoreUnwritable(
                f"{folder} cannot be written: {error.strerror}",
                fix="Check its permissions and that the disk is not mounted read-only",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise CollectionLocked(
                f"{folder} is being written by another process (pid {pid})",
                fix="Wait until it is done; searching works meanwhile",
            ) from None
        self._file = file
        with suppress(OSError):  # on a full disk the lock holds without its owner's pid
            os.truncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
