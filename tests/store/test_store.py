"""Transactions over whole documents, what stays, what goes, and bad disks."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vivace.errors import (
    BadInput,
    BadVectors,
    CollectionNotFound,
    CollectionTooNew,
    EmbedderMismatch,
    StoreError,
    StoreUnwritable,
)
from vivace.store import schema
from vivace.store.connections import Connection, Connections
from vivace.store.store import FILE, Store
from vivace.store.transaction import NewChunk, Put, Remove, VectorGone
from vivace.types import Chunk, Document, Section

DIM = 4


_OPENED: list[Store] = []


def opened(folder: Path, **kwargs: object) -> Store:
    """A store that is closed at the end of the test."""
    store = Store.open(folder, embedder="test", dim=DIM, **kwargs)  # type: ignore[arg-type]
    _OPENED.append(store)
    return store


@pytest.fixture(autouse=True)
def _close_stores() -> Iterator[None]:
    yield
    while _OPENED:
        _OPENED.pop().close()


def vector(value: float) -> np.ndarray[tuple[int], np.dtype[np.float16]]:
    return np.full(DIM, value, np.float16)


def put(name: str, *texts: str, metadata: dict[str, object] | None = None, **fields: str) -> Put:
    text = " ".join(texts)
    document = Document(
        name, text, metadata=metadata or {}, sections=(Section(0, ("H",), 2),), **fields
    )
    chunks, at = [], 0
    for piece in texts:
        chunk = Chunk(name, piece, at, at + len(piece), section=("H",), page=2)
        chunks.append(NewChunk(chunk, piece.encode("utf-8", "replace"), vector(len(piece))))
        at += len(piece) + 1
    return Put(document, text.encode("utf-8", "replace"), tuple(chunks))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return opened(tmp_path / "c")


def test_what_was_put_is_read_back(store: Store) -> None:
    committed = store.commit(
        [put("a", "one", "three", title="T", source="/s", metadata={"y": [1]})]
    )
    assert committed.epoch == store.epoch() == 1
    assert committed.added.tolist() == [1, 2]
    assert committed.vectors[:, 0].tolist() == [3, 5]
    document = store.document("a")
    assert document is not None
    assert (document.text, document.title, document.metadata) == ("one three", "T", {"y": [1]})
    assert document.sections == (Section(0, ("H",), 2),)
    chunk = store.chunks([2])[2]
    assert document.text[chunk.start : chunk.end] == chunk.text == "three"
    assert (chunk.title, chunk.source, chunk.section, chunk.page) == ("T", "/s", ("H",), 2)
    assert store.chunks_of("a") == [store.chunks([1])[1], chunk]
    assert store.document("b") is None
    assert store.info().documents == 1
    assert [(d.id, n) for d, n in store.documents()] == [("a", 2)]


def test_a_changed_document_keeps_the_rows_of_unchanged_chunks(store: Store) -> None:
    store.commit([put("a", "one", "two", "three")])
    changed = put("a", "zero", "one", "three")
    kept = [NewChunk(c.chunk, c.hash, None) if c.hash != b"zero" else c for c in changed.chunks]
    committed = store.commit([Put(changed.document, b"2", tuple(kept))])
    assert committed.added.tolist() == [4]
    assert committed.removed.tolist() == [2]
    chunks = store.chunks_of("a")
    assert [(c.id, c.text) for c in chunks] == [(4, "zero"), (1, "one"), (3, "three")]
    assert all("zero one three"[c.start : c.end] == c.text for c in chunks)


def test_equal_chunks_of_one_document_are_kept_apart(store: Store) -> None:
    store.commit([put("a", "x", "x", "x")])
    committed = store.commit([put("a", "x", "x")])
    assert committed.removed.tolist() == [3]
    assert [c.start for c in store.chunks_of("a")] == [0, 2]
    assert store.hashes(["a"]) == {"a": {b"x": 2}}


def test_ids_are_never_reused(store: Store) -> None:
    store.commit([put("a", "one"), put("b", "two")])
    assert store.commit([Remove("b"), Remove("nobody")]).removed.tolist() == [2]
    assert store.commit([put("c", "three")]).added.tolist() == [3]
    assert store.removed(since=1).tolist() == [2]
    assert store.removed(since=2).tolist() == []


def test_put_twice_in_one_transaction_the_last_wins(store: Store) -> None:
    committed = store.commit([put("a", "one"), put("a", "two")])
    assert [c.text for c in store.chunks_of("a")] == ["two"]
    assert committed.added.tolist() == [2]
    assert committed.removed.tolist() == []


def test_what_indexes_read(store: Store) -> None:
    store.commit([put("a", "one", "two")])
    store.commit([put("b", "three")])
    batches = list(store.vectors())
    assert np.concatenate([b[0] for b in batches]).tolist() == [1, 2, 3]
    assert [ids.tolist() for ids, _ in store.vectors(first=3)] == [[3]]
    assert [chunk.text for chunk, _ in store.texts(since=1)] == ["three"]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (None, VectorGone),
        (np.zeros(DIM + 1, np.float16), BadVectors),
        (np.full(DIM, np.nan, np.float16), BadVectors),
    ],
)
def test_a_missing_or_wrong_vector_fails_the_whole_transaction(
    store: Store, bad: object, error: type[Exception]
) -> None:
    item = put("b", "two").chunks[0]
    wrong = NewChunk(item.chunk, item.hash, bad)  # type: ignore[arg-type]
    with pytest.raises(error, match="'b'"):
        store.commit([put("a", "one"), Put(Document("b", "two"), b"", (wrong,))])
    assert store.epoch() == 0
    assert store.info().documents == 0


def test_metadata_and_text_that_cannot_be_stored(store: Store) -> None:
    with pytest.raises(BadInput, match="metadata of document 'a'"):
        store.commit([put("a", "one", metadata={"x": object()})])
    with pytest.raises(BadInput, match="surrogates"):
        store.commit([put("a", "\ud800")])
    assert store.epoch() == 0


def test_sources_below_a_folder(store: Store) -> None:
    store.commit([put("a", "1", source="/d/a"), put("b", "2", source="/d/e/b")])
    store.commit([put("c", "3", source="/dx/c")])
    assert [name for name, _ in store.under("/d")] == ["a", "b"]
    assert [name for name, _ in store.under("/d/a")] == ["a"]


def test_query_log_keeps_the_newest(store: Store) -> None:
    for at in range(5):
        store.log_queries([(float(at), f"q{at}", 10, "u", "[]", 1.5)], keep=3)
    assert [row[1] for row in store.queries()] == ["q4", "q3", "q2"]


class TestOpening:
    def test_other_process_sees_the_epoch(self, store: Store, tmp_path: Path) -> None:
        other = opened(tmp_path / "c")
        assert other.epoch() == 0
        store.commit([put("a", "one")])
        assert other.epoch() == 1
        assert other.uuid == store.uuid

    def test_a_missing_collection_is_not_created_unasked(self, tmp_path: Path) -> None:
        with pytest.raises(CollectionNotFound, match="vivace ingest"):
            opened(tmp_path / "none", create=False)

    def test_another_embedder_is_rejected(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(EmbedderMismatch, match="made with the embedder test"):
            Store.open(tmp_path / "c", embedder="other", dim=DIM)

    def test_a_later_version_is_refused(self, store: Store, tmp_path: Path) -> None:
        store.close()
        with sqlite3.connect(tmp_path / "c" / FILE) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(CollectionTooNew, match="schema 99"):
            opened(tmp_path / "c")

    def test_an_empty_file_becomes_a_collection(self, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / FILE).touch()
        assert opened(tmp_path / "c").epoch() == 0

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / FILE).write_bytes(b"x" * 5000)
        with pytest.raises(StoreError, match="not a database"):
            opened(tmp_path / "c")

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "photo.jpg").touch()
        with pytest.raises(StoreError, match="holds other files"):
            opened(tmp_path)
        assert not (tmp_path / FILE).exists()

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "c").touch()
        with pytest.raises(StoreUnwritable, match="cannot be made"):
            opened(tmp_path / "c")

    def test_a_closed_store_rejects_reads(self, store: Store) -> None:
        store.close()
        with pytest.raises(StoreError, match="closed"):
            store.info()

    def test_migrations_run_one_by_one(self, tmp_path: Path) -> None:
        connection = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
        connection.execute("PRAGMA user_version = 1")
        steps = {
            1: lambda c: c.execute("CREATE TABLE a (x)"),
            2: lambda c: c.execute("CREATE TABLE b (x)"),
        }
        schema.migrate(connection, "m.db", target=3, migrations=steps)
        assert schema.version(connection) == 3
        assert len(connection.execute("SELECT name FROM sqlite_master").fetchall()) == 2
        connection.execute("PRAGMA user_version = 0")
        with pytest.raises(StoreError, match="older than"):
            schema.migrate(connection, "m.db", target=3, migrations=steps)
        connection.close()


def test_a_full_disk_keeps_what_was_acknowledged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[Connection] = []
    open_writer = Connections.writer

    def recorded(self: Connections) -> Connection:
        writers.append(open_writer(self))
        return writers[-1]

    monkeypatch.setattr(Connections, "writer", recorded)
    store.commit([put("a", "one")])
    pages = writers[0].execute("PRAGMA page_count").fetchone()[0]
    writers[0].execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnwritable, match="full"):
        store.commit([put("b", *[f"word{i}" * 50 for i in range(400)])])
    assert store.epoch() == 1
    assert store.document("b") is None
    writers[0].execute("PRAGMA max_page_count = 1000000")
    assert store.commit([put("b", "two")]).epoch == 2


def test_readers_never_see_half_a_transaction(store: Store) -> None:
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            with store.reading():
                epoch, info = store.epoch(), store.info()
            if info.documents != 2 * epoch or info.chunks != 4 * epoch:
                wrong.append(info)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for at in range(50):
        store.commit([put(f"a{at}", "x", "y"), put(f"b{at}", "x", "z")])
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_an_empty_store_beside_its_indexes_is_no_new_collection(tmp_path: Path) -> None:
    """Cut to nothing it would pass for one just begun, and everything would be gone in silence."""
    opened(tmp_path).close()
    for name in ("write.lock", "manifest.json"):
        (tmp_path / name).touch()
    (tmp_path / FILE).write_bytes(b"")
    with pytest.raises(StoreError, match="were made from it"):
        opened(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(StoreError, match="were made from it"):
        opened(tmp_path)
    (tmp_path / "manifest.json").unlink()
    assert opened(tmp_path).epoch() == 0


def test_a_collection_of_version_1_gets_checksums_and_stamps(tmp_path: Path) -> None:
    store = opened(tmp_path / "c")
    store.commit([put("a", "one", "two"), put("b", "three")])
    before = store.chunks_of("a")
    store.close()
    connection = sqlite3.connect(tmp_path / "c" / "store.db", isolation_level=None)
    for table, column in (
        ("documents", "crc32"),
        ("documents", "text_crc32"),
        ("chunks", "crc32"),
        ("vectors", "crc32"),
    ):
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    connection.execute("DROP TABLE commits")
    connection.execute("DELETE FROM meta WHERE key IN ('metric', 'generation', 'trimmed')")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    store = opened(tmp_path / "c")
    assert store.chunks_of("a") == before
    assert store.document("b") is not None
    assert [ids.tolist() for ids, _ in store.vectors()] == [[1, 2, 3]]
    assert len(store.stamp(1)) == 16
    assert store.commit([put("c", "four")]).epoch == 2
    assert store.stamp(2) != store.stamp(1)
    store.close()
