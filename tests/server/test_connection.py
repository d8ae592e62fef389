"""The bounds of a connection, without sockets: heads, bodies' framing, time, pipelines, readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from starlette.types import Receive, Scope, Send

from tests.server.wire import FakeTransport, Wire, statuses, transport_of
from vivace.server.asgi import send_json
from vivace.server.connection import ConnectionLimits, HttpConnection, address_key
from vivace.settings import Server
from vivace.trace import Trace

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
KIB = 1 << 10


class Application:
    """Answers with the body's length, once `gate` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = 0
        self.gone = 0
        self.answer = b"yes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.began += 1
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            more = message["more_body"]
        while not self.gate.is_set():
            opened = asyncio.ensure_future(self.gate.wait())
            left = asyncio.ensure_future(receive())
            await asyncio.wait({opened, left}, return_when=asyncio.FIRST_COMPLETED)
            opened.cancel()
            left.cancel()
            if left.done() and not left.cancelled():
                self.gone += 1
                return
        await send_json(send, self.answer)


@pytest.fixture
async def app() -> Application:
    return Application()


@pytest.fixture
async def wire(app: Application) -> AsyncIterator[Wire]:
    wire = Wire(app, Trace())
    yield wire
    for connection in tuple(wire.state.connections):
        connection.connection_lost(None)
    app.gate.set()
    await wire.settle()
    assert wire.limits.count == 0


def error_code(connection: HttpConnection) -> str:
    """Of the last response, which is an error."""
    body = transport_of(connection).written.rpartition(b"\r\n\r\n")[2]
    code: str = json.loads(body)["error"]["code"]
    return code


def held(connection: HttpConnection) -> int:
    """Bytes of the request that the connection keeps."""
    cycle = connection.cycle
    return (
        sum(len(name) + len(value) for name, value in connection.headers or ())
        + len(getattr(connection, "url", b""))
        + (len(cycle.body) if cycle is not None else 0)
    )


class TestHeads:
    @pytest.mark.parametrize(
        ("data", "status", "code"),
        [
            (b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 9000), 414, "url_too_long"),
            (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431, "head_too_large"),
            (b"GET / HTTP/1.1\r\na: %b\r\n\r\n" % (b"b" * 40_000), 431, "head_too_large"),
            (b"\x00\x01\x02\x03", 400, "bad_http"),
            (b"GET / HTTP/1.1\r\nHost a\r\n\r\n", 400, "bad_http"),
            (b"GET \xff HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_http"),
            (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_http"),
        ],
    )
    @pytest.mark.parametrize("size", [1 << 20, 1000])
    async def test_what_is_refused(
        self, app: Application, wire: Wire, data: bytes, status: int, code: str, size: int
    ) -> None:
        connection = wire.connect()
        for at in range(0, len(data), size):
            connection.data_received(data[at : at + size])
        transport = transport_of(connection)
        assert statuses(transport.written) == [status]
        assert error_code(connection) == code
        assert b"connection: close" in transport.written
        assert transport.ended
        assert app.began == 0
        assert wire.limits.trace.counters() == {f"errors.{code}": 1}

    async def test_the_largest_that_is_allowed(self, app: Application, wire: Wire) -> None:
        connection = wire.connect()
        lines = b"".join(b"h%02d: %b\r\n" % (at, b"v" * 240) for at in range(99))
        head = b"GET /%b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (b"a" * 7000, lines)
        assert len(head) < 32 * KIB
        for _ in range(3):
            connection.data_received(head)
            await wire.settle()
        assert statuses(transport_of(connection).written) == [200] * 3

    @pytest.mark.parametrize("line", [b"a: b\r\n", b"a" * 65, b"name: %b\r\n" % (b"v" * 1000)])
    async def test_an_endless_head_is_not_kept(self, wire: Wire, line: bytes) -> None:
        connection = wire.connect()
        connection.data_received(b"GET / HTTP/1.1\r\n")
        piece = line * (64 * KIB // len(line))
        for _ in range(10):
            connection.data_received(piece)
            assert held(connection) <= 32 * KIB
        transport = transport_of(connection)
        assert statuses(transport.written) == [431]
        assert transport.ended
        for _ in range(30):
            connection.data_received(piece)
        assert transport.aborted  # it goes on sending after its answer

    async def test_an_endless_line_is_not_kept(self, wire: Wire) -> None:
        connection = wire.connect()
        connection.data_received(b"GET /")
        for _ in range(10):
            connection.data_received(b"a" * (20 * KIB))
            assert held(connection) <= 64 * KIB
        assert statuses(transport_of(connection).written) == [414]

    async def test_small_heads_split_anywhere_are_one_request(self, wire: Wire) -> None:
        connection = wire.connect()
        for at in range(len(GET)):
            connection.data_received(GET[at : at + 1])
        await wire.settle()
        assert statuses(transport_of(connection).written) == [200]

    async def test_a_head_behind_a_large_body_in_one_read(self, wire: Wire) -> None:
        """The bytes of the body are not taken for the next head's."""
        connection = wire.connect()
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n"
        connection.data_received(head + b"x" * 100_000)
        await asyncio.sleep(0)
        connection.data_received(b"x" * 100_000 + GET[:10])
        await wire.settle()
        connection.data_received(GET[10:])
        await wire.settle()
        assert statuses(transport_of(connection).written) == [200, 200]


class TestFraming:
    async def test_trailers_are_dropped(self, wire: Wire) -> None:
        connection = wire.connect()
        for _ in range(20):
            connection.data_received(CHUNKED + b"1\r\na\r\n0\r\nx: %b\r\n\r\n" % (b"y" * 3000))
            await wire.settle()
            assert held(connection) < 100
        assert statuses(transport_of(connection).written) == [200] * 20

    @pytest.mark.parametrize(
        "piece",
        [
            b"1;" + b"a" * 20 * KIB,
            b"1\r\na\r\n0\r\n" + b"x: y\r\n" * 4000,
            b"1\r\na\r\n0\r\nx: " + b"y" * 20 * KIB,
            (b"1;%b\r\na\r\n" % (b"e" * 1000)) * 40,
        ],
    )
    async def test_too_large_trailers_and_extensions_get_400(
        self, app: Application, wire: Wire, piece: bytes
    ) -> None:
        connection = wire.connect()
        connection.data_received(CHUNKED)
        await asyncio.sleep(0)
        for at in range(0, len(piece), 4000):
            connection.data_received(piece[at : at + 4000])
            assert held(connection) < 16 * KIB
        transport = transport_of(connection)
        assert statuses(transport.written) == [400]
        assert error_code(connection) == "bad_http"
        await wire.settle()
        assert app.gone == 1  # the application does not wait any longer
        assert statuses(transport.written) == [400]

    async def test_small_chunks_are_fine(self, wire: Wire) -> None:
        connection = wire.connect()
        connection.data_received(CHUNKED)
        for _ in range(50):
            connection.data_received(b"1\r\na\r\n" * 1000)
            await asyncio.sleep(0)
        connection.data_received(b"0\r\n\r\n")
        await wire.settle()
        assert statuses(transport_of(connection).written) == [200]

    async def test_a_broken_chunk_after_the_answer_began_ends_the_connection(
        self, app: Application, wire: Wire
    ) -> None:
        connection = wire.connect()
        connection.data_received(GET + b"nonsense")
        await wire.settle()
        transport = transport_of(connection)
        assert statuses(transport.written) == [200]  # the first request gets its own answer
        assert transport.closing


class TestTime:
    async def test_a_silent_connection_is_closed(self, wire: Wire) -> None:
        connection = wire.connect()
        wire.sweep(9)
        assert not transport_of(connection).over
        wire.sweep(11)
        assert transport_of(connection).over
        assert not transport_of(connection).written

    async def test_a_half_sent_head_gets_408(self, wire: Wire) -> None:
        connection = wire.connect()
        connection.data_received(GET[:-2])
        wire.sweep(11)
        transport = transport_of(connection)
        assert statuses(transport.written) == [408]
        assert transport.ended
        wire.sweep(20)
        assert transport.aborted

    async def test_bytes_that_trickle_do_not_extend_the_time_of_a_head(self, wire: Wire) -> None:
        connection = wire.connect()
        connection.data_received(GET[:5])
        began = connection.deadline
        for at in range(5, 20):
            connection.data_received(GET[at : at + 1])
        assert connection.deadline == began

    async def test_a_slow_body_wakes_its_reader_and_is_cut_in_the_end(
        self, app: Application, wire: Wire
    ) -> None:
        connection = wire.connect()
        connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        await asyncio.sleep(0)
        transport = transport_of(connection)
        wire.sweep(9)
        assert not transport.over
        for after in (11, 12, 13, 14):
            wire.sweep(after)  # an application that does not care
            await asyncio.sleep(0)
            assert not transport.over
        wire.sweep(15)
        assert transport.aborted

    async def test_an_idle_connection_is_closed_later(self, wire: Wire) -> None:
        connection = wire.connect()
        connection.data_received(GET)
        await wire.settle()
        wire.sweep(60)
        assert not transport_of(connection).over
        wire.sweep(70)
        assert transport_of(connection).over

    async def test_an_answer_may_take_any_time(self, app: Application, wire: Wire) -> None:
        app.gate.clear()
        connection = wire.connect()
        connection.data_received(GET)
        await asyncio.sleep(0)
        wire.sweep(10_000)
        assert not transport_of(connection).over
        app.gate.set()
        await wire.settle()
        assert statuses(transport_of(connection).written) == [200]

    async def test_a_half_sent_head_does_not_cut_the_answer_before_it(
        self, app: Application, wire: Wire
    ) -> None:
        app.gate.clear()
        connection = wire.connect()
        connection.data_received(GET + GET[:9])
        await asyncio.sleep(0)
        wire.sweep(11)
        wire.sweep(100)
        transport = transport_of(connection)
        assert not transport.over
        app.gate.set()
        await wire.settle()
        assert statuses(transport.written) == [200]
        assert transport.closing

    async def test_a_client_that_closes_has_time_to_read(
        self, app: Application, wire: Wire
    ) -> None:
        app.answer = b'"%b"' % (b"x" * 200_000)
        connection = wire.connect(FakeTransport(takes=False))
        connection.data_received(GET[:-2] + b"Connection: close\r\n\r\n")
        await wire.settle()
        transport = transport_of(connection)
        assert transport.closing
        wire.sweep(15)
        assert not transport.aborted
        wire.sweep(30)
        assert transport.aborted


class TestPipelines:
    async def test_answers_come_in_order(self, app: Application, wire: Wire) -> None:
        connection = wire.connect()
        connection.data_received(GET * 5)
        await wire.settle()
        assert statuses(transport_of(connection).written) == [200] * 5
        assert app.began == 5

    async def test_too_many_requests_at_once_end_the_connection(
        self, app: Application, wire: Wire
    ) -> None:
        connection = wire.connect()
        connection.data_received(GET * 5000)
        assert len(connection.pipeline) <= 16
        while not transport_of(connection).closing:
            await wire.settle()
            await asyncio.sleep(0)
        assert app.began <= 17

    async def test_leaving_is_told_to_the_request_that_runs(
        self, app: Application, wire: Wire
    ) -> None:
        app.gate.clear()
        connection = wire.connect()
        connection.data_received(GET * 2)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        await wire.settle()
        assert (app.began, app.gone) == (1, 1)

    @pytest.mark.parametrize("together", [True, False])
    async def test_no_request_begins_before_the_client_has_read(
        self, app: Application, wire: Wire, together: bool
    ) -> None:
        app.answer = b'"%b"' % (b"x" * 100_000)
        connection = wire.connect(FakeTransport(takes=False))
        for data in [GET * 2] if together else [GET, GET]:
            connection.data_received(data)
            await wire.settle()
            await asyncio.sleep(0)
        assert app.began == 1
        transport_of(connection).read()
        await wire.settle()
        assert app.began == 2
        assert statuses(transport_of(connection).written) == [200, 200]

    async def test_a_client_that_never_reads_is_cut_off(self, app: Application, wire: Wire) -> None:
        app.answer = b'"%b"' % (b"x" * 100_000)
        connection = wire.connect(FakeTransport(takes=False))
        connection.data_received(GET)
        await wire.settle()
        wire.sweep(10)
        assert not transport_of(connection).aborted
        wire.sweep(20)
        assert transport_of(connection).aborted


class TestNumber:
    async def test_connections_of_one_address_are_bounded(
        self, app: Application, caplog: pytest.LogCaptureFixture
    ) -> None:
        wire = Wire(app, Trace(), Server(connections_per_address=2))
        kept = [wire.connect() for _ in range(2)]
        refused = wire.connect()
        assert statuses(transport_of(refused).written) == [503]
        assert error_code(refused) == "too_many_connections"
        assert transport_of(refused).closing
        other = wire.connect(FakeTransport("10.0.0.1"))
        assert not transport_of(other).over
        wire.sweep()
        assert "refused 1 connections: 3 are open" in caplog.text
        kept[0].connection_lost(None)
        assert not transport_of(wire.connect()).over
        assert wire.limits.count == 3

    async def test_all_connections_are_bounded(self, app: Application) -> None:
        wire = Wire(app, Trace(), Server(connections=3))
        kept = [wire.connect(FakeTransport(f"10.0.0.{at}")) for at in range(3)]
        refused = wire.connect(FakeTransport("10.0.0.9"))
        assert statuses(transport_of(refused).written) == [503]
        refused.connection_lost(None)
        assert wire.limits.count == 3
        kept[1].connection_lost(None)
        assert not transport_of(wire.connect()).over

    async def test_refusals_are_logged_now_and_then(
        self, app: Application, caplog: pytest.LogCaptureFixture
    ) -> None:
        wire = Wire(app, Trace(), Server(connections=1))
        wire.connect()
        for after in range(20):
            wire.connect()
            wire.sweep(float(after) / 10)
        assert len(caplog.records) == 1
        wire.sweep(11)
        assert "refused 19 connections" in caplog.text
        assert wire.limits.trace.counters() == {"errors.too_many_connections": 20}

    def test_files_bound_connections(self) -> None:
        assert ConnectionLimits(Server(), Trace(), files=1024).most == 1024 - 128
        assert ConnectionLimits(Server(), Trace(), files=100).most == 50
        assert ConnectionLimits(Server(), Trace(), files=1 << 20).most == 2048

    @pytest.mark.parametrize(
        ("host", "key"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
        ],
    )
    def test_addresses_are_counted_by_network(self, host: str, key: str) -> None:
        assert address_key(host) == key
