"""Two candidate lists into one ranking."""

from __future__ import annotations

import numpy as np
import pytest

from tests.retrieve.world import Source, vector
from vivace.retrieve.fusion import Ranking, candidates, fuse, score_exactly
from vivace.types import Chunk, Fusion, Hit, Matches, Scores


def row(ids: list[int], scores: list[float]) -> Matches:
    return Matches(np.array([ids], np.int64), np.array([scores], np.float32))


def numbers(*values: float) -> Scores:
    return np.array(values, np.float32)


def test_candidates_are_the_union_with_the_dense_side_first() -> None:
    found = candidates(row([4, 2], [3.0, 1.0]), row([7, 2, -1], [0.5, 0.25, -np.inf]))
    assert found.ids.tolist() == [7, 2, 4]
    assert found.bm25.tolist() == [0, 1, 3]
    assert found.cosine.tolist() == [0.5, 0.25, -np.inf]
    assert found.dense == 2
    alone = candidates(row([4, 2], [3.0, 1.0]), None)
    assert (alone.ids.tolist(), alone.dense) == ([4, 2], 0)


def test_the_keyword_sides_candidates_are_scored_exactly() -> None:
    source = Source()
    question = vector("red apple").reshape(1, -1)
    near = source.dense(question, 2)
    found = candidates(row([11, 99], [2.0, 1.0]), near)
    assert score_exactly(found, source, question) == 2
    every = source.exact(question, len(source.texts))
    known = dict(zip(every.ids[0].tolist(), every.scores[0].tolist(), strict=True))
    expected = [known[chunk] for chunk in found.ids[:3].tolist()]
    assert found.cosine[:3].tolist() == pytest.approx(expected)
    assert found.cosine[3] == -1.0  # it does not exist
    assert score_exactly(candidates(row([], []), near), source, question) == 0


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Fusion("max_norm", 0.25), [0.25 + 0.75 * 0.5, 0.125 + 0.75 * 0.75, 0.75 * 0.25]),
        (Fusion("min_max", 0.25), [0.25 + 0.75 * 0.5, 0.125 + 0.75, 0]),
        (Fusion("rrf"), [1 / 61 + 1 / 62, 1 / 62 + 1 / 61, 1 / 63]),
        (Fusion("dense"), [0.5, 0.75, 0.25]),
        (Fusion("keyword"), [1, 0.5, 0]),
    ],
)
def test_fusion_by_hand(how: Fusion, expected: list[float]) -> None:
    fused = fuse(numbers(4, 2, 0), numbers(0.5, 0.75, 0.25), how)
    assert fused.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["max_norm", "min_max", "rrf"])
def test_without_terms_the_dense_side_decides_alone(mode: str) -> None:
    cosine = numbers(0.5, 0.75)
    assert fuse(numbers(0, 0), cosine, Fusion(mode)).tolist() == cosine.tolist()  # type: ignore[arg-type]
    assert fuse(numbers(0, 0), cosine, Fusion("keyword")).tolist() == [0, 0]


def test_equal_scores_share_a_rank_and_are_stretched_to_zero() -> None:
    assert len(set(fuse(numbers(2, 2), numbers(0.5, 0.5), Fusion("rrf")).tolist())) == 1
    assert fuse(numbers(2, 2), numbers(0.5, 0.5), Fusion("min_max")).tolist() == [0, 0]


def test_a_ranking_becomes_hits_without_the_scores_that_a_stage_did_not_give() -> None:
    stages = {"bm25": numbers(2, 1), "reranked": numbers(3, np.nan)}
    chunks = [Chunk("a", "one", id=5), Chunk("b", "two", id=6)]
    ranking = Ranking(np.array([5, 6]), numbers(0.5, 0.25), stages, chunks)
    assert ranking.hits() == (
        Hit(chunks[0], 0.5, {"bm25": 2.0, "reranked": 3.0}),
        Hit(chunks[1], 0.25, {"bm25": 1.0}),
    )
    assert ranking.first(1).hits() == ranking.hits()[:1]
    assert ranking.first(9) is ranking
