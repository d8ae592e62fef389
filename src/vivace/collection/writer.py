"""One thread that writes; concurrent callers share its transactions."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from vivace.collection.corpus import Corpus
from vivace.errors import BadInput, StoreError
from vivace.run.background import short_switch_interval, stepping_back
from vivace.store.changes import Change, VectorGone

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


T = TypeVar("T", _Enter, _Leave, _Apply)
_Item: TypeAlias = _Enter | _Leave | _Apply | None


class Writer:
    """Applies changes in the order they are submitted, those that wait together in one transaction.

    Group commit: the disk is synced once for all that queued up while it was synced for the last.

    While it is not `quiet` another thread does the work, which gives way: one that has stepped back
    can never step forward, nor can those that it starts.
    """

    def __init__(self, corpus: Corpus, quiet: Callable[[], bool] = lambda: True) -> None:
        self._corpus = corpus
        self._quiet = quiet
        self._queue: queue.SimpleQueue[_Enter | _Leave | _Apply | None] = queue.SimpleQueue()
        self._sessions = 0
        self._session = corpus.writing()
        self._closed = False
        self._submitting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="vivace-writer", daemon=True)
        self._thread.start()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Hold the collection's write lock; sessions of one process share it.

        Raises:
            CollectionLocked: another process is writing.
            StoreUnwritable: the folder cannot be written.
        """
        entering = self._submit(_Enter())
        try:
            await asyncio.wrap_future(entering.done)
            yield
        finally:
            # leaving must happen even when the caller was cancelled; a closed writer has left
            with suppress(StoreError):
                await asyncio.shield(asyncio.wrap_future(self._submit(_Leave(entering)).done))

    async def apply(self, changes: Sequence[Change]) -> int:
        """Make changes durable and findable, inside a session; returns the epoch that shows them.

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
                self._queue.put(None)
        self._thread.join()

    def _submit(self, item: T) -> T:
        with self._submitting:
            if self._closed:
                raise StoreError("the collection is closed", fix="Open it again")
            # under the lock: nothing may come behind the end of the queue, it would wait for ever
            self._queue.put(item)
        return item

    def _run(self) -> None:
        held: _Item = None
        while True:
            held, ended = self._serve(held, gives_way=False)
            if not ended:
                held, ended = self._served_aside(held)
            if ended:
                break
        if self._sessions:
            self._session.__exit__(None, None, None)

    def _served_aside(self, held: _Item) -> tuple[_Item, bool]:
        """As `_serve`, on a thread that gives way."""
        left: list[tuple[_Item, bool]] = []
        serve = stepping_back(lambda: left.append(self._serve(held, gives_way=True)))
        thread = threading.Thread(target=serve, name="vivace-writer-yielding", daemon=True)
        thread.start()
        thread.join()
        return left[0]

    def _serve(self, held: _Item, *, gives_way: bool) -> tuple[_Item, bool]:
        """Do what is submitted until it ends, or is to be done otherwise: returns what is left."""
        while True:
            item = held or self._queue.get()
            held = None
            if item is None:
                return None, True
            if gives_way == self._quiet():
                return item, False
            if isinstance(item, _Enter):
                self._enter(item)
            elif isinstance(item, _Leave):
                self._leave(item)
            else:
                group, held, stop = self._gather(item)
                self._apply_group(group)
                if stop:
                    return None, True

    def _gather(self, first: _Apply) -> tuple[list[_Apply], _Enter | _Leave | None, bool]:
        group, size = [first], len(first.changes)
        while size < _MOST_CHANGES:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if not isinstance(item, _Apply):
                return group, item, item is None
            group.append(item)
            size += len(item.changes)
        return group, None, False

    def _enter(self, item: _Enter) -> None:
        if not item.done.set_running_or_notify_cancel():
            return
        try:
            if self._sessions == 0:
                self._session = self._corpus.writing()
                self._session.__enter__()
            self._sessions += 1
            item.done.set_result(None)
        except Exception as error:  # handed to the caller, whole
            item.done.set_exception(error)

    def _leave(self, item: _Leave) -> None:
        entering = item.entered.done  # settled: it was in the queue before this
        entered = not entering.cancelled() and entering.exception() is None
        self._sessions -= entered
        try:
            if entered and self._sessions == 0:
                self._session.__exit__(None, None, None)
            item.done.set_result(None)
        except Exception as error:  # handed to the caller, whole
            item.done.set_exception(error)

    def _apply_group(self, group: Sequence[_Apply]) -> None:
        waiting = [item for item in group if item.done.set_running_or_notify_cancel()]
        if not waiting:
            return
        try:
            with short_switch_interval:
                committed = self._corpus.apply([c for item in waiting for c in item.changes])
        except (BadInput, VectorGone) as error:
            if len(waiting) > 1:
                # one caller's bad input must not fail the others
                for item in waiting:
                    self._apply_alone(item)
            else:
                waiting[0].done.set_exception(error)
        except Exception as error:  # handed to every caller, whole
            for item in waiting:
                item.done.set_exception(error)
        else:
            for item in waiting:
                item.done.set_result(committed.epoch)

    def _apply_alone(self, item: _Apply) -> None:
        try:
            item.done.set_result(self._corpus.apply(item.changes).epoch)
        except Exception as error:  # handed to the caller, whole
            item.done.set_exception(error)
