"""One at a time, as long as each is short: what runs Python gains nothing from a second thread.

A call of a millisecond that goes in and out of native code a dozen times gives up the interpreter's
lock each time, and with a second such thread beside it has to be woken again each time: measured on
two cores, two threads did less together than one alone (decision 21). So a call has the interpreter
to itself while it is young; whoever takes longer is in native code for most of it, or would hold up
the others, and another thread begins beside it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

S = TypeVar("S")


class Alone(Generic[S]):
    """Which seats of a crew have begun when. The crew's lock guards it.

    Of the seats that have to wait one watches: it looks again when what runs is no longer young.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: dict[S, float] = {}
        self.watcher: S | None = None

    def begin(self, seat: S, now: float) -> None:
        self._begun[seat] = now

    def end(self, seat: S) -> None:
        self._begun.pop(seat, None)

    def until(self, now: float) -> float | None:
        """When another may begin; None is now."""
        if not self._begun:
            return None
        until = max(self._begun.values()) + self._seconds
        return until if until > now else None

    def watched(self, seat: S) -> bool:
        """Whether another one watches; if not, this one does from now on."""
        if self.watcher is None:
            self.watcher = seat
        return self.watcher is not seat

    def leave(self, seat: S) -> None:
        """It watches no more."""
        if self.watcher is seat:
            self.watcher = None
