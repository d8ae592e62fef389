"""The table of token signs. Collections made before it existed do not have it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

TABLE: Final = """
CREATE TABLE IF NOT EXISTS signs (
    id INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    signs BLOB NOT NULL
)
"""
"""Created by a store's next transaction. A Vivace that does not know the table can still read and
write the collection. It then leaves rows of chunks it removes, and of vectors it replaces by
another embedder's; neither is ever used, since ids are never reused and rows of another
`generation` than the store's do not count."""
BYTES: Final = "signs_bytes"
"""The key of `meta` with the bytes of all signs: summing them reads a page for every row or two,
2.4 microseconds."""
CURRENT: Final = "generation = (SELECT value FROM meta WHERE key = 'generation')"


def exist(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'signs'").fetchone())


def drop_stale(writer: sqlite3.Connection) -> None:
    """Remove the rows that a Vivace without the table has left: see `TABLE`."""
    if exist(writer):
        writer.execute(
            f"DELETE FROM signs WHERE id NOT IN (SELECT id FROM chunks) OR NOT {CURRENT}"
        )
        recount(writer)


def grown(writer: sqlite3.Connection, by: int) -> None:
    """Add `by` bytes, which may be negative, to the total."""
    if by:
        writer.execute(
            "INSERT OR REPLACE INTO meta VALUES"
            f" ('{BYTES}', ? + COALESCE((SELECT value FROM meta WHERE key = '{BYTES}'), 0))",
            [by],
        )


def recount(writer: sqlite3.Connection) -> None:
    """Recount the bytes of all signs."""
    writer.execute(
        "INSERT OR REPLACE INTO meta SELECT ?, COALESCE(SUM(LENGTH(signs)), 0) FROM signs", [BYTES]
    )


def drop(writer: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Remove the signs of these chunks."""
    gone = 0
    for chunk_id in ids:
        (size,) = writer.execute(
            "SELECT TOTAL(LENGTH(signs)) FROM signs WHERE id = ?", [chunk_id]
        ).fetchone()
        gone += int(size)
    writer.executemany("DELETE FROM signs WHERE id = ?", [(chunk_id,) for chunk_id in ids])
    grown(writer, -gone)
