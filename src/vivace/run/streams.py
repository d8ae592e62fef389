"""Asynchronous iterators that are closed by their user, not by the garbage collector."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, Self, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close the iterator at the end of the block, if it can be closed.

    Leaving an `async for` early keeps its generator suspended; its `finally` blocks, which close
    connections, would run some time later, in a task of the garbage collector.
    """
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator | LazyStream):
            await items.aclose()


class LazyStream(Generic[T]):
    """The items of an iterator that `begin` makes when the first item is asked for.

    After that it costs a plain call an item; a generator that forwards another one's items is
    resumed for each of them.
    """

    def __init__(self, begin: Callable[[], Awaitable[AsyncIterator[T]]]) -> None:
        self._begin = begin
        self._items: AsyncIterator[T] | None = None
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[T]:
        if self._items is None:
            return self._first()
        return self._items.__anext__()

    async def _first(self) -> T:
        if self._closed:
            raise StopAsyncIteration
        self._items = await self._begin()
        return await self._items.__anext__()

    async def aclose(self) -> None:
        """Close the iterator, if it was begun. Idempotent."""
        self._closed = True
        if isinstance(self._items, AsyncGenerator | LazyStream):
            await self._items.aclose()
