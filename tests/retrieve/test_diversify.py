"""Hits that say nothing new."""

from __future__ import annotations

import numpy as np
import pytest

from tests.retrieve.world import TEXTS, Source, vector, world
from vivace.retrieve.diversify import DistinctTexts, marginal
from vivace.settings import Search
from vivace.types import Query

LONG = " ".join(f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(120))


def added(*texts: str) -> list[bool]:
    distinct = DistinctTexts()
    return [distinct.add(text) for text in texts]


def test_texts_that_differ_in_case_and_space_are_duplicates() -> None:
    assert added("A  red apple", "a red\napple", "a red pear", "A  red apple") == [
        True,
        False,
        True,
        False,
    ]


def test_texts_that_share_nine_in_ten_words_are_duplicates() -> None:
    changed = LONG.replace("wordca", "another")
    half = " ".join(LONG.split()[:60]) + " " + " ".join(f"other{i}" for i in range(60))
    assert added(LONG, changed, half) == [True, False, True]


def test_texts_with_other_numbers_are_no_duplicates() -> None:
    assert added(LONG + " in 2024", LONG + " in 2025", LONG + " in 2024") == [True, True, False]


def test_ideographs_count_as_words() -> None:
    text = (
        "北京大学位于中国首都北京市海淀区是一所综合性的研究型大学历史悠久" + "学科齐全师资力量雄厚"
    )
    assert added(text, text[:-1] + "等", "上海交通大学" + text[6:20]) == [True, False, True]


def test_empty_texts_are_no_duplicates() -> None:
    assert added("", "", " ") == [True, True, True]


def test_texts_with_other_scores_are_not_compared() -> None:
    distinct = DistinctTexts()
    assert distinct.add("x y z", 10.0, 0.5)
    assert distinct.add("x y z", 20.0, 0.5)
    assert distinct.add("x y z", 10.0, 0.2)
    assert not distinct.add("x y z", 10.0, 0.5)


async def test_duplicates_are_left_out_and_others_take_their_place() -> None:
    texts = (TEXTS[0], TEXTS[0].upper(), *TEXTS)
    with world(source=Source(texts)) as w:
        result = await w.searcher.search(Query("red apple", k=6))
        found = [hit.chunk.text.lower() for hit in result.hits]
        assert len(found) == 6 == len(set(found))
    with world(Search(distinct=False), source=Source(texts)) as w:
        result = await w.searcher.search(Query("red apple", k=6))
        assert sum(hit.chunk.text.lower() == TEXTS[0] for hit in result.hits) == 3


def test_marginal_relevance_by_hand() -> None:
    scores = np.array([1.0, 0.9, 0.5], np.float32)
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert marginal(scores, vectors, 3, 0.5) == [0, 2, 1]
    assert marginal(scores, vectors, 2, 0.0) == [0, 1]
    assert marginal(scores, vectors, 9, 0.01) == [0, 1, 2]
    assert marginal(scores[:0], vectors[:0], 3, 0.5) == []


@pytest.mark.parametrize("weight", [0.2, 0.8])
async def test_unlike_hits_come_first(weight: float) -> None:
    with world(Search(rerank="off")) as w:
        plain = await w.searcher.search(Query("red apple", k=4))
    with world(Search(rerank="off", mmr=weight)) as w:
        result = await w.searcher.search(Query("red apple", k=4, explain=True))
    assert result.hits[0] == plain.hits[0]
    assert result.stages["diversify"].width == 4

    def similarity(hits: tuple[int, ...]) -> float:
        rows = np.stack([vector(TEXTS[hit]) for hit in hits])
        return float((rows @ rows.T).sum())

    before, after = (tuple(h.chunk.id for h in r.hits) for r in (plain, result))
    assert similarity(after) <= similarity(before)
