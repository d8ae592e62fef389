"""Dense and keyword candidates, fused. The keyword side runs while the question is embedded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vivace.errors import BadQuery, EmbeddingError, VivaceError
from vivace.protocols import CandidateSource, Embedder
from vivace.retrieve import fusion
from vivace.run.pools import Pool
from vivace.settings import Search
from vivace.text.language import language
from vivace.text.terms import terms
from vivace.trace import Trace
from vivace.types import Bitmap, Hit, Matches, Query, Scores, SearchResult, Vector, Vectors

_NO_DENSE = "dense side skipped: "


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
    ) -> None:
        self._source = source
        self._embedder = embedder
        self._pool = pool
        self._settings = settings
        self._trace = trace

    async def search(self, query: Query) -> SearchResult:
        """The k best passages, best first; empty where nothing matches.

        Raises:
            BadQuery: an empty or oversized question, k < 1, a vector with NaN.
            BadVectors: a vector of the wrong dimension.
            BadFilter: an unknown key or operator.
        """
        check(query, self._settings.max_question_chars)
        if query.vector is not None or not self._readable(query.text):
            return await self._pool.run(self._whole, query, query.vector)
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
        """One result or error a query, in order; the questions are embedded as one batch."""
        results = await asyncio.gather(
            *(self.search(query) for query in queries), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, VivaceError):
                raise result
        return [r for r in results if isinstance(r, SearchResult | VivaceError)]

    def _readable(self, text: str) -> bool:
        return self._embedder.reads(language(text))

    def _whole(self, query: Query, vector: Vector | None) -> SearchResult:
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
        ranked, bm25 = keyword.matches.ids[0], keyword.matches.scores[0]
        cosine: Scores | None = None
        if vector is None:
            ids = fusion.union(ranked)
            weight = 1.0
        else:
            row: Vectors = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
            with self._trace.span("dense"):
                near = source.dense(row, self._width(query), allow=keyword.allow)
            ids = fusion.union(ranked, near.ids[0])
            cosine = fusion.aligned(ids, near.ids[0], near.scores[0], -np.inf)
            # exact for all candidates, also those that only the keyword side proposed
            unscored = np.flatnonzero(cosine == -np.inf)
            if len(unscored):
                cosine[unscored] = source.similarity(row, ids[unscored])
            weight = self._settings.keyword_weight if len(ranked) else 0.0
        stages: dict[str, Scores] = {"bm25": fusion.aligned(ids, ranked, bm25, 0.0)}
        if cosine is not None:
            stages["cosine"] = np.maximum(cosine, -1.0)
        fused = fusion.max_norm(
            stages["bm25"], stages.get("cosine", np.zeros(len(ids), np.float32)), weight
        )
        order = np.lexsort((ids, -fused))
        if query.min_score is not None:
            order = order[fused[order] >= query.min_score]
        with self._trace.span("fetch"):
            hits = _hits(source, query.k, ids[order], fused[order], order, stages)
        return SearchResult(hits, source.epoch, degraded)

    def _width(self, query: Query) -> int:
        return max(self._settings.candidates, 2 * query.k)


def _hits(
    source: CandidateSource,
    k: int,
    ids: np.ndarray[tuple[int], np.dtype[np.int64]],
    fused: Scores,
    order: np.ndarray[tuple[int], np.dtype[np.int64]],
    stages: dict[str, Scores],
) -> tuple[Hit, ...]:
    """The first k that still exist; what was removed since the snapshot is passed over."""
    hits: list[Hit] = []
    at = 0
    while len(hits) < k and at < len(ids):
        wanted = ids[at : at + k - len(hits)].tolist()
        chunks = source.chunks(wanted)
        for place, id in enumerate(wanted, start=at):
            if (chunk := chunks.get(id)) is not None:
                scores = {name: float(values[order[place]]) for name, values in stages.items()}
                hits.append(Hit(chunk, float(fused[place]), scores))
        at += len(wanted)
    return tuple(hits)


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
    if query.k < 1:
        raise BadQuery(f"k is {query.k}", fix="Ask for at least one hit")
    if query.vector is not None and not np.isfinite(query.vector).all():
        raise BadQuery("the query's vector holds NaN or infinity", fix="Repair the vector")
