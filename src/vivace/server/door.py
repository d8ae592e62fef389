"""Where every request comes in and goes out: counted, timed, and never left without an answer."""

from __future__ import annotations

import asyncio
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace.errors import Closed
from vivace.server import errors
from vivace.server.asgi import send_json
from vivace.server.errors import ClientGone
from vivace.trace import Trace

GONE = "gone"
"""The status class of a request whose client left before its answer began."""
ELSEWHERE = "other"
"""The route of a request for a path that does not exist."""
PLAIN_SEND = "vivace.send"
"""Of a scope: the `send` without our wrappers, which look at a response's first message only. A
stream sends the others through it, one a token."""


class Running:
    """How many requests are inside; `idle` waits until none is."""

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


class Door:
    """ASGI middleware: an exception becomes an error in OpenAI's shape, and all is measured.

    The labels are bounded: the route's own path and the class of the status. `path` is given where
    one route alone lies behind this door.
    """

    def __init__(
        self, app: ASGIApp, trace: Trace, running: Running, path: str | None = None
    ) -> None:
        self._app = app
        self._trace = trace
        self._running = running
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
        self._running.enter()
        try:
            await self._app(scope, receive, noting)
        except ClientGone:
            self._trace.count("clients.gone")
        except asyncio.CancelledError:
            # the server is stopping and has waited long enough; this task ends here anyway
            await self._fail(Closed("the server"), noting, started=bool(status))
        except Exception as error:  # the last one to see it: counted, logged, and answered
            await self._fail(error, noting, started=bool(status))
        finally:
            self._running.leave()
            kind = f"{status // 100}xx" if status else GONE
            route = self._path or _route(scope)
            self._trace.observe(f"{route} {kind}", time.perf_counter() - start)

    async def _fail(self, error: Exception, send: Send, *, started: bool) -> None:
        """Tell the client, unless its answer has begun: then uvicorn cuts it off, visibly."""
        errors.note(error, self._trace)
        if not started:
            answer = errors.reply(error)
            headers = answer.headers
            if isinstance(error, Closed):  # another server has to be found: this connection ends
                headers = [*headers, (b"connection", b"close")]
            await send_json(send, answer.body, answer.status, headers)


def _route(scope: Scope) -> str:
    """The path as it was declared: FastAPI names the route it chose, or only its endpoint."""
    for name in ("route", "endpoint"):
        path = getattr(scope.get(name), "path", None)
        if isinstance(path, str) and path:
            return path
    return ELSEWHERE
