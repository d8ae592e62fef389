"""What may be applied of a tuning's result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vivace.index.flat import FlatIndex
from vivace.index.pq import PqIndex
from vivace.tune.race import tune
from vivace.tune.tuning import Tuning
from vivace.tune.workload import Workload
from vivace.types import Matches, Objective, Plan, Vectors


@pytest.fixture(scope="module")
def ended() -> Tuning:
    rng = np.random.default_rng(0)
    flat = FlatIndex.build(np.arange(2_000), rng.normal(size=(2_000, 8)).astype(np.float16))
    asked = Workload(rng.normal(size=(60, 8)).astype(np.float32), "given")
    return tune(flat, asked, Objective(0.9), budget_seconds=1e-6)


def test_falling_back_on_the_rows_is_conclusive_only_for_few(ended: Tuning) -> None:
    assert (ended.plan.family, ended.interrupted) == ("flat", True)
    assert ended.conclusive
    many = replace(ended, rows=1_000_000)
    assert not many.conclusive
    assert replace(many, interrupted=False).conclusive
    assert replace(many, chosen=replace(many.chosen, plan=Plan("pq"))).conclusive


def test_the_race_searches_as_wide_as_a_live_search(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[int] = set()
    search = PqIndex.search

    def seen(self: PqIndex, queries: Vectors, k: int, **how: Any) -> Matches:
        asked.add(k)
        return search(self, queries, k, **how)

    monkeypatch.setattr(PqIndex, "search", seen)
    rng = np.random.default_rng(0)
    flat = FlatIndex.build(np.arange(2_000), rng.normal(size=(2_000, 8)).astype(np.float16))
    questions = Workload(rng.normal(size=(60, 8)).astype(np.float32), "given")
    result = tune(flat, questions, Objective(0.9), width=50, families=["pq"], budget_seconds=5)
    assert asked == {50}
    assert result.chosen.recall >= 0.9
