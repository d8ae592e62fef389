"""The store: reads from any thread, transactions from one."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vivace.errors import (
    BadInput,
    CollectionNotFound,
    EmbedderMismatch,
)
from vivace.store import making, neighbours, questions, rows, schema
from vivace.store.changes import Change, Committed
from vivace.store.connections import Connection, Connections, translated, translation
from vivace.store.filters import to_sql
from vivace.store.signs import SignTable
from vivace.store.transaction import Transaction
from vivace.types import (
    Chunk,
    CollectionInfo,
    Document,
    Float16Vectors,
    Ids,
    Metadata,
    Metric,
    Signs,
)

FILE = making.FILE
_BATCH = 4096
_LAST_ID = 2**63 - 1
_FREE_SHARE = 0.1
"""Of the pages; below it, copying the file costs more than it gives back."""
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Identity:
    """What every index of a collection has to agree with."""

    uuid: str
    embedder: str
    dim: int
    metric: Metric
    generation: int
    """Grows when stored vectors are replaced by others under the same ids."""


class Store:
    """One collection's truth. Open with `Store.open`.

    Every read sees a committed state. `commit` is durable when it returns: documents are whole in
    the file or not there, whatever happens to the process.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._writer: Connection | None = None
        self._write_lock = threading.Lock()
        self._known_keys: tuple[int, frozenset[str]] = (-1, frozenset())
        self._local = threading.local()
        self.identity = self.stored_identity()
        self.uuid = self.identity.uuid
        self.embedder = self.identity.embedder
        self.dim = self.identity.dim
        self.metric: Metric = self.identity.metric
        self._signs = SignTable(self._read, self._in, self.dim)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        embedder: str,
        dim: int,
        metric: Metric = "cosine",
        create: bool = True,
    ) -> Store:
        """Open the collection in `folder`, making it where there is none; it keeps its metric.

        Raises:
            CollectionNotFound: there is none and `create` is False.
            CollectionTooNew: a later version of Vivace wrote it.
            EmbedderMismatch: it was made with another embedder.
            StoreUnwritable: it has to be made or migrated and cannot be.
        """
        path = folder / FILE
        if not making.is_file(path):
            if not create:
                raise CollectionNotFound(
                    f"there is no collection at {folder}",
                    fix="Make one: vivace ingest DIR --collection NAME",
                )
            making.make(folder, path, embedder, dim, metric)
        connections = Connections(path)
        try:
            with translated(path):
                if schema.version(connections.reader()) != schema.VERSION:
                    writer = connections.writer()
                    if schema.version(writer) == 0:
                        making.check_begun(folder)
                        making.write_identity(writer, embedder, dim, metric)
                    schema.migrate(writer, str(path))
            store = cls(connections)
            if (store.embedder, store.dim) != (embedder, dim):
                raise EmbedderMismatch(
                    f"{folder} was made with the embedder {store.embedder} ({store.dim}"
                    f" dimensions), not {embedder} ({dim})",
                    fix="Set embed.model back, or embed it anew: vivace rebuild --reembed",
                )
        except BaseException:
            connections.close()
            raise
        return store

    def close(self) -> None:
        self._connections.close()

    # -- what is there ------------------------------------------------------------------

    def epoch(self) -> int:
        """Grows by one with every transaction of any process. Costs microseconds when unchanged.

        Raises:
            EmbedderMismatch: the collection was embedded anew while it was open.
        """
        reader = self._connections.reader()
        try:  # every search passes here
            with reader.busy:
                seen = reader.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            raise translation(error, self._connections.path) from error
        last: tuple[sqlite3.Connection, int, int] | None = getattr(self._local, "seen", None)
        if last is None or last[0] is not reader or last[1] != seen:
            meta = dict(self._read("SELECT key, value FROM meta"))
            if (meta["embedder"], int(meta["dim"])) != (self.embedder, self.dim):
                raise EmbedderMismatch(
                    f"{self._connections.path.parent} has been embedded anew with"
                    f" {meta['embedder']}, not {self.embedder}",
                    fix=f"Set embed.model to {meta['embedder']} and open it again",
                )
            last = self._local.seen = (reader, seen, int(meta["epoch"]))
        return last[2]

    def info(self) -> CollectionInfo:
        documents, chunks = self._read(
            "SELECT (SELECT COUNT(*) FROM documents), (SELECT COUNT(*) FROM chunks)"
        )[0]
        return CollectionInfo(
            self.uuid,
            str(self._connections.path.parent),
            self.epoch(),
            documents,
            chunks,
            self.embedder,
            self.dim,
            self._signs.bytes(),
        )

    def document(self, id: str) -> Document | None:
        """The document with this id.

        Raises:
            StoreError: it fails its checksum.
        """
        found = self._read(f"SELECT {rows.DOCUMENT} FROM documents d WHERE d.id = ?", [id])
        if not found:
            return None
        _, _, _, _, sections, text, n, crc = found[0]
        if rows.text_crc(n, sections, text) != crc:
            raise rows.damaged(f"document {id!r}")
        return rows.document_of(found[0])

    def documents(self, *, limit: int = -1, offset: int = 0) -> list[tuple[Document, int]]:
        """Documents in the order they were added, without their text, each with its chunk count."""
        found = self._read(
            "SELECT d.id, d.title, d.source, d.metadata, d.sections, '',"
            " (SELECT COUNT(*) FROM chunks WHERE document = d.n)"
            " FROM documents d ORDER BY d.n LIMIT ? OFFSET ?",
            [limit, offset],
        )
        return [(rows.document_of(row[:6]), row[6]) for row in found]

    def fingerprints(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The fingerprint of each document that exists."""
        return dict(self._in("SELECT id, fingerprint FROM documents WHERE id IN", ids))

    def under(self, prefix: str) -> list[tuple[str, str]]:
        """(id, source) of documents whose source is the file `prefix` or lies in that folder."""
        folder = prefix.rstrip("/") + "/"
        found = self._read(
            "SELECT id, source FROM documents WHERE source = ? OR source >= ? AND source < ?",
            [prefix, folder, folder[:-1] + "0"],  # "0" is the character after "/"
        )
        return [(row[0], row[1]) for row in found]

    def hashes(self, document_ids: Sequence[str]) -> dict[str, dict[bytes, int]]:
        """How many chunks of each hash a document has, by document id."""
        counts: dict[str, dict[bytes, int]] = {}
        for id, hash in self._in(
            "SELECT d.id, c.hash FROM documents d JOIN chunks c ON c.document = d.n WHERE d.id IN",
            document_ids,
        ):
            of_document = counts.setdefault(id, {})
            of_document[hash] = of_document.get(hash, 0) + 1
        return counts

    def chunks(self, ids: Iterable[int]) -> dict[int, Chunk]:
        """The chunks that exist now, by id."""
        found = self._in(
            f"SELECT {rows.CHUNK} FROM chunks c JOIN documents d ON d.n = c.document WHERE c.id IN",
            list(ids),
        )
        return {row[0]: rows.chunk_of(row) for row in found}

    def signs(self, ids: Iterable[int]) -> dict[int, Signs]:
        """The signs of the token vectors of those chunks that have some, by id.

        Those that fail their checksum are left out; `vivace verify` tells.
        """
        return self._signs.read(list(ids))

    def chunks_of(self, document_id: str) -> list[Chunk]:
        found = self._read(
            f"SELECT {rows.CHUNK} FROM chunks c JOIN documents d ON d.n = c.document"
            " WHERE d.id = ? ORDER BY c.start, c.id",
            [document_id],
        )
        return [rows.chunk_of(row) for row in found]

    def neighbours(self, chunks: Sequence[Chunk]) -> dict[int, tuple[Chunk | None, Chunk | None]]:
        """Of each by id: the chunks of its document that come before and after it in reading."""
        return neighbours.of(self._read, chunks)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All reads of this thread inside the block see one and the same state."""
        reader = self._connections.reader()
        with reader.busy:
            with translated(self._connections.path):
                reader.execute("BEGIN")
                # the first read fixes the state that the transaction sees
                reader.execute("SELECT 1 FROM meta").fetchone()
            try:
                yield
            finally:
                with translated(self._connections.path):
                    reader.execute("COMMIT")

    # -- what indexes are derived from ----------------------------------------------------

    def stored_identity(self) -> Identity:
        """As it stands now: another process may have changed the embedder since."""
        meta = dict(self._read("SELECT key, value FROM meta"))
        return Identity(
            str(meta["uuid"]),
            str(meta["embedder"]),
            int(meta["dim"]),
            meta["metric"],
            int(meta["generation"]),
        )

    def stamp(self, epoch: int) -> str:
        """The random stamp of the transaction that made `epoch`; "" where it is not known.

        Two histories that reached one epoch on different ways (a restored backup that was written
        to) differ in it.
        """
        found = self._read("SELECT stamp FROM commits WHERE epoch = ?", [epoch])
        return str(found[0][0]) if found else ""

    def trimmed(self) -> int:
        """What was removed up to this epoch is no longer listed by `removed`."""
        return int(self._read("SELECT value FROM meta WHERE key = 'trimmed'")[0][0])

    def next_id(self) -> int:
        """Above the id of every chunk there ever was."""
        found = self._read("SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'chunks'")
        return int(found[0][0] or 0) + 1

    def count(self, *, since: int = 0) -> int:
        """How many chunks there are that were added after epoch `since`; 10 ns each."""
        where = "WHERE epoch > ?" if since else "WHERE ? = 0"
        return int(self._read(f"SELECT COUNT(*) FROM chunks {where}", [since])[0][0])

    def ids(self, *, since: int = 0) -> Ids:
        """Ids of all chunks that were added after epoch `since`, ascending."""
        found = self._read("SELECT id FROM chunks WHERE epoch > ? ORDER BY id", [since])
        return np.array([row[0] for row in found], np.int64)

    def vectors(
        self, *, first: int = 0, last: int = _LAST_ID
    ) -> Iterator[tuple[Ids, Float16Vectors]]:
        """Batches of (ids, vectors) of the chunks with ids from `first` to `last`, ascending.

        Raises:
            StoreError: a vector fails its checksum.
        """
        for batch in self._batches(
            "SELECT id, vector, crc32 FROM vectors WHERE id BETWEEN ? AND ? ORDER BY id",
            [first, last],
        ):
            yield rows.vectors_of(batch, self.dim)

    def texts(self, *, since: int = 0) -> Iterator[tuple[Chunk, bool]]:
        """Chunks added after epoch `since` in the order of their ids; is the title indexed?"""
        for batch in self._batches(
            f"SELECT {rows.CHUNK} FROM chunks c JOIN documents d ON d.n = c.document"
            " WHERE c.epoch > ? ORDER BY c.id",
            [since],
        ):
            for row in batch:
                yield rows.chunk_of(row), bool(row[10])

    def removed(self, *, since: int = 0) -> Ids:
        """Ids of the chunks removed after epoch `since`, which must not be before `trimmed`."""
        found = self._read("SELECT id FROM removed WHERE epoch > ?", [since])
        return np.array([row[0] for row in found], np.int64)

    def matching(self, filters: Metadata) -> Ids:
        """Ids of the chunks whose document the filter allows.

        Raises:
            BadFilter: an unknown key or operator.
        """
        condition, parameters = to_sql(filters, self.metadata_keys())
        found = self._read(
            f"SELECT c.id FROM documents d JOIN chunks c ON c.document = d.n WHERE {condition}",
            parameters,
        )
        return np.array([row[0] for row in found], np.int64)

    def metadata_keys(self) -> frozenset[str]:
        """Every metadata key that some document has."""
        epoch = self.epoch()
        if self._known_keys[0] != epoch:
            found = self._read("SELECT DISTINCT m.key FROM documents d, json_each(d.metadata) m")
            self._known_keys = (epoch, frozenset(row[0] for row in found))
        return self._known_keys[1]

    # -- writing --------------------------------------------------------------------------

    def commit(self, changes: Sequence[Change]) -> Committed:
        """Apply all changes in one durable transaction. The caller holds the write lock.

        Raises:
            StoreUnwritable: the disk is full or read-only; nothing of the transaction remains.
        """
        return self._write(lambda connection: Transaction(connection, self.dim).apply(changes))

    def trim(self, through: int) -> None:
        """Forget what was removed up to an epoch that every index shows."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM removed WHERE epoch <= ?", [through])
            connection.execute("DELETE FROM commits WHERE epoch < ?", [through])
            connection.execute(
                "UPDATE meta SET value = MAX(value, ?) WHERE key = 'trimmed'", [through]
            )

        self._write(delete)

    def compact(self) -> None:
        """Give free pages back where they are many, empty the write-ahead log; searches go on."""
        with self._write_lock, translated(self._connections.path):
            if self._writer is None:
                self._writer = self._connections.writer()
            with self._writer.busy:
                self._signs.drop_stale(self._writer)
                free = self._writer.execute("PRAGMA freelist_count").fetchone()[0]
                if free > _FREE_SHARE * self._writer.execute("PRAGMA page_count").fetchone()[0]:
                    self._writer.execute("VACUUM")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def log_queries(self, entries: Sequence[questions.Asked], keep: int) -> None:
        """Add (time, text, k, user, hits as JSON, milliseconds) rows; keep the newest `keep`."""
        self._write(lambda connection: questions.add(connection, entries, keep))

    def queries(self, *, limit: int = 1000) -> list[questions.Asked]:
        """The newest questions first, as they were logged."""
        return questions.newest(self._read, limit)

    def asked(self, *, limit: int) -> list[str]:
        """The texts of the newest questions that have one, the oldest of them first."""
        return questions.texts(self._read, limit)

    def _write(self, body: Callable[[sqlite3.Connection], R]) -> R:
        with self._write_lock, translated(self._connections.path):
            if self._writer is None:
                self._writer = self._connections.writer()
            with self._writer.busy:
                self._writer.execute("BEGIN IMMEDIATE")
                with self._writer:
                    return body(self._writer)

    def _read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            reader = self._connections.reader()
            with reader.busy:
                return reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise translation(error, self._connections.path) from error
        except (OverflowError, UnicodeEncodeError) as error:
            raise BadInput(
                f"a value cannot be looked up: {error}",
                fix="Use numbers of at most 64 bits, and text without lone surrogates",
            ) from error

    def _batches(
        self, sql: str, parameters: Sequence[object] = ()
    ) -> Iterator[list[tuple[Any, ...]]]:
        """As `_read`, for results too large to hold."""
        try:
            reader = self._connections.reader()
            with reader.busy:
                cursor = reader.execute(sql, parameters)
                batch = cursor.fetchmany(_BATCH)
            while batch:
                yield batch
                with reader.busy:
                    batch = cursor.fetchmany(_BATCH)
        except sqlite3.Error as error:
            raise translation(error, self._connections.path) from error

    def _in(self, sql: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        for at in range(0, len(values), 500):
            part = values[at : at + 500]
            yield from self._read(f"{sql} ({','.join('?' * len(part))})", part)
