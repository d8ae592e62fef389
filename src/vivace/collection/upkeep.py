"""Checking, rebuilding and compacting a collection while it is searched."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar

from vivace.collection.corpus import Corpus
from vivace.collection.passages import Kept
from vivace.collection.reembedding import Reembedded, reembed
from vivace.collection.writer import Writer
from vivace.protocols import Embedder
from vivace.run.background import BackgroundExecutor
from vivace.run.work import Priority, work_context
from vivace.store.operations import FILE, Operations
from vivace.types import Finding, OnUpkeep, UpkeepProgress

T = TypeVar("T")


class Stopped(Exception):
    """Whoever wanted the work has gone: raised through its progress, between two steps."""


class Upkeep:
    """The slow work on whole collections, each call on a thread of its own.

    A cancelled call stops between two steps; what it had done stays whole, as after a crash.
    `progress` is called on the event loop.
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
            bad = [Finding(FILE, what, "It is begun anew") for what in self._operations.verify()]
            # opening has mended what it met: that is no less worth knowing
            mended = [
                Finding(str(decision.before), decision.reason.rstrip("."), "It has been rebuilt")
                for decision in self._operations.mended
            ]
            return [*self._corpus.verify(step), *bad, *mended]

        return await stepping(verify, progress)

    async def reembed(self, progress: OnUpkeep | None, *, tokens: Kept = "off") -> Reembedded:
        """See `Engine.reembed`; this process may go on writing meanwhile."""
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
    """`work` on a thread, as background work, until it is done or the caller is cancelled.

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
        task.exception()  # `Stopped`, or a failure that nobody waits for any more
        raise
