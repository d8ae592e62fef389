"""Replaces the vectors of every chunk: collects the new ones aside, then swaps them in at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from vivace.errors import BadVectors, CollectionNotFound
from vivace.store import rows, schema
from vivace.store import signs as signs_table
from vivace.store.connections import Connections, translated
from vivace.types import Chunk, Float16Vectors, Ids, Signs

_ASIDE = "reembedded"
_ASIDE_SIGNS = "reembedded_signs"
_TARGET = "reembedding"
"""The key of `meta` with the embedder that the vectors set aside were made with."""
R = TypeVar("R")


class Reembedding:
    """Gives a collection the vectors of another embedder. The caller holds the write lock.

    After an interruption it continues where it was: every finished `add` is durable. Until `swap`
    the collection does not change, and readers see either the old state or the new one.
    """

    def __init__(self, connections: Connections, embedder: str, dim: int, tokens: str) -> None:
        self._connections = connections
        self._connection = connections.writer()
        self._connection.create_function("vector_crc", 2, rows.vector_crc, deterministic=True)
        self._dim = dim
        self._embedder = embedder
        self._tokens = tokens
        self._after = 0
        meta = dict(self._do(lambda c: c.execute("SELECT key, value FROM meta").fetchall()))
        self.was = (str(meta["embedder"]), int(meta["dim"]))
        """The name and dimension of the embedder until now."""
        self._generation = int(meta["generation"]) + 1
        self._do(lambda connection: self._resume(connection, meta.get(_TARGET)))
        self.total, self.done = self._do(_counts)
        """Chunks in all, and of these the ones that have their new vector."""

    @classmethod
    def open(cls, folder: Path, *, embedder: str, dim: int, tokens: str = "off") -> Reembedding:
        """Begin or continue re-embedding the collection in `folder`.

        `tokens` says what is kept of the token vectors; another value than before starts again.

        Raises:
            CollectionNotFound: there is none.
            CollectionTooNew: a later version of Vivace wrote it.
            StoreUnwritable: it cannot be written.
        """
        path = folder / schema.FILE
        if not path.is_file():
            raise CollectionNotFound(
                f"there is no collection at {folder}",
                fix="Make one: vivace ingest DIR --collection NAME",
            )
        connections = Connections(path)
        try:
            with translated(path):
                schema.migrate(connections.writer(), str(path))
            return cls(connections, embedder, dim, tokens)
        except BaseException:
            connections.close()
            raise

    def close(self) -> None:
        self._connections.close()

    def missing(self, limit: int) -> list[tuple[Chunk, bool]]:
        """The next chunks without a new vector, each with whether its title is indexed."""

        def read(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(
                f"SELECT {rows.CHUNK} FROM chunks c JOIN documents d ON d.n = c.document"
                f" WHERE c.id > ? AND c.id NOT IN (SELECT id FROM {_ASIDE})"
                " ORDER BY c.id LIMIT ?",
                [self._after, limit],
            ).fetchall()

        found = self._do(read)
        return [(rows.chunk_of(row), bool(row[10])) for row in found]

    def add(self, ids: Ids, vectors: Float16Vectors, signs: Sequence[Signs | None] = ()) -> None:
        """Set vectors (n, dim) of chunks aside, durably; in the order of `missing`.

        `signs` are those of their token vectors: one per chunk, or empty.

        Raises:
            BadVectors: they have another shape, or hold NaN or infinity.
            StoreUnwritable: the disk is full or read-only.
        """
        if vectors.shape != (len(ids), self._dim) or not np.isfinite(vectors).all():
            raise BadVectors(
                f"{self._embedder} gave vectors of shape {vectors.shape}, or with NaN in them",
                fix=f"Give each chunk {self._dim} finite numbers",
            )
        blobs = [np.ascontiguousarray(row).tobytes() for row in vectors]
        entries = [(n, blob, rows.vector_crc(n, blob)) for n, blob in zip(ids.tolist(), blobs)]
        of_tokens = [
            (n, self._generation, rows.vector_crc(n, blob), blob)
            for n, blob in (
                (n, rows.signs_blob(kept, self._dim))
                for n, kept in zip(ids.tolist(), signs)
                if kept is not None
            )
        ]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(f"INSERT OR REPLACE INTO {_ASIDE} VALUES (?, ?, ?)", entries)
            connection.executemany(
                f"INSERT OR REPLACE INTO {_ASIDE_SIGNS} VALUES (?, ?, ?, ?)", of_tokens
            )

        self._do(write)
        if entries:
            self._after = max(self._after, entries[-1][0])
            self.done += len(entries)

    def swap(self) -> int | None:
        """Replace the old vectors by the new ones; returns the epoch that shows them.

        Returns None and changes nothing if chunks have been added that have no new vector yet.
        """
        return self._do(self._swap)

    def _swap(self, connection: sqlite3.Connection) -> int | None:
        connection.execute(f"DELETE FROM {_ASIDE} WHERE id NOT IN (SELECT id FROM chunks)")
        self.total, self.done = _counts(connection)
        if self.done < self.total:
            return None
        connection.execute("DELETE FROM vectors")  # without a condition SQLite drops whole pages
        connection.execute(f"INSERT INTO vectors SELECT id, vector, crc32 FROM {_ASIDE}")
        connection.execute(f"DROP TABLE {_ASIDE}")
        # renamed, not copied: signs take ten times the bytes of the vectors
        connection.execute(f"DELETE FROM {_ASIDE_SIGNS} WHERE id NOT IN (SELECT id FROM chunks)")
        connection.execute("DROP TABLE IF EXISTS signs")
        connection.execute(f"ALTER TABLE {_ASIDE_SIGNS} RENAME TO signs")
        signs_table.recount(connection)
        connection.execute("DELETE FROM meta WHERE key = ?", [_TARGET])
        (value,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        epoch = int(value) + 1
        connection.execute("INSERT INTO commits VALUES (?, lower(hex(randomblob(8))))", [epoch])
        # indexes made from vectors of an earlier generation are stale now
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
        connection.executemany(
            "UPDATE meta SET value = ? WHERE key = ?",
            [(self._embedder, "embedder"), (self._dim, "dim"), (epoch, "epoch")],
        )
        return epoch

    def _resume(self, connection: sqlite3.Connection, target: object) -> None:
        ours = msgspec.json.encode([self._embedder, self._dim, self._tokens]).decode()
        if target != ours:
            connection.execute(f"DROP TABLE IF EXISTS {_ASIDE}")
            connection.execute(f"DROP TABLE IF EXISTS {_ASIDE_SIGNS}")
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [_TARGET, ours])
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {_ASIDE}"
            " (id INTEGER PRIMARY KEY, vector BLOB NOT NULL, crc32 INTEGER NOT NULL)"
        )
        connection.execute(signs_table.TABLE.replace("EXISTS signs", f"EXISTS {_ASIDE_SIGNS}"))
        # chunks removed since the interruption, and rows that the disk has damaged
        connection.execute(
            f"DELETE FROM {_ASIDE} WHERE id NOT IN (SELECT id FROM chunks)"
            " OR length(vector) <> ? OR vector_crc(id, vector) <> crc32",
            [2 * self._dim],
        )

    def _do(self, body: Callable[[sqlite3.Connection], R]) -> R:
        with translated(self._connections.path), self._connection.busy:
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:
                return body(self._connection)


def _counts(connection: sqlite3.Connection) -> Sequence[int]:
    found: Sequence[int] = connection.execute(
        f"SELECT (SELECT COUNT(*) FROM chunks), (SELECT COUNT(*) FROM {_ASIDE})"
    ).fetchone()
    return found
