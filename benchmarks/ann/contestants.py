"""Who takes part: something built, and the ways it can be asked."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.ann.data import SEED, Contest
from vivace.errors import InfeasibleObjective
from vivace.index import rowfile, segments
from vivace.index.flat import FlatIndex
from vivace.protocols import VectorIndex
from vivace.tune.race import tune
from vivace.tune.tuning import Tuning
from vivace.tune.workload import Workload
from vivace.types import Footprint, Ids, Objective, Plan, Vectors

Search: TypeAlias = Callable[[Vectors], Ids]
"""Questions (q, dim) float32 to the ids of their k nearest (q, k)."""


@dataclass(frozen=True, slots=True)
class Built:
    """One index of one library, with every setting it is to be tried with."""

    name: str
    settings: Mapping[str, Search]
    """By what they are called; what takes longest comes last."""
    build_seconds: float
    footprint: Footprint
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else there is to tell."""


def _tuned(
    contest: Contest,
    flat: FlatIndex,
    questions: Vectors,
    families: tuple[str, ...],
    budget: float,
    builds: int,
) -> tuple[Tuning, bool]:
    """What the tuner chooses, which holds out the same third itself; and whether it keeps to it."""
    objective = Objective(recall=contest.floor, k=contest.k)
    workload = Workload(questions, "given")
    try:
        tuning = tune(
            flat,
            workload,
            objective,
            families=families,
            budget_seconds=budget,
            builds=builds,
            seed=SEED,
        )
    except InfeasibleObjective as error:
        if not isinstance(error.nearest, Tuning):
            raise
        return error.nearest, False
    return tuning, True


@contextmanager
def rows_on_disk(contest: Contest) -> Iterator[FlatIndex]:
    """The rows as a segment keeps them: float16 in a mapped file."""
    ids = np.arange(contest.rows)
    halves = (contest.base[part].astype(np.float16) for part in contest.blocks())
    with tempfile.TemporaryDirectory(prefix="vivace-ann-") as folder:
        path = Path(folder) / segments.VECTORS
        rowfile.write(path, halves, n=contest.rows, dim=contest.dim, metric=contest.metric)
        yield FlatIndex.open(ids, path, dim=contest.dim, metric=contest.metric)


def ours(
    contest: Contest,
    flat: FlatIndex,
    name: str,
    families: tuple[str, ...],
    budget: float,
    builds: int,
) -> Built:
    """What the tuner chooses, built anew as a collection would."""
    began = time.process_time()
    tuning, feasible = _tuned(contest, flat, contest.asked, families, budget, builds)
    if tuning.queries < len(contest.asked):
        # it drew fewer and may have decided by some that are held out here
        tuning, feasible = _tuned(contest, flat, contest.deciding.vectors, families, budget, builds)
    tuned = time.process_time() - began
    began = time.perf_counter()
    index = built(flat, tuning.plan)
    seconds = time.perf_counter() - began
    effort, k = tuning.plan.effort, contest.k
    more = {
        "feasible": feasible,
        "tune_cpu_seconds": round(tuned, 2),
        "tune_builds": tuning.builds,
        "reason": tuning.reason,
    }

    def search(queries: Vectors) -> Ids:
        return index.search(queries, k, effort=effort).ids

    said = f"{tuning.plan.family} {dict(tuning.plan.params)} effort {effort}"
    return Built(name, {said: search}, seconds, index.footprint, more)


def built(flat: FlatIndex, plan: Plan) -> VectorIndex:
    """The index of a plan."""
    return segments.build(flat, plan.family, plan.params)
