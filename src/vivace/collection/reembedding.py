"""A collection's chunks through another embedder; its sources need not exist any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from vivace.collection import passages
from vivace.ingest.chunking import indexed_text
from vivace.protocols import Embedder
from vivace.run.work import Priority, work_context
from vivace.store.connections import WriteLock
from vivace.store.operations import Operations
from vivace.store.reembed import Reembedding
from vivace.trace import Trace
from vivace.types import Chunk, Decision, OnUpkeep, UpkeepProgress

_BATCH = 512
"""Chunks a durable step: what an interruption loses."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reembedded:
    """What a re-embedding did; `embedded` leaves out what an interrupted one had done before."""

    chunks: int
    embedded: int
    epoch: int
    decision: Decision


async def reembed(
    folder: Path,
    embedder: Embedder,
    *,
    tokens: passages.Kept = "off",
    progress: OnUpkeep | None = None,
    locked: bool = False,
) -> Reembedded:
    """Give every chunk of the collection in `folder` a vector of `embedder`, and swap them in.

    Of the tokens' vectors `tokens` is kept, where the embedder has some; what was kept goes.

    Until the swap the collection stays as it was and can be searched by processes with its old
    embedder, not written. Cancelled or killed, the next call goes on where this one was.

    Args:
        locked: the caller holds the collection's write lock.

    Raises:
        CollectionNotFound: there is none.
        CollectionLocked: another process is writing.
        StoreUnwritable: the folder cannot be written, or the disk is full.
        EmbeddingError: the embedder failed; what it has embedded is kept.
    """
    lock = WriteLock(folder)
    tokens = passages.kept(embedder, tokens)
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
                done = await _through(work, embedder, tokens, progress or (lambda _: None))
        finally:
            await asyncio.shield(asyncio.to_thread(work.close))
    finally:
        lock.release()
    operations = Operations(folder, Trace())
    await asyncio.to_thread(operations.record, done.decision)
    operations.close()
    return done


async def _through(
    work: Reembedding, embedder: Embedder, tokens: passages.Kept, progress: OnUpkeep
) -> Reembedded:
    embedded, epoch = 0, None
    progress(UpkeepProgress("embed", work.done, work.total))
    while epoch is None:
        while chunks := await _finished(asyncio.to_thread(work.missing, _BATCH)):
            texts = [_text(*item) for item in chunks]
            found = await passages.embed(embedder, texts, tokens)
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
        "The collection was to be embedded anew.",
        evidence={"chunks": work.total, "embedded": embedded, "epoch": epoch},
    )
    return Reembedded(work.total, embedded, epoch, decision)


async def _finished(work: Awaitable[T], undo: Callable[[T], None] | None = None) -> T:
    """The result; a cancellation is passed on only once the work is done, and undone.

    Nothing is left running behind a cancellation: what the work uses is about to be closed.
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
    if folder.is_dir():  # else opening says that there is no collection
        lock.acquire()


def _text(chunk: Chunk, title_indexed: bool) -> str:
    return indexed_text(chunk, index_title=title_indexed)
