"""One transaction over whole documents: what stays keeps its row, the rest is replaced."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vivace.errors import BadInput, BadVectors
from vivace.store import rows, signs
from vivace.store.changes import Change, Committed, NewChunk, Put, Remove, VectorGone
from vivace.types import Chunk


class Transaction:
    """Writes, and collects what indexes must learn. The caller begins and ends the transaction."""

    def __init__(self, connection: sqlite3.Connection, dim: int) -> None:
        self._connection = connection
        self._dim = dim
        self._epoch = self._value("SELECT value FROM meta WHERE key = 'epoch'") + 1
        # chunk ids are never reused, so that an index that still holds an old one cannot lie
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
        vectors = [self._added[id][2] for id in ids]
        return Committed(
            epoch=self._epoch,
            added=np.array(ids, np.int64),
            vectors=np.array(vectors, np.float16).reshape(len(ids), self._dim),
            chunks=tuple((self._added[id][0], self._added[id][1]) for id in ids),
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
            for id, hash in self._connection.execute(
                "SELECT id, hash FROM chunks WHERE document = ? ORDER BY start DESC, id DESC", [n]
            ):
                kept.setdefault(hash, []).append(id)
        moved, new = [], []
        for item in put.chunks:
            same = kept.get(item.hash)
            if same:
                moved.append((*_place(item.chunk, id := same.pop(), n), id))
            else:
                new.append(item)
        self._connection.executemany(
            'UPDATE chunks SET start = ?, "end" = ?, page = ?, section = ?, crc32 = ? WHERE id = ?',
            moved,
        )
        self._drop([id for ids in kept.values() for id in ids])
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
            id, chunk = self._next, item.chunk
            self._next += 1
            chunk_rows.append(
                (id, n, self._epoch, *_place(chunk, id, n), item.hash, chunk.text),
            )
            blob = np.ascontiguousarray(vector, np.float16).tobytes()
            vector_rows.append((id, blob, rows.vector_crc(id, blob)))
            if item.signs is not None and len(item.signs):
                blob = rows.signs_blob(item.signs, self._dim)
                sign_rows.append((id, self._generation, rows.vector_crc(id, blob), blob))
            self._added[id] = (_with_id(chunk, id), title_indexed, vector)
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
        self._drop([id for (id,) in ids])
        self._connection.execute("DELETE FROM documents WHERE n = ?", row)

    def _drop(self, ids: Sequence[int]) -> None:
        keys = [(id,) for id in ids]
        self._connection.executemany("DELETE FROM chunks WHERE id = ?", keys)
        self._connection.executemany("DELETE FROM vectors WHERE id = ?", keys)
        signs.drop(self._connection, ids)
        for id in ids:
            # a chunk added and dropped in one transaction was never seen by an index
            if self._added.pop(id, None) is None:
                self._removed.append(id)
        self._connection.executemany(
            "INSERT INTO removed VALUES (?, ?)", [(id, self._epoch) for id in ids]
        )

    def _value(self, sql: str) -> int:
        found = self._connection.execute(sql).fetchone()[0]
        return int(found or 0)


def _place(chunk: Chunk, id: int, n: int) -> tuple[int, int, int | None, str, int]:
    """Where the chunk lies in document n, and the checksum of its row."""
    heading = rows.heading_text(chunk)
    crc = rows.chunk_crc(id, n, chunk.start, chunk.end, chunk.page, heading, chunk.text)
    return chunk.start, chunk.end, chunk.page, heading, crc


def _with_id(chunk: Chunk, id: int) -> Chunk:
    return Chunk(
        chunk.document_id,
        chunk.text,
        chunk.start,
        chunk.end,
        id,
        chunk.section,
        chunk.page,
        chunk.title,
        chunk.source,
        chunk.metadata,
    )
