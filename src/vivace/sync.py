"""The blocking facade: the same methods, run on an event loop of its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from vivace.collection.plan_state import StoredPlan
from vivace.collection.reembedding import Progress as UpkeepProgressed
from vivace.collection.reembedding import Reembedded
from vivace.engine import (
    Chunks,
    Collection,
    Decisions,
    Engine,
    Findings,
    Listing,
)
from vivace.errors import StoreError, VivaceError
from vivace.generate.templates import with_wishes
from vivace.run.streams import closing
from vivace.tune.metrics import Recall
from vivace.tune.quality import Quality
from vivace.tune.tuning import Tuning
from vivace.types import (
    Answer,
    AnswerOptions,
    BatchProgress,
    Chunk,
    CollectionInfo,
    Completion,
    Delta,
    Document,
    IngestProgress,
    IngestReport,
    Message,
    Metadata,
    Objective,
    Passage,
    Plan,
    Query,
    Request,
    SearchResult,
    Vector,
)

T = TypeVar("T")
_DEFAULTS = AnswerOptions()


class Loop:
    """An event loop in a daemon thread; `run` waits for a coroutine from any other thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="vivace-loop", daemon=True
        )
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], *, keep: bool = False) -> T:
        """The coroutine's result; an interrupt (Ctrl-C) cancels it and waits for its clean-up.

        Args:
            keep: what it returns all the same when it is interrupted is the result.

        Raises:
            StoreError: the loop has been closed, or this is its own thread, which would deadlock.
        """
        if self._closed or threading.current_thread() is self._thread:
            coroutine.close()
            raise StoreError(
                "the collection is closed" if self._closed else "called from its own callback",
                fix="Open it again" if self._closed else "Use the asynchronous Collection there",
            )
        done = threading.Event()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            tasks.append(self._loop.create_task(coroutine))
            tasks[0].add_done_callback(lambda _: done.set())

        self._loop.call_soon_threadsafe(start)
        try:
            done.wait()
        except BaseException:
            self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            done.wait()
            if keep and not tasks[0].cancelled():
                return tasks[0].result()
            raise
        return tasks[0].result()

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """The items of an asynchronous iterator, each awaited when it is asked for."""
        try:
            while True:
                try:
                    yield self.run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            if not self._closed:  # else whatever ran on it has ended with it
                self.run(_close(items))

    def close(self) -> None:
        self.run(self._loop.shutdown_default_executor())
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def _close(items: AsyncIterator[T]) -> None:
    async with closing(items):
        pass


class BlockingCollection:
    """A collection whose methods block. Made by `vivace.open`; see `Collection` for each method."""

    def __init__(self, loop: Loop, engine: Engine, collection: Collection) -> None:
        self._loop = loop
        self._engine = engine
        self._collection = collection
        self._closed = False

    def ingest(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        prune: bool = False,
        progress: Callable[[IngestProgress], None] | None = None,
        password: Callable[[str], str | None] | None = None,
    ) -> IngestReport:
        return self._loop.run(
            self._collection.ingest(paths, prune=prune, progress=progress, password=password)
        )

    def add(
        self,
        items: Sequence[Document] | Sequence[Chunk],
        vectors: NDArray[np.floating[Any]] | None = None,
    ) -> IngestReport:
        return self._loop.run(self._collection.add(items, vectors))

    def delete(self, ids: str | Sequence[str]) -> int:
        return self._loop.run(self._collection.delete(ids))

    def search(
        self,
        text: str | Query,
        k: int = 10,
        *,
        filters: Metadata | None = None,
        min_score: float | None = None,
        vector: Vector | None = None,
    ) -> SearchResult:
        return self._loop.run(
            self._collection.search(text, k, filters=filters, min_score=min_score, vector=vector)
        )

    def search_many(
        self, queries: Sequence[str | Query], k: int = 10
    ) -> list[SearchResult | VivaceError]:
        return self._loop.run(self._collection.search_many(queries, k))

    def passages(self, result: SearchResult, budget_chars: int = 4000) -> tuple[Passage, ...]:
        """The hits as pieces to read, of at most so many characters together."""
        return self._loop.run(self._collection.passages(result, budget_chars))

    def ask(
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
        options = with_wishes(options, template, target_language, messages)
        return self._loop.run(self._collection.ask(question, k=k, filters=filters, options=options))

    def answer_many(
        self,
        questions: Sequence[str | Query],
        k: int = 10,
        *,
        filters: Metadata | None = None,
        options: AnswerOptions = _DEFAULTS,
        template: str = "",
        target_language: str = "",
        progress: Callable[[BatchProgress], None] | None = None,
    ) -> list[Answer | VivaceError]:
        """See `Collection.answer_many`; `progress` is called on the loop's own thread."""
        return self._loop.run(
            self._collection.answer_many(
                questions,
                k,
                filters=filters,
                options=options,
                template=template,
                target_language=target_language,
                progress=progress,
            )
        )

    def generate_many(
        self,
        requests: Sequence[Request],
        *,
        progress: Callable[[BatchProgress], None] | None = None,
    ) -> list[Completion | VivaceError]:
        """See `Engine.generate_many`: of the model alone, without the documents."""
        return self._loop.run(self._engine.generate_many(requests, progress=progress))

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
    ) -> Iterator[Delta]:
        options = with_wishes(options, template, target_language, messages)
        return self._loop.iterate(
            self._collection.stream(question, k=k, filters=filters, options=options)
        )

    def get(self, id: str) -> Document | None:
        return self._loop.run(self._collection.get(id))

    def list(self, *, limit: int = -1, offset: int = 0) -> Listing:
        return self._loop.run(self._collection.list(limit=limit, offset=offset))

    def chunks(self, id: str) -> Chunks:
        return self._loop.run(self._collection.chunks(id))

    def info(self) -> CollectionInfo:
        return self._loop.run(self._collection.info())

    def decisions(self, *, limit: int = 100) -> Decisions:
        return self._loop.run(self._collection.decisions(limit=limit))

    @property
    def plan(self) -> Plan | None:
        return self._collection.plan

    @property
    def stored_plan(self) -> StoredPlan | None:
        return self._collection.stored_plan

    def recall(self) -> Recall:
        return self._collection.recall()

    def tune(
        self,
        objective: Objective | None = None,
        *,
        budget_seconds: float | None = None,
        apply: bool = True,
        families: Sequence[str] | None = None,
        progress: UpkeepProgressed | None = None,
    ) -> Tuning:
        """See `Collection.tune`; Ctrl-C (once) ends it with the best so far."""
        tuning = self._collection.tune(
            objective,
            budget_seconds=budget_seconds,
            apply=apply,
            families=families,
            progress=progress,
        )
        return self._loop.run(tuning, keep=True)

    def tune_quality(
        self,
        qrels: str | Path | None = None,
        *,
        apply: bool = True,
        progress: UpkeepProgressed | None = None,
    ) -> Quality:
        """See `Collection.tune_quality`."""
        return self._loop.run(self._collection.tune_quality(qrels, apply=apply, progress=progress))

    def verify(self, *, progress: UpkeepProgressed | None = None) -> Findings:
        return self._loop.run(self._collection.verify(progress=progress))

    def rebuild(self, *, reembed: bool = False, progress: UpkeepProgressed | None = None) -> None:
        self._loop.run(self._collection.rebuild(reembed=reembed, progress=progress))

    def compact(self, *, progress: UpkeepProgressed | None = None) -> None:
        self._loop.run(self._collection.compact(progress=progress))

    def close(self) -> None:
        """Write what waits and stop every thread. Idempotent."""
        if not self._closed:
            self._closed = True
            self._loop.run(self._engine.close())
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(
    name: str | Path = "default", *, create: bool = True, **settings: Any
) -> BlockingCollection:
    """Open a collection for blocking use; settings as keyword arguments, e.g. `embed__workers=1`.

    Raises:
        BadSettings, CollectionNotFound, EmbedderMismatch: see `Engine`.
    """
    engine = Engine(**settings)
    loop = Loop()
    try:
        return BlockingCollection(loop, engine, loop.run(engine.open(name, create=create)))
    except BaseException:
        loop.run(engine.close())
        loop.close()
        raise


def reembed(
    name: str | Path = "default", *, progress: UpkeepProgressed | None = None, **settings: Any
) -> Reembedded:
    """Give every chunk of a collection a vector of another embedder: `embed__model="..."`.

    Raises:
        BadSettings, CollectionNotFound, CollectionLocked, EmbeddingError: see `Engine.reembed`.
    """
    engine = Engine(**settings)
    loop = Loop()
    try:
        return loop.run(engine.reembed(name, progress=progress))
    finally:
        loop.run(engine.close())
        loop.close()
