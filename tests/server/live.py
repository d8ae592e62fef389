"""A real server on a free loopback port, and answerers made for its tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vivace.engine import Collection, Engine
from vivace.protocols import Answerer, Search
from vivace.server.app import create
from vivace.server.run import address_of, listen, server
from vivace.server.state import AppState
from vivace.settings import Settings
from vivace.types import Answer, AnswerOptions, Citation, Delta, Query, SearchResult, Span, Usage

PLAIN = AnswerOptions()
HEAD = (
    b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)
"""Of a raw request: to be filled with a path and the length of the body."""
WAIT = 20.0
"""Seconds a test waits for what should happen at once, on a machine that is busy."""


@dataclass
class Stub:
    """An answerer whose script the test writes. `stopped` is set when its generator has ended."""

    script: Callable[[Stub, Query, SearchResult], AsyncIterator[Delta]]
    name: str = "stub"
    options: list[AnswerOptions] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    async def stream(
        self, query: Query, search: Search, options: AnswerOptions = PLAIN
    ) -> AsyncIterator[Delta]:
        self.options.append(options)
        self.questions.append(query.text)
        result = await search(query)
        self.started.set()
        try:
            async for delta in self.script(self, query, result):
                yield delta
        finally:
            self.stopped.set()

    async def close(self) -> None: ...


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def tokens(stub: Stub, query: Query, result: SearchResult) -> AsyncIterator[Delta]:
    """200 tokens, the first of them cited, with usage."""
    pieces = [f"token{number} " for number in range(200)]
    for piece in pieces:
        yield Delta(piece)
    chunk = result.hits[0].chunk
    yield Delta(
        answer=Answer(
            "".join(pieces),
            result.hits,
            (Citation(1, chunk, chunk.start, chunk.start + 3, chunk.text[:3]),),
            (Span(0, 6, 1),),
            generator="stub",
            usage=Usage(11, 200, 5),
            cost=0.25,
            finish_reason="length",
        )
    )


async def silence(stub: Stub, query: Query, result: SearchResult) -> AsyncIterator[Delta]:
    await for_ever()
    yield Delta("never")


async def one_then_silence(stub: Stub, query: Query, result: SearchResult) -> AsyncIterator[Delta]:
    yield Delta("one")
    await for_ever()


@dataclass
class Live:
    address: str
    state: AppState
    loop: asyncio.AbstractEventLoop
    stop: Callable[[], None]
    thread: threading.Thread

    def tasks(self) -> int:
        """The tasks on the server's loop, this question's own not counted."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return asyncio.run_coroutine_threadsafe(count(), self.loop).result(WAIT)

    def idle(self) -> None:
        """Wait until no request is being answered."""

        async def wait() -> None:
            await self.state.in_flight.idle()

        asyncio.run_coroutine_threadsafe(wait(), self.loop).result(WAIT)


@contextmanager
def serving(
    settings: Settings,
    collections: list[str],
    answerer: Answerer | None = None,
    *,
    heartbeat: float = 30.0,
) -> Iterator[Live]:
    """A server in a thread of its own, stopped and drained at the end."""

    class StubEngine(Engine):
        async def open(self, name: str | Path = "default", *, create: bool = True) -> Collection:
            docs = await super().open(name, create=create)
            docs.answerer = answerer or docs.answerer
            return docs

    state = AppState(settings, collections, engine=StubEngine)
    ready = threading.Event()
    bound = listen("127.0.0.1", 0)
    running = server(state, create(state, heartbeat=heartbeat), ready.set)
    loops: list[asyncio.AbstractEventLoop] = []
    errors: list[BaseException] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        async with state.opened():
            await running.serve(sockets=[bound])

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=running.config.get_loop_factory()) as runner:
                runner.run(main())
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()

    address = address_of(bound)
    thread = threading.Thread(target=work)
    thread.start()

    def stop() -> None:
        running.should_exit = True

    try:
        assert ready.wait(60)
        assert not errors, errors
        yield Live(address, state, loops[0], stop, thread)
    finally:
        stop()
        thread.join(60)
        bound.close()
        assert not thread.is_alive()
    assert not errors, errors
