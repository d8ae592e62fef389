"""The questions that were asked, as rows of a store; the newest are kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

Asked: TypeAlias = tuple[float, str, int, str, str, float]
"""Time, text, k, user, hits as JSON, milliseconds."""
Read: TypeAlias = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]

_COLUMNS = "time, text, k, user, hits, milliseconds"


def add(writer: sqlite3.Connection, entries: Sequence[Asked], keep: int) -> None:
    """Add rows inside a transaction and keep the newest `keep`.

    In one statement: between two of them the thread would wait for the interpreter, which a busy
    event loop has, and everybody else for the write lock.
    """
    values = ", ".join(f"json_extract(value, '$[{at}]')" for at in range(len(_COLUMNS.split())))
    writer.execute(
        f"INSERT INTO queries ({_COLUMNS}) SELECT {values} FROM json_each(?)",
        [msgspec.json.encode(entries).decode()],
    )
    writer.execute("DELETE FROM queries WHERE id <= (SELECT MAX(id) FROM queries) - ?", [keep])


def newest(read: Read, limit: int) -> list[Asked]:
    """The newest first, as they were added."""
    rows = read(f"SELECT {_COLUMNS} FROM queries ORDER BY id DESC LIMIT ?", [limit])
    return [(time, text, k, user, hits, ms) for time, text, k, user, hits, ms in rows]


def texts(read: Read, limit: int) -> list[str]:
    """Of the newest questions that have one, the oldest of them first."""
    rows = read("SELECT text FROM queries WHERE text <> '' ORDER BY id DESC LIMIT ?", [limit])
    return [str(text) for (text,) in reversed(rows)]
