"""What one process has of a cache over tiers; several of them in one process of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from vivace.cache.adaptation import make_policy
from vivace.cache.memory import Memory
from vivace.cache.namespace import CacheNamespace
from vivace.cache.shared import Invalidation, SharedTiers
from vivace.cache.values import Seal
from vivace.protocols import CacheTier


class Process:
    """A memory of bytes over the tiers, with a clock of its own.

    Args:
        capacity: of the memory; 0 keeps nothing.
        lease: seconds; 0 is none.
    """

    def __init__(
        self,
        tiers: Sequence[CacheTier],
        *,
        lease: float = 0.0,
        seconds: float = 1.0,
        capacity: int = 1 << 20,
        secret: str = "",
    ) -> None:
        self.now = 0.0
        self.memory = Memory(
            capacity,
            make_policy("lru", capacity),
            tiers=tiers,
            tier_seconds=seconds,
            lease_seconds=lease,
            seal=Seal(secret) if secret else None,
            weigh=len,
            clock=lambda: self.now,
            jitter=0.0,
        )
        self.values: CacheNamespace[bytes] = self.memory.namespace(
            "bytes", encode=bytes, decode=bytes
        )

    @property
    def tiers(self) -> SharedTiers:
        assert self.memory.tiers is not None
        return self.memory.tiers

    @property
    def invalidation(self) -> Invalidation:
        assert self.tiers.invalidation is not None
        return self.tiers.invalidation

    def held(self, key: bytes) -> bytes | None:
        """What the memory has, without a trace."""
        value: bytes | None = self.memory.store.peek(key)
        return value

    async def listening(self) -> None:
        """Return when it hears of deletes; in that moment it forgets everything."""
        self.tiers.start()
        await self.invalidation.connected.wait()

    async def drained(self) -> None:
        """Return when every tier has everything that was written."""
        await asyncio.gather(*(tier.queue.drained() for tier in self.tiers.tiers))

    async def close(self) -> None:
        await self.memory.close()
