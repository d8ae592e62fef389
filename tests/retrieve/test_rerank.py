"""The rerank step: the best scored again, whatever the reranker does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from unittest.mock import ANY

import numpy as np
import pytest

from tests.retrieve.world import Hanging, Scored, Source, world
from vivace.errors import RerankError
from vivace.retrieve.rerank import blend, order
from vivace.settings import Search
from vivace.types import Fusion, Hit, Query, Rerank, Scores, SearchResult, Stages

ASKED = Query("red apple in the garden", k=5)


def ids(result: SearchResult) -> list[int]:
    return [hit.chunk.id for hit in result.hits]


def reversing(hits: Sequence[Hit]) -> Scores:
    return np.arange(len(hits), dtype=np.float32)


async def unreranked(query: Query = ASKED) -> SearchResult:
    with world(Search(rerank="off")) as w:
        return await w.searcher.search(query)


def test_blending_keeps_the_fused_scale() -> None:
    fused = np.array([0.8, 0.4, 0.2, 0.1], np.float32)
    final = blend(fused, np.array([1.0, 4.0], np.float32), 0.5)
    # half of .8 and of .8 * 1/4; half of .4 and of .8
    assert np.allclose(final, [0.5, 0.6, 0.2, 0.1])
    assert order(np.arange(4), final, 2).tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_rest_stays_behind_in_its_order(weight: float) -> None:
    rng = np.random.default_rng(3)
    for low in (0.0, -5.0):
        fused = np.sort(rng.normal(size=30).astype(np.float32) + low)[::-1]
        final = blend(fused, rng.normal(size=10).astype(np.float32), weight)
        assert final[:10].min() >= final[10:].max()
        assert (np.diff(final[10:]) <= 0).all()
        if not weight:
            assert np.allclose(final, fused, atol=1e-5)


async def test_a_reranker_reorders_the_best() -> None:
    plain = await unreranked(Query(ASKED.text, k=8))
    reranker = Scored(reversing)
    with world(Search(rerank_depth=4, rerank_weight=1.0), reranker=reranker) as w:
        result = await w.searcher.search(Query(ASKED.text, k=8))
    assert ids(result) == ids(plain)[:4][::-1] + ids(plain)[4:]
    assert reranker.seen == [(ASKED.text, 4)]
    assert result.hits[0].stages.keys() == {"bm25", "cosine", "fused", "reranked"}
    assert "reranked" not in result.hits[-1].stages
    assert [h.score for h in result.hits] == sorted((h.score for h in result.hits), reverse=True)


async def test_the_reranker_sees_more_hits_than_are_returned() -> None:
    reranker = Scored(reversing)
    with world(Search(rerank_weight=1.0), reranker=reranker) as w:
        result = await w.searcher.search(Query(ASKED.text, k=1))
    assert reranker.seen[0][1] > 1
    assert len(result.hits) == 1


def raising(_: Sequence[Hit]) -> Scores:
    raise ValueError("no model")


def refusing(_: Sequence[Hit]) -> Scores:
    raise RerankError("the server is gone")


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        (raising, "no model"),
        (refusing, "the server is gone"),
        (lambda hits: np.full(len(hits), np.nan, np.float32), "no number"),
        (lambda hits: np.zeros(len(hits) - 1, np.float32), "shape"),
        (lambda hits: np.zeros((len(hits), 2), np.float32), "shape"),
        (lambda hits: None, "shape"),
        (lambda hits: ["good"] * len(hits), "something else than scores"),
    ],
)
async def test_a_failure_leaves_the_ranking_and_is_named(
    does: Callable[[Sequence[Hit]], Scores], reason: str
) -> None:
    plain = await unreranked()
    with world(reranker=Scored(does)) as w:
        result = await w.searcher.search(ASKED)
        assert w.trace.counters()["rerank.failed"] == 1
    assert ids(result) == ids(plain)
    assert len(result.degraded) == 1
    assert result.degraded[0].startswith("not reranked: ")
    assert reason in result.degraded[0]


@pytest.mark.parametrize("deadline", [None, 0.5])
async def test_a_reranker_that_hangs_is_not_waited_for(deadline: float | None) -> None:
    plain = await unreranked()
    reranker = Hanging()
    seconds = 0.02 if deadline is None else 60.0
    with world(Search(rerank_seconds=seconds), reranker=reranker) as w:
        result = await w.searcher.search(Query(ASKED.text, k=5, deadline=deadline))
        assert w.trace.counters()["rerank.failed"] == 1
    reranker.release.set()
    assert ids(result) == ids(plain)
    assert "gave no scores within" in result.degraded[0]


async def test_off_never_calls_the_reranker() -> None:
    reranker = Scored(reversing)
    with world(Search(rerank="off"), reranker=reranker) as w:
        await w.searcher.search(ASKED)
    assert reranker.seen == []


async def test_the_least_score_applies_to_reranked_scores() -> None:
    plain = await unreranked()
    least = plain.hits[1].score
    with world(reranker=Scored(lambda hits: np.ones(len(hits), np.float32))) as w:
        result = await w.searcher.search(Query(ASKED.text, k=5, min_score=least))
    assert result.hits
    assert all(hit.score >= least for hit in result.hits)


@pytest.mark.parametrize("together", [False, True])
async def test_maxsim_reranks_where_there_are_token_vectors(together: bool) -> None:
    settings = Search(rerank_depth=6, rerank_weight=1.0)
    with world(settings, source=Source(signed=True)) as w:
        # from the third one at once, a question continues on the embedding's thread
        searches = [w.searcher.search(Query("red apple", k=12)) for _ in range(1 + 4 * together)]
        result = (await asyncio.gather(*searches))[-1]
    first = result.hits[:6]
    scores = [hit.stages["reranked"] for hit in first]
    assert scores == sorted(scores, reverse=True)
    assert all("reranked" not in hit.stages for hit in result.hits[6:])
    assert result.degraded == ()


async def test_without_token_vectors_nothing_is_degraded() -> None:
    plain = await unreranked()
    with world() as w:
        result = await w.searcher.search(ASKED)
        assert "rerank.failed" not in w.trace.counters()
    assert ids(result) == ids(plain)
    assert result.degraded == ()


async def test_token_vectors_that_cannot_be_read_fail_nothing() -> None:
    plain = await unreranked()
    with world(source=Source(signed=True, broken_signs=True)) as w:
        result = await w.searcher.search(ASKED)
        assert w.trace.counters()["rerank.failed"] == 1
    assert ids(result) == ids(plain)
    assert "the signs are gone" in result.degraded[0]


async def test_an_unread_language_is_not_reranked_by_tokens() -> None:
    with world(source=Source(signed=True)) as w:
        result = await w.searcher.search(Query("花园里的苹果 apple"))
        assert w.embedder.calls == []
    assert all("reranked" not in hit.stages for hit in result.hits)


async def test_the_plan_decides_the_stages_but_for_what_the_settings_force() -> None:
    how = {"en": Fusion("keyword"), "": Fusion("dense")}
    planned = Stages(3, how, Rerank(2, 1.0))
    with world(source=Source(signed=True, stages=planned)) as w:
        result = await w.searcher.search(Query("apple", k=1, explain=True))
        assert result.stages["dense"].width == 3
        assert result.stages["rerank"].width == 2
    with world(Search(rerank="off"), source=Source(signed=True, stages=planned)) as w:
        result = await w.searcher.search(Query("red apple tree", k=1, explain=True))
        assert "rerank" not in result.stages
        assert result.hits[0].score == pytest.approx(1.0)  # keyword alone: the best has 1
    with world(Search(rerank="off", fusion="dense"), source=Source(stages=planned)) as w:
        result = await w.searcher.search(Query("red apple tree", k=1))
        assert result.hits[0].score == pytest.approx(result.hits[0].stages["cosine"])


async def test_token_vectors_are_made_where_the_plan_in_force_wants_them() -> None:
    source = Source(signed=True, stages=Stages(rerank=Rerank(0)))
    with world(source=source) as w:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(w.embedder, "embed_tokens", None)
            result = await w.searcher.search(ASKED)
            assert "reranked" not in result.hits[0].stages
            assert isinstance((await w.searcher.search_many([ASKED]))[0], SearchResult)
        source.stages = None
        result = await w.searcher.search(ASKED)
        assert "reranked" in result.hits[0].stages


@pytest.mark.parametrize("many", [False, True])
async def test_a_state_that_has_to_catch_up_is_searched_with_its_plan(many: bool) -> None:
    planned = Stages(3, {"": Fusion("dense")}, Rerank(2, 1.0))
    with world(source=Source(signed=True, stages=planned, behind=True)) as w:
        query = Query("red apple", k=1, explain=True)
        result = (await w.searcher.search_many([query]))[0] if many else None
        result = result or await w.searcher.search(query)
    assert isinstance(result, SearchResult)
    assert result.stages["dense"].width == 3
    assert result.stages["rerank"].width == 2


class Inline(Scored):
    """A `Reranker` that scores on the search thread."""

    async def score(self, query: Query, hits: Sequence[Hit]) -> Scores:
        raise AssertionError("it is called inline")

    def score_inline(self, question: str, hits: Sequence[Hit]) -> Scores:
        self.seen.append((question, threading.get_ident()))
        return self._do(hits)


async def test_a_quick_reranker_runs_on_the_search_thread() -> None:
    settings, awaited, quick = Search(rerank_depth=4, mmr=0.2), Scored(reversing), Inline(reversing)
    query = Query("red apple -teacher", k=8, min_score=0.1, explain=True)
    with world(settings, reranker=awaited) as w:
        expected = await w.searcher.search(query)
    with world(settings, reranker=quick) as w:
        result = await w.searcher.search(query)
        assert await w.searcher.search_many([query]) == [replace(result, stages=ANY)]
    assert result.hits == expected.hits
    assert result.stages.keys() == expected.stages.keys()
    assert {text for text, _ in quick.seen} == {"red apple"}
    assert threading.get_ident() not in {thread for _, thread in quick.seen}


async def test_a_quick_reranker_that_fails_is_skipped() -> None:
    plain = await unreranked()
    with world(reranker=Inline(raising)) as w:
        result = await w.searcher.search(ASKED)
        assert w.trace.counters()["rerank.failed"] == 1
    assert ids(result) == ids(plain)
    assert result.degraded == ("not reranked: ValueError('no model')",)
