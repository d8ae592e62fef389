"""Metrics against figures worked out by hand."""

from __future__ import annotations

from math import log2

import pytest

from vivace.tune.metrics import ndcg, percentile, recall, reciprocal_rank

RANKED = ["a", "b", "c", "d"]


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
