"""Asynchronous iterators that end when their user is done, not when the garbage is collected."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, Self, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close the iterator at the end of the block, where it is one that can be closed.

    An `async for` that is left early leaves its generator suspended; its `finally` blocks, which
    close connections, would run some time later in a task of the garbage collector's.
    """
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator | LazyStream):
            await items.aclose()


class LazyStream(Generic[T]):
    """The items of an iterator that has to be waited for before there is one.

    After the first item it costs a plain call an item: a generator that passes on what another one
    yields has a frame of its own resumed twice for each.
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
        """End the iterator, where one was begun. Idempotent."""
        self._closed = True
        if isinstance(self._items, AsyncGenerator | LazyStream):
            await self._items.aclose()
