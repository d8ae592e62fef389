"""Filling the cache: the most frequent logged questions are searched before users repeat them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

from vivace.errors import VivaceError
from vivace.protocols import Searcher
from vivace.run.work import Priority, work_context
from vivace.types import Query

LoggedQuestions: TypeAlias = Counter[tuple[str, int]]
"""How often each (text, k) was asked."""


@dataclass(frozen=True, slots=True)
class QuestionCounts:
    """How many questions a log holds, and how many different ones."""

    questions: int
    distinct: int

    @property
    def repeated(self) -> float:
        """Share of the questions that had been asked before, with the same k."""
        return 1 - self.distinct / self.questions if self.questions else 0.0


@dataclass(frozen=True, slots=True)
class WarmingReport:
    """How many questions were searched again, and how many of those failed."""

    questions: int
    failed: int = 0


async def warm(searcher: Searcher, logged: LoggedQuestions, limit: int) -> WarmingReport:
    """Search for the `limit` most frequent questions in background, one after another.

    The log holds neither filters nor vectors, so the searches have none.
    """
    failed = 0
    wanted = logged.most_common(limit)
    with work_context(Priority.BACKGROUND):
        for (text, k), _ in wanted:
            try:
                await searcher.search(Query(text, k))
            except VivaceError:  # it fails for its user as well; the others are unaffected
                failed += 1
    return WarmingReport(len(wanted), failed)
