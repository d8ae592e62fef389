"""One server or a cluster: who has the key, by which connection?

Every server has connections of its own, so that one that hangs holds up its own keys alone.
Source of the slots and of MOVED: the Redis cluster specification.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar

from redis.crc import key_slot

from vivace.cache.failures import Moved, PartlyDown, TierFailure, TierUnreachable
from vivace.cache.tiers.lane import PipelinedConnection, Session

Work = TypeVar("Work")
Server: TypeAlias = tuple[str, int]

_BATCH: Final = 128
_AGAIN: Final = 0.25
"""Seconds between two looks at the cluster's slots."""
_SLOTS: Final = [("CLUSTER", "SLOTS")]


class Servers(Generic[Work]):
    """The connections to all servers of a tier."""

    def __init__(
        self,
        home: Server,
        opened: Callable[[Server], Awaitable[Session[Work]]],
        *,
        clustered: bool,
        readers: int,
        reading: float,
        writing: float,
    ) -> None:
        self._home = home
        self._opened = opened
        self._clustered = clustered
        self._readers, self._reading, self._writing = readers, reading, writing
        self._lanes: dict[
            Server, tuple[list[PipelinedConnection[Work]], PipelinedConnection[Work]]
        ] = {}
        self._owners: list[tuple[int, int, Server]] = []
        self._looked = -_AGAIN
        self._look: asyncio.Task[None] | None = None

    async def read(self, name: bytes, op: Any) -> Any:
        """What the operation came to at the server of the key.

        Raises:
            PartlyDown: that server is away, others are there.
            TierUnreachable: nobody is there.
            TierRefused: what the server said.
        """
        return await self._routed(name, op, writes=False)

    async def write(self, name: bytes, op: Any) -> Any:
        """As `read`, by the connection for writing."""
        return await self._routed(name, op, writes=True)

    async def on(self, server: Server, op: Any) -> Any:
        return await self._lane(server, writes=True).call(op)

    async def anywhere(self, op: Any) -> Any:
        return await self.on(self.some(), op)

    async def all(self) -> list[Server]:
        if not self._clustered:
            return [self._home]
        await self._learn()
        return sorted({server for _, _, server in self._owners})

    def some(self) -> Server:
        """A server that is there, as far as is known."""
        there = [server for server in self._lanes if not self._away(server)]
        return random.choice(there) if there else self._home

    async def close(self) -> None:
        if self._look is not None:
            self._look.cancel()
        lanes, self._lanes = self._lanes, {}
        for readers, writer in lanes.values():
            for lane in (*readers, writer):
                await lane.close()

    async def _routed(self, name: bytes, op: Any, *, writes: bool) -> Any:
        server = await self._server(name)
        try:
            return await self._lane(server, writes=writes).call(op)
        except Moved as moved:
            self._learn_later()
            return await self._lane(moved.server, writes=writes).call(op)
        except TierUnreachable as error:
            if self._clustered:
                self._learn_later()
                if any(not self._away(other) for other in self._lanes if other != server):
                    raise PartlyDown(error.what, fix=error.fix) from None
            raise

    async def _server(self, name: bytes) -> Server:
        if not self._clustered:
            return self._home
        if not self._owners:
            await self._learn()
        slot = key_slot(name)
        for first, last, server in self._owners:
            if first <= slot <= last:
                return server
        self._learn_later()
        raise PartlyDown("cache.redis: a slot of the cluster has no server", fix="Mend the cluster")

    def _lane(self, server: Server, *, writes: bool) -> PipelinedConnection[Work]:
        lanes = self._lanes.get(server)
        if lanes is None:

            async def opened() -> Session[Work]:
                return await self._opened(server)

            lanes = self._lanes[server] = (
                [
                    PipelinedConnection(opened, batch=_BATCH, stall=self._reading)
                    for _ in range(self._readers)
                ],
                PipelinedConnection(opened, batch=_BATCH, stall=self._writing),
            )
        return lanes[1] if writes else min(lanes[0], key=lambda lane: lane.load)

    def _away(self, server: Server) -> bool:
        readers, writer = self._lanes[server]
        return writer.down or any(lane.down for lane in readers)

    def _learn_later(self) -> None:
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._asked(), name="cluster slots")

    async def _learn(self) -> None:
        self._learn_later()
        assert self._look is not None
        await asyncio.shield(self._look)
        if not self._owners:
            raise TierUnreachable("cache.redis: no server of the cluster answers", fix="Start one")

    async def _asked(self) -> None:
        await asyncio.sleep(max(0.0, self._looked + _AGAIN - time.monotonic()))
        self._looked = time.monotonic()
        known = {self._home, *self._lanes}
        for server in sorted(known, key=lambda one: one in self._lanes and self._away(one)):
            try:
                ((found, *_),) = (await self.on(server, _SLOTS),)
            except TierFailure:
                continue
            owners = [
                (int(first), int(last), (_text(node[0]) or server[0], int(node[1])))
                for first, last, node, *_ in found
            ]
            if owners:
                self._owners = owners
                return


def _text(host: bytes | str | None) -> str:
    return host.decode() if isinstance(host, bytes) else host or ""
