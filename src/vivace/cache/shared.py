"""The tiers behind a process's memory, and the messages by which processes invalidate values.

What one process deletes, the memories of the others forget: a message over a channel of L2. A
channel loses messages while a connection is down, so a process that was cut off forgets all of its
memory when it is connected again, and a process that could not send makes the others forget
everything later. (redis-py's client-side caching would do less: it is synchronous and refuses
servers below 7.4.)
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, Protocol, TypeAlias, cast, runtime_checkable

from vivace.cache.lease import DistributedLease, LeasingTier
from vivace.cache.tiers.connection import TierFailure
from vivace.cache.tiers.resilient import ResilientTier
from vivace.cache.values import Seal
from vivace.protocols import CacheTier
from vivace.trace import Trace

Forget: TypeAlias = Callable[[bytes | None, str | None], object]
"""Called to forget a key; without one, a kind; without either, everything."""
Open: TypeAlias = Callable[[bytes, float | None], tuple[Any, float | None] | None]
"""A tier's bytes and their seconds left, as a value and its seconds left; None: unreadable."""

_ORIGIN: Final = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_RETRY_SECONDS: Final = 0.25
_LEAST: Final = 0.001
"""Seconds below which a tier is not asked."""


@runtime_checkable
class PublishingTier(Protocol):
    """A tier that carries messages to all processes."""

    async def publish(self, message: bytes) -> None: ...

    def listen(self) -> AsyncIterator[bytes | None]:
        """Messages from now on; None whenever no later one can be missed."""
        ...


class Invalidation:
    """Sends what this process deletes, and hears what others delete. For one event loop.

    Args:
        forget: called on the event loop.
    """

    def __init__(self, tier: ResilientTier, channel: PublishingTier, forget: Forget) -> None:
        self._tier = tier
        self._channel = channel
        self._forget = forget
        self._origin = secrets.token_bytes(_ORIGIN)
        self._listening: asyncio.Task[None] | None = None
        self._owing: asyncio.Task[None] | None = None
        self._after: set[Callable[[], Awaitable[None]]] = set()
        self.connected = asyncio.Event()

    def start(self) -> None:
        """Listen, on the running loop. Idempotent."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="cache invalidation")

    async def send(self, key: bytes | None) -> None:
        """Make the others forget a key, or everything. If that fails now, they forget everything
        later."""
        try:
            await self._publish(b"*" if key is None else b"k" + key)
        except TierFailure:
            self.owe()

    def owe(self, after: Sequence[Callable[[], Awaitable[None]]] = ()) -> None:
        """Make the others forget everything, after those, as soon as a message can be sent."""
        self._after.update(after)
        if self._owing is None or self._owing.done():
            self._owing = asyncio.create_task(self._send_later(), name="cache invalidation owed")

    async def close(self) -> None:
        for task in (self._listening, self._owing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._listening = self._owing = None

    async def _publish(self, message: bytes) -> None:
        await self._tier.ask(lambda: self._channel.publish(self._origin + message), of="tell_")

    async def _send_later(self) -> None:
        while True:
            while self._after:
                await self._after.pop()()
            await asyncio.sleep(_RETRY_SECONDS)
            with suppress(TierFailure):
                await self._publish(b"*")
                if not self._after:
                    return

    async def _listen(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            # closed at once, not by the garbage collector: its connection is open
            source = cast(AsyncGenerator[bytes | None, None], self._channel.listen())
            # whatever it raises, or this process would never hear of a deletion again
            with suppress(Exception):
                async with aclosing(source) as messages:
                    async for message in messages:
                        if message is None:
                            pause = _FIRST_PAUSE
                            self._tier.count("flushes")
                            self._forget(None, None)
                            self.connected.set()
                        else:
                            self._hear(message)
            if self.connected.is_set():
                self._tier.count("channel_lost")
                self.connected.clear()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _hear(self, message: bytes) -> None:
        origin, what, rest = message[:_ORIGIN], message[_ORIGIN : _ORIGIN + 1], message[9:]
        if origin == self._origin:
            return
        self._tier.count("invalidations")
        if what == b"k":
            self._forget(rest, None)
        elif what == b"c":  # sent by version 0.1
            self._forget(None, rest.decode("utf-8", "replace"))
        else:
            # `*`, or a message of a later version: forgetting too much is never wrong
            self._forget(None, None)


class SharedTiers:
    """L2 and L3 of one process. For one event loop.

    Args:
        tiers: the nearest first, as `vivace.cache.tiers.load` returns them.
        forget: called when another process has deleted a key, or everything.
        seconds: the most that all tiers together delay a request that they do not help.
        lease: seconds within which a process that dies while it computes is replaced; 0: every
            process computes for itself.
        seal: signs what the tiers get, and refuses what they have without its tag.
    """

    def __init__(
        self,
        tiers: Sequence[CacheTier],
        forget: Forget,
        *,
        seconds: float,
        lease: float,
        seal: Seal | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.seal = seal
        self.tiers = [
            tier
            if isinstance(tier, ResilientTier)
            else ResilientTier(tier, seconds=seconds, trace=trace)
            for tier in tiers
        ]
        self._seconds = seconds
        self.lease: DistributedLease | None = None
        self.invalidation: Invalidation | None = None
        for tier in self.tiers:
            if lease > 0 and self.lease is None and isinstance(tier.tier, LeasingTier):
                self.lease = DistributedLease(tier, tier.tier, seconds=lease)
            if self.invalidation is None and isinstance(tier.tier, PublishingTier):
                self.invalidation = Invalidation(tier, tier.tier, forget)

    def start(self) -> None:
        """Listen to the other processes, on the running loop. Idempotent."""
        if self.invalidation is not None:
            self.invalidation.start()

    async def read(
        self, key: bytes, opened: Open, wanted: Callable[[], bool]
    ) -> tuple[tuple[Any, float | None] | None, float]:
        """What the nearest tier that has the key has, and the seconds left of the request's time.

        Nearer tiers receive it as well, if it is still `wanted`.
        """
        left = self._seconds
        for number, tier in enumerate(self.tiers):
            if left < _LEAST:
                break
            further = any(other.well for other in self.tiers[number + 1 :])
            began = time.monotonic()
            found = await tier.get(key, within=left / 2 if further else left)
            left -= time.monotonic() - began
            if found is None:
                continue
            value = opened(*found)
            if value is None:
                tier.count("unreadable")
                continue
            for nearer in self.tiers[:number] if wanted() else ():
                await nearer.set(key, found[0], ttl=value[1])
                nearer.count("filled_back")
            return value, left
        return None, left

    async def write(self, key: bytes, data: bytes, ttl: float | None) -> None:
        """Queue the write for every tier; a tier whose lease is held is written now if possible."""
        holder = None if self.lease is None else self.lease.held(key)
        if holder is not None and holder.stored:
            return  # by another request of this process, which shares the computation
        for tier in self.tiers:
            if holder is not None and self.lease is not None and tier is self.lease.tier:
                with suppress(TierFailure):
                    await tier.write(key, data, ttl, within=tier.seconds)
                    tier.count("written")
                    holder.stored = True
                    continue
            await tier.set(key, data, ttl=ttl)

    async def delete(self, key: bytes) -> None:
        """Delete the key here and, as soon as they can be reached, in the other processes."""
        self.start()
        for tier in self.tiers:
            await tier.delete(key)
        await self._tell(key, self._seconds)

    async def clear(self, seconds: float | None = None) -> None:
        """As `delete`, of everything.

        Args:
            seconds: how long to wait for tiers that can be reached; None: as long as for a read.
        """
        self.start()
        for tier in self.tiers:
            await tier.clear()
        await self._tell(None, self._seconds if seconds is None else seconds)

    async def close(self) -> None:
        """Write what is queued, as far as the tiers take it, and disconnect."""
        if self.invalidation is not None:
            await self.invalidation.close()
        for tier in self.tiers:
            await tier.close()

    async def _tell(self, key: bytes | None, seconds: float) -> None:
        """Tell the other processes once the tiers know; and again, if a tier takes longer."""
        try:
            async with asyncio.timeout(seconds):
                known = all([await tier.settled() for tier in self.tiers])
        except TimeoutError:
            known = False
        if self.invalidation is not None:
            await self.invalidation.send(key)
            if not known:
                # until then they may fill their memories again with what a tier still has
                self.invalidation.owe([tier.queue.drained for tier in self.tiers])
