"""Dense and keyword candidates, fused. The keyword side runs while the question is embedded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from vivace.errors import DeadlineExceeded, EmbeddingError, Overloaded, RerankError, VivaceError
from vivace.protocols import CandidateSource, Embedder, EmbedsThen, EmbedsTokens, Reranker
from vivace.retrieve import batched, ladder, questions, rerank
from vivace.retrieve.asked import understand
from vivace.retrieve.ladder import GRACE, Costs
from vivace.retrieve.pooling import Pooling, Watch
from vivace.retrieve.running import Keyword, Running, now
from vivace.run import work
from vivace.run.pools import ThreadPool
from vivace.settings import Search
from vivace.trace import Trace
from vivace.types import (
    Hit,
    Matches,
    Metric,
    Query,
    Rerank,
    Scores,
    SearchResult,
    Stage,
    Vector,
    Vectors,
)

_NO_DENSE: Final = "dense side skipped: "
_APART: Final = 2
"""Questions at once whose two sides run side by side; with more, no thread is idle for it."""
_RETRY_SECONDS: Final = 0.1


class HybridSearcher:
    """A `Searcher` over one collection.

    With a vector at hand, or none to be had, a search is one hop to the pool. With a question to be
    embedded, the keyword side's hop is hidden behind the embedding. With several at once a search
    goes on where its question was embedded, if the embedder can do that: no thread is idle that
    could take it, and every hop costs all of them its time.

    Args:
        watch: told of every dense answer.
        reranker: scores the best again, in place of MaxSim; closed by whoever made it.
        costs: what the stages took before; learned from nothing unless given.
    """

    def __init__(
        self,
        source: Callable[[], CandidateSource],
        embedder: Embedder,
        pool: ThreadPool,
        settings: Search,
        trace: Trace,
        *,
        metric: Metric = "cosine",
        watch: Watch | None = None,
        reranker: Reranker | None = None,
        costs: Costs | None = None,
    ) -> None:
        self._source = source
        self._embedder = embedder
        self._pool = pool
        self._settings = settings
        self._trace = trace
        self._metric = metric
        outside = reranker if settings.rerank != "off" else None
        self._reranker = rerank.Outside(outside) if outside is not None else None
        self._costs = costs or Costs()
        self._pooling = Pooling(
            source,
            settings,
            trace,
            self._costs,
            metric=metric,
            watch=watch,
            outside=self._reranker is not None,
        )
        within = self._reranker is None and settings.rerank in ("auto", "maxsim")
        # asked once: a look at a protocol takes microseconds
        self._tokens = embedder if within and isinstance(embedder, EmbedsTokens) else None
        self._then = embedder if isinstance(embedder, EmbedsThen) else None
        self._wants_tokens = within
        self._asking = 0
        """Questions between their arrival and their answer."""

    async def search(self, query: Query) -> SearchResult:
        """The k best passages, best first; empty where nothing matches.

        With a deadline (the query's, or of `run.work`), less is done as less time is left:
        `degraded` names each step of `retrieve.ladder` that was taken.

        Raises:
            BadQuery: an empty or oversized question, k < 1, a vector with NaN.
            BadVectors: a vector of the wrong dimension.
            BadFilter: an unknown key or operator.
            DeadlineExceeded: the deadline had passed before anything was done.
            Overloaded: not even the keyword side alone would be done in time.
        """
        search = self._begun(query)
        result, again = await self._searched(search)
        reranker = self._reranker
        return result if reranker is None else await self._reranked(search, result, again, reranker)

    async def search_many(self, queries: Sequence[Query]) -> list[SearchResult | VivaceError]:
        """One result or error a query, in order, all of one state of the collection.

        They are embedded in one call and looked up in the dense index in one; a failure is of its
        own query alone.
        """
        results: list[SearchResult | VivaceError | None] = [None] * len(queries)
        searches: dict[int, Running] = {}
        for at, query in enumerate(queries):
            try:
                searches[at] = self._begun(query)
            except VivaceError as error:
                results[at] = error
        running = list(searches.values())
        many = batched.Many(self._pooling, self._pool, self._embedder, self._trace)
        embedder = self._tokens if self._pooling.reranks else None
        tokens = await many.embedded([s for s in running if self._to_embed(s)], embedder)
        found = await many.ranked(running, tokens, self._source)
        for at, result in zip(searches, await self._done(running, found), strict=True):
            results[at] = result
        return [result for result in results if result is not None]

    async def _done(
        self, searches: Sequence[Running], found: Sequence[batched.Outcome]
    ) -> list[SearchResult | VivaceError]:
        """What was found, seen by the reranker: of as many questions at once as it takes."""
        reranker = self._reranker
        if reranker is None:
            return [one if isinstance(one, VivaceError) else one[0] for one in found]
        places = asyncio.Semaphore(reranker.at_once)

        async def one(search: Running, outcome: batched.Outcome) -> SearchResult | VivaceError:
            if isinstance(outcome, VivaceError):
                return outcome
            async with places:
                try:
                    return await self._reranked(search, *outcome, reranker)
                except VivaceError as error:
                    return error

        return await asyncio.gather(*map(one, searches, found))

    def _begun(self, query: Query) -> Running:
        """The question understood, with the sooner of its deadlines."""
        questions.check(query, self._settings.max_question_chars)
        query = questions.encodable(query)
        until = work.current().deadline
        if query.deadline is not None:
            own = now() + query.deadline
            until = own if until is None else min(own, until)
        search = Running(query, understand(query.text), until)
        if query.vector is not None:
            vector = query.vector
            search.vector = questions.unit(vector) if self._metric == "cosine" else vector
        if until is not None:
            self._feasible(search)
        return search

    def _feasible(self, search: Running) -> None:
        """Refuse what cannot be done in time, before anything of it is done."""
        left, costs = search.left(now()), self._costs
        assert left is not None
        if left <= 0:
            raise work.too_late("search")
        least = costs["keyword"] + costs.finish
        if left + GRACE < least:
            for stage in ("keyword", "fuse", "fetch", "hop"):
                costs.relax(stage, ladder.DOUBT)
            self._trace.count("search.refused")
            raise Overloaded(
                f"the keyword side alone takes {1e3 * least:.2g} ms, and {1e3 * left:.2g} are left",
                retry_after=_RETRY_SECONDS,
            )

    def _to_embed(self, search: Running) -> bool:
        return search.vector is None and self._embedder.reads(search.asked.language)

    async def _searched(self, search: Running) -> tuple[SearchResult, Rerank]:
        if not self._to_embed(search):
            return await self._pool.run(self._whole, search, search.vector, now())
        if search.until is not None and not self._time_to_embed(search):
            search.degraded.append(ladder.NO_TIME_TO_EMBED)
            return await self._pool.run(self._whole, search, None, now())
        self._asking += 1
        try:
            if self._asking > _APART and self._then is not None:
                return await self._together(search, self._then)
            return await self._apart(search)
        finally:
            self._asking -= 1

    def _time_to_embed(self, search: Running) -> bool:
        """Whether the question can be embedded and something be made of it in time."""
        left, costs = search.left(now()), self._costs
        if left is None or left >= costs["embed"] + costs.finish:
            return True
        costs.relax("embed")
        return False

    async def _together(self, search: Running, embedder: EmbedsThen) -> tuple[SearchResult, Rerank]:
        """Both sides after the embedding, and on its thread."""
        start = now()

        def then(vector: Vector, tokens: Vectors | None) -> tuple[SearchResult, Rerank]:
            self._embedded(search, start)
            return self._fused(search, self._pooling.keyword(search), vector, tokens)

        # what goes on without the embedding is a search of its own: the embedding's thread may
        # still be writing to this one
        rest = Running(search.query, search.asked, search.until)
        wanted = self._wants_tokens and self._pooling.reranks
        try:
            async with asyncio.timeout(self._patience(search)):
                return await embedder.embed_then(search.asked.text, then, tokens=wanted)
        except EmbeddingError as error:
            self._without(rest, error)
        except (TimeoutError, DeadlineExceeded):
            if search.until is None:
                raise
            self._late(rest, start)
        return await self._pool.run(self._whole, rest, None, now())

    async def _apart(self, search: Running) -> tuple[SearchResult, Rerank]:
        """The keyword side's hop while the question is embedded."""
        keyword = asyncio.ensure_future(self._pool.run(self._pooling.keyword, search))
        keyword.add_done_callback(_looked_at)
        try:
            vector, tokens = await self._embed(search)
        except BaseException:
            keyword.cancel()
            raise
        found = await keyword
        return await self._pool.run(self._hopped, search, found, vector, tokens, now())

    async def _embed(self, search: Running) -> tuple[Vector | None, Vectors | None]:
        """The question's vector and token vectors; none, and why, where it failed or was late."""
        start, text = now(), search.asked.text
        try:
            async with asyncio.timeout(self._patience(search)):
                if self._tokens is not None and self._pooling.reranks:
                    embedded = await self._tokens.embed_tokens([text], kind="query")
                else:
                    embedded = await self._embedder.embed([text], kind="query")
        except EmbeddingError as error:
            self._without(search, error)
            return None, None
        except (TimeoutError, DeadlineExceeded):
            if search.until is None:
                raise
            self._late(search, start)
            return None, None
        self._embedded(search, start)
        return embedded.vectors[0], embedded.tokens[0] if embedded.tokens else None

    def _patience(self, search: Running) -> float | None:
        """Seconds that the embedding is waited for: what then is left has to do for the rest."""
        left = search.left(now())
        return None if left is None else max(0.0, left - self._costs.finish)

    def _embedded(self, search: Running, start: float) -> None:
        seconds = now() - start
        self._trace.observe("embed", seconds)
        self._costs.observe("embed", seconds)
        if search.stages is not None:
            search.stages["embed"] = Stage(1, 1e3 * seconds)

    def _without(self, search: Running, error: EmbeddingError) -> None:
        """What a search is degraded by, counted."""
        self._trace.count("search.embedding_failed")
        search.degraded.append(f"{_NO_DENSE}{error.what}")

    def _late(self, search: Running, start: float) -> None:
        self._costs.observe("embed", now() - start)
        self._trace.count("search.embedding_late")
        search.degraded.append(ladder.EMBEDDED_LATE)

    def _whole(
        self, search: Running, vector: Vector | None, asked: float
    ) -> tuple[SearchResult, Rerank]:
        """On a thread of the pool, which it was asked for at `asked`."""
        self._costs.observe("hop", now() - asked)
        return self._fused(search, self._pooling.keyword(search), vector, None)

    def _hopped(
        self,
        search: Running,
        keyword: Keyword,
        vector: Vector | None,
        tokens: Vectors | None,
        asked: float,
    ) -> tuple[SearchResult, Rerank]:
        self._costs.observe("hop", now() - asked)
        return self._fused(search, keyword, vector, tokens)

    def _fused(
        self,
        search: Running,
        keyword: Keyword,
        vector: Vector | None,
        tokens: Vectors | None,
        near: Matches | None = None,
    ) -> tuple[SearchResult, Rerank]:
        return self._pooling.ranked(search, keyword, vector, tokens, near)

    async def _reranked(
        self, search: Running, result: SearchResult, how: Rerank, reranker: rerank.Outside
    ) -> SearchResult:
        """The hits as the reranker has them, or as they were; then the k best of them."""
        start = now()
        wanted = min(how.depth, len(result.hits))
        left = search.left(start)
        depth = ladder.depth(self._costs, left, wanted)
        if depth < wanted:
            search.degraded.append(ladder.told_of_depth(depth, wanted))
        hits = result.hits
        if depth:
            hits = await self._asked_again(search, hits, depth, how.weight, reranker)
        least = search.query.min_score
        if least is not None:
            hits = tuple(hit for hit in hits if hit.score >= least)
        if self._settings.mmr:
            source = self._source()
            hits = await self._pool.run(self._pooling.diverse, search, source, hits)
        hits = hits[: search.query.k]
        stages = search.stages or {}
        return SearchResult(hits, result.epoch, tuple(search.degraded), stages)

    async def _asked_again(
        self,
        search: Running,
        hits: tuple[Hit, ...],
        depth: int,
        weight: float,
        reranker: rerank.Outside,
    ) -> tuple[Hit, ...]:
        """The first hits as the reranker has them; as they were where it fails or is left alone."""
        start, query = now(), search.query
        seconds, left = self._settings.rerank_seconds, search.left(start)
        if left is not None:
            seconds = min(seconds, max(0.0, left - self._costs["fuse"]))
        if search.asked.text != query.text:
            query = replace(query, text=search.asked.text)
        try:
            scores = await reranker.scored(query, hits[:depth], seconds)
            hits = _blended(hits, scores, weight)
            self._trace.observe("rerank", now() - start)
        except rerank.LeftAlone as error:
            # nothing was asked, so nothing was learned of what it takes
            self._trace.count("rerank.skipped")
            search.degraded.append(f"{rerank.NOT_RERANKED}{error.what}")
            return hits
        except RerankError as error:
            self._pooling.failed(search, error)
        took = now() - start
        self._costs.observe("rerank", took / depth)
        if search.stages is not None:
            search.stages["rerank"] = Stage(depth, 1e3 * took)
        return hits


def _blended(hits: tuple[Hit, ...], scores: Scores, weight: float) -> tuple[Hit, ...]:
    fused = np.array([hit.score for hit in hits], np.float32)
    ids = np.array([hit.chunk.id for hit in hits], np.int64)
    final = rerank.blend(fused, scores, weight)
    again: list[Hit] = []
    for at in rerank.order(ids, final, len(scores)).tolist():
        stages = {**hits[at].stages, "fused": hits[at].score}
        if at < len(scores):
            stages["reranked"] = float(scores[at])
        again.append(Hit(hits[at].chunk, float(final[at]), stages))
    return tuple(again)


def _looked_at(task: asyncio.Task[Keyword]) -> None:
    """Where both sides fail one error is raised; asyncio would log that nobody saw the other."""
    if not task.cancelled():
        task.exception()
