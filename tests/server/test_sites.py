"""Whose requests are answered: Host, Origin, Sec-Fetch-Site, Content-Type, and CORS."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from vivace.errors import BadSettings
from vivace.server.asgi import send_json
from vivace.server.errors import BadHost, WrongHost
from vivace.server.middleware import FastRouter
from vivace.server.sites import LOOPBACK, HostCheck, SiteCheck, hosts_of, origins_of
from vivace.trace import Trace

ORIGIN = "https://docs.example"
JSON = {"content-type": "application/json"}


class App:
    """Counts what gets through."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        await send_json(send, b"{}", 200 if scope["path"] != "/fails" else 500)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def http(app: App) -> AsyncIterator[httpx.AsyncClient]:
    check = SiteCheck(HostCheck(LOOPBACK), [ORIGIN, "http://localhost:3000"])
    router = FastRouter({"/json": app}, app, check, Trace())
    transport = httpx.ASGITransport(router)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8765") as client:
        yield client


class TestHost:
    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"127.0.0.1:evil.com",
            b"localhost:99999",
            b"localhost:",
            b"local host",
            b"localhost/evil",
            b"evil.com@localhost",
            b"localhost,evil.com",
            b"[::1",
            b"::1",
            b"[::zz]",
            b"[1.2.3.4]",
            b"-a",
            b"a" * 300,
            "b\u00fccher.example".encode(),
            b"localhost\t",
            b"localhost\x00",
        ],
    )
    @pytest.mark.parametrize("check", [HostCheck(), HostCheck(LOOPBACK), HostCheck((), local=True)])
    def test_a_malformed_value_is_refused_wherever_the_server_listens(
        self, check: HostCheck, value: bytes
    ) -> None:
        with pytest.raises(BadHost):
            check(value)

    def test_on_loopback_only_its_names_are_allowed(self) -> None:
        check = hosts_of("", "127.0.0.1")
        for name in (b"localhost:1", b"LOCALHOST", b"127.0.0.1:8765", b"[::1]:80", b"[0:0::1]"):
            check(name)
        for name in (b"evil.com", b"127.0.0.1.evil.com", b"10.0.0.1", b"intranet", b"localhost."):
            with pytest.raises(WrongHost):
                check(name)

    @pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7"])
    def test_elsewhere_no_name_of_the_internet_is_allowed(self, address: str) -> None:
        check = hosts_of("", address)
        machine = socket.gethostname().lower()
        for name in ("localhost", "10.0.0.1:80", "[2001:db8::1]", "vivace:8765", machine):
            check(name.encode())
        for name in ("evil.com", "10.0.0.1.evil.com", "a.b:80"):
            with pytest.raises(WrongHost, match=r"server\.hosts"):
                check(name.encode())

    @pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
    def test_configured_names(self, address: str) -> None:
        check = hosts_of("Docs.example, other", address)
        for name in (b"docs.example:443", b"OTHER", b"localhost"):
            check(name)
        for name in (b"evil.com", b"intranet"):
            with pytest.raises(WrongHost):
                check(name)
        hosts_of("*", address)(b"any.example")
        with pytest.raises(BadHost):
            hosts_of("*", address)(b"any.example:x")

    async def test_there_is_exactly_one(self, app: App, http: httpx.AsyncClient) -> None:
        answer = await http.get("/", headers=[("host", "localhost"), ("host", "localhost")])
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "bad_host"
        request = http.build_request("GET", "/")
        del request.headers["host"]
        answer = await http.send(request)
        assert answer.status_code == 400
        assert app.calls == 0


class TestOrigin:
    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "http://evil.com"},
            {"origin": "null"},
            {"origin": "http://localhost"},
            {"origin": "http://localhost:8766"},
            {"origin": "http://localhost:8765.evil.com"},
            {"origin": "https://docs.example.evil.com"},
            {"origin": "http://docs.example"},
            {"origin": "file://"},
            {"origin": "localhost:8765"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"sec-fetch-site": "nonsense"},
            {"origin": "http://localhost:8765", "sec-fetch-site": "cross-site"},
            {"origin": "http://evil.com", "sec-fetch-site": "same-origin"},
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
    async def test_pages_of_other_sites_are_refused(
        self, app: App, http: httpx.AsyncClient, headers: dict[str, str], method: str
    ) -> None:
        answer = await http.request(method, "/json", headers={**JSON, **headers}, content=b"{}")
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "cross_site"
        assert "server.origins" in answer.json()["error"]["message"]
        assert "access-control-allow-origin" not in answer.headers
        assert app.calls == 0

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"origin": "http://localhost:8765"},
            {"origin": "http://localhost:8765", "sec-fetch-site": "same-origin"},
            {"sec-fetch-site": "none"},
            {"sec-fetch-site": "same-origin"},
            {"host": "127.0.0.1", "origin": "https://127.0.0.1"},
            {"host": "127.0.0.1:80", "origin": "http://127.0.0.1"},
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_others_pass(
        self, app: App, http: httpx.AsyncClient, headers: dict[str, str], method: str
    ) -> None:
        answer = await http.request(method, "/json", headers={**JSON, **headers}, content=b"{}")
        assert answer.status_code == 200
        assert app.calls == 1
        assert "access-control-allow-origin" not in answer.headers

    async def test_a_link_from_elsewhere_may_be_followed(
        self, app: App, http: httpx.AsyncClient
    ) -> None:
        link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        assert (await http.get("/", headers=link)).status_code == 200
        # a form of another site navigates as well
        answer = await http.post("/json", headers={**link, **JSON}, content=b"{}")
        assert answer.status_code == 403

    @pytest.mark.parametrize("name", ["origin", "sec-fetch-site", "content-type"])
    async def test_no_header_that_decides_may_come_twice(
        self, http: httpx.AsyncClient, name: str
    ) -> None:
        values = {"origin": ORIGIN, "sec-fetch-site": "none", "content-type": "application/json"}
        answer = await http.get("/", headers=[(name, values[name])] * 2)
        assert answer.status_code == 400
        assert name in answer.json()["error"]["message"]


class TestCors:
    @pytest.mark.parametrize("path", ["/json", "/fails"])
    async def test_a_listed_origin_may_read_answers(
        self, app: App, http: httpx.AsyncClient, path: str
    ) -> None:
        headers = {**JSON, "origin": ORIGIN, "sec-fetch-site": "cross-site"}
        answer = await http.post(path, headers=headers, content=b"{}")
        assert answer.status_code == (200 if path == "/json" else 500)
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["vary"] == "origin"
        assert "retry-after" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert app.calls == 1

    async def test_preflight(self, app: App, http: httpx.AsyncClient) -> None:
        headers = {
            "origin": "http://localhost:3000",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
            "access-control-request-private-network": "true",
        }
        answer = await http.options("/json", headers=headers)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        assert answer.headers["access-control-allow-private-network"] == "true"
        assert app.calls == 0


class TestContentType:
    @pytest.mark.parametrize(
        "value",
        [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; a=b",
         "application/jsonp", "application", ";application/json", "text/plain;application/json"],
    )  # fmt: skip
    async def test_routes_that_read_json_want_it(
        self, app: App, http: httpx.AsyncClient, value: str | None
    ) -> None:
        headers = {} if value is None else {"content-type": value}
        answer = await http.post("/json", headers=headers, content=b"{}")
        assert answer.status_code == 415
        assert answer.json()["error"]["code"] == "not_json"
        assert app.calls == 0

    @pytest.mark.parametrize(
        "value", ["application/json", "Application/JSON", "application/json; charset=utf-8"]
    )
    async def test_json_passes(self, http: httpx.AsyncClient, value: str) -> None:
        answer = await http.post("/json", headers={"content-type": value}, content=b"{}")
        assert answer.status_code == 200

    async def test_other_routes_take_anything(self, http: httpx.AsyncClient) -> None:
        assert (await http.post("/other", content=b"text")).status_code == 200


class TestSettings:
    def test_origins(self) -> None:
        assert origins_of("") == []
        assert origins_of(" https://Docs.example , http://localhost:3000,") == [
            "https://docs.example",
            "http://localhost:3000",
        ]

    @pytest.mark.parametrize(
        "value",
        ["*", "null", "docs.example", "https://docs.example/", "https://", "https://a/b",
         "https://u@a", "https://[::", "https://b\u00fccher.example", "localhost:3000"],
    )  # fmt: skip
    def test_what_is_no_origin_is_refused(self, value: str) -> None:
        with pytest.raises(BadSettings, match=r"server\.origins"):
            origins_of(value)
