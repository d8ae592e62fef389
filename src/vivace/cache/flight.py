"""What many ask for at once is computed once: single flight.

As Go's `golang.org/x/sync/singleflight`, with two differences: whoever leads may be cancelled
without those that follow, and an outcome may be the leader's alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Landed:
    value: Any


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


class _Mark:
    """What a flight without a shared outcome ended in."""


_ABANDONED: Final = _Mark()
"""Its leader was cancelled: another one takes over."""
_ALONE: Final = _Mark()
"""Its outcome was its leader's own: everybody computes for himself."""


class _Flight:
    __slots__ = ("outcome", "waiting")

    def __init__(self) -> None:
        self.outcome: _Landed | _Failed | _Mark | None = None
        self.waiting: list[Callable[[], None]] = []


def _always(_: object) -> bool:
    return True


class SingleFlight:
    """Computations in progress, by key. For any number of event loops and threads of a process.

    The first that asks for a key computes, in its own task, with its own deadline; the others wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[Hashable, _Flight] = {}

    def __len__(self) -> int:
        with self._lock:
            return len(self._flying)

    async def run(
        self,
        key: Hashable,
        compute: Callable[[], Awaitable[V]],
        *,
        shared: Callable[[V], bool] = _always,
        own: tuple[type[Exception], ...] = (),
        patience: float | None = None,
        joined: Callable[[], None] | None = None,
    ) -> V:
        """What `compute` makes, of whoever was first.

        A leader that fails fails those that wait; one that is cancelled hands over to one of them.
        Where an outcome is not `shared`, or an error one of `own`, those that waited compute for
        themselves, all at once.

        Args:
            patience: seconds after which who waits computes for himself.
            joined: called once by who got somebody else's value.
        """
        while True:
            flight, leads, landed = self._entered(key)
            if leads:
                return await self._lead(key, flight, compute, shared, own)
            if not await _until(landed, patience):
                return await compute()
            outcome = flight.outcome
            if isinstance(outcome, _Landed):
                if joined is not None:
                    joined()
                value: V = outcome.value
                return value
            if isinstance(outcome, _Failed):
                raise outcome.error
            if outcome is _ALONE:
                return await compute()

    def call(self, key: Hashable, compute: Callable[[], V]) -> V:
        """As `run`, for a thread that may block; it shares with event loops."""
        value: V
        while True:
            ended = threading.Event()
            with self._lock:
                flight = self._flying.get(key)
                if leads := flight is None:
                    flight = self._flying[key] = _Flight()
                else:
                    assert flight is not None
                    flight.waiting.append(ended.set)
            assert flight is not None
            if leads:
                flight.outcome = _ABANDONED
                try:
                    value = compute()
                    flight.outcome = _Landed(value)
                    return value
                except Exception as error:
                    flight.outcome = _Failed(error)
                    raise
                finally:
                    self._end(key, flight)
            ended.wait()
            outcome = flight.outcome
            if isinstance(outcome, _Failed):
                raise outcome.error
            if outcome is _ALONE:
                return compute()
            if isinstance(outcome, _Landed):
                value = outcome.value
                break
        return value

    def _entered(self, key: Hashable) -> tuple[_Flight, bool, asyncio.Future[None] | None]:
        """The flight, whether it has to be led, and what to wait for where it has not."""
        with self._lock:
            flight = self._flying.get(key)
            if flight is None:
                flight = self._flying[key] = _Flight()
                return flight, True, None
            loop = asyncio.get_running_loop()
            landed = loop.create_future()

            def wake() -> None:
                with suppress(RuntimeError):  # that loop has been closed, and who waited with it
                    loop.call_soon_threadsafe(_settle, landed)

            flight.waiting.append(wake)
            return flight, False, landed

    async def _lead(
        self,
        key: Hashable,
        flight: _Flight,
        compute: Callable[[], Awaitable[V]],
        shared: Callable[[V], bool],
        own: tuple[type[Exception], ...],
    ) -> V:
        outcome: _Landed | _Failed | _Mark = _ABANDONED
        try:
            value = await compute()
            outcome = _Landed(value) if shared(value) else _ALONE
            return value
        except Exception as error:
            outcome = _ALONE if isinstance(error, own) else _Failed(error)
            raise
        finally:
            flight.outcome = outcome
            self._end(key, flight)

    def _end(self, key: Hashable, flight: _Flight) -> None:
        with self._lock:
            del self._flying[key]
            waiting, flight.waiting = flight.waiting, []
        for wake in waiting:
            wake()


def _settle(landed: asyncio.Future[None]) -> None:
    if not landed.done():
        landed.set_result(None)


async def _until(landed: asyncio.Future[None] | None, patience: float | None) -> bool:
    """Whether it landed in time."""
    assert landed is not None
    if patience is None:
        await landed
        return True
    await asyncio.wait([landed], timeout=max(0.0, patience))
    return landed.done()
