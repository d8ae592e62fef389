"""How does a stream of keys look? Told from a sample of its keys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from math import log
from typing import Final

KEPT: Final = 4_096
"""Keys of the sample that are remembered, the last used ones."""
_BINS: Final = 48


@dataclass(frozen=True, slots=True)
class AccessPattern:
    """All but `skew` are of uses since the ghosts began, of which older ones count no less."""

    uses: int
    """Sampled."""
    skew: float
    """Zipf's exponent of the remembered keys: 0 is all alike, 1 is what questions often have."""
    recency: float
    """Share of the uses whose key was among the last used tenth of the remembered ones' time."""
    scan: float
    """Share of the uses of a key that was not remembered: new, or long gone."""
    reuse: int
    """Median of the uses between two of one key; 0 while none came again."""


class AccessPatternAnalyzer:
    """CacheCounts uses; a microsecond each, of the sample alone."""

    __slots__ = ("_between", "_keys", "_new", "_now", "share")

    def __init__(self) -> None:
        self.share = 1.0
        """Of all keys, how many are sampled: by it distances are those of the whole stream."""
        self._now = self._new = 0
        self._keys: OrderedDict[Hashable, list[int]] = OrderedDict()
        """Last use and uses, the last used last."""
        self._between = [0] * _BINS
        """By the binary logarithm of the distance."""

    def add(self, key: Hashable) -> None:
        self._now += 1
        entry = self._keys.get(key)
        if entry is None:
            self._new += 1
            self._keys[key] = [self._now, 1]
            if len(self._keys) > KEPT:
                self._keys.popitem(last=False)
            return
        self._between[(self._now - entry[0]).bit_length()] += 1
        entry[0] = self._now
        entry[1] += 1
        self._keys.move_to_end(key)

    def pattern(self) -> AccessPattern:
        total = max(1, self._now)
        again = sum(self._between)
        middle = seen = 0
        for bits, count in enumerate(self._between):
            seen += count
            if again and 2 * seen >= again:
                middle = round((1 << max(0, bits - 1)) / self.share)
                break
        near = sum(self._between[: max(1, (len(self._keys) // 10).bit_length())])
        counts = sorted((uses for _, uses in self._keys.values()), reverse=True)
        return AccessPattern(self._now, _zipf(counts), near / total, self._new / total, middle)


def _zipf(counts: list[int]) -> float:
    """The slope of log count over log rank, by least squares, of those used more than once."""
    points = [(log(rank), log(count)) for rank, count in enumerate(counts, 1) if count > 1]
    if len(points) < 3:
        return 0.0
    x = sum(a for a, _ in points) / len(points)
    y = sum(b for _, b in points) / len(points)
    spread = sum((a - x) ** 2 for a, _ in points)
    return max(0.0, -sum((a - x) * (b - y) for a, b in points) / spread)
