"""Writes to a tier for which nobody waits: a bounded queue, and one task that empties it.

A full queue drops its oldest value, which costs a computation later. A delete is never dropped:
more of them than the queue holds become one `clear`. Until a delete has reached the tier, its key
is a miss, so that a tier that was away when a value was deleted never gives it back.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from vivace.cache.failures import TierFailure, TierRefused

_BATCH: Final = 64
_PAUSE: Final = 0.1
"""Seconds after a write that failed, before the next."""


@dataclass(frozen=True, slots=True)
class Write:
    """What a key shall be; without a value, deleted. `until` is of the queue's clock."""

    value: bytes | None
    until: float | None = None


class Sink(Protocol):
    """Where the queue writes."""

    async def ready(self) -> None:
        """Returns when it makes sense to try."""
        ...

    async def write(self, key: bytes, value: bytes, ttl: float | None) -> None: ...

    async def erase(self, key: bytes) -> None: ...

    async def erase_all(self) -> None: ...


class WriteBehind:
    """The queue of one tier. Only the event loop's thread may call.

    Args:
        entries: most values waiting, and most deletes.
        max_bytes: most bytes of values waiting.
        count: told the name of what happened: `dropped`, `written`, `unwritten`.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        entries: int = 4096,
        max_bytes: int = 16 << 20,
        count: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._entries, self._max_bytes = entries, max_bytes
        self._count = count
        self._clock = clock
        self._sets: OrderedDict[bytes, Write] = OrderedDict()
        self._deletes: OrderedDict[bytes, Write] = OrderedDict()
        self._busy: dict[bytes, Write] = {}
        self._bytes = 0
        self.clearing = False
        """Everything in the tier is forgotten, but the tier does not know yet."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._sets) + len(self._deletes) + len(self._busy)

    def waiting(self, key: bytes) -> Write | None:
        """What the tier will have of the key as soon as it is written."""
        return self._deletes.get(key) or self._sets.get(key) or self._busy.get(key)

    def put(self, key: bytes, value: bytes, ttl: float | None) -> None:
        if len(value) > self._max_bytes:
            self._count("dropped")
            return
        self._take(key)
        self._deletes.pop(key, None)
        self._sets[key] = Write(value, None if ttl is None else self._clock() + ttl)
        self._bytes += len(value)
        while len(self._sets) > self._entries or self._bytes > self._max_bytes:
            self._take(next(iter(self._sets)))
            self._count("dropped")
        self._go()

    def forget(self, key: bytes) -> None:
        self._take(key)
        self._deletes[key] = Write(None)
        if len(self._deletes) > self._entries:
            self.forget_all()
        self._go()

    def forget_all(self) -> None:
        self._sets.clear()
        self._deletes.clear()
        self._bytes = 0
        self.clearing = True
        self._go()

    async def drained(self) -> None:
        """Returns when the tier has everything. Without end where the tier is away."""
        await self._idle.wait()

    async def close(self, grace: float) -> None:
        """What is still waiting after `grace` seconds is lost, as any value of a cache may be."""
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
            await self._sink.ready()
            if not await self._round():
                await asyncio.sleep(_PAUSE)
            if not (self.clearing or self._sets or self._deletes):
                self._wake.clear()
                self._idle.set()

    async def _round(self) -> bool:
        """Write some; whether all of it went well."""
        if self.clearing:
            try:
                await self._sink.erase_all()
            except TierFailure:
                return False
            self.clearing = False
        for source in (self._deletes, self._sets):
            while source and len(self._busy) < _BATCH:
                key, write = source.popitem(last=False)
                self._busy[key] = write
                self._bytes -= len(write.value or b"")
        try:
            done = await asyncio.gather(*(self._one(*one) for one in self._busy.items()))
        finally:
            self._busy.clear()
        return all(done)

    async def _one(self, key: bytes, write: Write) -> bool:
        try:
            if write.value is None:
                await self._sink.erase(key)
            else:
                left = None if write.until is None else write.until - self._clock()
                if left is None or left > 0:
                    await self._sink.write(key, write.value, left)
        except TierFailure as error:
            newer = self.clearing or key in self._sets or key in self._deletes
            if write.value is None and not newer:
                self._deletes[key] = write
            elif not newer and not isinstance(error, TierRefused):
                # last in, so that it is not the first to be dropped for being old
                self._sets[key] = write
                self._bytes += len(write.value or b"")
            else:
                self._count("unwritten")
            return False
        self._count("written" if write.value is not None else "erased")
        return True
