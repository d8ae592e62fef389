"""A forward pass is stopped once no caller waits for any of its texts, and not before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vivace.embed import minilm
from vivace.embed.minilm import DIM, FOLDER, MiniLM, MiniLMTokenizer, open_session
from vivace.run.work import Priority


class Endless:
    """A session whose pass ends when it is terminated or `may` is set."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.may = threading.Event()
        self.ended = threading.Event()
        self.stopped = 0

    def run(self, names: list[str], feed: Any, options: Any) -> list[Any]:
        self.running.set()
        while not self.may.wait(0.002):
            if options.terminate:
                self.stopped += 1
                self.ended.set()
                raise RuntimeError("Exiting due to terminate flag being set to true.")
        return [np.ones((len(feed["input_ids"]), DIM), np.float32)]


@pytest.fixture
def session() -> Endless:
    return Endless()


@pytest.fixture
def embedder(session: Endless, monkeypatch: pytest.MonkeyPatch) -> Iterator[MiniLM]:
    monkeypatch.setattr(minilm, "open_session", lambda _: session)
    made = MiniLM(workers=1, batch=8)
    yield made
    session.may.set()
    made.close()


async def begun(session: Endless) -> None:
    assert await asyncio.to_thread(session.running.wait, 10)


async def queued(embedder: MiniLM, texts: int) -> None:
    async with asyncio.timeout(10):
        while embedder.statistics()[0].queued[Priority.INTERACTIVE] < texts:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_pass_that_every_caller_has_left_is_stopped(
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
    assert await asyncio.to_thread(session.ended.wait, 10)
    assert session.stopped >= 1
    # and the worker is there for the next one
    session.may.set()
    assert (await embedder.embed(["three"], kind="query")).vectors.shape == (1, DIM)


async def test_a_pass_that_one_caller_still_waits_for_goes_on(
    embedder: MiniLM, session: Endless
) -> None:
    blocking = asyncio.create_task(embedder.embed(["first"], kind="query"))
    await begun(session)
    leaving, staying = (
        asyncio.create_task(embedder.embed([text], kind="query")) for text in ("leave", "stay")
    )
    await queued(embedder, 2)  # they will share a pass
    session.running.clear()
    blocking.cancel()
    await begun(session)
    leaving.cancel()
    await asyncio.gather(blocking, leaving, return_exceptions=True)
    session.may.set()
    assert (await staying).vectors.shape == (1, DIM)
    assert session.stopped == 1  # only the first pass


def test_the_runtime_obeys() -> None:
    from onnxruntime import RunOptions

    session, options = open_session(FOLDER / "model.onnx"), RunOptions()
    feed = MiniLMTokenizer(FOLDER / "tokenizer.json").feed(["text"])
    assert session.run(["embedding"], feed, options)
    options.terminate = True
    with pytest.raises(Exception, match="terminate"):
        session.run(["embedding"], feed, options)
