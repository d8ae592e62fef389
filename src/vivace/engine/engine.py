"""What all collections share: models, pools, settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Self

import msgspec

from vivace import settings as settings_module
from vivace.answer.extractive import Extractive
from vivace.answer.prompted import Prompted
from vivace.answer.semantic import SemanticAnswerer
from vivace.collection.corpus import Corpus
from vivace.collection.paths import collection_path
from vivace.collection.reembedding import Progress as UpkeepProgressed
from vivace.collection.reembedding import Reembedded, reembed
from vivace.embed import names
from vivace.engine.caching import Caching, Timed
from vivace.engine.collection import Collection
from vivace.errors import BadSettings, VivaceError
from vivace.generate import names as models
from vivace.generate import templates
from vivace.generate.batch import Progress, generate_many
from vivace.generate.coalesce import Coalesced
from vivace.ingest.sandbox import Sandbox
from vivace.protocols import Answerer, Generator, Searcher
from vivace.retrieve.hybrid import HybridSearcher
from vivace.retrieve.pooling import Watch
from vivace.retrieve.rerankers import names as rerankers
from vivace.run.pools import Pool
from vivace.run.threads import divide
from vivace.settings import Settings
from vivace.store.operations import Operations
from vivace.trace import Trace
from vivace.tune import fitting
from vivace.types import Chunk, Completion, Decision, Request


class Engine:
    """Owns the model and the thread pools; opens any number of collections.

    Use it as an asynchronous context manager, or call `close`. Settings come from every source that
    `vivace.settings.load` knows, unless given.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self.settings = settings if settings is not None else settings_module.load(**overrides)
        self.templates = templates.load(self.settings.answer.templates)
        self.caching = Caching(self.settings)
        self.caching.sink = self._decided
        self.model = models.load(self.settings.generate)
        """The model server's client; `generator` is what asks it."""
        self.generator = self._asking(self.model)
        share = divide(self.settings.embed.workers, self.settings.search.threads)
        self.embedder = names.load(self.settings, share.cores)
        try:
            self.reranker = rerankers.load(self.settings, share.cores)
            """In place of MaxSim; None where MaxSim or nothing scores the best again."""
        except BaseException:
            self.embedder.close()
            raise
        self._pool = Pool(share.search, "vivace-search", cores=share.cores)
        self.questions = self.caching.embedder(self.embedder, self._pool)
        """Of questions; documents, tuning and `/v1/embeddings` have the embedder itself."""
        self.sandbox = Sandbox(self.settings.parse)
        self._collections: dict[Path, Collection] = {}
        self._opening = asyncio.Lock()

    async def open(self, name: str | Path = "default", *, create: bool = True) -> Collection:
        """Open the collection at a path, or of a name under `settings.home`; once, however often.

        Raises:
            CollectionNotFound: there is none and `create` is False.
            EmbedderMismatch: it was made with another embedder.
            CollectionTooNew: a later version of Vivace wrote it.
        """
        folder = collection_path(name, self.settings)
        async with self._opening:
            opened = self._collections.get(folder)
            if opened is not None and not opened.closed:
                return opened
            trace = Trace()
            operations = Operations(folder, trace)
            corpus = await asyncio.to_thread(
                Corpus.open,
                folder,
                embedder=self.embedder.name,
                dim=self.embedder.dim,
                trace=trace,
                settings=self.settings.index,
                create=create,
                decide=operations.record,
            )
            collection = self._collections[folder] = Collection(corpus, self, trace, operations)
            return collection

    async def reembed(
        self, name: str | Path = "default", *, progress: UpkeepProgressed | None = None
    ) -> Reembedded:
        """Give every chunk a vector of this engine's embedder: see `collection.reembedding`."""
        folder = collection_path(name, self.settings)
        tokens = self.settings.embed.tokens
        opened = self._collections.get(folder)
        if opened is not None and not opened.closed:
            return await opened.upkeep.reembed(progress, tokens=tokens)
        return await reembed(folder, self.embedder, tokens=tokens, progress=progress)

    def searcher(
        self,
        corpus: Corpus,
        trace: Trace,
        watch: Watch | None = None,
        took: Callable[[float], None] | None = None,
    ) -> Searcher:
        """Args: `watch` is told of every dense answer, `took` of the seconds of every search; of
        one that is remembered, neither."""
        settings, reranker = self.settings.search, self.reranker
        fitted = None
        if settings.rerank == fitting.SETTING:
            reranker = fitted = fitting.load(corpus, trace)
            if reranker is None:  # none was fitted, or it does not help
                settings = msgspec.structs.replace(settings, rerank="auto")
        parts = (corpus.snapshot, self.questions, self._pool, settings, trace)
        searcher: Searcher = HybridSearcher(
            *parts, metric=corpus.store.metric, watch=watch, reranker=reranker
        )
        if took is not None:
            searcher = Timed(searcher, took)
        weights = msgspec.json.encode(fitted.model) if fitted is not None else b""
        return self.caching.searcher(searcher, corpus, self.embedder, weights)

    def answerer(
        self,
        corpus: Corpus,
        trace: Trace,
        decide: Callable[[Decision], None],
        in_flight: Callable[[], AbstractContextManager[None]],
    ) -> Answerer:
        """Answers by the model that is set; by quoting where there is none or it cannot.

        Args: see `SemanticAnswerer`.
        """
        answerer: Answerer
        quoting = answerer = Extractive(self.questions, self.settings, self.templates)
        if self.generator is not None:

            async def documents(ids: Sequence[str]) -> list[list[Chunk]]:
                return await asyncio.to_thread(lambda: [corpus.store.chunks_of(id) for id in ids])

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
            corpus,
            self.settings,
            self.templates,
            trace=trace,
            decide=decide,
            room=room,
            in_flight=in_flight,
        )

    async def generate_many(
        self, requests: Sequence[Request], *, progress: Progress | None = None
    ) -> list[Completion | VivaceError]:
        """What the model makes of each request, in order: one completion or error each.

        Equal requests are asked once, unless their temperature is above zero. As many run at once
        as the model's servers take with the most throughput: see `run.paced`.

        Args:
            progress: called on the event loop whenever a request has ended.

        Raises:
            BadSettings: there is no model.
        """
        if self.generator is None:
            raise BadSettings(
                "there is no model to ask", fix="Set generate.model to openai:NAME@URL"
            )
        settings = self.settings.generate
        return await generate_many(
            self.generator,
            requests,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            sampled=settings.coalesce_sampled,
            parallel=self.parallel,
            progress=progress,
        )

    @property
    def parallel(self) -> int:
        """Answers of a batch that are worked on at once, most of which wait for a model server."""
        if self.model is None:
            return 2 * self._pool.statistics().threads
        servers = self.model.endpoints.statistics().servers
        return sum(server.bound for server in servers)

    def _decided(self, decision: Decision) -> None:
        """Of what all collections share: each of them can say why."""
        for collection in list(self._collections.values()):
            if not collection.closed:
                collection.record(decision)

    def _asking(self, model: Generator | None) -> Generator | None:
        settings = self.settings.generate
        if model is None:
            return None
        if settings.coalesce:
            model = Coalesced(model, sampled=settings.coalesce_sampled)
        return self.caching.generator(model)

    async def close(self) -> None:
        """Close every collection, then the pools and the model. Idempotent."""
        async with AsyncExitStack() as stack:
            stack.callback(self.embedder.close)
            stack.callback(self._pool.close)
            stack.push_async_callback(self.caching.close)
            if self.reranker is not None:
                stack.push_async_callback(self.reranker.close)
            if self.generator is not None:
                stack.push_async_callback(self.generator.close)
            stack.push_async_callback(asyncio.to_thread, self.sandbox.close)
            for collection in self._collections.values():
                stack.push_async_callback(collection.close)
            self._collections.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
