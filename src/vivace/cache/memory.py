"""What a process remembers: one bounded memory over all kinds of values, with tiers behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vivace.cache.bounded import BoundedStore
from vivace.cache.namespace import CacheNamespace
from vivace.cache.shared import SharedTiers
from vivace.cache.statistics import CacheStatistics
from vivace.cache.values import Seal
from vivace.cache.values import weigh as weigh_value
from vivace.protocols import CacheTier, EvictionPolicy
from vivace.trace import Trace

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Cleared:
    """How many values the memory had, and of every tier whether it is empty by now."""

    values: int
    tiers: Mapping[str, bool] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why a tier is not empty, where that is known."""


class Memory:
    """Bounds the bytes of all kinds of values together; one `CacheNamespace` for each kind.

    Args:
        capacity: bytes, of `weigh` plus `bounded.ENTRY_BYTES` for each value; 0 keeps nothing.
        policy: of that capacity; not shared with another memory.
        tiers: L2 and L3, the nearest first; closed with the memory.
        tier_seconds: the most that all tiers together delay a request that they do not help.
        lease_seconds: within these a process that dies while it computes is replaced by another; 0:
            every process computes for itself.
        seal: of the values in the tiers.
        weigh, clock, jitter: as of `BoundedStore`.
    """

    def __init__(
        self,
        capacity: int,
        policy: EvictionPolicy,
        *,
        tiers: Sequence[CacheTier] = (),
        tier_seconds: float = 0.03,
        lease_seconds: float = 2.0,
        seal: Seal | None = None,
        trace: Trace | None = None,
        weigh: Callable[[Any], int] = weigh_value,
        clock: Callable[[], float] = time.monotonic,
        jitter: float = 0.1,
    ) -> None:
        self.store = BoundedStore(capacity, policy, weigh=weigh, clock=clock, jitter=jitter)
        self.tiers: SharedTiers | None = None
        if tiers:
            self.tiers = SharedTiers(
                tiers,
                self._forget,
                seconds=tier_seconds,
                lease=lease_seconds,
                seal=seal,
                trace=trace,
            )
        self._trace = trace
        self._namespaces: dict[str, CacheNamespace[Any]] = {}
        self._cleared: list[Callable[[], object]] = []

    def namespace(
        self,
        kind: str,
        *,
        encode: Callable[[V], bytes] | None = None,
        decode: Callable[[bytes], V] | None = None,
        lease: bool = True,
    ) -> CacheNamespace[V]:
        """The namespace of a kind: always the same one, as it was made first.

        Args:
            encode: a value as bytes, for the tiers, with its inverse `decode`; without them the
                values stay in this process.
            lease: whether one process computes a value that many of them want.
        """
        found = self._namespaces.get(kind)
        if found is None:
            found = self._namespaces[kind] = CacheNamespace(
                kind,
                self.store,
                self.tiers,
                encode=encode,
                decode=decode,
                lease=lease,
                trace=self._trace,
            )
        return found

    def on_clear(self, callback: Callable[[], object]) -> None:
        """Have it called when everything is forgotten, by this process or by another one."""
        self._cleared.append(callback)

    def statistics(self) -> CacheStatistics:
        return self.store.statistics()

    def resize(self, capacity: int) -> None:
        """Change the capacity, in bytes."""
        self.store.resize(capacity)

    async def clear(self, seconds: float | None = None) -> Cleared:
        """Forget everything, in the tiers and in other processes as well.

        Args:
            seconds: how long to wait for tiers that can be reached; None: as long as for a read.
        """
        count = self._forget(None, None)
        if self.tiers is None:
            return Cleared(count)
        await self.tiers.clear(seconds)
        empty = {tier.name: not tier.queue.clearing for tier in self.tiers.tiers}
        failures = {
            tier.name: tier.failure
            for tier in self.tiers.tiers
            if tier.failure and not empty[tier.name]
        }
        return Cleared(count, empty, failures)

    async def close(self) -> None:
        """Write what is queued for the tiers, as far as they take it, and disconnect from them."""
        if self.tiers is not None:
            await self.tiers.close()

    def _forget(self, key: bytes | None, kind: str | None) -> int:
        """In this process; how many values there were."""
        if key is not None:
            count = int(self.store.delete(key))
        else:
            count = self.store.clear(kind)
            for callback in self._cleared:
                callback()
        for namespace in self._namespaces.values():
            namespace.outdate(key)
        return count
