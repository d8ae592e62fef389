"""The cache as its users see it: values of one kind, in memory and in the tiers behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from functools import partial
from typing import Final, Generic, Literal, TypeAlias, TypeVar

from vivace.cache import values
from vivace.cache.bounded import BoundedStore
from vivace.cache.lease import DistributedLease
from vivace.cache.shared import SharedTiers
from vivace.cache.single_flight import SingleFlight, always
from vivace.errors import DeadlineExceeded, Overloaded
from vivace.run.work import current
from vivace.trace import Trace

V = TypeVar("V")
TimeToLive: TypeAlias = float | Callable[[V], float | None] | None
"""Seconds, None for ever, 0 for a value that is not kept; or a function of the value."""

_OWN: Final = (DeadlineExceeded, Overloaded)
"""Errors of the caller that computes a value, which say nothing about other callers: its deadline
passed, or there was no room for its work."""


class _InProgress:
    """A value being computed or read; deleting its key outdates it, and it is not kept."""

    __slots__ = ("outdated",)

    def __init__(self) -> None:
        self.outdated = False

    def wanted(self) -> bool:
        return not self.outdated


class CacheNamespace(Generic[V]):
    """Values of one kind; made by `Memory.namespace`.

    A hit in memory waits for nothing. A miss asks the tiers, the nearest first; nearer ones and the
    memory receive what a farther one has, for the time it has left. Tiers raise nothing: a failure
    is a miss. Without tiers it costs what the memory costs, on any event loop and thread; with
    tiers it belongs to one event loop.

    Args:
        store: the memory of this process, shared by all kinds.
        tiers: None for values that this process keeps to itself.
        encode: a value as bytes, for the tiers; `decode` is the inverse.
        lease: over all processes, one computes a value.
        now: seconds since 1970.
    """

    def __init__(
        self,
        kind: str,
        store: BoundedStore,
        tiers: SharedTiers | None = None,
        *,
        encode: Callable[[V], bytes] | None = None,
        decode: Callable[[bytes], V] | None = None,
        lease: bool = True,
        trace: Trace | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.kind = kind
        self._store = store
        self._counts = store.counts(kind)
        self._tiers = tiers if encode is not None and decode is not None else None
        self._encode, self._decode = encode, decode
        self._seal = tiers.seal if tiers is not None else None
        self._lease: DistributedLease | None = None
        if self._tiers is not None and lease:
            self._lease = self._tiers.lease
        self._trace = trace or Trace()
        self._now = now
        self._flights = SingleFlight()
        self._pending: dict[bytes, set[_InProgress]] = {}

    # -- one value --------------------------------------------------------------------------

    def get_local(self, key: bytes) -> V | None:
        """The value in memory, without asking the tiers."""
        value: V | None = self._store.get(key, self._counts)
        return value

    async def get(self, key: bytes) -> V | None:
        value: V | None = self._store.get(key, self._counts)
        if value is not None or self._tiers is None:
            return value
        return await self._fetch(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[V | None]:
        """As `get`, in the time of one: the tiers are asked for all missing keys concurrently."""
        found: list[V | None] = [self._store.get(key, self._counts) for key in keys]
        missing = dict.fromkeys(key for key, value in zip(keys, found) if value is None)
        if self._tiers is None or not missing:
            return found
        fetched = dict(zip(missing, await asyncio.gather(*map(self._fetch, missing)), strict=True))
        return [fetched.get(key, value) for key, value in zip(keys, found, strict=True)]

    async def set(
        self, key: bytes, value: V, *, ttl: float | None = None, cost: float = 1.0
    ) -> None:
        """Keep a value; not if its key has been deleted since its computation began.

        Args:
            ttl: seconds; None: until it is evicted.
            cost: milliseconds of computing it.
        """
        if any(pending.outdated for pending in self._pending.get(key, ())):
            return
        self._store.set(key, value, self._counts, ttl=ttl, cost=cost)
        if self._tiers is not None:
            await self._write(key, value, ttl)

    async def delete(self, key: bytes) -> bool:
        """Whether the memory had it. Other processes forget it as soon as they can be reached."""
        had = self._store.delete(key)
        self.outdate(key)
        if self._tiers is not None:
            await self._tiers.delete(key)
        return had

    def outdate(self, key: bytes | None) -> None:
        """What is being computed for this key (None: for any key) will not be kept."""
        groups = self._pending.values() if key is None else (self._pending.get(key, set()),)
        for group in groups:
            for pending in group:
                pending.outdated = True
        if self._lease is not None:
            self._lease.forget(key)

    def count(self, what: Literal["shared", "stale", "failed"]) -> None:
        """Count an event that a user of the namespace knows of: see `CacheCounts`."""
        self._store.count(self._counts, what)

    # -- computing what is missing ----------------------------------------------------------

    async def get_or_compute(
        self,
        key: bytes,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: TimeToLive[V],
        cost: float | None = None,
    ) -> V:
        """The value; if there is none, what `compute` returns: see `compute`."""
        value: V | None = self._store.get(key, self._counts)
        if value is not None:
            return value
        return await self.compute(key, compute, ttl=ttl, cost=cost)

    async def compute(
        self,
        key: bytes,
        compute: Callable[[], Awaitable[V]],
        *,
        ttl: TimeToLive[V],
        cost: float | None = None,
        shared: Callable[[V], bool] = always,
        patience: float | None = None,
    ) -> V:
        """After a miss: ask the tiers, then compute and keep the value.

        Concurrent callers of one priority compute once (see `SingleFlight.run`); an urgent caller
        does not wait for one in the background.

        Args:
            ttl: of the value computed; called in the step in which `compute` returned.
            cost: milliseconds; None is the time it took.
            shared: whether concurrent callers may have the value.
            patience: seconds after which a caller that waits for another computes for itself.

        Raises:
            Exception: whatever `compute` raised; it is not kept. Nothing of the tiers.
        """

        async def computed() -> V:
            found: V | None = self._store.peek(key)  # set by another thread since the miss
            if found is not None:
                return found
            start = time.perf_counter()
            with self._tracked(key) as pending:
                value, life = await self._read_or_compute(key, compute, ttl, pending)
                if pending.wanted() and (life is None or life > 0):
                    took = 1e3 * (time.perf_counter() - start) if cost is None else cost
                    self._store.set(key, value, self._counts, ttl=life, cost=took)
            return value

        return await self._flights.run(
            (key, current().priority),
            computed,
            shared=shared,
            own=_OWN,
            patience=patience,
            joined=lambda: self.count("shared"),
        )

    def lead(self, key: bytes) -> AbstractAsyncContextManager[V | None]:
        """Enter it for the value, or for None: then compute the value and give it to `set`.

        One process of all computes. Requests of that process that enter meanwhile receive None as
        well, at once; other processes wait for what it computes.
        """
        value: V | None = self._store.get(key, self._counts)
        if value is not None or self._tiers is None:
            return nullcontext(value)
        return self._lead(key)

    # -- inside -----------------------------------------------------------------------------

    async def _read_or_compute(
        self,
        key: bytes,
        compute: Callable[[], Awaitable[V]],
        ttl: TimeToLive[V],
        pending: _InProgress,
    ) -> tuple[V, float | None]:
        """The value and the seconds the memory may keep it."""

        async def made() -> tuple[V, float | None]:
            value = await compute()
            life = ttl(value) if callable(ttl) else ttl
            if self._tiers is not None and pending.wanted() and (life is None or life > 0):
                await self._write(key, value, life)
            return value, life

        if self._tiers is None:
            return await made()
        found, left = await self._read(key, pending)
        lease = self._lease
        if found is None and lease is not None and lease.tier.well:
            async with lease.hold(key, partial(self._open, key), within=left) as found:
                if found is None:
                    return await made()
        if found is None:
            return await made()
        value, life = found
        return value, _shorter(ttl(value) if callable(ttl) else ttl, life)

    @asynccontextmanager
    async def _lead(self, key: bytes) -> AsyncIterator[V | None]:
        with self._tracked(key) as pending:
            found, left = await self._read(key, pending)
            lease = self._lease
            if found is not None or lease is None or not lease.tier.well:
                yield self._kept(key, found, pending)
                return
            async with lease.hold(key, partial(self._open, key), within=left) as found:
                if found is None:
                    yield None
                    return
            yield self._kept(key, found, pending)

    async def _fetch(self, key: bytes) -> V | None:
        with self._tracked(key) as pending:
            found, _ = await self._read(key, pending)
            return self._kept(key, found, pending)

    def _kept(
        self, key: bytes, found: tuple[V, float | None] | None, pending: _InProgress
    ) -> V | None:
        """The value a tier had, from now on in memory; None if its key was deleted meanwhile."""
        if found is None or pending.outdated:
            return None
        value, life = found
        self._store.set(key, value, self._counts, ttl=life)
        return value

    async def _read(
        self, key: bytes, pending: _InProgress
    ) -> tuple[tuple[V, float | None] | None, float]:
        """What the tiers have, with its seconds left; and the seconds the request has left."""
        assert self._tiers is not None
        self._tiers.start()
        return await self._tiers.read(key, partial(self._open, key), pending.wanted)

    async def _write(self, key: bytes, value: V, ttl: float | None) -> None:
        assert self._tiers is not None
        assert self._encode is not None
        expires = None if ttl is None else self._now() + ttl
        data = values.pack(self._encode(value), expires=expires)
        if self._seal is not None:
            data = self._seal.close(key, data)
        await self._tiers.write(key, data, ttl)

    def _open(
        self, key: bytes, data: bytes, remaining: float | None
    ) -> tuple[V, float | None] | None:
        assert self._decode is not None
        if self._seal is not None:
            opened = self._seal.open(key, data)
            if opened is None:
                self._trace.count("cache.unsealed")
                return None
            data = opened
        now = self._now()
        payload = values.unpack(data, now=now)
        if payload is None:
            return None
        try:
            value = self._decode(payload)
        except Exception:
            # whole, but not what its header says, e.g. a wrong schema: no reason to fail a request
            self._trace.count("cache.undecodable")
            return None
        expires = values.expiry(data)
        return value, _shorter(remaining, None if expires is None else expires - now)

    @contextmanager
    def _tracked(self, key: bytes) -> Iterator[_InProgress]:
        pending = _InProgress()
        self._pending.setdefault(key, set()).add(pending)
        try:
            yield pending
        finally:
            group = self._pending[key]
            group.discard(pending)
            if not group:
                del self._pending[key]


def _shorter(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
