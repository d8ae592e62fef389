"""Intervals cover the truth as often as they say, for recalls as indexes have them."""

from __future__ import annotations

import numpy as np
import pytest

from vivace.index.flat import FlatIndex
from vivace.index.pq import PqIndex
from vivace.tune import measure, metrics
from vivace.tune.metrics import Recalls
from vivace.tune.workload import Workload

RUNS = 1_000
"""Of a hundred, even an interval that covers 95 % covers fewer than 93 one time in eight."""
ENOUGH = 930


def _covered(recalls: Recalls, n: int) -> int:
    truth, covered = recalls.mean(), 0
    for seed in range(RUNS):
        some = np.random.default_rng(seed).choice(recalls, n)
        found = metrics.mean_recall(some)
        covered += found.low <= truth <= found.high
    return covered


@pytest.mark.parametrize("n", [50, 100, 200, 500])
@pytest.mark.parametrize(
    ("each", "whole_misses"), [(0.9, 0.0), (0.97, 0.0), (0.99, 0.0), (0.97, 0.03), (0.995, 0.01)]
)
def test_the_truth_is_covered(n: int, each: float, whole_misses: float) -> None:
    rng = np.random.default_rng(5)
    recalls = rng.binomial(10, each, 50_000) / 10
    recalls[rng.random(len(recalls)) < whole_misses] = 0
    assert _covered(recalls, n) >= ENOUGH


@pytest.mark.parametrize("effort", [14, 30, 60, 100])
def test_the_truth_is_covered_for_a_real_index(
    effort: int, sentences: tuple[FlatIndex, Workload]
) -> None:
    flat, workload = sentences
    true = flat.exact(workload.vectors, 10)
    found = PqIndex.build(flat).search(workload.vectors, 10, effort=effort)
    recalls = measure.recalls(found, true)
    for n in (50, 200):
        assert _covered(recalls, n) >= ENOUGH
    if recalls.mean() >= 0.9:
        seen = metrics.mean_recall(np.random.default_rng(0).choice(recalls, 200))
        assert (seen.high - seen.low) / 2 <= 0.03


def test_a_question_asked_again_does_not_make_it_surer() -> None:
    rng = np.random.default_rng(1)
    once = rng.binomial(10, 0.9, 40) / 10
    alone = metrics.mean_recall(once)
    again = metrics.mean_recall(np.repeat(once, 5), list(np.repeat(np.arange(40), 5)))
    assert again.queries == 200
    assert again.mean == pytest.approx(alone.mean)
    assert again.low == pytest.approx(alone.low)
    assert again.high == pytest.approx(alone.high)
    fooled = metrics.mean_recall(np.repeat(once, 5))
    assert fooled.high - fooled.low < 0.7 * (again.high - again.low)


def test_a_burst_of_one_question_leaves_the_truth_covered() -> None:
    covered = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(100), rng.geometric(0.3, 100))
        recalls = (rng.binomial(10, 0.93, 100) / 10)[groups]
        found = metrics.mean_recall(recalls, list(groups))
        covered += found.low <= 0.93 <= found.high
    assert covered >= ENOUGH


def test_the_edges() -> None:
    assert metrics.mean_recall(np.empty(0)) == metrics.Recall(0.0, 0.0, 1.0, 0)
    one = metrics.mean_recall(np.ones(1))
    assert (one.mean, one.high) == (1, 1)
    assert one.low < 0.2
    assert metrics.mean_recall(np.zeros(50)).low == 0
    many = metrics.mean_recall(np.ones(1000))
    assert 0.99 < many.low < many.mean == many.high == 1
    assert metrics.exact_recall(7) == metrics.Recall(1, 1, 1, 7)


def test_students_t_is_that_of_the_tables() -> None:
    for degrees, value in ((3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1e9, 1.960)):
        assert metrics.student(degrees) == pytest.approx(value, rel=0.01)
