"""Whose turn is it? By urgency, but whoever waits long has a turn too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from vivace.run.work import Priority

T = TypeVar("T")
PATIENCE: Final = 8
"""Of so many turns one goes to whoever has waited longest, however urgent the others are."""


class Turns(Generic[T]):
    """A queue by priority, first come first served within one, that starves nobody.

    Of n that wait, each has had its turn after at most `PATIENCE` * n turns, whoever comes later.
    """

    def __init__(self) -> None:
        self._queues: dict[Priority, OrderedDict[int, T]] = {p: OrderedDict() for p in Priority}
        self._arrivals = self._turns = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def push(self, item: T, priority: Priority) -> int:
        """Queue up; returns the ticket to leave by."""
        self._arrivals += 1
        self._queues[priority][self._arrivals] = item
        return self._arrivals

    def head(self) -> tuple[int, T]:
        """Whose turn it is, with the ticket; there must be someone."""
        heads = [next(iter(queue.items())) for queue in self._queues.values() if queue]
        if self._turns % PATIENCE == PATIENCE - 1:
            return min(heads, key=lambda head: head[0])
        return heads[0]

    def order(self) -> Iterator[tuple[int, T]]:
        """All, as their turns would come now; stop after a change."""
        first, item = self.head()
        yield first, item
        for queue in self._queues.values():
            yield from ((ticket, item) for ticket, item in queue.items() if ticket != first)

    def taken(self, ticket: int) -> None:
        """It has had its turn."""
        self._turns += 1
        self.leave(ticket)

    def leave(self, ticket: int) -> None:
        """Leave without a turn. Idempotent."""
        for queue in self._queues.values():
            queue.pop(ticket, None)
