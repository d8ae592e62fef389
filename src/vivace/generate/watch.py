"""A watch over one answer's clocks that costs one comparison a token, not a timer a token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, TypeAlias

Expired: TypeAlias = Literal["", "first", "between", "total"]


class StreamClock:
    """Calls `stop` once when a clock runs out and says which in `expired`.

    The clock of tokens stands still while the reader is away (`reading` is False): a caller that is
    slow to take tokens is not a server that is slow to send them. The total clock never stops.
    All times are of the event loop's clock.
    """

    __slots__ = ("_between", "_due", "_loop", "_stop", "_timer", "_total", "expired", "reading")

    def __init__(
        self, stop: Callable[[], None], *, first: float, between: float, total: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self._between = between
        self._total = total
        self._due = first
        self.reading = True
        self.expired: Expired = ""
        self._timer = self._loop.call_at(min(first, total), self._check, "first")

    def progress(self) -> None:
        """A token came, or its reader came back from handling one."""
        self._due = self._loop.time() + self._between

    def started(self) -> None:
        """The first token came: from now on the time between two counts."""
        self.progress()
        self._timer.cancel()
        self._timer = self._loop.call_at(min(self._due, self._total), self._check, "between")

    def cancel(self) -> None:
        self._timer.cancel()

    def _check(self, which: Expired) -> None:
        now = self._loop.time()
        if now < self._total:
            if not self.reading:
                self.progress()
            if now < self._due:
                due = min(self._due, self._total)
                self._timer = self._loop.call_at(due, self._check, which)
                return
        self.expired = "total" if now >= self._total else which
        self._stop()
