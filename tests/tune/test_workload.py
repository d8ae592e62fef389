"""Questions a collection is tuned by: its users', its texts', its vectors'; and their pattern."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from vivace.index.flat import FlatIndex
from vivace.protocols import Kind
from vivace.store.store import Store
from vivace.store.transaction import NewChunk, Put
from vivace.testing.conformance import questions
from vivace.tune.workload import LEAST_LOGGED, MOST, mixed, pattern, workload_for
from vivace.types import Chunk, Document, Embedded, Vectors

DIM = 16
CHUNKS = 300


class WordEmbedder:
    """The sum of a direction a word; reads English alone."""

    name = "words"
    dim = DIM

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def reads(self, language: str) -> bool:
        return language == "en"

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        assert kind == "query"
        self.embedded += texts
        return Embedded(np.stack([vector(text) for text in texts]))

    def close(self) -> None: ...


def vector(text: str) -> Vectors:
    total = np.zeros(DIM)
    for word in text.lower().split():
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())
        total += np.random.default_rng(seed).normal(size=DIM)
    return np.asarray(total / np.linalg.norm(total), np.float32)


def text_of(n: int) -> str:
    return (
        f"The walnut tree number {n} stands behind the old house. "
        f"Its owner sold {n + 7} baskets of nuts at the market. "
        f"Nobody knows who planted it there so long ago."
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path, embedder="words", dim=DIM)
    store.commit([put(n, text_of(n)) for n in range(CHUNKS)])
    yield store
    store.close()


def put(n: int, text: str) -> Put:
    chunk = Chunk(f"d{n}", text, 0, len(text), section=("Trees", f"About tree number {n}"))
    half = vector(text or "x").astype(np.float16)
    return Put(Document(f"d{n}", text), text.encode(), (NewChunk(chunk, text.encode(), half),))


def flat_of(store: Store) -> FlatIndex:
    batches = list(store.vectors())
    ids, rows = np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])
    return FlatIndex.build(ids, rows)


def log(store: Store, texts: Sequence[str]) -> None:
    store.log_queries([(0.0, text, 10, "", "[]", 1.0) for text in texts], 100_000)


async def test_logged_questions_keep_their_order_and_repeats(store: Store) -> None:
    asked = [f"where is tree {n % 80}" for n in range(160)]
    log(store, [*asked, "", "核桃树在哪里"])
    embedder = WordEmbedder()
    found = await workload_for(store, flat_of(store), embedder)
    assert found.source == "log"
    assert np.allclose(found.vectors, np.stack([vector(text) for text in asked]))
    assert sorted(embedder.embedded) == sorted(set(asked))


async def test_only_the_newest_logged_questions_count(store: Store) -> None:
    log(store, [f"where is tree {n}" for n in range(MOST + 50)])
    found = await workload_for(store, flat_of(store), WordEmbedder())
    assert len(found.vectors) == MOST
    assert np.allclose(found.vectors[-1], vector(f"where is tree {MOST + 49}"))


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [(LEAST_LOGGED - 1, True), (LEAST_LOGGED + 1, False)],
    ids=["too few", "switched off"],
)
async def test_with_too_few_logged_questions_some_are_made(
    store: Store, asked: int, allowed: bool
) -> None:
    log(store, [f"where is tree {n}" for n in range(asked)])
    embedder = WordEmbedder()
    found = await workload_for(store, flat_of(store), embedder, log=allowed, seed=1)
    assert found.source == "synthetic"
    assert len(found.vectors) == CHUNKS
    assert any(text.startswith("About tree") for text in embedder.embedded)
    # a sentence, never nearly all of a chunk
    assert max(map(len, embedder.embedded)) <= max(len(text_of(n)) for n in range(CHUNKS)) / 2
    again = await workload_for(store, flat_of(store), WordEmbedder(), log=allowed, seed=1)
    assert np.array_equal(found.vectors, again.vectors)


async def test_too_few_distinct_logged_questions_are_not_used(store: Store) -> None:
    log(store, ["where is the tree", "who sold the nuts"] * LEAST_LOGGED)
    assert (await workload_for(store, flat_of(store), WordEmbedder())).source == "synthetic"


async def test_without_texts_questions_are_mixed_from_vectors(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "given", embedder="given", dim=DIM)
    store.commit([put(n, f"核桃{n}") for n in range(CHUNKS)])
    found = await workload_for(store, flat_of(store), WordEmbedder())
    assert (found.source, found.vectors.shape) == ("synthetic", (CHUNKS, DIM))
    store.close()


def test_mixed_questions_lie_near_the_rows_but_equal_none() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6_000, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    flat = FlatIndex.build(np.arange(len(rows)), rows.astype(np.float16))
    found = mixed(flat, 500, seed=3)
    assert found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    nearest = flat.search(found, 1).scores[:, 0]
    assert nearest.max() < 0.9999
    assert np.median(nearest) > 0.5
    assert np.array_equal(found, mixed(flat, 500, seed=3))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_mixing_from_hardly_any_rows(n: int) -> None:
    rows = np.eye(DIM, dtype=np.float16)[:n]
    found = mixed(FlatIndex.build(np.arange(n), rows), 10, seed=0)
    assert found.shape == (n, DIM)
    assert np.isfinite(found).all()


# -- the pattern of questions, on cases worked out by hand ------------------------------------


def test_near_duplicates_are_counted_once_they_are_repeated() -> None:
    asked = questions(600, 64)
    spread = np.arange(6_000).reshape(600, 10)
    assert pattern(asked, spread).duplicates == 0
    again = np.vstack([asked, asked[:200] * 3, asked[:100] + 0.001])
    assert pattern(again, np.zeros((900, 10), np.int64)).duplicates == pytest.approx(300 / 900)


def test_locality_is_a_tenth_where_all_are_found_equally_often() -> None:
    asked = questions(60, 64)
    assert pattern(asked, np.arange(600).reshape(60, 10)).locality == pytest.approx(0.1)
    assert pattern(asked, np.arange(60).repeat(10).reshape(60, 10)).locality == pytest.approx(0.1)


def test_locality_is_high_where_few_are_found_all_the_time() -> None:
    neighbours = np.arange(1_000).reshape(100, 10)
    neighbours[:, :5] = np.arange(5)
    # 505 distinct ones; five of the tenth, 50.5, are found 500 times, the other 45.5 once
    assert pattern(questions(100, 64), neighbours).locality == pytest.approx(545.5 / 1_000)


def test_the_pattern_without_questions_or_neighbours() -> None:
    nothing = pattern(np.empty((0, 8), np.float32), np.empty((0, 10), np.int64))
    assert (nothing.duplicates, nothing.locality) == (0, 0)
    padded = np.full((3, 10), -1, np.int64)
    padded[:, 0] = [1, 2, 3]
    zero = pattern(np.zeros((3, 8), np.float32), padded)
    assert zero.duplicates == 0
    assert zero.locality == pytest.approx(0.1)
