"""Which of what was measured is best, and why? Hard constraints first, then CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

from vivace.tune.candidates import megabytes
from vivace.types import Objective, Plan, Trial

NOISE = 0.05
"""Share by which CPU times may differ and still be the same."""


def ranked(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """The trials that keep to the objective, best first.

    Least CPU a question; among those that are within `NOISE` of the least, least bytes in all, and
    then the shortest build.
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
    """By how much of what is allowed a trial misses each constraint it misses."""
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
    """Why this one: a sentence. `held` is the choice on the held-out questions, `decided` on those
    that decided, `others` what else keeps to the objective there."""
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
    """Which constraint cannot be kept and by how much, in one sentence without its full stop."""
    within: list[tuple[str, Callable[[Trial], float]]] = [
        ("recall", lambda trial: -trial.recall_low),
        ("p95", lambda trial: trial.p95_ms),
        ("memory", lambda trial: trial.footprint.resident),
    ]
    for name, figure in within:
        # the other constraints can be kept together, this one with them cannot
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
