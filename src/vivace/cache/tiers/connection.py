"""One connection to a tier's server, owned by a task, and the ways in which a tier fails.

Requests queue their operations and wait no longer than they choose; operations that wait together
are sent as one batch. No request opens a connection or is cancelled inside a driver: that costs
milliseconds (TLS, SCRAM), and has left drivers out of step with their servers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from vivace.errors import VivaceError

Op = TypeVar("Op", contravariant=True)
Work = TypeVar("Work")

CONNECT_SECONDS: Final = 1.0
"""Of one attempt to connect, and of a ping that shows that the server does not hang."""
_LEAST_STALL: Final = 0.15
"""Seconds of a read. Requests stop waiting sooner, but a connection is dearer than a late answer.
"""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
"""Seconds between attempts to connect."""
_QUEUE: Final = 4096


class TierFailure(VivaceError):
    """A tier did not do what it was asked to. Counted by its caller, never raised to a request."""


class TierUnreachable(TierFailure):
    """No answer, none in time, or a refused password: the next call will fail as well."""


class TierRefused(TierFailure):
    """The server is well and refuses, e.g. because its memory is full; it may still be read."""


class Session(Protocol[Op]):
    """An open connection. Whatever it raises ends it."""

    async def execute(self, ops: Sequence[Op]) -> list[Any]:
        """One result for each operation, in order; an operation's error is its result.

        Raises:
            TierUnreachable: the connection is of no more use.
        """
        ...

    async def close(self) -> None: ...


class PipelinedConnection(Generic[Work]):
    """Sends operations in batches over one connection, and reconnects by itself.

    Args:
        connect: makes a connection that is known to answer; raises `TierUnreachable` if none does.
        batch: most operations at once.
        stall: seconds a batch may take before the connection is given up.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Session[Work]]], *, batch: int, stall: float
    ) -> None:
        self._connect = connect
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
        """Operations that wait."""
        return len(self._waiting)

    async def call(self, op: Work) -> Any:
        """The result of the operation.

        Raises:
            TierUnreachable: there is no connection, or it ended.
            TierFailure: the server's error for this operation.
        """
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._run(), name="cache tier connection")
        if self._down is not None:
            raise TierUnreachable(self._down.what, fix=self._down.fix)
        if len(self._waiting) >= _QUEUE:
            raise TierUnreachable(
                "a tier of the cache cannot keep up", fix="Nothing is lost; check the server's load"
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
                    session = await self._connect()
            except Exception as error:  # an unexpected error of a driver must not end this task
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
                    # of any class, e.g. asyncpg's InternalClientError when a backend is killed in
                    # the middle of an answer: it ends the connection, not this task
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
        """The next batch, without operations whose callers have stopped waiting."""
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
            fix="It is opened again by itself; if this goes on, please report it",
        )
    return TierUnreachable(
        "a tier of the cache does not answer in time",
        fix="Check the server and `cache.tier_ms`; it is tried again by itself",
    )
