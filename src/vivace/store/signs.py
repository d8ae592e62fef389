"""The table of token signs, which a collection from before it was kept does not have."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from vivace.store import rows
from vivace.types import Signs

TABLE: Final = """
CREATE TABLE IF NOT EXISTS signs (
    id INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    signs BLOB NOT NULL
)
"""
"""Made by a store's next transaction: a collection without it is no older version, and what made it
can still read and write it. That one leaves rows behind, of chunks it removes, and of vectors that
it replaces by another embedder's; but ids are never reused, and rows of another `generation` than
the store's do not count."""

BYTES: Final = "signs_bytes"
"""The key of `meta` with the bytes of all of them: adding them up reads a page a row or two, 2.4
microseconds."""
_CURRENT: Final = "generation = (SELECT value FROM meta WHERE key = 'generation')"

Read: TypeAlias = Callable[[str], list[tuple[Any, ...]]]
In: TypeAlias = Callable[[str, Sequence[object]], Iterator[tuple[Any, ...]]]


class SignTable:
    """Reads a store's token signs; its arguments are the store's own ways to read."""

    def __init__(self, read: Read, read_in: In, dim: int) -> None:
        self._read = read
        self._in = read_in
        self._dim = dim
        self._found = False

    @property
    def exists(self) -> bool:
        if not self._found:
            self._found = bool(self._read("SELECT 1 FROM sqlite_master WHERE name = 'signs'"))
        return self._found

    def read(self, ids: Sequence[int]) -> dict[int, Signs]:
        """As `Store.signs`."""
        if not self.exists:
            return {}
        read = self._in(f"SELECT id, signs, crc32 FROM signs WHERE {_CURRENT} AND id IN", ids)
        found = ((row[0], rows.signs_of(row, self._dim)) for row in read)
        return {id: signs for id, signs in found if signs is not None}

    def bytes(self) -> int:
        """Of all that are kept."""
        found = self._read(f"SELECT value FROM meta WHERE key = '{BYTES}'")
        return int(found[0][0]) if found else 0

    def drop_stale(self, writer: sqlite3.Connection) -> None:
        """Remove what a Vivace that does not know of the table has left behind: see `TABLE`."""
        if self.exists:
            writer.execute("BEGIN IMMEDIATE")
            with writer:
                writer.execute(
                    f"DELETE FROM signs WHERE id NOT IN (SELECT id FROM chunks) OR NOT {_CURRENT}"
                )
                recount(writer)


def grown(writer: sqlite3.Connection, by: int) -> None:
    """So many bytes more are kept, or less."""
    if by:
        writer.execute(
            "INSERT OR REPLACE INTO meta VALUES"
            f" ('{BYTES}', ? + COALESCE((SELECT value FROM meta WHERE key = '{BYTES}'), 0))",
            [by],
        )


def recount(writer: sqlite3.Connection) -> None:
    """Add up the bytes of all that are kept."""
    writer.execute(
        "INSERT OR REPLACE INTO meta SELECT ?, COALESCE(SUM(LENGTH(signs)), 0) FROM signs", [BYTES]
    )


def drop(writer: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Remove those of these chunks that have some."""
    gone = 0
    for id in ids:
        (size,) = writer.execute(
            "SELECT TOTAL(LENGTH(signs)) FROM signs WHERE id = ?", [id]
        ).fetchone()
        gone += int(size)
    writer.executemany("DELETE FROM signs WHERE id = ?", [(id,) for id in ids])
    grown(writer, -gone)
