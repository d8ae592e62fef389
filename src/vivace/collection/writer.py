"""The one thread that writes to a collection; concurrent callers share its transactions."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar

from vivace.collection.corpus import Corpus
from vivace.errors import BadInput, StoreError
from vivace.run.background import short_switch_interval
from vivace.store.transaction import Change, VectorGone

_MOST_CHANGES = 4096


@dataclass(slots=True)
class _Enter:
    done: Future[None] = field(default_factory=Future)


@dataclass(slots=True)
class _Leave:
    entered: _Enter
    done: Future[None] = field(default_factory=Future)


@dataclass(slots=True)
class _Apply:
    changes: Sequence[Change]
    done: Future[int] = field(default_factory=Future)


@dataclass(slots=True)
class _Stop:
    """The end of the queue."""


R = TypeVar("R")
T = TypeVar("T", _Enter, _Leave, _Apply)
_Item: TypeAlias = _Enter | _Leave | _Apply | _Stop


class Writer:
    """Applies changes in the order of their submission.

    Changes that wait together share a transaction (group commit): the disk is synced once for all
    that were submitted during the last sync.

    It works on the corpus's executor: at lowered priority while questions arrive, as do the threads
    that such a thread starts.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._sessions = 0
        self._session = corpus.writing()
        self._closed = False
        self._submitting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="vivace-writer", daemon=True)
        self._thread.start()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Hold the collection's write lock; the sessions of this process share it.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        entering = self._submit(_Enter())
        try:
            await asyncio.wrap_future(entering.done)
            yield
        finally:
            # a session ends even if its caller was cancelled; a closed writer has ended it
            with suppress(StoreError):
                await asyncio.shield(asyncio.wrap_future(self._submit(_Leave(entering)).done))

    async def apply(self, changes: Sequence[Change]) -> int:
        """Make changes durable and findable, inside a session; returns their epoch.

        Raises:
            StoreUnwritable: the disk is full or read-only; nothing was changed.
            BadInput: one of these changes cannot be stored; nothing of this call was changed.
        """
        return await asyncio.wrap_future(self._submit(_Apply(changes)).done)

    def close(self) -> None:
        """Finish what was submitted and stop. Idempotent."""
        with self._submitting:
            if not self._closed:
                self._closed = True
                self._queue.put(_Stop())
        self._thread.join()

    def _submit(self, item: T) -> T:
        with self._submitting:
            if self._closed:
                raise StoreError("the collection is closed", fix="Open it again")
            # under the lock: an item behind the end of the queue would wait for ever
            self._queue.put(item)
        return item

    def _run(self) -> None:
        item = self._queue.get()
        while not isinstance(item, _Stop):
            item = self._corpus.executor.call(self._serve, item) or self._queue.get()
        if self._sessions:
            self._session.__exit__(None, None, None)

    def _serve(self, item: _Enter | _Leave | _Apply) -> _Item | None:
        """Process an item; returns the next one if it was already taken from the queue."""
        following: _Item | None = None
        if isinstance(item, _Enter):
            self._enter(item)
        elif isinstance(item, _Leave):
            self._leave(item)
        else:
            group, following = self._gather(item)
            self._apply_group(group)
        return following

    def _gather(self, first: _Apply) -> tuple[list[_Apply], _Item | None]:
        """The changes that wait together, and the item of another kind that follows them."""
        group, size = [first], len(first.changes)
        while size < _MOST_CHANGES:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if not isinstance(item, _Apply):
                return group, item
            group.append(item)
            size += len(item.changes)
        return group, None

    def _enter(self, item: _Enter) -> None:
        if item.done.set_running_or_notify_cancel():
            _settle(item.done, self._open_session)

    def _leave(self, item: _Leave) -> None:
        entering = item.entered.done  # settled: it was in the queue before this
        entered = not entering.cancelled() and entering.exception() is None
        _settle(item.done, self._close_session if entered else lambda: None)

    def _open_session(self) -> None:
        if not self._sessions:
            self._session = self._corpus.writing()
            self._session.__enter__()
        self._sessions += 1

    def _close_session(self) -> None:
        self._sessions -= 1
        if not self._sessions:
            self._session.__exit__(None, None, None)

    def _apply_group(self, group: Sequence[_Apply]) -> None:
        waiting = [item for item in group if item.done.set_running_or_notify_cancel()]
        if not waiting:
            return
        try:
            epoch = self._committed(waiting)
        except (BadInput, VectorGone) as error:
            if len(waiting) == 1:
                waiting[0].done.set_exception(error)
                return
            for item in waiting:  # one caller's bad input must not fail the others
                _settle(item.done, partial(self._committed, [item]))
        except Exception as error:  # every caller gets it
            for item in waiting:
                item.done.set_exception(error)
        else:
            for item in waiting:
                item.done.set_result(epoch)

    def _committed(self, items: Sequence[_Apply]) -> int:
        with short_switch_interval:
            return self._corpus.apply([c for item in items for c in item.changes]).epoch


def _settle(done: Future[R], work: Callable[[], R]) -> None:
    try:
        done.set_result(work())
    except Exception as error:  # the caller gets it
        done.set_exception(error)
