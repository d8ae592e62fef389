"""The state of one question on its way through the pipeline, and the time it has left.

With a deadline each stage is weighed, before it begins, against what it usually takes. What does
not fit is reduced or skipped, in this order: reranking depth, effort of the dense search, the dense
search, the embedding; a question for which not even the keyword side fits is refused. Each step of
this ladder is named in `degraded`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from vivace.errors import Overloaded
from vivace.protocols import CandidateSource
from vivace.retrieve.query import ParsedQuery
from vivace.run import work
from vivace.trace import Trace
from vivace.types import Bitmap, Matches, Query, Stage, Stages, Vector, Vectors

now: Final = time.monotonic

NO_TIME_TO_EMBED: Final = "keyword side alone: no time was left to embed the question"
EMBEDDED_LATE: Final = "keyword side alone: the question was not embedded in time"
LESS_EFFORT: Final = "dense side searched with less effort: little time was left"
NO_TIME_FOR_DENSE: Final = "dense side not searched: no time was left for it"
_GRACE: Final = 1e-3
"""Seconds that a result may come after its deadline: timers of an event loop are that coarse."""
_RETRY_SECONDS: Final = 0.1

_INITIAL: Final[Mapping[str, float]] = {
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
_WARM_UP: Final = 16
_RELAX: Final = 0.999
"""A stage that takes twice the time there is, is tried again after some 700 searches."""
_RELAX_REFUSAL: Final = 0.8
"""Refusals relax faster: an error is worse than a late answer."""
_MIN_SECONDS: Final = 1e-6


class StageCosts:
    """What each stage takes, as a running 95th percentile in seconds.

    An observation above the estimate raises it by 9.5 %, one below lowers it by 0.5 %: it settles
    where one in twenty lies above, and the weight of old ones fades exponentially (Robbins, Monro,
    "A Stochastic Approximation Method", 1951, on a logarithmic scale). Any thread may observe; an
    observation lost in a race does no harm.
    """

    def __init__(self) -> None:
        self._seconds = dict(_INITIAL)
        self._first: dict[str, list[float]] = {}

    def __getitem__(self, stage: str) -> float:
        return self._seconds.get(stage, 0.0)

    def observe(self, stage: str, seconds: float) -> None:
        """Learn from one run of a stage."""
        first = self._first.get(stage)
        if first is None:
            first = self._first[stage] = []
        if len(first) < _WARM_UP:
            # the very first one is a cold start: take the second largest of the first few
            first.append(seconds)
            self._seconds[stage] = max(sorted(first)[-2:][0], _MIN_SECONDS)
            return
        before = self._seconds[stage]
        if seconds > before:
            after = min(before * (1 + _QUANTILE * _STEP), seconds)
        else:
            after = max(before * (1 - (1 - _QUANTILE) * _STEP), seconds)
        self._seconds[stage] = max(after, _MIN_SECONDS)

    def relax(self, stage: str, by: float = _RELAX) -> None:
        """Lower the estimate of a stage that was skipped for its cost: so it is tried again some
        time, and one slow moment does not skip it for ever."""
        self._seconds[stage] = max(self[stage] * by, _MIN_SECONDS)

    @property
    def finish(self) -> float:
        """Of what follows the candidates: fusing, reading the texts, and the way back."""
        return self["fuse"] + self["fetch"] + self["hop"]


@dataclass(slots=True, eq=False)
class SearchContext:
    """One question: parsed, with its vector, candidates, budget and notes as they come about.

    One thread at a time works on it, except that the keyword search runs beside the embedding.
    """

    query: Query
    parsed: ParsedQuery
    until: float | None
    """The deadline on `time.monotonic()`; None is none."""
    costs: StageCosts
    trace: Trace
    source: CandidateSource = field(init=False)
    """The state to be searched, and `plan` the stages in force in it; set by `bind`."""
    plan: Stages = field(init=False)
    bound: bool = False
    allow: Bitmap | None = None
    """The chunks that the query's filters allow; None allows all."""
    row: Vectors | None = None
    """The question's vector (1, dim) float32, and `tokens` its token vectors (t, dim)."""
    tokens: Vectors | None = None
    keyword: Matches | None = None
    """Candidates of the keyword side, and `near` of the dense side, one row each."""
    near: Matches | None = None
    degraded: list[str] = field(default_factory=list)
    stages: dict[str, Stage] = field(default_factory=dict)
    """What each stage did, of a question to be explained."""
    notes: list[tuple[str, float]] = field(default_factory=list)
    """Stages and their seconds that have not been reported yet."""

    def bind(self, source: CandidateSource, plan: Stages) -> None:
        """Fix the state that is searched, and the stages in force in it."""
        self.source, self.plan, self.bound = source, plan, True

    def embedded(self, vector: Vector, tokens: Vectors | None = None) -> None:
        """Take the question's vector (dim,) and token vectors."""
        self.row = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
        self.tokens = tokens

    def restarted(self) -> SearchContext:
        """The same question from the start, for when a thread may still be writing to this one."""
        fresh = SearchContext(self.query, self.parsed, self.until, self.costs, self.trace)
        if self.bound:
            fresh.bind(self.source, self.plan)
        return fresh

    # -- what happened ----------------------------------------------------------------------

    def note(self, stage: str, start: float, width: int, size: int = 0, each: int = 1) -> float:
        """Remember that a stage began at `start` and has just ended; returns the time now.

        Args:
            width: candidates that came out of it.
            size: bytes of what it read for single candidates.
            each: the learned cost is that of one of so many.
        """
        end = now()
        if each == 1:
            self.notes.append((stage, end - start))
        else:
            self.trace.observe(stage, end - start)
            self.costs.observe(stage, (end - start) / each)
        if self.query.explain:
            self.stages[stage] = Stage(width, 1e3 * (end - start), size)
        return end

    def report(self) -> None:
        """Hand the notes to the trace and the costs: at once, because taking the lock after each
        stage, with the caches that a scan has emptied, costs a tenth of a search."""
        self.trace.observe_all(self.notes)
        for stage, seconds in self.notes:
            self.costs.observe(stage, seconds)
        self.notes.clear()

    # -- the ladder -------------------------------------------------------------------------

    def left(self, clock: float) -> float | None:
        """Seconds until the deadline."""
        return None if self.until is None else self.until - clock

    def require_time(self) -> None:
        """Refuse a question that cannot be answered in time, before any work on it.

        Raises:
            DeadlineExceeded: the deadline has passed.
            Overloaded: not even the keyword side alone fits.
        """
        left, costs = self.left(now()), self.costs
        if left is None:
            return
        if left <= 0:
            raise work.too_late("search")
        least = costs["keyword"] + costs.finish
        if left + _GRACE < least:
            for stage in ("keyword", "fuse", "fetch", "hop"):
                costs.relax(stage, _RELAX_REFUSAL)
            self.trace.count("search.refused")
            raise Overloaded(
                f"the keyword side alone takes {1e3 * least:.2g} ms, and {1e3 * left:.2g} are left",
                retry_after=_RETRY_SECONDS,
            )

    def has_time_to_embed(self) -> bool:
        """Whether the question can be embedded and searched in time; if not, it is noted."""
        left, costs = self.left(now()), self.costs
        if left is None or left >= costs["embed"] + costs.finish:
            return True
        costs.relax("embed")
        self.degraded.append(NO_TIME_TO_EMBED)
        return False

    def embedding_timeout(self) -> float | None:
        """Seconds to wait for the embedding: what is left afterwards suffices for the rest."""
        left = self.left(now())
        return None if left is None else max(0.0, left - self.costs.finish)

    def dense_effort(self, clock: float, approximate: bool) -> Literal["full", "least", "none"]:
        """How much of a dense search fits."""
        left, costs = self.left(clock), self.costs
        if left is None or left >= costs["dense"] + costs.finish:
            return "full"
        hurried = approximate and left >= costs["dense hurried"] + costs.finish
        costs.relax("dense")
        if hurried:
            self.degraded.append(LESS_EFFORT)
            return "least"
        costs.relax("dense hurried")
        self.degraded.append(NO_TIME_FOR_DENSE)
        return "none"

    def rerank_depth(self, clock: float, available: int) -> int:
        """How many of the best to rerank: as many as are planned and there, half as many, or none,
        as the time allows."""
        left, costs, wanted = self.left(clock), self.costs, min(self.plan.rerank.depth, available)
        if left is None or not wanted:
            return wanted
        fits = [n for n in (wanted, wanted // 2) if costs["rerank"] * n + costs.finish <= left]
        if not fits:
            costs.relax("rerank")
        depth = max(fits, default=0)
        if not depth:
            self.degraded.append("not reranked: no time was left for it")
        elif depth < wanted:
            self.degraded.append(f"reranked {depth} instead of {wanted}: little time was left")
        return depth
