"""Many questions at once: embedded in one call, and looked up in the dense index in one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from vivace.errors import DeadlineExceeded, EmbeddingError, VivaceError
from vivace.protocols import CandidateSource, Embedder, EmbedsTokens
from vivace.retrieve.pooling import Pooling
from vivace.retrieve.running import Running, now
from vivace.run import work
from vivace.run.pools import ThreadPool
from vivace.trace import Trace
from vivace.types import Embedded, Matches, Rerank, SearchResult, Vectors

Outcome: TypeAlias = tuple[SearchResult, Rerank] | VivaceError
_OF_A_HOP: Final = 16
"""Questions that one hop goes on with: some 8 ms, after which others have their turn."""


class Many:
    """One call of `search_many`: a query's failure is its own."""

    def __init__(
        self, pooling: Pooling, pool: ThreadPool, embedder: Embedder, trace: Trace
    ) -> None:
        self._pooling = pooling
        self._pool = pool
        self._embedder = embedder
        self._trace = trace

    async def embedded(
        self, searches: Sequence[Running], tokens: EmbedsTokens | None
    ) -> dict[int, Vectors]:
        """Give each search its vector, and return token vectors by the search's `id()`.

        Where the call for all fails, each is embedded alone: who fails again goes on without.
        """
        if not searches:
            return {}
        start = now()
        try:
            found = await self._embed(searches, tokens)
        except (EmbeddingError, DeadlineExceeded) as error:
            if len(searches) == 1:
                self._trace.count("search.embedding_failed")
                searches[0].degraded.append(f"dense side skipped: {error.what}")
                return {}
            alone = [self.embedded([search], tokens) for search in searches]
            parts = await asyncio.gather(*alone)
            return {id: rows for part in parts for id, rows in part.items()}
        for search, vector in zip(searches, found.vectors, strict=True):
            search.vector = vector
            self._pooling.took(search, "embed each", start, len(searches))
        if found.tokens is None:
            return {}
        return {id(s): rows for s, rows in zip(searches, found.tokens, strict=True)}

    async def _embed(self, searches: Sequence[Running], tokens: EmbedsTokens | None) -> Embedded:
        texts = [search.asked.text for search in searches]
        if tokens is not None:
            return await tokens.embed_tokens(texts, kind="query")
        return await self._embedder.embed(texts, kind="query")

    async def ranked(
        self,
        searches: Sequence[Running],
        tokens: Mapping[int, Vectors],
        source: Callable[[], CandidateSource],
    ) -> list[Outcome]:
        """Each one's hits or error, in order."""
        if not searches:
            return []
        state, near = await self._pool.run(self._near, searches, source)
        parts = [searches[at : at + _OF_A_HOP] for at in range(0, len(searches), _OF_A_HOP)]
        hops = [self._pool.run(self._each, part, tokens, state, near) for part in parts]
        found: list[Outcome] = []
        for part, outcome in zip(
            parts, await asyncio.gather(*hops, return_exceptions=True), strict=True
        ):
            if isinstance(outcome, VivaceError):  # the hop itself had no turn
                found += [outcome] * len(part)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                found += outcome
        return found

    def _near(
        self, searches: Sequence[Running], source: Callable[[], CandidateSource]
    ) -> tuple[CandidateSource, dict[int, Matches]]:
        """The dense side of all questions without filters, by one call."""
        state, dim = source(), self._embedder.dim
        plain = [
            search
            for search in searches
            if search.vector is not None
            and not search.query.filters
            and search.vector.shape == (dim,)
        ]
        if len(plain) < 2:
            return state, {}
        rows = np.ascontiguousarray([search.vector for search in plain], np.float32)
        widths = [self._pooling.width(search, state) for search in plain]
        start = now()
        try:
            found = state.dense(rows, max(widths))
        except VivaceError:  # each is asked alone then, and has an error of its own
            return state, {}
        self._trace.observe("dense of many", now() - start)
        return state, {
            id(search): Matches(found.ids[at : at + 1, :width], found.scores[at : at + 1, :width])
            for at, (search, width) in enumerate(zip(plain, widths, strict=True))
        }

    def _each(
        self,
        searches: Sequence[Running],
        tokens: Mapping[int, Vectors],
        source: CandidateSource,
        near: Mapping[int, Matches],
    ) -> list[Outcome]:
        found: list[Outcome] = []
        for search in searches:
            left = search.left(now())
            try:
                if left is not None and left <= 0:
                    raise work.too_late("search")
                keyword = self._pooling.keyword(search, source)
                one = id(search)
                found.append(
                    self._pooling.ranked(
                        search, keyword, search.vector, tokens.get(one), near.get(one)
                    )
                )
            except VivaceError as error:
                found.append(error)
        return found
