"""Least frequently used, with counts that fade.

Keys of one count lie in one bucket, the least recently used first (Shah, Mitra and Matani, "An O(1)
algorithm for implementing the LFU cache eviction scheme", 2010). All counts are halved after ten
uses a resident key, so that what was popular once makes room: without it LFU collapses as soon as
its stream changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import ClassVar, Final

from vivace.protocols import EvictionPolicy

HALVE_AFTER: Final = 10
"""Uses a resident key."""
MOST: Final = 63
"""CacheCounts go no further: a bound on looking for the next bucket."""


class Lfu:
    """An `EvictionPolicy`. A newcomer goes before whatever was found once."""

    name: ClassVar[str] = "lfu"
    __slots__ = ("_buckets", "_capacity", "_counts", "_used", "_uses", "_weights")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = self._uses = 0
        self._counts: dict[Hashable, int] = {}
        self._weights: dict[Hashable, int] = {}
        self._buckets: tuple[OrderedDict[Hashable, None], ...] = _buckets()

    def hit(self, key: Hashable) -> None:
        count = self._counts[key]
        if count == MOST:
            self._buckets[count].move_to_end(key)
        else:
            del self._buckets[count][key]
            self._counts[key] = count + 1
            self._buckets[count + 1][key] = None
        self._uses += 1
        if self._uses > HALVE_AFTER * len(self._counts):
            self._halve()

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        if weight > self._capacity:
            return [key]
        self._used += weight
        victims = self._evict() if self._used > self._capacity else []
        self._put(key, weight)
        self._uses += 1
        return victims

    def remove(self, key: Hashable) -> None:
        count = self._counts.pop(key, None)
        if count is not None:
            del self._buckets[count][key]
            self._used -= self._weights.pop(key)

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        return self._evict()

    def learn(self, ghost: EvictionPolicy, share: float) -> None:
        """Nothing is learned."""

    def weights(self) -> dict[Hashable, int]:
        return dict(self._weights)

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        for key, weight in residents:
            self._used += weight
            self._put(key, weight)
            self.hit(key)  # a newcomer goes before them

    def _put(self, key: Hashable, weight: int) -> None:
        self._weights[key] = weight
        self._counts[key] = 0
        self._buckets[0][key] = None

    def _evict(self) -> list[Hashable]:
        victims: list[Hashable] = []
        for bucket in self._buckets:
            while bucket and self._used > self._capacity:
                key, _ = bucket.popitem(last=False)
                del self._counts[key]
                self._used -= self._weights.pop(key)
                victims.append(key)
            if self._used <= self._capacity:
                break
        return victims

    def _halve(self) -> None:
        self._uses = 0
        old, self._buckets = self._buckets, _buckets()
        for count, bucket in enumerate(old):
            half = count // 2
            for key in bucket:
                self._counts[key] = half
                self._buckets[half][key] = None

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[Hashable]:
        for bucket in self._buckets:
            yield from bucket


def _buckets() -> tuple[OrderedDict[Hashable, None], ...]:
    return tuple(OrderedDict() for _ in range(MOST + 1))
