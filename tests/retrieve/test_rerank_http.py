"""Rerankers behind the wire, asked of a real server on this machine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.model_server import WAIT, ModelServerDouble, Reply, rerank
from vivace.engine import Engine
from vivace.errors import BadSettings, RerankError
from vivace.retrieve.rerankers import http
from vivace.retrieve.rerankers.http import HttpReranker
from vivace.run import work
from vivace.run.model_servers import ModelServer
from vivace.settings import Remote, load
from vivace.types import Chunk, Document, Hit, Query, SearchResult

QUESTION = Query("green grass")


def hits(*texts: str) -> list[Hit]:
    return [Hit(Chunk("d", text, id=at), 1.0) for at, text in enumerate(texts)]


@pytest.fixture
def fake() -> Iterator[ModelServerDouble]:
    with ModelServerDouble() as fake:
        yield fake


def reranker(fake: ModelServerDouble, fragment: str = "", **remote: Any) -> HttpReranker:
    return HttpReranker(ModelServer("bge", fake.url, fragment), Remote(**{"retries": 0, **remote}))


async def test_scores_in_the_order_of_the_hits(fake: ModelServerDouble) -> None:
    model = reranker(fake, api_key="hush", batch=2)
    try:
        found = await model.score(
            QUESTION, hits("a stone", "green grass", "", "grass \ud800", "the sea")
        )
        assert found.dtype == np.float32
        assert found.tolist() == [0, 2, 0, 1, 0]
        assert model.name == "rerank:bge"
        bodies = [received.body for received in fake.requests]
        assert [len(body["documents"]) for body in bodies] == [2, 2]
        assert all(
            (body["model"], body["top_n"], body["return_documents"]) == ("bge", 2, False)
            for body in bodies
        )
        assert model.server_statistics().servers[0].succeeded == 2
        assert (await model.score(QUESTION, [])).shape == (0,)
        assert (await model.score(QUESTION, hits(" ", ""))).tolist() == [0, 0]
        assert len(fake.requests) == 2
    finally:
        await model.close()


async def test_a_blank_passage_has_the_lowest_score(fake: ModelServerDouble) -> None:
    fake.answer = lambda body: {"results": [{"index": 0, "relevance_score": -3.5}]}
    model = reranker(fake)
    try:
        assert (await model.score(QUESTION, hits("", "x"))).tolist() == [-3.5, -3.5]
    finally:
        await model.close()


async def test_text_embeddings_inference(fake: ModelServerDouble) -> None:
    model = reranker(fake, "tei")
    try:
        assert (await model.score(QUESTION, hits("a", "green grass"))).tolist() == [0, 2]
        assert fake.requests[0].body["truncate"] is True
        assert "documents" not in fake.requests[0].body
    finally:
        await model.close()
    with pytest.raises(BadSettings, match="no kind of server"):
        reranker(fake, "other")


async def test_what_is_too_long_is_cut(fake: ModelServerDouble) -> None:
    model = reranker(fake)
    try:
        await model.score(Query("q" * 50_000), hits("p" * 50_000))
        assert len(fake.requests[0].body["query"]) == http.QUESTION_CHARS
        assert len(fake.requests[0].body["documents"][0]) == http.PASSAGE_CHARS
    finally:
        await model.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"<html>busy</html>", "holds no scores"),
        (b"", "holds no scores"),
        (b'{"results": [{"index": 0, "relevance_score": NaN}]}', "holds no scores"),
        ([{"index": 0, "score": 1}, {"index": 1, "score": 1e300}], "is no number"),
        (b'[{"index": 0, "score": 1}, {"index": 1, "score": 1e999}]', ""),
        ([{"index": 0, "score": 1}, {"index": 1}], "is no number"),
        ([{"index": 0, "score": 1}, {"index": 1, "score": None}], "is no number"),
        ([{"index": 0, "score": 1}, {"score": 1}], "holds no scores"),
        ([{"index": 0, "score": 1}], "1 scores of 1 documents for 2"),
        ([{"index": 0, "score": 1}, {"index": 0, "score": 1}], "2 scores of 1 documents for 2"),
        ([{"index": 0, "score": 1}, {"index": 2, "score": 1}], "for 2"),
        ([{"index": 0, "score": 1}, {"index": -1, "score": 1}], "for 2"),
        ([{"index": 0, "score": 1}, {"index": 1, "score": "high"}], "holds no scores"),
        ({"error": "no such model"}, "holds no scores"),
        (500, "status 500"),
        (401, "status 401"),
        (422, "#tei"),
    ],
)
async def test_what_are_no_scores(fake: ModelServerDouble, answer: Any, said: str) -> None:
    if isinstance(answer, int):
        fake.always = Reply(answer, "no, Bearer hush, missing field `texts`")
    else:
        fake.answer = lambda _: answer
    model = reranker(fake, api_key="hush")
    try:
        with pytest.raises(RerankError) as raised:
            await model.score(QUESTION, hits("a", "b"))
        assert said in str(raised.value)
        assert "rerank:bge" in str(raised.value)
        assert "hush" not in str(raised.value)
        assert len(fake.requests) == 1
    finally:
        await model.close()


async def test_a_search_waits_no_longer_than_its_own_time(fake: ModelServerDouble) -> None:
    fake.always = Reply(hang=True)
    patient = reranker(fake, seconds=600, retries=9, query_seconds=0.05)
    try:
        with pytest.raises(RerankError, match=r"no scores in 0.05 s"):
            await patient.score(QUESTION, hits("a"))
        with work.work_context(seconds=0.01), pytest.raises(RerankError, match=r"no scores in 0"):
            await patient.score(QUESTION, hits("a"))
    finally:
        await patient.close()


async def test_a_search_reranked_over_the_wire(fake: ModelServerDouble) -> None:
    """And what it does without, when the server is gone."""

    def last_first(body: dict[str, Any]) -> Any:
        count = len(body["documents"])
        return {"results": [{"index": n, "relevance_score": float(n)} for n in range(count)]}

    settings = load(search={"rerank": f"bge@{fake.url}", "rerank_weight": 1.0}, remote__retries=0)
    async with Engine(settings) as engine:
        assert engine.resources.reranker is not None
        docs = await engine.open("wire")
        await docs.add([Document("a", "Green grass."), Document("b", "Grass grows on a stone.")])
        fake.replies = [Reply(500)]
        before = await docs.search("green grass")
        assert [hit.chunk.document_id for hit in before.hits] == ["a", "b"]
        assert "rerank:bge" in before.degraded[0]
        fake.answer = last_first
        after = await docs.search("green grass")
        assert [hit.chunk.document_id for hit in after.hits] == ["b", "a"]
        assert after.degraded == ()
        assert after.hits[0].stages["reranked"] == 1.0


async def test_a_server_that_hangs_is_left_alone_and_tried_again(fake: ModelServerDouble) -> None:
    """Three searches wait their share for it, the others do not."""
    settings = load(
        search={"rerank": f"bge@{fake.url}", "rerank_seconds": 0.1},
        remote__retries=0,
        cache__memory_mib=0,
    )
    async with Engine(settings) as engine:
        docs = await engine.open("hanging")
        await docs.add([Document("a", "Green grass."), Document("b", "Grass grows on a stone.")])
        fake.always = Reply(hang=True)
        waited = []
        for _ in range(10):
            start = time.perf_counter()
            result = await docs.search("green grass")
            waited.append(time.perf_counter() - start)
            assert len(result.hits) == 2
        assert min(waited[:3]) >= 0.1
        assert float(np.median(waited[3:])) < 0.1
        assert "left alone" in result.degraded[0]
        assert len(fake.requests) == 3
        assert docs.trace.counters()["rerank.skipped"] == 7
        fake.always = None
        async with asyncio.timeout(WAIT):  # the first pause takes a second at most
            while (again := await docs.search("green grass")).degraded:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # only time ends the pause
        assert "reranked" in again.hits[0].stages


async def test_many_questions_are_asked_of_a_server_together(fake: ModelServerDouble) -> None:
    threes = threading.Barrier(3)

    def in_threes(body: dict[str, Any]) -> Any:
        threes.wait(WAIT)
        return rerank(body)

    fake.answer = in_threes
    settings = load(
        search={"rerank": f"bge@{fake.url}"}, remote__concurrency=3, cache__memory_mib=0
    )
    async with Engine(settings) as engine:
        docs = await engine.open("together")
        await docs.add([Document("a", "Green grass."), Document("b", "Grass grows on a stone.")])
        found = await docs.search_many([f"green grass {n}" for n in range(9)])
    assert (len(fake.requests), fake.most_running) == (9, 3)
    for one in found:
        assert isinstance(one, SearchResult)
        assert one.degraded == ()
        assert "reranked" in one.hits[0].stages
