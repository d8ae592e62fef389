"""What is dear to make, small and often asked for stays: greedy dual size with frequency.

Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy", HP
Labs 1998: a key's priority is `clock + uses * cost / weight`, and the clock is the priority of the
last one that went, so that what is not asked for any more falls behind. Instead of a heap the least
of a sample goes, and the sample's best losers are looked at again (as Redis does since version 3).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import ClassVar, Final

from vivace.cache.policy.pool import Drawn
from vivace.protocols import EvictionPolicy

SAMPLE: Final = 12
KEPT: Final = 12
"""Of the keys that were looked at, the likeliest to be next."""


class Gdsf:
    """An `EvictionPolicy`. The only one that minds `cost`."""

    name: ClassVar[str] = "gdsf"
    __slots__ = ("_capacity", "_clock", "_drawn", "_known", "_near", "_used")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._clock = 0.0
        self._drawn = Drawn()
        self._known: dict[Hashable, list[float]] = {}
        """Priority, worth of one use, weight."""
        self._near: list[Hashable] = []

    def hit(self, key: Hashable) -> None:
        entry = self._known[key]
        entry[3] += 1
        entry[0] = self._clock + entry[3] * entry[1]

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        if weight > self._capacity:
            return [key]
        worth = max(cost, 1e-9) / max(weight, 1)
        self._used += weight
        victims = self._evict()
        self._known[key] = [self._clock + worth, worth, weight, 1.0]
        self._drawn.add(key)
        return victims

    def remove(self, key: Hashable) -> None:
        if (entry := self._known.pop(key, None)) is not None:
            self._used -= int(entry[2])
            self._drawn.remove(key)

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        return self._evict()

    def learn(self, ghost: EvictionPolicy, share: float) -> None:
        """Nothing is learned."""

    def weights(self) -> dict[Hashable, int]:
        return {key: int(entry[2]) for key, entry in self._known.items()}

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        """What they cost is not told: as much as any other."""
        for place, (key, weight) in enumerate(residents):
            worth = 1.0 / max(weight, 1)
            # a hair apart, so that they go in their order
            self._known[key] = [worth * (1 + 1e-9 * place), worth, weight, 1.0]
            self._used += weight
            self._drawn.add(key)

    def _evict(self) -> list[Hashable]:
        victims: list[Hashable] = []
        known = self._known
        while self._used > self._capacity and known:
            near = {key for key in self._near if key in known}
            ranked = sorted(near.union(self._drawn.draw(SAMPLE)), key=lambda key: known[key][0])
            key = ranked[0]
            self._near = ranked[1 : 1 + KEPT]
            self._clock = max(self._clock, known[key][0])
            self.remove(key)
            victims.append(key)
        return victims

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(sorted(self._known, key=lambda key: self._known[key][0]))
