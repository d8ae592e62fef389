"""Run the application: uvicorn with uvloop and httptools, one process, on a bound socket."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn
from fastapi import FastAPI

from vivace.errors import BadInput
from vivace.server.admission import LoadShedder
from vivace.server.app import create
from vivace.server.connection import SWEEP_SECONDS, HttpConnection
from vivace.server.sites import hosts_of
from vivace.server.state import AppState

_BACKLOG = 2048
_SWEEP_TICKS = round(SWEEP_SECONDS / 0.1)
"""uvicorn's server ticks ten times a second."""


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket to the address; it does not listen yet.

    Raises:
        BadInput: there is no such address, or it is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BadInput(f"{host}: {error}", fix="Give an address of this machine") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise BadInput(
            f"{host}:{port}: {error.strerror}", fix="--port 0 takes any free port"
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


class HttpServer(uvicorn.Server):
    """Calls `ready` when it accepts requests, and returns normally when a signal stops it."""

    def __init__(self, config: uvicorn.Config, state: AppState, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._state = state
        self._ready = ready

    async def on_tick(self, counter: int) -> bool:
        if counter % _SWEEP_TICKS == 0:
            now = asyncio.get_running_loop().time()
            self._state.connections.sweep(self.server_state.connections, now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._state.draining = True
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but without raising the captured signal again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in wanted}
        try:
            yield
        finally:
            for number, previous in before.items():
                signal.signal(number, previous)


def server(state: AppState, app: FastAPI, ready: Callable[[], None] = lambda: None) -> HttpServer:
    """A server for the application; `ready` is called when requests are accepted."""
    uvloop = "uvloop" if sys.platform != "win32" else "asyncio"
    config = uvicorn.Config(
        LoadShedder(app, state),
        loop=uvloop,
        # uvicorn calls it as it would call the class
        http=partial(HttpConnection, state.connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",  # uvicorn logs a lifespan's error and exits; `serve` raises it
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        # a fraction is fine: it goes to asyncio.wait_for
        timeout_graceful_shutdown=state.settings.server.drain_seconds,  # type: ignore[arg-type]
    )
    return HttpServer(config, state, ready)


def serve(state: AppState, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, then wait `server.drain_seconds` for running answers.

    Raises:
        VivaceError: the engine or a collection could not be opened.
    """
    hosts = hosts_of(state.settings.server.hosts, bound.getsockname()[0])
    running = server(state, create(state, hosts=hosts), ready)

    async def opened() -> None:
        async with state.opened():
            # what is loaded now stays: a full collection that walks it pauses the process for 50 ms
            gc.collect()
            gc.freeze()
            await running.serve(sockets=[bound])
            # after a second signal uvicorn returns at once and leaves its tasks running
            for task in running.server_state.tasks:
                task.cancel()

    try:
        with asyncio.Runner(loop_factory=running.config.get_loop_factory()) as runner:
            runner.run(opened())
    finally:
        bound.close()
