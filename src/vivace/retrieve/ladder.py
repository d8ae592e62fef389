"""What of a search fits into the time that is left?

With a deadline, each stage is weighed before it begins against what it has taken of late. What does
not fit is done smaller or not at all, in this order: less depth of reranking, less effort of the
dense side, the keyword side alone, an error. Each step taken is told in plain words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_FIRST: Final[Mapping[str, float]] = {
    "hop": 200e-6,
    "embed": 4e-3,
    "keyword": 300e-6,
    "dense": 300e-6,
    "dense hurried": 200e-6,
    "fuse": 100e-6,
    "rerank": 100e-6,
    "fetch": 300e-6,
}
"""Seconds of a stage that has not been measured yet; of `rerank`, a passage."""
_QUANTILE: Final = 0.95
_STEP: Final = 0.1
_FEW: Final = 16
RELAX: Final = 0.999
"""A stage that takes twice the time there is, is tried again after some 700 searches."""
DOUBT: Final = 0.8
"""The same of a refusal: an error is worse than a late answer, so a few are enough to try again."""
_LEAST: Final = 1e-6
GRACE: Final = 1e-3
"""Seconds that a result may come after its deadline: timers of an event loop are that coarse."""


class Costs:
    """What each stage takes, as a running 95th percentile in seconds.

    An observation above the estimate raises it by 9.5 %, one below lowers it by 0.5 %: it rests
    where one in twenty lies above, and the weight of old ones fades exponentially (Robbins, Monro,
    "A Stochastic Approximation Method", 1951, on a logarithmic scale). Any thread may observe: a
    lost observation does no harm.
    """

    def __init__(self) -> None:
        self._seconds = dict(_FIRST)
        self._first: dict[str, list[float]] = {}

    def __getitem__(self, stage: str) -> float:
        return self._seconds.get(stage, 0.0)

    def observe(self, stage: str, seconds: float) -> None:
        """A stage took so long."""
        first = self._first.get(stage)
        if first is None:
            first = self._first[stage] = []
        if len(first) < _FEW:
            # the very first is cold and says nothing of what comes: the second worst of few
            first.append(seconds)
            self._seconds[stage] = max(sorted(first)[-2:][0], _LEAST)
            return
        before = self._seconds[stage]
        if seconds > before:
            after = min(before * (1 + _QUANTILE * _STEP), seconds)
        else:
            after = max(before * (1 - (1 - _QUANTILE) * _STEP), seconds)
        self._seconds[stage] = max(after, _LEAST)

    def relax(self, stage: str, by: float = RELAX) -> None:
        """It was left out for its cost. Believed a little less each time, it is tried again some
        time; else one slow moment would leave it out for ever."""
        self._seconds[stage] = max(self[stage] * by, _LEAST)

    @property
    def finish(self) -> float:
        """Of what comes behind every candidate: one ranking, its texts, and the way back."""
        return self["fuse"] + self["fetch"] + self["hop"]


def depth(costs: Costs, left: float | None, wanted: int) -> int:
    """How many of the best can be reranked in the seconds left: all, half of them or none."""
    if left is None or not wanted:
        return wanted
    each = costs["rerank"]
    for possible in (wanted, wanted // 2):
        if each * possible + costs.finish <= left:
            return possible
    costs.relax("rerank")
    return 0


def told_of_depth(depth: int, wanted: int) -> str:
    """The step in plain words."""
    if not depth:
        return "not reranked: no time was left for it"
    return f"reranked {depth} instead of {wanted}: little time was left"


NO_TIME_TO_EMBED: Final = "keyword side alone: no time was left to embed the question"
EMBEDDED_LATE: Final = "keyword side alone: the question was not embedded in time"
LESS_EFFORT: Final = "dense side searched with less effort: little time was left"
NO_TIME_FOR_DENSE: Final = "dense side not searched: no time was left for it"
