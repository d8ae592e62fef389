"""The tuner over small data: other objectives, other outcomes, all of them valid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vivace.errors import BadInput, InfeasibleObjective
from vivace.index import segments
from vivace.index.flat import FlatIndex
from vivace.run import host
from vivace.run.host import MemoryUse
from vivace.testing.conformance import questions, vectors
from vivace.tune import measure
from vivace.tune import workload as workloads
from vivace.tune.ladder import Ladder
from vivace.tune.race import tune
from vivace.tune.tuning import Tuning
from vivace.tune.workload import Workload
from vivace.types import Objective, UpkeepProgress

CODED = ("flat", "pq")
K = 10


def _keeps(tuning: Tuning) -> None:
    """What every tuning that chose promises."""
    objective, chosen = tuning.objective, tuning.chosen
    assert chosen.recall >= objective.recall
    assert chosen.recall_low <= chosen.recall <= chosen.recall_high
    assert objective.p95_ms is None or chosen.p95_ms <= objective.p95_ms
    assert objective.memory_bytes is None or chosen.footprint.resident <= objective.memory_bytes
    assert 0 < chosen.p50_ms <= chosen.p95_ms
    assert tuning.plan.family in tuning.reason
    for trial in tuning.trials:
        assert trial.plan.family in segments.FAMILIES


def test_the_plan_meets_the_floor_at_less_cpu_than_a_scan(
    sentences: tuple[FlatIndex, Workload],
) -> None:
    flat, workload = sentences
    tuning = tune(flat, workload, Objective(recall=0.9), families=CODED)
    _keeps(tuning)
    assert tuning.plan.family == "pq"
    exact = next(t for t in tuning.trials if t.plan.family == "flat")
    assert tuning.chosen.cpu_ms < exact.cpu_ms
    assert (tuning.rows, tuning.dim, tuning.metric) == (8_000, 384, "cosine")
    assert (tuning.queries, tuning.source, tuning.interrupted) == (500, "given", False)
    assert tuning.builds == len(segments.of_family("pq").candidates(8_000, 384))
    assert 0 <= tuning.pattern.duplicates <= 1
    assert 0.1 <= tuning.pattern.locality <= 1
    assert {"cpu", "cores", "faiss", "avx512"} <= tuning.machine.keys()
    assert len(tuning.data) == 32


def test_a_higher_floor_takes_more_effort(sentences: tuple[FlatIndex, Workload]) -> None:
    flat, workload = sentences
    efforts = []
    for floor in (0.8, 0.95):
        tuning = tune(flat, workload, Objective(recall=floor), families=("pq",), builds=2)
        _keeps(tuning)
        efforts.append({str(t.plan.params): t.plan.effort for t in tuning.trials[:2]})
    for params, effort in efforts[0].items():
        assert effort < efforts[1][params]


def test_full_recall_is_only_sure_without_shortcuts(flat: FlatIndex, workload: Workload) -> None:
    tuning = tune(flat, workload, Objective(recall=1.0), families=CODED)
    assert tuning.plan.family == "flat"
    assert tuning.chosen.recall_low == 1
    assert any("at most" in r.reason for r in tuning.rejected)


def test_memory_rules_out_before_anything_is_built(flat: FlatIndex, workload: Workload) -> None:
    most = flat.footprint.resident // 2
    tuning = tune(flat, workload, Objective(recall=0.9, memory_bytes=most))
    _keeps(tuning)
    assert tuning.plan.family != "flat"
    for rejected in tuning.rejected:
        if "are allowed" in rejected.reason:
            cls = segments.of_family(rejected.family)
            assert cls.estimate_bytes(6_000, 64, **rejected.params).resident > most
    built = {(t.plan.family, str(t.plan.params)) for t in tuning.trials if t.plan.family != "flat"}
    assert len(built) == tuning.builds


def test_an_index_that_takes_too_long_is_not_built(flat: FlatIndex, workload: Workload) -> None:
    tuning = tune(flat, workload, Objective(recall=0.9), budget_seconds=0.02, families=CODED)
    _keeps(tuning)
    assert tuning.builds == 0
    assert tuning.plan.family == "flat"
    assert any("were left" in r.reason or "were over" in r.reason for r in tuning.rejected)


def test_an_index_too_large_for_the_machine_is_not_built(
    flat: FlatIndex, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "memory", lambda: MemoryUse(1 << 30, (1 << 30) - 1000))
    tuning = tune(flat, workload, Objective(0.9), budget_seconds=20)
    assert (tuning.plan.family, tuning.builds) == ("flat", 0)
    assert any("the machine has 0.001 MB free" in r.reason for r in tuning.rejected)


def test_no_more_is_built_than_allowed(flat: FlatIndex, workload: Workload) -> None:
    tuning = tune(flat, workload, Objective(recall=0.9), builds=1)
    _keeps(tuning)
    assert tuning.builds == 1
    assert sum("builds had been made" in r.reason for r in tuning.rejected) >= 1


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        (Objective(recall=0.9, p95_ms=1e-4), r"p95 .* ms, where 0.0001 ms is asked"),
        (Objective(recall=0.9, memory_bytes=1_000), r"MB in memory, where 0.001 MB are allowed"),
        (Objective(recall=0.9, memory_bytes=10, p95_ms=1e-4), "all constraints but one"),
    ],
)
def test_an_infeasible_objective_reports_the_nearest_plan(
    flat: FlatIndex, workload: Workload, objective: Objective, says: str
) -> None:
    with pytest.raises(InfeasibleObjective, match=says) as raised:
        tune(flat, workload, objective, families=CODED)
    near = raised.value.nearest
    assert isinstance(near, Tuning)
    assert near.chosen.recall >= 0.85
    assert near.objective == objective
    if objective.memory_bytes == 1_000:
        assert near.plan.family == "pq"


def test_a_floor_that_cannot_be_proven_is_infeasible(flat: FlatIndex, workload: Workload) -> None:
    with pytest.raises(InfeasibleObjective, match=r"recall .* is sure, where 1 is asked"):
        tune(flat, workload, Objective(recall=1.0), families=("pq",))


def _raising_at(step: str, times: int, error: type[BaseException]) -> Callable[..., None]:
    seen = 0

    def progress(at: UpkeepProgress) -> None:
        nonlocal seen
        seen += at.step == step
        if seen > times:
            seen = -(10**9)
            raise error

    return progress


def test_an_interruption_keeps_the_best_so_far(flat: FlatIndex, workload: Workload) -> None:
    progress = _raising_at("candidates", 12, KeyboardInterrupt)
    tuning = tune(flat, workload, Objective(recall=0.9), families=CODED, progress=progress)
    _keeps(tuning)
    assert tuning.interrupted


def test_an_interruption_before_any_measurement_is_raised(
    flat: FlatIndex, workload: Workload
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(
            flat,
            workload,
            Objective(),
            progress=_raising_at("neighbours", 0, KeyboardInterrupt),
        )


def test_another_error_of_progress_is_passed_on(flat: FlatIndex, workload: Workload) -> None:
    with pytest.raises(TimeoutError):
        tune(flat, workload, Objective(), progress=_raising_at("candidates", 3, TimeoutError))


def test_a_budget_that_runs_out_keeps_the_best_so_far(flat: FlatIndex, workload: Workload) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 20
        return now

    tuning = tune(flat, workload, Objective(recall=0.9), clock=clock, budget_seconds=100)
    _keeps(tuning)
    assert tuning.interrupted
    assert any("were over" in r.reason for r in tuning.rejected)


def test_the_same_seed_measures_the_same(flat: FlatIndex, workload: Workload) -> None:
    def found(seed: int) -> list[tuple[object, ...]]:
        tuning = tune(flat, workload, Objective(recall=0.9), families=("pq",), seed=seed)
        mine = tuning.trials[: tuning.builds]
        return [(str(t.plan), t.recall, t.recall_low, t.queries) for t in mine]

    assert found(3) == found(3)
    assert found(3) != found(4)


def test_no_question_is_both_deciding_and_held_out(flat: FlatIndex) -> None:
    once = questions(150, 64)
    popular = np.repeat(once[:10], 12, axis=0)
    rows = np.random.default_rng(0).permutation(np.vstack([once, popular]))
    drawn, places = workloads.with_neighbours(
        flat, rows, K, seconds=9, seed=0, step=lambda *_: None
    )
    assert (places == np.arange(270)).all()
    deciding, held = workloads.split(drawn, 0)
    # of each that is asked thirteen times, three count
    assert len(deciding) + len(held) == 150 + 2 * 10
    assert 0.3 <= len(held) / 170 <= 0.36
    assert not set(deciding.groups) & set(held.groups)
    for part in (deciding, held):
        again = flat.exact(part.vectors, K)
        assert (again.ids == part.true.ids).all()


def test_the_time_for_neighbours_limits_the_number_of_questions(flat: FlatIndex) -> None:
    rows = questions(2_000, 64)
    drawn, places = workloads.with_neighbours(
        flat, rows, K, seconds=99, seed=0, step=lambda *_: None
    )
    assert len(drawn) == workloads.MOST_JUDGED
    assert (np.diff(places) > 0).all()
    assert (drawn.vectors == rows[places]).all()
    few, _ = workloads.with_neighbours(flat, rows, K, seconds=0, seed=0, step=lambda *_: None)
    assert 10 < len(few) < 100


@pytest.mark.parametrize("many", [3, 100])
def test_too_few_different_questions_are_refused(flat: FlatIndex, many: int) -> None:
    same = Workload(np.repeat(questions(1, 64), many, axis=0), "log")
    with pytest.raises(BadInput, match="questions"):
        tune(flat, same, Objective())


@pytest.mark.parametrize("objective", [Objective(recall=0), Objective(recall=1.1), Objective(k=0)])
def test_an_objective_outside_its_range_is_refused(
    flat: FlatIndex, workload: Workload, objective: Objective
) -> None:
    with pytest.raises(BadInput, match="recall"):
        tune(flat, workload, objective)


def test_the_least_effort_is_the_least(flat: FlatIndex, workload: Workload) -> None:
    index = segments.build(flat, "pq")
    drawn, _ = workloads.with_neighbours(
        flat, workload.vectors, K, seconds=9, seed=0, step=lambda *_: None
    )
    for floor in (0.8, 0.9, 0.95):
        ladder = Ladder(index, drawn, K, lambda: None)
        effort = ladder.least(floor, lambda *_: False)
        assert effort is not None
        assert ladder.recall(effort).low >= floor
        assert ladder.recall(effort).queries == len(drawn)
        lower = Ladder(index, drawn, K, lambda: None)
        if effort > index.efforts(K)[0]:
            assert lower.on_all(int(effort / 1.1) - 1).low < floor


def test_the_reported_recall_is_that_of_the_held_out_questions(
    sentences: tuple[FlatIndex, Workload],
) -> None:
    """What is reported was measured on questions that decided nothing, and is what they find."""
    flat, workload = sentences
    tuning = tune(flat, workload, Objective(recall=0.9), families=("pq",), seed=5)
    drawn, _ = workloads.with_neighbours(
        flat, workload.vectors, K, seconds=9, seed=5, step=lambda *_: None
    )
    deciding, held = workloads.split(drawn, 5)
    assert tuning.chosen.queries == len(held)
    assert {t.queries for t in tuning.trials[: tuning.builds]} == {len(deciding)}
    index = segments.build(flat, tuning.plan.family, tuning.plan.params)
    found = index.search(held.vectors, K, effort=tuning.plan.effort)
    assert measure.recalls(found, held.true).mean() == pytest.approx(tuning.chosen.recall)


def test_few_rows_need_no_index(workload: Workload) -> None:
    few = FlatIndex.build(np.arange(300, dtype=np.int64), vectors(300, 64))
    tuning = tune(few, workload, Objective())
    assert tuning.plan.family == "flat"
    with pytest.raises(BadInput, match="no vectors"):
        tune(FlatIndex.build(np.empty(0, np.int64), vectors(0, 64)), workload, Objective())


def test_without_time_to_build_the_rows_themselves_are_chosen() -> None:
    rng = np.random.default_rng(0)
    flat = FlatIndex.build(np.arange(3_000), rng.normal(size=(3_000, 16)).astype(np.float16))
    asked = Workload(rng.normal(size=(60, 16)).astype(np.float32), "given")
    tuning = tune(flat, asked, Objective(0.9), families=["hnsw"], budget_seconds=1e-6)
    assert (tuning.plan.family, tuning.interrupted) == ("flat", True)
