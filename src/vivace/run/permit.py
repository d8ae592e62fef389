"""A slot that is held, and what its holder learned about the service."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Self

from vivace.errors import DeadlineExceeded, Overloaded


class Outcome(Enum):
    """What a call that held a slot says about the service."""

    DONE = "done"
    """It was served: its time is a sample."""
    DROPPED = "dropped"
    """It took a slot for nothing: its deadline passed, or the service said it was overloaded."""
    IGNORED = "ignored"
    """Nothing: it was cancelled, or refused for what it asked."""


def outcome_of(error: BaseException | None) -> Outcome:
    """Of a block that ended with this error."""
    if error is None:
        return Outcome.DONE
    dropped = isinstance(error, DeadlineExceeded | Overloaded)
    return Outcome.DROPPED if dropped else Outcome.IGNORED


class Permit:
    """Give it back once, with `release`, or use it as a context manager, which tells the outcome
    from how the block ended: see `outcome_of`. Made by a `Limit`."""

    __slots__ = ("_began", "_gaps", "_give_back", "_last", "_tell", "_user", "waited")

    def __init__(
        self,
        give_back: Callable[[str, float, Outcome, int | None], None],
        user: str,
        began: float,
        waited: float,
        tell: Callable[[float, float | None, int], float] | None = None,
    ) -> None:
        self._give_back: Callable[[str, float, Outcome, int | None], None] | None = give_back
        self._user = user
        self._began = began
        self._tell = tell
        self._last: float | None = None
        self._gaps = 0
        self.waited = waited
        """Seconds in the line."""

    def came(self, tokens: int) -> None:
        """So many tokens of a stream came together; a limit that is not paced does not listen."""
        if self._tell is not None and self._give_back is not None:
            if self._last is not None:
                self._gaps += tokens
            self._last = self._tell(self._began, self._last, tokens)

    def release(self, outcome: Outcome = Outcome.DONE) -> None:
        """Give the slot back. Idempotent."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            gaps = self._gaps if self._last is not None else None
            give_back(self._user, self._began, outcome, gaps)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.release(outcome_of(error))
