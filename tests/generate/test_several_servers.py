"""One model on two servers, of which one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.generate.canned import DONE, END, SSE, canned, chunk, deltas, refused
from vivace.errors import ModelTimeout, ModelUnreachable, StreamCut
from vivace.generate.openai import OpenAI
from vivace.run.balance import Endpoint, ServerStatistics
from vivace.run.breaker import Tolerance
from vivace.run.model_servers import ModelServer
from vivace.settings import Generate
from vivace.testing.fake_llm import FakeModel
from vivace.testing.faults import Fault

FakeModels = Callable[..., FakeModel]
GOOD = SSE + chunk("a") + END + DONE


@pytest.fixture
def fakes() -> Any:
    made: list[FakeModel] = []

    def make(**arguments: Any) -> FakeModel:
        made.append(FakeModel(**arguments).start())
        return made[-1]

    yield make
    for fake in made:
        fake.stop()


def client(*urls: str, tolerance: Tolerance | None = None, **settings: Any) -> OpenAI:
    settings = {"retries": 1, "max_tokens": 64, **settings}
    several = [ModelServer("m", url) for url in urls]
    return OpenAI(several, Generate(**settings), tolerance=tolerance)


def seen(model: OpenAI) -> list[ServerStatistics]:
    return list(model.server_statistics().servers)


async def test_requests_are_shared_and_connections_counted(fakes: FakeModels) -> None:
    one, other = fakes(), fakes()
    model = client(one.url, other.url)
    try:
        await asyncio.gather(*(deltas(model) for _ in range(8)))
        found = seen(model)
        assert [server.name for server in found] == [one.url, other.url]
        for server, fake in zip(found, (one, other), strict=True):
            assert fake.statistics().requests == 4
            assert (server.started, server.succeeded, server.in_use) == (4, 4, 0)
            assert 1 <= server.idle <= 5  # one may have asked for the server's slots
            assert server.latency > 0
    finally:
        await model.close()


async def test_a_server_that_hangs_is_not_waited_for_twice(fakes: FakeModels) -> None:
    """One server is not asked again after it was too slow; another one is."""
    hangs, good = fakes(faults=[Fault("slow")]), fakes()
    model = client(hangs.url, good.url, first_token_seconds=0.5)
    try:
        assert (await deltas(model))[-1].finish_reason == "stop"
        assert [server.failed for server in seen(model)] == [1, 0]
    finally:
        await model.close()
    alone = client(hangs.url, first_token_seconds=0.5)
    try:
        with pytest.raises(ModelTimeout):
            await deltas(alone)
        assert seen(alone)[0].started == 1
    finally:
        await alone.close()


async def test_a_slow_server_gets_less(fakes: FakeModels) -> None:
    slow, fast = fakes(ttft_ms=100), fakes()
    model = client(slow.url, fast.url)

    async def user() -> None:
        for _ in range(10):
            await deltas(model)

    try:
        await asyncio.gather(*(user() for _ in range(4)))
        first, second = seen(model)
        assert first.started + second.started == 40
        assert second.started > 2 * first.started
        assert first.latency > second.latency
    finally:
        await model.close()


async def test_refused_parameters_are_remembered_by_server() -> None:
    no = refused(400, "Unsupported: temperature")
    async with canned(no, GOOD) as picky, canned(GOOD) as plain:
        model = client(picky.url, plain.url)
        try:
            for _ in range(4):
                assert (await deltas(model))[0].text == "a"
            assert ["temperature" in sent for sent in picky.requests] == [True, False, False]
            assert all("temperature" in sent for sent in plain.requests)
        finally:
            await model.close()


async def test_the_error_comes_at_once_where_all_servers_are_dead(fakes: FakeModels) -> None:
    one, other = fakes(), fakes()
    one.stop()
    other.stop()
    long = Tolerance(in_row=1, first=60, longest=60)
    model = client(one.url, other.url, tolerance=long)
    try:
        with pytest.raises(ModelUnreachable, match="cannot be reached"):
            await deltas(model)
        for _ in range(3):
            with pytest.raises(ModelUnreachable, match=r"every server .* Try again in \d+"):
                await deltas(model)
        assert [server.started for server in seen(model)] == [1, 1], "nobody was asked"
    finally:
        await model.close()


async def test_a_stream_that_breaks_off_is_the_error_it_was(fakes: FakeModels) -> None:
    cut, good = fakes(faults=[Fault("cut", after=True)]), fakes()
    model = client(cut.url, good.url)
    try:
        with pytest.raises(StreamCut) as raised:
            await deltas(model)
        assert raised.value.text
        assert [server.started for server in seen(model)] == [1, 0], "nothing is tried again"
        first = seen(model)[0]
        assert (first.failed, first.succeeded, first.in_use) == (1, 0, 0)
    finally:
        await model.close()


async def test_no_more_requests_at_once_than_allowed_while_servers_come_and_go(
    fakes: FakeModels,
) -> None:
    one, other = fakes(ttft_ms=20), fakes(ttft_ms=20)
    model = client(one.url, connections=2)
    try:
        tasks = [asyncio.create_task(deltas(model)) for _ in range(24)]
        await asyncio.to_thread(one.wait, lambda s: s.completed >= 4)
        model.endpoints.balance.put(Endpoint(other.url, bound=3))
        await asyncio.to_thread(other.wait, lambda s: s.completed >= 3)
        model.endpoints.balance.remove(one.url)
        await model.endpoints.drained(one.url)
        assert all(found[-1].finish_reason == "stop" for found in await asyncio.gather(*tasks))
        assert one.statistics().most_running == 2
        assert 1 <= other.statistics().most_running <= 3
        assert [server.name for server in seen(model)] == [other.url]
        assert model.server_statistics().waiting == 0
    finally:
        await model.close()


@pytest.mark.parametrize("running", [True, False])
async def test_cancelling_gives_the_place_back(fakes: FakeModels, running: bool) -> None:
    fake = fakes(faults=[Fault("slow", first=1)])
    model = client(fake.url, connections=1)
    try:
        first = asyncio.create_task(deltas(model))
        await asyncio.to_thread(fake.wait, lambda s: s.running == 1)
        second = asyncio.create_task(deltas(model))
        await asyncio.sleep(0)
        (first if running else second).cancel()
        if running:
            assert (await second)[-1].finish_reason == "stop"
        else:
            first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        server = seen(model)[0]
        assert (server.in_use, server.failed) == (0, 0)
        assert model.server_statistics().waiting == 0
    finally:
        await model.close()
