"""The store: reads from any thread, transactions from one."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
import numpy as np

from vivace.errors import BadInput, CollectionNotFound, EmbedderMismatch, StoreError
from vivace.store import privacy, rows, schema, signs
from vivace.store.connections import Connection, Connections, translated, translation
from vivace.store.filters import to_sql
from vivace.store.transaction import Change, Committed, Transaction
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

FILE: Final = schema.FILE
LoggedQuery: TypeAlias = tuple[float, str, int, str, str, float]
"""Unix time, text, k, user, hits as JSON, milliseconds."""
R = TypeVar("R")

_BATCH = 4096
_LAST_ID = 2**63 - 1
_FREE_SHARE = 0.1
"""Share of free pages below which copying the file costs more than it frees."""
_CHUNKS = f"SELECT {rows.CHUNK} FROM chunks c JOIN documents d ON d.n = c.document WHERE"
_BESIDE = (
    _CHUNKS + " d.id = ? AND (c.start, c.id) {than} (?, ?)"
    " ORDER BY c.start {order}, c.id {order} LIMIT 1"
)
_BEFORE = _BESIDE.format(than="<", order="DESC")
_AFTER = _BESIDE.format(than=">", order="ASC")
_LOGGED = "time, text, k, user, hits, milliseconds"


@dataclass(frozen=True, slots=True)
class Identity:
    """What every index of a collection has to agree with."""

    uuid: str
    embedder: str
    dim: int
    metric: Metric
    generation: int
    """Grows when stored vectors are replaced under the same ids."""


class Store:
    """One collection's documents, chunks, vectors and logged queries. Open it with `Store.open`.

    Every read sees a committed state. `commit` is durable when it returns: whatever happens to the
    process, a document is completely in the file or not at all.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._writer: Connection | None = None
        self._write_lock = threading.Lock()
        self._known_keys: tuple[int, frozenset[str]] = (-1, frozenset())
        self._local = threading.local()
        self._has_signs = False
        identity = self.stored_identity()
        self.uuid = identity.uuid
        self.embedder = identity.embedder
        self.dim = identity.dim
        self.metric: Metric = identity.metric

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
        """Open the collection in `folder`, creating it if needed; an existing one keeps its metric.

        Raises:
            CollectionNotFound: there is none and `create` is False.
            CollectionTooNew: a later version of Vivace wrote it.
            EmbedderMismatch: it was made with another embedder.
            StoreUnwritable: it has to be created or migrated and cannot be.
        """
        path = folder / FILE
        if not schema.is_file(path):
            if not create:
                raise CollectionNotFound(
                    f"there is no collection at {folder}",
                    fix="Make one: vivace ingest DIR --collection NAME",
                )
            schema.create_store(folder, embedder, dim, metric)
        connections = Connections(path)
        try:
            with translated(path):
                if schema.version(connections.reader()) != schema.VERSION:
                    writer = connections.writer()
                    if schema.version(writer) == 0:
                        schema.check_new(folder)
                        schema.create_tables(writer, embedder, dim, metric)
                    schema.migrate(writer, str(path))
            store = cls(connections)
            if (store.embedder, store.dim) != (embedder, dim):
                raise EmbedderMismatch(
                    f"{folder} was made with the embedder {store.embedder} ({store.dim}"
                    f" dimensions), not {embedder} ({dim})",
                    fix="Set embed.model back, or re-embed it: vivace rebuild --reembed",
                )
            store._make_private(folder)
        except BaseException:
            connections.close()
            raise
        return store

    def _make_private(self, folder: Path) -> None:
        """Take other users' rights to a collection of an older version, once."""
        if self._read("SELECT 1 FROM meta WHERE key = ?", [schema.PRIVATE]):
            return
        if not privacy.tighten(folder):
            return
        row = "INSERT OR IGNORE INTO meta VALUES (?, 1)"
        with suppress(StoreError):  # a read-only disk, or another process writes: next time
            self._write(lambda connection: connection.execute(row, [schema.PRIVATE]))

    def close(self) -> None:
        self._connections.close()

    # -- what is there ------------------------------------------------------------------

    def epoch(self) -> int:
        """Grows by one with every transaction of any process. Takes microseconds if unchanged.

        Raises:
            EmbedderMismatch: the collection was re-embedded while it was open.
        """
        reader = self._connections.reader()
        try:  # every search calls this
            with reader.busy:
                seen = reader.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            raise translation(error, self._connections.path) from error
        last: tuple[sqlite3.Connection, int, int] | None = getattr(self._local, "seen", None)
        if last is None or last[0] is not reader or last[1] != seen:
            meta = dict(self._read("SELECT key, value FROM meta"))
            if (meta["embedder"], int(meta["dim"])) != (self.embedder, self.dim):
                raise EmbedderMismatch(
                    f"{self._connections.path.parent} has been re-embedded with"
                    f" {meta['embedder']}, not {self.embedder}",
                    fix=f"Set embed.model to {meta['embedder']} and open it again",
                )
            last = self._local.seen = (reader, seen, int(meta["epoch"]))
        return last[2]

    def info(self) -> CollectionInfo:
        documents, chunks = self._read(
            "SELECT (SELECT COUNT(*) FROM documents), (SELECT COUNT(*) FROM chunks)"
        )[0]
        signs_bytes = self._read("SELECT value FROM meta WHERE key = ?", [signs.BYTES])
        return CollectionInfo(
            self.uuid,
            str(self._connections.path.parent),
            self.epoch(),
            documents,
            chunks,
            self.embedder,
            self.dim,
            int(signs_bytes[0][0]) if signs_bytes else 0,
        )

    def document(self, document_id: str) -> Document | None:
        """The document with this id.

        Raises:
            StoreError: it fails its checksum.
        """
        found = self._read(f"SELECT {rows.DOCUMENT} FROM documents d WHERE d.id = ?", [document_id])
        if not found:
            return None
        _, _, _, _, sections, text, n, crc = found[0]
        if rows.text_crc(n, sections, text) != crc:
            raise rows.damaged(f"document {document_id!r}")
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
        for document_id, digest in self._in(
            "SELECT d.id, c.hash FROM documents d JOIN chunks c ON c.document = d.n WHERE d.id IN",
            document_ids,
        ):
            of_document = counts.setdefault(document_id, {})
            of_document[digest] = of_document.get(digest, 0) + 1
        return counts

    def chunks(self, ids: Iterable[int]) -> dict[int, Chunk]:
        """The chunks that exist now, by id."""
        found = self._in(f"{_CHUNKS} c.id IN", list(ids))
        return {row[0]: rows.chunk_of(row) for row in found}

    def signs(self, ids: Iterable[int]) -> dict[int, Signs]:
        """The token signs of those chunks that have some, by id.

        Signs that fail their checksum are left out; `vivace verify` reports them.
        """
        if not self._has_signs:
            found = self._read("SELECT 1 FROM sqlite_master WHERE name = 'signs'")
            self._has_signs = bool(found)
            if not found:
                return {}
        read = self._in(
            f"SELECT id, signs, crc32 FROM signs WHERE {signs.CURRENT} AND id IN", list(ids)
        )
        signed = ((row[0], rows.signs_of(row, self.dim)) for row in read)
        return {chunk_id: rows for chunk_id, rows in signed if rows is not None}

    def chunks_of(self, document_id: str) -> list[Chunk]:
        found = self._read(f"{_CHUNKS} d.id = ? ORDER BY c.start, c.id", [document_id])
        return [rows.chunk_of(row) for row in found]

    def neighbours(self, chunks: Sequence[Chunk]) -> dict[int, tuple[Chunk | None, Chunk | None]]:
        """By id of each chunk: the chunks before and after it in its document."""
        found: dict[int, tuple[Chunk | None, Chunk | None]] = {}
        for chunk in chunks:
            at = [chunk.document_id, chunk.start, chunk.id]
            before, after = self._read(_BEFORE, at), self._read(_AFTER, at)
            found[chunk.id] = (
                rows.chunk_of(before[0]) if before else None,
                rows.chunk_of(after[0]) if after else None,
            )
        return found

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All reads of this thread inside the block see the same state."""
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
        """The identity as it is now: another process may have changed the embedder."""
        meta = dict(self._read("SELECT key, value FROM meta"))
        return Identity(
            str(meta["uuid"]),
            str(meta["embedder"]),
            int(meta["dim"]),
            meta["metric"],
            int(meta["generation"]),
        )

    def stamp(self, epoch: int) -> str:
        """The random stamp of the transaction that made `epoch`; "" if it is not known.

        It differs between two histories that reached the same epoch, for example a restored backup
        that was written to.
        """
        found = self._read("SELECT stamp FROM commits WHERE epoch = ?", [epoch])
        return str(found[0][0]) if found else ""

    def unknown_state(self, epoch: int, stamp: str) -> str:
        """Why an index made at `epoch` with this stamp cannot be brought up to date; "" if it can.

        Call it in a reading transaction.
        """
        if epoch > self.epoch():
            return f"it shows epoch {epoch}; the store is at {self.epoch()}"
        if epoch < self.trimmed():
            return f"it shows epoch {epoch}, which the store has forgotten"
        if stamp != self.stamp(epoch):
            return f"its epoch {epoch} is of another history of the store"
        return ""

    def trimmed(self) -> int:
        """The epoch up to which `removed` no longer lists removals."""
        return int(self._read("SELECT value FROM meta WHERE key = 'trimmed'")[0][0])

    def next_id(self) -> int:
        """Above the id of every chunk that ever existed."""
        found = self._read("SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'chunks'")
        return int(found[0][0] or 0) + 1

    def count(self, *, since: int = 0) -> int:
        """How many of the chunks were added after epoch `since`; 10 ns each."""
        where = "WHERE epoch > ?" if since else "WHERE ? = 0"
        return int(self._read(f"SELECT COUNT(*) FROM chunks {where}", [since])[0][0])

    def ids(self, *, since: int = 0) -> Ids:
        """Ids of the chunks that were added after epoch `since`, ascending."""
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
        """Chunks added after epoch `since`, by ascending id, each with whether its title is
        indexed."""
        for batch in self._batches(f"{_CHUNKS} c.epoch > ? ORDER BY c.id", [since]):
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
        """Forget removals up to an epoch that every index shows."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM removed WHERE epoch <= ?", [through])
            connection.execute("DELETE FROM commits WHERE epoch < ?", [through])
            connection.execute(
                "UPDATE meta SET value = MAX(value, ?) WHERE key = 'trimmed'", [through]
            )

        self._write(delete)

    def compact(self) -> None:
        """Return free pages to the disk if there are many, and empty the write-ahead log.

        Searches go on meanwhile.
        """
        self._write(signs.drop_stale)
        with self._writing() as writer:
            free = writer.execute("PRAGMA freelist_count").fetchone()[0]
            if free > _FREE_SHARE * writer.execute("PRAGMA page_count").fetchone()[0]:
                writer.execute("VACUUM")
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    # -- the query log ----------------------------------------------------------------------

    def log_queries(self, entries: Sequence[LoggedQuery], keep: int) -> None:
        """Add queries and keep the newest `keep`."""

        def add(connection: sqlite3.Connection) -> None:
            # one statement: between two, this thread would wait for the GIL behind a busy event
            # loop, and every other writer for this one's lock
            values = ", ".join(f"json_extract(value, '$[{at}]')" for at in range(6))
            connection.execute(
                f"INSERT INTO queries ({_LOGGED}) SELECT {values} FROM json_each(?)",
                [msgspec.json.encode(entries).decode()],
            )
            connection.execute(
                "DELETE FROM queries WHERE id <= (SELECT MAX(id) FROM queries) - ?", [keep]
            )

        self._write(add)

    def queries(self, *, limit: int = 1000) -> list[LoggedQuery]:
        """The newest logged queries first."""
        found = self._read(f"SELECT {_LOGGED} FROM queries ORDER BY id DESC LIMIT ?", [limit])
        return [(time, text, k, user, hits, ms) for time, text, k, user, hits, ms in found]

    def query_texts(self, *, limit: int) -> list[str]:
        """The texts of the newest logged queries that have one, the oldest of them first."""
        found = self._read(
            "SELECT text FROM queries WHERE text <> '' ORDER BY id DESC LIMIT ?", [limit]
        )
        return [str(text) for (text,) in reversed(found)]

    # -- connections --------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._write_lock, translated(self._connections.path):
            if self._writer is None:
                self._writer = self._connections.writer()
            with self._writer.busy:
                yield self._writer

    def _write(self, body: Callable[[sqlite3.Connection], R]) -> R:
        with self._writing() as writer:
            writer.execute("BEGIN IMMEDIATE")
            with writer:
                return body(writer)

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
