"""How urgent is what runs now, until when is it wanted, and for whom?

The context carries it, so that every queue between a request and its answer reads the same, and no
seam has to hand it on. Whoever starts work says what it is; whoever queues it reads `current`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vivace.errors import DeadlineExceeded


class Priority(IntEnum):
    """The lower number runs first."""

    INTERACTIVE = 0
    """Somebody waits for one answer."""
    BATCH = 1
    """Somebody waits for many."""
    INGEST = 2
    """Documents on their way in."""
    BACKGROUND = 3
    """Nobody waits: merges, trials, recall checks."""


@dataclass(frozen=True, slots=True)
class Work:
    """`deadline` is a time of `time.monotonic()`; `user` is whose share of a queue it counts to."""

    priority: Priority = Priority.INTERACTIVE
    deadline: float | None = None
    user: str = ""

    def late(self, now: float) -> bool:
        """Whether nobody wants the result any more."""
        return self.deadline is not None and now >= self.deadline


_PLAIN: Final = Work()
_current: ContextVar[Work] = ContextVar("vivace.work", default=_PLAIN)


def current() -> Work:
    """Of the running task or thread; interactive, without a deadline, where nobody has said."""
    return _current.get()


@contextmanager
def doing(
    priority: Priority | None = None, *, seconds: float | None = None, user: str = ""
) -> Iterator[Work]:
    """What the block does. What is not given stays as it was.

    Of two deadlines the sooner holds, of two priorities the less urgent: what is started for a
    batch does not become interactive by what it calls.

    Args:
        seconds: from now until nobody wants the result.
    """
    outer = current()
    deadline = outer.deadline
    if seconds is not None:
        until = time.monotonic() + seconds
        deadline = until if deadline is None else min(deadline, until)
    urgency = outer.priority if priority is None else max(priority, outer.priority)
    work = Work(urgency, deadline, user or outer.user)
    token = _current.set(work)
    try:
        yield work
    finally:
        _current.reset(token)


@contextmanager
def shared() -> Iterator[None]:
    """What the block starts is for more than the one who starts it: of the same urgency, without
    the deadline and the user."""
    token = _current.set(Work(current().priority))
    try:
        yield
    finally:
        _current.reset(token)


def too_late(name: str) -> DeadlineExceeded:
    """The error of work that was dropped before it began."""
    return DeadlineExceeded(
        f"{name}: the deadline passed before the work began",
        fix="Allow more time, or send fewer requests at once",
    )
