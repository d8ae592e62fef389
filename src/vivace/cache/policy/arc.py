"""Adaptive replacement: recency and frequency share the room, and what was lost moves the border.

Megiddo and Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import ClassVar

from vivace.protocols import EvictionPolicy


class Arc:
    """An `EvictionPolicy`; beside its keys it remembers as many that have left."""

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
        """What the paper calls p: the room of keys that were asked for once, lately."""
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
        victims: list[Hashable] = []
        while self._once_weight + self._often_weight > self._capacity - weight:
            self._replace(victims, often_gone)
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
        victims: list[Hashable] = []
        while self._once_weight + self._often_weight > capacity:
            self._replace(victims, False)
        self._forget()
        return victims

    def learn(self, ghost: EvictionPolicy, share: float) -> None:
        """Where the border is."""
        if isinstance(ghost, Arc):
            self._target = min(self._capacity, ghost._target / share)

    def weights(self) -> dict[Hashable, int]:
        return {**self._once, **self._often}

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        self._target = self._capacity / 2
        for key, weight in residents:
            self._often[key] = weight
            self._often_weight += weight

    def _replace(self, victims: list[Hashable], often_gone: bool) -> None:
        least = self._target if not often_gone else max(0.0, self._target - 1)
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

    def _forget(self) -> None:
        """Those asked for once, here and gone, weigh a capacity at most; all together two."""
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
