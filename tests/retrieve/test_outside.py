"""A reranker that fails in a row is left alone, and tried again later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest

from tests.retrieve.world import Hanging, Scored, world
from vivace.errors import RerankError
from vivace.retrieve.rerank import LeftAlone, Outside
from vivace.settings import Search
from vivace.types import Chunk, Hit, Query, Scores, SearchResult

QUESTION = Query("red apple", k=3)
HITS = [Hit(Chunk("d", "a red apple", id=at), 1.0) for at in range(2)]
LONG = 60.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Moody:
    """Raises as long as it is told to."""

    def __init__(self) -> None:
        self.bad = True
        self.asked = 0

    def __call__(self, hits: Sequence[Hit]) -> Scores:
        self.asked += 1
        if self.bad:
            raise RerankError("no model")
        return np.ones(len(hits), np.float32)


def left_alone(moody: Moody, clock: Clock) -> Outside:
    return Outside(Scored(moody), clock=clock, draw=random.Random(1))


async def fails(outside: Outside) -> None:
    with pytest.raises(RerankError, match="no model") as raised:
        await outside.scored(QUESTION, HITS, LONG)
    assert not isinstance(raised.value, LeftAlone)


async def test_after_three_failures_it_is_not_asked_until_the_pause_is_over() -> None:
    moody, clock = Moody(), Clock()
    outside = left_alone(moody, clock)
    for _ in range(3):
        await fails(outside)
    with pytest.raises(LeftAlone, match=r"scored is left alone .* the last: no model"):
        await outside.scored(QUESTION, HITS, LONG)
    assert moody.asked == 3
    clock.now += 1.0
    await fails(outside)  # the trial: the next pause is longer
    clock.now += 0.9
    with pytest.raises(LeftAlone):
        await outside.scored(QUESTION, HITS, LONG)
    clock.now += 1.1
    moody.bad = False
    for _ in range(3):
        assert (await outside.scored(QUESTION, HITS, LONG)).tolist() == [1, 1]
    moody.bad = True
    for _ in range(3):  # forgiven: it takes as many as at first
        await fails(outside)
    assert moody.asked == 10


async def test_failures_with_a_success_between_them_are_borne() -> None:
    moody, clock = Moody(), Clock()
    outside = left_alone(moody, clock)
    for _ in range(5):
        moody.bad = True
        await fails(outside)
        await fails(outside)
        moody.bad = False
        await outside.scored(QUESTION, HITS, LONG)


async def test_one_tries_it_and_whoever_gives_up_says_nothing() -> None:
    hanging, clock = Hanging(), Clock()
    outside = Outside(hanging, clock=clock, draw=random.Random(1))
    for _ in range(3):
        with pytest.raises(RerankError, match="gave no scores within"):
            await outside.scored(QUESTION, HITS, 0.001)
    clock.now += 1.0
    for _ in range(2):  # the second may try: the first has gone without a word
        trial = asyncio.create_task(outside.scored(QUESTION, HITS, LONG))
        await asyncio.sleep(0)
        with pytest.raises(LeftAlone):
            await outside.scored(QUESTION, HITS, LONG)
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
    hanging.release.set()


async def test_a_search_does_not_wait_for_it_and_says_so() -> None:
    reranker = Hanging()
    with world(Search(rerank_seconds=0.02), reranker=reranker) as w:
        for _ in range(3):
            late = await w.searcher.search(QUESTION)
            assert "gave no scores within" in late.degraded[0]
        learned = w.searcher._costs["rerank"]
        result = await w.searcher.search(Query(QUESTION.text, 3, explain=True))
        many = await w.searcher.search_many([QUESTION] * 20)
        counters = w.trace.counters()
        assert w.searcher._costs["rerank"] == learned
    reranker.release.set()
    assert result.degraded[0].startswith("not reranked: scored is left alone for")
    assert "rerank" not in result.stages
    assert len(result.hits) == 3
    assert all(isinstance(one, SearchResult) and one.degraded for one in many)
    assert (counters["rerank.failed"], counters["rerank.skipped"]) == (3, 21)


class Counting(Scored):
    """Notes how many questions it has at once."""

    def __init__(self) -> None:
        super().__init__(lambda hits: np.arange(len(hits), dtype=np.float32))
        self.running = self.most = 0

    async def score(self, query: Query, hits: Sequence[Hit]) -> Scores:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001)
        self.running -= 1
        return await super().score(query, hits)


class Several(Counting):
    at_once = 3


@pytest.mark.parametrize(("reranker", "most"), [(Counting(), 1), (Several(), 3)])
async def test_many_questions_at_once_as_far_as_it_takes_them(
    reranker: Counting, most: int
) -> None:
    questions = [Query("red apple", 4), Query(""), *(Query(w) for w in ["tree", "pear", "wine"])]
    with world(Search(rerank_weight=1.0), reranker=reranker) as w:
        alone = [await w.searcher.search(question) for question in questions if question.text]
        reranker.most = 0
        many = await w.searcher.search_many(questions)
    assert reranker.most == most
    assert not isinstance(many[1], SearchResult)
    assert [one for one in many if isinstance(one, SearchResult)] == alone
