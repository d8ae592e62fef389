"""Rerankers behind the wire, asked of a real server on this machine."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from vivace.engine import Engine
from vivace.errors import BadSettings, RerankError
from vivace.retrieve.rerankers import http
from vivace.retrieve.rerankers.http import HttpReranker
from vivace.run import work
from vivace.run.breaker import BreakerState
from vivace.run.model_servers import ModelServer
from vivace.settings import Remote, load
from vivace.types import Chunk, Document, Hit, Query, SearchResult

QUESTION = Query("green grass")


def hits(*texts: str) -> list[Hit]:
    return [Hit(Chunk("d", text, id=at), 1.0) for at, text in enumerate(texts)]


def shared(question: str, texts: list[str]) -> list[dict[str, Any]]:
    """Shared words, the best document first, as the servers answer."""
    words = set(question.split())
    rows = [
        {"index": at, "relevance_score": float(len(words & set(text.split())))}
        for at, text in enumerate(texts)
    ]
    return sorted(rows, key=lambda row: -row["relevance_score"])


class Fake:
    """A /rerank server. `answer` makes the body of the request's JSON, or the status of a refusal;
    while `hangs`, it says nothing."""

    def __init__(self, answer: Callable[[dict[str, Any]], Any]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.arrived = threading.Event()
        self.free = threading.Event()
        self.free.set()
        fake = self

        class Wire(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.requests.append(body)
                fake.paths.append(self.path)
                fake.keys.append(self.headers["Authorization"])
                fake.arrived.set()
                fake.free.wait(30)
                said = fake.answer(body)
                status = said if isinstance(said, int) else 200
                if status != 200:
                    said = f"no, {self.headers['Authorization']}, missing field `texts`"
                data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # given up by the client, which is what is tested

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Wire)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def stop(self) -> None:
        self.free.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def good(body: dict[str, Any]) -> Any:
    return {"model": body["model"], "results": shared(body["query"], body["documents"])}


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake(good)
    yield fake
    fake.stop()


def reranker(fake: Fake, fragment: str = "", **remote: Any) -> HttpReranker:
    return HttpReranker(ModelServer("bge", fake.url, fragment), Remote(**{"retries": 0, **remote}))


async def test_scores_in_the_order_of_the_hits(fake: Fake) -> None:
    model = reranker(fake, api_key="hush", batch=2)
    try:
        found = await model.score(
            QUESTION, hits("a stone", "green grass", "", "grass \ud800", "the sea")
        )
        assert found.dtype == np.float32
        assert found.tolist() == [0, 2, 0, 1, 0]
        assert model.name == "rerank:bge"
        assert fake.paths == ["/v1/rerank"] * 2
        assert set(fake.keys) == {"Bearer hush"}
        sizes = sorted(len(body["documents"]) for body in fake.requests)
        assert sizes == [2, 2]
        assert all(
            (body["model"], body["top_n"], body["return_documents"]) == ("bge", 2, False)
            for body in fake.requests
        )
        assert model.server_statistics().servers[0].succeeded == 2
        assert (await model.score(QUESTION, [])).shape == (0,)
        assert (await model.score(QUESTION, hits(" ", ""))).tolist() == [0, 0]
        assert len(fake.requests) == 2
    finally:
        await model.close()
    await model.close()
    with pytest.raises(RerankError, match="is closed"):
        await model.score(QUESTION, hits("x"))


async def test_a_blank_passage_has_the_lowest_score(fake: Fake) -> None:
    fake.answer = lambda body: {"results": [{"index": 0, "relevance_score": -3.5}]}
    model = reranker(fake)
    try:
        assert (await model.score(QUESTION, hits("", "x"))).tolist() == [-3.5, -3.5]
    finally:
        await model.close()


async def test_text_embeddings_inference(fake: Fake) -> None:
    fake.answer = lambda body: [
        {"index": row["index"], "score": row["relevance_score"]}
        for row in shared(body["query"], body["texts"])
    ]
    model = reranker(fake, "tei")
    try:
        assert (await model.score(QUESTION, hits("a", "green grass"))).tolist() == [0, 2]
        assert fake.requests[0]["truncate"] is True
        assert "documents" not in fake.requests[0]
    finally:
        await model.close()
    with pytest.raises(BadSettings, match="no kind of server"):
        reranker(fake, "other")


async def test_what_is_too_long_is_cut(fake: Fake) -> None:
    model = reranker(fake)
    try:
        await model.score(Query("q" * 50_000), hits("p" * 50_000))
        assert len(fake.requests[0]["query"]) == http.QUESTION_CHARS
        assert len(fake.requests[0]["documents"][0]) == http.PASSAGE_CHARS
    finally:
        await model.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("<html>busy</html>", "holds no scores"),
        ("", "holds no scores"),
        ('{"results": [{"index": 0, "relevance_score": NaN}]}', "holds no scores"),
        ([{"index": 0, "score": 1}, {"index": 1, "score": 1e300}], "is no number"),
        ('[{"index": 0, "score": 1}, {"index": 1, "score": 1e999}]', ""),
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
async def test_what_are_no_scores(fake: Fake, answer: Any, said: str) -> None:
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


async def test_an_answer_without_end(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY", 1 << 20)
    fake.answer = lambda _: " " * (2 << 20)
    model = reranker(fake)
    try:
        with pytest.raises(RerankError, match="more than 1 MiB"):
            await model.score(QUESTION, hits("a"))
    finally:
        await model.close()


async def test_a_server_that_hangs(fake: Fake) -> None:
    fake.free.clear()
    model = reranker(fake, seconds=0.05)
    try:
        with pytest.raises(RerankError, match=r"no answer in 0.05 s"):
            await model.score(QUESTION, hits("a"))
    finally:
        await model.close()
    patient = reranker(fake, seconds=600, retries=9, query_seconds=0.05)
    try:
        with pytest.raises(RerankError, match=r"no scores in 0.05 s"):
            await patient.score(QUESTION, hits("a"))
        with work.work_context(seconds=0.01), pytest.raises(RerankError, match=r"no scores in 0"):
            await patient.score(QUESTION, hits("a"))
    finally:
        await patient.close()


async def test_cancelling_and_closing_give_the_place_back(fake: Fake) -> None:
    fake.free.clear()
    model = reranker(fake)
    task = asyncio.create_task(model.score(QUESTION, hits("a")))
    await asyncio.to_thread(fake.arrived.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    fake.arrived.clear()
    other = asyncio.create_task(model.score(QUESTION, hits("a")))
    await asyncio.to_thread(fake.arrived.wait, 10)
    await model.close()
    with pytest.raises(RerankError, match="is closed"):
        await other
    assert model.server_statistics().servers[0].in_use == 0


async def test_another_try_and_another_server(fake: Fake) -> None:
    bad = Fake(lambda _: 500)
    try:
        several = [ModelServer("bge", bad.url), ModelServer("bge", fake.url)]
        model = HttpReranker(several, Remote(retries=1))
        try:
            for _ in range(6):
                assert (await model.score(QUESTION, hits("grass"))).tolist() == [1]
            first, second = model.server_statistics().servers
            assert second.succeeded == 6
            assert first.state in (BreakerState.CLOSED, BreakerState.OPEN)
            assert first.in_use == second.in_use == 0
        finally:
            await model.close()
    finally:
        bad.stop()


async def test_servers_that_are_down_are_left_alone(fake: Fake) -> None:
    fake.answer = lambda _: 500
    model = reranker(fake)
    try:
        for _ in range(5):
            with pytest.raises(RerankError, match="status 500"):
                await model.score(QUESTION, hits("a"))
        with pytest.raises(RerankError, match="every server"):
            await model.score(QUESTION, hits("a"))
        assert len(fake.requests) == 5
    finally:
        await model.close()


async def test_a_search_reranked_over_the_wire(fake: Fake) -> None:
    """And what it does without, when the server is gone."""

    def last_first(body: dict[str, Any]) -> Any:
        count = len(body["documents"])
        return {"results": [{"index": n, "relevance_score": float(n)} for n in range(count)]}

    settings = load(search={"rerank": f"bge@{fake.url}", "rerank_weight": 1.0}, remote__retries=0)
    async with Engine(settings) as engine:
        assert engine.resources.reranker is not None
        docs = await engine.open("wire")
        await docs.add([Document("a", "Green grass."), Document("b", "Grass grows on a stone.")])
        fake.answer = lambda _: 500
        before = await docs.search("green grass")
        assert [hit.chunk.document_id for hit in before.hits] == ["a", "b"]
        assert "rerank:bge" in before.degraded[0]
        fake.answer = last_first
        after = await docs.search("green grass")
        assert [hit.chunk.document_id for hit in after.hits] == ["b", "a"]
        assert after.degraded == ()
        assert after.hits[0].stages["reranked"] == 1.0


async def test_a_server_that_hangs_is_left_alone_and_tried_again(fake: Fake) -> None:
    """Three searches wait their share for it, the others do not."""
    settings = load(
        search={"rerank": f"bge@{fake.url}", "rerank_seconds": 0.1},
        remote__retries=0,
        cache__memory_mib=0,
    )
    async with Engine(settings) as engine:
        docs = await engine.open("hanging")
        await docs.add([Document("a", "Green grass."), Document("b", "Grass grows on a stone.")])
        fake.free.clear()
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
        fake.free.set()
        await asyncio.sleep(1.05)  # the first pause is over
        again = await docs.search("green grass")
        assert again.degraded == ()
        assert "reranked" in again.hits[0].stages


async def test_many_questions_are_asked_of_a_server_together(fake: Fake) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def slowly(body: dict[str, Any]) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return good(body)

    fake.answer = slowly
    settings = load(
        search={"rerank": f"bge@{fake.url}"}, remote__concurrency=3, cache__memory_mib=0
    )
    async with Engine(settings) as engine:
        docs = await engine.open("together")
        await docs.add([Document("a", "Green grass."), Document("b", "Grass grows on a stone.")])
        found = await docs.search_many([f"green grass {n}" for n in range(9)])
    assert len(fake.requests) == 9
    assert 1 < most <= 3
    for one in found:
        assert isinstance(one, SearchResult)
        assert one.degraded == ()
        assert "reranked" in one.hits[0].stages
