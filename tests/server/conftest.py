"""A collection in both languages, and a server with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Protocol

import openai
import pytest

from tests.server.live import Live, serving
from vivace import settings
from vivace.engine import Engine
from vivace.protocols import Answerer
from vivace.settings import Settings

TEXTS = {
    "leave.md": "# Leave\n\nThe notice period is six weeks.\n\n# Food\n\nLunch is at noon.\n",
    "zh.txt": "试用期为三个月。年假为十五天。",
}


class Serve(Protocol):
    def __call__(self, answerer: Answerer | None = None, **options: float) -> Live: ...


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings.load(
        home=str(tmp_path_factory.mktemp("home")),
        embed__workers=1,
        server__max_body_mib=1,
        server__drain_seconds=0.2,
        queries__log=False,
    )


@pytest.fixture(scope="module")
def handbook(config: Settings, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("docs")
    for name, text in TEXTS.items():
        (folder / name).write_text(text, "utf-8")

    async def ingest() -> None:
        async with Engine(config) as engine:
            docs = await engine.open("handbook")
            assert not (await docs.ingest(folder)).errors

    asyncio.run(ingest())
    return "handbook"


@pytest.fixture
def serve(config: Settings, handbook: str) -> Iterator[Serve]:
    """Start servers of the collection; they are stopped at the end of the test."""
    with ExitStack() as stack:

        def start(answerer: Answerer | None = None, **options: float) -> Live:
            return stack.enter_context(serving(config, [handbook], answerer, **options))

        yield start


@pytest.fixture(scope="module")
def live(config: Settings, handbook: str) -> Iterator[Live]:
    """A server that answers by quoting, shared by the tests of a module."""
    with serving(config, [handbook]) as live:
        yield live


@pytest.fixture
def sdk(live: Live) -> Iterator[openai.OpenAI]:
    """The official client of that server; it does not retry."""
    with client_of(live) as client:
        yield client


def client_of(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.address}/v1", api_key="none", max_retries=0, timeout=30)


async_client_of = partial(openai.AsyncOpenAI, api_key="none", max_retries=0, timeout=30)
