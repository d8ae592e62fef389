"""Dense and keyword candidates, fused. The keyword side runs while the question is embedded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vivace.errors import BadQuery, EmbeddingError, VivaceError
from vivace.protocols import CandidateSource, Embedder
from vivace.retrieve import fusion
from vivace.run.pools import Pool
from vivace.settings import Search
from vivace.text.language import language
from vivace.text.terms import terms
from vivace.trace import Trace
from vivace.types import (
    Bitmap,
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

_NO_DENSE = "dense side skipped: "
_MOST_HITS = 10_000


@dataclass(frozen=True, slots=True)
class _Keyword:
    """What the keyword side found, and the state it was found in."""

    source: CandidateSource
    allow: Bitmap | None
    matches: Matches


class HybridSearcher:
    """A `Searcher` over one collection.

    With a vector at hand, or none to be had, a search is one hop to the pool. With a question to be
    embedded, the keyword side's hop is hidden behind the embedding.
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
    ) -> None:
        self._source = source
        self._embedder = embedder
        self._pool = pool
        self._settings = settings
        self._trace = trace
        self._metric = metric

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
            return await self._pool.run(self._whole, query)
        keyword = asyncio.ensure_future(self._pool.run(self._keyword, query))
        try:
            with self._trace.span("embed"):
                embedded = await self._embedder.embed([query.text], kind="query")
        except EmbeddingError as error:
            self._trace.count("search.embedding_failed")
            return await self._pool.run(
                self._fused, query, await keyword, None, (f"{_NO_DENSE}{error.what}",)
            )
        except BaseException:
            keyword.cancel()
            raise
        return await self._pool.run(self._fused, query, await keyword, embedded.vectors[0], ())

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

    def _whole(self, query: Query) -> SearchResult:
        vector = query.vector
        if vector is not None and self._metric == "cosine":
            vector = _unit(vector)
        return self._fused(query, self._keyword(query), vector, ())

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
        found = fusion.candidates(keyword.matches, near)
        ids, stages = found.ids, {"bm25": found.bm25}
        if row is None:
            fused = fusion.max_norm(found.bm25, np.zeros_like(found.bm25), 1.0)
        else:
            # exact for all candidates, also those that only the keyword side proposed
            unscored = np.flatnonzero(found.cosine == -np.inf)
            if len(unscored):
                near_these = source.similarity(row, ids[unscored])
                # one that was removed meanwhile has no score, and no score is no number to blend
                worst = -1.0 if self._metric == "cosine" else np.finfo(np.float32).min
                found.cosine[unscored] = np.maximum(near_these, worst)
            stages["cosine"] = found.cosine
            weight = self._settings.keyword_weight if keyword.matches.ids.size else 0.0
            fused = fusion.max_norm(found.bm25, found.cosine, weight)
        order = np.lexsort((ids, -fused))
        if query.min_score is not None:
            order = order[fused[order] >= query.min_score]
        with self._trace.span("fetch"):
            ranked = {name: scores[order] for name, scores in stages.items()}
            hits = _hits(source, query.k, ids[order], fused[order], ranked)
        return SearchResult(hits, source.epoch, degraded)

    def _width(self, query: Query) -> int:
        return max(self._settings.candidates, 2 * query.k)


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
