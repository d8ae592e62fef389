"""One connection of a tier, kept by a task of its own.

Requests put what they want into its queue and wait no longer than they like; what waits together
leaves as one batch. No request ever makes a connection or is cancelled within the driver: that
costs milliseconds (TLS, SCRAM) and has left drivers out of step with their servers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from vivace.cache.failures import TierFailure, TierUnreachable

Op = TypeVar("Op", contravariant=True)
Work = TypeVar("Work")

CONNECT_SECONDS: Final = 1.0
"""Of one attempt to connect, and of a ping that shows that the server is not hung."""
_LEAST_STALL: Final = 0.15
"""Seconds of a read. Requests leave sooner; but a connection is dearer than one late answer."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
"""Seconds between attempts to connect."""
_QUEUE: Final = 4096


class Session(Protocol[Op]):
    """An open connection. What it raises ends it."""

    async def execute(self, ops: Sequence[Op]) -> list[Any]:
        """One result an operation, in order; an error of one is its result.

        Raises:
            TierUnreachable: the connection is of no more use.
        """
        ...

    async def close(self) -> None: ...


class PipelinedConnection(Generic[Work]):
    """Batches operations over one connection and connects again by itself.

    Args:
        opened: makes a connection that is known to answer; raises `TierUnreachable` if none does.
        batch: most operations at once.
        stall: seconds that a batch may take before the connection is given up.
    """

    def __init__(
        self, opened: Callable[[], Awaitable[Session[Work]]], *, batch: int, stall: float
    ) -> None:
        self._opened = opened
        self._batch = batch
        self._stall = max(stall, _LEAST_STALL)
        self._waiting: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._down: TierFailure | None = None
        """Why there is no connection, after the first attempt."""

    @property
    def load(self) -> int:
        return len(self._waiting)

    @property
    def down(self) -> bool:
        return self._down is not None

    async def call(self, op: Work) -> Any:
        """What the operation came to.

        Raises:
            TierUnreachable: there is no connection, or it ended.
            TierFailure: what the server said to it.
        """
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._run(), name="cache tier lane")
        if self._down is not None:
            raise TierUnreachable(self._down.what, fix=self._down.fix)
        if len(self._waiting) >= _QUEUE:
            raise TierUnreachable(
                "a tier of the cache is behind", fix="Nothing is lost; look at its load"
            )
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((op, future))
        self._wake.set()
        return await future

    async def close(self) -> None:
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._down = TierUnreachable("the cache tier is closed", fix="Open the engine again")
        self._fail(self._waiting, self._down)

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    session = await self._opened()
            except Exception as error:  # a driver's own confusion must not end the lane
                self._down = _reason(error)
                self._fail(self._waiting, self._down)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause, self._down = _FIRST_PAUSE, None
            try:
                await self._serve(session)
            except TierFailure as error:
                self._down = error
                self._fail(self._waiting, error)
            finally:
                with suppress(Exception):  # it is given up in any case
                    async with asyncio.timeout(CONNECT_SECONDS):
                        await session.close()

    async def _serve(self, session: Session[Work]) -> None:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            batch = self._take()
            if not batch:
                continue
            try:
                async with asyncio.timeout(self._stall):
                    results = await session.execute([op for op, _ in batch])
            except BaseException as error:
                reason = _reason(error)
                self._fail(deque(batch), reason)
                if isinstance(error, Exception):
                    # whatever it is: asyncpg's InternalClientError, of a backend that was killed in
                    # the middle of an answer, must not end the lane, only its connection
                    raise reason from error
                raise
            for (_, future), result in zip(batch, results):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _take(self) -> list[tuple[Work, asyncio.Future[Any]]]:
        """The next, without those for which nobody waits any more."""
        batch: list[tuple[Work, asyncio.Future[Any]]] = []
        while self._waiting and len(batch) < self._batch:
            one = self._waiting.popleft()
            if not one[1].done():
                batch.append(one)
        return batch

    @staticmethod
    def _fail(waiting: deque[tuple[Work, asyncio.Future[Any]]], reason: TierFailure) -> None:
        while waiting:
            _, future = waiting.popleft()
            if not future.done():
                future.set_exception(TierUnreachable(reason.what, fix=reason.fix))


def _reason(error: BaseException) -> TierFailure:
    if isinstance(error, TierFailure):
        return error
    if not isinstance(error, TimeoutError):
        return TierUnreachable(
            f"a connection of the cache failed with {type(error).__name__}",
            fix="It is made again by itself; if this goes on, please report it",
        )
    return TierUnreachable(
        "a tier of the cache does not answer in time",
        fix="Check the server and `cache.tier_ms`; it is asked again by itself",
    )
