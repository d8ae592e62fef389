"""Policies of recency: LRU, and ARC, which balances recency against frequency."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import ClassVar

from vivace.cache.policy import PortablePolicy
from vivace.protocols import EvictionPolicy


class Lru(PortablePolicy):
    """Least recently used first. Finds nothing in a loop longer than the cache."""

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
        return self.resize(self._capacity) if self._used > self._capacity else []

    def remove(self, key: Hashable) -> None:
        self._used -= self._kept.pop(key, 0)

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        victims = []
        while self._used > capacity:
            key, weight = self._kept.popitem(last=False)
            self._used -= weight
            victims.append(key)
        return victims

    def weights(self) -> dict[Hashable, int]:
        return dict(self._kept)

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        for key, weight in residents:
            self._kept[key] = weight
            self._used += weight

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._kept)


class Arc(PortablePolicy):
    """Adaptive replacement: keys used once and keys used more often share the capacity.

    The border between the two moves with the misses on keys that were evicted lately, of which it
    remembers as many as are resident. Megiddo and Modha, "ARC: a self-tuning, low overhead
    replacement cache", FAST 2003.
    """

    name: ClassVar[str] = "arc"
    __slots__ = (
        "_capacity",
        "_often",
        "_often_gone",
        "_often_gone_weight",
        "_often_weight",
        "_once",
        "_once_gone",
        "_once_gone_weight",
        "_once_weight",
        "_target",
    )

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._target = 0.0
        """The paper's p: the weight that keys used once may have."""
        self._once: OrderedDict[Hashable, int] = OrderedDict()
        self._often: OrderedDict[Hashable, int] = OrderedDict()
        self._once_gone: OrderedDict[Hashable, int] = OrderedDict()
        self._often_gone: OrderedDict[Hashable, int] = OrderedDict()
        self._once_weight = self._often_weight = 0
        self._once_gone_weight = self._often_gone_weight = 0

    def hit(self, key: Hashable) -> None:
        if key in self._often:
            self._often.move_to_end(key)
            return
        weight = self._once.pop(key)
        self._once_weight -= weight
        self._often[key] = weight
        self._often_weight += weight

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        if weight > self._capacity:
            return [key]
        known = often_gone = False
        if (before := self._once_gone.pop(key, None)) is not None:
            other = self._often_gone_weight / max(1, self._once_gone_weight)
            self._target = min(self._capacity, self._target + max(1.0, other) * weight)
            self._once_gone_weight -= before
            known = True
        elif (before := self._often_gone.pop(key, None)) is not None:
            other = self._once_gone_weight / max(1, self._often_gone_weight)
            self._target = max(0.0, self._target - max(1.0, other) * weight)
            self._often_gone_weight -= before
            known = often_gone = True
        victims = self._evict(self._capacity - weight, often_gone)
        if known:
            self._often[key] = weight
            self._often_weight += weight
        else:
            self._once[key] = weight
            self._once_weight += weight
        self._forget()
        return victims

    def remove(self, key: Hashable) -> None:
        self._once_weight -= self._once.pop(key, 0)
        self._often_weight -= self._often.pop(key, 0)

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        self._target = min(self._target, capacity)
        victims = self._evict(capacity, False)
        self._forget()
        return victims

    def learn(self, ghost: EvictionPolicy, share: float) -> None:
        """Take over the border."""
        if isinstance(ghost, Arc):
            self._target = min(self._capacity, ghost._target / share)

    def weights(self) -> dict[Hashable, int]:
        return {**self._once, **self._often}

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        self._target = self._capacity / 2
        for key, weight in residents:
            self._often[key] = weight
            self._often_weight += weight

    def _evict(self, room: int, often_gone: bool) -> list[Hashable]:
        """Evict until the residents weigh at most `room`."""
        victims: list[Hashable] = []
        while self._once_weight + self._often_weight > room:
            least = max(0.0, self._target - 1) if often_gone else self._target
            if self._once and (self._once_weight > least or not self._often):
                key, weight = self._once.popitem(last=False)
                self._once_weight -= weight
                self._once_gone[key] = weight
                self._once_gone_weight += weight
            else:
                key, weight = self._often.popitem(last=False)
                self._often_weight -= weight
                self._often_gone[key] = weight
                self._often_gone_weight += weight
            victims.append(key)
        return victims

    def _forget(self) -> None:
        """Keys used once, resident or evicted, weigh at most one capacity; all keys at most two."""
        while self._once_gone and self._once_weight + self._once_gone_weight > self._capacity:
            self._once_gone_weight -= self._once_gone.popitem(last=False)[1]
        held = self._once_weight + self._often_weight + self._once_gone_weight
        while self._often_gone and held + self._often_gone_weight > 2 * self._capacity:
            self._often_gone_weight -= self._often_gone.popitem(last=False)[1]

    def __len__(self) -> int:
        return len(self._once) + len(self._often)

    def __iter__(self) -> Iterator[Hashable]:
        yield from self._once
        yield from self._often
