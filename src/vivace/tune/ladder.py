"""What is the least effort that keeps a floor of recall? Few questions first, bisected."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt

import numpy as np

from vivace.protocols import VectorIndex
from vivace.tune import intervals
from vivace.tune.intervals import Recall, Recalls
from vivace.tune.questions import Questions

_FIRST = 64
"""Questions an effort is tried on first."""
_CLOSE = 1.04
"""Two efforts of which one is less than so many times the other are as good as the same."""


@dataclass(slots=True)
class Rung:
    """One effort, as far as it was tried."""

    recalls: Recalls = field(default_factory=lambda: np.empty(0))
    cpu_seconds: float = 0.0
    """Of all questions so far, asked in batches."""

    @property
    def cpu_ms(self) -> float:
        return 1e3 * self.cpu_seconds / max(1, len(self.recalls))


class Ladder:
    """The efforts of one index, each tried on as many questions as it needs.

    Each asks for `width` neighbours, by which the questions' true ones are judged.
    """

    def __init__(
        self, index: VectorIndex, questions: Questions, width: int, step: Callable[[], None]
    ) -> None:
        self.index = index
        self.rungs: dict[int, Rung] = {}
        self._questions = questions
        self._width = width
        self._step = step

    def recall(self, effort: int) -> Recall:
        """What is known of an effort."""
        rung = self.rungs[effort]
        if self.index.capabilities.exact:
            return intervals.certain(len(rung.recalls))
        return intervals.recall(rung.recalls, self._questions.groups[: len(rung.recalls)])

    def least(self, floor: float, dear: Callable[[int, Rung], bool]) -> int | None:
        """The least effort whose recall is at or above the floor by the lower end of its interval.

        Doubled until one is, then bisected; an effort passes for now on as many questions as are
        needed to see it clearly above or below, and the one that is returned on all of them. None
        where the greatest effort does not reach the floor, or where `dear` says of one that does
        not that it costs too much already: a greater one costs more.
        """
        lowest, greatest = self.index.efforts(self._width)
        below, above = lowest - 1, lowest
        while not self._reaches(above, floor):
            if above >= greatest or dear(above, self.rungs[above]):
                return None
            below, above = above, min(greatest, max(above + 1, 2 * above))
        while True:
            above = self._between(below, above, floor)
            if self._reaches(above, floor, surely=True):
                return above
            if above >= greatest:
                return None
            below, above = above, min(greatest, max(above + 1, round(above * _CLOSE)))
            while not self._reaches(above, floor, surely=True):
                if above >= greatest:
                    return None
                below, above = above, min(greatest, max(above + 1, round(above * 1.15)))

    def all(self, effort: int) -> Recall:
        """The recall of an effort on all questions."""
        self._tried(effort, len(self._questions))
        return self.recall(effort)

    def _between(self, below: int, above: int, floor: float) -> int:
        """The least effort that reaches the floor, `above` doing so and `below` not."""
        while above - below > 1 and above > _CLOSE * below:
            # of efforts one costs by its ratio to another, not by its distance
            middle = min(above - 1, max(below + 1, round(sqrt(max(1, below) * above))))
            if self._reaches(middle, floor):
                above = middle
            else:
                below = middle
        return above

    def _reaches(self, effort: int, floor: float, *, surely: bool = False) -> bool:
        whole = len(self._questions)
        asked = whole if surely else min(_FIRST, whole)
        while True:
            self._tried(effort, asked)
            seen = self.recall(effort)
            if seen.low >= floor:
                return True
            if seen.high < floor or asked == whole:
                return False
            asked = min(whole, 2 * asked)

    def _tried(self, effort: int, asked: int) -> None:
        rung = self.rungs.setdefault(effort, Rung())
        done = len(rung.recalls)
        if done >= asked:
            return
        self._step()
        began = time.thread_time()
        found = self.index.search(self._questions.vectors[done:asked], self._width, effort=effort)
        rung.cpu_seconds += time.thread_time() - began
        rung.recalls = np.append(rung.recalls, self._questions.recalls(found, done, asked))
