"""A tier as requests see it: with timeouts, a circuit breaker, write-behind and counters.

The counters are named `cache.TIER.`, then: for reads one of hits, misses, queued (answered by a
write that waits), timeouts, errors, refused or skipped (not tried while the tier is known to be
away); for writes, leases and messages the same failures after `write_`, `lease_` and `tell_`; for
the breaker opened and recovered; for the queue written, erased, dropped and unwritten.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from vivace.cache.tiers.connection import TierFailure, TierRefused, TierUnreachable
from vivace.protocols import CacheTier
from vivace.run.breaker import Breaker, Tolerance
from vivace.trace import Trace

T = TypeVar("T")

_TOLERANCE: Final = Tolerance(in_row=5, first=0.25, longest=0.75)
"""A tier is on the path of every request and cheap to try: it is tried often, but by no request,
so that it serves again within two seconds of its return."""
_PROBE_SECONDS: Final = 0.5
_WRITE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.1
_CLEAR_SECONDS: Final = 60.0
_GRACE_SECONDS: Final = 1.0
_PROBE: Final = b"\0probe"

_ENTRIES: Final = 4096
_MAX_BYTES: Final = 16 << 20
_BATCH: Final = 64
_RETRY_SECONDS: Final = 0.1
"""Between a write that failed and the next."""


@dataclass(frozen=True, slots=True)
class PendingWrite:
    """What a key will be in the tier: a value, or deleted (None); `until` by the queue's clock."""

    value: bytes | None
    until: float | None = None


class WriteTarget(Protocol):
    """Where a `WriteBehind` writes."""

    async def ready(self) -> None:
        """Return when it makes sense to try."""
        ...

    async def write(self, key: bytes, value: bytes, ttl: float | None) -> None: ...

    async def erase(self, key: bytes) -> None: ...

    async def erase_all(self) -> None: ...


class WriteBehind:
    """The queue of writes to one tier, emptied by a task. For the event loop's thread alone.

    A full queue drops its oldest value: that costs a computation later. Deletes are never dropped:
    more of them than the queue holds become one `clear`. Until a delete has reached the tier, its
    key is a miss, so a tier that was away during a delete never returns the deleted value.

    Args:
        entries: most values waiting, and most deletes.
        max_bytes: most bytes of values waiting.
        count: called with the name of an event: `dropped`, `written`, `erased`, `unwritten`.
    """

    def __init__(
        self,
        target: WriteTarget,
        *,
        entries: int = _ENTRIES,
        max_bytes: int = _MAX_BYTES,
        count: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._entries, self._max_bytes = entries, max_bytes
        self._count = count
        self._clock = clock
        self._sets: OrderedDict[bytes, PendingWrite] = OrderedDict()
        self._deletes: OrderedDict[bytes, PendingWrite] = OrderedDict()
        self._busy: dict[bytes, PendingWrite] = {}
        self._bytes = 0
        self.clearing = False
        """Everything in the tier is to be deleted, and the tier has not done it yet."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._sets) + len(self._deletes) + len(self._busy)

    def waiting(self, key: bytes) -> PendingWrite | None:
        """The write of this key that waits, if any."""
        return self._deletes.get(key) or self._sets.get(key) or self._busy.get(key)

    def put(self, key: bytes, value: bytes, ttl: float | None) -> None:
        if len(value) > self._max_bytes:
            self._count("dropped")
            return
        self._take(key)
        self._deletes.pop(key, None)
        self._sets[key] = PendingWrite(value, None if ttl is None else self._clock() + ttl)
        self._bytes += len(value)
        while len(self._sets) > self._entries or self._bytes > self._max_bytes:
            self._take(next(iter(self._sets)))
            self._count("dropped")
        self._go()

    def delete(self, key: bytes) -> None:
        self._take(key)
        self._deletes[key] = PendingWrite(None)
        if len(self._deletes) > self._entries:
            self.clear()
        self._go()

    def clear(self) -> None:
        self._sets.clear()
        self._deletes.clear()
        self._bytes = 0
        self.clearing = True
        self._go()

    async def drained(self) -> None:
        """Return when the tier has everything: never, while the tier is away."""
        await self._idle.wait()

    async def close(self, grace: float) -> None:
        """Stop; values still waiting after `grace` seconds are lost, as any cached value may be."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self.drained()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _take(self, key: bytes) -> None:
        found = self._sets.pop(key, None)
        if found is not None and found.value is not None:
            self._bytes -= len(found.value)

    def _go(self) -> None:
        self._idle.clear()
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="cache write-behind")

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await self._target.ready()
            if not await self._round():
                await asyncio.sleep(_RETRY_SECONDS)
            if not (self.clearing or self._sets or self._deletes):
                self._wake.clear()
                self._idle.set()

    async def _round(self) -> bool:
        """Write a batch; whether all of it succeeded."""
        if self.clearing:
            try:
                await self._target.erase_all()
            except TierFailure:
                return False
            self.clearing = False
        for source in (self._deletes, self._sets):
            while source and len(self._busy) < _BATCH:
                key, write = source.popitem(last=False)
                self._busy[key] = write
                self._bytes -= len(write.value or b"")
        try:
            done = await asyncio.gather(*(self._write(*one) for one in self._busy.items()))
        finally:
            self._busy.clear()
        return all(done)

    async def _write(self, key: bytes, write: PendingWrite) -> bool:
        try:
            if write.value is None:
                await self._target.erase(key)
            else:
                left = None if write.until is None else write.until - self._clock()
                if left is None or left > 0:
                    await self._target.write(key, write.value, left)
        except TierFailure as error:
            newer = self.clearing or key in self._sets or key in self._deletes
            if write.value is None and not newer:
                self._deletes[key] = write
            elif not newer and not isinstance(error, TierRefused):
                # at the end, so that it is not the first to be dropped as the oldest
                self._sets[key] = write
                self._bytes += len(write.value or b"")
            else:
                self._count("unwritten")
            return False
        self._count("written" if write.value is not None else "erased")
        return True


class ResilientTier:
    """A `CacheTier` around another, which raises nothing and keeps no request waiting.

    Args:
        seconds: the most that one call may delay a request.
    """

    def __init__(
        self,
        tier: CacheTier,
        *,
        seconds: float,
        trace: Trace | None = None,
        entries: int = _ENTRIES,
        max_bytes: int = _MAX_BYTES,
        draw: random.Random | None = None,
    ) -> None:
        self.tier = tier
        self.name = tier.name
        self.seconds = seconds
        self.trace = trace or Trace()
        self.failure = ""
        """The last failure: says why the tier is away."""
        self._breaker = Breaker(_TOLERANCE, draw or random.Random())
        self._well = asyncio.Event()
        self._well.set()
        self._probing: asyncio.Task[None] | None = None
        self.queue = WriteBehind(self, entries=entries, max_bytes=max_bytes, count=self.count)

    @property
    def well(self) -> bool:
        """Whether requests try it now."""
        return self._well.is_set()

    def count(self, what: str) -> None:
        self.trace.count(f"cache.{self.name}.{what}")

    async def get(
        self, key: bytes, *, within: float | None = None
    ) -> tuple[bytes, float | None] | None:
        """As `CacheTier.get`; None as well if it is away or does not answer within the seconds."""
        if (write := self.queue.waiting(key)) is not None:
            self.count("queued")
            if write.value is None:
                return None
            left = None if write.until is None else write.until - time.monotonic()
            return (write.value, left) if left is None or left > 0 else None
        if self.queue.clearing:
            self.count("queued")
            return None
        try:
            found = await self.ask(lambda: self.tier.get(key), within=within)
        except TierFailure:
            return None
        deleted = self.queue.clearing or self.queue.waiting(key) is not None
        if found is None or deleted:
            self.count("misses")
            return None
        self.count("hits")
        return found

    async def set(self, key: bytes, value: bytes, *, ttl: float | None = None) -> None:
        """Queue the write."""
        self.queue.put(key, value, ttl)

    async def delete(self, key: bytes) -> None:
        """Makes the key a miss for this process now; deletes it when the tier can be reached."""
        self.queue.delete(key)

    async def clear(self) -> None:
        """As `delete`, of everything."""
        self.queue.clear()

    async def ask(
        self, call: Callable[[], Awaitable[T]], *, within: float | None = None, of: str = ""
    ) -> T:
        """The result of a call of the tier; failures are counted after the prefix `of`.

        Raises:
            TierFailure: there is none, for whatever reason.
        """
        if not self.well:
            self.count(f"{of}skipped")
            raise TierUnreachable(
                f"the cache tier {self.name} is away", fix="It is tried again by itself"
            )
        one = self._breaker.begin()
        try:
            async with asyncio.timeout(self.seconds if within is None else within):
                result = await call()
        except TierRefused as error:
            self.count(f"{of}refused")
            self.failure = str(error)
            self._breaker.succeeded(one, time.monotonic())
            raise
        except asyncio.CancelledError:
            self._breaker.dropped(one)
            raise
        except Exception as error:
            self.count(of + ("timeouts" if isinstance(error, TimeoutError) else "errors"))
            if self._breaker.failed(one, time.monotonic(), spare=False):
                self._open()
            if isinstance(error, TierFailure):
                self.failure = str(error)
                raise
            # a tier may be a user's own: what it raises is its failure, not the request's
            self.failure = f"the cache tier {self.name}: {type(error).__name__}"
            raise TierUnreachable(self.failure) from error
        self._breaker.succeeded(one, time.monotonic())
        return result

    async def settled(self) -> bool:
        """Wait until the tier has everything; False at once where it is away."""
        draining = asyncio.ensure_future(self.queue.drained())
        try:
            while self.well and not draining.done():
                await asyncio.wait([draining], timeout=_LOOK_SECONDS)
            return draining.done()
        finally:
            draining.cancel()

    async def ready(self) -> None:
        await self._well.wait()

    async def write(
        self, key: bytes, value: bytes, ttl: float | None, *, within: float = _WRITE_SECONDS
    ) -> None:
        """Write now.

        Raises:
            TierFailure: it is not written.
        """
        await self.ask(lambda: self.tier.set(key, value, ttl=ttl), within=within, of="write_")

    async def erase(self, key: bytes) -> None:
        await self.ask(lambda: self.tier.delete(key), within=_WRITE_SECONDS, of="write_")

    async def erase_all(self) -> None:
        await self.ask(self.tier.clear, within=_CLEAR_SECONDS, of="write_")

    async def close(self) -> None:
        await self.queue.close(_GRACE_SECONDS if self.well else 0.0)
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing
        await self.tier.close()

    def _open(self) -> None:
        self._well.clear()
        self.count("opened")
        self._probing = asyncio.create_task(self._probe(), name=f"cache probe {self.name}")

    async def _probe(self) -> None:
        """Try until it answers. A request that tried would have to wait."""
        while True:
            await asyncio.sleep(max(0.0, self._breaker.until - time.monotonic()))
            one = self._breaker.begin()
            try:
                async with asyncio.timeout(_PROBE_SECONDS):
                    await self.tier.get(_PROBE)
            except TierRefused:
                break
            except Exception:
                self.count("probes_failed")
                self._breaker.failed(one, time.monotonic(), spare=False)
                continue
            break
        self._breaker.succeeded(one, time.monotonic())
        self.count("recovered")
        self._well.set()
