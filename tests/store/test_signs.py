"""Token signs: with their chunk in, with it out, and not at all in a collection from before."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vivace.errors import BadVectors
from vivace.store import integrity
from vivace.store.reembed import Reembedding
from vivace.store.store import FILE, Store
from vivace.store.transaction import NewChunk, Put, Remove
from vivace.types import Chunk, Document, Signs

DIM = 20
WIDTH = 3


_OPENED: list[Store] = []


def opened(folder: Path) -> Store:
    """A store that is closed at the end of the test."""
    _OPENED.append(Store.open(folder, embedder="test", dim=DIM))
    return _OPENED[-1]


@pytest.fixture(autouse=True)
def _close_stores() -> Iterator[None]:
    yield
    while _OPENED:
        _OPENED.pop().close()


def signs_of(text: str) -> Signs:
    """A row a character."""
    return np.repeat(np.frombuffer(text.encode(), np.uint8)[:, None], WIDTH, axis=1)


def put(chunk_id: str, *texts: str, signed: bool = True) -> Put:
    chunks = [
        NewChunk(
            Chunk(chunk_id, text, at, at + len(text)),
            text.encode(),
            np.full(DIM, len(text), np.float16),
            signs_of(text) if signed else None,
        )
        for at, text in enumerate(texts)
    ]
    return Put(Document(chunk_id, "".join(texts)), repr(texts).encode(), tuple(chunks))


def kept(store: Store) -> dict[str, list[list[int]]]:
    """The signs in the store by the text of their chunk."""
    found = store.signs(range(1_200))
    chunks = store.chunks(found)
    assert len(chunks) == len(found)
    return {chunks[chunk_id].text: signs.tolist() for chunk_id, signs in found.items()}


def expected(*texts: str) -> dict[str, list[list[int]]]:
    return {text: signs_of(text).tolist() for text in texts}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return opened(tmp_path / "c")


def test_signs_are_kept_with_their_chunk(store: Store) -> None:
    store.commit([put("a", "one", "three"), put("b", "two", signed=False)])
    assert kept(store) == expected("one", "three")
    assert store.info().signs_bytes == WIDTH * len("onethree")
    assert store.signs([3, 99]) == {}
    assert store.signs([]) == {}


def test_no_tokens_are_no_row(store: Store) -> None:
    store.commit([put("a", "", "x")])
    assert list(store.signs([1, 2])) == [2]


def test_an_unchanged_chunk_keeps_them_and_a_removed_one_takes_them_along(store: Store) -> None:
    store.commit([put("a", "one", "two", "three"), put("b", "four")])
    changed = put("a", "zero", "one", "three")
    unembedded = [
        NewChunk(c.chunk, c.hash, None) if c.hash != b"zero" else c for c in changed.chunks
    ]
    store.commit([Put(changed.document, b"2", tuple(unembedded))])
    assert kept(store) == expected("zero", "one", "three", "four")
    store.commit([Remove("b")])
    assert kept(store) == expected("zero", "one", "three")
    assert store.info().signs_bytes == WIDTH * len("zeroonethree")


@pytest.mark.parametrize(
    "bad",
    [np.zeros((2, WIDTH + 1), np.uint8), np.zeros(WIDTH, np.uint8), np.zeros((2, WIDTH))],
)
def test_signs_of_another_shape_fail_the_whole_transaction(store: Store, bad: Signs) -> None:
    item = put("b", "two").chunks[0]
    wrong = NewChunk(item.chunk, item.hash, item.vector, bad)
    with pytest.raises(BadVectors, match="token signs"):
        store.commit([put("a", "one"), Put(Document("b", "two"), b"", (wrong,))])
    assert store.epoch() == 0
    assert kept(store) == {}


def without_table(folder: Path) -> None:
    connection = sqlite3.connect(folder / FILE, isolation_level=None)
    connection.execute("DROP TABLE signs")
    connection.close()


def test_a_collection_from_before_opens_and_gets_them_with_new_chunks(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([put("a", "one", signed=False)])
    store.close()
    without_table(tmp_path)
    store = opened(tmp_path)
    assert kept(store) == {}
    assert store.info().signs_bytes == 0
    assert integrity.findings(tmp_path / FILE, DIM, lambda _: None) == []
    store.compact()
    beside = opened(tmp_path)
    store.commit([put("b", "two")])
    assert kept(store) == kept(beside) == expected("two")
    store.commit([Remove("a"), put("b", "two", "three")])
    assert kept(store) == kept(beside) == expected("two", "three")


def test_what_an_older_vivace_leaves_behind_does_not_count_and_goes(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([put("a", "one", "two"), put("b", "three")])
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute("DELETE FROM chunks WHERE text = 'one'")
    connection.execute("DELETE FROM vectors WHERE id = 1")
    assert list(store.signs([1, 2, 3])) == [1, 2, 3]
    connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
    assert store.signs([1, 2, 3]) == {}
    store.commit([put("c", "four")])
    assert kept(store) == expected("four")
    store.compact()
    assert connection.execute("SELECT COUNT(*) FROM signs").fetchone() == (1,)
    connection.close()


def test_damaged_ones_are_left_out_and_told_of(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([put("a", "one", "two")])
    connection = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    connection.execute("UPDATE signs SET signs = zeroblob(9) WHERE id = 1")
    connection.close()
    assert kept(store) == expected("two")
    found = integrity.findings(tmp_path / FILE, DIM, lambda _: None)
    assert found == ["store.db: the token signs of chunk 1 fail their checksum"]


def test_a_reembedding_replaces_them_all(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([put("a", "one", "two"), put("b", "three", signed=False)])
    work = Reembedding.open(tmp_path, embedder="test", dim=DIM, tokens="signs")
    ids = np.array([chunk.id for chunk, _ in work.missing(2)], np.int64)
    work.add(ids, np.ones((2, DIM), np.float16), [signs_of("new"), None])
    work.close()  # interrupted
    assert kept(store) == expected("one", "two")
    store.commit([Remove("a")])
    work = Reembedding.open(tmp_path, embedder="test", dim=DIM, tokens="signs")
    (three,) = work.missing(5)
    work.add(np.array([three[0].id]), np.ones((1, DIM), np.float16), [signs_of("newer")])
    assert work.swap() == 3
    work.close()
    assert kept(store) == {"three": signs_of("newer").tolist()}
    store.commit([put("c", "four")])
    assert sorted(kept(store)) == ["four", "three"]


def test_another_choice_of_what_is_kept_starts_again(tmp_path: Path) -> None:
    opened(tmp_path).commit([put("a", "one", "two")])
    work = Reembedding.open(tmp_path, embedder="test", dim=DIM, tokens="signs")
    work.add(np.array([1]), np.ones((1, DIM), np.float16), [signs_of("one")])
    work.close()
    work = Reembedding.open(tmp_path, embedder="test", dim=DIM, tokens="off")
    assert work.done == 0
    work.add(np.array([1, 2]), np.ones((2, DIM), np.float16))
    assert work.swap() == 2
    work.close()
    assert kept(opened(tmp_path)) == {}
