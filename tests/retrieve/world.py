"""A small collection in memory, an embedder and rerankers, all of whose answers are known."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from vivace.errors import BadFilter, EmbeddingError
from vivace.index import matches
from vivace.index.flat import FlatIndex
from vivace.index.terms import TantivyTerms, TermSearcher
from vivace.protocols import Embedder, Kind, Reranker
from vivace.retrieve.context import StageCosts
from vivace.retrieve.hybrid import HybridSearcher
from vivace.retrieve.pipeline import SearchPipeline
from vivace.run.microbatch import Then
from vivace.run.pools import ThreadPool
from vivace.settings import Search
from vivace.text.terms import terms
from vivace.trace import Trace
from vivace.types import (
    Bitmap,
    Chunk,
    Embedded,
    Hit,
    Ids,
    Matches,
    Query,
    Scores,
    Signs,
    Stages,
    Vector,
    Vectors,
)

R = TypeVar("R")
DIM = 64
TEXTS = (
    "the red apple hangs on the old tree in the garden",
    "a green apple is sour and keeps the whole winter",
    "the pear tree stands in the neighbour's garden",
    "red wine is made of dark grapes",
    "machine learning finds patterns in data",
    "the learning of a machine is slow, says the old teacher",
    "an old machine presses apple juice in autumn",
    "winter wheat is sown in autumn",
    "the teacher eats a red apple in the break",
    "dark clouds hang over the garden in autumn",
    "grapes and pears ripen late in a cold summer",
    "data about the weather of the last winter",
)


def vector(text: str) -> Vector:
    """Each word has a random direction; a text's vector is their sum, of unit length."""
    row = tokens(text).sum(axis=0)
    length = np.linalg.norm(row)
    return np.asarray(row / length if length else row, np.float32)


def tokens(text: str) -> Vectors:
    rows = np.zeros((len(text.split()), DIM), np.float32)
    for row, word in zip(rows, text.lower().split(), strict=True):
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())
        row += np.random.default_rng(seed).normal(size=DIM)
        row /= np.linalg.norm(row)
    return rows


@dataclass
class Source:
    """A `CandidateSource` over texts, and its own `Snapshots`; counts its dense searches."""

    texts: Sequence[str] = TEXTS
    signed: bool = False
    approximate: bool = False
    stages: Stages | None = None
    broken_signs: bool = False
    behind: bool = False
    """Whether a snapshot has to catch up with other processes first."""
    epoch: int = 7
    dense_calls: list[tuple[int, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        ids = np.arange(len(self.texts), dtype=np.int64)
        rows = np.stack([vector(text) for text in self.texts]).astype(np.float16)
        self.index = FlatIndex.build(ids, rows)
        held = TantivyTerms.volatile()
        for number, text in enumerate(self.texts):
            held.add(number, terms(text))
        held.commit(1)
        self.held: TermSearcher = held.searcher()

    @property
    def reader(self) -> Source:
        return self

    def snapshot(self) -> Source:
        self.behind = False
        return self

    def settled(self) -> Source | None:
        return None if self.behind else self

    def dense(
        self, vectors: Vectors, k: int, *, allow: Bitmap | None = None, hurried: bool = False
    ) -> Matches:
        self.dense_calls.append((len(vectors), hurried))
        return self.index.search(vectors, k, allow=allow)

    def exact(self, vectors: Vectors, k: int, *, allow: Bitmap | None = None) -> Matches:
        return self.index.search(vectors, k, allow=allow)

    def keyword(self, terms: Sequence[str], k: int, *, allow: Bitmap | None = None) -> Matches:
        return self.held.search(terms, k, allow=allow) if terms else matches.empty(1, 0)

    def similarity(self, vector: Vectors, ids: Ids) -> Scores:
        return self.index.similarity(vector, ids)

    def allowed(self, query: Query) -> Bitmap | None:
        if not query.filters:
            return None
        if "odd" not in query.filters:
            raise BadFilter("no such key", fix="Use odd")
        odd: Bitmap = np.arange(len(self.texts)) % 2 == 1
        return odd

    def chunks(self, ids: Iterable[int]) -> dict[int, Chunk]:
        texts = self.texts
        return {n: Chunk(f"d{n}", texts[n], 0, len(texts[n]), n) for n in ids if n >= 0}

    def signs(self, ids: Iterable[int]) -> dict[int, Signs]:
        if self.broken_signs:
            raise OSError("the signs are gone")
        if not self.signed:
            return {}
        return {n: np.packbits(tokens(self.texts[n]) > 0, axis=1) for n in ids}

    def vectors(self, ids: Ids) -> Vectors:
        return self.index.vectors[ids].astype(np.float32)

    def neighbours(self, chunks: Sequence[Chunk]) -> dict[int, tuple[Chunk | None, Chunk | None]]:
        return {}


class Words:
    """An `Embedder` of English; `EmbedsTokens` and `EmbedsThen` too."""

    name = "words"
    dim = DIM

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.never = False
        """Whether it never answers; `asleep` is set when it does not."""
        self.asleep = asyncio.Event()

    def reads(self, language: str) -> bool:
        return language == "en"

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def embed(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        self.calls.append(list(texts))
        if self.never:
            self.asleep.set()
            await asyncio.Event().wait()
        if any("poison" in text for text in texts):
            raise EmbeddingError("it is poisoned", fix="Ask something else")
        return Embedded(np.stack([vector(text) for text in texts]))

    async def embed_tokens(self, texts: Sequence[str], *, kind: Kind) -> Embedded:
        embedded = await self.embed(texts, kind=kind)
        return Embedded(embedded.vectors, tuple(tokens(text) for text in texts))

    async def embed_then(self, text: str, then: Then[R], *, tokens: bool = False) -> R:
        embedded = await self.embed_tokens([text], kind="query")
        assert embedded.tokens is not None
        return then(embedded.vectors[0], embedded.tokens[0] if tokens else None)

    def close(self) -> None: ...


class Scored:
    """A `Reranker` whose scores are those of a function."""

    name = "scored"

    def __init__(self, do: Callable[[Sequence[Hit]], Scores]) -> None:
        self._do = do
        self.seen: list[tuple[str, int]] = []

    async def score(self, query: Query, hits: Sequence[Hit]) -> Scores:
        self.seen.append((query.text, len(hits)))
        return self._do(hits)

    async def close(self) -> None: ...


class Hanging(Scored):
    """Never answers, and ignores being cancelled once."""

    def __init__(self) -> None:
        super().__init__(lambda hits: np.zeros(len(hits), np.float32))
        self.release = asyncio.Event()

    async def score(self, query: Query, hits: Sequence[Hit]) -> Scores:
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            await self.release.wait()
        raise RuntimeError("nobody waits any more")


@dataclass
class World:
    source: Source
    embedder: Words
    trace: Trace
    searcher: HybridSearcher
    costs: StageCosts


@contextmanager
def world(
    settings: Search | None = None,
    *,
    source: Source | None = None,
    embedder: Embedder | None = None,
    reranker: Reranker | None = None,
    costs: StageCosts | None = None,
) -> Iterator[World]:
    made, trace, words = source or Source(), Trace(), Words()
    learned = costs or StageCosts()
    pool = ThreadPool(2, "test-search")
    try:
        pipeline = SearchPipeline(
            made, settings or Search(), trace, reranker=reranker, costs=learned
        )
        searcher = HybridSearcher(pipeline, embedder or words, pool)
        yield World(made, words, trace, searcher, learned)
    finally:
        pool.close()


def slow(**seconds: float) -> StageCosts:
    """Costs learned from stages that took so long; `_` in a name stands for a space."""
    costs = StageCosts()
    for stage, each in seconds.items():
        for _ in range(20):
            costs.observe(stage.replace("_", " "), each)
    return costs
