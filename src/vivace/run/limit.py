"""How many may run at once, and who waits? One learned limit with a short line in front of it.

Used for admission to a server of ours and for calls of a model server.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final, Self

from vivace.errors import Closed, DeadlineExceeded, Overloaded, ShareExceeded
from vivace.run.line import Line, Place
from vivace.run.vegas import Vegas
from vivace.run.work import current, too_late

START: Final = 8
"""The limit before anything is learned, within its bounds."""
LONGEST_RETRY: Final = 30.0
"""Seconds."""
MEMORY: Final = 1.0
"""Seconds over which the refused are counted for `retry_after`."""


class Outcome(Enum):
    """What a call that held a slot says about the service."""

    DONE = "done"
    """It was served: its time is a sample."""
    DROPPED = "dropped"
    """It took a slot for nothing: its deadline passed, or the service said it was overloaded."""
    IGNORED = "ignored"
    """Nothing: it was cancelled, or refused for what it asked."""


@dataclass(frozen=True, slots=True)
class LimitStatistics:
    """`refused` counts by reason: full, late (it could not be in time), share, expired (while it
    waited), closed. `latency` is in seconds, `rate` in calls a second; None before the first."""

    limit: int
    lowest: int
    highest: int
    in_flight: int
    queued: int
    admitted: int
    refused: dict[str, int]
    latency: float | None
    rate: float | None


class Permit:
    """A slot that is held. Give it back once, with `release`, or use it as a context manager.

    As a context manager it tells the outcome from how the block ended: `DONE` if normally,
    `DROPPED` by `DeadlineExceeded` or `Overloaded`, `IGNORED` by anything else.
    """

    __slots__ = ("_began", "_limit", "_user", "waited")

    def __init__(self, limit: Limit, user: str, waited: float) -> None:
        self._limit: Limit | None = limit
        self._user = user
        self._began = limit._clock()
        self.waited = waited
        """Seconds in the line."""

    def release(self, outcome: Outcome = Outcome.DONE) -> None:
        """Give the slot back. Idempotent."""
        limit, self._limit = self._limit, None
        if limit is not None:
            limit._release(self._user, self._began, outcome)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.release(_outcome(error))


def _outcome(error: BaseException | None) -> Outcome:
    if error is None:
        return Outcome.DONE
    dropped = isinstance(error, DeadlineExceeded | Overloaded)
    return Outcome.DROPPED if dropped else Outcome.IGNORED


class _Admission:
    """What `Limit.admit` returns: `acquire` and `release` around a block."""

    __slots__ = ("_limit", "_permit")

    def __init__(self, limit: Limit) -> None:
        self._limit = limit

    async def __aenter__(self) -> Permit:
        self._permit = await self._limit.acquire()
        return self._permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._permit.release(_outcome(error))


class Limit:
    """A learned number of slots (see `Vegas`), and a short line of those who wait for one.

    It belongs to one event loop. Priority, deadline and user of a call are those of
    `vivace.run.work.current()`.

    Args:
        name: of what is limited, for errors.
        lowest, highest: hard bounds of the limit; equal ones fix it.
        queue: most calls that wait.
        patience: most seconds a call without a deadline is let wait, as far as can be foreseen.
        clock: `time.monotonic`, or a simulated one; deadlines are times of it.
    """

    def __init__(
        self,
        name: str,
        *,
        lowest: int = 1,
        highest: int = 256,
        start: int = START,
        queue: int = 64,
        patience: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        raise NotImplementedError

    def admit(self) -> _Admission:
        """`async with limit.admit():` a slot for the block; raises what `acquire` raises."""
        return _Admission(self)

    async def acquire(self) -> Permit:
        """A slot: at once where one is free and nobody waits, else after some time in the line.

        Raises:
            Overloaded: no room, or it could not be in time; carries `retry_after`.
            ShareExceeded: the same, and this user holds more than an equal share of the room.
            DeadlineExceeded: the deadline passed, here or in the line.
            Closed: the limit is closed.
        """
        raise NotImplementedError

    def try_acquire(self) -> Permit | None:
        """A slot if one is free now and nobody waits; never waits, refuses nobody."""
        raise NotImplementedError

    def bound(self, lowest: int, highest: int) -> None:
        """Move the bounds while it runs. Slots above a lowered limit are not taken away: they are
        not given again."""
        raise NotImplementedError

    def close(self) -> None:
        """Refuse who waits and who comes, with `Closed`. Slots that are held stay so. Idempotent."""
        raise NotImplementedError

    def statistics(self) -> LimitStatistics:
        raise NotImplementedError
