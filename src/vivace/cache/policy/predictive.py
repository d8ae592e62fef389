"""A policy that predicts how soon a key is used again, by what it has learned from earlier uses.

For every class of use counts and every age (uses of the cache since the key's last use, four steps
to a doubling) a table counts how many keys were used again at that age and how many were given up.
From it follows the hit density: the hits that a place of the cache earns with such a key, by the
time it will hold it (Beckmann, Chen and Cidon, "LHD: improving cache hit rate by maximizing hit
density", NSDI 2018). Evicted keys are remembered for a while: so the table learns about ages that
no resident reaches, and recognises a loop that is longer than the cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from math import log2
from random import Random
from typing import ClassVar, Final

from vivace.cache.policy import PortablePolicy
from vivace.protocols import EvictionPolicy

_CLASSES: Final = 8
"""By uses after the first: 0, 1, 2, 3, then up to 5, 8, 15, and more."""
_CLASS: Final = (0, 1, 2, 3, 4, 4, 5, 5, 5, *([6] * 7), 7)
_MOST: Final = len(_CLASS) - 1
_AGES: Final = 4 * 40
_WIDTHS: Final = tuple(1 if age < 4 else 1 << (age // 4 - 1) for age in range(_AGES))
_SAMPLE: Final = 16
"""Residents of which the one with the least density is evicted."""
_GHOSTS: Final = 4
"""Evicted keys that are remembered, per resident key."""
_DECAY: Final = 0.9
"""Share of the table's counts that remains when the densities are computed."""


class _KeySample:
    """A set of keys that can be sampled; add, remove and draw are O(1), draws are repeatable."""

    __slots__ = ("_keys", "_places", "_random")

    def __init__(self) -> None:
        self._keys: list[Hashable] = []
        self._places: dict[Hashable, int] = {}
        self._random = Random(0).random

    def add(self, key: Hashable) -> None:
        self._places[key] = len(self._keys)
        self._keys.append(key)

    def remove(self, key: Hashable) -> None:
        place = self._places.pop(key)
        last = self._keys.pop()
        if place < len(self._keys):
            self._keys[place] = last
            self._places[last] = place

    def draw(self, count: int) -> list[Hashable]:
        """That many keys, or all of them; a key may be drawn twice."""
        keys, size = self._keys, len(self._keys)
        if size <= count:
            return list(keys)
        # a random start and a random stride: half the time of a random number for each
        start, stride = int(self._random() * size), 1 + int(self._random() * (size - 1))
        return [keys[(start + at * stride) % size] for at in range(count)]


class Predictive(PortablePolicy):
    """Evicts the key of the least hit density among a sample of residents and the new key."""

    name: ClassVar[str] = "predictive"
    __slots__ = (
        "_again",
        "_capacity",
        "_densities",
        "_due",
        "_ghosts",
        "_given_up",
        "_known",
        "_now",
        "_sample",
        "_used",
    )

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = self._now = 0
        self._due = 128
        self._known: dict[Hashable, tuple[int, int, int]] = {}
        """Time of the last use, uses after the first, weight."""
        self._sample = _KeySample()
        self._ghosts: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        self._again = [[0.0] * _AGES for _ in range(_CLASSES)]
        self._given_up = [[0.0] * _AGES for _ in range(_CLASSES)]
        # before anything is learned: frequent and recent use is better
        self._densities = [[(c + 1.0) / (age + 1) for age in range(_AGES)] for c in range(_CLASSES)]

    def hit(self, key: Hashable) -> None:
        now = self._now = self._now + 1
        last, uses, weight = self._known[key]
        self._again[_CLASS[uses]][_age(now - last)] += 1
        self._known[key] = (now, uses + 1 if uses < _MOST else uses, weight)
        if now >= self._due:
            self._learn()

    def insert(self, key: Hashable, *, weight: int = 1, cost: float = 1.0) -> list[Hashable]:
        if weight > self._capacity:
            return [key]
        now = self._now = self._now + 1
        ghost = self._ghosts.pop(key, None)
        uses = 0
        if ghost is not None:
            last, uses = ghost
            self._again[_CLASS[uses]][_age(now - last)] += 1
            uses = min(uses + 1, _MOST)
        self._known[key] = (now, uses, weight)
        self._sample.add(key)
        self._used += weight
        victims = self._evict(key) if self._used > self._capacity else []
        if now >= self._due:
            self._learn()
        return victims

    def remove(self, key: Hashable) -> None:
        if (entry := self._known.pop(key, None)) is not None:
            self._used -= entry[2]
            self._sample.remove(key)

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        return self._evict(None)

    def learn(self, ghost: EvictionPolicy, share: float) -> None:
        """Take over the table; a ghost's ages count only the uses of its sample."""
        if not isinstance(ghost, Predictive):
            return
        shift = round(-4 * log2(share))
        for own, its in (
            (self._again, ghost._again),
            (self._given_up, ghost._given_up),
            (self._densities, ghost._densities),
        ):
            own[:] = [_shifted(row, shift) for row in its]

    def weights(self) -> dict[Hashable, int]:
        return {key: weight for key, (_, _, weight) in self._known.items()}

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        for key, weight in residents:
            self._now += 1
            self._known[key] = (self._now, 1, weight)
            self._sample.add(key)
            self._used += weight
        self._due += self._now

    def _evict(self, newcomer: Hashable | None) -> list[Hashable]:
        victims: list[Hashable] = []
        known, densities, now = self._known, self._densities, self._now
        while self._used > self._capacity:
            least, out = float("inf"), newcomer
            drawn = self._sample.draw(_SAMPLE)
            if newcomer in known:
                drawn.append(newcomer)
            for key in drawn:
                last, uses, weight = known[key]
                age = now - last
                if age < 4:  # `_age`, without a call
                    place = age
                else:
                    bits = age.bit_length()
                    place = 4 * (bits - 2) + ((age >> (bits - 3)) & 3)
                density = densities[_CLASS[uses]][place] / weight
                if density < least:
                    least, out = density, key
            last, uses, _ = known[out]
            self.remove(out)
            victims.append(out)
            self._remember(out, last, uses)
        return victims

    def _remember(self, key: Hashable, last: int, uses: int) -> None:
        self._ghosts[key] = (last, uses)
        while len(self._ghosts) > _GHOSTS * max(len(self._known), 16):
            _, (last, uses) = self._ghosts.popitem(last=False)
            self._given_up[_CLASS[uses]][_age(self._now - last)] += 1

    def _learn(self) -> None:
        """Compute the densities from the counts, and let the counts decay."""
        self._due = self._now + max(128, len(self._known))
        for number, (again, given_up) in enumerate(zip(self._again, self._given_up, strict=True)):
            hits = time = events = 0.0
            row = self._densities[number]
            for age in range(_AGES - 1, -1, -1):
                hits += again[age]
                events += again[age] + given_up[age]
                # every key that reaches this age spends its width here
                time += events * _WIDTHS[age]
                if events > 0.5:
                    row[age] = hits / time
                again[age] *= _DECAY
                given_up[age] *= _DECAY

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Hashable]:
        def density(key: Hashable) -> float:
            last, uses, weight = self._known[key]
            return self._densities[_CLASS[uses]][_age(self._now - last)] / weight

        return iter(sorted(self._known, key=density))


def _age(uses: int) -> int:
    """The column of the table: exact below 4, then four to a doubling."""
    if uses < 4:
        return uses
    bits = uses.bit_length()
    return 4 * (bits - 2) + ((uses >> (bits - 3)) & 3)


def _shifted(row: list[float], places: int) -> list[float]:
    """The row moved by so many columns, later if positive; the end it leaves is repeated."""
    if places >= 0:
        return [row[0]] * min(places, _AGES) + row[: max(0, _AGES - places)]
    return row[-places:] + [row[-1]] * min(-places, _AGES)
