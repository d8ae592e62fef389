"""A tier that neither raises nor keeps anybody waiting: timeout, breaker, write-behind, counters.

The counters, under `cache.NAME.`: a read is one of hits, misses, queued (still waiting to be
written), timeouts, errors, refused, or skipped (asked while it is known to be away). What a write,
a lease or a message failed by has `write_`, `lease_`, `tell_` before it. opened and recovered are
of the breaker; written, erased, dropped and unwritten of the queue.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from vivace.cache.failures import PartlyDown, TierFailure, TierRefused, TierUnreachable
from vivace.cache.writebehind import WriteBehind
from vivace.protocols import CacheTier
from vivace.run.breaker import Breaker, Tolerance
from vivace.trace import Trace

T = TypeVar("T")

TOLERANCE: Final = Tolerance(in_row=5, first=0.25, longest=0.75)
"""A tier is on the path of every request and cheap to try: it is tried often, by nobody's
request, so that it serves again within two seconds of its return."""
PROBE_SECONDS: Final = 0.5
WRITE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.1
_CLEAR_SECONDS: Final = 60.0
_GRACE_SECONDS: Final = 1.0
_PROBE: Final = b"\0probe"


class ResilientTier:
    """A `CacheTier` around another; the one that requests meet.

    Args:
        seconds: most that one call may keep a request.
    """

    def __init__(
        self,
        tier: CacheTier,
        *,
        seconds: float,
        trace: Trace | None = None,
        entries: int = 4096,
        max_bytes: int = 16 << 20,
        draw: random.Random | None = None,
    ) -> None:
        self.tier = tier
        self.name = tier.name
        self.seconds = seconds
        self.trace = trace or Trace()
        self._breaker = Breaker(TOLERANCE, draw or random.Random())
        self._well = asyncio.Event()
        self._well.set()
        self._probing: asyncio.Task[None] | None = None
        self.queue = WriteBehind(self, entries=entries, max_bytes=max_bytes, count=self.count)

    @property
    def well(self) -> bool:
        """Whether requests ask it now."""
        return self._well.is_set()

    def count(self, what: str) -> None:
        self.trace.count(f"cache.{self.name}.{what}")

    async def get(
        self, key: bytes, *, within: float | None = None
    ) -> tuple[bytes, float | None] | None:
        """As `CacheTier.get`; None, too, if it cannot be asked or says nothing within seconds."""
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
        forgotten = self.queue.clearing or self.queue.waiting(key) is not None
        if found is None or forgotten:
            self.count("misses")
            return None
        self.count("hits")
        return found

    async def set(self, key: bytes, value: bytes, *, ttl: float | None = None) -> None:
        """Written later, if ever."""
        self.queue.put(key, value, ttl)

    async def delete(self, key: bytes) -> None:
        """A miss from now on in this process; in the tier as soon as it can be reached."""
        self.queue.forget(key)

    async def clear(self) -> None:
        """As `delete`, of everything."""
        self.queue.forget_all()

    async def ask(
        self, call: Callable[[], Awaitable[T]], *, within: float | None = None, of: str = ""
    ) -> T:
        """What a call of the tier came to, counted under `of`, and told to the breaker.

        Raises:
            TierFailure: nothing, for whatever reason.
        """
        if not self.well:
            self.count(f"{of}skipped")
            raise TierUnreachable(
                f"the cache tier {self.name} is away", fix="It is tried by itself"
            )
        one = self._breaker.begin()
        try:
            async with asyncio.timeout(self.seconds if within is None else within):
                result = await call()
        except PartlyDown:
            self.count(f"{of}errors")
            self._breaker.dropped(one)
            raise
        except TierRefused:
            self.count(f"{of}refused")
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
                raise
            # a tier may be anybody's: what it raises is its failure, not the request's
            raise TierUnreachable(f"the cache tier {self.name}: {type(error).__name__}") from error
        self._breaker.succeeded(one, time.monotonic())
        return result

    async def settled(self) -> bool:
        """Wait until the tier has everything; False, at once, where it cannot be asked."""
        draining = asyncio.ensure_future(self.queue.drained())
        try:
            while self.well and not draining.done():
                await asyncio.wait([draining], timeout=_LOOK_SECONDS)
            return draining.done()
        finally:
            draining.cancel()

    async def ready(self) -> None:
        await self._well.wait()

    async def write(self, key: bytes, value: bytes, ttl: float | None) -> None:
        await self.ask(
            lambda: self.tier.set(key, value, ttl=ttl), within=WRITE_SECONDS, of="write_"
        )

    async def erase(self, key: bytes) -> None:
        await self.ask(lambda: self.tier.delete(key), within=WRITE_SECONDS, of="write_")

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
        """Try until it answers. Requests never try: one of them would have to wait."""
        while True:
            await asyncio.sleep(max(0.0, self._breaker.until - time.monotonic()))
            one = self._breaker.begin()
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await self.tier.get(_PROBE)
            except (TierRefused, PartlyDown):
                break
            except Exception:
                self.count("probes_failed")
                self._breaker.failed(one, time.monotonic(), spare=False)
                continue
            break
        self._breaker.succeeded(one, time.monotonic())
        self.count("recovered")
        self._well.set()
