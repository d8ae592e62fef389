"""What a request meets first: whether its host is ours, and the short way to the hot routes.

FastAPI's stack of middleware and routing costs more than a search's own handling. A hot route needs
none of it: its POST goes from here through the door and the body's bound to the route. Everything
else, also a hot path with another method, goes through FastAPI.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from vivace.server import errors
from vivace.server.asgi import send_json
from vivace.server.errors import WrongHost

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Entrance:
    """An ASGI application in front of the others.

    `hosts` are the names that the Host header may carry, None for any. A page of another site whose
    name has been made to point at this machine (DNS rebinding) sends that name.
    """

    def __init__(
        self, hot: Mapping[str, ASGIApp], cold: ASGIApp, hosts: frozenset[str] | None
    ) -> None:
        self._hot = hot
        self._cold = cold
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._cold(scope, receive, send)
            return
        if self._hosts is not None and (host := _host(scope)) not in self._hosts:
            answer = errors.reply(
                WrongHost(
                    f"this server is not called {host!r}",
                    fix="Use the address it told, or add the name to server.hosts",
                )
            )
            await send_json(send, answer.body, answer.status, [(b"connection", b"close")])
            return
        app = self._hot.get(scope["path"]) if scope["method"] == "POST" else None
        await (app or self._cold)(scope, receive, send)


def _host(scope: Scope) -> str:
    """The Host header without its port, in lower case; empty where there is none."""
    for name, value in scope["headers"]:
        if name == b"host":
            host: str = value.decode("latin-1").strip().lower()
            if host.startswith("["):
                return host[1:].partition("]")[0]
            return host.rpartition(":")[0] if ":" in host else host
    return ""
