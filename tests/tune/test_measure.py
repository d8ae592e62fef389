"""Recalls by hand, and that times are taken in turns."""

from __future__ import annotations

import numpy as np

from vivace.index.flat import FlatIndex
from vivace.tune import measure
from vivace.tune.measure import Contender
from vivace.tune.workload import Workload
from vivace.types import Matches, Vectors


def _matches(*rows: list[tuple[int, float]]) -> Matches:
    ids = np.array([[number for number, _ in row] for row in rows], np.int64)
    return Matches(ids, np.array([[score for _, score in row] for row in rows], np.float32))


def test_a_row_scoring_as_well_as_the_last_neighbour_counts_as_found() -> None:
    nothing = (-1, -np.inf)
    true = _matches([(1, 0.9), (2, 0.5)], [(1, 0.9), (2, 0.5)], [(4, 0.1), nothing])
    found = _matches([(1, 0.9), (7, 0.5)], [(1, 0.9), (7, 0.4)], [nothing, nothing])
    assert measure.recalls(found, true).tolist() == [1.0, 0.5, 0.0]


def test_recall_is_one_where_there_is_nothing_to_find() -> None:
    nothing = Matches(np.full((2, 3), -1), np.full((2, 3), -np.inf, np.float32))
    assert measure.recalls(nothing, nothing).tolist() == [1.0, 1.0]


def test_exact_neighbours_are_the_same_in_batches(flat: FlatIndex) -> None:
    asked = np.random.default_rng(0).normal(size=(600, 64)).astype(np.float32)
    seen = list[int]()
    found = measure.exact(flat, asked, 10, seen.append)
    assert seen == [256, 512, 600]
    assert (found.ids[[0, 255, 256, 599]] == flat.exact(asked[[0, 255, 256, 599]], 10).ids).all()
    assert (measure.recalls(found, found) == 1).all()


def test_rounding_alone_loses_no_recall() -> None:
    true = _matches([(1, 0.9), (2, 0.8), (3, 0.7)])
    rounded = _matches([(1, 0.9), (2, 0.8), (3, 0.7 - 3e-7)])
    other = _matches([(1, 0.9), (2, 0.8), (4, 0.7 - 3e-5)])
    assert measure.recalls(rounded, true).tolist() == [1.0]
    assert measure.recalls(other, true)[0] < 0.7


def test_contenders_alternate_in_reversing_order(flat: FlatIndex, workload: Workload) -> None:
    turns = list[int]()

    class Watched(FlatIndex):
        def search(
            self, queries: Vectors, k: int, *, effort: int = 0, allow: object = None
        ) -> Matches:
            assert len(queries) == 1
            turns.append(effort)
            return flat.search(queries, k)

    watched = Watched(flat.ids, flat.native, flat.vectors.view(np.uint8), flat.metric)
    few = workload.vectors[:32]
    times = measure.times([Contender(watched, 1), Contender(watched, 2)], few, 5, rounds=2)
    assert len(times) == 2
    assert all(0 < t.p50_ms <= t.p95_ms and t.cpu_ms > 0 for t in times)
    # after each was warmed up
    assert turns[32:] == [1] * 16 + [2] * 16 + [1] * 16 + [2] * 16 + (
        [2] * 16 + [1] * 16 + [2] * 16 + [1] * 16
    )
