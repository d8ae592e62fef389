"""Which key goes? A stand-in until the policies come: LRU alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import ClassVar

from vivace.protocols import EvictionPolicy


class Lru:
    name: ClassVar[str] = "lru"

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._weights: OrderedDict[Hashable, int] = OrderedDict()
        self._total = 0
        self.hit = self._weights.move_to_end

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        self._weights[key] = weight
        self._total += weight
        return self._victims()

    def remove(self, key: Hashable) -> None:
        self._total -= self._weights.pop(key, 0)

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        return self._victims()

    def _victims(self) -> list[Hashable]:
        victims: list[Hashable] = []
        while self._total > self._capacity:
            victim, weight = self._weights.popitem(last=False)
            self._total -= weight
            victims.append(victim)
        return victims

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._weights)


def make(name: str, capacity: int) -> EvictionPolicy:
    return Lru(capacity)
