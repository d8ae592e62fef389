"""How many requests does a model server take at once, where it says so?

llama.cpp answers with its slots at `/props` and `/slots`; vLLM with its `max_num_seqs` at
`/server_info`, but only in its development mode. For other servers the limit is learned.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec

from vivace.errors import VivaceError
from vivace.run.balance import Lease
from vivace.run.http import read_whole

EVERY: Final = 2.0
"""Seconds between two probes of a server that answers them."""
LONGEST: Final = 600.0
"""Seconds between two probes of one that does not: doubled up to this."""
SECONDS: Final = 2.0
"""Timeout of a probe."""
MOST: Final = 4096
"""Requests at once; a greater number counts as none."""
_MAX_BODY: Final = 1 << 20
_PATHS: Final = ("/props", "/slots", "/server_info?config_format=json")
_SEQUENCES: Final = re.compile(rb"max_num_seqs[\\\"']*\s*[=:]\s*([0-9]+)")


@dataclass(slots=True)
class _ProbedServer:
    due: float = 0.0
    pause: float = EVERY
    path: str = ""
    """The one that was answered."""
    probe: asyncio.Task[None] | None = None


class CapacityProbe:
    """Probes servers beside their requests: no request waits for a probe or fails with it.

    Args:
        session: opens the connections.
        found: called with a server's URL and its number, or None where it names none any more.
    """

    def __init__(
        self,
        session: Callable[[], aiohttp.ClientSession],
        found: Callable[[str, int | None], None],
    ) -> None:
        self._session = session
        self._found = found
        self._servers: dict[str, _ProbedServer] = {}

    def beside(self, lease: Lease) -> None:
        """Probe the lease's server, if it is time and it has more than one request: for a single
        one the number does not matter."""
        if lease.in_use < 2:
            return
        server = self._servers.setdefault(lease.server, _ProbedServer())
        loop = asyncio.get_running_loop()
        if loop.time() >= server.due and (server.probe is None or server.probe.done()):
            server.probe = loop.create_task(self._probe(lease.server, server))

    async def close(self) -> None:
        """Cancel the running probes. Idempotent."""
        probes = [one.probe for one in self._servers.values() if one.probe is not None]
        for task in probes:
            task.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    async def _probe(self, url: str, server: _ProbedServer) -> None:
        root = url.removesuffix("/v1")
        capacity: int | None = None
        for path in (server.path,) if server.path else _PATHS:
            capacity = await self._ask(root + path)
            if capacity is not None:
                server.path = path
                break
        if capacity is not None:
            server.pause = EVERY
            self._found(url, capacity)
        else:
            if server.path:  # it answered until now: another server may stand there
                self._found(url, None)
            server.path = ""
            server.pause = min(2 * server.pause, LONGEST)
        server.due = asyncio.get_running_loop().time() + server.pause

    async def _ask(self, url: str) -> int | None:
        try:
            async with asyncio.timeout(SECONDS):
                async with self._session().get(url, allow_redirects=False) as response:
                    if response.status != 200:
                        return None
                    return capacity_of(await read_whole(response.content, _MAX_BODY))
        except (TimeoutError, aiohttp.ClientError, OSError, VivaceError):
            return None


def capacity_of(body: bytes) -> int | None:
    """The requests at once that a server's answer names; None where it names none."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(value, dict):
        slots = value.get("total_slots")
        if slots is None and (named := _SEQUENCES.search(body)):
            slots = int(named[1])
    else:
        whole = isinstance(value, list) and all(isinstance(one, dict) for one in value)
        slots = len(value) if whole else None
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= MOST:
        return None
    return slots
