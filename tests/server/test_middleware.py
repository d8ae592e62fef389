"""What a request meets first: whose name it asks for, and the short way to the hot routes."""

from __future__ import annotations

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from vivace.server.asgi import send_json
from vivace.server.middleware import FastRouter
from vivace.server.sites import LOOPBACK, HostCheck, SiteCheck
from vivace.trace import Trace


def says(word: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, word.encode())

    return app


def client(hosts: frozenset[str] | None) -> httpx.AsyncClient:
    app = FastRouter({"/hot": says("hot")}, says("cold"), SiteCheck(HostCheck(hosts)), Trace())
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://127.0.0.1:8765",
        headers={"content-type": "application/json"},
    )


async def test_only_a_post_to_a_hot_path_takes_the_short_way() -> None:
    async with client(None) as http:
        assert (await http.post("/hot")).text == "hot"
        assert (await http.get("/hot")).text == "cold"
        assert (await http.post("/hot/")).text == "cold"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8765", "[::1]:8765"])
async def test_loopback_names_are_allowed(host: str) -> None:
    async with client(LOOPBACK) as http:
        assert (await http.post("/hot", headers={"host": host})).text == "hot"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example"])
async def test_another_host_name_gets_421(host: str) -> None:
    async with client(LOOPBACK) as http:
        for method in ("GET", "POST"):
            answer = await http.request(method, "/hot", headers={"host": host})
            assert answer.status_code == 421
            assert answer.json()["error"]["code"] == "wrong_host"


async def test_a_configured_host_name_is_allowed() -> None:
    async with client(LOOPBACK | {"docs.example"}) as http:
        assert (await http.post("/hot", headers={"host": "docs.example"})).text == "hot"
