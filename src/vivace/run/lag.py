"""How late is the event loop? What a request waits before anybody has seen it, and once more before
its answer is sent."""

from __future__ import annotations

import asyncio
from typing import Final

EVERY: Final = 0.02
"""Seconds between two beats: they cost a two-thousandth of a core."""
FADES: Final = 0.97
"""What is left of the worst a beat later: half of it after half a second."""


class Lag:
    """The worst that a timer of this event loop was late by, lately; in seconds.

    As a context manager it beats between entry and exit; before and after it keeps what it knows.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Lag:
        self._next(asyncio.get_running_loop())
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def late(self, seconds: float) -> None:
        """A beat came so late."""
        self.seconds = max(seconds, self.seconds * FADES)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_at(loop.time() + EVERY, self._beat, loop, loop.time() + EVERY)

    def _beat(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.late(max(0.0, loop.time() - due))
        self._next(loop)
