"""Ingests documents in overlapping windows: reads and chunks, embeds, commits.

While questions arrive it yields to them: it reads, embeds and commits on threads of lowered
priority, in windows that shrink while questions are slow. Committed documents stay: an ingest that
was cancelled or killed and is run again skips them as unchanged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class _Tally:
    progress: IngestProgress = field(default_factory=IngestProgress)
    embedded: int = 0
    removed: int = 0
    epoch: int = 0
    seen: set[str] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of a group: it cancelled the other windows, or they failed alike."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


class Pipeline:
    """Brings sources into a collection. Every window is acknowledged once it is durable.

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
        tally = _Tally()
        async with self._writer.session():
            with work_context(Priority.INGEST):
                await self._windows(sources, tally, progress)
            if prune:
                await self._prune(prune, tally)
        return IngestReport(
            documents=tally.progress.documents,
            chunks=tally.progress.chunks,
            unchanged=tally.progress.unchanged,
            removed=tally.removed,
            embedded=tally.embedded,
            skipped=tuple(tally.skipped),
            errors=tuple(tally.failures),
            epoch=tally.epoch or self._store.epoch(),
            seconds=time.monotonic() - start,
        )

    async def _windows(
        self, sources: Iterable[Source], tally: _Tally, progress: OnIngest | None
    ) -> None:
        try:
            await self._overlapping(sources, tally, progress)
        except BaseExceptionGroup as failed:
            raise _first(failed) from None

    async def _overlapping(
        self, sources: Iterable[Source], tally: _Tally, progress: OnIngest | None
    ) -> None:
        preparation = Preparation(sources, self._store, self._count, self._settings)
        slots = asyncio.Semaphore(_WINDOWS)
        async with asyncio.TaskGroup() as group:
            before: asyncio.Task[None] | None = None
            while True:
                await slots.acquire()
                window = await self._executor.run(preparation.next_window, self._throttle.size())
                if window is None:
                    break
                before = group.create_task(
                    self._window(window, preparation, before, slots, tally, progress)
                )

    async def _window(
        self,
        window: Window,
        preparation: Preparation,
        before: asyncio.Task[None] | None,
        slots: asyncio.Semaphore,
        tally: _Tally,
        progress: OnIngest | None,
    ) -> None:
        prepared = window.prepared
        texts = [text for item in prepared for text in item.texts]
        embedded = await self._embed(texts)
        if before is not None:
            await before  # of two versions of a document, the one read last must win
        if prepared:
            try:
                tally.epoch = await self._writer.apply(_puts(prepared, embedded, self._titles))
            except VectorGone:
                # another writer removed a chunk whose vector was to be kept: embed every chunk
                prepared = [item.whole(self._titles) for item in prepared]
                texts = [text for item in prepared for text in item.texts]
                embedded = await self._embed(texts)
                tally.epoch = await self._writer.apply(_puts(prepared, embedded, self._titles))
        preparation.committed(window)
        slots.release()
        self._count_window(window, tally, len(texts))
        if progress is not None:
            progress(tally.progress)

    async def _embed(self, texts: Sequence[str]) -> EmbeddedPassages:
        if not texts:
            return EmbeddedPassages(np.empty((0, self._embedder.dim), np.float32), ())
        return await embed_passages(self._embedder, texts, self._settings.embed.tokens)

    @property
    def _titles(self) -> bool:
        return self._settings.ingest.index_title

    def _count_window(self, window: Window, tally: _Tally, embedded: int) -> None:
        now = tally.progress
        tally.progress = IngestProgress(
            read=now.read + window.read,
            documents=now.documents + len(window.prepared),
            chunks=now.chunks + window.chunks,
            unchanged=now.unchanged + len(window.unchanged),
            failed=now.failed + len(window.failures),
            source=window.last or now.source,
        )
        tally.embedded += embedded
        tally.seen.update(window.unchanged, (p.document.id for p in window.prepared))
        tally.skipped += window.skipped
        tally.failures += window.failures

    async def _prune(self, roots: Sequence[Path], tally: _Tally) -> None:
        gone = await asyncio.to_thread(self._gone, roots, tally)
        if gone:
            tally.epoch = await self._writer.apply([Remove(document_id) for document_id in gone])
            tally.removed = len(gone)

    def _gone(self, roots: Sequence[Path], tally: _Tally) -> list[str]:
        failed = {failure.source for failure in tally.failures}
        # a line of JSON Lines fails as FILE:LINE
        failed |= {source.rpartition(":")[0] for source in failed}
        gone: dict[str, None] = {}
        for root in roots:
            for document_id, source in self._store.under(root.as_posix()):
                if document_id not in tally.seen and not _unread(source, failed):
                    gone[document_id] = None
        return list(gone)


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
