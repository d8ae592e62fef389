"""What a cache did, by kind of value, and what the stream of its keys looks like."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import log
from typing import Final

_REMEMBERED: Final = 4_096
"""Keys of the sample that the analyzer remembers: the most recently used ones."""
_BINS: Final = 48


@dataclass(slots=True)
class CacheCounts:
    """Counts of one kind of values, or of all kinds together."""

    hits: int = 0
    """`stale` of these had expired and are being recomputed in the background."""
    misses: int = 0
    shared: int = 0
    """Misses that received the value another caller was computing."""
    sets: int = 0
    evicted: int = 0
    """Removed by the policy to make room."""
    refused: int = 0
    """Not admitted by the policy, or larger than the whole cache."""
    expired: int = 0
    stale: int = 0
    failed: int = 0
    """Background recomputations of stale values that failed."""
    entries: int = 0
    bytes: int = 0
    saved: float = 0.0
    """Sum of the costs of the values hit: milliseconds of computing, unless `set` was given others.
    """

    @property
    def ratio(self) -> float:
        """Hits divided by requests; 0 without requests."""
        requests = self.hits + self.misses
        return self.hits / requests if requests else 0.0

    def add(self, other: CacheCounts) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def copy(self) -> CacheCounts:
        return replace(self)


@dataclass(frozen=True, slots=True)
class AccessPattern:
    """What a stream of keys looks like, from a sample of them taken since the cache was full."""

    uses: int
    """Sampled uses."""
    skew: float
    """Zipf's exponent of the remembered keys: 0 is uniform, 1 is usual for questions."""
    recency: float
    """Share of uses whose key came again within a tenth of the remembered keys' time."""
    scan: float
    """Share of uses whose key was not remembered: new, or not used for long."""
    reuse: int
    """Median number of uses between two uses of one key; 0 while no key has come again."""


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """The state of a cache; `capacity` and the counts' `bytes` have the same unit."""

    capacity: int
    policy: str
    kinds: Mapping[str, CacheCounts] = field(default_factory=dict)
    live: str = ""
    """The eviction policy in force: what `auto` has chosen, otherwise `policy`."""
    pattern: AccessPattern | None = None
    """Known only to the policy `auto`, and once the cache was full."""

    @property
    def total(self) -> CacheCounts:
        """Of all kinds together."""
        total = CacheCounts()
        for counts in self.kinds.values():
            total.add(counts)
        return total


class AccessPatternAnalyzer:
    """Counts uses of keys, a microsecond each; the cache shows it a sample of its keys."""

    __slots__ = ("_distances", "_keys", "_new", "_now", "share")

    def __init__(self) -> None:
        self.share = 1.0
        """Share of all keys in the sample; scales distances up to those of the whole stream."""
        self._now = self._new = 0
        self._keys: OrderedDict[Hashable, list[int]] = OrderedDict()
        """Time of the last use and number of uses; the most recently used key is last."""
        self._distances = [0] * _BINS
        """Counts by the binary logarithm of the distance between two uses of a key."""

    def add(self, key: Hashable) -> None:
        self._now += 1
        entry = self._keys.get(key)
        if entry is None:
            self._new += 1
            self._keys[key] = [self._now, 1]
            if len(self._keys) > _REMEMBERED:
                self._keys.popitem(last=False)
            return
        self._distances[(self._now - entry[0]).bit_length()] += 1
        entry[0] = self._now
        entry[1] += 1
        self._keys.move_to_end(key)

    def pattern(self) -> AccessPattern:
        """Takes about a millisecond."""
        total = max(1, self._now)
        again = sum(self._distances)
        median = seen = 0
        for bits, count in enumerate(self._distances):
            seen += count
            if again and 2 * seen >= again:
                median = round((1 << max(0, bits - 1)) / self.share)
                break
        near = sum(self._distances[: max(1, (len(self._keys) // 10).bit_length())])
        counts = sorted((uses for _, uses in self._keys.values()), reverse=True)
        return AccessPattern(self._now, _zipf(counts), near / total, self._new / total, median)


def _zipf(counts: list[int]) -> float:
    """The slope of log count over log rank, by least squares, over keys used more than once."""
    points = [(log(rank), log(count)) for rank, count in enumerate(counts, 1) if count > 1]
    if len(points) < 3:
        return 0.0
    x = sum(a for a, _ in points) / len(points)
    y = sum(b for _, b in points) / len(points)
    spread = sum((a - x) ** 2 for a, _ in points)
    return max(0.0, -sum((a - x) * (b - y) for a, b in points) / spread)
