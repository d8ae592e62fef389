"""What one process deletes, the memories of the others forget: messages over a channel of L2.

A channel loses what is said while a connection is down. So whoever was cut off forgets all of its
memory when it is connected again, and whoever could not speak tells the others to, later.
redis-py's client-side caching would do less: it is synchronous and refuses servers below 7.4.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final, Protocol, TypeAlias, cast, runtime_checkable

from vivace.cache.failures import TierFailure
from vivace.cache.guarded import ResilientTier

Forget: TypeAlias = Callable[[bytes | None, str | None], None]
"""Of one key; or, without one, of a kind; or of everything."""

_ORIGIN: Final = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_TELL_AGAIN: Final = 0.25
"""Seconds."""


@runtime_checkable
class Channel(Protocol):
    """A tier that carries messages to all processes."""

    async def publish(self, message: bytes) -> None: ...

    def listen(self) -> AsyncIterator[bytes | None]:
        """Messages from now on; None whenever nothing is missed from here on."""
        ...


class Invalidation:
    """Of one process. `forget` of every subscriber is called on the event loop."""

    def __init__(self, guard: ResilientTier, channel: Channel) -> None:
        self._guard = guard
        self._channel = channel
        self._origin = secrets.token_bytes(_ORIGIN)
        self._subscribers: list[Forget] = []
        self._listening: asyncio.Task[None] | None = None
        self._owing: asyncio.Task[None] | None = None
        self._after: set[Callable[[], Awaitable[None]]] = set()
        self.connected = asyncio.Event()

    def subscribe(self, forget: Forget) -> None:
        self._subscribers.append(forget)

    def start(self) -> None:
        """Listen, from the running loop. Idempotent."""
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen(), name="cache versions")

    async def tell(self, key: bytes | None, kind: str | None = None) -> None:
        """Tell the others to forget. If they cannot be told now, they forget everything later."""
        said = b"*" if kind is None else b"c" + kind.encode()
        if key is not None:
            said = b"k" + key
        try:
            await self._say(said)
        except TierFailure:
            self.owe()

    def owe(self, after: Sequence[Callable[[], Awaitable[None]]] = ()) -> None:
        """Tell the others to forget everything, after those, and as soon as they can be told."""
        self._after.update(after)
        if self._owing is None or self._owing.done():
            self._owing = asyncio.create_task(self._say_later(), name="cache versions owed")

    async def close(self) -> None:
        for task in (self._listening, self._owing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._listening = self._owing = None

    async def _say(self, said: bytes) -> None:
        await self._guard.ask(lambda: self._channel.publish(self._origin + said), of="tell_")

    async def _say_later(self) -> None:
        while True:
            while self._after:
                await self._after.pop()()
            await asyncio.sleep(_TELL_AGAIN)
            with suppress(TierFailure):
                await self._say(b"*")
                if not self._after:
                    return

    async def _listen(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            # closed at once, not when the collector comes by: its connection is open
            source = cast(AsyncGenerator[bytes | None, None], self._channel.listen())
            # whatever it raises, or this process would never hear of a deletion again
            with suppress(Exception):
                async with aclosing(source) as messages:
                    async for message in messages:
                        if message is None:
                            pause = _FIRST_PAUSE
                            self._guard.count("flushes")
                            self._forget(None, None)
                            self.connected.set()
                        else:
                            self._hear(message)
            if self.connected.is_set():
                self._guard.count("channel_lost")
                self.connected.clear()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _hear(self, message: bytes) -> None:
        origin, what, rest = message[:_ORIGIN], message[_ORIGIN : _ORIGIN + 1], message[9:]
        if origin == self._origin:
            return
        self._guard.count("invalidations")
        if what == b"k":
            self._forget(rest, None)
        elif what == b"c":
            self._forget(None, rest.decode("utf-8", "replace"))
        else:
            # `*`, or something of a later version: to forget too much is never wrong
            self._forget(None, None)

    def _forget(self, key: bytes | None, kind: str | None) -> None:
        for forget in self._subscribers:
            forget(key, kind)
