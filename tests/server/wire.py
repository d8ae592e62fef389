"""Connections of the server without sockets: what they hold and write can be counted."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from vivace.server.connection import ConnectionLimits, HttpConnection
from vivace.settings import Server
from vivace.trace import Trace


class FakeTransport(asyncio.Transport):
    """Keeps what is written; its client reads only when `read` is called, if `takes` is False."""

    def __init__(self, address: str = "127.0.0.1", *, takes: bool = True) -> None:
        super().__init__({"peername": (address, 50000), "sockname": ("127.0.0.1", 8765)})
        self.written = b""
        self.unread = 0
        self.ended = False
        """The server has sent all that it will send."""
        self.aborted = False
        self.closing = False
        self.paused = False
        self.takes = takes
        self.protocol: HttpConnection

    def write(self, data: Any) -> None:
        self.written += bytes(data)
        if not self.takes:
            self.unread += len(data)
            if self.unread > 65_536 and not self.protocol.flow.write_paused:
                self.protocol.pause_writing()

    def read(self) -> None:
        """The client takes everything."""
        self.unread = 0
        self.protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self.unread

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = self.ended = True

    def abort(self) -> None:
        self.closing = self.ended = self.aborted = True

    @property
    def over(self) -> bool:
        """Whether the client sees the end of the connection."""
        return self.ended


class Wire:
    """Connections to one application, in a running event loop."""

    def __init__(self, app: ASGIApp, trace: Trace, settings: Server | None = None) -> None:
        self.limits = ConnectionLimits(settings or Server(), trace)
        self.config = uvicorn.Config(app, ws="none", log_config=None, lifespan="off")
        self.config.load()
        self.state = ServerState()

    def connect(self, transport: FakeTransport | None = None) -> HttpConnection:
        transport = transport or FakeTransport()
        connection = HttpConnection(
            self.limits, config=self.config, server_state=self.state, app_state={}
        )
        transport.protocol = connection
        connection.connection_made(transport)
        return connection

    def sweep(self, after: float = 0.0) -> None:
        """As the server's, but so many seconds later."""
        now = asyncio.get_running_loop().time() + after
        self.limits.sweep(self.state.connections, now)

    async def settle(self) -> None:
        """Wait until every request has been answered."""
        while self.state.tasks:
            await asyncio.wait(set(self.state.tasks))


def transport_of(connection: HttpConnection) -> FakeTransport:
    transport = connection.transport
    assert isinstance(transport, FakeTransport)
    return transport


def statuses(written: bytes) -> list[int]:
    """Of the responses whose bodies hold no status lines."""
    return [int(part[:3]) for part in written.split(b"HTTP/1.1 ")[1:]]
