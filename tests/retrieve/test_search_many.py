"""Many questions at once, and the explanation of a search."""

from __future__ import annotations

import numpy as np
import pytest

from tests.retrieve.world import TEXTS, Scored, Source, world
from vivace.errors import BadFilter, BadQuery, BadVectors, DeadlineExceeded
from vivace.settings import Search
from vivace.types import Query, SearchResult, Vector

QUESTIONS = [Query(text, k=3) for text in (*TEXTS, "花园", "old machine")] * 3


def same(result: object, other: SearchResult) -> None:
    assert isinstance(result, SearchResult)
    assert [h.chunk.id for h in result.hits] == [h.chunk.id for h in other.hits]
    assert [h.score for h in result.hits] == pytest.approx([h.score for h in other.hits], abs=1e-5)
    assert result.degraded == other.degraded


@pytest.mark.parametrize("signed", [False, True])
async def test_results_are_those_of_single_searches_in_order(signed: bool) -> None:
    with world(source=Source(signed=signed)) as w:
        results = await w.searcher.search_many(QUESTIONS)
        assert len(results) == len(QUESTIONS)
        for query, result in zip(QUESTIONS, results, strict=True):
            same(result, await w.searcher.search(query))


async def test_all_are_embedded_and_searched_by_one_call_each() -> None:
    with world() as w:
        await w.searcher.search_many(QUESTIONS)
        read = [query.text for query in QUESTIONS if query.text.isascii()]
        assert w.embedder.calls == [read]
        assert w.source.dense_calls == [(len(read), False)]


async def test_filtered_questions_are_searched_alone() -> None:
    filtered = Query("red apple", filters={"odd": True})
    with world() as w:
        results = await w.searcher.search_many([*QUESTIONS[:4], filtered])
        same(results[-1], await w.searcher.search(filtered))
        assert w.source.dense_calls[:2] == [(4, False), (1, False)]
        assert isinstance(results[-1], SearchResult)
        assert all(hit.chunk.id % 2 for hit in results[-1].hits)


async def test_one_failure_does_not_lose_the_others() -> None:
    short: Vector = np.ones(3, np.float32)
    bad: list[Query] = [
        Query(""),
        Query("red", k=0),
        Query("red", filters={"x": 1}),
        Query("red", vector=short),
        Query("red", deadline=0.0),
    ]
    queries = [one for pair in zip(QUESTIONS, bad, strict=False) for one in pair]
    with world() as w:
        results = await w.searcher.search_many(queries)
        good = results[::2]
        for query, result in zip(queries[::2], good, strict=True):
            same(result, await w.searcher.search(query))
        kinds = [type(result) for result in results[1::2]]
    assert kinds[:3] == [BadQuery, BadQuery, BadFilter]
    assert issubclass(kinds[3], BadVectors)
    assert kinds[4] is DeadlineExceeded


async def test_a_question_that_cannot_be_embedded_is_searched_by_its_words() -> None:
    with world() as w:
        results = await w.searcher.search_many([QUESTIONS[0], Query("poison apple"), QUESTIONS[1]])
        assert all(isinstance(result, SearchResult) for result in results)
        degraded = [result.degraded for result in results if isinstance(result, SearchResult)]
        assert degraded == [(), ("dense side skipped: it is poisoned",), ()]
        assert w.trace.counters()["search.embedding_failed"] == 1


async def test_no_questions_give_no_results() -> None:
    with world() as w:
        assert await w.searcher.search_many([]) == []
        assert w.embedder.calls == []


async def test_a_reranker_sees_each_question() -> None:
    reranker = Scored(lambda hits: np.arange(len(hits), dtype=np.float32))
    with world(Search(rerank_weight=1.0), reranker=reranker) as w:
        results = await w.searcher.search_many(QUESTIONS[:3])
        assert [text for text, _ in reranker.seen] == [query.text for query in QUESTIONS[:3]]
        for query, result in zip(QUESTIONS[:3], results, strict=True):
            same(result, await w.searcher.search(query))


async def test_an_explained_search_names_its_stages() -> None:
    with world(Search(rerank_depth=5), source=Source(signed=True)) as w:
        result = await w.searcher.search(Query("red apple", k=4, explain=True))
        spans = w.trace.histograms().keys()
    stages = result.stages
    assert stages.keys() == {"embed", "keyword", "dense", "fuse", "rerank", "fetch"}
    assert stages.keys() <= spans
    assert stages["dense"].width == len(TEXTS)
    assert stages["rerank"].width == 5
    assert stages["rerank"].bytes > 0
    assert stages["fetch"].width == 4
    assert stages["fetch"].bytes == sum(len(hit.chunk.text) for hit in result.hits)
    assert all(stage.ms >= 0 for stage in stages.values())
    assert set(result.hits[0].stages) == {"bm25", "cosine", "fused", "reranked"}


async def test_other_searches_explain_nothing() -> None:
    with world() as w:
        assert (await w.searcher.search(Query("red apple"))).stages == {}
