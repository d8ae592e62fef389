"""What is the least effort of an index that meets a floor of recall? Found by bisection."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from typing import Final

import numpy as np

from vivace.protocols import VectorIndex
from vivace.tune import metrics
from vivace.tune.measure import Contender, Times
from vivace.tune.metrics import Recall, Recalls
from vivace.tune.workload import Questions
from vivace.types import Plan, Trial

_FIRST: Final = 64
"""Questions an effort is tried on first."""
_CLOSE: Final = 1.04
"""Two efforts whose ratio is below this are as good as the same."""
_BESIDE: Final = 1.3
"""The least ratio of the efforts that are shown beside a chosen one."""


@dataclass(slots=True)
class LadderRung:
    """One effort, and what was measured of it so far."""

    recalls: Recalls = field(default_factory=lambda: np.empty(0))
    cpu_seconds: float = 0.0
    """Of all questions so far, asked in batches."""

    @property
    def cpu_ms(self) -> float:
        return 1e3 * self.cpu_seconds / max(1, len(self.recalls))


class Ladder:
    """The efforts of one index, each tried on as many questions as it needs.

    Each search asks for `width` neighbours; recall is judged by the questions' true neighbours.
    """

    def __init__(
        self, index: VectorIndex, questions: Questions, width: int, step: Callable[[], None]
    ) -> None:
        self.index = index
        self.rungs: dict[int, LadderRung] = {}
        self._questions = questions
        self._width = width
        self._step = step

    def recall(self, effort: int) -> Recall:
        """The recall of an effort on the questions it was tried on."""
        rung = self.rungs[effort]
        if self.index.capabilities.exact:
            return metrics.exact_recall(len(rung.recalls))
        return metrics.mean_recall(rung.recalls, self._questions.groups[: len(rung.recalls)])

    def least(self, floor: float, too_expensive: Callable[[int, LadderRung], bool]) -> int | None:
        """The least effort whose recall is at or above the floor by the lower end of its interval.

        Efforts are doubled until one passes, then bisected. An effort passes provisionally on as
        many questions as show it clearly above or below the floor; the returned one passes on all
        of them. None where the greatest effort misses the floor, or where one that misses it is
        `too_expensive`: greater ones cost more.
        """
        lowest, greatest = self.index.efforts(self._width)
        below, above = lowest - 1, lowest
        while not self._reaches(above, floor):
            if above >= greatest or too_expensive(above, self.rungs[above]):
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

    def on_all(self, effort: int) -> Recall:
        """The recall of an effort on all questions."""
        self._tried(effort, len(self._questions))
        return self.recall(effort)

    def beside(self, chosen: int) -> list[int]:
        """Up to two other efforts that were tried, well below and well above the chosen one."""
        below = [effort for effort in self.rungs if _BESIDE * effort <= chosen]
        above = [effort for effort in self.rungs if effort >= _BESIDE * chosen]
        return [*([max(below)] if below else []), *([min(above)] if above else [])]

    def _between(self, below: int, above: int, floor: float) -> int:
        """The least effort that reaches the floor, where `above` does and `below` does not."""
        while above - below > 1 and above > _CLOSE * below:
            # the cost of an effort grows with its ratio to another, not with the difference
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
        rung = self.rungs.setdefault(effort, LadderRung())
        done = len(rung.recalls)
        if done >= asked:
            return
        self._step()
        began = time.thread_time()
        found = self.index.search(self._questions.vectors[done:asked], self._width, effort=effort)
        rung.cpu_seconds += time.thread_time() - began
        rung.recalls = np.append(rung.recalls, self._questions.recalls(found, done, asked))


@dataclass(slots=True)
class RaceEntry:
    """A plan that was tried to the end, on its built index."""

    plan: Plan
    index: VectorIndex
    ladder: Ladder
    recall: Recall
    build_seconds: float
    times: Times
    relative: float = 1.0
    """CPU relative to the first entry, from times taken side by side: comparing times taken apart
    would make late entries look expensive on a machine that has become busier."""

    @property
    def contender(self) -> Contender:
        return Contender(self.index, self.plan.effort)

    def trial(self) -> Trial:
        return trial(self.plan, self.index, self.recall, self.build_seconds, self.times)


def trial(plan: Plan, index: VectorIndex, recall: Recall, seconds: float, times: Times) -> Trial:
    return Trial(
        plan,
        recall.mean,
        recall.low,
        recall.high,
        times.p50_ms,
        times.p95_ms,
        times.cpu_ms,
        index.footprint,
        seconds,
        recall.queries,
    )
