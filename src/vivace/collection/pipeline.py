"""Ingests documents in overlapping windows: reads and chunks, embeds, commits.

While questions arrive it yields to them: it reads, embeds and commits on threads of lowered
priority, in windows that shrink while questions are slow. Committed documents stay: an ingest that
was cancelled or killed and is run again skips them as unchanged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vivace.collection.preparation import Preparation, Prepared, Source, Window
from vivace.collection.writer import Writer
from vivace.embed.passages import EmbeddedPassages, embed_passages
from vivace.protocols import Embedder, TokenCounter
from vivace.run.background import BackgroundExecutor, IngestThrottle
from vivace.run.work import Priority, work_context
from vivace.settings import Settings
from vivace.store.store import Store
from vivace.store.transaction import NewChunk, Put, Remove, VectorGone
from vivace.types import Failure, IngestProgress, IngestReport, OnIngest, Skipped

_WINDOWS = 3
"""Windows in flight: one is committed, one embedded, one waits so that no embedder idles."""


class Pipeline:
    """Brings sources into a collection, once. Every window is acknowledged when it is durable.

    Args:
        count: counts tokens as the embedder does.
        throttle: sets the number of chunks per window.
        executor: runs reading and chunking.
    """

    def __init__(
        self,
        store: Store,
        writer: Writer,
        embedder: Embedder,
        count: TokenCounter,
        settings: Settings,
        throttle: IngestThrottle,
        executor: BackgroundExecutor,
    ) -> None:
        self._store = store
        self._writer = writer
        self._embedder = embedder
        self._count = count
        self._settings = settings
        self._throttle = throttle
        self._executor = executor
        self._titles = settings.ingest.index_title
        self._done = IngestProgress()
        self._embedded = self._epoch = 0
        self._seen: set[str] = set()
        self._skipped: list[Skipped] = []
        self._failures: list[Failure] = []

    async def run(
        self,
        sources: Iterable[Source],
        *,
        prune: Sequence[Path] = (),
        progress: OnIngest | None = None,
    ) -> IngestReport:
        """Ingest everything `sources` yields, then remove documents gone from below `prune`.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the disk is full or read-only; what was acknowledged stays.
            EmbeddingError: the embedder failed; what was acknowledged stays.
        """
        start = time.monotonic()
        async with self._writer.session():
            with work_context(Priority.INGEST):
                try:
                    await self._ingest(sources, progress or (lambda _: None))
                except BaseExceptionGroup as failed:
                    raise _first(failed) from None
            gone = await asyncio.to_thread(self._gone, prune) if prune else []
            if gone:
                self._epoch = await self._writer.apply([Remove(name) for name in gone])
        return IngestReport(
            documents=self._done.documents,
            chunks=self._done.chunks,
            unchanged=self._done.unchanged,
            removed=len(gone),
            embedded=self._embedded,
            skipped=tuple(self._skipped),
            errors=tuple(self._failures),
            epoch=self._epoch or self._store.epoch(),
            seconds=time.monotonic() - start,
        )

    async def _ingest(self, sources: Iterable[Source], progress: OnIngest) -> None:
        preparation = Preparation(sources, self._store, self._count, self._settings)
        slots = asyncio.Semaphore(_WINDOWS)

        async def ingest(window: Window, before: asyncio.Task[None] | None) -> None:
            embedded = await self._embed(window.prepared)
            if before is not None:
                await before  # of two versions of a document, the one read last must win
            await self._commit(window.prepared, embedded)
            preparation.committed(window)
            slots.release()
            self._note(window)
            progress(self._done)

        async with asyncio.TaskGroup() as group:
            before: asyncio.Task[None] | None = None
            while True:
                await slots.acquire()
                window = await self._executor.run(preparation.next_window, self._throttle.size())
                if window is None:
                    break
                before = group.create_task(ingest(window, before))

    async def _embed(self, prepared: Sequence[Prepared]) -> EmbeddedPassages:
        texts = [text for item in prepared for text in item.texts]
        if not texts:
            return EmbeddedPassages(np.empty((0, self._embedder.dim), np.float32), ())
        return await embed_passages(self._embedder, texts, self._settings.embed.tokens)

    async def _commit(self, prepared: Sequence[Prepared], embedded: EmbeddedPassages) -> None:
        if not prepared:
            return
        try:
            self._epoch = await self._writer.apply(_puts(prepared, embedded, self._titles))
        except VectorGone:
            # another writer removed a chunk whose vector was to be kept: embed every chunk
            prepared = [item.whole(self._titles) for item in prepared]
            embedded = await self._embed(prepared)
            self._epoch = await self._writer.apply(_puts(prepared, embedded, self._titles))
        self._embedded += len(embedded.vectors)

    def _note(self, window: Window) -> None:
        self._done = IngestProgress(
            read=self._done.read + window.read,
            documents=self._done.documents + len(window.prepared),
            chunks=self._done.chunks + window.chunks,
            unchanged=self._done.unchanged + len(window.unchanged),
            failed=self._done.failed + len(window.failures),
            source=window.last or self._done.source,
        )
        self._seen.update(window.unchanged, (p.document.id for p in window.prepared))
        self._skipped += window.skipped
        self._failures += window.failures

    def _gone(self, roots: Sequence[Path]) -> list[str]:
        """Documents below the roots that were not seen, though their files could be read."""
        failed = {failure.source for failure in self._failures}
        # a line of JSON Lines fails as FILE:LINE
        failed |= {source.rpartition(":")[0] for source in failed}
        gone: dict[str, None] = {}
        for root in roots:
            for document_id, source in self._store.under(root.as_posix()):
                if document_id not in self._seen and not _unread(source, failed):
                    gone[document_id] = None
        return list(gone)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of a group: it cancelled the other windows, or they failed alike."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _unread(source: str, failed: set[str]) -> bool:
    """Whether a file, or a folder above it, could not be read: then it may still exist."""
    return source in failed or any(parent.as_posix() in failed for parent in Path(source).parents)


def _puts(
    prepared: Sequence[Prepared], embedded: EmbeddedPassages, title_indexed: bool
) -> list[Put]:
    """Changes with their vectors; `embedded` has those of the missing chunks, in order."""
    halves = embedded.vectors.astype(np.float16)
    changes, at = [], 0
    for item in prepared:
        here = slice(at, at + len(item.missing))
        vectors = dict(zip(item.missing, halves[here], strict=True))
        signs = dict(zip(item.missing, embedded.signs[here], strict=True))
        at += len(item.missing)
        chunks = tuple(
            NewChunk(chunk, digest, vectors.get(place), signs.get(place))
            for place, (chunk, digest) in enumerate(zip(item.chunks, item.hashes, strict=True))
        )
        changes.append(Put(item.document, item.fingerprint, chunks, title_indexed))
    return changes
