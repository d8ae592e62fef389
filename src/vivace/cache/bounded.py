"""L1: values of this process as objects, bounded in bytes by an eviction policy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from random import Random
from typing import Any, Final, Literal

from vivace.cache.adaptation import Adaptive
from vivace.cache.statistics import CacheCounts, CacheStatistics
from vivace.protocols import EvictionPolicy

ENTRY_BYTES: Final = 400
"""What an entry takes besides its value: its key, and its place in the policy."""
_FOREVER: Final = float("inf")


class _Entry:
    __slots__ = ("cost", "counts", "expires", "value", "weight")

    def __init__(
        self, value: Any, expires: float, weight: int, cost: float, counts: CacheCounts
    ) -> None:
        self.value = value
        self.expires = expires
        self.weight = weight
        self.cost = cost
        self.counts = counts


class BoundedStore:
    """Key to value, bounded in bytes. Thread-safe; values are shared, not copied.

    A hit costs one lock, one lookup, one reading of the clock and the policy's `hit`. Nothing
    sweeps: an expired value is removed when it is requested, or as the policy's victim.

    Args:
        capacity: bytes, of `weigh` plus `ENTRY_BYTES` for each value.
        policy: of that capacity; it is called under the lock and must not be shared.
        weigh: bytes of a value.
        clock: monotonic seconds.
        jitter: the largest share of its time to live that a value loses, at random: values set
            together do not expire together.
    """

    def __init__(
        self,
        capacity: int,
        policy: EvictionPolicy,
        *,
        weigh: Callable[[Any], int],
        clock: Callable[[], float] = time.monotonic,
        jitter: float = 0.1,
    ) -> None:
        self._capacity = capacity
        self._policy = policy
        self._hit = policy.hit
        self._weigh = weigh
        self._clock = clock
        self._jitter = jitter
        self._random = Random().random
        self._lock = threading.Lock()
        self._entries: dict[bytes, _Entry] = {}
        self._kinds: dict[str, CacheCounts] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def counts(self, kind: str) -> CacheCounts:
        """The counts of a kind, live: change them by `count` alone."""
        with self._lock:
            return self._kinds.setdefault(kind, CacheCounts())

    def get(self, key: bytes, counts: CacheCounts) -> Any:
        """The value, or None if there is none or it has expired; a miss is counted in `counts`."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                if self._clock() < entry.expires:
                    counts = entry.counts
                    counts.hits += 1
                    counts.saved += entry.cost
                    self._hit(key)
                    return entry.value
                self._drop(key, entry)
                self._policy.remove(key)
                entry.counts.expired += 1
            counts.misses += 1
            return None

    def peek(self, key: bytes) -> Any:
        """As `get`, without effect on the counts or the policy."""
        with self._lock:
            entry = self._entries.get(key)
            return entry.value if entry is not None and self._clock() < entry.expires else None

    def set(
        self,
        key: bytes,
        value: Any,
        counts: CacheCounts,
        *,
        ttl: float | None = None,
        cost: float = 1.0,
    ) -> None:
        """Keep a value in place of the previous one.

        Args:
            counts: of the value's kind.
            ttl: seconds to live, shortened by the jitter; None: until it is evicted; 0 or less:
                the key is removed.
            cost: of computing the value again, in any one unit (here milliseconds): for the policy
                and for `CacheCounts.saved`.
        """
        if ttl is not None and ttl <= 0:
            self.delete(key)
            return
        weight = self._weigh(value) + ENTRY_BYTES
        expires = _FOREVER
        if ttl is not None:
            expires = self._clock() + ttl * (1 - self._jitter * self._random())
        with self._lock:
            counts.sets += 1
            before = self._entries.get(key)
            if before is not None:
                self._drop(key, before)
            if weight > self._capacity:
                self._policy.remove(key)
                counts.refused += 1
                return
            self._entries[key] = _Entry(value, expires, weight, cost, counts)
            counts.entries += 1
            counts.bytes += weight
            if before is not None and before.weight == weight:
                self._hit(key)  # the policy keeps what it knows of the key
                return
            if before is not None:
                self._policy.remove(key)
            self._evict(self._policy.insert(key, weight=weight, cost=cost), key)

    def delete(self, key: bytes) -> bool:
        """Remove the key; whether it was there."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return False
            self._drop(key, entry)
            self._policy.remove(key)
            return True

    def clear(self, kind: str | None = None) -> int:
        """Remove all values, or those of a kind; returns how many there were."""
        with self._lock:
            counts = None if kind is None else self._kinds.setdefault(kind, CacheCounts())
            gone = [
                (key, entry)
                for key, entry in self._entries.items()
                if counts is None or entry.counts is counts
            ]
            for key, entry in gone:
                self._drop(key, entry)
                self._policy.remove(key)
            return len(gone)

    def resize(self, capacity: int) -> None:
        """Change the capacity, in bytes; evicts what does not fit any more."""
        with self._lock:
            self._capacity = capacity
            self._evict(self._policy.resize(capacity), None)

    def count(self, counts: CacheCounts, what: Literal["shared", "stale", "failed"]) -> None:
        """Count an event that happens outside the store."""
        with self._lock:
            setattr(counts, what, getattr(counts, what) + 1)

    def statistics(self) -> CacheStatistics:
        """A copy; kinds that were never used are left out."""
        with self._lock:
            kinds = {
                kind: counts.copy()
                for kind, counts in sorted(self._kinds.items())
                if counts.hits or counts.misses or counts.sets
            }
            policy, live, pattern = self._policy, self._policy.name, None
            if isinstance(policy, Adaptive):
                live, pattern = policy.live, policy.pattern if policy.pattern.uses else None
            return CacheStatistics(self._capacity, policy.name, kinds, live, pattern)

    def _drop(self, key: bytes, entry: _Entry) -> None:
        del self._entries[key]
        entry.counts.entries -= 1
        entry.counts.bytes -= entry.weight

    def _evict(self, victims: list[Hashable], new: bytes | None) -> None:
        for key in victims:
            entry = self._entries.get(key)  # type: ignore[call-overload]
            if entry is None:
                continue
            if key == new:
                entry.counts.refused += 1
            else:
                entry.counts.evicted += 1
            self._drop(key, entry)  # type: ignore[arg-type]
