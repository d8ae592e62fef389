"""Does the tuner choose what an exhaustive sweep would? Three data sets, two patterns of questions.

`python -m benchmarks.tuning [--recall 0.95 0.99] [--sets sentences uniform clusters] [--rows 40000]
[--json]`, for one core: `taskset -c 0`.

The sweep builds every candidate of every family, takes for each the least of many efforts that
keeps the floor on the questions that the tuner decided by (same split, same interval), and times
all of these and the tuner's choice side by side on the held-out third. `of_best` is the choice's
CPU by the least: at most 1.1 is wanted.

SYNTHETIC except for `sentences`: `uniform` is random in 128 dimensions, `clusters` has near-
duplicates in forties. Questions `spread` are new and alike only by chance; `repeated` are
near-duplicates of a few, as when many ask the same.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import DATA, show
from vivace.errors import InfeasibleObjective
from vivace.index import segments
from vivace.index.flat import FlatIndex
from vivace.protocols import VectorIndex
from vivace.tune import choice, measure, workload
from vivace.tune.choice import named
from vivace.tune.ladder import Ladder
from vivace.tune.measure import Contender
from vivace.tune.race import tune
from vivace.tune.tuning import Tuning
from vivace.tune.workload import Workload
from vivace.types import Objective, Plan, Vectors

SETS = ("sentences", "uniform", "clusters")
PATTERNS = ("spread", "repeated")
QUESTIONS = 500
SEED = 0
_STEP = 1.1
"""From one effort of the sweep to the next."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("--recall", type=float, nargs="+", default=[0.95])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--budget", type=float, default=120.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for name in args.sets:
        base = vectors(name, args.rows)
        flat = FlatIndex.build(np.arange(len(base), dtype=np.int64), base)
        built = every_index(flat)
        for pattern in args.patterns:
            asked = asking(name, pattern, base)
            for recall in args.recall:
                objective = Objective(recall=recall)
                row = compared(flat, built, asked, objective, args.budget)
                rows.append({"set": name, "questions": pattern, "floor": recall, **row})
    show({"rows": args.rows, "results": rows}, as_json=args.json)


def vectors(name: str, rows: int) -> NDArray[np.float16]:
    """The data set, (rows, dim) float16 of unit length."""
    rng = np.random.default_rng(7)
    if name == "sentences":
        real: NDArray[np.float16] = np.load(DATA / "ann" / "sentences40k.base.f16.npy")
        return real[:rows]
    if name == "uniform":
        return _unit(rng.uniform(-1, 1, (rows, 128)))
    centres = rng.normal(size=(rows // 40, 128))
    near = np.repeat(centres, 40, axis=0)
    return _unit(near + 0.05 * rng.normal(size=near.shape))


def asking(name: str, pattern: str, base: NDArray[np.float16]) -> Vectors:
    """(500, dim) float32 of unit length, none of them in the data."""
    rng = np.random.default_rng(8)
    if name == "sentences":
        new = np.load(DATA / "ann" / "sentences40k.queries.f16.npy").astype(np.float32)
    elif name == "uniform":
        new = rng.uniform(-1, 1, (QUESTIONS, 128))
    else:
        few = base[rng.integers(len(base), size=QUESTIONS)].astype(np.float32)
        new = few + 0.02 * rng.normal(size=few.shape) * np.linalg.norm(few, axis=1, keepdims=True)
    if pattern == "repeated":
        popular = rng.zipf(1.4, QUESTIONS) % (len(new) // 8)
        spread = 0.05 / np.sqrt(new.shape[1])
        new = _unit(new[popular]) + spread * rng.normal(size=(QUESTIONS, new.shape[1]))
    return _unit(new).astype(np.float32)


def every_index(flat: FlatIndex) -> list[tuple[Plan, VectorIndex]]:
    """Every candidate of every family, built; and the rows themselves."""
    n, dim = flat.vectors.shape
    found: list[tuple[Plan, VectorIndex]] = [(Plan("flat"), flat)]
    for candidate in choice.listed(n, dim, choice.installed()[0]):
        built = segments.build(flat, candidate.family, candidate.params)
        found.append((Plan(candidate.family, candidate.params), built))
    return found


def compared(
    flat: FlatIndex,
    built: list[tuple[Plan, VectorIndex]],
    asked: Vectors,
    objective: Objective,
    budget: float,
) -> dict[str, Any]:
    """The tuner's choice beside the best of the sweep."""
    began = time.process_time()
    try:
        tuning = tune(flat, Workload(asked, "given"), objective, budget_seconds=budget, seed=SEED)
    except InfeasibleObjective as error:
        if not isinstance(error.nearest, Tuning):
            raise
        tuning = error.nearest
    tuned = time.process_time() - began
    drawn, _ = workload.with_neighbours(
        flat, asked, objective.k, seconds=budget, seed=SEED, step=lambda *_: None
    )
    deciding, held = workload.split(drawn, SEED)
    swept: list[tuple[Plan, VectorIndex]] = []
    chosen: VectorIndex | None = None
    for plan, index in built:
        effort = _least(Ladder(index, deciding, objective.k, lambda: None), objective)
        if effort is not None:
            swept.append((Plan(plan.family, plan.params, effort), index))
        if (plan.family, plan.params) == (tuning.plan.family, tuning.plan.params):
            chosen = index
    assert chosen is not None
    contenders = [Contender(chosen, tuning.plan.effort)]
    contenders += [Contender(index, plan.effort) for plan, index in swept]
    times = measure.times(contenders, held.vectors, objective.k, rounds=9)
    mine, best = times[0], min(range(len(swept)), key=lambda at: times[at + 1].cpu_ms)
    return {
        "chosen": named(tuning.plan),
        "recall": round(tuning.chosen.recall, 4),
        "cpu_ms": round(mine.cpu_ms, 4),
        "best": named(swept[best][0]),
        "best_cpu_ms": round(times[best + 1].cpu_ms, 4),
        "of_best": round(mine.cpu_ms / times[best + 1].cpu_ms, 3),
        "duplicates": round(tuning.pattern.duplicates, 3),
        "locality": round(tuning.pattern.locality, 3),
        "builds": tuning.builds,
        "tuning_cpu_seconds": round(tuned, 1),
        "reason": tuning.reason,
        "all": {named(plan): round(its.cpu_ms, 4) for (plan, _), its in zip(swept, times[1:])},
    }


def _least(ladder: Ladder, objective: Objective) -> int | None:
    """By trying every step from the least effort to the greatest."""
    effort, greatest = ladder.index.efforts(objective.k)
    while True:
        if ladder.on_all(effort).low >= objective.recall:
            return effort
        if effort >= greatest:
            return None
        effort = min(greatest, max(effort + 1, round(effort * _STEP)))


def _unit(rows: NDArray[Any]) -> NDArray[np.float16]:
    unit: NDArray[np.float16] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(
        np.float16
    )
    return unit


if __name__ == "__main__":
    main()
