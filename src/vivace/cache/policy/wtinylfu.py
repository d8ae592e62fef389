"""A window of new keys before a large room that only the more frequent may enter.

Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy", ACM TOS 2017;
the window's size climbs after the hit ratio as in Einziger, Eytan, Friedman and Manes, "Adaptive
software cache management", Middleware 2018, with the constants of Caffeine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import ClassVar, Final

from vivace.cache.policy.sketch import Sketch
from vivace.protocols import EvictionPolicy

WINDOW: Final = 0.01
"""Share of the capacity, to begin with."""
PROTECTED: Final = 0.8
"""Share of what is not the window: of keys that were found again."""
STEP: Final = 0.0625
FADES: Final = 0.98
RESTART: Final = 0.05
"""Change of the hit ratio with which the climb begins anew."""
PERIOD: Final = 10
"""Uses a resident key between two steps."""


class WTinyLfu:
    """An `EvictionPolicy`."""

    name: ClassVar[str] = "wtinylfu"
    __slots__ = (
        "_before",
        "_capacity",
        "_found",
        "_missed",
        "_probation",
        "_protected",
        "_protected_weight",
        "_sketch",
        "_step",
        "_used",
        "_window",
        "_window_share",
        "_window_weight",
    )

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._sketch = Sketch()
        self._window: OrderedDict[Hashable, int] = OrderedDict()
        self._probation: OrderedDict[Hashable, int] = OrderedDict()
        self._protected: OrderedDict[Hashable, int] = OrderedDict()
        self._window_weight = self._protected_weight = self._used = 0
        self._window_share = WINDOW
        self._step = STEP
        self._before: float | None = None
        self._found = self._missed = 0

    def hit(self, key: Hashable) -> None:
        self._sketch.add(key)
        self._found += 1
        if key in self._protected:
            self._protected.move_to_end(key)
        elif key in self._window:
            self._window.move_to_end(key)
        else:
            weight = self._probation.pop(key)
            self._protected[key] = weight
            self._protected_weight += weight
            self._demote()

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        if weight > self._capacity:
            return [key]
        self._sketch.add(key)
        self._missed += 1
        self._window[key] = weight
        self._window_weight += weight
        self._used += weight
        victims = self._evict()
        if self._found + self._missed > PERIOD * len(self):
            self._climb(victims)
        return victims

    def remove(self, key: Hashable) -> None:
        if (weight := self._window.pop(key, None)) is not None:
            self._window_weight -= weight
        elif (weight := self._protected.pop(key, None)) is not None:
            self._protected_weight -= weight
        else:
            weight = self._probation.pop(key, 0)
        self._used -= weight

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        self._demote()
        return self._evict()

    def learn(self, ghost: EvictionPolicy, share: float) -> None:
        """How wide the window is."""
        if isinstance(ghost, WTinyLfu):
            self._window_share, self._step = ghost._window_share, ghost._step
            self._demote()

    def weights(self) -> dict[Hashable, int]:
        return {**self._window, **self._probation, **self._protected}

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        for key, weight in residents:
            self._probation[key] = weight
            self._used += weight
        self._sketch.fit(len(self))
        for key in self:  # as known as a newcomer, or any would take its place
            self._sketch.add(key)

    def _evict(self) -> list[Hashable]:
        """What the window is too small for, against what the large room holds."""
        victims: list[Hashable] = []
        sketch, room = self._sketch, max(1, self._window_share * self._capacity)
        while self._window_weight > room:
            key, weight = self._window.popitem(last=False)
            self._window_weight -= weight
            self._probation[key] = weight
            if self._used <= self._capacity:
                continue
            asked = sketch.count(key)
            while self._used > self._capacity:
                old = next(iter(self._probation))
                if old == key and self._protected:
                    old = next(iter(self._protected))
                # who is as frequent as who is there stays outside: a loop would replace all
                out = key if old == key or asked <= sketch.count(old) else old
                self._drop(out, victims)
                if out == key:
                    break
        while self._used > self._capacity:  # the window alone is the whole
            room_of = self._probation or self._protected or self._window
            self._drop(next(iter(room_of)), victims)
        return victims

    def _drop(self, key: Hashable, victims: list[Hashable]) -> None:
        self.remove(key)
        victims.append(key)

    def _demote(self) -> None:
        room = PROTECTED * (1 - self._window_share) * self._capacity
        while self._protected_weight > room:
            key, weight = self._protected.popitem(last=False)
            self._protected_weight -= weight
            self._probation[key] = weight

    def _climb(self, victims: list[Hashable]) -> None:
        """Another window, in the direction in which the hit ratio has grown."""
        ratio = self._found / (self._found + self._missed)
        self._found = self._missed = 0
        self._sketch.fit(len(self))
        change = 0.0 if self._before is None else ratio - self._before
        first, self._before = self._before is None, ratio
        if first:
            return
        amount = self._step if change >= 0 else -self._step
        if abs(change) >= RESTART:
            self._step = STEP if amount >= 0 else -STEP
        else:
            self._step = FADES * amount
        share = min(0.8, max(WINDOW, self._window_share + amount))
        grown = share > self._window_share
        self._window_share = share
        self._demote()
        if grown:
            self._widen()
        else:
            victims += self._evict()

    def _widen(self) -> None:
        """Fill the window from the large room's end, so that nothing has to go."""
        room = self._window_share * self._capacity
        while self._probation:
            key, weight = next(iter(self._probation.items()))
            if self._window_weight + weight > room:
                return
            del self._probation[key]
            self._window[key] = weight
            self._window.move_to_end(key, last=False)
            self._window_weight += weight

    def __len__(self) -> int:
        return len(self._window) + len(self._probation) + len(self._protected)

    def __iter__(self) -> Iterator[Hashable]:
        yield from self._probation
        yield from self._window
        yield from self._protected
