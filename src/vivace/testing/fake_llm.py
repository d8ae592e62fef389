"""A model server without a model: OpenAI's API over real sockets, seeded, with faults.

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
from dataclasses import replace
from typing import Any, Self

from aiohttp import web

from vivace.errors import BadInput
from vivace.testing.fake_wire import Behaviour, FakeState, FakeStatistics, FakeWire
from vivace.testing.faults import Fault

DEADLINE = 10.0
"""Default timeout of `wait` in seconds."""


class FakeModel:
    """Runs the server in its own thread, as a context manager. Port 0 is any free port.

    `behaviour` and keyword arguments (fields of `Behaviour`) define how it answers.
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
        self._state = FakeState(behaviour, random.Random(behaviour.seed))
        self._host = host
        self._port = port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        """Base URL of the API, ending in /v1."""
        return f"http://{self._host}:{self._port}/v1"

    def change(self, **fields: Any) -> None:
        """Change fields of the `Behaviour` from now on, e.g. `slots=4`."""
        with self._state.changed:
            self._state.behaviour = replace(self._state.behaviour, **fields)

    def statistics(self) -> FakeStatistics:
        with self._state.changed:
            return self._state.counts

    def prompts(self) -> list[str]:
        """The last message of each chat request, the newest hundred."""
        with self._state.changed:
            return list(self._state.prompts)

    def wait(
        self, until: Callable[[FakeStatistics], bool], seconds: float = DEADLINE
    ) -> FakeStatistics:
        """Block until `until(statistics)` holds; call it outside the client's event loop.

        Raises:
            TimeoutError: it did not hold within `seconds`.
        """
        state = self._state
        with state.changed:
            if not state.changed.wait_for(lambda: until(state.counts), seconds):
                raise TimeoutError(f"the fake model's statistics stayed {state.counts}")
            return state.counts

    def start(self) -> Self:
        """Start listening.

        Raises:
            BadInput: the address is not available.
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
        """Abort running requests and stop listening. Idempotent."""
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
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        runner = web.AppRunner(
            FakeWire(self._state, self._stop).application(),
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


def _watch_connections(runner: web.AppRunner, state: FakeState) -> None:
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
