"""Dense and keyword candidates, fused. The keyword side runs while the question is embedded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from vivace.errors import BadQuery, EmbeddingError, VivaceError
from vivace.protocols import CandidateSource, Embedder, EmbedsThen
from vivace.retrieve import fusion
from vivace.run.pools import Pool
from vivace.settings import Search
from vivace.text.language import language
from vivace.text.terms import terms
from vivace.trace import Trace
from vivace.types import (
    Bitmap,
    Fusion,
    Hit,
    Ids,
    Matches,
    Metric,
    Query,
    Scores,
    SearchResult,
    Vector,
    Vectors,
)

Watch: TypeAlias = Callable[[Vectors, Matches, Bitmap | None, CandidateSource], None]
"""Told of every dense answer: the question (1, dim), what was found, what was allowed, and where it
was looked for. It runs on the answer's path and must not wait or raise."""
_NO_DENSE = "dense side skipped: "
_MOST_HITS = 10_000
_WORST: Final = float(np.finfo(np.float32).min)
_APART: Final = 2
"""Questions at once whose two sides run side by side; with more, no thread is idle for it."""


@dataclass(frozen=True, slots=True)
class _Keyword:
    """What the keyword side found, and the state it was found in."""

    source: CandidateSource
    allow: Bitmap | None
    matches: Matches


class HybridSearcher:
    """A `Searcher` over one collection.

    With a vector at hand, or none to be had, a search is one hop to the pool. With a question to be
    embedded, the keyword side's hop is hidden behind the embedding. With several at once a search
    goes on where its question was embedded, if the embedder can do that: no thread is idle that
    could take it, and every hop costs all of them its time.
    """

    def __init__(
        self,
        source: Callable[[], CandidateSource],
        embedder: Embedder,
        pool: Pool,
        settings: Search,
        trace: Trace,
        *,
        metric: Metric = "cosine",
        watch: Watch | None = None,
    ) -> None:
        self._source = source
        self._embedder = embedder
        self._pool = pool
        self._settings = settings
        self._trace = trace
        self._metric = metric
        self._watch = watch
        self._asking = 0
        """Questions between their arrival and their answer."""

    async def search(self, query: Query) -> SearchResult:
        """The k best passages, best first; empty where nothing matches.

        Raises:
            BadQuery: an empty or oversized question, k < 1, a vector with NaN.
            BadVectors: a vector of the wrong dimension.
            BadFilter: an unknown key or operator.
        """
        check(query, self._settings.max_question_chars)
        query = _encodable(query)
        if query.vector is not None or not self._readable(query.text):
            vector = query.vector
            if vector is not None and self._metric == "cosine":
                vector = _unit(vector)
            return await self._pool.run(self._whole, query, vector, ())
        self._asking += 1
        try:
            if self._asking > _APART:
                return await self._together(query)
            return await self._apart(query)
        finally:
            self._asking -= 1

    async def _together(self, query: Query) -> SearchResult:
        """Both sides after the embedding, and on its thread if that can be."""
        if not isinstance(self._embedder, EmbedsThen):
            vector, degraded = await self._embed(query)
            return await self._pool.run(self._whole, query, vector, degraded)
        start = time.perf_counter()

        def then(vector: Vector, _: Vectors | None) -> SearchResult:
            self._trace.observe("embed", time.perf_counter() - start)
            return self._whole(query, vector, ())

        try:
            return await self._embedder.embed_then(query.text, then)
        except EmbeddingError as error:
            return await self._pool.run(self._whole, query, None, self._without(error))

    async def _apart(self, query: Query) -> SearchResult:
        """The keyword side's hop while the question is embedded."""
        keyword = asyncio.ensure_future(self._pool.run(self._keyword, query))
        keyword.add_done_callback(_looked_at)
        try:
            vector, degraded = await self._embed(query)
        except BaseException:
            keyword.cancel()
            raise
        return await self._pool.run(self._fused, query, await keyword, vector, degraded)

    async def _embed(self, query: Query) -> tuple[Vector | None, tuple[str, ...]]:
        """The question's vector, or why there is none."""
        try:
            with self._trace.span("embed"):
                embedded = await self._embedder.embed([query.text], kind="query")
        except EmbeddingError as error:
            return None, self._without(error)
        return embedded.vectors[0], ()

    def _without(self, error: EmbeddingError) -> tuple[str, ...]:
        """What a search is degraded by, counted."""
        self._trace.count("search.embedding_failed")
        return (f"{_NO_DENSE}{error.what}",)

    async def search_many(self, queries: Sequence[Query]) -> list[SearchResult | VivaceError]:
        """One result or error a query, in order; they run at once and share embedding batches."""
        results = await asyncio.gather(
            *(self.search(query) for query in queries), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, VivaceError):
                raise result
        return [r for r in results if isinstance(r, SearchResult | VivaceError)]

    def _readable(self, text: str) -> bool:
        return self._embedder.reads(language(text))

    def _whole(
        self, query: Query, vector: Vector | None, degraded: tuple[str, ...]
    ) -> SearchResult:
        return self._fused(query, self._keyword(query), vector, degraded)

    def _keyword(self, query: Query) -> _Keyword:
        source = self._source()
        allow = source.allowed(query)
        with self._trace.span("keyword"):
            found = source.keyword(terms(query.text), self._width(query), allow=allow)
        return _Keyword(source, allow, found)

    def _fused(
        self, query: Query, keyword: _Keyword, vector: Vector | None, degraded: tuple[str, ...]
    ) -> SearchResult:
        source = keyword.source
        row: Vectors | None = None
        near: Matches | None = None
        if vector is not None:
            row = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
            with self._trace.span("dense"):
                near = source.dense(row, self._width(query), allow=keyword.allow)
            if self._watch is not None:
                self._watch(row, near, keyword.allow, source)
        found = fusion.candidates(keyword.matches, near)
        ids, stages = found.ids, {"bm25": found.bm25}
        if row is None:
            fused = fusion.fuse(found.bm25, np.zeros_like(found.bm25), Fusion("keyword"))
        else:
            # exact for all candidates, also those that only the keyword side proposed
            if found.dense < len(ids):
                near_these = source.similarity(row, ids[found.dense :])
                # one that was removed meanwhile has no score, and no score is no number to blend
                worst = -1.0 if self._metric == "cosine" else _WORST
                found.cosine[found.dense :] = np.maximum(near_these, worst)
            stages["cosine"] = found.cosine
            how = Fusion(weight=self._settings.keyword_weight)
            fused = fusion.fuse(found.bm25, found.cosine, how)
        order = np.lexsort((ids, -fused))
        if query.min_score is not None:
            order = order[fused[order] >= query.min_score]
        with self._trace.span("fetch"):
            ranked = {name: scores[order] for name, scores in stages.items()}
            hits = _hits(source, query.k, ids[order], fused[order], ranked)
        return SearchResult(hits, source.epoch, degraded)

    def _width(self, query: Query) -> int:
        return max(self._settings.candidates, 2 * query.k)


def _looked_at(task: asyncio.Task[_Keyword]) -> None:
    """Where both sides fail one error is raised; asyncio would log that nobody saw the other."""
    if not task.cancelled():
        task.exception()


def _hits(
    source: CandidateSource, k: int, ids: Ids, fused: Scores, stages: Mapping[str, Scores]
) -> tuple[Hit, ...]:
    """The first k that still exist; what was removed since the snapshot is passed over."""
    hits: list[Hit] = []
    at = 0
    while len(hits) < k and at < len(ids):
        here = slice(at, at + k - len(hits))
        wanted = ids[here].tolist()
        chunks = source.chunks(wanted)
        names = list(stages)
        rows = zip(*(stages[name][here].tolist() for name in names), strict=True)
        for id, score, row in zip(wanted, fused[here].tolist(), rows, strict=True):
            if (chunk := chunks.get(id)) is not None:
                hits.append(Hit(chunk, score, dict(zip(names, row, strict=True))))
        at += len(wanted)
    return tuple(hits)


def _unit(vector: Vector) -> Vector:
    """A given vector as float32 of unit length, as an embedder's are; a zero vector stays zero."""
    row = np.asarray(vector, np.float32)
    # in float64: the squares of large components are beyond float32
    length = np.float32(np.linalg.norm(row.astype(np.float64)))
    return row / length if length > 0 else row


def _encodable(query: Query) -> Query:
    """The query without lone surrogates, which a shell makes of bytes that are no UTF-8."""
    if query.text.isascii():
        return query
    try:
        query.text.encode()
    except UnicodeEncodeError:
        return replace(query, text=query.text.encode("utf-8", "replace").decode())
    return query


def check(query: Query, max_chars: int) -> None:
    """Refuse a question that cannot be searched.

    Raises:
        BadQuery: it is empty or too long, k < 1, or its vector holds NaN or infinity.
    """
    if not query.text.strip() and query.vector is None:
        raise BadQuery("the question is empty", fix="Ask something")
    if len(query.text) > max_chars:
        raise BadQuery(
            f"the question has {len(query.text):,} characters, more than {max_chars:,}",
            fix="Shorten it, or raise search.max_question_chars",
        )
    if not 1 <= query.k <= _MOST_HITS:
        raise BadQuery(f"k is {query.k}", fix=f"Ask for 1 to {_MOST_HITS:,} hits")
    if query.vector is not None and not np.isfinite(np.asarray(query.vector, np.float32)).all():
        raise BadQuery("the query's vector holds NaN or infinity", fix="Repair the vector")
