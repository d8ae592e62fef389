"""The decisions of a collection, in a SQLite file of their own: `ops.db`.

A damaged file is renamed and replaced by an empty one, which is recorded as a decision itself.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from vivace.errors import StoreError
from vivace.store import privacy
from vivace.store.connections import translation
from vivace.trace import Trace
from vivace.types import Decision

FILE = "ops.db"
ASIDE = FILE + ".damaged"
KEEP = 1000
"""Most decisions kept, the newest."""
_VERSION = 1
_NEWEST_VERSION = 16
"""A file that claims a later version is damaged, not new."""
_SECTOR = 512
"""Bytes; the size of every page is a multiple."""
_LONGEST = 64_000
"""Bytes of a decision as JSON; a longer one loses its evidence."""
_UNAVAILABLE = ("locked", "readonly", "read-only", "full", "unable to open", "disk i/o", "closed")
"""Words in SQLite's errors that do not mean a damaged file."""
_TABLE = """
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    decision TEXT NOT NULL,
    -- of the text: SQLite has no checksum of its own
    crc32 INTEGER NOT NULL
)
"""
R = TypeVar("R")


class _Damaged(Exception):
    """The file fails a check; its message says which."""


class Operations:
    """A `DecisionSink` in a file. Errors of the disk never reach the caller of `record`.

    A decision that cannot be written is counted (`decisions.unwritten`) and kept in memory, where
    this process still finds it. Safe from any thread and for several processes.
    """

    def __init__(self, folder: Path, trace: Trace, *, keep: int = KEEP) -> None:
        self._path = folder / FILE
        self._trace = trace
        self._keep = keep
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._unwritten: deque[Decision] = deque(maxlen=keep)
        self._closed = False
        self._mended: list[Decision] = []

    @property
    def mended(self) -> tuple[Decision, ...]:
        """The decisions to rebuild something since this object was created, oldest first."""
        return tuple(self._mended)

    def record(self, decision: Decision) -> None:
        """Store a decision; see `DecisionSink.record`."""
        text = self._text(decision)
        with self._lock:
            if decision.what == "rebuild":
                self._mended.append(decision)
            try:
                self._with_file(lambda connection: self._insert(connection, text))
            except StoreError:
                self._trace.count("decisions.unwritten")
                self._unwritten.append(_decision(text))

    def decisions(self, *, limit: int = 100) -> list[Decision]:
        """The newest first. If the file cannot be read, only what this process could not write."""
        with self._lock:
            found = list(self._unwritten)
            if self._path.exists():
                with suppress(StoreError):  # counted where it was raised
                    found += self._with_file(lambda connection: _select(connection, limit))
        found.sort(key=lambda decision: decision.time, reverse=True)
        return found[: max(0, limit)]

    def verify(self) -> list[str]:
        """What is wrong with the file, a sentence each; changes nothing."""
        with self._lock:
            if self._closed or not self._path.exists():
                return []
            try:
                connection = self._opened()
                try:
                    _select(connection, -1)
                finally:
                    connection.close()
            except (_Damaged, StoreError) as error:
                return [str(error)]
            return []

    def close(self) -> None:
        """Close the file. Idempotent; later decisions stay in memory."""
        with self._lock:
            self._closed = True
            self._release()

    def _text(self, decision: Decision) -> str:
        try:
            text = msgspec.json.encode(decision)
        except (TypeError, ValueError):
            text = b""
        if not 0 < len(text) <= _LONGEST:
            # keep at least what was decided
            self._trace.count("decisions.cut")
            short = Decision(
                decision.what[:100],
                str(decision.before)[:1000],
                str(decision.after)[:1000],
                decision.reason.encode("utf-8", "replace").decode()[:1000],
                time=decision.time,
            )
            text = msgspec.json.encode(short)
        return text.decode()

    def _with_file(self, body: Callable[[sqlite3.Connection], R]) -> R:
        """Run `body` on the open file, replacing a damaged file by an empty one first.

        Raises:
            StoreError: it cannot be opened, read or written.
        """
        if self._closed:
            raise StoreError(f"{self._path} is closed", fix="Open the collection again")
        try:
            return self._attempt(body)
        except _Damaged as damaged:
            self._put_aside(str(damaged))
        try:
            return self._attempt(body)
        except _Damaged as damaged:
            raise StoreError(str(damaged), fix="Delete it") from damaged

    def _attempt(self, body: Callable[[sqlite3.Connection], R]) -> R:
        if self._connection is None:
            self._connection = self._opened()
        try:
            return body(self._connection)
        except sqlite3.Error as error:
            raise _as_ours(error, self._path) from error

    def _opened(self) -> sqlite3.Connection:
        """A connection to the file, after a check of all its pages: it is small."""
        try:
            # SQLite takes a file shorter than a header for a new one
            if self._path.exists() and self._path.stat().st_size % _SECTOR:
                raise _Damaged(f"{self._path} is cut")
            with suppress(OSError):  # the connection says why it cannot be made
                privacy.make_file(self._path)
            connection = sqlite3.connect(
                self._path, timeout=2.0, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise translation(error, self._path) from error
        try:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version == 0:
                connection.execute("PRAGMA journal_mode = WAL")
                _create(connection, self._path)
            elif version != _VERSION:
                later = _VERSION < version <= _NEWEST_VERSION
                what = f"{self._path} has format {version}"
                raise StoreError(what, fix="Upgrade: vivace") if later else _Damaged(what)
            connection.execute("PRAGMA synchronous = NORMAL")
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise _Damaged(f"{self._path}: {found}")
        except sqlite3.Error as error:
            connection.close()
            raise _as_ours(error, self._path) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _put_aside(self, reason: str) -> None:
        self._release()
        self._trace.count("decisions.damaged")
        try:
            for suffix in ("-wal", "-shm"):
                self._path.with_name(FILE + suffix).unlink(missing_ok=True)
            self._path.replace(self._path.with_name(ASIDE))
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}", fix="Delete it") from error
        replaced = Decision("rebuild", FILE, "empty", f"The decisions could not be read: {reason}.")
        self._mended.append(replaced)
        with suppress(_Damaged):  # the next use raises it again
            self._attempt(lambda connection: self._insert(connection, self._text(replaced)))

    def _insert(self, connection: sqlite3.Connection, text: str) -> None:
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            row = connection.execute(
                "INSERT INTO decisions (decision, crc32) VALUES (?, ?)",
                [text, zlib.crc32(text.encode())],
            ).lastrowid
            connection.execute("DELETE FROM decisions WHERE id <= ?", [(row or 0) - self._keep])

    def _release(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Create the table in a file without a version, unless another process has done so."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if connection.execute("PRAGMA user_version").fetchone()[0]:
            return
        if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise _Damaged(f"{path} holds tables and no format")
        connection.execute(_TABLE)
        connection.execute(f"PRAGMA user_version = {_VERSION:d}")


def _select(connection: sqlite3.Connection, limit: int) -> list[Decision]:
    """The newest rows, checked; all rows if the limit is negative."""
    found = []
    for text, crc in connection.execute(
        "SELECT decision, crc32 FROM decisions ORDER BY id DESC LIMIT ?", [limit]
    ):
        if zlib.crc32(str(text).encode("utf-8", "surrogatepass")) != crc:
            raise _Damaged(f"{FILE}: a decision fails its checksum")
        found.append(_decision(text))
    return found


def _decision(text: str) -> Decision:
    try:
        return msgspec.json.decode(text, type=Decision)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise _Damaged(f"{FILE}: a decision cannot be read: {error}") from error


def _as_ours(error: sqlite3.Error, path: Path) -> StoreError | _Damaged:
    text = str(error)
    if any(word in text.lower() for word in _UNAVAILABLE):
        return translation(error, path)
    return _Damaged(f"{path}: {text}")
