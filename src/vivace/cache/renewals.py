"""Stale values are given at once; who makes them again?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from vivace.run.work import Priority, work_context


class Revalidation:
    """What is being made again behind stale values: once for each key. For one event loop.

    Whoever closes what they are made with closes these before it; so each owner has its own.
    """

    def __init__(self) -> None:
        self._running: dict[bytes, asyncio.Task[None]] = {}

    def begin(
        self, key: bytes, make: Callable[[], Awaitable[Any]], failed: Callable[[], None]
    ) -> None:
        """Run `make` in background, unless it runs for this key; `failed` is told if it raises."""
        if key in self._running:
            return

        async def renewed() -> None:
            try:
                with work_context(Priority.BACKGROUND):
                    await make()
            # nobody waits for it: the stale value was given, and the next one asks again
            except Exception:
                failed()

        # a context of its own: the deadline of who happened to ask is not this one's
        task = asyncio.get_running_loop().create_task(renewed(), context=Context())
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def settle(self) -> None:
        """Wait until nothing is being made again."""
        while self._running:
            await asyncio.wait(list(self._running.values()))

    def cancel(self) -> None:
        """Give them up, without waiting until they have ended. Idempotent."""
        for task in list(self._running.values()):
            task.cancel()

    async def close(self) -> None:
        """Give them up; returns when they have ended. Idempotent."""
        self.cancel()
        await self.settle()
