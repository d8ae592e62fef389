"""The conformance suite of `VectorIndex`, run over every family."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.errors import BadVectors
from vivace.index.flat import FlatIndex
from vivace.types import Bitmap, Halves, Ids, Matches, Vectors

FAMILIES = [FlatIndex]


def vectors(n: int, dim: int = 16, seed: int = 0) -> Halves:
    rows = np.random.default_rng(seed).normal(size=(n, dim))
    unit: Halves = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return unit


def brute(ids: Ids, base: Halves, queries: Vectors, k: int, allow: Bitmap | None = None) -> Matches:
    """What an exact index must answer, by plain numpy."""
    scores = queries @ base.astype(np.float32).T
    if allow is not None:
        kept = np.array([i < len(allow) and allow[i] for i in ids])
        scores[:, ~kept] = -np.inf
    out_ids = np.full((len(queries), k), -1, np.int64)
    out_scores = np.full((len(queries), k), -np.inf, np.float32)
    for row, of_row in enumerate(scores):
        order = sorted(range(len(ids)), key=lambda i: (-of_row[i], ids[i]))
        order = [i for i in order if of_row[i] > -np.inf][:k]
        out_ids[row, : len(order)] = ids[order]
        out_scores[row, : len(order)] = of_row[order]
    return Matches(out_ids, out_scores)


def same(found: Matches, expected: Matches) -> None:
    assert found.ids.dtype == np.int64
    assert found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    # rounding may swap neighbours whose scores differ by less than it
    close = np.isclose(found.scores, expected.scores, atol=1e-5)
    assert close.all()
    for row in range(len(found.ids)):
        assert (
            set(found.ids[row]) == set(expected.ids[row])
            or np.ptp(expected.scores[row][np.isfinite(expected.scores[row])][-2:]) < 1e-5
        )


@pytest.mark.parametrize("family", FAMILIES)
class TestConformance:
    def test_exact_against_brute_force(self, family: type[FlatIndex]) -> None:
        ids = np.arange(0, 3000, 3, dtype=np.int64)
        base, queries = vectors(1000), vectors(20, seed=1).astype(np.float32)
        same(family.build(ids, base).search(queries, 10), brute(ids, base, queries, 10))

    @pytest.mark.parametrize("n", [0, 1, 5])
    def test_pads_where_k_is_larger_than_n(self, family: type[FlatIndex], n: int) -> None:
        ids = np.arange(n, dtype=np.int64)
        found = family.build(ids, vectors(n)).search(vectors(2, seed=1).astype(np.float32), 8)
        assert found.ids.shape == found.scores.shape == (2, 8)
        assert (found.ids[:, n:] == -1).all()
        assert (found.scores[:, n:] == -np.inf).all()
        assert (np.sort(found.ids[:, :n]) == ids).all()

    def test_scores_descend(self, family: type[FlatIndex]) -> None:
        found = family.build(np.arange(500), vectors(500)).search(
            vectors(5, seed=2).astype(np.float32), 50
        )
        assert (np.diff(found.scores, axis=1) <= 0).all()

    def test_ties_go_to_the_lower_id_however_many(self, family: type[FlatIndex]) -> None:
        one = vectors(1)
        base = np.vstack([np.repeat(one, 400, axis=0), vectors(100, seed=3)])
        found = family.build(np.arange(500), base).search(one.astype(np.float32), 10)
        assert found.ids[0].tolist() == list(range(10))

    def test_zero_vectors_score_zero(self, family: type[FlatIndex]) -> None:
        base = np.vstack([np.zeros((1, 16), np.float16), vectors(3)])
        found = family.build(np.arange(4), base).search(vectors(1).astype(np.float32), 4)
        assert found.scores[0][found.ids[0] == 0] == 0.0

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_refuses_nan_and_infinity(self, family: type[FlatIndex], bad: float) -> None:
        base = vectors(3)
        base[1, 2] = bad
        with pytest.raises(BadVectors, match="NaN or infinity"):
            family.build(np.arange(3), base)

    @pytest.mark.parametrize("ids", [[0, 1], [2, 1, 0], [0, 0, 1]])
    def test_refuses_ids_that_do_not_fit(self, family: type[FlatIndex], ids: list[int]) -> None:
        with pytest.raises(BadVectors, match="do not fit"):
            family.build(np.array(ids, np.int64), vectors(3))

    def test_no_queries(self, family: type[FlatIndex]) -> None:
        found = family.build(np.arange(3), vectors(3)).search(np.empty((0, 16), np.float32), 2)
        assert found.ids.shape == (0, 2)

    @settings(max_examples=30, deadline=None)
    @given(share=st.floats(0, 1), seed=st.integers(0, 1000), k=st.integers(1, 40))
    def test_filters(self, family: type[FlatIndex], share: float, seed: int, k: int) -> None:
        rng = np.random.default_rng(seed)
        ids = np.sort(rng.choice(900, 300, replace=False)).astype(np.int64)
        base, queries = vectors(300, seed=seed), vectors(2, seed=seed + 1).astype(np.float32)
        allow = rng.random(int(rng.integers(1, 900))) < share
        found = family.build(ids, base).search(queries, k, allow=allow)
        same(found, brute(ids, base, queries, k, allow))
        here = found.ids[found.ids >= 0]
        assert (here < len(allow)).all()
        assert allow[here].all()

    def test_concurrent_searches_agree(self, family: type[FlatIndex]) -> None:
        index = family.build(np.arange(2000), vectors(2000))
        queries = vectors(64, seed=5).astype(np.float32)
        expected = index.search(queries, 10).ids
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda q: index.search(q[None], 10).ids[0], queries))
        assert (np.array(found) == expected).all()

    def test_estimates_its_bytes(self, family: type[FlatIndex]) -> None:
        assert family.estimate_bytes(1000, 384) == 1000 * (768 + 8)


def test_similarity_of_given_ids() -> None:
    ids = np.array([2, 5, 9], np.int64)
    base = vectors(3)
    index = FlatIndex.build(ids, base)
    scores = index.similarity(base[1:2].astype(np.float32), np.array([9, 5, 4], np.int64))
    assert scores[1] == pytest.approx(1.0, abs=1e-3)
    assert scores[2] == -np.inf
    assert FlatIndex.build(np.arange(0), vectors(0)).similarity(
        base[:1].astype(np.float32), np.array([1], np.int64)
    ).tolist() == [-np.inf]


def test_a_score_does_not_depend_on_the_place() -> None:
    base, query = vectors(3000, 384), vectors(1, 384, seed=1).astype(np.float32)
    alone = FlatIndex.build(np.arange(1), base[1234:1235]).search(query, 1).scores[0, 0]
    among = FlatIndex.build(np.arange(3000), base).search(query, 3000)
    assert among.scores[0][among.ids[0] == 1234][0] == alone
