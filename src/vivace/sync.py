"""The blocking facade: the methods of a `Collection`, run on an event loop in its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from vivace.collection.plan_state import StoredPlan
from vivace.collection.upkeep import Reembedded
from vivace.engine import Collection, Engine
from vivace.errors import StoreError
from vivace.run.streams import closing
from vivace.tune.metrics import Recall
from vivace.types import OnUpkeep, Plan

P = ParamSpec("P")
T = TypeVar("T")
Owner = TypeVar("Owner")


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


def _blocking(
    owner: Callable[[BlockingCollection], Owner],
    method: Callable[Concatenate[Owner, P], Coroutine[Any, Any, T]],
    *,
    keep: bool = False,
) -> Callable[Concatenate[BlockingCollection, P], T]:
    """The method of the owner as one that blocks; `keep` as in `Loop.run`."""

    @wraps(method)
    def call(self: BlockingCollection, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.loop.run(method(owner(self), *args, **kwargs), keep=keep)

    return call


def _iterating(
    method: Callable[Concatenate[Collection, P], AsyncIterator[T]],
) -> Callable[Concatenate[BlockingCollection, P], Iterator[T]]:
    """The method as one whose iterator blocks."""

    @wraps(method)
    def call(self: BlockingCollection, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self.loop.iterate(method(self.collection, *args, **kwargs))

    return call


def _collection(docs: BlockingCollection) -> Collection:
    return docs.collection


def _engine(docs: BlockingCollection) -> Engine:
    return docs.engine


class BlockingCollection:
    """A collection whose methods block. Made by `vivace.open`.

    The methods take the arguments of those of `Collection` and raise the same errors. Callbacks run
    on the loop's thread, from which no blocking method may be called.
    """

    def __init__(self, loop: Loop, engine: Engine, collection: Collection) -> None:
        self.loop = loop
        self.engine = engine
        self.collection = collection
        """The asynchronous collection; its coroutines run on `loop`."""
        self._closed = False

    ingest = _blocking(_collection, Collection.ingest)
    add = _blocking(_collection, Collection.add)
    delete = _blocking(_collection, Collection.delete)

    search = _blocking(_collection, Collection.search)
    search_many = _blocking(_collection, Collection.search_many)
    passages = _blocking(_collection, Collection.passages)
    ask = _blocking(_collection, Collection.ask)
    stream = _iterating(Collection.stream)
    answer_many = _blocking(_collection, Collection.answer_many)
    generate_many = _blocking(_engine, Engine.generate_many)

    get = _blocking(_collection, Collection.get)
    list = _blocking(_collection, Collection.list)
    chunks = _blocking(_collection, Collection.chunks)
    info = _blocking(_collection, Collection.info)
    decisions = _blocking(_collection, Collection.decisions)

    # Ctrl-C (once) ends a tuning with the best so far
    tune = _blocking(_collection, Collection.tune, keep=True)
    tune_quality = _blocking(_collection, Collection.tune_quality)

    verify = _blocking(_collection, Collection.verify)
    rebuild = _blocking(_collection, Collection.rebuild)
    compact = _blocking(_collection, Collection.compact)

    @property
    def plan(self) -> Plan | None:
        """See `Collection.plan`."""
        return self.collection.plan

    @property
    def stored_plan(self) -> StoredPlan | None:
        """See `Collection.stored_plan`."""
        return self.collection.stored_plan

    def recall(self) -> Recall:
        """See `Collection.recall`."""
        return self.collection.recall()

    def close(self) -> None:
        """Write what waits and stop every thread. Idempotent."""
        if not self._closed:
            self._closed = True
            self.loop.run(self.engine.close())
            self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open(  # noqa: A001 (public)
    name: str | Path = "default", *, create: bool = True, **settings: Any
) -> BlockingCollection:
    """Open a collection for blocking use.

    Keyword arguments are settings, such as `embed__workers=1`, and the parts that `Engine` takes:
    `embedder`, `generator`, `reranker`, `readers`.

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
    name: str | Path = "default", *, progress: OnUpkeep | None = None, **settings: Any
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
