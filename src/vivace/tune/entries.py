"""What takes part in a race: plans on built indexes, and what was measured of them."""

from __future__ import annotations

from dataclasses import dataclass

from vivace.protocols import VectorIndex
from vivace.tune.intervals import Recall
from vivace.tune.ladder import Ladder
from vivace.tune.measure import Contender, Times
from vivace.types import Plan, Trial


@dataclass(slots=True)
class Entry:
    """One plan that was tried to the end."""

    plan: Plan
    index: VectorIndex
    ladder: Ladder
    recall: Recall
    build_seconds: float
    times: Times
    relative: float = 1.0
    """CPU by that of the first entry, from times taken side by side: a machine that is busier now
    than it was before would make all that comes late look dear."""

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


def beside(ladder: Ladder, chosen: int) -> list[int]:
    """Up to two other efforts, well below and well above the chosen one, that were tried."""
    below = [effort for effort in ladder.rungs if 1.3 * effort <= chosen]
    above = [effort for effort in ladder.rungs if effort >= 1.3 * chosen]
    return [*([max(below)] if below else []), *([min(above)] if above else [])]
