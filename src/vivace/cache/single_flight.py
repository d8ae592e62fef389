"""Concurrent requests for one value compute it once; stale values are recomputed once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from vivace.run.work import Priority, work_context

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any


@dataclass(frozen=True, slots=True)
class _Error:
    error: Exception


class _Unshared:
    """The outcome of a flight that has none for its followers."""


_ABANDONED: Final = _Unshared()
"""The leader was cancelled: a follower takes over."""
_PRIVATE: Final = _Unshared()
"""The outcome concerns the leader alone: every follower computes for itself."""


class _Flight:
    __slots__ = ("followers", "outcome")

    def __init__(self) -> None:
        self.outcome: _Value | _Error | _Unshared | None = None
        self.followers: list[Callable[[], None]] = []
        """Called when there is an outcome."""


def always(_: object) -> bool:
    return True


class SingleFlight:
    """Computations in progress, by key; for any number of event loops and threads of a process.

    The first caller for a key computes in its own task and with its own deadline; the others wait.
    As Go's `golang.org/x/sync/singleflight`, except that cancelling the leader does not cancel the
    followers, and that an outcome may concern the leader alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}

    def __len__(self) -> int:
        with self._lock:
            return len(self._flights)

    def waiting(self, key: Hashable) -> int:
        """How many callers wait for the leader of this key."""
        with self._lock:
            flight = self._flights.get(key)
            return 0 if flight is None else len(flight.followers)

    async def run(
        self,
        key: Hashable,
        compute: Callable[[], Awaitable[V]],
        *,
        shared: Callable[[V], bool] = always,
        own: tuple[type[Exception], ...] = (),
        patience: float | None = None,
        joined: Callable[[], None] | None = None,
    ) -> V:
        """The value that the first caller's `compute` returns.

        If the leader fails, its followers fail with the same error; if it is cancelled, one of them
        takes over. If its value is not `shared`, or its error is one of `own`, the followers all
        compute for themselves, concurrently.

        Args:
            patience: seconds after which a follower computes for itself.
            joined: called once by a follower that receives the leader's value.
        """
        while True:
            flight, ended = self._entered(key)
            if ended is None:
                return await self._lead(key, flight, compute, shared, own)
            if patience is None:
                await ended
            else:
                await asyncio.wait([ended], timeout=max(0.0, patience))
                if not ended.done():
                    return await compute()
            outcome = flight.outcome
            if isinstance(outcome, _Value):
                if joined is not None:
                    joined()
                value: V = outcome.value
                return value
            if isinstance(outcome, _Error):
                raise outcome.error
            if outcome is _PRIVATE:
                return await compute()

    def _entered(self, key: Hashable) -> tuple[_Flight, asyncio.Future[None] | None]:
        """The flight, and the future a follower waits for; None for the leader."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = _Flight()
                return flight, None
            loop = asyncio.get_running_loop()
            ended = loop.create_future()

            def wake() -> None:
                with suppress(RuntimeError):  # the follower's loop has been closed
                    loop.call_soon_threadsafe(_settle, ended)

            flight.followers.append(wake)
            return flight, ended

    async def _lead(
        self,
        key: Hashable,
        flight: _Flight,
        compute: Callable[[], Awaitable[V]],
        shared: Callable[[V], bool],
        own: tuple[type[Exception], ...],
    ) -> V:
        outcome: _Value | _Error | _Unshared = _ABANDONED
        try:
            value = await compute()
            outcome = _Value(value) if shared(value) else _PRIVATE
            return value
        except Exception as error:
            outcome = _PRIVATE if isinstance(error, own) else _Error(error)
            raise
        finally:
            flight.outcome = outcome
            with self._lock:
                del self._flights[key]
                followers, flight.followers = flight.followers, []
            for wake in followers:
                wake()


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


class Revalidation:
    """Recomputes stale values in the background, once per key at a time. For one event loop.

    Close it before what it recomputes with: so every owner has one of its own.
    """

    def __init__(self) -> None:
        self._running: dict[bytes, asyncio.Task[None]] = {}

    def begin(
        self, key: bytes, compute: Callable[[], Awaitable[Any]], failed: Callable[[], None]
    ) -> None:
        """Run `compute` in the background unless it runs for the key; call `failed` on error."""
        if key in self._running:
            return

        async def recompute() -> None:
            try:
                with work_context(Priority.BACKGROUND):
                    await compute()
            # no caller waits for it: the stale value was returned, and the next request tries again
            except Exception:
                failed()

        # an empty context: the deadline of the request that found the value stale does not apply
        task = asyncio.get_running_loop().create_task(recompute(), context=Context())
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def settle(self) -> None:
        """Wait until no recomputation runs."""
        while self._running:
            await asyncio.wait(list(self._running.values()))

    async def close(self) -> None:
        """Cancel the recomputations; returns when they have ended. Idempotent."""
        for task in list(self._running.values()):
            task.cancel()
        await self.settle()
