"""What every request passes: the host check, the fast path, measuring, error responses, body size.

FastAPI's stack of middleware and routing costs more than a search's own handling. A POST to a hot
route skips it: `FastRouter` sends it through `RequestMiddleware`, admission and `BodyLimit` to the
route. Every other request, also one to a hot path with another method, goes through FastAPI.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace.errors import Closed
from vivace.server import errors
from vivace.server.errors import CLOSE, BodyTooLarge, ClientGone, ErrorReply, WrongHost
from vivace.trace import Trace

GONE = "gone"
"""Status class of a request whose client left before its response began."""
UNKNOWN_ROUTE = "other"
"""Route label of a request for a path that does not exist."""
PLAIN_SEND = "vivace.send"
"""Scope key of the unwrapped `send`. The wrappers only look at a response's first message; a stream
sends the others, one a token, through this one."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LINGER_SECONDS = 2.0


class HostCheck:
    """Refuses requests whose Host header carries none of `hosts`.

    A page of another site whose name resolves to this machine (DNS rebinding) sends that name.
    """

    def __init__(self, hosts: frozenset[str]) -> None:
        self._hosts = hosts

    def refusal(self, scope: Scope) -> ErrorReply | None:
        """The response to a request for another host; None where the host is allowed."""
        host = _host(scope)
        if host in self._hosts:
            return None
        return errors.reply(
            WrongHost(
                f"this server is not called {host!r}",
                fix="Use the address it told, or add the name to server.hosts",
            )
        )


def _host(scope: Scope) -> str:
    """The Host header without its port, in lower case; empty where there is none."""
    for name, value in scope["headers"]:
        if name == b"host":
            host: str = value.decode("latin-1").strip().lower()
            if host.startswith("["):
                return host[1:].partition("]")[0]
            return host.rpartition(":")[0] if ":" in host else host
    return ""


class FastRouter:
    """ASGI application: routes a POST to a path of `fast` there, every other request to `rest`."""

    def __init__(
        self, fast: Mapping[str, ASGIApp], rest: ASGIApp, check: HostCheck | None = None
    ) -> None:
        self._fast = fast
        self._rest = rest
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        if self._check is not None and (refusal := self._check.refusal(scope)) is not None:
            for message in refusal.messages(CLOSE):
                await send(message)
            return
        app = self._fast.get(scope["path"]) if scope["method"] == "POST" else None
        await (app or self._rest)(scope, receive, send)


class InFlight:
    """Counts the requests being answered; `idle` waits until there are none."""

    def __init__(self) -> None:
        self.count = 0
        self._none = asyncio.Event()
        self._none.set()

    def enter(self) -> None:
        self.count += 1
        self._none.clear()

    def leave(self) -> None:
        self.count -= 1
        if not self.count:
            self._none.set()

    async def idle(self) -> None:
        await self._none.wait()


class RequestMiddleware:
    """ASGI middleware: measures every request, and answers exceptions with OpenAI's error shape.

    The labels are bounded: the route's declared path and the class of the status. `path` is given
    where only one route lies behind this middleware.
    """

    def __init__(
        self, app: ASGIApp, trace: Trace, in_flight: InFlight, path: str | None = None
    ) -> None:
        self._app = app
        self._trace = trace
        self._in_flight = in_flight
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if not status:
                status = message["status"]
            await send(message)

        scope[PLAIN_SEND] = send
        start = time.perf_counter()
        self._in_flight.enter()
        try:
            await self._app(scope, receive, noting)
        except ClientGone:
            self._trace.count("clients.gone")
        except asyncio.CancelledError:
            # the server is stopping and the drain time is over; this task ends here anyway
            await self._fail(Closed("the server"), noting, started=bool(status))
        except Exception as error:  # the outermost frame: counts, logs and answers every error
            await self._fail(error, noting, started=bool(status))
        finally:
            self._in_flight.leave()
            kind = f"{status // 100}xx" if status else GONE
            route = self._path or _route(scope)
            self._trace.observe(f"{route} {kind}", time.perf_counter() - start)

    async def _fail(self, error: Exception, send: Send, *, started: bool) -> None:
        """Answer with the error, unless the response has begun: uvicorn then cuts it off."""
        errors.record(error, self._trace)
        if not started:
            # a server that stops closes the connection, so that the client finds another one
            close = (CLOSE,) if isinstance(error, Closed) else ()
            for message in errors.reply(error).messages(*close):
                await send(message)


def _route(scope: Scope) -> str:
    """The declared path: FastAPI stores the route it chose, or only its endpoint."""
    for name in ("route", "endpoint"):
        path = getattr(scope.get(name), "path", None)
        if isinstance(path, str) and path:
            return path
    return UNKNOWN_ROUTE


class BodyLimit:
    """ASGI middleware: refuses a body of more than `limit` bytes, announced or not.

    A body whose Content-Length is too large is refused before any of it is read, a chunked one as
    soon as it exceeds the limit.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _announced(scope) > self._limit:
            await self._refuse(receive, send)
            return
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._limit:
                    raise self._error()
            return message

        try:
            await self._app(scope, bounded, send)
        except BodyTooLarge:
            await self._refuse(receive, send)

    def _error(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"the body has more than {self._limit:,} bytes",
            fix="Send less at once, or raise server.max_body_mib",
        )

    async def _refuse(self, receive: Receive, send: Send) -> None:
        """Answer, then read on for a moment.

        A connection closed with unread bytes is reset, and the reset may overtake the response.
        """
        head, body = errors.reply(self._error()).messages(CLOSE)
        await send(head)
        await send({**body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                left = 2 * self._limit
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        await send({"type": "http.response.body", "body": b""})


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
