"""The questions that were asked most, asked again before somebody does."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Final

from vivace.errors import VivaceError
from vivace.protocols import Searcher
from vivace.run.work import Priority, work_context
from vivace.store.store import Store
from vivace.types import Query

_LOOKED_AT: Final = 10_000
"""Questions of the log, the newest."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a collection's log says: how many questions, and how many different ones."""

    questions: int
    distinct: int

    @property
    def repeated(self) -> float:
        """Share of the questions that had been asked before, with the same k."""
        return 1 - self.distinct / self.questions if self.questions else 0.0


@dataclass(frozen=True, slots=True)
class Warmed:
    """Questions that were asked again, and of those, how many could not be answered."""

    questions: int
    failed: int = 0


async def asked(store: Store) -> Asked:
    counted = await asyncio.to_thread(_counted, store)
    return Asked(counted.total(), len(counted))


async def warm(store: Store, searcher: Searcher, limit: int) -> Warmed:
    """Search for the `limit` most frequent questions of the log, one after another, in background.

    The log has neither filters nor vectors: they are searched for without.

    Raises:
        StoreError: the log cannot be read.
    """
    counted = await asyncio.to_thread(_counted, store)
    failed = 0
    wanted = counted.most_common(limit)
    with work_context(Priority.BACKGROUND):
        for (text, k), _ in wanted:
            try:
                await searcher.search(Query(text, k))
            except VivaceError:  # as it would when it is asked; the others are none the worse
                failed += 1
    return Warmed(len(wanted), failed)


def _counted(store: Store) -> Counter[tuple[str, int]]:
    rows = store.queries(limit=_LOOKED_AT)
    return Counter((text, k) for _, text, k, _, _, _ in rows if text.strip())
