"""One collection, opened: documents in, questions answered, kept in shape."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivace.collection import prepared_chunks
from vivace.collection.corpus import Corpus
from vivace.collection.paths import resolved
from vivace.collection.pipeline import Pipeline
from vivace.collection.preparation import from_paths
from vivace.collection.querylog import QueryLog
from vivace.collection.reembedding import Progress as UpkeepProgressed
from vivace.collection.upkeep import Upkeep
from vivace.collection.writer import Writer
from vivace.engine import warming
from vivace.engine.tuned import Tuned
from vivace.errors import BadInput, StoreError, VivaceError
from vivace.generate.templates import with_wishes
from vivace.ingest.sandbox import Passwords
from vivace.run.streams import closing
from vivace.run.work import Priority, doing
from vivace.run.yielding import Pace
from vivace.store.changes import Remove
from vivace.store.operations import Operations
from vivace.trace import Trace
from vivace.tune.qualitytuning import QualityTuning
from vivace.tune.selftuning import SelfTuning
from vivace.types import (
    Answer,
    AnswerOptions,
    Chunk,
    Delta,
    Document,
    Finding,
    IngestProgress,
    IngestReport,
    Message,
    Metadata,
    Query,
    SearchResult,
    Vector,
)

if TYPE_CHECKING:
    from vivace.engine.engine import Engine

Progress: TypeAlias = Callable[[IngestProgress], None]
# outside the class, where `list` is not yet its method
Findings: TypeAlias = list[Finding]
_DEFAULTS = AnswerOptions()


class Collection(Tuned):
    """Documents that can be searched and asked. Made by `Engine.open`."""

    def __init__(
        self, corpus: Corpus, engine: Engine, trace: Trace, operations: Operations
    ) -> None:
        super().__init__(corpus, operations, engine.settings)
        self.trace = trace
        self._engine = engine
        decide = operations.record
        self._tuning = SelfTuning(corpus, engine.embedder, engine.settings, trace, decide)
        self._quality = QualityTuning(corpus, engine.embedder, engine.settings, decide)
        self._pace = Pace(engine.settings.ingest.commit_chunks)
        self._make_searcher = partial(
            engine.searcher, corpus, trace, self._tuning.watch, self._pace.observe
        )
        self._searcher = self._make_searcher()
        self._answerer = engine.answerer(corpus, trace, decide, self._in_flight)
        self._writer = Writer(corpus, lambda: self._pace.quiet)
        corpus.background.quiet = lambda: self._pace.quiet
        self.upkeep = Upkeep(corpus, operations, self._writer, engine.embedder)
        self._log = QueryLog(corpus.store, engine.settings.queries, trace)
        self._flushing: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[warming.Warmed] | None = None
        self._searching = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed = False

    # -- documents in -----------------------------------------------------------------------

    async def ingest(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        prune: bool = False,
        progress: Progress | None = None,
        password: Passwords | None = None,
    ) -> IngestReport:
        """Read files and folders. What is acknowledged is durable and searchable at once.

        Unchanged documents are skipped; a changed one re-embeds only its changed chunks. A bad file
        is an entry of the report's `errors`; the others go on.

        Args:
            prune: remove documents whose file (or line) is gone from below the paths.
            progress: called on the event loop after every commit.
            password: called on a thread with the path of a file that asks for a password which
                `parse.password` is not; returns it, or None to report the file as an error.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the disk is full or read-only.
        """
        roots = [resolved(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
        sources = from_paths(
            roots,
            max_bytes=self._settings.ingest.max_file_mib << 20,
            parse=self._settings.parse,
            sandbox=self._engine.sandbox,
            ask=password,
        )
        return await self._pipeline().run(sources, prune=roots if prune else (), progress=progress)

    async def add(
        self,
        items: Sequence[Document] | Sequence[Chunk],
        vectors: NDArray[np.floating[Any]] | None = None,
    ) -> IngestReport:
        """Add documents, or chunks with or without their own vectors (n, dim).

        A document or a chunk's document replaces the one with its id. Vectors are scaled to unit
        length where `index.metric` is cosine. Bad input is found before anything is added. Many
        documents are committed in groups, each document whole.

        Raises:
            BadVectors: a wrong shape, NaN or infinity.
            BadInput: a document without id or text or with metadata that has no JSON form, chunks
                of a document that disagree, vectors given for documents, or anything else.
        """
        given_items = prepared_chunks.only(items)
        documents = [item for item in given_items if isinstance(item, Document)]
        chunks = [item for item in given_items if isinstance(item, Chunk)]
        if documents and (chunks or vectors is not None):
            raise BadInput(
                "documents were given together with chunks or vectors",
                fix="Vectors belong to chunks: add(chunks, vectors)",
            )
        if not documents:
            return await self._add_chunks(chunks, vectors)
        for document in documents:
            prepared_chunks.check(document)
        return await self._pipeline().run(documents)

    async def delete(self, ids: str | Sequence[str]) -> int:
        """Remove documents by id; returns how many there were."""
        wanted = [ids] if isinstance(ids, str) else list(ids)
        found = await asyncio.to_thread(self._corpus.store.fingerprints, wanted)
        if found:
            async with self._writer.session():
                await self._writer.apply([Remove(id) for id in found])
        return len(found)

    # -- questions --------------------------------------------------------------------------

    async def search(
        self,
        text: str | Query,
        k: int = 10,
        *,
        filters: Metadata | None = None,
        min_score: float | None = None,
        vector: Vector | None = None,
    ) -> SearchResult:
        """The k best passages.

        Raises:
            BadQuery, BadFilter, BadVectors: see `Searcher.search`.
        """
        query = (
            text if isinstance(text, Query) else Query(text, k, filters, min_score, vector=vector)
        )
        start = time.perf_counter()
        with self._in_flight(), doing(seconds=query.deadline, user=query.user):
            result = await self._searcher.search(query)
        self._record(query, result, time.perf_counter() - start)
        return result

    async def search_many(
        self, queries: Sequence[str | Query], k: int = 10
    ) -> list[SearchResult | VivaceError]:
        """One result or error a query, in order; one failure does not lose the others."""
        wanted = [query if isinstance(query, Query) else Query(query, k) for query in queries]
        start = time.perf_counter()
        with self._in_flight(), doing(Priority.BATCH):
            results = await self._searcher.search_many(wanted)
        each = (time.perf_counter() - start) / max(1, len(wanted))
        for query, result in zip(wanted, results, strict=True):
            if isinstance(result, SearchResult):
                self._record(query, result, each)
        return results

    async def ask(
        self,
        question: str | Query,
        *,
        k: int = 10,
        filters: Metadata | None = None,
        options: AnswerOptions = _DEFAULTS,
        template: str = "",
        target_language: str = "",
        messages: Sequence[Message] = (),
    ) -> Answer:
        """The answer with its citations; `found` is False where the documents do not say.

        Args:
            template: the kind of answer, over `options`'s: see `AnswerOptions.template`.
            target_language: of the answer, over `options`'s.
            messages: earlier ones, oldest first, behind `options`'s history.

        Raises:
            BadInput: there is no such template, or no language to translate into.
        """
        answer: Answer | None = None
        options = with_wishes(options, template, target_language, messages)
        stream = self.stream(question, k=k, filters=filters, options=options)
        async with closing(stream) as deltas:
            async for delta in deltas:
                answer = delta.answer or answer
        assert answer is not None  # an Answerer's last delta carries it
        return answer

    def stream(
        self,
        question: str | Query,
        *,
        k: int = 10,
        filters: Metadata | None = None,
        options: AnswerOptions = _DEFAULTS,
        template: str = "",
        target_language: str = "",
        messages: Sequence[Message] = (),
    ) -> AsyncIterator[Delta]:
        """The answer in pieces; the last delta carries the whole `Answer`.

        Iterate it with `async for`. Closing it (`aclose`) stops the work on the answer before it
        returns.
        """
        query = question if isinstance(question, Query) else Query(question, k, filters)
        options = with_wishes(options, template, target_language, messages)
        return self._answerer.stream(query, self.search, options)

    def _renew_searcher(self) -> None:
        self._searcher = self._make_searcher()

    # -- upkeep -----------------------------------------------------------------------------

    async def verify(self, *, progress: UpkeepProgressed | None = None) -> Findings:
        """Check every file against its checksums and against the store; nothing is changed."""
        return await self.upkeep.verify(progress)

    async def rebuild(
        self, *, reembed: bool = False, progress: UpkeepProgressed | None = None
    ) -> None:
        """Make every index anew from the store; with `reembed` every vector before that.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        if reembed:
            await self.upkeep.reembed(progress, tokens=self._settings.embed.tokens)
        await self.upkeep.rebuild(progress)
        if self._engine.caching.memory is not None:
            self._warming = asyncio.create_task(self.warm())

    async def compact(self, *, progress: UpkeepProgressed | None = None) -> None:
        """Merge every index into one piece without what was removed; raises as `rebuild` does."""
        await self.upkeep.compact(progress)

    async def warm(self, limit: int = 100) -> warming.Warmed:
        """Search again for the questions that were asked most, in background; nothing is logged."""
        with self._in_flight():
            return await warming.warm(self._corpus.store, self._searcher, limit)

    async def asked(self) -> warming.Asked:
        """How many questions of the log are repetitions."""
        return await warming.asked(self._corpus.store)

    async def close(self) -> None:
        """Let searches in flight end, write what waits, let go of the files. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._warming is not None:
            self._warming.cancel()
        await self._idle.wait()
        await self._tuning.close()
        await self._answerer.close()
        if self._flushing is not None:
            await self._flushing
        await asyncio.to_thread(self._close)

    # -- inside -----------------------------------------------------------------------------

    def _pipeline(self) -> Pipeline:
        embedder = self._engine.embedder
        count = embedder.count_tokens
        return Pipeline(
            self._corpus.store, self._writer, embedder, count, self._settings, self._pace
        )

    async def _add_chunks(
        self, chunks: Sequence[Chunk], vectors: NDArray[np.floating[Any]] | None
    ) -> IngestReport:
        metric = self._corpus.store.metric
        embedder, tokens = self._engine.embedder, self._settings.embed.tokens
        changes, embedded = await prepared_chunks.changes(
            chunks, vectors, embedder, metric, quiet=self._pace.quiet, tokens=tokens
        )
        if not changes:
            return IngestReport(epoch=self._corpus.store.epoch())
        async with self._writer.session():
            epoch = await self._writer.apply(changes)
        return IngestReport(
            documents=len(changes), chunks=len(chunks), embedded=embedded, epoch=epoch
        )

    def _record(self, query: Query, result: SearchResult, seconds: float) -> None:
        self.trace.observe("search", seconds)
        full = self._log.record(query, result, seconds)
        if full and (self._flushing is None or self._flushing.done()):
            self._flushing = asyncio.create_task(asyncio.to_thread(self._log.flush))

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        """Closing waits for what is inside; nothing enters once it has begun."""
        if self.closed:
            raise StoreError("the collection is closed", fix="Open it again")
        self._searching += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._searching -= 1
            if not self._searching:
                self._idle.set()

    def _close(self) -> None:
        try:
            self._log.flush()
        finally:
            try:
                self._writer.close()
            finally:
                self._corpus.close()
                self._operations.close()
