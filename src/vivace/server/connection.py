"""Connections of clients, bounded: how many, how large a request's head, how long it may take.

uvicorn's protocol reads heads of any size for any time, keeps trailers, and counts nothing. One
sweep over all connections, twice a second, ends those that take too long: no request has a timer
of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable
from enum import Enum, auto
from ipaddress import IPv6Address, ip_address
from math import inf
from typing import TYPE_CHECKING, Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from vivace.errors import VivaceError
from vivace.server import errors
from vivace.server.errors import (
    CLOSE,
    BadHttp,
    HeadTooLarge,
    RequestTimeout,
    TooManyConnections,
    UrlTooLong,
)
from vivace.settings import Server
from vivace.trace import Trace

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

log = logging.getLogger("vivace.server")
SWEEP_SECONDS: Final = 0.5
_LINGER_SECONDS: Final = 1.0
"""How long a refused client may read its answer before its connection is cut."""
_LINGER_BYTES: Final = 1 << 20
"""What a refused client may still send: closing with unread bytes would reset the connection, and
the reset may overtake the answer."""
_WRITE_SECONDS: Final = 10.0
_WRITE_RATE: Final = 16_384
"""Bytes a second: a client that reads an answer more slowly, after `_WRITE_SECONDS`, is cut off."""
_WAKE_UPS: Final = 4
"""How often an application is told that a body is late before its connection is cut."""
_MOST_PIPELINED: Final = 16
_MOST_TRAILERS: Final = 4096
"""Bytes; they are dropped."""
_MOST_FRAMING: Final = 16_384
"""Bytes of chunk sizes, chunk extensions and trailers, beside eight for each byte of the body."""
_LINE_SECONDS: Final = 10.0
"""At least so long between two lines of the log about refused connections."""
_RETRY_SECONDS: Final = 5.0
_SPARE_FILES: Final = 128
"""Files that stay free for collections, models and other servers, whatever clients open."""


class ConnectionLimits:
    """Counts the open connections, refuses those above the bounds, and logs that it did.

    Args:
        files: most files that the process may open; None is no bound.
    """

    def __init__(self, settings: Server, trace: Trace, *, files: int | None = None) -> None:
        self.settings = settings
        self.trace = trace
        self.most = settings.connections
        if files is not None:
            self.most = min(self.most, max(files - _SPARE_FILES, files // 2, 1))
        self.count = 0
        self._by_address: Counter[str] = Counter()
        self._unlogged = 0
        self._next_line = -inf
        self._out_of_files = False

    def enter(self, address: str) -> TooManyConnections | None:
        """Count a new connection; the error where it is one too many, and is not counted."""
        if self.count >= self.most:
            what, fix = f"{self.most:,} connections are open", "Try again later"
        elif self._by_address[address] >= self.settings.connections_per_address:
            what = f"{self.settings.connections_per_address:,} connections of {address} are open"
            fix = "Use fewer at once, or raise server.connections_per_address"
        else:
            self.count += 1
            self._by_address[address] += 1
            return None
        self._unlogged += 1
        return TooManyConnections(what, fix=fix, retry_after=_RETRY_SECONDS)

    def leave(self, address: str) -> None:
        self.count -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def sweep(self, connections: Iterable[object], now: float) -> None:
        """End what takes too long, and log what was refused. `now` is the event loop's time."""
        for each in tuple(connections):
            if isinstance(each, HttpConnection) and each.due(now):
                each.expire(now)
        if self._unlogged and now >= self._next_line:
            log.warning(
                "refused %d connections: %d are open, at most %d may be, %d of one address "
                "(server.connections, server.connections_per_address)",
                self._unlogged,
                self.count,
                self.most,
                self.settings.connections_per_address,
            )
            self._unlogged, self._next_line = 0, now + _LINE_SECONDS
        self._check_files()

    def _check_files(self) -> None:
        """Log when the process can open no more files: the event loop drops new connections."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            self.trace.count("files.exhausted")
            if not self._out_of_files:
                log.error(
                    "new connections are refused, no file can be opened (%s): raise the limit "
                    "(ulimit -n) or lower server.connections",
                    error.strerror,
                )
            self._out_of_files = True
        else:
            if self._out_of_files:
                log.warning("files can be opened again: new connections are accepted")
            self._out_of_files = False


def most_files() -> int | None:
    """How many files the process may open; None where the system has no such limit."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def address_key(host: str) -> str:
    """What connections are counted by: an IPv4 address, or the /64 network of an IPv6 one."""
    if ":" not in host:
        return host
    address = ip_address(host.partition("%")[0])
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


class _Stage(Enum):
    BETWEEN = auto()
    """Nothing of a request has been received, or all of it."""
    HEAD = auto()
    BODY = auto()


class HttpConnection(HttpToolsProtocol):
    """uvicorn's protocol within `ConnectionLimits`.

    A request is begun only once the client has taken the answers before it: otherwise a client that
    never reads would hold a slot with its second request.
    """

    def __init__(self, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(**options)
        settings = limits.settings
        self._limits = limits
        self._most_head = settings.max_head_kib << 10
        self._most_url = settings.max_url_bytes
        self._most_headers = settings.max_headers
        self._head_seconds = settings.head_seconds
        self._body_seconds = settings.body_seconds
        self._idle_seconds = settings.idle_seconds
        self.deadline = inf
        """The loop's time at which `expire` is due; for reading and for closing."""
        self.write_deadline = inf
        """The same for a client that does not read."""
        self._stage = _Stage.BETWEEN
        self._counted = False
        self._current: RequestResponseCycle | None = None
        """The request that is with the application; `cycle` is the last one that arrived."""
        self._deaf = False
        """The connection is being refused: what still arrives is dropped."""
        self._dropped = 0
        self._broken: VivaceError | None = None
        """Why a callback of the parser has stopped it."""
        self._fed = 0
        """Bytes that the parser is reading now."""
        self._head_bytes = 0
        """Of the unfinished head, in reads before this one."""
        self._framing = 0
        """Bytes of the unfinished body that were read, less those that are the body's."""
        self._body_bytes = 0
        self._trailers = 0
        self._wake_ups = 0

    # -- of the transport -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = address_key(self.client[0]) if self.client else ""
        refusal = self._limits.enter(self._address)
        if refusal is not None:
            self._refuse(refusal)
            self.transport.close()
            return
        self._counted = True
        self.deadline = self.loop.time() + self._head_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        if self._counted:
            self._counted = False
            self._limits.leave(self._address)
        super().connection_lost(exc)
        if self._current is not None:
            self._current.disconnected = True
            self._current.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._dropped += len(data)
            if self._dropped > _LINGER_BYTES:
                self.transport.abort()
            return
        before, self._fed = self._stage, len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as if no upgrade were asked for
        except httptools.HttpParserError as error:
            self._refuse(self._broken or BadHttp(f"no HTTP request: {error}", fix="Send HTTP/1.1"))
            return
        if self._stage is not _Stage.BETWEEN:
            self._bound_unfinished(before)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.write_deadline = self._flushed(self.loop.time())

    def resume_writing(self) -> None:
        super().resume_writing()
        self.write_deadline = inf
        self._begin_next()

    # -- of the parser --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stage = _Stage.HEAD
        self._head_bytes = 0
        self.deadline = self.loop.time() + self._head_seconds

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage is not _Stage.HEAD:
            self._trailers += len(name) + len(value)
            if self._trailers > _MOST_TRAILERS:
                self._stop(BadHttp("the trailers are too large", fix="Leave them out"))
            return
        if len(self.headers) >= self._most_headers:
            self._stop(
                HeadTooLarge(
                    f"the request has more than {self._most_headers} headers",
                    fix="Send fewer, or raise server.max_headers",
                )
            )
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.url) > self._most_url:
            self._stop(self._url_too_long())
        if self._head_bytes + self._fed > self._most_head:
            head = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if head + len(self.url) > self._most_head:
                self._stop(self._head_too_large())
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._stop(BadHttp("too many requests at once", fix="Wait for answers"))
        super().on_headers_complete()
        self._stage = _Stage.BODY
        self._framing = self._body_bytes = self._trailers = self._wake_ups = 0
        self.deadline = self.loop.time() + self._body_seconds

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._framing -= len(body)
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stage = _Stage.BETWEEN
        idle = self.cycle.response_complete
        self.deadline = self.loop.time() + self._idle_seconds if idle else inf

    # -- of requests ----------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if self.flow.write_paused:
            self.flow.pause_reading()
            self.pipeline.append((cycle, app))
            return
        self._current = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """As uvicorn's, with a deadline for the sweep in place of a timer."""
        self.server_state.total_requests += 1
        self._current = None
        if self.transport.is_closing():
            self.deadline = self._flushed(self.loop.time())
            return
        self.flow.resume_reading()
        if self.pipeline:
            # by then the loop has tried to send the answer, and knows whether it is read
            self.loop.call_soon(self._begin_next)
        elif self._stage is _Stage.BETWEEN:
            self.deadline = self.loop.time() + self._idle_seconds

    def _begin_next(self) -> None:
        if not self.pipeline or self._current is not None or self.transport.is_closing():
            return
        cycle, app = self.pipeline.pop()
        self._start_asgi_task(cycle, app)

    # -- bounds ---------------------------------------------------------------------------------

    def due(self, now: float) -> bool:
        """Whether `expire` has to be called."""
        if self.deadline <= now or self.write_deadline <= now:
            return True
        if self.deadline == inf and self.transport.is_closing():
            self.deadline = self._flushed(now)
        return False

    def _flushed(self, now: float) -> float:
        """When what is written has to be read."""
        return now + _WRITE_SECONDS + self.transport.get_write_buffer_size() / _WRITE_RATE

    def expire(self, now: float) -> None:
        """Answer 408 or close: a deadline has passed."""
        if self._deaf or self.write_deadline <= now or self.transport.is_closing():
            self.transport.abort()
        elif self.flow.read_paused:  # it is the server that does not read
            self.deadline = now + self._head_seconds
        elif self._stage is _Stage.HEAD:
            self._refuse(
                RequestTimeout(
                    f"the head was not complete after {self._head_seconds:g} s",
                    fix="Send it at once, or raise server.head_seconds",
                )
            )
        elif self._stage is _Stage.BODY:
            self._wake_ups += 1
            if self.cycle.response_complete or self._wake_ups > _WAKE_UPS:
                self.transport.abort()
            self.deadline = now + SWEEP_SECONDS
            self.cycle.message_event.set()  # whoever waits for the body looks at the clock
        else:
            self.transport.close()

    def _bound_unfinished(self, before: _Stage) -> None:
        """A read has ended within a head or a body; `before` it, the parser was in that stage."""
        if self._stage is _Stage.BODY:
            if before is _Stage.BODY:
                self._framing += self._fed
                if self._framing > _MOST_FRAMING + 8 * self._body_bytes:
                    what = "chunk extensions or trailers are too large"
                    self._refuse(BadHttp(what, fix="Leave them out"))
            return
        if before is not _Stage.BODY:  # of a read that began in a body, no one knows how much
            self._head_bytes += self._fed
        if len(self.url) > self._most_url:
            self._refuse(self._url_too_long())
        elif self._head_bytes > self._most_head:
            self._refuse(self._head_too_large())

    def _stop(self, error: VivaceError) -> None:
        """Make the parser stop; `data_received` then refuses the request."""
        self._broken = error
        raise error

    def _url_too_long(self) -> UrlTooLong:
        return UrlTooLong(
            f"the request line has more than {self._most_url:,} bytes",
            fix="Send less in the path, or raise server.max_url_bytes",
        )

    def _head_too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"the request's head has more than {self._most_head:,} bytes",
            fix="Send less in the headers, or raise server.max_head_kib",
        )

    def _refuse(self, error: VivaceError) -> None:
        """Answer with an error in place of the application, and close.

        Where an earlier request is being answered, that answer is the connection's last.
        """
        errors.record(error, self._limits.trace)
        self._deaf = True
        self.url, self.headers = b"", []
        if self._stage is _Stage.HEAD:
            self.scope = {}  # type: ignore[typeddict-item]
        self.deadline = self.loop.time() + _LINGER_SECONDS
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            own = self._stage is _Stage.BODY
            if own and self.pipeline:
                self.transport.abort()
                return
            if not own or cycle.response_started:
                cycle.keep_alive = False
                self.deadline = inf
                return
            cycle.disconnected = True
            cycle.message_event.set()
        self._write(error)

    def _write(self, error: VivaceError) -> None:
        head, body = errors.reply(error).messages(CLOSE)
        lines = [*self.server_state.default_headers, *head["headers"]]
        rendered = b"".join(b"%b: %b\r\n" % line for line in lines)
        self.transport.write(STATUS_LINE[head["status"]] + rendered + b"\r\n" + body["body"])
        if self.transport.can_write_eof():
            self.transport.write_eof()
