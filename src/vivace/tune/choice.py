"""Which indexes are worth building, and which of those measured is best?

Formulas rule candidates out before anything is built. Constraints come first, then CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import log
from typing import Final

from vivace.errors import MissingExtra
from vivace.index import segments
from vivace.index.flat import FlatIndex
from vivace.tune.tuning import Rejected
from vivace.types import Objective, Plan, Trial

NOISE: Final = 0.05
"""Share by which CPU times may differ and still count as the same."""


@dataclass(frozen=True, slots=True)
class IndexCandidate:
    """A family with its parameters, and what building it takes by the family's formulas."""

    family: str
    params: Mapping[str, int]
    resident: int
    """Bytes."""
    seconds: float
    """CPU seconds of the build."""


# -- before anything is built -----------------------------------------------------------------


def installed(
    families: Sequence[str] = segments.FAMILIES,
) -> tuple[list[str], list[Rejected]]:
    """The families that this machine can use, and the others with the reason."""
    there = segments.available()
    lacking = [family for family in families if segments.of_family(family).family not in there]
    why = str(MissingExtra("rabitqlib", "graph"))
    return [f for f in families if f in there], [Rejected(f, {}, why) for f in lacking]


def listed(n: int, dim: int, families: Sequence[str]) -> list[IndexCandidate]:
    """Everything to build, most promising first: each family's likeliest before any second, and
    among equals the quickest build first. `flat` needs no build and is not listed."""
    by_family = [_of(family, n, dim) for family in families if family != FlatIndex.family]
    by_family.sort(key=lambda found: min((c.seconds for c in found), default=0.0))
    return [
        candidate for turn in zip_longest(*by_family) for candidate in turn if candidate is not None
    ]


def affordable(
    candidates: Sequence[IndexCandidate], memory_bytes: int | None
) -> tuple[list[IndexCandidate], list[Rejected]]:
    """The candidates whose formula fits the memory, and the others with the reason."""
    kept, rejected = [], []
    for candidate in candidates:
        if memory_bytes is None or candidate.resident <= memory_bytes:
            kept.append(candidate)
            continue
        reason = (
            f"would hold {megabytes(candidate.resident)} in memory, "
            f"where {megabytes(memory_bytes)} are allowed"
        )
        rejected.append(Rejected(candidate.family, dict(candidate.params), reason))
    return kept, rejected


def megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB"


def _of(family: str, n: int, dim: int) -> list[IndexCandidate]:
    cls = segments.of_family(family)
    return [
        IndexCandidate(
            family,
            params,
            cls.estimate_bytes(n, dim, **params).resident,
            cls.estimate_seconds(n, dim, **params),
        )
        for params in cls.candidates(n, dim)
    ]


# -- among what was measured ------------------------------------------------------------------


def ranked(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """The trials that meet the objective, best first.

    Least CPU per question; among those within `NOISE` of the least, fewest bytes in all, then the
    shortest build.
    """
    left = [trial for trial in trials if not lacks(trial, objective)]
    found = []
    while left:
        least = min(trial.cpu_ms for trial in left)
        alike = [trial for trial in left if trial.cpu_ms <= least * (1 + NOISE)]
        best = min(alike, key=lambda t: (t.footprint.total, t.build_seconds, t.cpu_ms))
        found.append(best)
        left.remove(best)
    return found


def lacks(trial: Trial, objective: Objective) -> dict[str, float]:
    """The constraints that a trial misses, each with the logarithm of its ratio to the limit."""
    found = {}
    if trial.recall_low < objective.recall:
        found["recall"] = _missed(trial.recall_low, objective.recall)
    if objective.p95_ms is not None and trial.p95_ms > objective.p95_ms:
        found["p95"] = log(trial.p95_ms / objective.p95_ms) if objective.p95_ms > 0 else 1e9
    if objective.memory_bytes is not None and trial.footprint.resident > objective.memory_bytes:
        found["memory"] = log(trial.footprint.resident / max(1, objective.memory_bytes))
    return found


def nearest(trials: Sequence[Trial], objective: Objective) -> Trial:
    """The trial that misses the fewest constraints, and those by the least; then the cheapest."""

    def distance(trial: Trial) -> tuple[int, float, float]:
        lacking = lacks(trial, objective)
        return len(lacking), sum(lacking.values()), trial.cpu_ms

    return min(trials, key=distance)


def named(plan: Plan) -> str:
    """A plan in a few words: `hnsw (M 16, effort 48)`."""
    parts = [f"{key} {value}" for key, value in plan.params.items()]
    parts += [f"effort {plan.effort}"] if plan.effort else []
    return f"{plan.family} ({', '.join(parts)})" if parts else plan.family


def reason(held: Trial, decided: Trial, others: Sequence[Trial], objective: Objective) -> str:
    """Why this one, in a sentence.

    Args:
        held: the choice, measured on the held-out questions.
        decided: the choice, measured on the questions that decided.
        others: the other trials that meet the objective on the questions that decided.
    """
    what = (
        f"{named(held.plan)} finds {held.recall:.3f} of the {objective.k} nearest "
        f"({held.recall_low:.3f} to {held.recall_high:.3f}) in {held.cpu_ms:.3g} ms of CPU, "
        f"p95 {held.p95_ms:.3g} ms, with {megabytes(held.footprint.resident)} in memory"
    )
    if not others:
        return f"{what}: nothing else that was tried keeps to the objective."
    rival = min(others, key=lambda trial: trial.cpu_ms)
    times = rival.cpu_ms / max(decided.cpu_ms, 1e-9)
    if times > 1 + NOISE:
        return f"{what}: {named(rival.plan)}, the next best, needs {times:.2f} times the CPU."
    return f"{what}: as cheap as {named(rival.plan)}, which takes more room or longer to build."


def shortfall(trials: Sequence[Trial], objective: Objective) -> str:
    """Which constraint cannot be met and by how much, in one sentence without its full stop."""
    within: list[tuple[str, Callable[[Trial], float]]] = [
        ("recall", lambda trial: -trial.recall_low),
        ("p95", lambda trial: trial.p95_ms),
        ("memory", lambda trial: trial.footprint.resident),
    ]
    for name, figure in within:
        # the other constraints can be met together, this one with them cannot
        fit = [trial for trial in trials if not set(lacks(trial, objective)) - {name}]
        if fit:
            return _sentence(name, min(fit, key=figure), objective)
    return "no plan keeps even all constraints but one: " + _sentence(
        *_worst(nearest(trials, objective), objective), objective
    )


def _worst(trial: Trial, objective: Objective) -> tuple[str, Trial]:
    lacking = lacks(trial, objective)
    return max(lacking, key=lambda name: lacking[name]), trial


def _sentence(name: str, trial: Trial, objective: Objective) -> str:
    plan = named(trial.plan)
    if name == "recall":
        return (
            f"{plan} comes closest with recall {trial.recall:.4f}, of which no more than "
            f"{trial.recall_low:.4f} is sure, where {objective.recall:g} is asked"
        )
    if name == "p95":
        return f"{plan} comes closest with p95 {trial.p95_ms:.3g} ms, where {objective.p95_ms:g} \
ms is asked"
    return (
        f"{plan} comes closest with {megabytes(trial.footprint.resident)} in memory, "
        f"where {megabytes(objective.memory_bytes or 0)} are allowed"
    )


def _missed(recall: float, floor: float) -> float:
    return log(max(1 - recall, 1e-6) / max(1 - floor, 1e-6))
