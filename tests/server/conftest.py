"""A collection in both languages, and a server with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
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


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return settings.load(
        home=str(tmp_path / "home"), embed__workers=1, server__max_body_mib=1, queries__log=False
    )


@pytest.fixture
def handbook(config: Settings, tmp_path: Path) -> str:
    folder = tmp_path / "docs"
    folder.mkdir()
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


@pytest.fixture
def live(serve: Serve) -> Live:
    return serve()


@pytest.fixture
def sdk(live: Live) -> Iterator[openai.OpenAI]:
    """The official client of the extractive server; it does not retry."""
    with client_of(live) as client:
        yield client


client_of: Callable[[Live], openai.OpenAI] = lambda live: openai.OpenAI(  # noqa: E731
    base_url=f"{live.address}/v1", api_key="none", max_retries=0, timeout=30
)
async_client_of = partial(openai.AsyncOpenAI, api_key="none", max_retries=0, timeout=30)
