"""Iterators that end when their user is done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from vivace.run.streams import LazyStream, closing


class Counted:
    """An asynchronous generator that says whether it was begun and ended."""

    def __init__(self) -> None:
        self.begun = self.ended = False

    async def items(self) -> AsyncIterator[int]:
        self.begun = True
        try:
            for number in range(3):
                yield number
        finally:
            self.ended = True

    async def begin(self) -> AsyncIterator[int]:
        return self.items()


async def test_a_lazy_stream_yields_every_item_and_ends() -> None:
    counted = Counted()
    assert [item async for item in LazyStream(counted.begin)] == [0, 1, 2]
    assert counted.ended


async def test_leaving_early_ends_the_inner_iterator() -> None:
    counted = Counted()
    async with aclosing(LazyStream(counted.begin)) as items:
        assert await anext(items) == 0
        assert not counted.ended
    assert counted.ended
    again = Counted()
    async with closing(LazyStream(again.begin)) as others:
        async for _ in others:
            break
    assert again.ended


async def test_a_stream_closed_before_its_first_item_begins_nothing() -> None:
    counted = Counted()
    items = LazyStream(counted.begin)
    await items.aclose()
    assert [item async for item in items] == []
    assert not counted.begun
    await items.aclose()


async def test_a_stream_that_fails_to_begin_raises_at_its_first_item() -> None:
    async def fails() -> AsyncIterator[int]:
        raise ValueError("no")

    items = LazyStream(fails)
    with pytest.raises(ValueError, match="no"):
        await anext(items)
    await items.aclose()
