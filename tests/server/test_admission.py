"""Who comes in, who is sent away and with which words, on a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import blake2b

import httpx
import msgspec
import pytest

from tests.server.live import WAIT, Live, serving
from vivace.run.limit import LimitStatistics, Outcome, Permit
from vivace.run.work import work_context
from vivace.settings import Admission, Settings

BODY = {"query": "notice period"}
HOPELESS = 60
"""Requests that are enough to be called a load."""


@contextmanager
def admitting(config: Settings, handbook: str, **admission: int) -> Iterator[Live]:
    settings = msgspec.structs.replace(config, admission=Admission(**admission))
    with serving(settings, [handbook]) as live:
        yield live


@contextmanager
def held(live: Live, user: str = "", n: int = 1) -> Iterator[None]:
    """Slots for searches that somebody else holds."""

    async def take() -> list[Permit]:
        with work_context(user=user):
            return [await live.state.limits["search"].acquire() for _ in range(n)]

    async def give(permits: list[Permit]) -> None:
        for permit in permits:
            permit.release(Outcome.IGNORED)

    permits = asyncio.run_coroutine_threadsafe(take(), live.loop).result(WAIT)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(give(permits), live.loop).result(WAIT)


def statistics(live: Live) -> LimitStatistics:
    async def read() -> LimitStatistics:
        return live.state.limits["search"].statistics()

    return asyncio.run_coroutine_threadsafe(read(), live.loop).result(WAIT)


def until_queued(live: Live, n: int) -> None:
    end = time.monotonic() + WAIT
    while statistics(live).queued != n:
        assert time.monotonic() < end


def client(live: Live, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=live.address, headers=headers, timeout=WAIT)


def test_a_full_queue_gives_503_with_retry_after(config: Settings, handbook: str) -> None:
    with admitting(config, handbook, search=1, queue=0) as live, client(live) as http:
        with held(live):
            answer = http.post("/v1/search", json=BODY)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
            assert int(answer.headers["retry-after-ms"]) > 0
            assert http.get("/healthz").status_code == 200
            assert http.get("/v1/models").status_code == 200
            refused = http.get("/metrics").text
        # the connection is still good
        assert http.post("/v1/search", json=BODY).status_code == 200
    assert 'vivace_admission_refused_total{kind="search",reason="full"} 1' in refused
    assert 'vivace_admission_in_flight{kind="search"} 1' in refused
    assert 'vivace_admission_limit{kind="search"} 1' in refused
    assert 'route="/v1/search",status="5xx"' in refused


def test_exceeding_a_users_share_gives_429(config: Settings, handbook: str) -> None:
    greedy = "Bearer greedy"
    user = blake2b(greedy.encode(), digest_size=12).hexdigest()
    with (
        admitting(config, handbook, search=3, queue=0) as live,
        held(live, user, 2),
        held(live, "other"),
        client(live) as http,
    ):
        answer = http.post("/v1/search", json=BODY, headers={"Authorization": greedy})
        assert answer.status_code == 429
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert "retry-after-ms" in answer.headers
        assert http.post("/v1/search", json=BODY).status_code == 503  # its share is not used up


def test_a_wait_ends_at_the_clients_deadline(config: Settings, handbook: str) -> None:
    with admitting(config, handbook, search=1) as live, client(live) as http:
        with held(live):
            answer = http.post("/v1/search", json=BODY, headers={"X-Request-Timeout-Ms": "20"})
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert http.post("/v1/search", json=BODY).status_code == 200


@pytest.mark.parametrize("value", ["soon", "0", "-5", "nan", "inf"])
def test_an_unreadable_deadline_is_a_bad_request(live: Live, value: str) -> None:
    with client(live) as http:
        answer = http.post("/v1/search", json=BODY, headers={"X-Request-Timeout-Ms": value})
    assert answer.status_code == 400


def test_waiting_requests_are_served_when_a_slot_is_free(config: Settings, handbook: str) -> None:
    with (
        admitting(config, handbook, search=1) as live,
        client(live) as http,
        ThreadPoolExecutor() as threads,
    ):
        with held(live):
            waiting = [threads.submit(http.post, "/v1/search", json=BODY) for _ in range(3)]
            until_queued(live, 3)
        assert [answer.result(WAIT).status_code for answer in waiting] == [200] * 3
        assert statistics(live).in_flight == 0


def test_a_client_that_leaves_loses_its_place(config: Settings, handbook: str) -> None:
    async def ask_and_leave(live: Live) -> None:
        async with httpx.AsyncClient(base_url=live.address, timeout=WAIT) as http:
            asking = asyncio.create_task(http.post("/v1/search", json=BODY))
            await asyncio.to_thread(until_queued, live, 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    with admitting(config, handbook, search=1) as live, held(live):
        asyncio.run(ask_and_leave(live))
        until_queued(live, 0)
        live.idle()
        assert live.state.trace.counters()["clients.gone"] == 1


def test_readyz_gives_503_while_most_requests_are_refused(config: Settings, handbook: str) -> None:
    with admitting(config, handbook, search=1, queue=0) as live, client(live) as http:
        assert http.get("/readyz").status_code == 200
        with held(live):
            for _ in range(HOPELESS):
                assert http.post("/v1/search", json=BODY).status_code == 503
            assert http.get("/readyz").status_code == 503
            assert http.get("/healthz").status_code == 200


def test_a_draining_server_refuses_new_requests(config: Settings, handbook: str) -> None:
    with admitting(config, handbook) as live, client(live) as http:
        live.state.draining = True
        answer = http.post("/v1/search", json=BODY)
        assert answer.status_code == 503
        assert answer.headers["connection"] == "close"
        assert answer.json()["error"]["code"] == "shutting_down"
        assert http.get("/readyz").status_code == 503
