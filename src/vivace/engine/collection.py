"""One open collection: documents in, questions answered, indexes maintained and tuned."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray

from vivace.cache.warming import LoggedQuestions, QuestionCounts, WarmingReport, warm
from vivace.collection import prepared_chunks
from vivace.collection.corpus import Corpus
from vivace.collection.paths import resolved
from vivace.collection.pipeline import Pipeline
from vivace.collection.plan_state import StoredPlan
from vivace.collection.preparation import from_paths
from vivace.collection.querylog import QueryLogWriter
from vivace.collection.upkeep import Upkeep
from vivace.collection.writer import Writer
from vivace.engine.resources import Resources
from vivace.errors import BadInput, StoreError, VivaceError
from vivace.generate.batch import run_batch
from vivace.ingest.sandbox import Passwords
from vivace.protocols import CandidateSource, Searcher
from vivace.retrieve import passages
from vivace.run.background import IngestThrottle
from vivace.run.streams import closing
from vivace.run.work import Priority, work_context
from vivace.store.operations import Operations
from vivace.store.transaction import Remove
from vivace.trace import Trace
from vivace.tune.metrics import Recall
from vivace.tune.quality import Quality
from vivace.tune.qualitytuning import QualityTuning, in_force
from vivace.tune.selftuning import SelfTuning
from vivace.tune.tuning import Tuning
from vivace.types import (
    Answer,
    AnswerArguments,
    Chunk,
    CollectionInfo,
    Decision,
    Delta,
    Document,
    Finding,
    IngestReport,
    Metadata,
    Objective,
    OnBatch,
    OnIngest,
    OnUpkeep,
    Passage,
    Plan,
    Query,
    SearchResult,
    Stages,
    Vector,
    resolve_arguments,
)

# outside the class, where `list` is not yet its method
Listing: TypeAlias = list[tuple[Document, int]]
Chunks: TypeAlias = list[Chunk]
Decisions: TypeAlias = list[Decision]
Findings: TypeAlias = list[Finding]
Results: TypeAlias = list[SearchResult | VivaceError]
Answers: TypeAlias = list[Answer | VivaceError]

_WARMING_LOG: Final = 10_000
"""The newest logged questions, from which the most frequent are taken."""


class Collection:
    """Documents that can be searched and asked. Made by `Engine.open`."""

    def __init__(
        self, resources: Resources, corpus: Corpus, trace: Trace, operations: Operations
    ) -> None:
        self.corpus = corpus
        self.trace = trace
        self._resources = resources
        self._settings = settings = resources.settings
        self._operations = operations
        decide, embedder = operations.record, resources.embedder
        self.tuning = SelfTuning(corpus, embedder, settings, trace, decide)
        self._quality = QualityTuning(corpus, embedder, settings, decide)
        self._throttle = IngestThrottle(settings.ingest.commit_chunks)
        self.searcher = self._make_searcher()
        self.answerer = resources.answerer(corpus, trace, decide, self._in_flight)
        corpus.executor.foreground_idle = self._throttle.foreground_idle
        self._writer = Writer(corpus)
        self.upkeep = Upkeep(corpus, operations, self._writer, embedder)
        self.query_log = QueryLogWriter(corpus.store, settings.queries, trace)
        self._flushing: asyncio.Task[None] | None = None
        self.warming: asyncio.Task[WarmingReport] | None = None
        """The warming that the last rebuild began."""
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
        progress: OnIngest | None = None,
        password: Passwords | None = None,
    ) -> IngestReport:
        """Read files and folders. What is acknowledged is durable and searchable at once.

        Unchanged documents are skipped; a changed one re-embeds only its changed chunks. A bad file
        is an entry of the report's `errors`; the others go on. Of the links in a folder, those that
        lead out of it are skipped (`ingest.links`); a path given here may itself be a link.

        Args:
            prune: remove documents whose file (or line) is gone from below the paths.
            progress: called on the event loop after every commit.
            password: called on a thread with the path of a file that `parse.password` does not
                open; returns its password, or None to report the file as an error.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the disk is full or read-only.
        """
        roots = [resolved(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
        sources = from_paths(
            roots,
            max_bytes=self._settings.ingest.max_file_mib << 20,
            parse=self._settings.parse,
            sandbox=self._resources.sandbox,
            readers=self._resources.readers,
            links=self._settings.ingest.links,
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
        given = prepared_chunks.checked_items(items)
        documents = [item for item in given if isinstance(item, Document)]
        chunks = [item for item in given if isinstance(item, Chunk)]
        if documents and (chunks or vectors is not None):
            raise BadInput(
                "documents were given together with chunks or vectors",
                fix="Vectors belong to chunks: add(chunks, vectors)",
            )
        if not documents:
            return await self._add_chunks(chunks, vectors)
        for document in documents:
            prepared_chunks.check_document(document)
        return await self._pipeline().run(documents)

    async def delete(self, ids: str | Sequence[str]) -> int:
        """Remove documents by id; returns how many there were."""
        wanted = [ids] if isinstance(ids, str) else list(ids)
        found = await asyncio.to_thread(self.corpus.store.fingerprints, wanted)
        if found:
            async with self._writer.session():
                await self._writer.apply([Remove(name) for name in found])
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
        with self._in_flight(), work_context(seconds=query.deadline, user=query.user):
            result = await self.searcher.search(query)
        self._log(query, result, time.perf_counter() - start)
        return result

    async def search_many(self, queries: Sequence[str | Query], k: int = 10) -> Results:
        """One result or error per query, in order; one failure does not lose the others."""
        wanted = [query if isinstance(query, Query) else Query(query, k) for query in queries]
        start = time.perf_counter()
        with self._in_flight(), work_context(Priority.BATCH):
            results = await self.searcher.search_many(wanted)
        each = (time.perf_counter() - start) / max(1, len(wanted))
        for query, result in zip(wanted, results, strict=True):
            if isinstance(result, SearchResult):
                self._log(query, result, each)
        return results

    async def passages(self, result: SearchResult, budget_chars: int = 4000) -> tuple[Passage, ...]:
        """The hits as passages to read, with `budget_chars` characters together at most.

        Hits of one document that touch are one passage; where there is room, the chunks beside them
        join. Every passage is its document's text from `start` to `end`.
        """
        hits, beside = result.hits, self.corpus.snapshot().neighbours
        return await asyncio.to_thread(passages.passages, hits, budget_chars, beside)

    async def ask(
        self, question: str | Query, *, k: int = 10, **arguments: Unpack[AnswerArguments]
    ) -> Answer:
        """The answer with its citations; `found` is False where the documents do not say.

        Args:
            k: passages that are searched for, unless the question is a `Query`.
            arguments: see `vivace.types.resolve_arguments`.

        Raises:
            BadInput: there is no such template, or no language to translate into.
        """
        answer: Answer | None = None
        async with closing(self.stream(question, k=k, **arguments)) as deltas:
            async for delta in deltas:
                answer = delta.answer or answer
        assert answer is not None  # an Answerer's last delta carries it
        return answer

    def stream(
        self, question: str | Query, *, k: int = 10, **arguments: Unpack[AnswerArguments]
    ) -> AsyncIterator[Delta]:
        """The answer in pieces; the last delta carries the whole `Answer`. See `ask`.

        Iterate it with `async for`. Closing it (`aclose`) stops the work on the answer before it
        returns.
        """
        filters, options = resolve_arguments(**arguments)
        query = question if isinstance(question, Query) else Query(question, k, filters)
        return self.answerer.stream(query, self.search, options)

    async def answer_many(
        self,
        questions: Sequence[str | Query],
        k: int = 10,
        *,
        progress: OnBatch | None = None,
        **arguments: Unpack[AnswerArguments],
    ) -> Answers:
        """One answer or error per question, in order; one failure does not lose the others.

        Equal questions are asked once, unless the temperature is above zero. Single questions have
        priority over those of a batch. See `ask` for the arguments.

        Args:
            progress: called on the event loop whenever a question has been answered.
        """
        filters, options = resolve_arguments(**arguments)
        wanted = [q if isinstance(q, Query) else Query(q, k, filters) for q in questions]
        settings = self._settings.generate
        temperature = settings.temperature if options.temperature is None else options.temperature
        alike = not temperature or settings.coalesce_sampled

        async def answer(number: int) -> Answer:
            return await self.ask(wanted[number], options=options)

        first: dict[object, int] = {}
        keys = [
            first.setdefault((repr(query), id(query.vector)) if alike else at, at)
            for at, query in enumerate(wanted)
        ]
        return await run_batch(keys, answer, parallel=self._resources.parallel, progress=progress)

    # -- contents ---------------------------------------------------------------------------

    async def get(self, id: str) -> Document | None:  # noqa: A002 (public)
        """The document with this id."""
        return await asyncio.to_thread(self.corpus.store.document, id)

    async def list(self, *, limit: int = -1, offset: int = 0) -> Listing:
        """Documents without their text, each with its number of chunks."""
        return await asyncio.to_thread(self.corpus.store.documents, limit=limit, offset=offset)

    async def chunks(self, id: str) -> Chunks:  # noqa: A002 (public)
        """A document's chunks in reading order."""
        return await asyncio.to_thread(self.corpus.store.chunks_of, id)

    async def info(self) -> CollectionInfo:
        """The collection's identity and size."""
        return await asyncio.to_thread(self.corpus.store.info)

    async def decisions(self, *, limit: int = 100) -> Decisions:
        """What was chosen for this collection and why, the newest first."""
        return await asyncio.to_thread(lambda: self._operations.decisions(limit=limit))

    def record(self, decision: Decision) -> None:
        """Record a decision with the others; any thread may call. Never raises."""
        self._operations.record(decision)

    def snapshot(self) -> CandidateSource:
        """The state searched now, for measuring its stages one by one. Its methods block."""
        return self.corpus.snapshot()

    # -- tuning -----------------------------------------------------------------------------

    @property
    def plan(self) -> Plan | None:
        """Which index is searched and how; None before any tuning, when the defaults hold.

        Its family is empty where only the stages were chosen.
        """
        stored = self.stored_plan
        return stored.plan if stored is not None else None

    @property
    def stored_plan(self) -> StoredPlan | None:
        """The plan with the objective it was made for and the workload it was measured on."""
        return self.corpus.stored_plan

    @property
    def stages(self) -> Stages:
        """What a search does after its candidates: the plan's stages, else the settings'."""
        return in_force(self._settings.search, self.corpus.stored_plan)

    def recall(self) -> Recall:
        """Recall@10 of the newest live questions that were answered again exactly."""
        return self.tuning.recall()

    async def tune(
        self,
        objective: Objective | None = None,
        *,
        budget_seconds: float | None = None,
        apply: bool = True,
        families: Sequence[str] | None = None,
        progress: OnUpkeep | None = None,
    ) -> Tuning:
        """Find the index that meets the objective at the least CPU per question, and use it.

        Judged by exact search over every chunk, on the logged questions, or while there are few, on
        questions made from the chunks. Searches go on meanwhile. Cancelling it (once) ends the
        race, and returns and applies the best so far.

        Args:
            objective: the settings' (`tune.recall`, ...) by default.
            apply: without it, the collection does not change; a tuning that was ended before it
                compared anything (`Tuning.conclusive`) is not applied either.
            families: the families that may be chosen; all by default.
            progress: called on the event loop.

        Raises:
            BadInput: there is nothing to tune, an objective outside its range, no such family.
            InfeasibleObjective: nothing that was tried meets it; carries the nearest `Tuning`.
            CollectionLocked: to apply it, and another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        await asyncio.to_thread(self.query_log.flush)
        return await self.tuning.tune(
            objective,
            budget_seconds=budget_seconds,
            apply=apply,
            families=families,
            progress=progress,
        )

    async def tune_quality(
        self,
        qrels: str | Path | None = None,
        *,
        apply: bool = True,
        progress: OnUpkeep | None = None,
    ) -> Quality:
        """Find the fusion, widths and rerank that give the best passages, and add them to the plan.

        Judged by nDCG@10 on your own labels, or without any on questions made from the corpus. The
        stages in force stay unless others are clearly better. No index is built or changed.

        Args:
            qrels: `qrels.tsv` (query_id, doc_id, rel) with `queries.jsonl` beside it, or a folder
                with both.
            apply: without it, the collection does not change.
            progress: called on the event loop.

        Raises:
            BadInput: there is nothing to judge by, or a file cannot be read.
            CollectionLocked: to apply it, and another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        with self._in_flight():
            path = Path(qrels) if qrels is not None else None
            found = await self._quality.tune(path, apply=apply, progress=progress)
            if apply and found.reranker is not None:
                self.searcher = self._make_searcher()
            return found

    # -- upkeep -----------------------------------------------------------------------------

    async def verify(self, *, progress: OnUpkeep | None = None) -> Findings:
        """Check every file against its checksums and against the store; nothing is changed."""
        return await self.upkeep.verify(progress)

    async def rebuild(self, *, reembed: bool = False, progress: OnUpkeep | None = None) -> None:
        """Rebuild every index from the store, with `reembed` after every vector.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        if reembed:
            await self.upkeep.reembed(progress, tokens=self._settings.embed.tokens)
        await self.upkeep.rebuild(progress)
        if self._resources.caching.memory is not None:
            self.warming = asyncio.create_task(self.warm())

    async def compact(self, *, progress: OnUpkeep | None = None) -> None:
        """Merge every index into one segment without removed rows; raises as `rebuild` does."""
        await self.upkeep.compact(progress)

    async def warm(self, limit: int = 100) -> WarmingReport:
        """Search again for the most frequent logged questions, in background, without logging.

        Raises:
            StoreError: the log cannot be read.
        """
        with self._in_flight():
            logged = await asyncio.to_thread(self._logged)
            return await warm(self.searcher, logged, limit)

    async def question_counts(self) -> QuestionCounts:
        """How many logged questions are repetitions."""
        logged = await asyncio.to_thread(self._logged)
        return QuestionCounts(logged.total(), len(logged))

    async def close(self) -> None:
        """Wait for searches in flight, write what waits, release the files. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self.warming is not None:
            self.warming.cancel()
        await self._idle.wait()
        await self.tuning.close()
        await self.answerer.close()
        if self._flushing is not None:
            await self._flushing
        await asyncio.to_thread(self._close)

    # -- inside -----------------------------------------------------------------------------

    def _make_searcher(self) -> Searcher:
        return self._resources.searcher(
            self.corpus, self.trace, self.tuning.watch, self._throttle.observe
        )

    def _pipeline(self) -> Pipeline:
        embedder = self._resources.embedder
        count = embedder.count_tokens
        return Pipeline(
            self.corpus.store,
            self._writer,
            embedder,
            count,
            self._settings,
            self._throttle,
            self.corpus.executor,
        )

    async def _add_chunks(
        self, chunks: Sequence[Chunk], vectors: NDArray[np.floating[Any]] | None
    ) -> IngestReport:
        store, embedder = self.corpus.store, self._resources.embedder
        changes, embedded = await prepared_chunks.changes(
            chunks,
            vectors,
            embedder,
            self.corpus.executor,
            store.metric,
            tokens=self._settings.embed.tokens,
        )
        if not changes:
            return IngestReport(epoch=store.epoch())
        async with self._writer.session():
            epoch = await self._writer.apply(changes)
        return IngestReport(
            documents=len(changes), chunks=len(chunks), embedded=embedded, epoch=epoch
        )

    def _log(self, query: Query, result: SearchResult, seconds: float) -> None:
        self.trace.observe("search", seconds)
        full = self.query_log.record(query, result, seconds)
        if full and (self._flushing is None or self._flushing.done()):
            self._flushing = asyncio.create_task(asyncio.to_thread(self.query_log.flush))

    def _logged(self) -> LoggedQuestions:
        rows = self.corpus.store.queries(limit=_WARMING_LOG)
        return Counter((text, k) for _, text, k, _, _, _ in rows if text.strip())

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        """Closing waits for the block, and raises at entry once closing has begun."""
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
            self.query_log.flush()
        finally:
            try:
                self._writer.close()
            finally:
                self.corpus.close()
                self._operations.close()
