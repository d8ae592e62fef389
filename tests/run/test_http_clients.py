"""The rules of the HTTP transport, for each of its three clients: chat, embeddings, rerank."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest

from tests.support.model_server import DIM, WAIT, ModelServerDouble, Reply
from tests.support.wires import Proxy
from vivace.embed import openai as embed_openai
from vivace.embed.openai import OpenAIEmbedder
from vivace.errors import EmbeddingError, GenerationError, RerankError, VivaceError
from vivace.generate import openai as generate_openai
from vivace.generate.openai import OpenAI
from vivace.retrieve.rerankers import http as rerank_http
from vivace.retrieve.rerankers.http import HttpReranker
from vivace.run.breaker import BreakerState, Tolerance
from vivace.run.model_servers import ModelServer
from vivace.settings import Generate, Remote
from vivace.types import Chunk, Hit, Message, Query

Client: TypeAlias = OpenAI | OpenAIEmbedder | HttpReranker
KEY = "sk-" + "0123456789abcdef" * 2
SOON = {"retry-after-ms": "1"}
REFUSED = Reply(500, headers=SOON)
LONG = Tolerance(first=60, longest=60)
"""An ejected server stays out for the whole test."""
HITS = [Hit(Chunk("d", "green grass", id=0), 1.0)]


@dataclass(frozen=True)
class Adapter:
    """How a client is made and asked one thing."""

    path: str
    error: type[VivaceError]
    module: ModuleType
    make: Callable[..., Client]
    ask: Callable[[Any], Awaitable[object]]
    close: Callable[[Any], Awaitable[None]]


def _chat(servers: Sequence[ModelServer], tolerance: Tolerance | None, **common: Any) -> OpenAI:
    names = {"seconds": "first_token_seconds", "at_once": "connections"}
    settings = {names.get(name, name): value for name, value in common.items()}
    return OpenAI(servers, Generate(**settings), tolerance=tolerance)


async def _ask_chat(client: OpenAI) -> str:
    deltas = client.stream([Message("user", "x")], max_tokens=9, temperature=0.0)
    return "".join([delta.text async for delta in deltas])


def _remote(common: dict[str, Any]) -> Remote:
    return Remote(**{"concurrency" if n == "at_once" else n: value for n, value in common.items()})


def _embedder(
    servers: Sequence[ModelServer], tolerance: Tolerance | None, **common: Any
) -> OpenAIEmbedder:
    servers = [replace(one, fragment=str(DIM)) for one in servers]
    return OpenAIEmbedder(servers, _remote(common), tolerance=tolerance)


def _reranker(
    servers: Sequence[ModelServer], tolerance: Tolerance | None, **common: Any
) -> HttpReranker:
    return HttpReranker(servers, _remote(common), tolerance=tolerance)


async def _close_embedder(client: OpenAIEmbedder) -> None:
    await asyncio.to_thread(client.close)


ADAPTERS = {
    "chat": Adapter(
        "chat/completions", GenerationError, generate_openai, _chat, _ask_chat, OpenAI.close
    ),
    "embeddings": Adapter(
        "embeddings",
        EmbeddingError,
        embed_openai,
        _embedder,
        lambda client: client.embed(["x"], kind="passage"),
        _close_embedder,
    ),
    "rerank": Adapter(
        "rerank",
        RerankError,
        rerank_http,
        _reranker,
        lambda client: client.score(Query("green grass"), HITS),
        HttpReranker.close,
    ),
}


@pytest.fixture(params=list(ADAPTERS))
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return ADAPTERS[request.param]


@asynccontextmanager
async def client_of(
    adapter: Adapter,
    *servers: ModelServerDouble,
    tolerance: Tolerance | None = None,
    **settings: Any,
) -> AsyncIterator[Client]:
    settings = {"retries": 0, **settings}
    several = [ModelServer("m", server.url) for server in servers]
    client = adapter.make(several, tolerance, **settings)
    try:
        yield client
    finally:
        await adapter.close(client)


async def until(server: ModelServerDouble, condition: Callable[[ModelServerDouble], bool]) -> None:
    await asyncio.to_thread(server.wait, condition)


# -- one request ------------------------------------------------------------------------------


async def test_a_request_is_json_with_the_key(adapter: Adapter) -> None:
    with ModelServerDouble() as server:
        async with client_of(adapter, server, api_key=KEY) as client:
            await adapter.ask(client)
        (received,) = server.requests
    assert received.path == f"/v1/{adapter.path}"
    assert received.headers["Authorization"] == f"Bearer {KEY}"
    assert received.headers["Content-Type"] == "application/json"
    assert received.headers["User-Agent"] == "vivace"


async def test_one_connection_serves_one_request_after_another(adapter: Adapter) -> None:
    with ModelServerDouble() as server:
        async with client_of(adapter, server) as client:
            for _ in range(3):
                await adapter.ask(client)
            (seen,) = client.server_statistics().servers
            assert (seen.started, seen.succeeded, seen.in_use, seen.idle) == (3, 3, 0, 1)
            assert seen.latency > 0
        assert server.opened == 1
        await until(server, lambda s: s.connections == 0)


async def test_no_more_requests_at_once_than_allowed(adapter: Adapter) -> None:
    pairs = threading.Barrier(2)
    with ModelServerDouble() as server:
        right = server.body_of

        def in_pairs(received: Any) -> bytes:
            pairs.wait(WAIT)
            return right(received)

        server.body_of = in_pairs  # type: ignore[method-assign]
        async with client_of(adapter, server, at_once=2) as client:
            await asyncio.gather(*(adapter.ask(client) for _ in range(8)))
            assert client.server_statistics().waiting == 0
        assert (len(server.requests), server.most_running) == (8, 2)


# -- tries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [Reply(429, headers=SOON), Reply(500, headers=SOON), Reply(503, headers=SOON), Reply(cut=True)],
    ids=["429", "500", "503", "cut"],
)
async def test_a_failed_try_is_repeated(adapter: Adapter, reply: Reply) -> None:
    with ModelServerDouble(reply) as server:
        async with client_of(adapter, server, retries=1) as client:
            await adapter.ask(client)
        assert len(server.requests) == 2


async def test_tries_are_bounded(adapter: Adapter) -> None:
    with ModelServerDouble(always=REFUSED) as server:
        async with client_of(adapter, server, retries=2) as client:
            with pytest.raises(adapter.error, match=r"status 500: scripted to refuse"):
                await adapter.ask(client)
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 413, 422])
async def test_what_no_other_try_mends_is_not_repeated(adapter: Adapter, status: int) -> None:
    """Nor does the key follow a redirect."""
    with ModelServerDouble() as elsewhere:
        refusal = Reply(status, headers={"Location": f"{elsewhere.url}/{adapter.path}"})
        with ModelServerDouble(always=refusal) as server:
            async with client_of(adapter, server, retries=3, api_key=KEY) as client:
                with pytest.raises(adapter.error, match=f"status {status}"):
                    await adapter.ask(client)
            assert len(server.requests) == 1
        assert not elsewhere.requests


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retry-after-ms", "50"),
        ("Retry-After", "0.05"),
        ("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ],
)
async def test_the_server_says_when_it_may_be_asked_again(
    adapter: Adapter, name: str, value: str
) -> None:
    refusals = [Reply(status, headers={name: value}) for status in (429, 503)]
    with ModelServerDouble(*refusals) as server:
        async with client_of(adapter, server, retries=2) as client:
            began = time.monotonic()
            await adapter.ask(client)
            assert time.monotonic() - began >= (0.1 if "5" in value[:4] else 0.0)
        assert len(server.requests) == 3


async def test_an_answer_that_is_none_is_not_repeated(adapter: Adapter) -> None:
    with ModelServerDouble(always=Reply(body="<html>busy</html>")) as server:
        async with client_of(adapter, server, retries=3) as client:
            with pytest.raises(adapter.error):
                await adapter.ask(client)
            assert client.server_statistics().servers[0].failed == 1
        assert len(server.requests) == 1


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        Reply(401, f"bad key {KEY}"),
        Reply(500, "x" * 480 + KEY),
        Reply(500, json.dumps({"error": {"message": "x" * 480 + KEY}})),
        Reply(raw=f"HTTP/1.1 {KEY} {KEY}\r\n\r\n".encode()),
    ],
    ids=["plain", "cut", "json", "status line"],
)
async def test_no_part_of_the_key_is_in_an_error(adapter: Adapter, reply: Reply) -> None:
    with ModelServerDouble(always=reply) as server:
        async with client_of(adapter, server, api_key=KEY) as client:
            with pytest.raises(adapter.error) as raised:
                await adapter.ask(client)
            assert KEY[:8] not in str(raised.value)
            assert KEY[:8] not in client.server_statistics().servers[0].failure


@pytest.mark.parametrize("word", ["message", "detail"])
async def test_an_error_shows_what_the_server_says_in_one_short_line(
    adapter: Adapter, word: str
) -> None:
    said = json.dumps({"error": {word: "too\nlong " * 50_000}})
    with ModelServerDouble(always=Reply(400, said[:60_000])) as server:
        async with client_of(adapter, server) as client:
            with pytest.raises(adapter.error, match="too") as raised:
                await adapter.ask(client)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


async def test_an_answer_without_end_is_refused(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter.module, "MAX_BODY", 1 << 20)
    with ModelServerDouble(always=Reply(body=" " * (2 << 20))) as server:
        async with client_of(adapter, server, retries=3) as client:
            with pytest.raises(adapter.error, match="more than 1 MiB"):
                await adapter.ask(client)
        assert len(server.requests) == 1


@cache
def bomb() -> bytes:
    """50 KB that unpack to 50 MB."""
    return gzip.compress(bytes(50 << 20))


@pytest.mark.parametrize(
    ("status", "coding"),
    [
        (200, "gzip"),
        (200, "deflate"),
        (200, "br"),
        (200, "gzip, gzip"),
        (200, "X-Gz"),
        (500, "gzip"),
    ],
)
async def test_a_compressed_answer_is_refused_before_it_is_unpacked(
    adapter: Adapter, coding: str, status: int
) -> None:
    reply = Reply(status, body=bomb(), headers={"Content-Encoding": coding, **SOON})
    with ModelServerDouble(always=reply) as server:
        async with client_of(adapter, server, retries=1) as client:
            what = f"compressed its answer .{coding.lower()}" if status == 200 else "status 500"
            tracemalloc.start()
            try:
                with pytest.raises(adapter.error, match=what):
                    await asyncio.wait_for(adapter.ask(client), WAIT)
                assert tracemalloc.get_traced_memory()[1] < 10 << 20
            finally:
                tracemalloc.stop()
        assert server.requests[0].headers["Accept-Encoding"] == "identity"


async def test_an_answer_that_says_it_is_as_it_is_is_read(adapter: Adapter) -> None:
    with ModelServerDouble(always=Reply(headers={"Content-Encoding": "identity"})) as server:
        async with client_of(adapter, server) as client:
            await adapter.ask(client)


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"x":' * 100_000, b"\xff", b"9" * 10_000])
async def test_an_answer_made_to_break_the_decoder_is_an_error(
    adapter: Adapter, body: bytes
) -> None:
    with ModelServerDouble(always=Reply(body=body)) as server:
        async with client_of(adapter, server) as client:
            with pytest.raises(adapter.error):
                await adapter.ask(client)


async def test_a_server_with_a_certificate_of_its_own_making_is_not_talked_to(
    adapter: Adapter,
) -> None:
    with (
        ModelServerDouble() as server,
        Proxy(int(urlsplit(server.url).port or 0), tls=True) as wire,
    ):
        several = [ModelServer("m", f"https://127.0.0.1:{wire.port}/v1")]
        client = adapter.make(several, None, retries=0, api_key=KEY)
        try:
            with pytest.raises(adapter.error, match="certificate verify failed"):
                await adapter.ask(client)
        finally:
            await adapter.close(client)
        assert not server.requests


async def test_nobody_listens(adapter: Adapter) -> None:
    with ModelServerDouble() as server:
        server.stop()
        async with client_of(adapter, server) as client:
            with pytest.raises(adapter.error, match="cannot be reached") as raised:
                await adapter.ask(client)
    assert server.url in str(raised.value)


async def test_a_server_that_hangs_is_given_up(adapter: Adapter) -> None:
    with ModelServerDouble(always=Reply(hang=True)) as server:
        async with client_of(adapter, server, seconds=0.2) as client:
            with pytest.raises(adapter.error, match=r"0\.2 s"):
                await adapter.ask(client)
            await until(server, lambda s: s.connections == 0)
            assert client.server_statistics().servers[0].failed == 1


# -- leaving ----------------------------------------------------------------------------------


async def test_cancelling_closes_the_connection_and_gives_the_place_back(adapter: Adapter) -> None:
    with ModelServerDouble(Reply(hang=True)) as server:
        async with client_of(adapter, server, at_once=1) as client:
            task = asyncio.ensure_future(adapter.ask(client))
            await until(server, lambda s: s.running == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(server, lambda s: s.given_up == 1)
            await adapter.ask(client)
            (seen,) = client.server_statistics().servers
            assert (seen.in_use, seen.failed, seen.dropped, seen.succeeded) == (0, 0, 1, 1)


async def test_closing_fails_running_and_later_requests(adapter: Adapter) -> None:
    with ModelServerDouble(always=Reply(hang=True)) as server:
        async with client_of(adapter, server) as client:
            task = asyncio.ensure_future(adapter.ask(client))
            await until(server, lambda s: s.running == 1)
            await adapter.close(client)
            await adapter.close(client)
            with pytest.raises(adapter.error) as running:
                await task
            if adapter.module is not generate_openai:  # of a stream, the connection is closed
                assert "is closed" in str(running.value)
            with pytest.raises(adapter.error, match="is closed"):
                await adapter.ask(client)
            assert client.server_statistics().servers[0].in_use == 0
        await until(server, lambda s: s.connections == 0)
        assert len(server.requests) == 1
    assert not [one for one in threading.enumerate() if one.name.startswith("vivace-http")]


# -- several servers --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["429", "500", "cut", "dead", "401", "404"])
async def test_another_server_answers(adapter: Adapter, kind: str) -> None:
    reply = Reply(int(kind), headers=SOON) if kind.isdecimal() else Reply(cut=True)
    with ModelServerDouble(always=reply) as bad, ModelServerDouble() as good:
        if kind == "dead":
            bad.stop()
        async with client_of(adapter, bad, good, retries=1, tolerance=LONG) as client:
            for _ in range(20):
                await adapter.ask(client)
            first, second = client.server_statistics().servers
            assert (second.succeeded, second.failed, second.in_use) == (20, 0, 0)
            if kind == "429":  # it is healthy: it only gets less
                assert first.state is BreakerState.CLOSED
            else:
                assert first.state is BreakerState.OPEN
                assert (first.failed, first.ejections, first.in_use) == (5, 1, 0)
                assert first.failure
                assert len(bad.requests) == (0 if kind == "dead" else 5), "it is asked no more"


async def test_a_wrong_request_is_no_fault_of_the_server(adapter: Adapter) -> None:
    wrong = Reply(400, "too long")
    with ModelServerDouble(always=wrong) as one, ModelServerDouble(always=wrong) as other:
        async with client_of(adapter, one, other, retries=1) as client:
            for _ in range(12):
                with pytest.raises(adapter.error, match="too long"):
                    await adapter.ask(client)
            states = {server.state for server in client.server_statistics().servers}
            assert states == {BreakerState.CLOSED}
        assert len(one.requests) == len(other.requests) == 6, "nor is another server asked"


@pytest.mark.parametrize("status", [401, 404])
async def test_a_key_or_model_that_the_only_server_lacks_does_not_eject_it(
    adapter: Adapter, status: int
) -> None:
    with ModelServerDouble(always=Reply(status)) as server:
        async with client_of(adapter, server) as client:
            for _ in range(12):
                with pytest.raises(adapter.error, match=str(status)):
                    await adapter.ask(client)


async def test_ejected_servers_are_asked_no_more_and_the_error_comes_at_once(
    adapter: Adapter,
) -> None:
    with ModelServerDouble(always=REFUSED) as server:
        async with client_of(adapter, server, tolerance=LONG) as client:
            for _ in range(5):
                with pytest.raises(adapter.error, match="status 500"):
                    await adapter.ask(client)
            with pytest.raises(adapter.error, match="every server"):
                await adapter.ask(client)
        assert len(server.requests) == 5


async def test_a_recovered_server_is_used_again(adapter: Adapter) -> None:
    short = Tolerance(in_row=2, first=0.02)
    with ModelServerDouble(REFUSED, REFUSED) as ill, ModelServerDouble() as good:
        async with client_of(adapter, ill, good, retries=1, tolerance=short) as client:
            async with asyncio.timeout(WAIT):
                while len(ill.requests) < 5:
                    await adapter.ask(client)
            first = client.server_statistics().servers[0]
            assert (first.state, first.ejections) == (BreakerState.CLOSED, 1)


async def test_requests_are_shared_by_weight(adapter: Adapter) -> None:
    with ModelServerDouble() as one, ModelServerDouble() as other:
        several = [ModelServer("m", one.url, weight=3.0), ModelServer("m", other.url)]
        client = adapter.make(several, None, retries=0)
        try:
            for _ in range(8):
                await adapter.ask(client)
        finally:
            await adapter.close(client)
        assert [len(server.requests) for server in (one, other)] == [6, 2]
