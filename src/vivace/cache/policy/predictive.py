"""What is likeliest to be asked for soon stays, as learned from what was asked for when.

For every class of frequency and every age (uses of the cache since the key's last one, in steps of
a quarter of a doubling) a table counts how often a key of that class was asked for again at that
age, and how often it was given up. From it follows how many hits a place of the cache earns with
such a key in the time it will hold it (hit density: Beckmann, Chen and Cidon, "LHD: improving cache
hit rate by maximizing hit density", NSDI 2018). The least of a sample goes, the newcomer included.
Keys that went are remembered for a while, as ghosts: the table learns from ages that no key would
reach here, and so a loop that is longer than the cache is seen as one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from math import log2
from typing import ClassVar, Final

from vivace.cache.policy.pool import Drawn
from vivace.protocols import EvictionPolicy

CLASSES: Final = 8
"""By uses: 0, 1, 2, 3, then up to 5, 8, 15, and more."""
_CLASS: Final = (0, 1, 2, 3, 4, 4, 5, 5, 5, *([6] * 7), 7)
_MOST: Final = len(_CLASS) - 1
AGES: Final = 4 * 40
SAMPLE: Final = 16
GHOSTS: Final = 4
"""Times as many as are resident."""
FADES: Final = 0.9
"""What the table keeps of its counts when the densities are made anew."""
_WIDTHS: Final = tuple(1 if age < 4 else 1 << (age // 4 - 1) for age in range(AGES))


class Predictive:
    """An `EvictionPolicy`."""

    name: ClassVar[str] = "predictive"
    __slots__ = (
        "_again",
        "_capacity",
        "_densities",
        "_drawn",
        "_due",
        "_ghosts",
        "_given_up",
        "_known",
        "_now",
        "_used",
    )

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = self._now = 0
        self._due = 128
        self._known: dict[Hashable, tuple[int, int, int]] = {}
        """Time of the last use, uses, weight."""
        self._drawn = Drawn()
        self._ghosts: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        self._again = [[0.0] * AGES for _ in range(CLASSES)]
        self._given_up = [[0.0] * AGES for _ in range(CLASSES)]
        # before anything is learned: the more often and the more lately used, the better
        self._densities = [[(c + 1.0) / (age + 1) for age in range(AGES)] for c in range(CLASSES)]

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
        self._drawn.add(key)
        self._used += weight
        victims = self._evict(key) if self._used > self._capacity else []
        if now >= self._due:
            self._learn()
        return victims

    def remove(self, key: Hashable) -> None:
        if (entry := self._known.pop(key, None)) is not None:
            self._used -= entry[2]
            self._drawn.remove(key)

    def resize(self, capacity: int) -> list[Hashable]:
        self._capacity = capacity
        return self._evict(None)

    def learn(self, ghost: EvictionPolicy, share: float) -> None:
        """The table, whose ages are of the sample's uses alone."""
        if not isinstance(ghost, Predictive):
            return
        shift = round(-4 * log2(share))
        for own, its in (
            (self._again, ghost._again),
            (self._given_up, ghost._given_up),
            (self._densities, ghost._densities),
        ):
            own[:] = [_moved(row, shift) for row in its]

    def weights(self) -> dict[Hashable, int]:
        return {key: weight for key, (_, _, weight) in self._known.items()}

    def seed(self, residents: Iterable[tuple[Hashable, int]]) -> None:
        for key, weight in residents:
            self._now += 1
            self._known[key] = (self._now, 1, weight)
            self._drawn.add(key)
            self._used += weight
        self._due += self._now

    def _evict(self, newcomer: Hashable | None) -> list[Hashable]:
        victims: list[Hashable] = []
        known, densities, now = self._known, self._densities, self._now
        while self._used > self._capacity:
            least, out = float("inf"), newcomer
            looked = self._drawn.draw(SAMPLE)
            if newcomer in known:
                looked.append(newcomer)
            for key in looked:
                last, uses, weight = known[key]
                age = now - last
                if age < 4:
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
        while len(self._ghosts) > GHOSTS * max(len(self._known), 16):
            _, (last, uses) = self._ghosts.popitem(last=False)
            self._given_up[_CLASS[uses]][_age(self._now - last)] += 1

    def _learn(self) -> None:
        """The densities from the counts, and the counts fade."""
        self._due = self._now + max(128, len(self._known))
        for number, (again, given_up) in enumerate(zip(self._again, self._given_up, strict=True)):
            hits = time = events = 0.0
            row = self._densities[number]
            for age in range(AGES - 1, -1, -1):
                hits += again[age]
                events += again[age] + given_up[age]
                # whoever reaches this age spends its width here
                time += events * _WIDTHS[age]
                if events > 0.5:
                    row[age] = hits / time
                again[age] *= FADES
                given_up[age] *= FADES

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Hashable]:
        def density(key: Hashable) -> float:
            last, uses, weight = self._known[key]
            return self._densities[_CLASS[uses]][_age(self._now - last)] / weight

        return iter(sorted(self._known, key=density))


def _age(uses: int) -> int:
    """The row's place: exact below 4, then four to a doubling."""
    if uses < 4:
        return uses
    bits = uses.bit_length()
    return 4 * (bits - 2) + ((uses >> (bits - 3)) & 3)


def _moved(row: list[float], places: int) -> list[float]:
    """The row so many places further on, or back; the end it comes from is drawn out."""
    if places >= 0:
        return [row[0]] * min(places, AGES) + row[: max(0, AGES - places)]
    return row[-places:] + [row[-1]] * min(-places, AGES)
