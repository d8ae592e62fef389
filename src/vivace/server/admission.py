"""Admit requests: those of a kind share one limit, applied once their bodies have been read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import blake2b
from math import inf, isfinite
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace.errors import Closed, Overloaded
from vivace.run.limit import ConcurrencyLimit, Outcome, Permit
from vivace.run.work import work_context
from vivace.server import errors
from vivace.server.asgi import CancelOnDisconnect
from vivace.server.body import BODY, BodyReader, PartialBody
from vivace.server.errors import BadRequest
from vivace.server.state import CHAT, SEARCH, AppState

KINDS: Final = {
    "/v1/search": SEARCH,
    "/v1/embeddings": SEARCH,
    "/v1/chat/completions": CHAT,
}
"""The limited routes. The others cost little and report how the server is doing."""
DEADLINE: Final = b"x-request-timeout-ms"
"""The header in which a client states how long it will wait, in milliseconds."""
MOST_UNSEEN: Final = 0.5
"""Largest share of a client's timeout that is subtracted for delays no clock here sees."""


@dataclass(frozen=True, slots=True)
class AdmittedRoute:
    path: str
    """Label of the middleware's metrics: a refused request is never routed."""
    limit: ConcurrencyLimit
    seconds: float | None
    """Deadline of a request that states none."""


class AdmissionControl:
    """ASGI middleware: reads the body, then takes a slot of the kind's limit, or raises.

    A client that sends its body slowly holds no slot. The middleware sets the request's deadline
    and user (a hash of its bearer token, or its address), which the queues behind it read. A client
    that leaves while it waits loses its place. A stream keeps its slot to its end. The route finds
    the body in the scope, under `BODY`.

    Raises, for `RequestMiddleware` to answer:
        Overloaded, ShareExceeded, DeadlineExceeded: see `ConcurrencyLimit.acquire`.
        Closed: the server is stopping.
        BadRequest: the deadline is not a number of milliseconds.
        BodyTooLarge, BodiesTooLarge, RequestTimeout, ClientGone: see `BodyReader.read`.
    """

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self._app = app
        self._state = state
        self._routes = _routes(state)
        self._bodies = BodyReader(state.settings.server, state.bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        if self._state.draining:
            raise Closed("the server")
        user, seconds, announced = _caller(scope, self._state.lag.seconds)
        began = time.monotonic()
        scope[BODY], held = await self._bodies.read(receive, announced)
        if seconds is None:
            seconds = route.seconds
        else:
            seconds = max(0.0, seconds - (time.monotonic() - began))
        with work_context(seconds=seconds, user=user):
            permit = route.limit.try_acquire()
            if permit is None:
                permit = await _wait(route.limit, receive, held)
            elif held is not None:
                held.release()
            with permit:
                await self._app(scope, receive, send)


class LoadShedder:
    """ASGI, around the whole application: refuses requests whose refusal is certain.

    At ten times the load that can be served, nine of ten requests end here at almost no cost, and
    the tenth gets the time that the application would have spent on refusing them.
    """

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self._app = app
        self._state = state
        self._routes = _routes(state)
        self._last: Overloaded | None = None
        self._messages: tuple[Message, Message] = ({}, {})
        self._event = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope.get("path", ""))
        if route is None or scope["method"] != "POST" or not route.limit.refusing:
            await self._app(scope, receive, send)
            return
        try:
            user, seconds, _ = _caller(scope, self._state.lag.seconds)
        except BadRequest:
            await self._app(scope, receive, send)
            return
        error = route.limit.refusal(user, seconds or route.seconds or inf)
        if error is None:
            await self._app(scope, receive, send)
            return
        if error is not self._last:
            self._last, self._messages = error, errors.reply(error).messages()
            self._event = f"errors.{errors.mapping_of(error).code}"
        begin, end = self._messages
        await send(begin)
        await send(end)
        self._state.trace.count(self._event)


def _routes(state: AppState) -> dict[str, AdmittedRoute]:
    seconds = {SEARCH: state.settings.admission.search_seconds, CHAT: None}
    return {
        path: AdmittedRoute(path, state.limits[kind], seconds[kind]) for path, kind in KINDS.items()
    }


async def _wait(limit: ConcurrencyLimit, receive: Receive, held: PartialBody | None) -> Permit:
    """Wait for a slot; the body counts to its budget meanwhile.

    Raises:
        ClientGone: the client left.
    """
    permit: Permit | None = None
    try:
        place = limit.join()
        async with CancelOnDisconnect(receive):
            permit = await place
    except BaseException:
        if permit is not None:  # granted at the moment the client left
            permit.release(Outcome.IGNORED)
        raise
    finally:
        if held is not None:
            held.release()
    return permit


def _caller(scope: Scope, lag: float) -> tuple[str, float | None, int]:
    """The user whose share the request counts to, the seconds left until its deadline, and the
    bytes of its body; 0 where it does not say.

    A client's clock started before its request was seen, and runs until its response is sent: each
    of the two may take as long as the event loop's lag.
    """
    token = timeout = b""
    announced = 0
    for name, value in scope["headers"]:
        if name == b"authorization":
            token = value
        elif name == b"content-length":
            announced = int(value) if value.isdigit() else 0
        elif name == DEADLINE:
            timeout = value
    seconds = None
    if timeout:
        seconds = _seconds(timeout)
        seconds -= min(2 * lag, MOST_UNSEEN * seconds)
    if token:
        return blake2b(token, digest_size=12).hexdigest(), seconds, announced
    client = scope.get("client")
    return (client[0] if client else ""), seconds, announced


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
