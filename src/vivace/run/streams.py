"""Asynchronous iterators that end when their user is done, not when the garbage is collected."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

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
        if isinstance(items, AsyncGenerator):
            await items.aclose()
