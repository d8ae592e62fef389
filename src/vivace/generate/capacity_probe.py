"""How many requests does a model server take at once, where it says so?

llama.cpp tells its slots at `/props` and `/slots`; vLLM its `max_num_seqs` at `/server_info`, but
only in its development mode. Of the others the limit is learned.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec

from vivace.run.endpoints import Lease

EVERY: Final = 2.0
"""Seconds between two questions to a server that answers them."""
LONGEST: Final = 600.0
"""And to one that does not: doubled up to this."""
SECONDS: Final = 2.0
"""An answer may take."""
MOST: Final = 4096
"""Requests at once; a greater number is taken for none."""
_MAX_BODY: Final = 1 << 20
_PATHS: Final = ("/props", "/slots", "/server_info?config_format=json")
_SEQUENCES: Final = re.compile(rb"max_num_seqs[\\\"']*\s*[=:]\s*([0-9]+)")


@dataclass(slots=True)
class _Probed:
    next: float = 0.0
    pause: float = EVERY
    path: str = ""
    """That it answered at."""
    asking: asyncio.Task[None] | None = None


class CapacityProbe:
    """Asks beside the requests: none waits for it, and none fails with it.

    Args:
        session: opens the connections to ask by.
        tell: is called with a server's URL and its number, or None where it tells none any more.
    """

    def __init__(
        self,
        session: Callable[[], aiohttp.ClientSession],
        tell: Callable[[str, int | None], None],
    ) -> None:
        self._session = session
        self._tell = tell
        self._servers: dict[str, _Probed] = {}

    def beside(self, lease: Lease) -> None:
        """Ask the lease's server, if it is time and more than one request is there: for a single
        one the number says nothing."""
        if lease.in_use < 2:
            return
        server = self._servers.setdefault(lease.server, _Probed())
        loop = asyncio.get_running_loop()
        if loop.time() >= server.next and (server.asking is None or server.asking.done()):
            server.asking = loop.create_task(self._ask(lease.server, server))

    async def close(self) -> None:
        """Ask no more. Idempotent."""
        asking = [one.asking for one in self._servers.values() if one.asking is not None]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, url: str, server: _Probed) -> None:
        root = url.removesuffix("/v1")
        found: int | None = None
        for path in (server.path,) if server.path else _PATHS:
            found = await self._number(root + path)
            if found is not None:
                server.path = path
                break
        if found is not None:
            server.pause = EVERY
            self._tell(url, found)
        else:
            if server.path:  # it did until now: another server may stand there
                self._tell(url, None)
            server.path = ""
            server.pause = min(2 * server.pause, LONGEST)
        server.next = asyncio.get_running_loop().time() + server.pause

    async def _number(self, url: str) -> int | None:
        try:
            async with asyncio.timeout(SECONDS):
                async with self._session().get(url, allow_redirects=False) as response:
                    if response.status != 200:
                        return None
                    parts, size = [], 0
                    async for part in response.content.iter_any():
                        parts.append(part)
                        size += len(part)
                        if size > _MAX_BODY:
                            return None
                    return number(b"".join(parts))
        except (TimeoutError, aiohttp.ClientError, OSError):
            return None


def number(body: bytes) -> int | None:
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
