"""The server as plain HTTP clients see it: search, errors, limits, health, metrics."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from tests.server.conftest import TEXTS, Serve
from tests.server.live import HEAD, WAIT, Live, Stub, one_then_silence, silence, tokens
from vivace import errors
from vivace.server.errors import TABLE, reply
from vivace.types import Delta, Query, SearchResult

ASKED = {"messages": [{"role": "user", "content": "lunch?"}]}
MIB = 1 << 20
JSON = {"content-type": "application/json"}


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.address, timeout=30, headers=JSON) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, str | None]:
    value: dict[str, dict[str, str | None]] = response.json()
    assert set(value) == {"error"}
    assert set(value["error"]) == {"message", "type", "param", "code"}
    assert response.headers["content-type"] == "application/json"
    return value["error"]


class TestSearch:
    def test_hits_with_stages(self, http: httpx.Client) -> None:
        found = http.post("/v1/search", json={"query": "notice period", "k": 1}).json()
        assert set(found) == {"hits", "epoch", "degraded"}
        hit = found["hits"][0]
        assert set(hit["stages"]) == {"bm25", "cosine", "fused", "reranked"}
        assert TEXTS["leave.md"][hit["start"] : hit["end"]] == hit["text"]
        assert hit["source"].endswith("leave.md")
        assert hit["score"] > 0

    def test_filters_and_minimum(self, http: httpx.Client) -> None:
        body = {"query": "notice period", "min_score": 5.0, "model": "handbook"}
        assert http.post("/v1/search", json=body).json()["hits"] == []
        filters = {"$source": {"$in": ["nowhere"]}}
        body = {"query": "notice", "filters": filters}
        assert http.post("/v1/search", json=body).json()["hits"] == []

    @pytest.mark.parametrize(
        ("body", "status", "code", "param"),
        [
            (b"{", 400, "bad_request", None),
            (b"\xff\xfe", 400, "bad_request", None),
            (b"[]", 400, "bad_request", None),
            (b"", 400, "bad_request", None),
            (b'{"query": 1}', 400, "bad_request", "query"),
            (b'{"query": "a", "top": 1}', 400, "bad_request", None),
            (b'{"query": "a", "k": 0}', 400, "bad_request", "k"),
            (b'{"query": "a", "k": 100000000}', 400, "bad_request", "k"),
            (b'{"query": "  "}', 400, "bad_query", None),
            (b'{"query": "a", "filters": {"no": 1}}', 400, "bad_filter", None),
            (b'{"query": "a", "model": "x"}', 404, "model_not_found", "model"),
            (b'{"query": "%b"}' % (b"a" * 30_000), 400, "bad_query", None),
        ],
    )
    def test_errors(
        self, http: httpx.Client, body: bytes, status: int, code: str, param: str | None
    ) -> None:
        response = http.post("/v1/search", content=body)
        assert response.status_code == status
        error = error_of(response)
        assert (error["code"], error["param"]) == (code, param)
        assert error["message"]


def test_paths_and_methods_that_do_not_exist(http: httpx.Client) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("GET", "/v1/search", 405),
        ("POST", "/healthz", 405),
        ("POST", "/v1/models", 405),
    ):
        response = http.request(method, path)
        assert response.status_code == status
        error_of(response)


class TestBodyLimit:
    def test_announced(self, http: httpx.Client) -> None:
        response = http.post("/v1/search", content=b" " * (MIB + 1))
        assert response.status_code == 413
        assert error_of(response)["code"] == "body_too_large"
        assert response.headers["connection"] == "close"
        assert http.get("/healthz").status_code == 200

    def test_announced_is_refused_before_it_is_sent(self, live: Live) -> None:
        host, port = live.address.removeprefix("http://").split(":")
        head = HEAD % (b"/v1/search", 9999999999999)
        with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
            connection.sendall(head)
            assert connection.recv(64).startswith(b"HTTP/1.1 413")

    def test_chunked(self, http: httpx.Client) -> None:
        def chunks() -> Iterator[bytes]:
            for _ in range(MIB // 1000 + 2):
                yield b" " * 1000

        response = http.post("/v1/chat/completions", content=chunks())
        assert response.status_code == 413

    def test_a_full_body_is_read(self, http: httpx.Client) -> None:
        body = json.dumps({"query": "lunch"}).encode()
        response = http.post("/v1/search", content=body + b" " * (MIB - len(body)))
        assert response.status_code == 200


class TestAbandoned:
    """A client that goes stops the work done for it, and leaves no task behind."""

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("script", [silence, one_then_silence])
    def test_the_work_stops(
        self, serve: Serve, script: Callable[..., AsyncIterator[Delta]], stream: bool
    ) -> None:
        stub = Stub(script)
        running = serve(stub)
        before = running.tasks()
        host, port = running.address.removeprefix("http://").split(":")
        body = json.dumps({**ASKED, "stream": stream}).encode()
        head = HEAD % (b"/v1/chat/completions", len(body))
        with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
            connection.sendall(head + body)
            assert stub.started.wait(WAIT)
            assert not stub.stopped.is_set()
        assert stub.stopped.wait(WAIT)
        running.idle()
        assert running.tasks() <= before
        assert running.state.trace.counters() == {"clients.gone": 1}

    def test_half_a_body(self, serve: Serve) -> None:
        running = serve()
        host, port = running.address.removeprefix("http://").split(":")
        head = HEAD % (b"/v1/search", 10) + b"{"
        with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
            connection.sendall(head)
            assert running.state.trace is not None
            with httpx.Client() as client:
                assert client.get(f"{running.address}/healthz").status_code == 200
        running.idle()


def failing(error: Exception, *pieces: str) -> Stub:
    async def script(stub: Stub, query: Query, result: SearchResult) -> AsyncIterator[Delta]:
        for piece in pieces:
            yield Delta(piece)
        raise error

    return Stub(script)


class TestFailures:
    @pytest.mark.parametrize("stream", [False, True])
    def test_before_the_first_byte_a_failure_has_its_status(
        self, serve: Serve, stream: bool
    ) -> None:
        error = errors.ModelRefused("the model server is busy", status=429, retry_after=1.5)
        running = serve(failing(error))
        url = f"{running.address}/v1/chat/completions"
        response = httpx.post(url, json={**ASKED, "stream": stream})
        assert response.status_code == 429
        assert response.headers["retry-after"] == "2"
        assert response.headers["retry-after-ms"] == "1500"
        assert error_of(response)["type"] == "rate_limit_error"

    def test_after_the_first_byte_an_event_carries_the_error(self, serve: Serve) -> None:
        running = serve(failing(errors.StreamCut("the model server hung up"), "one"))
        url = f"{running.address}/v1/chat/completions"
        response = httpx.post(url, json={**ASKED, "stream": True})
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        events = [line[6:] for line in response.text.splitlines() if line]
        assert "[DONE]" not in events
        assert json.loads(events[-1])["error"]["code"] == "stream_cut"
        assert httpx.post(url, json=ASKED).status_code == 502
        assert running.state.trace.counters() == {"errors.stream_cut": 2}

    def test_unexpected_errors_are_counted_and_logged_but_hidden(
        self, serve: Serve, caplog: pytest.LogCaptureFixture
    ) -> None:
        running = serve(failing(ZeroDivisionError("secret path /etc/x")))
        for stream in (False, True):
            response = httpx.post(
                f"{running.address}/v1/chat/completions", json={**ASKED, "stream": stream}
            )
            assert response.status_code == 500
            assert "secret" not in response.text
            assert error_of(response)["code"] == "internal_error"
        assert running.state.trace.counters() == {"errors.internal_error": 2}
        assert "secret path" in caplog.text

    def test_an_unexpected_error_in_midstream_cuts_the_connection(self, serve: Serve) -> None:
        running = serve(failing(ZeroDivisionError("secret"), "one"))
        url = f"{running.address}/v1/chat/completions"
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(url, json={**ASKED, "stream": True})

    def test_every_error_class_has_a_row(self) -> None:
        """Or a base of its own kind has: none falls through to the root's."""
        for error in vars(errors).values():
            if (
                isinstance(error, type)
                and issubclass(error, errors.VivaceError)
                and error is not errors.VivaceError
            ):
                nearest = next(base for base in error.__mro__ if base in TABLE)
                assert nearest is not errors.VivaceError, error

    @pytest.mark.parametrize(
        ("error", "status", "retried"),
        [
            (errors.ModelRefused("x", status=503), 503, b"retry-after"),
            (errors.ModelRefused("x", status=401), 502, b"x-should-retry"),
            (errors.ModelTimeout("x"), 504, b"x-should-retry"),
            (errors.EmbeddingError("x"), 503, b"retry-after"),
            (errors.StoreUnwritable("/home/me: full"), 507, b""),
            (KeyError("x"), 500, b""),
        ],
    )
    def test_replies(self, error: Exception, status: int, retried: bytes) -> None:
        answer = reply(error)
        assert answer.status == status
        assert (answer.headers[0][0] if answer.headers else b"") == retried
        assert b"/home" not in answer.body


def test_heartbeats(serve: Serve) -> None:
    running = serve(Stub(silence), heartbeat=0.01)
    url = f"{running.address}/v1/chat/completions"
    with httpx.stream("POST", url, json={**ASKED, "stream": True}, timeout=WAIT) as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(4)] == [": waiting", "", ": waiting", ""]
    running.idle()


def test_a_client_that_reads_nothing_is_dropped(serve: Serve) -> None:
    async def flood(stub: Stub, query: Query, result: SearchResult) -> AsyncIterator[Delta]:
        while True:
            yield Delta("x" * 100_000)

    stub = Stub(flood)
    running = serve(stub, heartbeat=0.2)
    host, port = running.address.removeprefix("http://").split(":")
    body = json.dumps({**ASKED, "stream": True}).encode()
    head = HEAD % (b"/v1/chat/completions", len(body))
    with socket.create_connection((host, int(port)), timeout=WAIT) as connection:
        connection.sendall(head + body)
        assert stub.stopped.wait(WAIT)
        running.idle()


def test_health_and_readiness(live: Live, http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    ready = http.get("/readyz")
    assert (ready.status_code, ready.json()["collections"]) == (200, ["handbook"])
    live.state.ready = False
    try:
        assert http.get("/readyz").status_code == 503
    finally:
        live.state.ready = True


def test_metrics(serve: Serve) -> None:
    running = serve(Stub(tokens))
    with httpx.Client(base_url=running.address) as client:
        client.post("/v1/search", json={"query": "lunch"})
        client.post("/v1/search", json={"query": ""})
        client.post("/v1/chat/completions", json={**ASKED, "stream": True})
        client.get('/v1/models/"no%0Abody')
        client.get("/users/mary")
        text = client.get("/metrics").text
    assert 'vivace_http_request_seconds_count{route="/v1/search",status="2xx"} 1' in text
    assert 'vivace_http_request_seconds_count{route="/v1/search",status="4xx"} 1' in text
    assert 'route="/v1/models/{name}",status="4xx"' in text
    assert 'route="other",status="4xx"' in text
    assert 'vivace_span_seconds_count{span="first_token"} 1' in text
    assert 'vivace_events_total{event="errors.bad_query"} 1' in text
    assert "vivace_http_requests_running 1" in text
    for word in ("lunch", "mary", "body"):
        assert word not in text
    for line in text.splitlines():
        assert re.fullmatch(r"#.*|\w+(\{[^{}]*(\{name\})?[^{}]*\})? [0-9.e+-]+", line), line
    buckets = re.findall(
        r'request_seconds_bucket\{route="/v1/search",status="2xx",le="([^"]+)"\} (\d+)', text
    )
    bounds = [float(bound) for bound, _ in buckets]
    assert bounds == sorted(bounds)
    assert [int(count) for _, count in buckets] == sorted(int(count) for _, count in buckets)


@pytest.mark.parametrize("path", ["/v1/search", "/v1/chat/completions", "/v1/embeddings"])
def test_a_body_nested_too_deeply_is_the_clients_fault(http: httpx.Client, path: str) -> None:
    deep = b'{"filters":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001
    response = http.post(path, content=deep)
    assert response.status_code == 400
    assert "nested too deeply" in (error_of(response)["message"] or "")


def test_openapi(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()
    assert {"/v1/search", "/v1/chat/completions", "/v1/embeddings", "/readyz"} <= set(
        schema["paths"]
    )
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(schema)))
    assert references <= set(schema["components"]["schemas"])
    assert http.get("/openapi.json").json() == schema


class TestStopping:
    def test_running_answers_are_finished(self, serve: Serve) -> None:
        async def held(stub: Stub, query: Query, result: SearchResult) -> AsyncIterator[Delta]:
            running.stop()
            async for delta in tokens(stub, query, result):
                yield delta

        running = serve(Stub(held))
        url = f"{running.address}/v1/chat/completions"
        response = httpx.post(url, json={**ASKED, "stream": True})
        assert response.text.endswith("data: [DONE]\n\n")
        running.thread.join(WAIT)
        assert not running.thread.is_alive()

    @pytest.mark.parametrize("stream", [False, True])
    def test_answers_still_running_after_the_drain_time_are_cut(
        self, serve: Serve, stream: bool
    ) -> None:
        stub = Stub(silence)
        running = serve(stub)

        def stop() -> None:
            assert stub.started.wait(WAIT)
            running.stop()

        stopper = threading.Thread(target=stop)
        stopper.start()
        url = f"{running.address}/v1/chat/completions"
        response = httpx.post(url, json={**ASKED, "stream": stream}, timeout=WAIT)
        stopper.join()
        assert response.status_code == 503
        assert error_of(response)["code"] == "shutting_down"
        running.thread.join(WAIT)
        assert not running.thread.is_alive()
        assert stub.stopped.is_set()
