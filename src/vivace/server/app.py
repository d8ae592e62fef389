"""The application: FastAPI for the whole, plain ASGI for the routes that have to be fast."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from vivace.server import errors, health, openapi
from vivace.server.admission import Admission
from vivace.server.body import BodyLimit
from vivace.server.chat import HEARTBEAT, Chat
from vivace.server.door import Door
from vivace.server.embeddings import Embeddings
from vivace.server.entrance import Entrance
from vivace.server.search import Search
from vivace.server.served import Served


class Application(FastAPI):
    """FastAPI behind the entrance."""

    def __init__(self, hosts: frozenset[str] | None, **options: Any) -> None:
        super().__init__(**options)
        self.hosts = hosts
        self.hot: dict[str, ASGIApp] = {}

    def build_middleware_stack(self) -> ASGIApp:
        return Entrance(self.hot, super().build_middleware_stack(), self.hosts)


def create(
    served: Served, *, heartbeat: float = HEARTBEAT, hosts: frozenset[str] | None = None
) -> FastAPI:
    """The ASGI application. Its lifespan opens what is served, and closes it after draining.

    Args:
        heartbeat: seconds of silence after which a stream sends a comment.
        hosts: names that a request's Host header may carry; None is any.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with served.opened():
            yield

    most = served.settings.server.max_body_mib << 20
    app = Application(
        hosts,
        title="Vivace",
        version=version("vivace"),
        docs_url=None,  # its page is loaded from elsewhere; /openapi.json is not
        redoc_url=None,
        lifespan=lifespan,
        # the outermost first
        middleware=[
            Middleware(Door, served.trace, served.running),
            Middleware(Admission, served),
            Middleware(BodyLimit, most),
        ],
        exception_handlers={HTTPException: _http_error, RequestValidationError: _bad_request},
    )
    hot = (Search(served), Chat(served, heartbeat=heartbeat), Embeddings(served))
    app.router.routes[:0] = [Route(route.path, route, methods=["POST"]) for route in hot]
    for route in hot:
        admitted = Admission(BodyLimit(route, most), served)
        inside = Door(admitted, served.trace, served.running, route.path)
        app.hot[route.path] = inside
    app.include_router(health.router(served))
    plain = app.openapi

    def documented() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.add_hot_routes(plain())
        return app.openapi_schema

    app.openapi = documented  # type: ignore[method-assign]
    return app


async def _http_error(_: Request, error: Exception) -> Response:
    return _response(error)


async def _bad_request(_: Request, error: Exception) -> Response:
    return _response(errors.BadRequest("a parameter cannot be read", fix="See /openapi.json"))


def _response(error: Exception) -> Response:
    answer = errors.reply(error)
    response = Response(answer.body, answer.status, media_type="application/json")
    response.raw_headers.extend(answer.headers)
    return response
