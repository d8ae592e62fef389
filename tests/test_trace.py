"""Counters and histograms."""

from __future__ import annotations

import random

import pytest

from vivace.trace import Histogram, Trace


def test_quantiles_are_within_a_bucket() -> None:
    rng = random.Random(3)
    values = sorted(rng.lognormvariate(-6, 1.5) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for q in (0.1, 0.5, 0.95, 0.99):
        assert histogram.quantile(q) == pytest.approx(values[int(q * 5000)], rel=0.1)
    assert histogram.count == 5000
    assert histogram.seconds == pytest.approx(sum(values))


def test_extreme_durations_fall_into_buckets() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) == 0.0
    histogram.add(0.0)
    histogram.add(1e-12)
    assert 0 < histogram.quantile(1.0) < 2e-6


def test_spans_count_failures_too() -> None:
    trace = Trace()
    with pytest.raises(ValueError, match="x"), trace.span("work"):
        raise ValueError("x")
    with trace.span("work"):
        pass
    trace.count("things", 3)
    assert trace.counters() == {"things": 3}
    assert trace.quantiles(0.5)["work"]["count"] == 2
    assert "p50_ms" in trace.quantiles(0.5)["work"]
