"""L1: what this process remembers, as objects, in so many bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import partial
from random import Random
from typing import Any, Final, Generic, Literal, TypeVar

from vivace.cache.flight import SingleFlight
from vivace.cache.renewals import Revalidation
from vivace.cache.statistics import CacheCounts, CacheStatistics
from vivace.errors import DeadlineExceeded, Overloaded
from vivace.protocols import EvictionPolicy

V = TypeVar("V")

ENTRY_BYTES: Final = 400
"""What an entry takes beside its value, with its key and its place in the policy."""
_FOREVER: Final = float("inf")
_OWN: Final = (DeadlineExceeded, Overloaded)
"""Errors of who computes: his time, or his turn. Those that wait for him try for themselves."""


class Reason(StrEnum):
    """Why a value left."""

    EVICTED = "evicted"
    REFUSED = "refused"
    EXPIRED = "expired"
    REPLACED = "replaced"
    DELETED = "deleted"
    CLEARED = "cleared"


class _Entry(Generic[V]):
    __slots__ = ("cost", "counts", "expires", "stale_until", "value", "weight")

    def __init__(
        self,
        value: V,
        expires: float,
        stale_until: float,
        weight: int,
        cost: float,
        counts: CacheCounts,
    ) -> None:
        self.value = value
        self.expires = expires
        self.stale_until = stale_until
        self.weight = weight
        self.cost = cost
        self.counts = counts


class Memory(Generic[V]):
    """A cache of objects, bounded in bytes. Safe from any thread; values are shared, not copied.

    What is asked for costs one lock, one lookup, one look at the clock and the policy's `hit`.
    Nothing sweeps: what has expired goes when it is asked for, or as the policy's victim.

    Args:
        capacity: bytes, of what `weigh` says and `ENTRY_BYTES` each.
        policy: of that capacity; its own, for it is called under the lock.
        weigh: bytes of a value.
        clock: monotonic seconds.
        jitter: the share of its time that a value may lose, so that what came together does not go
            together.
        removed: told of every value that leaves, outside of the lock, by the thread that made it.
    """

    def __init__(
        self,
        capacity: int,
        policy: EvictionPolicy,
        *,
        weigh: Callable[[V], int],
        clock: Callable[[], float] = time.monotonic,
        jitter: float = 0.1,
        removed: Callable[[bytes, V, Reason], None] | None = None,
    ) -> None:
        self.flights = SingleFlight()
        """What is being computed; also for who has to keep a value by rules of his own."""
        self._capacity = capacity
        self._policy = policy
        self._hit = policy.hit
        self._weigh = weigh
        self._clock = clock
        self._jitter = jitter
        self._random = Random().random
        self._removed = removed
        self._lock = threading.Lock()
        self._entries: dict[bytes, _Entry[V]] = {}
        self._kinds: dict[str, CacheCounts] = {}
        self._renewals = Revalidation()

    # -- one value --------------------------------------------------------------------------

    def get(self, key: bytes, kind: str = "") -> V | None:
        """The value; None where there is none or it has expired. A miss counts to the `kind`."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and self._clock() < entry.expires:
                counts = entry.counts
                counts.hits += 1
                counts.saved += entry.cost
                self._hit(key)
                return entry.value
        self._missed(key, kind)
        return None

    def peek(self, key: bytes) -> V | None:
        """As `get`, without a trace in the statistics or the policy."""
        with self._lock:
            entry = self._entries.get(key)
            return entry.value if entry is not None and self._clock() < entry.expires else None

    def set(
        self,
        key: bytes,
        value: V,
        *,
        ttl: float | None = None,
        cost: float = 1.0,
        kind: str = "",
        stale: float = 0.0,
    ) -> None:
        """Keep a value, in place of the one before.

        Args:
            ttl: seconds it lives, less up to the jitter's share; None is until it is evicted. With
                0 or less nothing is kept.
            cost: what computing it again would take; the policy's, and summed up as `saved`. One
                memory has one unit: here, milliseconds.
            stale: seconds that `get_or_compute` may give it for after that.
        """
        if ttl is not None and ttl <= 0:
            self.delete(key)
            return
        weight = self._weigh(value) + ENTRY_BYTES
        expires = _FOREVER
        if ttl is not None:
            expires = self._clock() + ttl * (1 - self._jitter * self._random())
        left: list[tuple[bytes, V, Reason]] = []
        with self._lock:
            counts = self._counts(kind)
            counts.sets += 1
            before = self._entries.get(key)
            if before is not None:
                left.append((key, self._drop(key, before), Reason.REPLACED))
            entry = _Entry(value, expires, expires + stale, weight, cost, counts)
            if weight > self._capacity:
                self._policy.remove(key)
                counts.refused += 1
                left.append((key, value, Reason.REFUSED))
            elif before is not None and before.weight == weight:
                self._admit(key, entry)
                self._hit(key)  # as it was: what the policy knows of it stays
            else:
                if before is not None:
                    self._policy.remove(key)
                self._admit(key, entry)
                self._evict(self._policy.insert(key, weight=weight, cost=cost), key, left)
        self._tell(left)

    def delete(self, key: bytes) -> bool:
        """Forget it; whether it was there."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return False
            self._drop(key, entry)
            self._policy.remove(key)
        self._tell([(key, entry.value, Reason.DELETED)])
        return True

    # -- all of them ------------------------------------------------------------------------

    def clear(self, kind: str | None = None) -> int:
        """Forget everything, or everything of a kind; returns how many values that were."""
        with self._lock:
            counts = None if kind is None else self._counts(kind)
            gone = [
                (key, entry)
                for key, entry in self._entries.items()
                if counts is None or entry.counts is counts
            ]
            for key, entry in gone:
                self._drop(key, entry)
                self._policy.remove(key)
        self._tell([(key, entry.value, Reason.CLEARED) for key, entry in gone])
        return len(gone)

    def resize(self, capacity: int) -> None:
        """So many bytes from now on."""
        left: list[tuple[bytes, V, Reason]] = []
        with self._lock:
            self._capacity = capacity
            self._evict(self._policy.resize(capacity), None, left)
        self._tell(left)

    def statistics(self) -> CacheStatistics:
        with self._lock:
            kinds = {kind: counts.copy() for kind, counts in sorted(self._kinds.items())}
            return CacheStatistics(self._capacity, self._policy.name, kinds)

    # -- computing what is not there --------------------------------------------------------

    async def get_or_compute(
        self,
        key: bytes,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: float | Callable[[V], float | None] | None,
        stale: float = 0.0,
        cost: float | None = None,
        kind: str = "",
    ) -> V:
        """The value; where there is none, what `compute` makes, once for all that ask at once.

        One that has expired, by less than `stale` seconds, is given at once, and made again behind
        it. What fails is not kept. See `SingleFlight.run` for leaders that fail or are cancelled.

        Args:
            ttl: as of `set`; or what says it of a value.
            cost: as of `set`; None is the milliseconds that computing took.
        """
        value = self.get(key, kind)
        if value is not None:
            return value

        async def made() -> V:
            found = self.peek(key)  # of another thread, since we looked
            if found is not None:
                return found
            start = time.perf_counter()
            value = await compute()
            took = 1e3 * (time.perf_counter() - start) if cost is None else cost
            lives = ttl(value) if callable(ttl) else ttl
            self.set(key, value, ttl=lives, cost=took, kind=kind, stale=stale)
            return value

        if stale > 0:
            old = self._stale(key)
            if old is not None:
                again = partial(self.flights.run, key, made)
                self._renewals.begin(key, again, partial(self.count, kind, "failed"))
                return old

        def joined() -> None:
            self.count(kind, "shared")

        return await self.flights.run(key, made, own=_OWN, joined=joined)

    def get_or_call(
        self,
        key: bytes,
        compute: Callable[[], V],
        *,
        ttl: float | None,
        cost: float | None = None,
        kind: str = "",
    ) -> V:
        """`get_or_compute` for a thread that may block."""
        value = self.get(key, kind)
        if value is not None:
            return value

        def made() -> V:
            found = self.peek(key)
            if found is not None:
                return found
            start = time.perf_counter()
            value = compute()
            took = 1e3 * (time.perf_counter() - start) if cost is None else cost
            self.set(key, value, ttl=ttl, cost=took, kind=kind)
            return value

        return self.flights.call(key, made)

    def count(self, kind: str, what: Literal["shared", "stale", "failed"]) -> None:
        """By who keeps values of that kind by rules of his own: see `CacheCounts`."""
        with self._lock:
            counts = self._counts(kind)
            setattr(counts, what, getattr(counts, what) + 1)

    async def settle(self) -> None:
        """Wait until nothing is made again behind a stale value."""
        await self._renewals.settle()

    def close(self) -> None:
        """Give up what is made again behind stale values. Idempotent; from their event loop."""
        self._renewals.cancel()

    # -- inside -----------------------------------------------------------------------------

    def _missed(self, key: bytes, kind: str) -> None:
        gone: _Entry[V] | None = None
        with self._lock:
            counts = self._counts(kind)
            counts.misses += 1
            entry = self._entries.get(key)
            if entry is not None and self._clock() >= entry.stale_until:
                gone = entry
                self._drop(key, entry)
                self._policy.remove(key)
                entry.counts.expired += 1
        if gone is not None:
            self._tell([(key, gone.value, Reason.EXPIRED)])

    def _stale(self, key: bytes) -> V | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            entry.counts.misses -= 1  # `get` took it for one
            entry.counts.hits += 1
            entry.counts.stale += 1
            entry.counts.saved += entry.cost
            self._hit(key)
            return entry.value

    def _counts(self, kind: str) -> CacheCounts:
        counts = self._kinds.get(kind)
        if counts is None:
            counts = self._kinds[kind] = CacheCounts()
        return counts

    def _admit(self, key: bytes, entry: _Entry[V]) -> None:
        self._entries[key] = entry
        entry.counts.entries += 1
        entry.counts.bytes += entry.weight

    def _drop(self, key: bytes, entry: _Entry[V]) -> V:
        del self._entries[key]
        entry.counts.entries -= 1
        entry.counts.bytes -= entry.weight
        return entry.value

    def _evict(
        self, victims: list[Any], new: bytes | None, left: list[tuple[bytes, V, Reason]]
    ) -> None:
        for key in victims:
            entry = self._entries.get(key)
            if entry is None:
                continue
            reason = Reason.REFUSED if key == new else Reason.EVICTED
            setattr(entry.counts, reason.value, getattr(entry.counts, reason.value) + 1)
            left.append((key, self._drop(key, entry), reason))

    def _tell(self, left: list[tuple[bytes, V, Reason]]) -> None:
        if self._removed is not None:
            for key, value, reason in left:
                self._removed(key, value, reason)
