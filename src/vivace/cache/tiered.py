"""A memory in front of the tiers: read through, fill back, write behind, compute once.

Whatever happens to the tiers, a request is answered, and they keep it no longer than the time of
one call: L2 may take half of it where there is an L3, and L3 what is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from vivace.cache import codec
from vivace.cache.failures import TierFailure
from vivace.cache.guarded import ResilientTier
from vivace.cache.invalidation import Channel, Invalidation
from vivace.cache.lease import DistributedLease, Leases
from vivace.protocols import CacheTier
from vivace.trace import Trace

V = TypeVar("V")
Life: TypeAlias = float | Callable[[V], float | None] | None
"""Seconds, None for ever, or what says it of a value."""

_LEAST: Final = 0.001
"""Seconds under which there is no sense in asking a tier."""


class Remembers(Protocol[V]):
    """The memory in front: `vivace.cache.memory.Memory`."""

    def get(self, key: bytes) -> V | None: ...

    def set(
        self, key: bytes, value: V, *, ttl: float | None = None, cost: float = 1.0, kind: str = ""
    ) -> None: ...

    def delete(self, key: bytes) -> bool: ...

    def clear(self, kind: str | None = None) -> int: ...

    async def get_or_compute(
        self,
        key: bytes,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: Life[V],
        stale: float = 0.0,
        cost: float | None = None,
        kind: str = "",
    ) -> V: ...


class _Flight:
    """A value under way. What is deleted meanwhile must not come in by it."""

    __slots__ = ("_filled", "_left", "outdated")

    def __init__(self) -> None:
        self.outdated = False
        self._filled = False
        self._left: float | None = None

    def fill(self, left: float | None) -> None:
        """The value came from a tier, where it has so many seconds left."""
        self._filled, self._left = True, left

    def life(self, ttl: float | None) -> float | None:
        """Seconds the memory may keep it; 0 is not at all."""
        if self.outdated:
            return 0.0
        return _shorter(ttl, self._left) if self._filled else ttl


def guarded(tiers: Sequence[CacheTier], seconds: float, trace: Trace | None) -> list[ResilientTier]:
    """The tiers behind timeouts and breakers; those that are already stay as they are."""
    return [
        tier
        if isinstance(tier, ResilientTier)
        else ResilientTier(tier, seconds=seconds, trace=trace)
        for tier in tiers
    ]


def invalidation(tiers: Sequence[CacheTier]) -> Invalidation | None:
    """The version channel of the first tier that has one: one a process, for all its `Tiered`."""
    for tier in tiers:
        if isinstance(tier, ResilientTier) and isinstance(tier.tier, Channel):
            return Invalidation(tier, tier.tier)
    return None


class Tiered(Generic[V]):
    """The interface of `Memory`, asynchronous. Without tiers it costs what the memory costs.

    Args:
        tiers: the nearest first, as `vivace.cache.tiers.load` gives them. Whoever loaded them
            closes them.
        encode: a value as bytes, for the tiers; `decode` is the way back.
        schema: of those bytes; what another one wrote is a miss.
        seconds: most that the tiers may add to a request that they cannot help.
        lease: seconds within which a process that dies while it computes is replaced; 0: every
            process computes for itself.
        channel: shared by all `Tiered` of a process, see `invalidation`.
        now: seconds since 1970.
    """

    def __init__(
        self,
        memory: Remembers[V],
        tiers: Sequence[CacheTier] = (),
        *,
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        schema: int = 1,
        seconds: float = 0.03,
        lease: float = 2.0,
        channel: Invalidation | None = None,
        trace: Trace | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.memory = memory
        self._tiers = guarded(tiers, seconds, trace)
        self._encode, self._decode, self._schema = encode, decode, schema
        self._seconds = seconds
        self._trace = trace or Trace()
        self._now = now
        self._flying: dict[bytes, set[_Flight]] = {}
        self._channel = channel
        if channel is not None:
            channel.subscribe(self.forget)
        self._lease: DistributedLease[tuple[V, float | None]] | None = None
        for tier in self._tiers if lease > 0 else ():
            if isinstance(tier.tier, Leases):
                self._lease = DistributedLease(tier, tier.tier, seconds=lease)
                break

    async def get(self, key: bytes) -> V | None:
        """The value, of the nearest that has it; the nearer ones have it from then on."""
        value = self.memory.get(key)
        if value is not None or not self._tiers:
            return value
        self._begin()
        return await self._found(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[V | None]:
        """As `get`, in the time of one: the tiers are asked for all of them at once."""
        values = [self.memory.get(key) for key in keys]
        missing = dict.fromkeys(key for key, value in zip(keys, values) if value is None)
        if not self._tiers or not missing:
            return values
        self._begin()
        found = dict(zip(missing, await asyncio.gather(*map(self._found, missing)), strict=True))
        return [found.get(key, value) for key, value in zip(keys, values, strict=True)]

    @asynccontextmanager
    async def lead(self, key: bytes) -> AsyncIterator[V | None]:
        """The value; or None, where whoever entered makes it and gives it to `set`.

        Of all processes one does. Those of it that enter meanwhile get None, too, at once; the
        others wait for what it makes.
        """
        value = self.memory.get(key)
        if value is not None or not self._tiers:
            yield value
            return
        self._begin()
        with self._under_way(key, _Flight()) as flight:
            found, left = await self._read(key, flight)
            lease = self._lease
            if found is not None or lease is None or not lease.guard.well:
                yield self._filled(key, found, flight)
                return
            async with lease.turn(key, self._open, within=left) as made:
                if made is None:
                    yield None
                    return
            yield self._filled(key, made, flight)

    async def set(
        self, key: bytes, value: V, *, ttl: float | None = None, cost: float = 1.0, kind: str = ""
    ) -> None:
        if any(flight.outdated for flight in self._flying.get(key, ())):
            return  # it was deleted while it was made
        self.memory.set(key, value, ttl=ttl, cost=cost, kind=kind)
        if self._tiers:
            await self._write(key, value, ttl)

    async def delete(self, key: bytes) -> bool:
        """Whether the memory had it. The other processes forget it, too, as soon as they can."""
        had = self.memory.delete(key)
        self._outdate(key)
        if self._tiers:
            self._begin()
            for tier in self._tiers:
                await tier.delete(key)
            await self._tell(key, None, self._seconds)
        return had

    async def clear(self, kind: str | None = None, *, seconds: float | None = None) -> int:
        """Forget a kind, or everything; how many the memory had.

        The tiers know no kinds and forget everything: too much is never wrong.

        Args:
            seconds: to wait for tiers that can be asked; else what they may keep a request.
        """
        count = self.memory.clear(kind)
        self._outdate(None)
        if self._tiers:
            self._begin()
            for tier in self._tiers:
                await tier.clear()
            await self._tell(None, kind, self._seconds if seconds is None else seconds)
        return count

    def forget(self, key: bytes | None, kind: str | None) -> None:
        """In this process: another one has deleted it from the tiers, or them all."""
        if key is not None:
            self.memory.delete(key)
        else:
            self.memory.clear(kind)
        self._outdate(key)

    async def get_or_compute(
        self,
        key: bytes,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: Life[V],
        stale: float = 0.0,
        cost: float | None = None,
        kind: str = "",
    ) -> V:
        """As `Memory.get_or_compute`; asks the tiers before it computes.

        Raises:
            Exception: whatever `compute` raised; nothing of the tiers.
        """
        if not self._tiers:
            return await self.memory.get_or_compute(
                key, compute, ttl=ttl, stale=stale, cost=cost, kind=kind
            )
        self._begin()
        flight = _Flight()

        async def through() -> V:
            with self._under_way(key, flight):
                return await self._through(key, compute, ttl, flight)

        def lives(value: V) -> float | None:
            # the memory asks in the step in which `through` ended: nothing comes in between
            return flight.life(_resolved(ttl, value))

        return await self.memory.get_or_compute(
            key, through, ttl=lives, stale=stale, cost=cost, kind=kind
        )

    async def _through(
        self, key: bytes, compute: Callable[[], Awaitable[V]], ttl: Life[V], flight: _Flight
    ) -> V:
        async def stored() -> V:
            value = await compute()
            life = _resolved(ttl, value)
            if not flight.outdated and (life is None or life > 0):
                await self._write(key, value, life)
            return value

        found, left = await self._read(key, flight)
        lease = self._lease
        if found is None and lease is not None and lease.guard.well:
            async with lease.turn(key, self._open, within=left) as found:
                if found is None:
                    return await stored()
        if found is None:
            return await stored()
        flight.fill(found[1])
        return found[0]

    async def _found(self, key: bytes) -> V | None:
        with self._under_way(key, _Flight()) as flight:
            found, _ = await self._read(key, flight)
            return self._filled(key, found, flight)

    def _filled(
        self, key: bytes, found: tuple[V, float | None] | None, flight: _Flight
    ) -> V | None:
        if found is None or flight.outdated:
            return None
        value, life = found
        self.memory.set(key, value, ttl=life)
        return value

    async def _read(
        self, key: bytes, flight: _Flight
    ) -> tuple[tuple[V, float | None] | None, float]:
        """What the first tier that has it has, and the seconds left of a request's time."""
        left = self._seconds
        for number, tier in enumerate(self._tiers):
            if left < _LEAST:
                break
            further = any(other.well for other in self._tiers[number + 1 :])
            began = time.monotonic()
            found = await tier.get(key, within=left / 2 if further else left)
            left -= time.monotonic() - began
            if found is None:
                continue
            opened = self._open(*found)
            if opened is None:
                tier.count("unreadable")
                continue
            for nearer in () if flight.outdated else self._tiers[:number]:
                await nearer.set(key, found[0], ttl=opened[1])
                nearer.count("filled_back")
            return opened, left
        return None, left

    def _pack(self, value: V, ttl: float | None) -> bytes:
        expires = None if ttl is None else self._now() + ttl
        return codec.pack(self._encode(value), schema=self._schema, expires=expires)

    def _open(self, data: bytes, remaining: float | None) -> tuple[V, float | None] | None:
        now = self._now()
        payload = codec.unpack(data, schema=self._schema, now=now)
        if payload is None:
            return None
        try:
            value = self._decode(payload)
        except Exception:
            # whole, and yet not what it says: a wrong schema number, which must not fail a request
            self._trace.count("cache.undecodable")
            return None
        expires = codec.expiry(data)
        return value, _shorter(remaining, None if expires is None else expires - now)

    async def _write(self, key: bytes, value: V, ttl: float | None) -> None:
        """To all tiers, later; to the one whose lease is held, now, if it takes it now."""
        data = self._pack(value, ttl)
        turn = None if self._lease is None else self._lease.led(key)
        if turn is not None and turn.stored:
            return  # another one of this process, of the same stream
        for tier in self._tiers:
            if turn is not None and self._lease is not None and tier is self._lease.guard:
                with suppress(TierFailure):
                    inner = tier.tier
                    await tier.ask(lambda inner=inner: inner.set(key, data, ttl=ttl), of="write_")  # type: ignore[misc]
                    tier.count("written")
                    turn.stored = True
                    continue
            await tier.set(key, data, ttl=ttl)

    async def _tell(self, key: bytes | None, kind: str | None, seconds: float) -> None:
        """Tell the other processes, once the tiers know; and again, where that takes longer."""
        try:
            async with asyncio.timeout(seconds):
                known = all([await tier.settled() for tier in self._tiers])
        except TimeoutError:
            known = False
        if self._channel is not None:
            await self._channel.tell(key, kind)
            if not known:
                # until then they may fill their memory again with what a tier still has
                self._channel.owe([tier.queue.drained for tier in self._tiers])

    def _begin(self) -> None:
        if self._channel is not None:
            self._channel.start()

    @contextmanager
    def _under_way(self, key: bytes, flight: _Flight) -> Iterator[_Flight]:
        self._flying.setdefault(key, set()).add(flight)
        try:
            yield flight
        finally:
            flights = self._flying[key]
            flights.discard(flight)
            if not flights:
                del self._flying[key]

    def _outdate(self, key: bytes | None) -> None:
        groups = self._flying.values() if key is None else (self._flying.get(key, set()),)
        for flights in groups:
            for flight in flights:
                flight.outdated = True
        if self._lease is not None:
            self._lease.forget(key)


def _resolved(ttl: Life[V], value: V) -> float | None:
    return ttl(value) if callable(ttl) else ttl


def _shorter(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
