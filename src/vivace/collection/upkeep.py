"""Slow work on whole collections: verifying, rebuilding, compacting and re-embedding them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from vivace.collection.corpus import Corpus
from vivace.collection.writer import Writer
from vivace.embed.passages import KeptTokens, available_tokens, embed_passages
from vivace.ingest.chunking import indexed_text
from vivace.protocols import Embedder
from vivace.run.background import BackgroundExecutor
from vivace.run.work import Priority, work_context
from vivace.store.connections import WriteLock
from vivace.store.operations import FILE, Operations
from vivace.store.reembed import Reembedding
from vivace.trace import Trace
from vivace.types import Decision, Finding, OnUpkeep, UpkeepProgress

_BATCH = 512
"""Chunks embedded between two durable steps: what an interruption loses."""
T = TypeVar("T")


class Stopped(Exception):
    """The caller was cancelled: raised through the work's progress, between two steps."""


@dataclass(frozen=True, slots=True)
class Reembedded:
    """What a re-embedding did; `embedded` excludes what an interrupted call had done before."""

    chunks: int
    embedded: int
    epoch: int
    decision: Decision


class Upkeep:
    """Runs such work while the collection is searched, each call on a thread of its own.

    A cancelled call stops between two steps; every finished step is kept. `progress` is called on
    the event loop.
    """

    def __init__(
        self, corpus: Corpus, operations: Operations, writer: Writer, embedder: Embedder
    ) -> None:
        self._corpus = corpus
        self._writer = writer
        self._embedder = embedder
        self._operations = operations

    async def verify(self, progress: OnUpkeep | None) -> list[Finding]:
        """See `Collection.verify`."""

        def verify(step: OnUpkeep) -> list[Finding]:
            bad = [
                Finding(FILE, what, "It is replaced by an empty one")
                for what in self._operations.verify()
            ]
            # damage that opening the collection has repaired is reported, too
            mended = [
                Finding(str(decision.before), decision.reason.rstrip("."), "It has been rebuilt")
                for decision in self._operations.mended
            ]
            return [*self._corpus.verify(step), *bad, *mended]

        return await stepping(verify, progress)

    async def reembed(self, progress: OnUpkeep | None, *, tokens: KeptTokens = "off") -> Reembedded:
        """See `Engine.reembed`; this process may write to the collection meanwhile."""
        async with self._writer.session():
            return await reembed(
                self._corpus.folder, self._embedder, tokens=tokens, progress=progress, locked=True
            )

    async def rebuild(self, progress: OnUpkeep | None) -> None:
        """See `Collection.rebuild`."""
        await stepping(self._corpus.rebuild, progress)

    async def compact(self, progress: OnUpkeep | None) -> None:
        """See `Collection.compact`."""
        await stepping(self._corpus.compact, progress)


async def stepping(
    work: Callable[[OnUpkeep], T],
    progress: OnUpkeep | None,
    *,
    executor: BackgroundExecutor | None = None,
) -> T:
    """Run `work` on a thread, as background work, until it ends or the caller is cancelled.

    With an `executor` it runs at lowered priority, even while the foreground is idle.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def step(now: UpkeepProgress) -> None:
        if stop.is_set():
            raise Stopped
        if progress is not None:
            loop.call_soon_threadsafe(progress, now)

    with work_context(Priority.BACKGROUND):
        task: asyncio.Future[T]
        if executor is None:
            task = asyncio.ensure_future(asyncio.to_thread(work, step))
        else:
            task = asyncio.wrap_future(executor.submit(copy_context().run, work, step))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        task.exception()  # `Stopped`, or a failure that no caller awaits any more
        raise


async def reembed(
    folder: Path,
    embedder: Embedder,
    *,
    tokens: KeptTokens = "off",
    progress: OnUpkeep | None = None,
    locked: bool = False,
) -> Reembedded:
    """Replace the vector of every chunk of the collection in `folder` by one of `embedder`.

    The token signs are replaced as well: `tokens` says what is kept, if the embedder has token
    vectors. The documents' sources are not needed.

    The new vectors replace the old ones at once, at the end. Until then processes with the old
    embedder can search the collection, but not write to it. After a cancellation or a crash the
    next call continues where this one was.

    Args:
        locked: the caller holds the collection's write lock.

    Raises:
        CollectionNotFound: there is none.
        CollectionLocked: another process is writing.
        StoreUnwritable: the folder cannot be written, or the disk is full.
        EmbeddingError: the embedder failed; what it has embedded is kept.
    """
    lock = WriteLock(folder)
    tokens = available_tokens(embedder, tokens)
    try:
        if not locked:
            await _finished(asyncio.to_thread(_acquire, lock, folder))
        work = await _finished(
            asyncio.to_thread(
                Reembedding.open, folder, embedder=embedder.name, dim=embedder.dim, tokens=tokens
            ),
            undo=Reembedding.close,
        )
        try:
            with work_context(Priority.INGEST):
                done = await _embed_all(work, embedder, tokens, progress or (lambda _: None))
        finally:
            await asyncio.shield(asyncio.to_thread(work.close))
    finally:
        lock.release()
    operations = Operations(folder, Trace())
    await asyncio.to_thread(operations.record, done.decision)
    operations.close()
    return done


async def _embed_all(
    work: Reembedding, embedder: Embedder, tokens: KeptTokens, progress: OnUpkeep
) -> Reembedded:
    embedded, epoch = 0, None
    progress(UpkeepProgress("embed", work.done, work.total))
    while epoch is None:
        while chunks := await _finished(asyncio.to_thread(work.missing, _BATCH)):
            texts = [indexed_text(chunk, index_title=titled) for chunk, titled in chunks]
            found = await embed_passages(embedder, texts, tokens)
            halves = found.vectors.astype(np.float16)
            ids = np.array([chunk.id for chunk, _ in chunks], np.int64)
            await _finished(asyncio.to_thread(work.add, ids, halves, found.signs))
            embedded += len(chunks)
            progress(UpkeepProgress("embed", work.done, work.total))
        progress(UpkeepProgress("swap", 0, 1))
        epoch = await _finished(asyncio.to_thread(work.swap))
    progress(UpkeepProgress("swap", 1, 1))
    name, dim = work.was
    decision = Decision(
        "reembed",
        {"embedder": name, "dim": dim},
        {"embedder": embedder.name, "dim": embedder.dim},
        "The collection was to be re-embedded.",
        evidence={"chunks": work.total, "embedded": embedded, "epoch": epoch},
    )
    return Reembedded(work.total, embedded, epoch, decision)


async def _finished(work: Awaitable[T], undo: Callable[[T], None] | None = None) -> T:
    """The result of `work`, which also finishes when the caller is cancelled.

    A cancellation is raised only then, after `undo`: what the work uses is about to be closed.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if undo is not None and not task.cancelled() and task.exception() is None:
            undo(task.result())
        raise


def _acquire(lock: WriteLock, folder: Path) -> None:
    if folder.is_dir():  # otherwise `Reembedding.open` reports that there is no collection
        lock.acquire()
