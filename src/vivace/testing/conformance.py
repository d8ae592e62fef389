"""Conformance tests for a `VectorIndex`. Inherit from the class, build your index, run pytest:

class TestMine(VectorIndexConformance):
    def build(self, folder, ids, vectors, metric): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from math import isclose
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from vivace.errors import BadVectors
from vivace.protocols import VectorIndex
from vivace.types import Bitmap, Float16Vectors, Ids, Matches, Metric, Scores, Vectors

DIM = 32


def vectors(n: int, dim: int = DIM, seed: int = 0) -> Float16Vectors:
    """Unit vectors (n, dim) float16 that vary mostly in eight directions, as embeddings do."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(8, dim))
    rows = rng.normal(size=(n, 8)) @ directions / np.sqrt(8) + rng.normal(size=(n, dim)) / 4
    unit: Float16Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return unit


def questions(n: int, dim: int = DIM, seed: int = 1) -> Vectors:
    """Queries (n, dim) float32 of unit length."""
    rows: Vectors = vectors(n, dim, seed).astype(np.float32)
    return rows


def brute_scores(base: Float16Vectors, queries: Vectors, metric: Metric) -> Scores:
    """Scores (q, n) by plain numpy in float64, higher being better."""
    rows, asked = base.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        distances: Scores = -((asked[:, None] - rows[None]) ** 2).sum(-1).astype(np.float32)
        return distances
    products: Scores = (asked @ rows.T).astype(np.float32)
    return products


def brute(
    ids: Ids,
    base: Float16Vectors,
    queries: Vectors,
    k: int,
    metric: Metric,
    allow: Bitmap | None = None,
) -> Matches:
    """The result of an exact index, up to the rounding of scores."""
    scores = brute_scores(base, queries, metric)
    if allow is not None:
        scores[:, ~np.isin(ids, np.flatnonzero(allow))] = -np.inf
    found = np.full((len(queries), k), -1, np.int64)
    best = np.full((len(queries), k), -np.inf, np.float32)
    for row, of_row in enumerate(scores):
        order = np.lexsort((ids, -of_row))[:k]
        order = order[of_row[order] > -np.inf]
        found[row, : len(order)], best[row, : len(order)] = ids[order], of_row[order]
    return Matches(found, best)


def recall(found: Matches, expected: Matches) -> float:
    """The share of expected hits that were found; any score as good as the last one counts."""
    hits = total = 0
    for scores, wanted in zip(found.scores, expected.scores, strict=True):
        worst = wanted[wanted > -np.inf]
        total += len(worst)
        hits += min(len(worst), int((scores >= worst[-1] - 1e-5).sum())) if len(worst) else 0
    return hits / total if total else 1.0


class VectorIndexConformance(ABC):
    """Base of a test class that builds one family of indexes in one way."""

    floor = 0.95
    """Least recall of an index that is not exact, filtered or not."""
    rows = 4_000
    """Enough rows for the approximate search: a family may search few rows exactly."""

    _built: ClassVar[dict[Metric, VectorIndex]] = {}

    @abstractmethod
    def build(self, folder: Path, ids: Ids, vectors: Float16Vectors, metric: Metric) -> VectorIndex:
        """Build the index under test; `folder` is empty and belongs to it alone."""

    @pytest.fixture(params=["cosine", "ip", "l2"])
    def metric(self, request: pytest.FixtureRequest) -> Metric:
        metric: Metric = request.param
        return metric

    @pytest.fixture
    def index(self, tmp_path_factory: pytest.TempPathFactory, metric: Metric) -> VectorIndex:
        # indexes are immutable, so the tests of a class share one per metric
        built: dict[Metric, VectorIndex] = dict(vars(type(self)).get("_built", {}))
        if metric not in built:
            ids = np.arange(0, 3 * self.rows, 3, dtype=np.int64)
            folder = tmp_path_factory.mktemp("index") / "whole"
            built[metric] = self.build(folder, ids, vectors(self.rows), metric)
            type(self)._built = built
        return built[metric]

    def good(self, index: VectorIndex, found: Matches, expected: Matches) -> None:
        """Check shapes, order, padding, scores and recall (1 if exact, else at least the floor)."""
        assert found.ids.shape == found.scores.shape == expected.ids.shape
        assert found.ids.dtype == np.int64
        assert found.scores.dtype == np.float32
        assert ((found.ids < 0) == (found.scores == -np.inf)).all()
        with np.errstate(invalid="ignore"):
            falls = np.diff(found.scores, axis=1)
        rises = np.diff(found.ids, axis=1) > 0
        assert ((falls < 0) | ((falls == 0) & rises) | (found.ids[:, 1:] < 0)).all()
        if index.capabilities.exact:
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
            assert recall(found, expected) == 1.0
        else:
            assert recall(found, expected) >= self.floor
            assert (np.count_nonzero(found.ids >= 0, 1) == (expected.ids >= 0).sum(1)).all()

    @pytest.mark.parametrize("k", [1, 10, 60])
    def test_finds_what_is_near(self, index: VectorIndex, metric: Metric, k: int) -> None:
        asked = questions(40)
        found = index.search(asked, k)
        self.good(index, found, brute(index.ids, index.vectors, asked, k, metric))

    def test_keeps_ids_and_vectors(self, index: VectorIndex, metric: Metric) -> None:
        assert index.metric == metric
        assert index.ids.tolist() == list(range(0, 3 * self.rows, 3))
        assert (index.vectors == vectors(self.rows)).all()
        assert index.vectors.dtype == np.float16

    @pytest.mark.parametrize("n", [0, 1, 5, 17])
    def test_pads_where_k_is_larger_than_n(self, tmp_path: Path, metric: Metric, n: int) -> None:
        ids, base, asked = np.arange(n, dtype=np.int64), vectors(n), questions(2)
        index = self.build(tmp_path / "few", ids, base, metric)
        self.good(index, index.search(asked, 25), brute(ids, base, asked, 25, metric))

    def test_no_queries_and_no_room(self, index: VectorIndex) -> None:
        assert index.search(np.empty((0, DIM), np.float32), 2).ids.shape == (0, 2)
        assert index.search(questions(3), 0).ids.shape == (3, 0)

    def test_equal_vectors_score_equal(self, tmp_path: Path, metric: Metric) -> None:
        base = np.vstack([vectors(self.rows), np.repeat(vectors(1, seed=3), 400, axis=0)])
        index = self.build(tmp_path / "same", np.arange(len(base)), base, metric)
        found = index.search(questions(1, seed=3), 10)
        assert len(set(found.scores[0].tolist())) == 1
        assert (found.ids >= self.rows).all()
        assert (np.diff(found.ids) > 0).all()
        if index.capabilities.exact:
            assert found.ids[0].tolist() == list(range(self.rows, self.rows + 10))

    def test_zero_vectors(self, tmp_path: Path, metric: Metric) -> None:
        base = vectors(self.rows)
        base[[0, 7, 8]] = 0
        index = self.build(tmp_path / "zeros", np.arange(len(base)), base, metric)
        zero = np.zeros((1, DIM), np.float32)
        expected = 0.0 if metric != "l2" else -1.0
        scores = index.similarity(questions(1), np.array([0, 7, 8]))
        assert scores == pytest.approx([expected] * 3, abs=2e-3)
        assert np.isfinite(index.search(zero, 5).scores).all()
        if metric == "l2":
            assert index.search(zero, 3).ids.tolist() == [[0, 7, 8]]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_refuses_nan_and_infinity(self, tmp_path: Path, metric: Metric, bad: float) -> None:
        base = vectors(3)
        base[1, 2] = bad
        with pytest.raises(BadVectors, match="NaN or infinity"):
            self.build(tmp_path / "bad", np.arange(3), base, metric)
        index = self.build(tmp_path / "good", np.arange(3), vectors(3), metric)
        asked = questions(2)
        asked[1, 0] = bad
        with pytest.raises(BadVectors, match="NaN or infinity"):
            index.search(asked, 1)
        with pytest.raises(BadVectors, match="NaN or infinity"):
            index.similarity(asked[1:], np.array([0]))

    @pytest.mark.parametrize("ids", [[0, 1], [2, 1, 0], [0, 0, 1], [-1, 0, 1]])
    def test_refuses_ids_that_do_not_fit(
        self, tmp_path: Path, metric: Metric, ids: list[int]
    ) -> None:
        with pytest.raises(BadVectors):
            self.build(tmp_path / "bad", np.array(ids, np.int64), vectors(3), metric)

    def test_refuses_queries_of_another_dimension(self, index: VectorIndex) -> None:
        with pytest.raises(BadVectors, match="dimensions"):
            index.search(questions(1, DIM + 1), 1)
        with pytest.raises(BadVectors, match="dimensions"):
            index.similarity(questions(1, DIM - 1), np.array([0]))

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.95, 1.0])
    @pytest.mark.parametrize("k", [1, 10, 40])
    def test_filters(self, index: VectorIndex, metric: Metric, share: float, k: int) -> None:
        rng, asked = np.random.default_rng(int(1000 * share) + k), questions(20)
        # also shorter and longer than the ids reach
        length = 3 * self.rows + int(rng.integers(-2000, 2000))
        allow = rng.random(length) < share
        self.filtered(index, metric, asked, k, allow)

    @pytest.mark.parametrize("share", [0.01, 0.3, 0.8])
    def test_filters_that_allow_only_what_is_far(
        self, index: VectorIndex, metric: Metric, share: float
    ) -> None:
        asked = questions(1)
        far = np.argsort(brute_scores(index.vectors, asked, metric)[0])[: int(share * self.rows)]
        allow = np.zeros(3 * self.rows, np.bool_)
        allow[index.ids[far]] = True
        self.filtered(index, metric, asked, 10, allow)

    @pytest.mark.parametrize("length", [0, 1, 2_000])
    def test_ids_past_the_end_of_a_filter_are_not_allowed(
        self, index: VectorIndex, metric: Metric, length: int
    ) -> None:
        self.filtered(index, metric, questions(3), 10, np.ones(length, np.bool_))

    def test_filters_over_ids_without_gaps(self, tmp_path: Path, metric: Metric) -> None:
        ids = np.arange(100, 100 + self.rows)
        index = self.build(tmp_path / "dense", ids, vectors(self.rows), metric)
        for length in (100, 1_000, 100 + self.rows, 9_000):
            allow = np.random.default_rng(length).random(length) < 0.7
            self.filtered(index, metric, questions(5), 10, allow)

    def filtered(
        self, index: VectorIndex, metric: Metric, asked: Vectors, k: int, allow: Bitmap
    ) -> None:
        """A search restricted to `allow` finds nothing else, and as much as an unfiltered one."""
        found = index.search(asked, k, allow=allow)
        here = found.ids[found.ids >= 0]
        assert (here < len(allow)).all()
        assert allow[here].all()
        self.good(index, found, brute(index.ids, index.vectors, asked, k, metric, allow))

    def test_a_score_depends_on_nothing_but_row_and_query(
        self, index: VectorIndex, tmp_path: Path, metric: Metric
    ) -> None:
        """Not on the row's position, other rows, other queries, the filter or the search path:
        scores are bit-equal, or equal up to the family's rounding."""
        rounding = index.capabilities.rounding
        asked = questions(70)
        whole = index.search(asked, 30)
        part = self.build(tmp_path / "part", index.ids[1::3], vectors(self.rows)[1::3], metric)
        allow = np.random.default_rng(0).random(3 * self.rows) < 0.2
        for at in range(0, 70, 7):
            known = dict(zip(whole.ids[at].tolist(), whole.scores[at].tolist(), strict=True))
            query = asked[at : at + 1]
            for found in (
                index.search(query, 30),
                index.search(asked[at : at + 9], 20),
                index.search(query, 200, allow=allow),
                part.search(query, 300),
            ):
                for row, score in zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True):
                    before = known.setdefault(row, score)
                    assert isclose(before, score, rel_tol=rounding, abs_tol=rounding)
            again = index.similarity(query, np.array(list(known), np.int64))
            np.testing.assert_allclose(again, list(known.values()), rounding, rounding)

    def test_similarity(self, index: VectorIndex, metric: Metric) -> None:
        query = questions(1)
        ids = np.array([9, 3, 3, 4, 10**12, 0, -1, 3 * (self.rows - 1)], np.int64)
        scores = index.similarity(query, ids)
        expected = brute_scores(index.vectors, query, metric)[0][[3, 1, 1, 0, self.rows - 1]]
        assert scores.dtype == np.float32
        assert scores[[0, 1, 2, 5, 7]] == pytest.approx(expected, abs=1e-5)
        assert (scores[[3, 4, 6]] == -np.inf).all()
        assert index.similarity(query, np.empty(0, np.int64)).shape == (0,)
        many = index.similarity(query, index.ids)
        assert many == pytest.approx(brute_scores(index.vectors, query, metric)[0], abs=1e-5)

    def test_similarity_in_an_empty_index(self, tmp_path: Path, metric: Metric) -> None:
        index = self.build(tmp_path / "none", np.empty(0, np.int64), vectors(0), metric)
        assert index.similarity(questions(1), np.array([0, 5])).tolist() == [-np.inf] * 2

    def test_concurrent_searches_agree(self, index: VectorIndex) -> None:
        asked = questions(64)
        allow = np.random.default_rng(0).random(3 * self.rows) < 0.4

        def ask(at: int) -> tuple[list[int], list[int]]:
            query = asked[at : at + 1]
            free = index.search(query, 10).ids[0].tolist()
            return free, index.search(query, 10, allow=allow).ids[0].tolist()

        alone = [ask(at) for at in range(64)]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, range(64))) == alone

    def test_more_effort_never_finds_less(self, index: VectorIndex, metric: Metric) -> None:
        asked = questions(40)
        expected = brute(index.ids, index.vectors, asked, 10, metric)
        found = [recall(index.search(asked, 10, effort=e), expected) for e in (4, 16, 64, 10**6)]
        assert found == sorted(found)
        assert found[-1] == 1.0

    def test_estimates_grow(self, index: VectorIndex) -> None:
        family = type(index)
        assert family.estimate_bytes(self.rows, DIM).total >= index.vectors.nbytes
        assert 0 <= family.estimate_bytes(100, 8).total < family.estimate_bytes(1000, 8).total
        assert 0 <= family.estimate_seconds(100, 8) < family.estimate_seconds(1000, 8)
        assert family.estimate_bytes(1000, 8).total < family.estimate_bytes(1000, 64).total
