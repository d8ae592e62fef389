"""Metrics against figures worked out by hand; intervals that cover the truth as often as stated."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from vivace.index.flat import FlatIndex
from vivace.index.pq import PqIndex
from vivace.tune import measure
from vivace.tune.metrics import (
    Recall,
    Recalls,
    difference,
    exact_recall,
    mean_recall,
    ndcg,
    percentile,
    recall,
    reciprocal_rank,
    simultaneous,
    student,
)
from vivace.tune.workload import Workload

RANKED = ["a", "b", "c", "d"]
RUNS = 1_000
"""Of a hundred, even an interval that covers 95 % covers fewer than 93 one time in eight."""
ENOUGH = 930


def test_recall() -> None:
    assert recall(RANKED, {"b", "x"}, 1) == 0
    assert recall(RANKED, {"b", "x"}, 2) == 0.5
    assert recall([], {"b"}, 5) == 0


def test_reciprocal_rank() -> None:
    assert reciprocal_rank(RANKED, {"c", "d"}, 10) == pytest.approx(1 / 3)
    assert reciprocal_rank(RANKED, {"d"}, 3) == 0


def test_ndcg() -> None:
    assert ndcg(RANKED, {"a", "b"}, 10) == 1
    ideal = 1 + 1 / log2(3)
    assert ndcg(RANKED, {"b", "d"}, 10) == pytest.approx((1 / log2(3) + 1 / log2(5)) / ideal)
    assert ndcg(RANKED, {"d"}, 2) == 0


def test_percentile() -> None:
    assert percentile([], 0.5) == 0
    assert percentile([3], 0.95) == 3
    values = list(range(1, 101))
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.95) == 95
    assert percentile(values, 1.0) == 100


# -- a mean recall and its interval ------------------------------------------------------------


def _covered(recalls: Recalls, n: int) -> int:
    truth, covered = recalls.mean(), 0
    for seed in range(RUNS):
        some = np.random.default_rng(seed).choice(recalls, n)
        found = mean_recall(some)
        covered += found.low <= truth <= found.high
    return covered


@pytest.mark.parametrize("n", [50, 100, 200, 500])
@pytest.mark.parametrize(
    ("each", "whole_misses"), [(0.9, 0.0), (0.97, 0.0), (0.99, 0.0), (0.97, 0.03), (0.995, 0.01)]
)
def test_the_interval_of_mean_recall_covers_the_truth(
    n: int, each: float, whole_misses: float
) -> None:
    rng = np.random.default_rng(5)
    recalls = rng.binomial(10, each, 50_000) / 10
    recalls[rng.random(len(recalls)) < whole_misses] = 0
    assert _covered(recalls, n) >= ENOUGH


@pytest.mark.parametrize("effort", [14, 30, 60, 100])
def test_the_interval_of_mean_recall_covers_the_truth_for_a_real_index(
    effort: int, sentences: tuple[FlatIndex, Workload]
) -> None:
    flat, workload = sentences
    true = flat.exact(workload.vectors, 10)
    found = PqIndex.build(flat).search(workload.vectors, 10, effort=effort)
    recalls = measure.recalls(found, true)
    for n in (50, 200):
        assert _covered(recalls, n) >= ENOUGH
    if recalls.mean() >= 0.9:
        seen = mean_recall(np.random.default_rng(0).choice(recalls, 200))
        assert (seen.high - seen.low) / 2 <= 0.03


def test_repeated_questions_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    once = rng.binomial(10, 0.9, 40) / 10
    alone = mean_recall(once)
    again = mean_recall(np.repeat(once, 5), list(np.repeat(np.arange(40), 5)))
    assert again.queries == 200
    assert again.mean == pytest.approx(alone.mean)
    assert again.low == pytest.approx(alone.low)
    assert again.high == pytest.approx(alone.high)
    fooled = mean_recall(np.repeat(once, 5))
    assert fooled.high - fooled.low < 0.7 * (again.high - again.low)


def test_bursts_of_one_question_leave_the_truth_covered() -> None:
    covered = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(100), rng.geometric(0.3, 100))
        recalls = (rng.binomial(10, 0.93, 100) / 10)[groups]
        found = mean_recall(recalls, list(groups))
        covered += found.low <= 0.93 <= found.high
    assert covered >= ENOUGH


def test_mean_recall_of_none_one_and_extreme_values() -> None:
    assert mean_recall(np.empty(0)) == Recall(0.0, 0.0, 1.0, 0)
    one = mean_recall(np.ones(1))
    assert (one.mean, one.high) == (1, 1)
    assert one.low < 0.2
    assert mean_recall(np.zeros(50)).low == 0
    many = mean_recall(np.ones(1000))
    assert 0.99 < many.low < many.mean == many.high == 1
    assert exact_recall(7) == Recall(1, 1, 1, 7)


def test_students_t_agrees_with_tables() -> None:
    for degrees, value in ((3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1e9, 1.960)):
        assert student(degrees) == pytest.approx(value, rel=0.01)


# -- differences -------------------------------------------------------------------------------


def test_a_difference_is_better_worse_or_neither_by_its_interval() -> None:
    rng = np.random.default_rng(0)
    better = difference(rng.normal(0.1, 0.2, 400))
    assert better.better
    assert better.low < 0.1 < better.high
    assert difference(-np.abs(rng.normal(0.1, 0.2, 400))).worse
    nothing = difference(np.zeros(50))
    assert (nothing.low, nothing.high) == (0, 0)
    assert difference(np.empty(0)).mean == 0


def test_simultaneous_intervals_are_wider_than_single_ones() -> None:
    rows = np.random.default_rng(1).normal(0.02, 0.2, (300, 20))
    each = simultaneous(rows)
    alone = difference(rows[:, 0])
    assert each[0].low < alone.low
    assert each[0].high > alone.high
    assert len(simultaneous(np.empty((0, 3)))) == 3
    with_a_constant = simultaneous(np.column_stack([rows[:, 0], np.zeros(300)]))
    assert (with_a_constant[1].low, with_a_constant[1].high) == (0, 0)


def test_grouped_questions_count_as_one() -> None:
    one = np.random.default_rng(2).normal(0.05, 0.2, 40)
    groups = [at // 10 for at in range(400)]
    together = difference(np.repeat(one, 10), groups)
    alone = difference(np.repeat(one, 10))
    assert together.high - together.low > 2 * (alone.high - alone.low)
