"""What a cache did, by kind of value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace


@dataclass(slots=True)
class CacheCounts:
    """Of one kind of values; of all of them, where they are added up."""

    hits: int = 0
    """Of these, `stale` were past their time and are being made again."""
    misses: int = 0
    shared: int = 0
    """Misses that got what another one was computing."""
    sets: int = 0
    evicted: int = 0
    """By the policy, for something else."""
    refused: int = 0
    """Not let in by the policy, or larger than all the cache."""
    expired: int = 0
    stale: int = 0
    failed: int = 0
    """Of those that were to be made again, behind a stale one."""
    entries: int = 0
    bytes: int = 0
    saved: float = 0.0
    """The cost of what the hits did not compute: milliseconds, unless it was told otherwise."""

    @property
    def ratio(self) -> float:
        """Hits of all that was asked for; 0 where nothing was."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0

    def add(self, other: CacheCounts) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def copy(self) -> CacheCounts:
        return replace(self)


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """How a memory stands. `capacity` and `bytes` are of one measure: the weigher's."""

    capacity: int
    policy: str
    kinds: Mapping[str, CacheCounts] = field(default_factory=dict)

    @property
    def total(self) -> CacheCounts:
        """Of all kinds together."""
        total = CacheCounts()
        for counts in self.kinds.values():
            total.add(counts)
        return total
