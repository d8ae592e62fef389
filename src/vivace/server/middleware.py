"""What every request passes: the check of its site, the fast path, measuring, error responses.

FastAPI's stack of middleware and routing costs more than a search's own handling. A POST to a hot
route skips it: `FastRouter` sends it through `RequestMiddleware` and admission to the route. Every
other request, also one to a hot path with another method, goes through FastAPI.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace.errors import Closed, VivaceError
from vivace.server import errors
from vivace.server.asgi import refuse_unread, send_reply
from vivace.server.errors import CLOSE, ClientGone
from vivace.server.sites import SiteCheck
from vivace.trace import Trace

GONE = "gone"
"""Status class of a request whose client left before its response began."""
UNKNOWN_ROUTE = "other"
"""Route label of a request for a path that does not exist."""
PLAIN_SEND = "vivace.send"
"""Scope key of the unwrapped `send`. The wrappers only look at a response's first message; a stream
sends the others, one a token, through this one."""


class FastRouter:
    """ASGI application: routes a POST to a path of `fast` there, every other request to `rest`.

    Before that `check` refuses requests of other sites. Routes in `fast` read JSON.
    """

    def __init__(
        self, fast: Mapping[str, ASGIApp], rest: ASGIApp, check: SiteCheck, trace: Trace
    ) -> None:
        self._fast = fast
        self._rest = rest
        self._check = check
        self._trace = trace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        app = self._fast.get(scope["path"]) if scope["method"] == "POST" else None
        try:
            cors = self._check(scope, json=app is not None)
        except VivaceError as error:
            errors.record(error, self._trace)
            await send_reply(send, errors.reply(error), CLOSE)
            return
        if cors is not None:
            send = cors.sender(send)
            if cors.preflight is not None:
                await send(
                    {"type": "http.response.start", "status": 204, "headers": cors.preflight}
                )
                await send({"type": "http.response.body", "body": b""})
                return
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
            await self._fail(Closed("the server"), receive, noting, started=bool(status))
        except Exception as error:  # the outermost frame: counts, logs and answers every error
            await self._fail(error, receive, noting, started=bool(status))
        finally:
            self._in_flight.leave()
            kind = f"{status // 100}xx" if status else GONE
            route = self._path or _route(scope)
            self._trace.observe(f"{route} {kind}", time.perf_counter() - start)

    async def _fail(self, error: Exception, receive: Receive, send: Send, *, started: bool) -> None:
        """Answer with the error, unless the response has begun: uvicorn then cuts it off."""
        errors.record(error, self._trace)
        if started:
            return
        reply = errors.reply(error)
        if isinstance(error, errors.UNREAD):
            await refuse_unread(receive, send, reply)
        else:
            # a server that stops closes the connection, so that the client finds another one
            await send_reply(send, reply, *((CLOSE,) if isinstance(error, errors.CLOSING) else ()))


def _route(scope: Scope) -> str:
    """The declared path: FastAPI stores the route it chose, or only its endpoint."""
    for name in ("route", "endpoint"):
        path = getattr(scope.get(name), "path", None)
        if isinstance(path, str) and path:
            return path
    return UNKNOWN_ROUTE
