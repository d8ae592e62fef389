"""Any bytes on a connection are answered or refused: no crash, no 500, nothing left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.wire import Wire, statuses, transport_of
from tests.support.profiles import FUZZ, FUZZ_SECONDS, SLOWEST_INPUT, InputTime
from vivace.engine import Engine
from vivace.errors import BadQuery, EmbeddingError
from vivace.server.admission import LoadShedder
from vivace.server.app import create
from vivace.server.state import AppState
from vivace.settings import Settings
from vivace.trace import Trace
from vivace.types import Delta, Query

PATHS = ["/v1/search", "/v1/chat/completions", "/v1/embeddings", "/v1/models", "/healthz", "/%zz"]

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["query", "k", "filters", "model", "messages", "role", "content",
                             "input", "stream", "$or", "$in", "text", "type"]),
            inner, max_size=5,
        ),
    ),
    max_leaves=10,
)  # fmt: skip
bodies = st.one_of(
    values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
    st.integers(1, 4000).map(lambda n: b'{"query":"a","filters":' + b'{"$not":' * n),
    st.integers(1, 4000).map(lambda n: b"[" * n),
    st.sampled_from([b'{"query":"a"}', b'{"messages":[{"role":"user","content":"a"}]}']),
)
tokens = st.one_of(st.binary(max_size=20), st.text(max_size=10).map(str.encode))
headers = st.one_of(
    st.sampled_from(
        [b"Host: localhost", b"Host: evil.com:x", b"Origin: http://evil.com", b"Origin: null",
         b"Content-Type: application/json", b"Content-Type: text/plain", b"Connection: close",
         b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"Expect: 100-continue",
         b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Content-Length: 5",
         b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Sec-Fetch-Site: x",
         b"X-Request-Timeout-Ms: nan", b"X-Request-Timeout-Ms: 5", b"Authorization: Bearer \xff",
         b"Access-Control-Request-Method: POST", b" folded: line", b"no colon"]
    ),
    st.builds(lambda name, value: name + b": " + value, tokens, tokens),
    st.builds(lambda n: b"a: " + b"b" * n, st.integers(0, 40_000)),
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, more or less."""
    method = draw(st.sampled_from([b"POST"] * 3 + [b"GET", b"HEAD", b"OPTIONS", b"CONNECT", b"X"]))
    path = draw(st.sampled_from(PATHS)).encode()
    path = draw(st.sampled_from([path] * 8 + [b"*", b"http://a/", b"//", path + b"a" * 9000]))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9"]))
    lines = draw(st.lists(headers, max_size=6))
    body = draw(bodies)
    if draw(st.integers(0, 3)):  # mostly one that reaches the application
        lines = [b"Host: localhost", b"Content-Type: application/json", *lines[:2]]
        if draw(st.booleans()):
            lines.append(b"Content-Length: %d" % len(body))
        else:
            lines.append(b"Transfer-Encoding: chunked")
            cut = draw(st.integers(0, len(body)))
            extension = draw(st.sampled_from([b"", b";a=b", b";" + b"x" * 20_000]))
            parts = [part for part in (body[:cut], body[cut:]) if part]
            chunks = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]
            trailers = draw(st.sampled_from([b"", b"a: b\r\n", b"a: b\r\n" * 2000]))
            body = b"".join(chunks) + b"0\r\n" + trailers + b"\r\n"
    end = draw(st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r"]))
    return b"%b %b %b%b" % (method, path, version, end) + end.join([*lines, b"", body])


streams = st.one_of(
    st.lists(requests(), min_size=1, max_size=3).map(b"".join),
    st.builds(lambda one, times: one * times, requests(), st.integers(1, 30)),
    st.builds(lambda one, junk, at: one[:at] + junk + one[at:],
              requests(), st.binary(max_size=30), st.integers(0, 300)),
    st.binary(max_size=200),
)  # fmt: skip


class StubEngine:
    """Everything that a route may ask of an engine, refused with errors that routes expect."""

    def __init__(self, settings: Settings) -> None:
        self.resources = self.embedder = self
        self.trace = Trace()
        self.name, self.dim = "stub", 1

    async def __aenter__(self) -> StubEngine:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def open(self, name: str, *, create: bool) -> StubEngine:
        return self

    async def embed(self, texts: list[str], *, kind: str) -> None:
        raise EmbeddingError("stub")

    async def search(self, query: Query) -> None:
        raise BadQuery("stub")

    async def ask(self, *_: object, **__: object) -> None:
        raise BadQuery("stub")

    async def stream(self, *_: object, **__: object) -> AsyncIterator[Delta]:
        raise BadQuery("stub")
        yield Delta("")


async def converse(stream: bytes, cuts: list[int], leaves: bool) -> None:
    state = AppState(Settings(), ["none"], engine=cast("Callable[[Settings], Engine]", StubEngine))
    async with state.opened():
        await talk(state, stream, cuts, leaves)


async def talk(state: AppState, stream: bytes, cuts: list[int], leaves: bool) -> None:
    wire = Wire(LoadShedder(create(state), state), state.trace)
    wire.limits = state.connections
    crashed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: crashed.append(context))
    connection = wire.connect()
    at = sorted({min(cut, len(stream)) for cut in cuts})
    for a, b in zip([0, *at], [*at, len(stream)], strict=True):
        if not transport_of(connection).closing:
            connection.data_received(stream[a:b])
            await asyncio.sleep(0)
    assert len(connection.headers or ()) <= 100
    if not leaves:
        for after in range(0, 100, 10):  # whatever is incomplete is ended in the end
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            wire.sweep(after)
    connection.connection_lost(None)
    await wire.settle()
    assert not crashed
    assert 500 not in statuses(transport_of(connection).written)
    assert "errors.internal_error" not in state.trace.counters()
    assert (state.in_flight.count, state.bodies.held, state.connections.count) == (0, 0, 0)
    assert all(limit.statistics().in_flight == 0 for limit in state.limits.values())


@pytest.mark.timeout(FUZZ_SECONDS)
@settings(max_examples=FUZZ)
@given(stream=streams, cuts=st.lists(st.integers(0, 1000), max_size=4), leaves=st.booleans())
def test_any_bytes_are_answered_or_refused(stream: bytes, cuts: list[int], leaves: bool) -> None:
    with InputTime() as took:
        asyncio.run(converse(stream, cuts, leaves))
    assert took.seconds < SLOWEST_INPUT
