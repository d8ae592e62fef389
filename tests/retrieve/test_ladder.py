"""What is reduced or skipped when time is short, step by step, and that it is named."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.retrieve.world import Scored, Source, Words, slow, world
from vivace.errors import DeadlineExceeded, Overloaded
from vivace.retrieve.context import (
    EMBEDDED_LATE,
    LESS_EFFORT,
    NO_TIME_FOR_DENSE,
    NO_TIME_TO_EMBED,
    SearchContext,
    StageCosts,
    now,
)
from vivace.retrieve.query import parse
from vivace.run.work import work_context
from vivace.settings import Search
from vivace.trace import Trace
from vivace.types import Query, Rerank, Stages

TEXT = "red apple in the garden"
# far more than a search takes here: only what the costs say decides
ASKED = Query(TEXT, k=3, deadline=30.0)


def test_costs_settle_at_the_95th_percentile() -> None:
    costs = StageCosts()
    rng = np.random.default_rng(0)
    seconds = rng.lognormal(sigma=0.5, size=4000) * 1e-3
    for one in seconds:
        costs.observe("dense", float(one))
    above = np.mean(seconds[-2000:] > costs["dense"])
    assert 0.01 < above < 0.12


def test_one_cold_start_is_ignored() -> None:
    costs = StageCosts()
    for one in (5.0, 1e-3, 1e-3):
        costs.observe("embed", one)
    assert costs["embed"] == 1e-3


def test_a_skipped_stage_is_tried_again_some_time() -> None:
    costs, start, tries = slow(rerank=1.0), now(), 0
    context = SearchContext(ASKED, parse(TEXT), start + 5.0, costs, Trace())
    context.bind(Source(), Stages(rerank=Rerank(20)))
    while not context.rerank_depth(start, 50) and tries < 10_000:
        tries += 1
    assert 100 < tries < 10_000


@pytest.mark.parametrize(("each", "deep"), [(1e-3, 8), (5.0, 4), (20.0, 0)])
async def test_reranking_depth_is_reduced_first(each: float, deep: int) -> None:
    source, settings = Source(signed=True), Search(rerank_depth=8)
    with world(settings, source=source, costs=slow(rerank=each)) as w:
        result = await w.searcher.search(ASKED)
    steps = {
        8: (),
        4: ("reranked 4 instead of 8: little time was left",),
        0: ("not reranked: no time was left for it",),
    }
    assert result.degraded == steps[deep]


async def test_depth_is_reduced_for_an_awaited_reranker_too() -> None:
    reranker = Scored(lambda hits: np.zeros(len(hits), np.float32))
    with world(Search(rerank_depth=8), reranker=reranker, costs=slow(rerank=5.0)) as w:
        result = await w.searcher.search(ASKED)
    assert reranker.seen == [(TEXT, 4)]
    assert result.degraded == ("reranked 4 instead of 8: little time was left",)


async def test_the_dense_side_is_searched_with_less_effort() -> None:
    source = Source(approximate=True)
    with world(source=source, costs=slow(dense=60.0)) as w:
        result = await w.searcher.search(ASKED)
    assert source.dense_calls == [(1, True)]
    assert result.degraded == (LESS_EFFORT,)


@pytest.mark.parametrize("approximate", [False, True])
async def test_the_dense_side_is_skipped_where_less_effort_does_not_fit(approximate: bool) -> None:
    source = Source(approximate=approximate)
    with world(source=source, costs=slow(dense=60.0, dense_hurried=50.0)) as w:
        result = await w.searcher.search(ASKED)
    assert source.dense_calls == []
    assert result.degraded == (NO_TIME_FOR_DENSE,)
    # the question was embedded: what the keyword side found is scored by both
    assert all("cosine" in hit.stages for hit in result.hits)


async def test_the_question_is_not_embedded_without_time_for_it() -> None:
    with world(costs=slow(embed=60.0)) as w:
        result = await w.searcher.search(ASKED)
        assert w.embedder.calls == []
    assert result.degraded == (NO_TIME_TO_EMBED,)
    assert [hit.stages.keys() for hit in result.hits] == [{"bm25"}] * 3


@pytest.mark.parametrize("together", [False, True])
async def test_an_embedding_that_is_late_is_not_waited_for(together: bool) -> None:
    words = Words()
    words.never = True
    count = 5 if together else 1  # from the third one at once it is awaited in another way
    # what follows the embedding seems to take nearly all the time, so little is left to wait
    with world(embedder=words, costs=slow(embed=1e-4, fetch=29.9)) as w:
        results = await asyncio.gather(*[w.searcher.search(ASKED) for _ in range(count)])
        assert w.trace.counters()["search.embedding_late"] == count
    for result in results:
        assert result.degraded == (EMBEDDED_LATE,)
        assert result.hits


async def test_without_time_for_the_keyword_side_it_is_refused() -> None:
    with world(costs=slow(keyword=60.0)) as w:
        with pytest.raises(Overloaded, match="keyword side alone takes"):
            await w.searcher.search(ASKED)
        assert w.trace.counters()["search.refused"] == 1


async def test_a_refused_question_is_soon_tried_again() -> None:
    refused = 0
    with world(costs=slow(keyword=60.0)) as w:
        while refused < 20:
            try:
                await w.searcher.search(ASKED)
                break
            except Overloaded:
                refused += 1
    assert 1 <= refused < 20


async def test_a_deadline_that_has_passed_is_an_error() -> None:
    with world() as w:
        with pytest.raises(DeadlineExceeded):
            await w.searcher.search(Query(TEXT, deadline=0.0))
        with work_context(seconds=0.0), pytest.raises(DeadlineExceeded):
            await w.searcher.search(Query(TEXT))


async def test_without_a_deadline_nothing_is_skipped() -> None:
    costs = slow(embed=60.0, dense=60.0, rerank=60.0, keyword=60.0)
    with world(source=Source(signed=True), costs=costs) as w:
        result = await w.searcher.search(Query(TEXT))
    assert result.degraded == ()
    assert "reranked" in result.hits[0].stages


async def test_enough_time_changes_nothing() -> None:
    with world(source=Source(signed=True)) as w:
        assert await w.searcher.search(ASKED) == await w.searcher.search(Query(TEXT, k=3))
