"""Hostile clients of a real server: what they cost others, and what they are answered."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.server.live import HEAD, WAIT, Live, serving
from tests.server.test_admission import held, statistics
from vivace.settings import Admission, Server, Settings

BODY = {"query": "notice period"}
JSON = {"content-type": "application/json"}
KIB, MIB = 1 << 10, 1 << 20


@contextmanager
def bounded(
    config: Settings, handbook: str, admission: Admission | None = None, **server: Any
) -> Iterator[Live]:
    """A server with other bounds."""
    own = msgspec.structs.replace(config.server, **server)
    settings = msgspec.structs.replace(config, server=own, admission=admission or config.admission)
    with serving(settings, [handbook]) as live:
        yield live


def connect(live: Live) -> socket.socket:
    host, port = live.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT)


def answer_of(connection: socket.socket) -> bytes:
    """All that the server still sends, until it closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while more := connection.recv(65_536):
            found += more
    return found


def status_of(connection: socket.socket) -> int:
    answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


def send_all(connection: socket.socket, data: bytes, times: int = 1) -> None:
    """Send as much as the server takes."""
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            connection.sendall(data)


def until_in_flight(live: Live, n: int) -> None:
    end = time.monotonic() + WAIT
    while live.state.in_flight.count != n:
        live.tasks()  # a turn of the loop
        assert time.monotonic() < end


class TestSlowBodies:
    @pytest.mark.parametrize("sent", [b"", b"{"])
    def test_they_hold_no_slot_and_are_closed(
        self, config: Settings, handbook: str, sent: bytes
    ) -> None:
        only_one = Admission(search=1, queue=0)
        with bounded(config, handbook, only_one, body_seconds=0.5) as live, ExitStack() as stack:
            slow = [stack.enter_context(connect(live)) for _ in range(20)]
            for connection in slow:
                connection.sendall(HEAD % (b"/v1/search", 100) + sent)
            until_in_flight(live, 20)
            assert statistics(live).in_flight == 0
            answer = httpx.post(f"{live.address}/v1/search", json=BODY, timeout=WAIT)
            assert answer.status_code == 200
            assert [status_of(connection) for connection in slow] == [408] * 20
            live.idle()
            assert live.state.bodies.held == 0
            assert live.state.trace.counters() == {"errors.request_timeout": 20}

    def test_a_deadline_includes_the_time_that_the_body_took(
        self, config: Settings, handbook: str
    ) -> None:
        with bounded(config, handbook) as live, connect(live) as connection:
            body = json.dumps(BODY).encode()
            head = HEAD % (b"/v1/search", len(body))
            head = head.replace(b"\r\n\r\n", b"\r\nX-Request-Timeout-Ms: 30\r\n\r\n")
            connection.sendall(head + body[:-1])
            until_in_flight(live, 1)
            time.sleep(0.05)  # no event tells that a client's time is over
            connection.sendall(body[-1:])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 504")

    def test_all_unfinished_bodies_share_a_budget(self, config: Settings, handbook: str) -> None:
        with bounded(config, handbook, bodies_mib=1) as live, ExitStack() as stack:
            sizes = [300 * KIB, 400 * KIB, 500 * KIB]
            query = json.dumps(BODY).encode()
            clients = [stack.enter_context(connect(live)) for _ in sizes]
            for connection, size in zip(clients, sizes, strict=True):
                length = size + len(query)
                connection.sendall(HEAD % (b"/v1/search", length) + b" " * size)
            # the largest is refused, the others can go on
            assert status_of(clients[2]) == 503
            assert live.state.bodies.held <= MIB
            for connection in clients[:2]:
                connection.sendall(query)
                assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
                connection.close()
            live.idle()
            assert live.state.bodies.held == 0

    def test_under_overload_the_refusal_comes_before_the_body(
        self, config: Settings, handbook: str
    ) -> None:
        with (
            bounded(config, handbook, Admission(search=1, queue=0)) as live,
            held(live),
            connect(live) as connection,
        ):
            assert httpx.post(f"{live.address}/v1/search", json=BODY).status_code == 503
            connection.sendall(HEAD % (b"/v1/search", MIB))
            assert connection.recv(65_536).startswith(b"HTTP/1.1 503")
            assert live.state.in_flight.count == 0


class TestHeads:
    def test_what_is_too_large_is_answered_and_closed(self, live: Live) -> None:
        start = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
        for data, times, status in (
            (b"GET /" + b"a" * MIB, 1, 414),
            (start + b"a: " + b"b" * MIB, 1, 431),
            (start + b"a: b\r\n" * 20_000, 50, 431),
            (start + b"a" * 300_000, 1, 431),
        ):
            with connect(live) as connection:
                send_all(connection, data, times)
                answer = answer_of(connection)
                # what a client sends beyond the server's patience is reset, with the answer
                assert not answer or int(answer[9:12]) == status
        assert httpx.get(f"{live.address}/healthz").status_code == 200
        assert live.state.trace.counters().keys() >= {
            "errors.url_too_long",
            "errors.head_too_large",
        }

    def test_half_sent_heads_and_silent_connections_are_closed(
        self, config: Settings, handbook: str
    ) -> None:
        with (
            bounded(config, handbook, head_seconds=0.3, idle_seconds=0.3) as live,
            connect(live) as half,
            connect(live) as silent,
            connect(live) as idle,
        ):
            half.sendall(b"GET /healthz HTT")
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status_of(half) == 408
            assert answer_of(silent) == b""
            assert answer_of(idle).startswith(b"HTTP/1.1 200")

    def test_more_connections_than_allowed_are_refused(
        self, config: Settings, handbook: str
    ) -> None:
        with (
            bounded(config, handbook, connections_per_address=3) as live,
            ExitStack() as stack,
        ):
            kept = [stack.enter_context(connect(live)) for _ in range(3)]
            until = time.monotonic() + WAIT
            while live.state.connections.count < 3:
                live.tasks()
                assert time.monotonic() < until
            with connect(live) as refused:
                assert status_of(refused) == 503
            kept[0].close()
            while live.state.connections.count == 3:
                live.tasks()
                assert time.monotonic() < until
            assert httpx.get(f"{live.address}/healthz").status_code == 200


class TestSites:
    def test_a_page_of_another_site_runs_nothing(self, live: Live) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": "lunch?"}]})
        url = f"{live.address}/v1/chat/completions"
        evil = {"origin": "http://evil.com"}
        answer = httpx.post(url, content=body, headers={**evil, "content-type": "text/plain"})
        assert answer.status_code == 403
        answer = httpx.post(url, content=body, headers={"content-type": "text/plain"})
        assert answer.status_code == 415
        assert httpx.post(url, content=body, headers={**evil, **JSON}).status_code == 403
        assert httpx.options(url, headers=evil).status_code == 403

    def test_listed_origins_are_answered(self, config: Settings, handbook: str) -> None:
        origin = "https://docs.example"
        with bounded(config, handbook, origins=origin) as live:
            url = f"{live.address}/v1/search"
            answer = httpx.post(url, json=BODY, headers={"origin": origin})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
            body = {"messages": [{"role": "user", "content": "lunch?"}], "stream": True}
            chat = f"{live.address}/v1/chat/completions"
            answer = httpx.post(chat, json=body, headers={"origin": origin}, timeout=WAIT)
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.text.endswith("data: [DONE]\n\n")

    @pytest.mark.parametrize(
        ("hosts", "status"),
        [
            (b"Host: 127.0.0.1:evil.com\r\n", 400),
            (b"Host: localhost\r\nHost: localhost\r\n", 400),
            (b"", 400),
            (b"Host: localhost:1\r\n", 200),
        ],
    )
    def test_the_host_is_checked_strictly(self, live: Live, hosts: bytes, status: int) -> None:
        with connect(live) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\n%bConnection: close\r\n\r\n" % hosts)
            assert status_of(connection) == status


class TestFilters:
    @pytest.mark.parametrize("path", ["/v1/search", "/v1/chat/completions"])
    @pytest.mark.parametrize(
        ("filters", "code"),
        [
            ({"$or": [{}] * 3000}, "bad_filter"),
            ({"$id": {"$in": ["x" * 100] * 1000}}, "bad_filter"),
            ([], "bad_request"),
            ("lang", "bad_request"),
            (1, "bad_request"),
        ],
    )
    def test_large_and_malformed_ones_get_400(
        self, live: Live, path: str, filters: object, code: str
    ) -> None:
        body = {"filters": filters}
        if path == "/v1/search":
            value: dict[str, object] = {**BODY, **body}
        else:
            value = {"messages": [{"role": "user", "content": "lunch?"}], **body}
        answer = httpx.post(f"{live.address}{path}", json=value)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == code

    def test_null_is_no_filter(self, live: Live) -> None:
        for body in (b'{"query": "lunch", "filters": null}', b'{"query": "lunch", "filters": {}}'):
            answer = httpx.post(f"{live.address}/v1/search", content=body, headers=JSON)
            assert answer.json()["hits"]


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="sets another process's limit")
def test_running_out_of_files_is_logged_and_passes(
    config: Settings, handbook: str, tmp_path: Path
) -> None:
    import resource

    log = tmp_path / "log"
    command = [sys.executable, "-m", "vivace", "serve", "--collection", handbook, "--port", "0"]
    environment = {**os.environ, "VIVACE_HOME": config.home}
    with log.open("w") as err:
        process = subprocess.Popen(
            [*command, "--json"], stdout=subprocess.PIPE, stderr=err, env=environment
        )
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["address"]

        def alive() -> bool:
            try:
                return httpx.get(f"{address}/healthz", timeout=3).status_code == 200
            except httpx.HTTPError:
                return False

        def logged(text: str) -> None:
            end = time.monotonic() + WAIT
            while text not in log.read_text():
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)  # another process's log

        assert alive()
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        opened = max(int(name.name) for name in Path(f"/proc/{process.pid}/fd").iterdir())
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (opened + 3, before[1]))
        host, port = address.removeprefix("http://").split(":")
        with ExitStack() as stack:
            for _ in range(opened + 3):
                stack.enter_context(socket.create_connection((host, int(port)), timeout=WAIT))
            logged("new connections are refused, no file can be opened")
            assert not alive()
        logged("files can be opened again")
        assert alive()
        assert log.read_text().count("no file can be opened") == 1
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_default_bounds_are_those_that_are_documented() -> None:
    server = Server()
    assert (server.body_seconds, server.bodies_mib, server.head_seconds) == (10, 64, 10)
    assert (server.max_headers, server.max_head_kib, server.max_url_bytes) == (100, 32, 8192)
