"""A TCP proxy that tests can cut or silence, with optional TLS towards the client."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.services import free_port

CERTIFICATE = Path(__file__).with_name("loopback.pem")
"""The certificate that clients of `Proxy(tls=True)` have to trust; for 127.0.0.1 and localhost."""


class Proxy:
    """A proxy to a port of 127.0.0.1 that can be cut or silenced; with TLS towards the client.

    The server of the test wheel has no TLS, so the proxy terminates it.
    """

    def __init__(self, target: int, *, tls: bool = False) -> None:
        self.target = target
        self.port = free_port()
        self._context: ssl.SSLContext | None = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(CERTIFICATE)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._do(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection, and accept no new one."""
        self._do(self._cut())

    def mend(self) -> None:
        self._flows.set()
        if self._server is None:
            self._do(self._listen())

    def silence(self) -> None:
        """Connections stay open and nothing passes, until `cut` or `mend`."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._flows.set()
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self.port, ssl=self._context
        )

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            writer.transport.abort()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [answer]
        self._writers.add(answer)
        # a client that goes away, a server that is dead: both are what this is for
        with suppress(OSError, asyncio.CancelledError):
            far, ask = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(ask)
            self._writers.add(ask)
            both = [asyncio.ensure_future(self._pump(*one)) for one in ((near, ask), (far, answer))]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
            self._writers.discard(writer)
        self._tasks.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            await self._flows.wait()
            sink.write(data)
            await sink.drain()
