"""Where a search runs: the keyword side while the question is embedded, the rest in one hop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from itertools import chain
from typing import Any, Final, TypeAlias, TypeVar

from vivace.errors import DeadlineExceeded, EmbeddingError, VivaceError
from vivace.protocols import Embedder, EmbedsTokens
from vivace.retrieve.context import EMBEDDED_LATE, SearchContext, now
from vivace.retrieve.fusion import Ranking
from vivace.retrieve.pipeline import SearchPipeline
from vivace.retrieve.rerank import ignore_error
from vivace.run import work
from vivace.run.microbatch import EmbedsThen
from vivace.run.pools import ThreadPool
from vivace.types import Embedded, Query, SearchResult, Vector, Vectors

T = TypeVar("T")

_APART: Final = 2
"""Questions at once whose two sides run side by side; with more, no thread is idle for it."""
_PER_HOP: Final = 16
"""Questions of `search_many` ranked in one hop: some 8 ms, after which other work has its turn."""

Ranked: TypeAlias = SearchResult | Ranking
"""What a search thread returns: the result, or the ranking for a reranker that runs elsewhere."""


class HybridSearcher:
    """A `Searcher` over one collection.

    With a vector given, or none to be had, a search is one hop to the pool. With a question to be
    embedded, the keyword side's hop is hidden behind the embedding. With several at once a search
    continues on the thread that embedded its question, if the embedder can do that: no idle thread
    could take it, and every hop would delay all of them.
    """

    def __init__(self, pipeline: SearchPipeline, embedder: Embedder, pool: ThreadPool) -> None:
        self.pipeline = pipeline
        self._embedder = embedder
        self._pool = pool
        self._guarded = pipeline.rerank.guarded
        # looked up once: checking against a protocol takes microseconds
        self._tokens = embedder if isinstance(embedder, EmbedsTokens) else None
        self._then = embedder if isinstance(embedder, EmbedsThen) else None
        self._embedding = 0
        """Questions between their arrival and their answer that need an embedding."""

    async def search(self, query: Query) -> SearchResult:
        """The k best passages, best first; empty where nothing matches.

        With a deadline (the query's, or of `run.work`), less is done as less time is left:
        `degraded` names each reduction, as `retrieve.context` lists them.

        Raises:
            BadQuery: an empty or oversized question, k < 1, a vector with NaN.
            BadVectors: a vector of the wrong dimension.
            BadFilter: an unknown key or operator.
            DeadlineExceeded: the deadline had passed before anything was done.
            Overloaded: not even the keyword side alone would be done in time.
        """
        context = self.pipeline.begin(query)
        if not self._to_embed(context) or not context.has_time_to_embed():
            return await self._finished(context, await self._hop(context))
        self._embedding += 1
        try:
            if self._embedding > _APART and self._then is not None:
                context, ranked = await self._together(context, self._then)
            else:
                ranked = await self._apart(context)
        finally:
            self._embedding -= 1
        return await self._finished(context, ranked)

    async def search_many(self, queries: Sequence[Query]) -> list[SearchResult | VivaceError]:
        """One result or error a query, in order, all of one state of the collection.

        They are embedded in one call and looked up in the dense index in one; a failure affects its
        own query alone.
        """
        begun = self._begin_many(queries)
        contexts = [one for one in begun if isinstance(one, SearchContext)]
        await self._embed_many([one for one in contexts if self._to_embed(one)])
        if contexts:
            await self._pool.run(self.pipeline.dense_of_many, contexts, self._embedder.dim)
        places = asyncio.Semaphore(self._guarded.at_once if self._guarded else 1)
        parts = [contexts[at : at + _PER_HOP] for at in range(0, len(contexts), _PER_HOP)]
        hops = [self._search_part(part, places) for part in parts]
        found = chain.from_iterable(await asyncio.gather(*hops))
        return [next(found) if isinstance(one, SearchContext) else one for one in begun]

    # -- one question -----------------------------------------------------------------------

    def _to_embed(self, context: SearchContext) -> bool:
        return context.row is None and self._embedder.reads(context.parsed.language)

    async def _together(
        self, context: SearchContext, embedder: EmbedsThen
    ) -> tuple[SearchContext, Ranked]:
        """Everything after the embedding, on its thread; the context that it was done on."""
        start, tokens = now(), self.pipeline.wants_tokens([context])

        def then(vector: Vector, tokens: Vectors | None) -> Ranked:
            context.embedded(vector, tokens)
            context.note("embed", start, 1)
            return self.pipeline.run(context)

        # a search that goes on without the embedding starts afresh: the embedding's thread may
        # still be writing to this one
        rest = context.restarted()
        ranked = await self._in_time(
            rest, embedder.embed_then(context.parsed.text, then, tokens=tokens)
        )
        return (rest, await self._hop(rest)) if ranked is None else (context, ranked)

    async def _apart(self, context: SearchContext) -> Ranked:
        """The keyword side's hop while the question is embedded, then the rest in another."""
        start, tokens = now(), self.pipeline.wants_tokens([context])
        keyword = asyncio.ensure_future(self._pool.run(self.pipeline.keyword, context))
        keyword.add_done_callback(ignore_error)
        try:
            found = await self._in_time(context, self._embed([context], tokens))
        except BaseException:
            keyword.cancel()
            raise
        if found is not None:
            context.embedded(found.vectors[0], found.tokens[0] if found.tokens else None)
            context.note("embed", start, 1)
        await keyword
        return await self._hop(context)

    async def _in_time(self, context: SearchContext, embedding: Coroutine[Any, Any, T]) -> T | None:
        """What an embedding returns; None, and why in `degraded`, where it fails or is late."""
        start = now()
        try:
            async with asyncio.timeout(context.embedding_timeout()):
                return await embedding
        except EmbeddingError as error:
            self._not_embedded(context, error)
        except (TimeoutError, DeadlineExceeded):
            if context.until is None:
                raise
            context.costs.observe("embed", now() - start)
            context.trace.count("search.embedding_late")
            context.degraded.append(EMBEDDED_LATE)
        return None

    async def _embed(self, contexts: Sequence[SearchContext], tokens: bool) -> Embedded:
        texts = [context.parsed.text for context in contexts]
        if tokens and self._tokens is not None:
            return await self._tokens.embed_tokens(texts, kind="query")
        return await self._embedder.embed(texts, kind="query")

    def _not_embedded(
        self, context: SearchContext, error: EmbeddingError | DeadlineExceeded
    ) -> None:
        context.trace.count("search.embedding_failed")
        context.degraded.append(f"dense side skipped: {error.what}")

    async def _hop(self, context: SearchContext) -> Ranked:
        return await self._pool.run(self._hopped, context, now())

    def _hopped(self, context: SearchContext, since: float) -> Ranked:
        """On a thread of the pool, which the search has waited for since then."""
        context.costs.observe("hop", now() - since)
        return self.pipeline.run(context)

    async def _finished(self, context: SearchContext, ranked: Ranked) -> SearchResult:
        """The result, after a reranker that runs elsewhere."""
        if isinstance(ranked, SearchResult):
            return ranked
        ranking = await self.pipeline.rerank.awaited(context, ranked)
        if self.pipeline.finish_blocks:
            return await self._pool.run(self.pipeline.finish, context, ranking)
        return self.pipeline.finish(context, ranking)

    # -- many questions ---------------------------------------------------------------------

    def _begin_many(self, queries: Sequence[Query]) -> list[SearchContext | VivaceError]:
        begun: list[SearchContext | VivaceError] = []
        for query in queries:
            try:
                begun.append(self.pipeline.begin(query))
            except VivaceError as error:
                begun.append(error)
        return begun

    async def _embed_many(self, contexts: Sequence[SearchContext]) -> None:
        """Embed all by one call. Where that fails, each is embedded alone, and those that fail
        again go on without."""
        if not contexts:
            return
        start = now()
        try:
            found = await self._embed(contexts, self.pipeline.wants_tokens(contexts))
        except (EmbeddingError, DeadlineExceeded) as error:
            if len(contexts) == 1:
                self._not_embedded(contexts[0], error)
                return
            await asyncio.gather(*[self._embed_many([context]) for context in contexts])
            return
        tokens = found.tokens or [None] * len(contexts)
        for context, vector, own in zip(contexts, found.vectors, tokens, strict=True):
            context.embedded(vector, own)
            context.note("embed each", start, len(contexts))

    async def _search_part(
        self, contexts: Sequence[SearchContext], places: asyncio.Semaphore
    ) -> list[SearchResult | VivaceError]:
        """One hop for all, then the reranker that runs elsewhere: for as many as it takes."""
        try:
            ranked = await self._pool.run(self._run_each, contexts)
        except VivaceError as error:  # the hop itself was refused
            return [error] * len(contexts)

        async def finished(
            context: SearchContext, one: Ranked | VivaceError
        ) -> SearchResult | VivaceError:
            if isinstance(one, VivaceError):
                return one
            async with places:
                try:
                    return await self._finished(context, one)
                except VivaceError as error:
                    return error

        if self._guarded is None:
            return [one for one in ranked if not isinstance(one, Ranking)]
        return await asyncio.gather(*map(finished, contexts, ranked))

    def _run_each(self, contexts: Sequence[SearchContext]) -> list[Ranked | VivaceError]:
        found: list[Ranked | VivaceError] = []
        for context in contexts:
            left = context.left(now())
            try:
                if left is not None and left <= 0:
                    raise work.too_late("search")
                found.append(self.pipeline.run(context))
            except VivaceError as error:
                found.append(error)
        return found
