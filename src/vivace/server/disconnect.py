"""Work stops when the client it is for has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from starlette.types import Receive

from vivace.server.errors import ClientGone


class Attended:
    """Cancels its block when the client leaves, and raises `ClientGone` in its place.

    Enter it when the whole body has been read. `beat`, where given, is awaited after every `every`
    seconds; when it returns False the client is taken for gone.

    Raises:
        ClientGone: the client left before the block was done.
    """

    def __init__(
        self,
        receive: Receive,
        *,
        beat: Callable[[], Awaitable[bool]] | None = None,
        every: float | None = None,
    ) -> None:
        self._receive = receive
        self._beat = beat
        self._every = every if beat is not None else None
        self._gone = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        # as asyncio.timeout does: only our own cancellation is ours to swallow
        if self._gone and self._task.uncancel() <= self._cancelling:
            raise ClientGone from error

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every):
                    message = await self._receive()
            except TimeoutError:
                if self._beat is not None and not await self._beat():
                    break
                continue
            if message["type"] == "http.disconnect":
                break
        self._gone = True
        self._task.cancel()
