"""A forward pass that nobody waits for any more is stopped; one that somebody does is not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vivace.embed.minilm import DIM, MiniLM


class Endless:
    """A session whose pass ends when it is told to, or may."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.may = threading.Event()
        self.stopped = 0

    def run(self, names: list[str], feed: Any, options: Any) -> list[Any]:
        self.running.set()
        while not self.may.wait(0.002):
            if options.terminate:
                self.stopped += 1
                raise RuntimeError("Exiting due to terminate flag being set to true.")
        return [np.ones((len(feed["input_ids"]), DIM), np.float32)]


@pytest.fixture
def session() -> Endless:
    return Endless()


@pytest.fixture
def embedder(session: Endless) -> Iterator[MiniLM]:
    made = MiniLM(workers=1, batch=8)
    made._session = session
    yield made
    session.may.set()
    made.close()


async def begun(session: Endless) -> None:
    await asyncio.to_thread(session.running.wait, 10)


async def ended(embedder: MiniLM) -> None:
    async with asyncio.timeout(10):
        while embedder._passes:  # noqa: ASYNC110 - the worker tells nobody
            await asyncio.sleep(0.002)


async def test_a_pass_that_everybody_has_left_is_stopped(
    embedder: MiniLM, session: Endless
) -> None:
    asking = [
        asyncio.create_task(embedder.embed(["one"], kind="query")),
        asyncio.create_task(embedder.embed_then("two", lambda vector, tokens: vector)),
    ]
    await begun(session)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await ended(embedder)
    assert session.stopped >= 1
    # and the worker is there for the next one
    session.may.set()
    assert (await embedder.embed(["three"], kind="query")).vectors.shape == (1, DIM)


async def test_a_pass_that_one_still_waits_for_goes_on(embedder: MiniLM, session: Endless) -> None:
    blocking = asyncio.create_task(embedder.embed(["first"], kind="query"))
    await begun(session)
    leaving, staying = (
        asyncio.create_task(embedder.embed([text], kind="query")) for text in ("leave", "stay")
    )
    await asyncio.sleep(0.01)  # both wait, and will share a pass
    session.running.clear()
    blocking.cancel()
    await begun(session)
    leaving.cancel()
    await asyncio.sleep(0.05)
    assert session.stopped == 1  # the first one alone
    session.may.set()
    assert (await staying).vectors.shape == (1, DIM)


def test_the_runtime_obeys() -> None:
    from onnxruntime import RunOptions

    made = MiniLM(workers=1, batch=8)
    try:
        session, options = made._load_session(), RunOptions()
        feed = made._load_tokens().feed(["text"])
        assert session.run(["embedding"], feed, options)
        options.terminate = True
        with pytest.raises(Exception, match="terminate"):
            session.run(["embedding"], feed, options)
    finally:
        made.close()
