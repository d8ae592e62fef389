"""Least recently used: what was not asked for longest goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import ClassVar

from vivace.protocols import EvictionPolicy


class Lru:
    """An `EvictionPolicy`. Nothing of a loop longer than it is ever found in it."""

    name: ClassVar[str] = "lru"
    __slots__ = ("_capacity", "_kept", "_used")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._kept: OrderedDict[Hashable, int] = OrderedDict()

    def hit(self, key: Hashable) -> None:
        self._kept.move_to_end(key)

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        if weight > self._capacity:
            return [key]
        self._kept[key] = weight
        self._used += weight
        return self._evict() if self._used > self._capacity else []

    def remove(self, key: Hashable) -> None:
        self._used -= self._kept.pop(key, 0)

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        return self._evict()

    def learn(self, ghost: EvictionPolicy, share: float) -> None:
        """Nothing is learned."""

    def weights(self) -> dict[Hashable, int]:
        return dict(self._kept)

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        for key, weight in residents:
            self._kept[key] = weight
            self._used += weight

    def _evict(self) -> list[Hashable]:
        victims = []
        while self._used > self._capacity:
            key, weight = self._kept.popitem(last=False)
            self._used -= weight
            victims.append(key)
        return victims

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._kept)
