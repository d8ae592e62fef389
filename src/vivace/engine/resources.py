"""What the collections of an engine share, and how a collection's parts are made of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import msgspec

from vivace.answer.extractive import Extractive
from vivace.answer.prompted import Prompted
from vivace.answer.semantic import SemanticAnswerer
from vivace.collection.corpus import Corpus
from vivace.embed import names as embedders
from vivace.engine.caching import Caching
from vivace.errors import VivaceError
from vivace.generate import names as models
from vivace.generate import templates
from vivace.generate.coalesce import Coalesced
from vivace.generate.templates import Templates
from vivace.ingest.sandbox import Sandbox
from vivace.protocols import Answerer, Embedder, Generator, Reader, Reranker, Searcher
from vivace.retrieve import rerankers
from vivace.retrieve.hybrid import HybridSearcher
from vivace.retrieve.pipeline import DenseWatch, SearchPipeline
from vivace.retrieve.rerank import ScoresInline
from vivace.run.endpoints import AsksServers, EndpointsStatistics
from vivace.run.pools import ThreadPool
from vivace.run.threads import Cores, divide
from vivace.settings import Settings
from vivace.trace import Trace
from vivace.tune import fitting
from vivace.types import Chunk, Decision, Query, SearchResult

if TYPE_CHECKING:
    from vivace.generate.openai import OpenAI

_OBJECT: Final = "object:"
"""Before the name of a part that was passed in, where the settings name one."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts that the caller passes in, used in place of those that the settings name.

    The engine closes them with its own.
    """

    embedder: Embedder | None = None
    generator: Generator | None = None
    reranker: Reranker | None = None
    readers: tuple[Reader, ...] = ()
    """Read files of their suffixes before the built-in readers do, in this process."""

    def named_in(self, settings: Settings) -> Settings:
        """The settings with the names of these parts, so that every cache key holds them."""
        replace = msgspec.structs.replace
        if self.embedder is not None:
            name = _OBJECT + self.embedder.name
            settings = replace(settings, embed=replace(settings.embed, model=name))
        if self.generator is not None:
            name = _OBJECT + self.generator.name
            settings = replace(settings, generate=replace(settings.generate, model=name))
        if self.reranker is not None:
            name = _OBJECT + self.reranker.name
            settings = replace(settings, search=replace(settings.search, rerank=name))
        return settings


class EmbedderPool:
    """The embedding models by name, each loaded when it is first needed, on one thread budget.

    Used on the event loop, or before it runs.
    """

    def __init__(
        self, settings: Settings, cores: Cores | None, given: Embedder | None = None
    ) -> None:
        self._settings = settings
        self._cores = cores
        self._loaded: dict[str, Embedder] = {}
        if given is not None:
            self._loaded[settings.embed.model] = given

    def get(self, name: str = "") -> Embedder:
        """The model of this name (a value of `embed.model`); the configured one by default.

        Raises:
            BadSettings, EmbeddingError, MissingExtra: see `vivace.embed.names.load`.
        """
        settings = self._settings
        name = name or settings.embed.model
        if name not in self._loaded:
            embed = msgspec.structs.replace(settings.embed, model=name)
            settings = msgspec.structs.replace(settings, embed=embed)
            self._loaded[name] = embedders.load(settings, self._cores)
        return self._loaded[name]

    def close(self) -> None:
        """Close every loaded model. Idempotent."""
        for embedder in self._loaded.values():
            embedder.close()


@dataclass(frozen=True)
class Resources:
    """The models, pools and caches that all collections of an engine share."""

    settings: Settings
    templates: Templates
    caching: Caching
    model: OpenAI | None
    """The client of the model servers, without coalescing and cache; None without any."""
    generator: Generator | None
    """What answers ask: `model` behind coalescing and cache."""
    embedders: EmbedderPool
    embedder: Embedder
    """The configured model, for documents, tuning and `/v1/embeddings`."""
    questions: Embedder
    """The configured model behind the cache, for questions."""
    reranker: Reranker | None
    """Reranks in place of MaxSim; None where MaxSim or nothing does."""
    search_pool: ThreadPool
    sandbox: Sandbox
    readers: tuple[Reader, ...]
    """Readers that the caller passed in."""

    @classmethod
    def load(cls, settings: Settings, record: Callable[[Decision], None], parts: Parts) -> Self:
        """Load what the settings name and `parts` do not bring.

        Args:
            record: called with decisions about what all collections share.

        Raises:
            BadSettings, EmbeddingError, MissingExtra: a model, reranker or tier cannot be loaded.
        """
        settings = parts.named_in(settings)
        known = templates.load(settings.answer.templates)
        caching = Caching(settings, record)
        model = models.load(settings.generate) if parts.generator is None else None
        share = divide(settings.embed.workers, settings.search.threads)
        pool = EmbedderPool(settings, share.cores, parts.embedder)
        embedder = pool.get()
        try:
            reranker = parts.reranker or rerankers.load(settings, share.cores)
        except BaseException:
            pool.close()
            raise
        search_pool = ThreadPool(share.search, "vivace-search", cores=share.cores)
        return cls(
            settings,
            known,
            caching,
            model,
            _generator(parts.generator or model, settings, caching),
            pool,
            embedder,
            caching.embedder(embedder, search_pool),
            reranker,
            search_pool,
            Sandbox(settings.parse),
            parts.readers,
        )

    def searcher(
        self,
        corpus: Corpus,
        trace: Trace,
        watch: DenseWatch | None = None,
        took: Callable[[float], None] | None = None,
    ) -> Searcher:
        """The searcher of a collection, behind the cache.

        Args:
            watch: called with every dense answer that is not cached.
            took: called with the seconds of every search that is not cached.
        """
        settings, fitted = self.settings.search, None
        reranker: Reranker | ScoresInline | None = self.reranker
        if settings.rerank == fitting.SETTING:
            reranker = fitted = fitting.load(corpus, trace)
            if reranker is None:  # none was fitted, or it does not help
                settings = msgspec.structs.replace(settings, rerank="auto")
        metric = corpus.store.metric
        pipeline = SearchPipeline(
            corpus, settings, trace, metric=metric, watch=watch, reranker=reranker
        )
        searcher: Searcher = HybridSearcher(pipeline, self.questions, self.search_pool)
        if took is not None:
            searcher = TimedSearcher(searcher, took)
        weights = msgspec.json.encode(fitted.model) if fitted is not None else b""
        return self.caching.searcher(searcher, corpus, self.embedder, weights)

    def answerer(
        self,
        corpus: Corpus,
        trace: Trace,
        decide: Callable[[Decision], None],
        in_flight: Callable[[], AbstractContextManager[None]],
    ) -> Answerer:
        """The answerer of a collection: the model, quotes where it fails or there is none.

        Args: see `SemanticAnswerer`.
        """
        answerer: Answerer
        quoting = answerer = Extractive(self.questions, self.settings, self.templates)
        if self.generator is not None:

            async def documents(ids: Sequence[str]) -> list[list[Chunk]]:
                return await asyncio.to_thread(lambda: [corpus.store.chunks_of(one) for one in ids])

            answerer = Prompted(
                self.generator,
                self.settings,
                quoting=quoting,
                templates=self.templates,
                documents=documents,
                trace=trace,
            )
        if (room := self.caching.room) is None:
            return answerer
        return SemanticAnswerer(
            answerer,
            self.questions,
            lambda ids: corpus.snapshot().chunks(ids),
            self.settings,
            self.templates,
            trace=trace,
            decide=decide,
            room=room,
            in_flight=in_flight,
        )

    @property
    def parallel(self) -> int:
        """Answers of a batch that are worked on at once, most of which wait for a model server."""
        if self.model is None:
            return 2 * self.search_pool.statistics().threads
        servers = self.model.endpoints.statistics().servers
        return sum(server.bound for server in servers)

    def server_statistics(self) -> dict[str, EndpointsStatistics]:
        """Statistics of model servers by purpose: `generate`, `embed`, `rerank`. Thread-safe."""
        parts = {"generate": self.model, "embed": self.embedder, "rerank": self.reranker}
        return {
            purpose: part.server_statistics()
            for purpose, part in parts.items()
            if isinstance(part, AsksServers)
        }

    async def close(self) -> None:
        """Close the models, pools and caches. Idempotent."""
        async with AsyncExitStack() as stack:
            stack.callback(self.embedders.close)
            stack.callback(self.search_pool.close)
            stack.push_async_callback(self.caching.close)
            if self.reranker is not None:
                stack.push_async_callback(self.reranker.close)
            if self.generator is not None:
                stack.push_async_callback(self.generator.close)
            stack.push_async_callback(asyncio.to_thread, self.sandbox.close)


class TimedSearcher:
    """A `Searcher` that reports the seconds of each search."""

    def __init__(self, searcher: Searcher, took: Callable[[float], None]) -> None:
        self._searcher = searcher
        self._took = took

    async def search(self, query: Query) -> SearchResult:
        start = time.perf_counter()
        result = await self._searcher.search(query)
        self._took(time.perf_counter() - start)
        return result

    async def search_many(self, queries: Sequence[Query]) -> list[SearchResult | VivaceError]:
        return await self._searcher.search_many(queries)


def _generator(model: Generator | None, settings: Settings, caching: Caching) -> Generator | None:
    if model is None:
        return None
    if settings.generate.coalesce:
        model = Coalesced(model, sampled=settings.generate.coalesce_sampled)
    return caching.generator(model)
