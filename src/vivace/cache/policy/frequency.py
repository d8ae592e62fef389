"""Policies of frequency: LFU with ageing, and W-TinyLFU over a sketch of frequencies."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from typing import ClassVar, Final

from vivace.cache.policy import PortablePolicy
from vivace.protocols import EvictionPolicy

HALVED_AFTER: Final = 10
"""Uses per resident key after which counts are halved, in `Lfu` and in `FrequencySketch`."""
_LFU_MAX: Final = 63
"""The highest count of `Lfu`: bounds the search for the next bucket."""


class Lfu(PortablePolicy):
    """Least frequently used first; a new key is evicted before any key that was hit.

    Keys of one count are in one bucket, the least recently used first (Shah, Mitra and Matani, "An
    O(1) algorithm for implementing the LFU cache eviction scheme", 2010). Counts are halved
    regularly, so that what was popular once is evicted: without it LFU collapses when its stream
    changes.
    """

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
        if count == _LFU_MAX:
            self._buckets[count].move_to_end(key)
        else:
            del self._buckets[count][key]
            self._counts[key] = count + 1
            self._buckets[count + 1][key] = None
        self._uses += 1
        if self._uses > HALVED_AFTER * len(self._counts):
            self._halve()

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        if weight > self._capacity:
            return [key]
        self._used += weight
        victims = self.resize(self._capacity) if self._used > self._capacity else []
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
        victims: list[Hashable] = []
        for bucket in self._buckets:
            while bucket and self._used > capacity:
                key, _ = bucket.popitem(last=False)
                del self._counts[key]
                self._used -= self._weights.pop(key)
                victims.append(key)
            if self._used <= capacity:
                break
        return victims

    def weights(self) -> dict[Hashable, int]:
        return dict(self._weights)

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        for key, weight in residents:
            self._used += weight
            self._put(key, weight)
            self.hit(key)  # new keys are evicted before these

    def _put(self, key: Hashable, weight: int) -> None:
        self._weights[key] = weight
        self._counts[key] = 0
        self._buckets[0][key] = None

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
    return tuple(OrderedDict() for _ in range(_LFU_MAX + 1))


_SKETCH_MAX: Final = 15
_SKETCH_WIDTH: Final = 8
"""Counters per resident key, at least."""
_HALVES: Final = bytes(value >> 1 for value in range(256))
_MIX: Final = 0x9E3779B97F4A7C15


class FrequencySketch:
    """Estimates how often a key was used lately, in a byte or two per key; sometimes too high.

    A count-min sketch (Cormode and Muthukrishnan, 2005) with counts up to 15 that are all halved
    after ten uses per resident key (Einziger, Friedman and Manes, "TinyLFU", 2017). One byte holds
    one count: `bytes.translate` halves a megabyte of them in a millisecond.

    Args:
        keys: how many keys are resident, until `fit` says otherwise.
    """

    __slots__ = ("_counts", "_limit", "_mask", "_uses")

    def __init__(self, keys: int = 64) -> None:
        size = 1 << max(6, (_SKETCH_WIDTH * keys - 1).bit_length())
        self._counts = bytearray(size)
        self._mask = size - 1
        self._uses = 0
        self._limit = HALVED_AFTER * keys

    def add(self, key: Hashable) -> None:
        mixed = (hash(key) * _MIX) & 0xFFFFFFFFFFFFFFFF
        counts, mask = self._counts, self._mask
        one, other = (mixed >> 40) & mask, (mixed >> 14) & mask
        first, second = counts[one], counts[other]
        # only the lower one: other keys have raised the higher one
        if first <= second and first < _SKETCH_MAX:
            counts[one] = first + 1
        if second <= first and second < _SKETCH_MAX:
            counts[other] = second + 1
        self._uses += 1
        if self._uses >= self._limit:
            self._counts = counts.translate(_HALVES)
            self._uses >>= 1

    def count(self, key: Hashable) -> int:
        mixed = (hash(key) * _MIX) & 0xFFFFFFFFFFFFFFFF
        counts, mask = self._counts, self._mask
        return min(counts[(mixed >> 40) & mask], counts[(mixed >> 14) & mask])

    def fit(self, keys: int) -> None:
        """So many keys are resident: widen the sketch if it is too narrow. No count changes."""
        self._limit = HALVED_AFTER * max(keys, 8)
        while len(self._counts) < _SKETCH_WIDTH * keys:
            self._counts = self._counts * 2  # the lower bits of an index remain
            self._mask = len(self._counts) - 1


_WINDOW: Final = 0.01
"""Initial share of the capacity."""
_PROTECTED: Final = 0.8
"""Share of the main room for keys that were hit in it."""
_STEP: Final = 0.0625
_STEP_DECAY: Final = 0.98
_RESTART: Final = 0.05
"""Change of the hit ratio at which the climb begins again with the full step."""
_PERIOD: Final = 10
"""Uses per resident key between two steps."""


class WTinyLfu(PortablePolicy):
    """A window of new keys before a main room that admits only the more frequently used ones.

    Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy", ACM TOS
    2017. The size of the window follows the hit ratio by hill climbing, as in Einziger, Eytan,
    Friedman and Manes, "Adaptive software cache management", Middleware 2018, with the constants of
    Caffeine.
    """

    name: ClassVar[str] = "wtinylfu"
    __slots__ = (
        "_before",
        "_capacity",
        "_hits",
        "_misses",
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
        self._sketch = FrequencySketch()
        self._window: OrderedDict[Hashable, int] = OrderedDict()
        self._probation: OrderedDict[Hashable, int] = OrderedDict()
        self._protected: OrderedDict[Hashable, int] = OrderedDict()
        self._window_weight = self._protected_weight = self._used = 0
        self._window_share = _WINDOW
        self._step = _STEP
        self._before: float | None = None
        """The hit ratio of the previous period."""
        self._hits = self._misses = 0

    def hit(self, key: Hashable) -> None:
        self._sketch.add(key)
        self._hits += 1
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
        self._misses += 1
        self._window[key] = weight
        self._window_weight += weight
        self._used += weight
        victims = self._evict()
        if self._hits + self._misses > _PERIOD * len(self):
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
        """Take over the size of the window."""
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
        for key in self:  # as frequent as a new key, or any new key would replace it
            self._sketch.add(key)

    def _evict(self) -> list[Hashable]:
        """Move what exceeds the window into the main room, against the next victims there."""
        victims: list[Hashable] = []
        sketch, room = self._sketch, max(1, self._window_share * self._capacity)
        while self._window_weight > room:
            key, weight = self._window.popitem(last=False)
            self._window_weight -= weight
            self._probation[key] = weight
            if self._used <= self._capacity:
                continue
            frequency = sketch.count(key)
            while self._used > self._capacity:
                old = next(iter(self._probation))
                if old == key and self._protected:
                    old = next(iter(self._protected))
                # a tie keeps the resident: otherwise a loop would replace all of them
                out = key if old == key or frequency <= sketch.count(old) else old
                self._drop(out, victims)
                if out == key:
                    break
        while self._used > self._capacity:  # the window alone is the whole cache
            queue = self._probation or self._protected or self._window
            self._drop(next(iter(queue)), victims)
        return victims

    def _drop(self, key: Hashable, victims: list[Hashable]) -> None:
        self.remove(key)
        victims.append(key)

    def _demote(self) -> None:
        room = _PROTECTED * (1 - self._window_share) * self._capacity
        while self._protected_weight > room:
            key, weight = self._protected.popitem(last=False)
            self._protected_weight -= weight
            self._probation[key] = weight

    def _climb(self, victims: list[Hashable]) -> None:
        """Change the window's size in the direction in which the hit ratio has grown."""
        ratio = self._hits / (self._hits + self._misses)
        self._hits = self._misses = 0
        self._sketch.fit(len(self))
        before, self._before = self._before, ratio
        if before is None:
            return
        change = ratio - before
        amount = self._step if change >= 0 else -self._step
        if abs(change) >= _RESTART:
            self._step = _STEP if amount >= 0 else -_STEP
        else:
            self._step = _STEP_DECAY * amount
        share = min(0.8, max(_WINDOW, self._window_share + amount))
        grown = share > self._window_share
        self._window_share = share
        self._demote()
        if grown:
            self._widen()
        else:
            victims += self._evict()

    def _widen(self) -> None:
        """Fill the window from the end of the main room, so that nothing is evicted."""
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
