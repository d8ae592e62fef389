"""A reranker that fails several times in a row is not called, and tried again later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest

from tests.retrieve.world import Hanging, Scored, world
from vivace.errors import RerankError
from vivace.retrieve.rerank import GuardedReranker, RerankerUnavailable
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
    """Raises while it is in a bad mood."""

    def __init__(self) -> None:
        self.bad = True
        self.calls = 0

    def __call__(self, hits: Sequence[Hit]) -> Scores:
        self.calls += 1
        if self.bad:
            raise RerankError("no model")
        return np.ones(len(hits), np.float32)


def guarding(moody: Moody, clock: Clock) -> GuardedReranker:
    return GuardedReranker(Scored(moody), clock=clock, draw=random.Random(1))


async def fails(guarded: GuardedReranker) -> None:
    with pytest.raises(RerankError, match="no model") as raised:
        await guarded.scored(QUESTION, HITS, LONG)
    assert not isinstance(raised.value, RerankerUnavailable)


async def test_after_three_failures_it_is_not_called_until_the_pause_is_over() -> None:
    moody, clock = Moody(), Clock()
    guarded = guarding(moody, clock)
    for _ in range(3):
        await fails(guarded)
    with pytest.raises(RerankerUnavailable, match=r"scored is left alone .* the last: no model"):
        await guarded.scored(QUESTION, HITS, LONG)
    assert moody.calls == 3
    clock.now += 1.0
    await fails(guarded)  # the trial: the next pause is longer
    clock.now += 0.9
    with pytest.raises(RerankerUnavailable):
        await guarded.scored(QUESTION, HITS, LONG)
    clock.now += 1.1
    moody.bad = False
    for _ in range(3):
        assert (await guarded.scored(QUESTION, HITS, LONG)).tolist() == [1, 1]
    moody.bad = True
    for _ in range(3):  # forgiven: it takes as many as at first
        await fails(guarded)
    assert moody.calls == 10


async def test_failures_with_a_success_between_them_do_not_stop_it() -> None:
    moody, clock = Moody(), Clock()
    guarded = guarding(moody, clock)
    for _ in range(5):
        moody.bad = True
        await fails(guarded)
        await fails(guarded)
        moody.bad = False
        await guarded.scored(QUESTION, HITS, LONG)


async def test_one_call_tries_it_and_a_cancelled_trial_counts_as_none() -> None:
    hanging, clock = Hanging(), Clock()
    guarded = GuardedReranker(hanging, clock=clock, draw=random.Random(1))
    for _ in range(3):
        with pytest.raises(RerankError, match="gave no scores within"):
            await guarded.scored(QUESTION, HITS, 0.001)
    clock.now += 1.0
    for _ in range(2):  # the second may try: the first has gone without a word
        trial = asyncio.create_task(guarded.scored(QUESTION, HITS, LONG))
        await asyncio.sleep(0)
        with pytest.raises(RerankerUnavailable):
            await guarded.scored(QUESTION, HITS, LONG)
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
    hanging.release.set()


async def test_a_search_does_not_wait_for_it_and_names_that() -> None:
    reranker = Hanging()
    with world(Search(rerank_seconds=0.02), reranker=reranker) as w:
        for _ in range(3):
            late = await w.searcher.search(QUESTION)
            assert "gave no scores within" in late.degraded[0]
        learned = w.costs["rerank"]
        result = await w.searcher.search(Query(QUESTION.text, 3, explain=True))
        many = await w.searcher.search_many([QUESTION] * 20)
        counters = w.trace.counters()
        assert w.costs["rerank"] == learned
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
async def test_as_many_questions_are_reranked_at_once_as_the_reranker_takes(
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
