"""Requests that come whether or not the last one was answered: Poisson arrivals over HTTP.

A generator that waits for answers slows down with the server and hides what it measures. Raw
protocols over kept connections and requests that are bytes beforehand: over 1,600 a second from
one core. Times count from when a request was due, not from when the generator came to send it.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
GONE = 0
"""In place of a status: no answer, and the client left."""


@dataclass(slots=True)
class Asked:
    """`due`, `sent` and `ended` are times of `time.perf_counter()`."""

    due: float
    sent: float = 0.0
    ended: float = 0.0
    status: int = GONE
    waiter: asyncio.Future[None] | None = None

    def end(self, status: int) -> None:
        self.status, self.ended = status, time.perf_counter()
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def good(self, deadline: float) -> bool:
        return self.status == 200 and self.ended - self.due <= deadline


class _Connection(asyncio.Protocol):
    def __init__(self, idle: list[_Connection]) -> None:
        self._idle = idle
        self._seen = b""
        self._left = -1
        self._asked: Asked | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def send(self, asked: Asked, request: bytes, patience: float) -> None:
        self._asked, self._seen, self._left = asked, b"", -1
        asked.sent = time.perf_counter()
        self.transport.write(request)
        later = max(0.0, asked.due + patience - asked.sent)
        self._timer = asyncio.get_running_loop().call_later(later, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._asked is None:
            return
        self._seen += data
        if self._left < 0:
            end = self._seen.find(b"\r\n\r\n")
            length = _LENGTH.search(self._seen, 0, end) if end >= 0 else None
            if length is None:
                return
            self._left = end + 4 + int(length[1])
        if len(self._seen) < self._left:
            return
        asked, self._asked = self._asked, None
        self._timer.cancel()
        self._idle.append(self)
        asked.end(int(self._seen[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        if self._asked is not None:
            self._timer.cancel()
            self._asked.end(GONE)
        if self in self._idle:
            self._idle.remove(self)
        if not self.done.done():
            self.done.set_result(None)


class Load:
    """Clients of one server, with as many connections as they need.

    Args:
        patience: seconds after which a client leaves.
    """

    def __init__(self, address: str, *, patience: float) -> None:
        url = urlsplit(address)
        self._host, self._port = url.hostname or "127.0.0.1", url.port or 80
        self._patience = patience
        self._idle: list[_Connection] = []
        self._all: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()

    async def offer(
        self, requests: Sequence[bytes], rate: float, seconds: float, draw: random.Random
    ) -> list[Asked]:
        """`rate` requests a second, on the average, for some seconds; waits for their answers."""
        asked: list[Asked] = []
        due = time.perf_counter()
        end = due + seconds
        while (due := due + draw.expovariate(rate)) < end:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            elif len(asked) % 64 == 0:
                await asyncio.sleep(0)  # behind its time, it still has to read
            one = Asked(due)
            asked.append(one)
            self._ask(one, requests[len(asked) % len(requests)])
        await asyncio.sleep(self._patience + 0.1)  # by then each is answered, or its client gone
        assert all(one.ended for one in asked)
        return asked

    async def one(self, request: bytes) -> Asked:
        """Ask now, and wait for the answer."""
        asked = Asked(time.perf_counter())
        asked.waiter = asyncio.get_running_loop().create_future()
        self._ask(asked, request)
        await asked.waiter
        return asked

    async def close(self) -> None:
        for connection in self._all:
            connection.transport.abort()
        await asyncio.gather(*(connection.done for connection in self._all))

    def _ask(self, one: Asked, request: bytes) -> None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                connection.send(one, request, self._patience)
                return
        task = asyncio.ensure_future(self._open(one, request))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, one: Asked, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self._idle), self._host, self._port
            )
        except OSError:
            one.end(GONE)
            return
        self._all.append(connection)
        connection.send(one, request, self._patience)


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%b"
        b"Content-Length: %d\r\n\r\n%b" % (path.encode(), lines, len(body), body)
    )
