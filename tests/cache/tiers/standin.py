"""The least a memory can do, so that these tests are of what is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Life = float | Callable[[bytes], float | None] | None


class Plain:
    """A dict of values and the seconds they were given; `keeps=False` forgets everything."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.values: dict[bytes, bytes] = {}
        self.lives: dict[bytes, float | None] = {}
        self.kinds: dict[bytes, str] = {}
        self._keeps = keeps
        self.joined = 0
        """Callers that waited for what another one was computing."""
        self._flying: dict[bytes, asyncio.Future[bytes]] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def set(
        self,
        key: bytes,
        value: bytes,
        *,
        ttl: float | None = None,
        cost: float = 1.0,
        kind: str = "",
    ) -> None:
        if self._keeps and (ttl is None or ttl > 0):
            self.values[key], self.lives[key], self.kinds[key] = value, ttl, kind

    def delete(self, key: bytes) -> bool:
        return self.values.pop(key, None) is not None

    def clear(self, kind: str | None = None) -> int:
        gone = [key for key in self.values if kind is None or self.kinds[key] == kind]
        for key in gone:
            del self.values[key]
        return len(gone)

    async def get_or_compute(
        self,
        key: bytes,
        compute: Callable[[], Awaitable[bytes]],
        *,
        ttl: Life,
        stale: float = 0.0,
        cost: float | None = None,
        kind: str = "",
    ) -> bytes:
        if (value := self.values.get(key)) is not None:
            return value
        if (flying := self._flying.get(key)) is not None:
            self.joined += 1
            return await flying
        future = self._flying[key] = asyncio.get_running_loop().create_future()
        try:
            value = await compute()
            self.set(key, value, ttl=ttl(value) if callable(ttl) else ttl, kind=kind)
            future.set_result(value)
            return value
        except BaseException as error:
            future.set_exception(error)
            future.exception()
            raise
        finally:
            del self._flying[key]
