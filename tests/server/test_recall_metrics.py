"""Recall on the page of metrics."""

from __future__ import annotations

from vivace.server.metrics import recall_rows


def gauges(mean: float, queries: int) -> dict[str, float]:
    names = {"low": mean - 0.1, "mean": mean, "high": mean + 0.1, "queries": queries}
    return {f"recall.{name}": value for name, value in names.items()}


def test_of_the_collection_that_finds_least() -> None:
    lines = list(recall_rows([gauges(0.9, 40), {}, gauges(0.8, 25), gauges(0.0, 0)]))
    assert lines == [
        "# HELP vivace_recall Recall@10 of live questions (lowest collection), 95 % interval",
        "# TYPE vivace_recall gauge",
        'vivace_recall{bound="low"} 0.7000',
        'vivace_recall{bound="mean"} 0.8000',
        'vivace_recall{bound="high"} 0.9000',
        "# HELP vivace_recall_samples Live questions that it rests on",
        "# TYPE vivace_recall_samples gauge",
        "vivace_recall_samples 25",
    ]


def test_none_before_there_are_any() -> None:
    assert list(recall_rows([{}, gauges(0.0, 0)])) == []
