"""The decisions of a collection, in a SQLite file of their own: `ops.db`.

They are no truth: a file that is damaged is put aside and begun anew, which is itself a decision.
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
from vivace.store.connections import translation
from vivace.trace import Trace
from vivace.types import Decision

FILE = "ops.db"
ASIDE = FILE + ".damaged"
KEEP = 1000
"""Most decisions kept, the newest."""
_VERSION = 1
_NEWEST_VERSION = 16
"""A file that claims a later one is damaged, not new."""
_SECTOR = 512
"""Bytes: every page is a multiple of it."""
_LONGEST = 64_000
"""Bytes of a decision as JSON; of a longer one the evidence is left out."""
_UNAVAILABLE = ("locked", "readonly", "read-only", "full", "unable to open", "disk i/o", "closed")
"""Words of SQLite's errors that say nothing against the file itself."""
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
    """A `DecisionSink` in a file. Nothing it meets on the disk fails whoever records.

    What cannot be written is kept in memory and counted (`decisions.unwritten`), so that this
    process can still tell it. Safe from any thread and for several processes.
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
        """What has been rebuilt since this was made, oldest first."""
        return tuple(self._mended)

    def record(self, decision: Decision) -> None:
        """Remember a decision; see `DecisionSink.record`."""
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
        """The newest first; of a file that cannot be read, only what this process decided."""
        with self._lock:
            found = list(self._unwritten)
            if self._path.exists():
                with suppress(StoreError):  # counted where it was met
                    found += self._with_file(lambda connection: _select(connection, limit))
        found.sort(key=lambda decision: decision.time, reverse=True)
        return found[: max(0, limit)]

    def verify(self) -> list[str]:
        """What is wrong with the file, a sentence each; nothing is changed."""
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
        """Let go of the file. Idempotent; what is recorded after it stays in memory."""
        with self._lock:
            self._closed = True
            self._release()

    def _text(self, decision: Decision) -> str:
        try:
            text = msgspec.json.encode(decision)
        except (TypeError, ValueError):
            text = b""
        if not 0 < len(text) <= _LONGEST:
            # tell at least what was decided
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
        """`body` on the open file, which is begun anew where it is damaged.

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
        """A connection to a file that has been checked from end to end: it is small."""
        try:
            # SQLite takes a file shorter than a header for a new one
            if self._path.exists() and self._path.stat().st_size % _SECTOR:
                raise _Damaged(f"{self._path} is cut")
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
        anew = Decision("rebuild", FILE, "empty", f"The decisions could not be read: {reason}.")
        self._mended.append(anew)
        with suppress(_Damaged):  # the next use says so again
            self._attempt(lambda connection: self._insert(connection, self._text(anew)))

    def _insert(self, connection: sqlite3.Connection, text: str) -> None:
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            id = connection.execute(
                "INSERT INTO decisions (decision, crc32) VALUES (?, ?)",
                [text, zlib.crc32(text.encode())],
            ).lastrowid
            connection.execute("DELETE FROM decisions WHERE id <= ?", [(id or 0) - self._keep])

    def _release(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Make the table, in a file that has no version yet; another process may be doing so too."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if connection.execute("PRAGMA user_version").fetchone()[0]:
            return
        if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise _Damaged(f"{path} holds tables and no format")
        connection.execute(_TABLE)
        connection.execute(f"PRAGMA user_version = {_VERSION:d}")


def _select(connection: sqlite3.Connection, limit: int) -> list[Decision]:
    """The newest rows, checked; all where the limit is negative."""
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
