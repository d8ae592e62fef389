"""What a tuning found: the choice, everything that was tried, and what it was tried on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vivace.collection.plan_state import FLAT_UP_TO
from vivace.index.flat import FlatIndex
from vivace.types import Metric, Objective, Plan, Trial, Vectors

Source: TypeAlias = Literal["log", "synthetic", "given"]


@dataclass(frozen=True, slots=True)
class Workload:
    """The questions a tuning is judged by: `vectors` (q, dim) float32, in the order asked."""

    vectors: Vectors
    source: Source
    """From the query log, made from chunks of the collection, or handed in."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """How the questions are spread, which changes what is best."""

    duplicates: float
    """Share of the questions that have a near-duplicate (cosine >= 0.98) before them."""
    locality: float
    """Share of all true neighbours that belong to the tenth of neighbours found most often; 0.1
    where all are found equally often."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A family with its parameters that was not tried, or not further, and why."""

    family: str
    params: Mapping[str, int]
    reason: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """The result of a tuning; every field but the workload's vectors is plain data."""

    objective: Objective
    chosen: Trial
    """On the held-out third of the questions, by which nothing was decided."""
    trials: tuple[Trial, ...]
    """Everything measured on the other two thirds."""
    rejected: tuple[Rejected, ...]
    reason: str
    """One sentence."""
    rows: int
    dim: int
    metric: Metric
    source: Source
    queries: int
    pattern: Pattern
    machine: Mapping[str, str]
    data: str
    """A fingerprint (hexadecimal) of the vectors and the questions."""
    builds: int
    seconds: float
    interrupted: bool = False
    """Ended early, by its budget or by its user: the best so far was chosen."""

    @property
    def plan(self) -> Plan:
        return self.chosen.plan

    @property
    def conclusive(self) -> bool:
        """Whether the choice is a finding, which alone is applied.

        What was ended early falls back on the rows themselves; of many rows that says nothing.
        """
        fell_back = self.interrupted and self.plan.family == FlatIndex.family
        return not (fell_back and self.rows > FLAT_UP_TO)
