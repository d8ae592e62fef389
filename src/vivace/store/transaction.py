"""One transaction over whole documents: what it changes, writing it, and what it did.

Chunks that did not change keep their row; the others are replaced.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivace.errors import BadInput, BadVectors, StoreError
from vivace.store import rows, signs
from vivace.types import Chunk, Document, Float16Vectors, Ids, Signs


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A chunk to store. Chunks with equal `hash` share a vector: it covers all that is indexed."""

    chunk: Chunk
    hash: bytes
    vector: NDArray[np.float16] | None
    """(dim,); None only if the stored document has a chunk with this hash, whose row is kept."""
    signs: Signs | None = None
    """Of its token vectors. A kept row keeps the signs it has."""


@dataclass(frozen=True, slots=True)
class Put:
    """Add the document or replace the one with its id, keeping the chunks that did not change."""

    document: Document
    fingerprint: bytes
    """Of the content and of how it was chunked: equal fingerprints mean nothing to do."""
    chunks: tuple[NewChunk, ...]
    title_indexed: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the document with this id, if it exists."""

    document_id: str


Change: TypeAlias = Put | Remove


class VectorGone(StoreError):
    """The stored chunk whose vector a new chunk was to keep no longer exists."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A durable transaction: the rows that indexes have to add and drop."""

    epoch: int
    added: Ids
    vectors: Float16Vectors
    chunks: tuple[tuple[Chunk, bool], ...]
    """In the order of `added`, each with whether its title is indexed."""
    removed: Ids


class Transaction:
    """Writes changes and collects what indexes need. The caller begins and ends the transaction."""

    def __init__(self, connection: sqlite3.Connection, dim: int) -> None:
        self._connection = connection
        self._dim = dim
        self._epoch = self._value("SELECT value FROM meta WHERE key = 'epoch'") + 1
        # chunk ids are never reused: an index that still holds an old one cannot mistake it
        self._next = self._value("SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'chunks'") + 1
        self._generation = self._value("SELECT value FROM meta WHERE key = 'generation'")
        connection.execute(signs.TABLE)
        self._added: dict[int, tuple[Chunk, bool, NDArray[np.float16]]] = {}
        self._removed: list[int] = []

    def apply(self, changes: Sequence[Change]) -> Committed:
        """Write every change in order.

        Raises:
            BadVectors: a vector, or token signs, of the wrong dimension.
            BadInput: metadata that has no JSON form, or text that has no UTF-8 form.
        """
        for change in changes:
            try:
                if isinstance(change, Put):
                    self._put(change)
                else:
                    self._remove(change)
            except UnicodeEncodeError as error:
                raise BadInput(
                    f"a document's text cannot be encoded: {error}",
                    fix="Remove lone surrogates, e.g. text.encode('utf-8', 'replace').decode()",
                ) from error
        self._connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", [self._epoch])
        self._connection.execute(
            "INSERT INTO commits VALUES (?, lower(hex(randomblob(8))))", [self._epoch]
        )
        ids = sorted(self._added)
        added = [self._added[chunk_id] for chunk_id in ids]
        return Committed(
            epoch=self._epoch,
            added=np.array(ids, np.int64),
            vectors=np.array([item[2] for item in added], np.float16).reshape(-1, self._dim),
            chunks=tuple((chunk, titled) for chunk, titled, _ in added),
            removed=np.array(self._removed, np.int64),
        )

    def _put(self, put: Put) -> None:
        document = put.document
        row = self._connection.execute(
            "SELECT n FROM documents WHERE id = ?", [document.id]
        ).fetchone()
        metadata, sections = rows.metadata_text(document), rows.sections_text(document)
        n = self._value("SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'documents'") + 1
        if row is not None:
            n = row[0]
        values = [
            document.title,
            document.source,
            metadata,
            sections,
            int(put.title_indexed),
            put.fingerprint,
            document.text,
            rows.document_crc(
                n, document.id, document.title, document.source, metadata, int(put.title_indexed)
            ),
            rows.text_crc(n, sections, document.text),
        ]
        if row is None:
            self._connection.execute(
                "INSERT INTO documents (title, source, metadata, sections, title_indexed,"
                " fingerprint, text, crc32, text_crc32, id, n)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [*values, document.id, n],
            )
        else:
            self._connection.execute(
                "UPDATE documents SET title = ?, source = ?, metadata = ?, sections = ?,"
                " title_indexed = ?, fingerprint = ?, text = ?, crc32 = ?, text_crc32 = ?"
                " WHERE n = ?",
                [*values, n],
            )
        self._chunks(n, put, replaced=row is not None)

    def _chunks(self, n: int, put: Put, *, replaced: bool) -> None:
        kept: dict[bytes, list[int]] = {}
        if replaced:
            for chunk_id, digest in self._connection.execute(
                "SELECT id, hash FROM chunks WHERE document = ? ORDER BY start DESC, id DESC", [n]
            ):
                kept.setdefault(digest, []).append(chunk_id)
        moved, new = [], []
        for item in put.chunks:
            if same := kept.get(item.hash):
                chunk_id = same.pop()
                moved.append((*_place(item.chunk, chunk_id, n), chunk_id))
            else:
                new.append(item)
        self._connection.executemany(
            'UPDATE chunks SET start = ?, "end" = ?, page = ?, section = ?, crc32 = ? WHERE id = ?',
            moved,
        )
        self._drop([chunk_id for ids in kept.values() for chunk_id in ids])
        self._insert(n, new, put.title_indexed)

    def _insert(self, n: int, new: Sequence[NewChunk], title_indexed: bool) -> None:
        chunk_rows, vector_rows, sign_rows = [], [], []
        for item in new:
            vector = item.vector
            if vector is None:
                raise VectorGone(f"a chunk of document {item.chunk.document_id!r} has no vector")
            if vector.shape != (self._dim,) or not np.isfinite(vector).all():
                raise BadVectors(
                    f"a chunk of document {item.chunk.document_id!r} has a vector of shape"
                    f" {vector.shape}" + ("" if len(vector) != self._dim else " with NaN in it"),
                    fix=f"Give each chunk {self._dim} finite numbers",
                )
            chunk_id, chunk = self._next, item.chunk
            self._next += 1
            place = _place(chunk, chunk_id, n)
            chunk_rows.append((chunk_id, n, self._epoch, *place, item.hash, chunk.text))
            blob = np.ascontiguousarray(vector, np.float16).tobytes()
            vector_rows.append((chunk_id, blob, rows.vector_crc(chunk_id, blob)))
            if item.signs is not None and len(item.signs):
                blob = rows.signs_blob(item.signs, self._dim)
                crc = rows.vector_crc(chunk_id, blob)
                sign_rows.append((chunk_id, self._generation, crc, blob))
            self._added[chunk_id] = (replace(chunk, id=chunk_id), title_indexed, vector)
        self._connection.executemany(
            'INSERT INTO chunks (id, document, epoch, start, "end", page, section, crc32, hash,'
            " text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            chunk_rows,
        )
        self._connection.executemany("INSERT INTO vectors VALUES (?, ?, ?)", vector_rows)
        self._connection.executemany("INSERT INTO signs VALUES (?, ?, ?, ?)", sign_rows)
        signs.grown(self._connection, sum(len(row[-1]) for row in sign_rows))

    def _remove(self, remove: Remove) -> None:
        row = self._connection.execute(
            "SELECT n FROM documents WHERE id = ?", [remove.document_id]
        ).fetchone()
        if row is None:
            return
        ids = self._connection.execute("SELECT id FROM chunks WHERE document = ?", row).fetchall()
        self._drop([chunk_id for (chunk_id,) in ids])
        self._connection.execute("DELETE FROM documents WHERE n = ?", row)

    def _drop(self, ids: Sequence[int]) -> None:
        keys = [(chunk_id,) for chunk_id in ids]
        self._connection.executemany("DELETE FROM chunks WHERE id = ?", keys)
        self._connection.executemany("DELETE FROM vectors WHERE id = ?", keys)
        signs.drop(self._connection, ids)
        for chunk_id in ids:
            # no index has seen a chunk that was added in this transaction
            if self._added.pop(chunk_id, None) is None:
                self._removed.append(chunk_id)
        self._connection.executemany(
            "INSERT INTO removed VALUES (?, ?)", [(chunk_id, self._epoch) for chunk_id in ids]
        )

    def _value(self, sql: str) -> int:
        found = self._connection.execute(sql).fetchone()[0]
        return int(found or 0)


def _place(chunk: Chunk, chunk_id: int, n: int) -> tuple[int, int, int | None, str, int]:
    """Where the chunk lies in document n, and the checksum of its row."""
    heading = rows.heading_text(chunk)
    crc = rows.chunk_crc(chunk_id, n, chunk.start, chunk.end, chunk.page, heading, chunk.text)
    return chunk.start, chunk.end, chunk.page, heading, crc
