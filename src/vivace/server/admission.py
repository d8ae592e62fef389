"""Who comes in? Requests of a kind are limited together, before their bodies are looked at."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from hashlib import blake2b
from math import inf, isfinite
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace.errors import Closed, Overloaded
from vivace.run.limit import ConcurrencyLimit, Outcome, Permit
from vivace.run.work import work_context
from vivace.server import errors
from vivace.server.disconnect import Attended
from vivace.server.errors import BadRequest
from vivace.server.served import CHAT, SEARCH, Served

KINDS: Final = {
    "/v1/search": SEARCH,
    "/v1/embeddings": SEARCH,
    "/v1/chat/completions": CHAT,
}
"""Of the routes that are limited. The others cost little and say how the server is work_context."""
DEADLINE: Final = b"x-request-timeout-ms"
"""The header in which a client says for how long it will wait, in milliseconds."""
UNSEEN: Final = 0.5
"""Most of the time a client gives that is left for what no clock of ours sees."""
_KEPT: Final = 65_536
"""Bytes of a body that are read while its request waits."""


@dataclass(frozen=True, slots=True)
class _Route:
    path: str
    """As the door's labels name it: a request that is refused is never routed."""
    limit: ConcurrencyLimit
    seconds: float | None
    """Until nobody waits any more, where the client does not say."""


class Admission:
    """ASGI middleware: a slot for each request of a limited kind, or an error.

    It sets the request's deadline and user (a hash of its bearer token, or its address), which the
    queues behind it read. A client that leaves while it waits loses its place. A stream holds its
    slot to its end.

    Raises, for the door to answer:
        Overloaded, ShareExceeded, DeadlineExceeded: see `ConcurrencyLimit.acquire`.
        Closed: the server is stopping.
        BadRequest: the deadline is no number of milliseconds.
    """

    def __init__(self, app: ASGIApp, served: Served) -> None:
        self._app = app
        self._served = served
        self._routes = _routes(served)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        if self._served.draining:
            raise Closed("the server")
        user, seconds = _caller(scope, self._served.lag.seconds)
        with work_context(seconds=seconds or route.seconds, user=user):
            permit = route.limit.try_acquire()
            if permit is None:
                permit, receive = await _wait(route.limit, receive)
            with permit:
                await self._app(scope, receive, send)


class Turnstile:
    """ASGI, around the whole application: sends those away again who are sure to be sent away.

    At ten times what can be served nine of ten requests end here, before anything of the
    application is run for them, and what they cost is missing for the tenth.
    """

    def __init__(self, app: ASGIApp, served: Served) -> None:
        self._app = app
        self._served = served
        self._routes = _routes(served)
        self._told: Overloaded | None = None
        self._messages: tuple[Message, Message] = ({}, {})
        self._event = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope.get("path", ""))
        if route is None or scope["method"] != "POST" or not route.limit.refusing:
            await self._app(scope, receive, send)
            return
        try:
            user, seconds = _caller(scope, self._served.lag.seconds)
        except BadRequest:
            await self._app(scope, receive, send)
            return
        error = route.limit.refusal(user, seconds or route.seconds or inf)
        if error is None:
            await self._app(scope, receive, send)
            return
        if error is not self._told:
            self._told, self._messages = error, _refusing(error)
            self._event = f"errors.{errors.told(error).code}"
        begin, end = self._messages
        await send(begin)
        await send(end)
        self._served.trace.count(self._event)


def _refusing(error: Overloaded) -> tuple[Message, Message]:
    answer = errors.reply(error)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
        *answer.headers,
    ]
    return (
        {"type": "http.response.start", "status": answer.status, "headers": headers},
        {"type": "http.response.body", "body": answer.body},
    )


def _routes(served: Served) -> dict[str, _Route]:
    seconds = {SEARCH: served.settings.admission.search_seconds, CHAT: None}
    return {path: _Route(path, served.limits[kind], seconds[kind]) for path, kind in KINDS.items()}


async def _wait(limit: ConcurrencyLimit, receive: Receive) -> tuple[Permit, Receive]:
    """A slot, and a `receive` that gives what was read meanwhile.

    Raises:
        ClientGone: the client left.
    """
    kept: deque[Message] = deque()
    size = 0

    async def keeping() -> Message:
        nonlocal size
        if size > _KEPT:  # the rest stays where it is, and with it the news that the client left
            await asyncio.get_running_loop().create_future()
        message = await receive()
        size += len(message.get("body", b""))
        kept.append(message)
        return message

    async def received() -> Message:
        return kept.popleft() if kept else await receive()

    place = limit.join()
    permit: Permit | None = None
    try:
        async with Attended(keeping):
            permit = await place
    except BaseException:
        if permit is not None:  # it was given at the moment the client left
            permit.release(Outcome.IGNORED)
        raise
    return permit, received


def _caller(scope: Scope, lag: float) -> tuple[str, float | None]:
    """Whose share it counts to, and the seconds they wait from now on.

    A client's clock began before its request was seen, and runs until its answer is sent: each may
    have taken, or take, as long as the event loop is late.
    """
    token = timeout = b""
    for name, value in scope["headers"]:
        if name == b"authorization":
            token = value
        elif name == DEADLINE:
            timeout = value
    seconds = None
    if timeout:
        seconds = _seconds(timeout)
        seconds -= min(2 * lag, UNSEEN * seconds)
    if token:
        return blake2b(token, digest_size=12).hexdigest(), seconds
    client = scope.get("client")
    return (client[0] if client else ""), seconds


def _seconds(header: bytes) -> float:
    try:
        value = float(header)
    except ValueError:
        value = 0.0
    if not (isfinite(value) and value > 0):
        raise BadRequest(
            "x-request-timeout-ms: not a number of milliseconds", fix="Send a number above 0"
        )
    return value / 1000
