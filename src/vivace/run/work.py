"""How urgent is what runs now, until when is it wanted, and for whom?

The context carries it, so every queue between a request and its answer reads the same values and no
seam has to pass them on. The code that starts work sets it; the code that queues work reads
`current`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vivace.errors import DeadlineExceeded


class Priority(IntEnum):
    """The lower number runs first."""

    INTERACTIVE = 0
    """A caller waits for one answer."""
    BATCH = 1
    """A caller waits for many answers."""
    INGEST = 2
    """Documents are being added."""
    BACKGROUND = 3
    """Nobody waits: merges, trials, recall checks."""


@dataclass(frozen=True, slots=True)
class Work:
    """`deadline` is a time of `time.monotonic()`; `user` is whose share of a queue it counts to."""

    priority: Priority = Priority.INTERACTIVE
    deadline: float | None = None
    user: str = ""

    def late(self, now: float) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and now >= self.deadline


_PLAIN: Final = Work()
_current: ContextVar[Work] = ContextVar("vivace.work", default=_PLAIN)


def current() -> Work:
    """The work of the running task or thread; by default interactive and without a deadline."""
    return _current.get()


@contextmanager
def working_on(work: Work) -> Iterator[Work]:
    """Make `work` the current one in the block."""
    token = _current.set(work)
    try:
        yield work
    finally:
        _current.reset(token)


def work_context(
    priority: Priority | None = None, *, seconds: float | None = None, user: str = ""
) -> AbstractContextManager[Work]:
    """Set priority, deadline and user of what the block does; what is not given stays as it was.

    Of two deadlines the sooner one holds, and of two priorities the less urgent one: what a batch
    starts does not become interactive by what it calls.

    Args:
        seconds: until the deadline, from now.
    """
    outer = current()
    deadline = outer.deadline
    if seconds is not None:
        until = time.monotonic() + seconds
        deadline = until if deadline is None else min(deadline, until)
    urgency = outer.priority if priority is None else max(priority, outer.priority)
    return working_on(Work(urgency, deadline, user or outer.user))


def shared() -> AbstractContextManager[Work]:
    """For a block whose work several callers share: keeps the priority, without the deadline and
    the user of the one who starts it."""
    return working_on(Work(current().priority))


def too_late(name: str) -> DeadlineExceeded:
    """The error of work whose deadline passed before it began."""
    return DeadlineExceeded(
        f"{name}: the deadline passed before the work began",
        fix="Allow more time, or send fewer requests at once",
    )
