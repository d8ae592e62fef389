"""L3 in a file, `cache.db`: shared by the processes of one machine, kept over restarts.

SQLite in a thread of its own; WAL with synchronous=NORMAL, as a lost cached value costs nothing
and an fsync a write costs 5 ms. A damaged cache is put aside and replaced by an empty one; a file
that is no cache of ours is refused and left as it is.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, TypeVar

from vivace.cache.tiers.connection import TierFailure, TierRefused, TierUnreachable

T = TypeVar("T")
NOT_OURS: Final = "cache.sql names a file that is no cache of Vivace's; it was left as it is"
NOT_OURS_FIX: Final = "Name a file that does not exist yet, or delete this one"

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS cached (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, expires REAL, used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON cached (used, length(value));
CREATE TABLE IF NOT EXISTS total (bytes INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON cached
    BEGIN UPDATE total SET bytes = bytes + length(NEW.value); END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON cached
    BEGIN UPDATE total SET bytes = bytes - length(OLD.value); END;
"""
_EMPTIED_TO: Final = 0.9
"""Of the bound: evicting a tenth at once costs an eviction a tenth of the writes' time."""
_TOUCHES: Final = 256
"""Reads whose use is written down together, or with the next write."""
_BUSY_SECONDS: Final = 1.0
_APPLICATION: Final = 0x56766361
"""Marks a database as ours (`PRAGMA application_id`); of caches of version 0.1 the tables do."""
_MAGIC: Final = b"SQLite format 3\0"
_AT_APPLICATION: Final = slice(68, 72)
"""Where a database file holds its application id, big endian (sqlite.org/fileformat.html)."""
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_ours(path: Path) -> bool:
    """Whether the file may be used, and replaced if it is damaged: a cache of ours, or nothing yet.

    Raises:
        OSError: it cannot be read.
    """
    if not path.exists():
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(100)
    if not head:
        return True  # another process is making it
    if not head.startswith(_MAGIC):
        return False
    application = int.from_bytes(head[_AT_APPLICATION])
    return application == _APPLICATION or (application == 0 and _has_our_tables(path))


def _has_our_tables(path: Path) -> bool:
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db,
    ):
        found = db.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'trigger')")
        return {name for (name,) in found} == {"cached", "total", "added", "removed"}
    return False


class SqliteTier:
    """A `CacheTier`. Any process may open the same file.

    Args:
        path: of the file; its folder is made.
        max_bytes: of values; beyond, what was used longest ago goes.
        now: seconds since 1970.
    """

    name = "sqlite"

    def __init__(self, path: Path, *, max_bytes: int, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache.db")
        self._connection: sqlite3.Connection | None = None
        self._touched: dict[bytes, int] = {}
        self.replaced = 0
        """How often the file was damaged and put aside."""

    async def get(self, key: bytes) -> tuple[bytes, float | None] | None:
        return await self._do(lambda db: self._get(db, key))

    async def set(self, key: bytes, value: bytes, *, ttl: float | None = None) -> None:
        expires = None if ttl is None else self._now() + ttl
        await self._do(lambda db: self._set(db, key, value, expires))

    async def delete(self, key: bytes) -> None:
        await self._do(lambda db: _run(db, "DELETE FROM cached WHERE key = ?", (key,)))

    async def clear(self) -> None:
        await self._do(lambda db: _run(db, "DELETE FROM cached", ()))

    async def close(self) -> None:
        with suppress(TierFailure, RuntimeError):
            await self._do(self._flush)
        with suppress(RuntimeError):
            await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._safely, work)

    def _safely(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """On the thread: once more on a new file, if this one is damaged."""
        for attempt in range(2):
            try:
                return work(self._connected())
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code in _DAMAGED and attempt == 0 and is_ours(self._path):
                    self._replace_damaged()
                    continue
                raise _translated(error) from error
            except OSError as error:
                raise TierUnreachable(
                    f"cache.db: {error.strerror}", fix="Check `cache.sql`"
                ) from error
        raise AssertionError("unreachable")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not is_ours(self._path):
                raise TierUnreachable(NOT_OURS, fix=NOT_OURS_FIX)
            # SQLite makes it readable to all, and its log with the same mode
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            db = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                # before the log exists: `is_ours` reads the file itself
                if db.execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
                    db.execute(f"PRAGMA application_id = {_APPLICATION}")
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute("PRAGMA recursive_triggers = ON")  # REPLACE tells the trigger, too
                db.executescript(_SCHEMA)
            except BaseException:
                db.close()
                raise
            self._connection = db
        return self._connection

    def _disconnect(self) -> None:
        db, self._connection = self._connection, None
        if db is not None:
            db.close()

    def _replace_damaged(self) -> None:
        """Others that have the old file open go on in it until they find it damaged, too."""
        self._disconnect()
        self._touched.clear()
        self.replaced += 1
        if self._path.exists():
            self._path.replace(self._path.with_name(self._path.name + ".damaged"))
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _get(self, db: sqlite3.Connection, key: bytes) -> tuple[bytes, float | None] | None:
        row = db.execute("SELECT value, expires FROM cached WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        value, expires = row
        left = None if expires is None else expires - self._now()
        if left is not None and left <= 0:
            return None
        self._touched[key] = time.time_ns()
        if len(self._touched) >= _TOUCHES:
            # it was only a note of use: the value is there whether it can be written or not
            with suppress(sqlite3.OperationalError):
                self._flush(db)
        return value, left

    def _set(self, db: sqlite3.Connection, key: bytes, value: bytes, expires: float | None) -> None:
        if len(value) > self._max_bytes:
            return
        db.execute("BEGIN IMMEDIATE")
        try:
            self._note(db)
            db.execute(
                "INSERT OR REPLACE INTO cached VALUES (?, ?, ?, ?)",
                (key, value, expires, time.time_ns()),
            )
            (total,) = db.execute("SELECT bytes FROM total").fetchone()
            if total > self._max_bytes:
                self._evict(db, total)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _evict(self, db: sqlite3.Connection, total: int) -> None:
        """Down to nine tenths: the expired first, then what was used longest ago."""
        db.execute("DELETE FROM cached WHERE expires <= ?", (self._now(),))
        (total,) = db.execute("SELECT bytes FROM total").fetchone()
        too_much, victims = total - int(_EMPTIED_TO * self._max_bytes), []
        oldest = db.execute("SELECT key, length(value) FROM cached ORDER BY used")
        for key, size in oldest:
            if too_much <= 0:
                break
            victims.append((key,))
            too_much -= size
        oldest.close()
        db.executemany("DELETE FROM cached WHERE key = ?", victims)

    def _flush(self, db: sqlite3.Connection) -> None:
        if self._touched:
            db.execute("BEGIN IMMEDIATE")
            self._note(db)
            db.execute("COMMIT")

    def _note(self, db: sqlite3.Connection) -> None:
        used = [(at, key) for key, at in self._touched.items()]
        self._touched.clear()
        db.executemany("UPDATE cached SET used = ? WHERE key = ?", used)


def _run(db: sqlite3.Connection, statement: str, arguments: Iterable[object]) -> None:
    db.execute(statement, tuple(arguments))


def _translated(error: sqlite3.Error) -> TierFailure:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY):
        return TierRefused(
            f"cache.db: {error}", fix="Free disk space, or set `cache.sql` elsewhere"
        )
    return TierUnreachable(f"cache.db: {error}", fix="Check the disk, or set `cache.sql` elsewhere")
