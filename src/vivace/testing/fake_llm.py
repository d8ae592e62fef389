"""A model server without a model: the OpenAI wire over real sockets, seeded, with faults.

with FakeModel(faults=[Fault("429", first=1)]) as fake:
    engine = Engine(generate__model=f"openai:fake@{fake.url}")
    ...
    assert fake.statistics().requests == 2
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeAlias

from aiohttp import web

from vivace.errors import BadInput
from vivace.testing.faults import Fault

Mode: TypeAlias = Literal["grounded", "scripted"]
DEADLINE = 10.0
"""Seconds that `wait` gives what it waits for."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the server answers. Times are in milliseconds."""

    mode: str = "grounded"
    """`grounded` answers from the prompt's passages with citations; `scripted` says `text`."""
    text: str = "The fake model has nothing to say."
    model: str = "fake"
    seed: int = 0
    ttft_ms: float = 0.0
    """Time to the first token of a prompt of which nothing is cached."""
    delay_ms: float = 0.0
    """Time between two tokens."""
    slots: int = 8
    """Requests served at full speed; with more, every time grows as their number to the slots."""
    slowdown: float = 1.0
    """The power of that growth; 0 is none."""
    tells: bool = False
    """Its slots, at /props and /slots, as llama.cpp does."""
    cache_blocks: int = 4096
    """Blocks of 16 tokens that the prefix cache keeps; 0 is no cache."""
    context: int = 0
    """Most tokens of a prompt that are read, the last ones; 0 is all. Nobody is told."""
    dim: int = 64
    """Of the embeddings."""
    retry_after: float = 0.05
    """Seconds, as a 429 tells them."""
    faults: tuple[Fault, ...] = ()
    """The first that strikes a request is its fault."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the server has seen."""

    requests: int = 0
    running: int = 0
    most_running: int = 0
    completed: int = 0
    cancelled: int = 0
    """Requests whose client went before the answer was whole."""
    faulted: int = 0
    embedded: int = 0
    """Texts."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    connections: int = 0
    """Open now."""


@dataclass
class State:
    """The server's own: only its loop's thread writes it, under the lock."""

    behaviour: Behaviour
    draw: random.Random
    changed: threading.Condition = field(default_factory=threading.Condition)
    counts: Statistics = field(default_factory=Statistics)
    prompts: list[str] = field(default_factory=list)
    """The last message of each chat request, oldest first; the newest hundred."""

    def count(self, **more: int) -> None:
        with self.changed:
            now = {name: getattr(self.counts, name) + by for name, by in more.items()}
            self.counts = replace(self.counts, **now)
            if self.counts.running > self.counts.most_running:
                self.counts = replace(self.counts, most_running=self.counts.running)
            self.changed.notify_all()


class FakeModel:
    """The server in a thread of its own, as a context manager. Port 0 is any free port.

    `behaviour` and keyword arguments (fields of `Behaviour`) say how it answers.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Sequence[Fault] = (),
        **fields: Any,
    ) -> None:
        if faults:
            fields["faults"] = tuple(faults)
        behaviour = replace(behaviour or Behaviour(), **fields)
        if behaviour.mode not in ("grounded", "scripted"):
            raise BadInput(f"there is no mode {behaviour.mode!r}", fix="grounded or scripted")
        self._state = State(behaviour, random.Random(behaviour.seed))
        self._host = host
        self._port = port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        """Where it listens, ending in /v1."""
        return f"http://{self._host}:{self._port}/v1"

    def change(self, **fields: Any) -> None:
        """Behave otherwise from now on: fields of `Behaviour`, e.g. `slots=4`."""
        with self._state.changed:
            self._state.behaviour = replace(self._state.behaviour, **fields)

    def statistics(self) -> Statistics:
        with self._state.changed:
            return self._state.counts

    def prompts(self) -> list[str]:
        """The last message of each chat request, the newest hundred."""
        with self._state.changed:
            return list(self._state.prompts)

    def wait(self, until: Callable[[Statistics], bool], seconds: float = DEADLINE) -> Statistics:
        """Block until the statistics are so; from another thread than the client's loop.

        Raises:
            TimeoutError: they were not, in time.
        """
        state = self._state
        with state.changed:
            if not state.changed.wait_for(lambda: until(state.counts), seconds):
                raise TimeoutError(f"the fake model's statistics stayed {state.counts}")
            return state.counts

    def start(self) -> Self:
        """Listen.

        Raises:
            BadInput: the address cannot be had.
        """
        self._thread = threading.Thread(target=self._run, name="fake-llm", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise BadInput(
                f"cannot listen on {self._host}:{self._port}: {self._failure}",
                fix="Choose another --port; 0 is any free one",
            ) from self._failure
        return self

    def stop(self) -> None:
        """Break off what runs and stop listening. Idempotent."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.is_set():
                raise
            self._failure = error  # `start` raises it
        finally:
            self._started.set()

    async def _serve(self) -> None:
        from vivace.testing.fake_wire import Wire

        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        runner = web.AppRunner(
            Wire(self._state, self._stop).application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.1,
            keepalive_timeout=3600,
        )
        await runner.setup()
        try:
            _watch_connections(runner, self._state)
            site = web.TCPSite(runner, self._host, self._port, backlog=1024)
            await site.start()
            self._port = runner.addresses[0][1]
            self._started.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()


def _watch_connections(runner: web.AppRunner, state: State) -> None:
    """Count the server's open connections."""
    server = runner.server
    assert server is not None  # made by setup()
    made, lost = server.connection_made, server.connection_lost

    def connection_made(handler: Any, transport: asyncio.Transport) -> None:
        state.count(connections=1)
        made(handler, transport)

    def connection_lost(handler: Any, exc: BaseException | None = None) -> None:
        state.count(connections=-1)
        lost(handler, exc)

    server.connection_made = connection_made  # type: ignore[method-assign]
    server.connection_lost = connection_lost  # type: ignore[method-assign]
